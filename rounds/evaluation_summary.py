"""What participants measured, read strictly and put together: pure functions of what was told.

A summary is made of at least `minimum` participants, and so is each number in it: a metric that
fewer sent is left out, and a class of which fewer have examples is hidden. The only value of a
single participant is the worst one of each metric. Nor can a smaller group be subtracted: what is
hidden has enough participants as well, and no metric says how many examples are behind it.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from client_sdk.wire import METRIC_NAME_LIMIT, METRICS_LIMIT
from rounds import rules
from rounds.errors import ReportInvalid

SAMPLES_LIMIT = 10**9
VALUE_LIMIT = 1e30  # of a metric: sums of products with samples stay finite

Classes = list[list[int]]


@dataclass(frozen=True, slots=True)
class Told:
    """What one participant measured.

    Args:
        samples: How many held-out examples it has.
        metrics: Means over them by name.
        classes: For each class of the model how many of them are of it, and how many of these
            were recognised; None where that makes no sense.
    """

    samples: int
    metrics: dict[str, float]
    classes: Classes | None = None


class Report(NamedTuple):
    """What a participant told, and who it is."""

    uuid: str
    name: str
    told: Told


def read(samples: Any, metrics: Any, classes: Any, *, labels: int) -> Told:
    """A participant's report, from JSON that is not to be trusted.

    Args:
        samples: A whole number from 1 to `SAMPLES_LIMIT`.
        metrics: At least one finite number by name.
        classes: `[examples, recognised]` for each class, or None.
        labels: How many classes the model has.

    Raises:
        ReportInvalid: It is none; its `field` says where.
    """
    _expect(_is_count(samples, 1, SAMPLES_LIMIT), "samples", f"1 to {SAMPLES_LIMIT}", samples)
    _expect(
        isinstance(metrics, Mapping) and 0 < len(metrics) <= METRICS_LIMIT,
        "metrics",
        f"1 to {METRICS_LIMIT} numbers by name",
        metrics,
    )
    for name, value in metrics.items():
        fits = isinstance(name, str) and 0 < len(name) <= METRIC_NAME_LIMIT and name.isprintable()
        expected = f"names of 1 to {METRIC_NAME_LIMIT} printable characters"
        _expect(fits, "metrics", expected, name)
        number = type(value) in (int, float) and abs(value) <= VALUE_LIMIT  # no NaN is
        _expect(number, f"metrics.{name}", f"a finite number up to {VALUE_LIMIT:g}", value)
        share = name != "accuracy" or 0 <= value <= 1
        _expect(share, f"metrics.{name}", "a share from 0 to 1", value)
    if classes is not None:
        _expect_classes(classes, samples, labels)
    return Told(samples, {name: float(value) for name, value in metrics.items()}, classes)


def _expect_classes(classes: Any, samples: int, labels: int) -> None:
    pairs = isinstance(classes, list) and all(isinstance(one, list) for one in classes)
    counts = pairs and all(
        len(one) == 2 and all(_is_count(count, 0, SAMPLES_LIMIT) for count in one)
        for one in classes
    )
    _expect(counts, "classes", "[examples, recognised] for each class", classes)
    _expect(len(classes) == labels, "classes", f"{labels} of them, as the model has", len(classes))
    for place, (examples, recognised) in enumerate(classes):
        expected = f"at most the {examples} examples of it recognised"
        _expect(recognised <= examples, f"classes.{place}", expected, recognised)
    total = sum(examples for examples, _ in classes)
    _expect(total <= samples, "classes", f"at most {samples} examples in all", total)


def _is_count(value: Any, least: int, most: int) -> bool:
    return type(value) is int and least <= value <= most


def _expect(fits: bool, field: str, expected: str, received: object) -> None:
    if not fits:
        raise ReportInvalid(f"Expected {expected}. Received: {received!r:.100}", field=field)


# --- Together ---------------------------------------------------------------------------------


def summarise(
    reports: Sequence[Report], *, minimum: int, labels: Sequence[str] = ()
) -> dict[str, Any]:
    """What all of them measured, ready for JSON; empty where there are too few.

    Args:
        reports: In any order.
        minimum: Fewest participants that a number may be made of.
        labels: Names of the model's classes.

    Returns:
        `participants`, `samples`, for each of `metrics` what `_metric` tells, and `classes`: what
        `_classes` tells, or None where nobody counted them.
    """
    if len(reports) < minimum:
        return {}
    reports = sorted(reports, key=lambda one: (one.name, one.uuid))
    names = sorted(
        {name for one in reports for name in one.told.metrics},
        key=lambda name: (name == "loss", name),
    )
    having = {name: [one for one in reports if name in one.told.metrics] for name in names}
    return {
        "participants": len(reports),
        "samples": sum(one.told.samples for one in reports),
        "metrics": {
            name: _metric(name, told) for name, told in having.items() if len(told) >= minimum
        },
        "classes": _classes(reports, minimum, labels),
    }


def means(summary: Mapping[str, Any]) -> dict[str, float]:
    """The weighted mean of each metric of a summary."""
    return {name: told["mean"] for name, told in summary.get("metrics", {}).items()}


def _metric(name: str, reports: Sequence[Report]) -> dict[str, Any]:
    """One metric over participants, each weighted by its samples.

    With n_k samples and value m_k of participant k, the mean is m = Σ n_k m_k / Σ n_k, and the
    deviation, of participants from that mean, √(Σ n_k (m_k - m)² / Σ n_k). The worst is the first
    by name of equals.
    """
    values = [one.told.metrics[name] for one in reports]
    weights = [one.told.samples for one in reports]
    total = sum(weights)
    mean = math.fsum(n * m for n, m in zip(weights, values, strict=True)) / total
    spread = math.fsum(n * (m - mean) ** 2 for n, m in zip(weights, values, strict=True)) / total
    smaller = rules.smaller_is_better(name)
    pick = max if smaller else min
    worst = pick(reports, key=lambda one: one.told.metrics[name])
    return {
        "mean": mean,
        "deviation": math.sqrt(spread),
        "worst": worst.told.metrics[name],
        "worst_participant": {"uuid": worst.uuid, "name": worst.name},
        "participants": len(reports),
        "smaller_is_better": smaller,
    }


def _classes(
    reports: Sequence[Report], minimum: int, labels: Sequence[str]
) -> list[dict[str, Any]] | None:
    """Examples and recognised ones of each class, summed; null where too few have any.

    What is hidden could be found by subtracting what is shown from all samples, and so what is
    hidden together has to have enough participants as well, with those who told of no class of
    some of their examples: while it has not, the smallest class that is shown is hidden too.
    """
    if all(one.told.classes is None for one in reports):
        return None
    counted = [one.told.classes or [[0, 0]] * len(labels) for one in reports]
    untold = {
        at
        for at, (one, classes) in enumerate(zip(reports, counted, strict=True))
        if sum(examples for examples, _ in classes) < one.told.samples
    }
    lines = []
    for place, label in enumerate(labels):
        having = {at for at, classes in enumerate(counted) if classes[place][0] > 0}
        examples, recognised = (sum(one[place][part] for one in counted) for part in (0, 1))
        lines.append((str(label), having, examples, recognised))
    shown = {place for place, line in enumerate(lines) if len(line[1]) >= minimum}
    while shown and 0 < len(untold | _having(lines, shown)) < minimum:
        shown.remove(min(shown, key=lambda place: (lines[place][2], place)))
    return [
        {
            "label": label,
            "examples": examples,
            "recognised": recognised,
            "participants": len(having),
        }
        if place in shown
        else {"label": label, "examples": None, "recognised": None, "participants": None}
        for place, (label, having, examples, recognised) in enumerate(lines)
    ]


def _having(lines: Sequence[tuple[str, set[int], int, int]], shown: set[int]) -> set[int]:
    """Who has examples of the classes that are not shown."""
    hidden = (line[1] for place, line in enumerate(lines) if place not in shown)
    return set[int]().union(*hidden)
