"""What a participation shows while it goes on: bars in a terminal, lines, a widget in a notebook.

`automatic` chooses. What it answers takes each `client_sdk.Event`, and has `close` for the end:

    with contextlib.closing(Terminal()) as progress:
        alice.participate(data, progress=progress)

This imports neither rich nor a notebook's libraries before something is shown.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import IO, TYPE_CHECKING, Any, Protocol

from client_sdk.receipts import verdict

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, ProgressColumn, TaskID

    from client_sdk.participation import Event

__all__ = ["Lines", "Shows", "Terminal", "automatic", "sentence"]

_BLOCKS = "▁▂▃▄▅▆▇█"


class Shows(Protocol):
    """What shows a participation."""

    def __call__(self, event: Event) -> object:
        """Show that something happened."""

    def close(self) -> None:
        """Nothing more happens."""


def automatic() -> Shows | None:
    """What shows a participation here, or None where nobody looks.

    Bars in a terminal, on standard error, so that a program's own output stays its own; a widget
    in a notebook; nothing in a script whose output goes elsewhere.

    Example:
        >>> automatic() is None  # a test has no terminal
        True
    """
    if _in_kernel():
        try:
            shown: Shows = import_module("client_sdk.notebook.progress").show()
        except ImportError:  # without the extra `notebook`
            return Lines(sys.stdout)
        return shown
    if sys.stderr is not None and sys.stderr.isatty():
        return Terminal.or_lines(sys.stderr)
    return None


def _in_kernel() -> bool:
    """Whether this is a notebook's kernel; asks IPython only where it is loaded already."""
    shell = sys.modules.get("IPython")
    ask: Callable[[], Any] | None = getattr(shell, "get_ipython", None)
    return ask is not None and hasattr(ask(), "kernel")


# --- Words ---


def sentence(event: Event) -> str | None:
    """An event for people, in a line; None for one that only moves a bar.

    Example:
        >>> from client_sdk.participation import Event
        >>> sentence(Event("waiting", data={"reason": "no_open_round", "detail": "None is open."}))
        'waiting: None is open.'
    """
    told = _SENTENCES.get(event.kind)
    return told(event) if told is not None else None


def _round(event: Event) -> str:
    given = event.assignment
    if given is None:
        return "round"
    of = f" of {given.rounds}" if given.rounds else ""
    return f"round {given.number}{of}"


def _assigned(event: Event) -> str:
    given = event.assignment
    assert given is not None
    return f"{_round(event)} of model {given.model}, from version {given.version}"


def _epoch(event: Event) -> str:
    epoch, epochs = event.data["epoch"], event.data["epochs"]
    return f"  epoch {epoch}/{epochs}  {numbers(event.data.get('metrics', {}))}".rstrip()


def _sending(event: Event) -> str:
    """What leaves, before it leaves."""
    told = event.data.get("entry", event.data)
    parts = [size(told["bytes"])] if told.get("bytes") else []
    if told.get("tensors"):
        parts.append(_count(len(told["tensors"]), "tensor"))
    if told.get("samples") is not None:
        parts.append(f"the count {told['samples']}")
    metrics = told.get("metrics")
    parts.append(", ".join(metrics) if metrics else "no metrics")
    if told.get("classes"):
        parts.append(f"two counts for each of {_count(len(told['classes']), 'class', 'classes')}")
    return "  what leaves: " + ", ".join(parts)


def _evaluating(event: Event) -> str:
    told = event.data
    held_out = _count(told.get("samples", 0), "held-out example")
    return f"measuring version {told.get('version')} of model {told.get('model')} on {held_out}"


def _evaluated(event: Event) -> str:
    told = event.data
    version = f"version {told['version']} of model {told['model']}" if "version" in told else "it"
    on = f" on {_count(told['samples'], 'held-out example')}" if "samples" in told else ""
    return f"  evaluated {version}{on}: {numbers(told.get('metrics', {}))}".rstrip(": ")


def _uploaded(event: Event) -> str:
    return f"  update sent, {_count(event.data['samples'], 'sample')}"


def _receipt(event: Event) -> str:
    receipt = event.data["receipt"]
    told = receipt if isinstance(receipt, Mapping) else _attributes(receipt)
    state, code = told["state"], told.get("code") or ""
    line = f"  round {told.get('number') or told.get('round')}: {verdict(state, code)}"
    came = f"version {told['published']} came of the round" if told.get("published") else ""
    if state in ("accepted", "uploaded"):
        return f"{line}; {came}" if came else line
    # A reason is a sentence, and another one is what came of a round that did without the update.
    why = told.get("reason") or code.replace("_", " ")
    rest = [one for one in (why, came and f"{came} without it") if one]
    return f"{line}. {' '.join(map(_as_sentence, rest))}" if rest else line


