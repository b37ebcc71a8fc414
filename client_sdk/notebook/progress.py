"""Taking part, as a widget in the cell that does: what is under way, the loss, and what came of it.

`Participant.participate` shows it by itself in a notebook. It takes the participation's events
(`client_sdk.participation.KINDS`) and says the same sentences as a terminal.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anywidget
import traitlets

import client_sdk
from client_sdk.notebook.modules import css, esm
from client_sdk.progress import sentence

if TYPE_CHECKING:
    from client_sdk.participation import Event

HERE = Path(__file__).parent
DRAWINGS = Path(client_sdk.__file__).parent / "drawings"

_LINES = 100  # of what happened; the oldest are dropped first
_LOSSES = 500
_ROUNDS = 200
# What an event makes of what is under way: the word, and what is done of it at least.
_STEPS: dict[str, tuple[str, float | None]] = {
    "waiting": ("waiting", None),
    "offline": ("offline", None),
    "suspended": ("suspended", None),
    "limited": ("limited", None),
    "assigned": ("invited", None),
    "resumed": ("uploading", None),
    "downloading": ("downloading", None),
    "downloaded": ("downloading", 1.0),
    "training": ("training", 0.0),
    "sending": ("uploading", None),
    "evaluating": ("evaluating", None),
    "evaluated": ("evaluated", 1.0),
    "uploading": ("uploading", None),
    "uploaded": ("uploaded", 1.0),
    "declined": ("declined", None),
    "closed": ("closed", None),
    "failed": ("failed", None),
    "interrupted": ("interrupted", None),
}
_TONES = {
    "uploaded": "good",
    "failed": "bad",
    "offline": "warn",
    "suspended": "warn",
    "declined": "warn",
    "closed": "warn",
    "interrupted": "warn",
}
_RECEIPT = ("round", "number", "model", "version", "samples", "bytes", "state", "reason", "code")


class ProgressView(anywidget.AnyWidget):
    """What is shown of a participation; `Progress` fills it."""

    _esm = esm(HERE / "progress.js")
    _css = css(DRAWINGS / "widget.css") + css(
        DRAWINGS / "parts.css", HERE / "progress.css", within=".fedserver"
    )

    now = traitlets.Dict({"word": "waiting", "title": "", "detail": "", "fraction": None}).tag(
        sync=True
    )
    losses: traitlets.List[float] = traitlets.List().tag(sync=True)
    rounds: traitlets.List[dict[str, Any]] = traitlets.List().tag(sync=True)
    lines: traitlets.List[dict[str, Any]] = traitlets.List().tag(sync=True)
    over = traitlets.Bool(False).tag(sync=True)


class Progress:
    """Takes the events of a participation, and shows them in its `view`.

    Example:
        >>> from client_sdk.participation import Event
        >>> progress = Progress()
        >>> progress(Event("waiting", data={"reason": "no_open_round", "detail": "None is open."}))
        >>> progress.view.now["detail"]
        'waiting: None is open.'
    """

    def __init__(self) -> None:
        self.view = ProgressView()

    def __call__(self, event: Event) -> None:
        """Show that something happened."""
        with self.view.hold_sync():
            self._show_now(event)
            if event.kind == "assigned":
                self.view.losses = []
            if event.kind == "epoch" and "loss" in event.data.get("metrics", {}):
                loss = float(event.data["metrics"]["loss"])
                self.view.losses = [*self.view.losses, loss][-_LOSSES:]
            if receipt := event.data.get("receipt"):
                self._show_receipt(receipt)
            self._say(event)

    def close(self) -> None:
        """Nothing more happens; the last picture stays."""
        self.view.over = True

    def _show_now(self, event: Event) -> None:
        now: dict[str, Any] = dict(self.view.now)
        if event.kind in _STEPS:
            now["word"], now["fraction"] = _STEPS[event.kind]
        if event.kind == "progress":
            now["fraction"] = event.data.get("fraction")
        if event.kind == "epoch":
            now["word"] = "training"
            now["fraction"] = event.data["epoch"] / max(1, event.data["epochs"])
        if (given := event.assignment) is not None:
            now["title"] = (
                f"Round {given.number}, training {given.model} from version {given.version}"
            )
        said = sentence(event)
        if said is not None and event.kind != "receipt":
            now["detail"] = said.strip()
        self.view.now = now

    def _show_receipt(self, receipt: Any) -> None:
        read = receipt.get if isinstance(receipt, Mapping) else lambda name: _value(receipt, name)
        line = {name: read(name) for name in (*_RECEIPT, "published")}
        others = [one for one in self.view.rounds if one["round"] != line["round"]]
        self.view.rounds = [*others, line][-_ROUNDS:]

    def _say(self, event: Event) -> None:
        said = sentence(event)
        if said is None or (self.view.lines and self.view.lines[-1]["text"] == said.strip()):
            return
        tone = _TONES.get(event.kind, "")
        line = {"at": datetime.now(UTC).isoformat(), "text": said.strip(), "tone": tone}
        self.view.lines = [*self.view.lines, line][-_LINES:]


def show() -> Progress:
    """Show a participation in the cell that runs.

    Returns:
        What takes its events.
    """
    from IPython.display import display

    progress = Progress()
    display(progress.view)
    return progress


def _value(one: Any, name: str) -> Any:
    return getattr(one, name, None)
