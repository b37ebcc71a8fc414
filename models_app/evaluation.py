"""What a measurement on held-out examples finds, and what can be read from it.

Plain data: the worker that has Keras makes it, the registry writes it down, pages read it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

CLASSES_LIMIT: Final = 100  # more rows and columns than that nobody reads

# Before the names of metrics that participants measured on data of their own: weighted means.
FEDERATED: Final = "federated_"

Confusion = list[list[int]]


def by_the_server(metrics: Mapping[str, float]) -> dict[str, float]:
    """Those of a version's metrics that were measured on the server's own held-out set."""
    return {name: value for name, value in metrics.items() if not name.startswith(FEDERATED)}


def by_participants(metrics: Mapping[str, float]) -> dict[str, float]:
    """Those that participants measured, with `FEDERATED` before the names that they gave."""
    return {name: value for name, value in metrics.items() if name.startswith(FEDERATED)}


def named_federated(means: Mapping[str, float]) -> dict[str, float]:
    """What participants measured, by their names for it, as a version's metrics call it."""
    return {f"{FEDERATED}{name}": value for name, value in means.items()}


@dataclass(frozen=True)
class Evaluation:
    """Means over all examples, and for a classifier who was taken for whom.

    Args:
        metrics: Finite numbers by name, `loss` first.
        confusion: How many examples of each true class (rows) were given each class (columns);
            None where that makes no sense: a regression, several answers to one example, more
            than `CLASSES_LIMIT` classes.
    """

    metrics: dict[str, float] = field(default_factory=dict)
    confusion: Confusion | None = None

    @classmethod
    def read(cls, document: Mapping[str, Any]) -> "Evaluation":
        """An evaluation from the JSON of a process that is not to be trusted.

        Raises:
            ValueError: It is none.
        """
        metrics, confusion = document["metrics"], document["confusion"]
        numbers = isinstance(metrics, dict) and all(
            isinstance(value, float) for value in metrics.values()
        )
        if not numbers or not (confusion is None or _is_confusion(confusion)):
            raise ValueError(f"Expected an evaluation. Received: {document!r:.100}")
        return cls(metrics, confusion)


def _is_confusion(rows: Any) -> bool:
    return (
        isinstance(rows, list)
        and 2 <= len(rows) <= CLASSES_LIMIT
        and all(isinstance(row, list) and len(row) == len(rows) for row in rows)
        and all(type(count) is int and count >= 0 for row in rows for count in row)
    )


@dataclass(frozen=True)
class ClassScore:
    """How well one class is recognised.

    Args:
        label: Its name.
        samples: How many examples of it were held out.
        correct: How many of them were given this class.
        mistaken_for: The class that most of the others were given, "" if there are none.
        mistakes: How many those are.
    """

    label: str
    samples: int
    correct: int
    mistaken_for: str = ""
    mistakes: int = 0

    @property
    def accuracy(self) -> float | None:
        """The share that was recognised; None without examples."""
        return self.correct / self.samples if self.samples else None


def class_labels(labels: Sequence[str], count: int) -> list[str]:
    """A name for each of `count` classes; those that have none are called by their number."""
    if len(labels) == count:
        return [str(label) for label in labels]
    return [str(place) for place in range(count)]


def class_scores(confusion: Confusion, labels: Sequence[str]) -> list[ClassScore]:
    """How well each class is recognised, in the order of the classes."""
    names = class_labels(labels, len(confusion))
    return [_score(place, row, names) for place, row in enumerate(confusion)]


def worst_class(scores: Sequence[ClassScore]) -> ClassScore | None:
    """The class that is recognised least, of those with examples; the first of equals."""
    known = [score for score in scores if score.samples]
    return min(known, key=lambda score: score.accuracy or 0.0, default=None)


def _score(place: int, row: Sequence[int], names: Sequence[str]) -> ClassScore:
    others = [(count, -other) for other, count in enumerate(row) if other != place and count]
    mistakes, other = max(others, default=(0, 0))
    mistaken_for = names[-other] if mistakes else ""
    return ClassScore(names[place], sum(row), row[place], mistaken_for, mistakes)
