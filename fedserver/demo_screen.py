"""What the demo shows: a table that grows by a line a round; without a terminal, plain lines."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

NAMED = 8  # participants that are shown by name; more are counted

_STYLES = {
    "invited": "dim",
    "downloading": "cyan",
    "training": "cyan",
    "uploading": "cyan",
    "uploaded": "green",
    "accepted": "green",
    "published": "green",
}
_OPEN = ("selecting", "training", "aggregating", "evaluating")

Report = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Place:
    """Where one participant is in the round that is under way.

    Args:
        name: of the participant.
        state: of its assignment.
        activity: what it is doing, while it trains.
        epoch: how many epochs are done; None when it has not said.
        epochs: of how many.
    """

    name: str
    state: str
    activity: str = ""
    epoch: int | None = None
    epochs: int | None = None

    @property
    def doing(self) -> str:
        """One word for what it does, or what became of it."""
        return self.activity or self.state if self.state == "training" else self.state

    def text(self) -> Text:
        progress = f" {self.epoch}/{self.epochs}" if self.doing == "training" and self.epoch else ""
        style = _STYLES.get(self.doing, "yellow")
        return Text.assemble(f"{self.name} ", (f"{self.doing}{progress}", style))


class Screen:
    """Tells how a run goes, calmly: what has been said is never said again.

    Args:
        console: where to.

    Example:
        with Screen(Console()) as screen:
            screen.show(selectors.run_report(run), places, seconds=2.5)
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self._told = 0
        self._shown: object = None
        self._live: Live | None = None

    def __enter__(self) -> Self:
        if self.console.is_terminal:
            # Drawn by whoever calls `show`, and by no thread: only this thread starts processes.
            self._live = Live(console=self.console, auto_refresh=False)
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        failure: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._live:
            self._live.stop()
            self._live = None

    def say(self, sentence: str, style: str = "") -> None:
        """One line, above the table while there is one."""
        self.console.print(sentence, style=style, highlight=False, soft_wrap=True)

    def warn(self, sentence: str) -> None:
        """Something that did not go well, and that the system is dealing with."""
        self.say(sentence, "yellow")

    def show(self, report: Report, places: Iterable[Place], seconds: float | None = None) -> None:
        """How it stands.

        Args:
            report: as `rounds.selectors.run_report` answers.
            places: of the participants in the last round, while it is under way.
            seconds: how long the last round has taken so far.
        """
        if self._live is None:
            self._tell(report)
            return
        state = (list(report), list(places), int(seconds or 0))
        if state != self._shown:
            self._shown = state
            self._live.update(table(report, state[1], seconds), refresh=True)

    def _tell(self, report: Report) -> None:
        ended = [line for line in report if line["state"] not in _OPEN]
        for line in ended[self._told :]:
            self.say(sentence(line))
        self._told = len(ended)


def sentence(line: Mapping[str, Any]) -> str:
    """A round that has ended, on one line."""
    words = [f"round {line['number']}", line["state"], _updates(line)]
    if line["version"] is not None:
        words.append(f"version {line['version']}")
    words += [f"{name} {_number(line[name], 3)}" for name in ("accuracy", "loss")]
    words.append(f"{_number(line['seconds'], 1)} s")
    return "  ".join(words)


def table(report: Report, places: Sequence[Place], seconds: float | None) -> Table:
    """All rounds so far, the one under way with its participants."""
    shown = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for heading in ("round", "state", "participants", "version", "accuracy", "loss", "seconds"):
        right = heading in ("round", "version", "accuracy", "loss", "seconds")
        shown.add_column(
            heading, justify="right" if right else "left", no_wrap=heading != "participants"
        )
    for line in report:
        under_way = line["state"] in _OPEN
        shown.add_row(
            str(line["number"]),
            Text(line["state"], _STYLES.get(line["state"], "yellow")),
            _crowd(places) if under_way else Text(_updates(line)),
            "" if line["version"] is None else str(line["version"]),
            _number(line["accuracy"], 3),
            _number(line["loss"], 3),
            _number(seconds, 0) if under_way else _number(line["seconds"], 1),
        )
    return shown


def _crowd(places: Sequence[Place]) -> Text:
    if len(places) <= NAMED:
        return Text(", ").join(place.text() for place in places)
    counts = Counter(place.doing for place in places)
    return Text(", ").join(
        Text(f"{count} {doing}", _STYLES.get(doing, "yellow")) for doing, count in counts.items()
    )


def _updates(line: Mapping[str, Any]) -> str:
    text = f"{line['accepted']} update{'' if line['accepted'] == 1 else 's'}"
    return f"{text}, {line['rejected']} refused" if line["rejected"] else text


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"