def _as_sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?")) else ".")


def _attributes(one: Any) -> dict[str, Any]:
    names = ("round", "number", "state", "reason", "code", "published")
    return {name: getattr(one, name, None) for name in names}


def _detail(event: Event) -> str:
    return str(event.data.get("detail") or event.data.get("reason") or "")


_SENTENCES: dict[str, Callable[[Event], str]] = {
    "offline": lambda event: f"server away ({event.data['reason']}); trying again",
    "suspended": lambda event: "suspended by an operator; asking now and then",
    "waiting": lambda event: f"waiting: {_detail(event)}",
    "limited": lambda event: f"not asking for rounds: {_detail(event)}",
    "assigned": _assigned,
    "declined": lambda event: f"  given back: {_detail(event)}",
    "resumed": lambda event: "  the update was trained before",
    "epoch": _epoch,
    "sending": _sending,
    "evaluating": _evaluating,
    "evaluated": _evaluated,
    "uploaded": _uploaded,
    "receipt": _receipt,
    "closed": lambda event: "  the round is closed",
    "failed": lambda event: f"  failed, {event.data['reason']}: {event.data.get('detail', '')}",
    "interrupted": lambda event: "interrupted; what was under way is given back",
}


def numbers(metrics: Mapping[str, float], most: int = 4) -> str:
    """Metrics in a line, the loss first."""
    named = sorted(metrics.items(), key=lambda one: one[0] != "loss")
    return "  ".join(f"{name} {value:.4f}" for name, value in named[:most])


def size(length: int) -> str:
    """A number of bytes for people.

    Example:
        >>> size(512), size(240_000), size(1_234_567)
        ('512 B', '240 kB', '1.2 MB')
    """
    if length < 1000:
        return f"{length} B"
    value, unit = length / 1000, "kB"
    for larger in ("MB", "GB", "TB"):
        if round(value) < 1000:
            break
        value, unit = value / 1000, larger
    return f"{value:.1f} {unit}" if value < 10 and unit != "kB" else f"{value:.0f} {unit}"


def _count(many: int, name: str, several: str = "") -> str:
    return f"{many} {name if many == 1 else several or name + 's'}"


def spark(values: list[float], width: int = 16) -> str:
    """The latest values as a small curve of characters.

    Example:
        >>> spark([3.0, 2.0, 1.0])
        '█▅▁'
    """
    shown = values[-width:]
    low, high = min(shown, default=0.0), max(shown, default=0.0)
    if high <= low:
        return ""
    steps = len(_BLOCKS) - 1
    return "".join(_BLOCKS[round((value - low) / (high - low) * steps)] for value in shown)


# --- Lines ---


class Lines:
    """A line for each event, and a repeated one only once: for a log, or a terminal of old.

    Args:
        file: where they go.
    """

    def __init__(self, file: IO[str]) -> None:
        self._file = file
        self._last = ""

    def __call__(self, event: Event) -> None:
        line = sentence(event)
        if line is not None and line != self._last:
            self._file.write(_printable(line, self._file) + "\n")
            self._file.flush()
            self._last = line

    def close(self) -> None:
        """There is nothing to close."""


def _printable(text: str, file: IO[str]) -> str:
    """Without what would steer a terminal, in the characters that the file has."""
    text = "".join(one if one.isprintable() else "\N{REPLACEMENT CHARACTER}" for one in text)
    encoding = getattr(file, "encoding", None) or "utf-8"
    return text.encode(encoding, "replace").decode(encoding)


# --- A terminal ---


