"""Taking part in one round, in a thread, told so that a page can draw it.

`TakingPart.state` goes through these phases: `preparing`, `waiting` (for a round to open),
`offline` (for the server to answer), `downloading`, `training`, `uploading`, `uploaded` (for the
verdict), and ends in `done`, `failed` or `cancelled`.
"""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict
from typing import Any, Final

from client_sdk.errors import ParticipantError, ProfileInUse, TrainingFailed
from client_sdk.participation import Event
from client_sdk.receipts import Receipt

log = logging.getLogger("client_sdk")

OVER: Final = ("done", "failed", "cancelled")
_PHASES: Final = {
    "waiting": "waiting",
    "offline": "offline",
    "suspended": "waiting",
    "assigned": "downloading",
    "resumed": "uploading",
    "downloading": "downloading",
    "training": "training",
    "epoch": "training",
    "sending": "uploading",
    "uploading": "uploading",
    "uploaded": "uploaded",
    "closed": "waiting",
    "failed": "waiting",
    "declined": "waiting",
    "limited": "waiting",
}
_IN_USE: Final = (
    "Another program takes part with this profile, such as fedclient train. Stop it there, or let "
    "it take part with these photos."
)


class TakingPart:
    """One participation of one round.

    Args:
        take_part: calls `Participant.participate` with the `stop` and `on_event` that it is given.
        prepare: what to do before, in the same thread.
        changed: told that there is news.
        ended: told when it is over.
    """

    def __init__(
        self,
        take_part: Callable[[threading.Event, Callable[[Event], None]], Any],
        *,
        prepare: Callable[[], object],
        changed: Callable[[], object],
        ended: Callable[[], object],
    ) -> None:
        self._take_part, self._prepare = take_part, prepare
        self._changed, self._ended = changed, ended
        self._stop = threading.Event()
        self._receipt: Receipt | None = None
        self._thread = threading.Thread(target=self._run, name="fedclient-photos", daemon=True)
        self.state: dict[str, Any] = {
            "phase": "preparing",
            "detail": "",
            "epochs": [],
            "of": None,
            "settings": {},
            "assignment": None,
            "receipt": None,
            "cancelling": False,
        }

    @property
    def over(self) -> bool:
        """Whether it has come to its end."""
        return self.state["phase"] in OVER

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def cancel(self) -> None:
        """Give the place back, as soon as what is under way can be stopped."""
        self._stop.set()
        self._say(cancelling=not self.over)

    def join(self, seconds: float) -> None:
        """Wait for the end, for so long at most."""
        self._thread.join(seconds)

    def follow(self, ask: Callable[[int], Mapping[str, Any]]) -> None:
        """Ask what became of the update, as long as more can be known of it.

        Args:
            ask: what the server says of an assignment, by its id.
        """
        receipt = self._receipt
        if receipt is None or receipt.final or not self.over:
            return
        with suppress(ParticipantError):  # another time
            self._receipt = receipt.after(ask(receipt.assignment))
            if self._receipt != receipt:
                self._say(receipt=_told(self._receipt))

    def _run(self) -> None:
        try:
            self._prepare()
            if not self._stop.is_set():
                self._take_part(self._stop, self._on_event)
            self._finish()
        except ProfileInUse:
            self._say(phase="failed", detail=_IN_USE)
        except ImportError:
            needed = "Training needs Keras: pip install 'fedserver[client]'."
            self._say(phase="failed", detail=needed)
        except TrainingFailed as error:
            self._say(phase="failed", detail=str(error.__cause__ or error))
        except (ParticipantError, ValueError) as error:
            self._say(phase="failed", detail=str(error))
        except Exception as error:
            log.exception("training ended")
            self._say(phase="failed", detail=f"{type(error).__name__}: {error}")
        self._ended()

    def _finish(self) -> None:
        if self.state["receipt"] is not None:
            self._say(phase="done", detail="", cancelling=False)
        elif self._stop.is_set():
            self._say(phase="cancelled", detail="", cancelling=False)
        else:
            detail = self.state["detail"] or "It ended without an update."
            self._say(phase="failed", detail=detail, cancelling=False)

    def _on_event(self, event: Event) -> None:
        told: dict[str, Any] = {"phase": _PHASES.get(event.kind, self.state["phase"])}
        if event.assignment is not None:
            told["assignment"] = _about(event.assignment)
            told["settings"] = _settings(event.assignment.hyperparameters)
        told |= getattr(self, f"_on_{event.kind}", lambda _: {})(event.data)
        self._say(**told)

    def _say(self, **told: Any) -> None:
        self.state = {**self.state, **told}
        self._changed()

    # --- What each event adds ---

    def _on_waiting(self, data: Mapping[str, Any]) -> dict[str, Any]:
        return {"detail": str(data.get("detail") or "")}

    def _on_offline(self, data: Mapping[str, Any]) -> dict[str, Any]:
        return {"detail": "The server does not answer; it is tried again and again."}

    def _on_suspended(self, data: Mapping[str, Any]) -> dict[str, Any]:
        return {"detail": "An operator has suspended this participant; it may be reinstated."}

    def _on_assigned(self, data: Mapping[str, Any]) -> dict[str, Any]:
        return {"epochs": [], "of": None, "detail": "", "receipt": None}

    def _on_epoch(self, data: Mapping[str, Any]) -> dict[str, Any]:
        point = {"epoch": data["epoch"], **data.get("metrics", {})}
        return {"epochs": [*self.state["epochs"], point], "of": data["epochs"]}

    def _on_uploaded(self, data: Mapping[str, Any]) -> dict[str, Any]:
        self._receipt = data["receipt"]
        return {"receipt": _told(self._receipt)}

    def _on_receipt(self, data: Mapping[str, Any]) -> dict[str, Any]:
        receipt: Receipt = data["receipt"]
        if self._receipt is None or receipt.assignment != self._receipt.assignment:
            return {}  # of an update that was sent another day
        self._receipt = receipt
        return {"receipt": _told(receipt)}

    def _on_closed(self, data: Mapping[str, Any]) -> dict[str, Any]:
        reason = str(data.get("reason") or "").replace("_", " ")
        return {"detail": f"The round ended without this update ({reason})."}

    def _on_declined(self, data: Mapping[str, Any]) -> dict[str, Any]:
        return {"detail": f"Given back, by your own limits: {data.get('detail', '')}"}

    def _on_limited(self, data: Mapping[str, Any]) -> dict[str, Any]:
        return {"detail": f"Not asked for, by your own limits: {data.get('detail', '')}"}

    def _on_failed(self, data: Mapping[str, Any]) -> dict[str, Any]:
        return {"detail": str(data.get("detail") or data.get("reason") or "")}


def _told(receipt: Receipt) -> dict[str, Any]:
    return asdict(receipt) | {"final": receipt.final}


def _about(assignment: Any) -> dict[str, Any]:
    names = ("run", "round", "number", "rounds", "version", "model")
    return {name: getattr(assignment, name) for name in names}


def _settings(hyperparameters: Mapping[str, Any]) -> dict[str, Any]:
    """What a page may show: names with plain values."""
    plain = (str, int, float, bool)
    return {
        str(name): value
        for name, value in hyperparameters.items()
        # JSON's 1e400 is infinite, and not to be told in JSON again.
        if isinstance(value, plain) and not (isinstance(value, float) and not math.isfinite(value))
    }
