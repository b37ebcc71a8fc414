"""A participant's rounds as small pictures: shapes in a box, which the template draws as SVG."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rounds import attendance, history
from rounds.attendance import Durations

WIDTH, HEIGHT, MARGIN, WIDEST = 1000, 100, 10, 80
NORM = "size of the update"
FIRST = ("loss", "accuracy")
METRICS = 3  # drawn at most


@dataclass(frozen=True)
class Line:
    """One of a participant's rounds.

    Attributes:
        assignment: With its round and run.
        outcome: Its state, or `attendance.VOID`.
        update: What it sent, if it did.
        norm_ratio: The update's norm in medians of its cohort.
        durations: What it took.
    """

    assignment: Any
    outcome: str
    update: Any
    norm_ratio: float | None
    durations: Durations

    @property
    def word(self) -> str:
        """What people call its outcome."""
        return attendance.word(self.outcome)


@dataclass(frozen=True)
class Dot:
    x: float
    y: float
    outcome: str
    title: str


@dataclass(frozen=True)
class Curve:
    """A number by round.

    Attributes:
        name: What it is.
        words: Its range and its last value, for who does not see the picture.
        low, high: What the box's lower and upper edge stand for.
        path: Through the dots, as SVG spells it.
        dots: One for each round that has the number.
        level: Where a line stands for what is ordinary, if there is such a thing.
    """

    name: str
    words: str
    low: float
    high: float
    path: str
    dots: list[Dot]
    level: float | None = None


@dataclass(frozen=True)
class Pictures:
    """All on one scale of rounds, from the oldest to the newest."""

    strip: list[Dot]
    width: float
    curves: list[Curve]


def of(newest_first: Sequence[Line]) -> Pictures | None:
    """The pictures of these rounds; None where there is nothing to see yet."""
    lines = list(reversed(newest_first))
    if not lines:
        return None
    width = min((WIDTH - 2 * MARGIN) / len(lines), WIDEST)
    at = [MARGIN + width * (index + 0.5) for index in range(len(lines))]
    strip = [
        Dot(round(x - 0.42 * width, 2), 0, line.outcome, f"{_name(line)}: {line.word}")
        for x, line in zip(at, lines, strict=True)
    ]
    told = [history.numbers(line.update.metrics) if line.update else {} for line in lines]
    numbers = {NORM: [line.norm_ratio for line in lines]}
    numbers |= {name: [one.get(name) for one in told] for name in _names(told)}
    curves = [_curve(name, values, lines, at) for name, values in numbers.items()]
    return Pictures(strip, round(0.84 * width, 2), [one for one in curves if one is not None])


def _name(line: Line) -> str:
    return f"{line.assignment.round.run.name}, round {line.assignment.round.number}"


def _names(told: Sequence[Mapping[str, float]]) -> list[str]:
    found = {name for one in told for name in one}
    return sorted(found, key=lambda name: (name not in FIRST, name))[:METRICS]


def _curve(
    name: str, values: Sequence[float | None], lines: Sequence[Line], at: Sequence[float]
) -> Curve | None:
    known = [value for value in values if value is not None]
    if len(known) < 2:
        return None
    low, high = (0.0, max(2.0, *known)) if name == NORM else (min(known), max(known))
    scale = (HEIGHT - 2 * MARGIN) / (high - low or 1.0)

    def y(value: float) -> float:
        return round(HEIGHT - MARGIN - (value - low) * scale, 2)

    dots = [
        Dot(round(x, 2), y(value), line.outcome, f"{_name(line)}: {value:.3g}")
        for x, value, line in zip(at, values, lines, strict=True)
        if value is not None
    ]
    words = f"{name} by round: from {min(known):.3g} to {max(known):.3g}, {known[-1]:.3g} at last"
    route = "M" + "L".join(f"{dot.x} {dot.y}" for dot in dots)
    return Curve(name, words, low, high, route, dots, y(1.0) if name == NORM else None)
