"""What a participant installs to take part in federated training.

    from client_sdk import Participant

    alice = Participant.enrol("https://fed.example.org", "K7QF-2M9D", name="alice")
    alice.participate((images, labels), rounds=5)

Importing this imports neither Keras nor a backend: `client_sdk.training` does, when it trains.
Errors are in `client_sdk.errors`, a server for tests is in `client_sdk.testing`. What lies here, by
what it is about; each file says more on its top:

    for both sides    wire, architecture, photo: what the server reads as well
    who we are        participant (begin here), profile, keys
    taking part       participation (then here), protocol, events, trainers, stopping, reporting,
                      receipts, progress
    what may leave    limits, ledger, outbox; and what does not: own
    the way there     transport, deadlines, backoff, cache, wake, following, errors
    training          training, epochs, loop, network, building, memory, objective, drift, corrected
    data              data, folder, held_out
    the served model  served
    for tests         testing

    cli/              fedclient
    photos/           fedclient photos: a page of this machine, and the widget's inside
    notebook/         widgets of Jupyter
    admin/            an operator's server as objects and frames
    drawings/         what dashboard, notebook and labeller draw with, in JavaScript
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from client_sdk.errors import ParticipantError
    from client_sdk.events import Event, Summary
    from client_sdk.ledger import Entry
    from client_sdk.limits import Limits
    from client_sdk.participant import Participant
    from client_sdk.profile import Profile
    from client_sdk.protocol import Assignment, Wait
    from client_sdk.receipts import Receipt

__all__ = [
    "Assignment",
    "Entry",
    "Event",
    "Limits",
    "Participant",
    "ParticipantError",
    "Profile",
    "Receipt",
    "Summary",
    "Wait",
]

# Looked up when they are asked for: the server imports `client_sdk.wire`, and with it this file,
# and has no use for an HTTP client.
_HOMES = {
    "Assignment": "protocol",
    "Entry": "ledger",
    "Event": "events",
    "Limits": "limits",
    "Participant": "participant",
    "ParticipantError": "errors",
    "Profile": "profile",
    "Receipt": "receipts",
    "Summary": "events",
    "Wait": "protocol",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
