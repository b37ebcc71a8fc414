"""What a notebook shows: live rounds and runs, the operators' objects, and taking part.

    %load_ext client_sdk.notebook

puts `LiveRound`, `LiveRun`, `Admin`, `Participant` and `PhotoLabeller` into the notebook, where no
name of the user's own is in the way; importing them from here does the same by hand.
"""

import warnings
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from client_sdk.admin import Admin
    from client_sdk.notebook.live import LiveRound, LiveRun
    from client_sdk.notebook.photo_labeller import PhotoLabeller
    from client_sdk.participant import Participant

__all__ = ["Admin", "LiveRound", "LiveRun", "Participant", "PhotoLabeller"]

# Looked up when they are asked for: who only wants an `Admin` needs no widgets.
_HOMES = {
    "Admin": "client_sdk.admin",
    "LiveRound": "client_sdk.notebook.live",
    "LiveRun": "client_sdk.notebook.live",
    "Participant": "client_sdk.participant",
    "PhotoLabeller": "client_sdk.notebook.photo_labeller",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])


def load_ipython_extension(shell: Any) -> None:
    """What `%load_ext client_sdk.notebook` does.

    Names that the user has given to something else stay the user's, and are told.
    """
    ours = {name: __getattr__(name) for name in __all__}
    taken = [name for name in ours if shell.user_ns.get(name, ours[name]) is not ours[name]]
    shell.push({name: one for name, one in ours.items() if name not in taken})
    if taken:
        told = ", ".join(taken)
        warnings.warn(f"your own {told} stay; import ours under other names", stacklevel=2)


def unload_ipython_extension(shell: Any) -> None:
    """What `%unload_ext client_sdk.notebook` does."""
    shell.drop_by_id({name: __getattr__(name) for name in __all__})