class Terminal:
    """Bars for what is under way, and a line for what is done.

    Args:
        console: rich's, of a terminal.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self._lock = threading.RLock()
        self._progress: Progress | None = None
        self._tasks: dict[str, TaskID] = {}
        self._losses: list[float] = []
        self._last = self._trained = ""

    @classmethod
    def or_lines(cls, file: IO[str]) -> Terminal | Lines:
        """Bars, or lines where the terminal cannot move its cursor."""
        from rich.console import Console

        console = Console(file=file, highlight=False, soft_wrap=False)
        dumb = console.is_dumb_terminal or not console.is_terminal or "TERM" not in os.environ
        return Lines(file) if dumb and os.name == "posix" else cls(console)

    def __call__(self, event: Event) -> None:
        with self._lock:
            show = getattr(self, f"_on_{event.kind}", self._on_other)
            show(event)

    def close(self) -> None:
        """Give the terminal back."""
        with self._lock:
            if self._progress is not None:
                self._progress.stop()
            self._progress, self._tasks = None, {}

    # --- What the events show ---

    def _on_assigned(self, event: Event) -> None:
        self._clear()
        self._losses = []
        self._say(event)

    def _on_downloading(self, event: Event) -> None:
        self._bar("download", None, size(event.data.get("bytes", 0)))

    def _on_downloaded(self, event: Event) -> None:
        self._full("download")

    def _on_training(self, event: Event) -> None:
        self._full("download")
        self._trained = _count(event.data["samples"], "example") if "samples" in event.data else ""
        self._bar("train", None, self._trained)

    def _on_progress(self, event: Event) -> None:
        self._bar("train", 1, self._trained, done=event.data["fraction"])

    def _on_epoch(self, event: Event) -> None:
        data = event.data
        metrics = data.get("metrics", {})
        if "loss" in metrics:
            self._losses.append(metrics["loss"])
        told = f"epoch {data['epoch']}/{data['epochs']}  {numbers(metrics)}  {self._curve()}"
        self._trained = told.rstrip()
        self._bar("train", 1, self._trained, done=data["epoch"] / max(data["epochs"], 1))

    def _curve(self) -> str:
        return spark(self._losses) if self.console.encoding.startswith("utf") else ""

    def _on_sending(self, event: Event) -> None:
        self._full("train")
        self._say(event)

    def _on_uploading(self, event: Event) -> None:
        self._full("train")
        self._bar("upload", None, size(event.data.get("bytes", 0)))

    def _on_sent(self, event: Event) -> None:
        total = event.data.get("bytes")
        self._bar("upload", total, size(total or 0), done=event.data.get("done", 0))

    def _on_uploaded(self, event: Event) -> None:
        self._clear()
        trained = numbers(event.data.get("metrics", {}))
        line = f"{sentence(event)}  {trained}".rstrip()
        self._print(f"{line}  {self._curve()}".rstrip())

    def _on_waiting(self, event: Event) -> None:
        self._state(event)

    _on_offline = _on_suspended = _on_limited = _on_waiting

    def _on_other(self, event: Event) -> None:
        """A line for good: receipts, failures, what was given back."""
        if event.kind not in ("receipt", "resumed"):
            self._clear()
        self._say(event)

    # --- Drawing ---

    def _say(self, event: Event) -> None:
        line = sentence(event)
        if line is not None:
            self._print(line)

    def _print(self, line: str) -> None:
        self.console.print(_printable(line, self.console.file), markup=False, soft_wrap=True)

    def _state(self, event: Event) -> None:
        """One line at the bottom that says what we wait for."""
        line = _printable(sentence(event) or "", self.console.file)
        if self._tasks.keys() == {"state"} and line == self._last:
            return
        self._clear()
        self._last = line
        self._add("state", line, None, "", bar=False)

    def _bar(self, name: str, total: float | None, told: str, done: float = 0) -> None:
        if "state" in self._tasks:
            self._clear()
        told = _printable(told, self.console.file)
        if name not in self._tasks:
            self._add(name, f"  {name}", total, told, bar=True)
        assert self._progress is not None
        self._progress.update(self._tasks[name], completed=done, total=total, told=told)

    def _full(self, name: str) -> None:
        if name in self._tasks and self._progress is not None:
            self._progress.update(self._tasks[name], completed=1, total=1)

    def _add(self, name: str, text: str, total: float | None, told: str, *, bar: bool) -> None:
        progress = self._live()
        self._tasks[name] = progress.add_task(text, total=total, told=told, bar=bar)

    def _live(self) -> Progress:
        if self._progress is None:
            from rich.progress import Progress

            self._progress = Progress(
                *_columns(), console=self.console, transient=True, refresh_per_second=5
            )
            self._progress.start()
        return self._progress

    def _clear(self) -> None:
        if self._progress is not None:
            for task in self._tasks.values():
                self._progress.remove_task(task)
        self._tasks = {}


def _columns() -> list[ProgressColumn]:
    from rich.progress import BarColumn, SpinnerColumn, Task, TextColumn, TimeElapsedColumn
    from rich.text import Text

    class Bar(BarColumn):
        """A bar, for what has one."""

        def render(self, task: Task) -> Any:
            return super().render(task) if task.fields["bar"] else Text()

    return [
        SpinnerColumn(finished_text="[green]✓"),
        TextColumn("{task.description}", markup=False),
        Bar(bar_width=24),
        TextColumn("{task.fields[told]}", markup=False),
        TimeElapsedColumn(),
    ]
