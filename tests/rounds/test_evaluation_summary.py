"""What participants measured: read strictly, and put together by hand."""

import math
from typing import Any

import pytest

from rounds.errors import ReportInvalid
from rounds.evaluation_summary import Report, Told, means, read, summarise

GOOD: dict[str, Any] = {
    "samples": 10,
    "metrics": {"accuracy": 0.5, "loss": 2},
    "classes": [[4, 2], [6, 3], [0, 0]],
}


def report(name: str, samples: int, classes: Any = None, **metrics: float) -> Report:
    return Report(f"uuid-of-{name}", name, Told(samples, metrics, classes))


ALICE = report("alice", 10, [[6, 6], [4, 3], [0, 0]], accuracy=0.9, loss=0.2)
BOB = report("bob", 30, [[20, 10], [10, 5], [0, 0]], accuracy=0.5, loss=0.8)
CHARLIE = report("charlie", 60, [[30, 24], [20, 18], [10, 6]], accuracy=0.8, loss=0.4)


def test_a_summary_by_hand() -> None:
    told = summarise([CHARLIE, ALICE, BOB], minimum=3, labels=["a", "b", "c"])
    assert (told["participants"], told["samples"]) == (3, 100)
    accuracy, loss = told["metrics"]["accuracy"], told["metrics"]["loss"]
    # (10 * 0.9 + 30 * 0.5 + 60 * 0.8) / 100 = (9 + 15 + 48) / 100
    assert accuracy["mean"] == pytest.approx(0.72)
    # (10 * 0.18² + 30 * 0.22² + 60 * 0.08²) / 100 = (0.324 + 1.452 + 0.384) / 100
    assert accuracy["deviation"] == pytest.approx(math.sqrt(0.0216))
    assert accuracy["worst"] == 0.5
    assert accuracy["worst_participant"] == {"uuid": "uuid-of-bob", "name": "bob"}
    assert accuracy["participants"] == 3
    # Of a loss the greatest is the worst. (2 + 24 + 24) / 100
    assert loss["mean"] == pytest.approx(0.5)
    assert (loss["worst"], loss["worst_participant"]["name"]) == (0.8, "bob")
    assert means(told) == {"accuracy": accuracy["mean"], "loss": loss["mean"]}


def test_of_fewer_than_the_smallest_cohort_nothing_is_told() -> None:
    assert summarise([ALICE, BOB], minimum=3, labels=["a", "b", "c"]) == {}
    assert summarise([], minimum=2) == {}
    assert means({}) == {}


def test_a_metric_that_too_few_sent_is_left_out() -> None:
    told = summarise([report("alice", 1, loss=1.0, auc=0.9), report("bob", 3, loss=2.0)], minimum=2)
    assert list(told["metrics"]) == ["loss"]
    assert told["metrics"]["loss"]["mean"] == 1.75
    assert told["classes"] is None


@pytest.mark.parametrize("classes", [None, [[0, 0], [0, 0]]])
def test_whoever_tells_of_no_class_cannot_be_found_by_subtraction(classes: Any) -> None:
    told = summarise(
        [
            report("alice", 10, [[5, 4], [5, 4]], accuracy=0.8),
            report("bob", 10, [[5, 3], [5, 3]], accuracy=0.6),
            report("charlie", 10, [[5, 5], [5, 5]], accuracy=1.0),
            report("dora", 37, classes, accuracy=30 / 37),
        ],
        minimum=3,
        labels=["a", "b"],
    )
    # All 67 less the 30 of both classes would be dora's 37: so one of them is hidden, and what is
    # hidden has four.
    assert [one["examples"] for one in told["classes"]] == [None, 15]


def test_how_many_examples_are_behind_a_metric_is_not_told() -> None:
    """Else a metric that all but dora sent would tell how many she has."""
    without = [report(name, 10, accuracy=0.5, loss=1.0) for name in ("alice", "bob", "charlie")]
    told = summarise([*without, report("dora", 37, loss=1.0)], minimum=3)
    assert told["samples"] == 67
    assert "samples" not in told["metrics"]["accuracy"]


def test_a_class_that_too_few_have_is_hidden_and_cannot_be_found_by_subtraction() -> None:
    told = summarise([ALICE, BOB, CHARLIE], minimum=2, labels=["a", "b", "c"])
    # Charlie alone has examples of c. From all samples less those of a and b one could tell how
    # many, so that b, the smaller one, is hidden as well.
    hidden = {"examples": None, "recognised": None, "participants": None}
    assert told["classes"] == [
        {"label": "a", "examples": 56, "recognised": 40, "participants": 3},
        {"label": "b", **hidden},
        {"label": "c", **hidden},
    ]


def test_classes_that_all_have_are_summed() -> None:
    told = summarise(
        [report("alice", 5, [[3, 1], [2, 2]], loss=1), report("bob", 5, [[1, 1], [4, 0]], loss=1)],
        minimum=2,
        labels=["a", "b"],
    )
    assert [(one["examples"], one["recognised"]) for one in told["classes"]] == [(4, 2), (6, 2)]


def test_a_class_that_nobody_has_is_hidden_alone() -> None:
    reports = [
        report("alice", 3, [[3, 1], [0, 0]], loss=1),
        report("bob", 1, [[1, 1], [0, 0]], loss=1),
    ]
    told = summarise(reports, minimum=2, labels=["a", "b"])
    assert [one["examples"] for one in told["classes"]] == [4, None]


def test_of_equals_the_first_by_name_is_the_worst() -> None:
    told = summarise([report("bob", 1, loss=1.0), report("alice", 1, loss=1.0)], minimum=2)
    assert told["metrics"]["loss"]["worst_participant"]["name"] == "alice"
    assert told["metrics"]["loss"]["deviation"] == 0.0


def test_a_good_report_is_read() -> None:
    told = read(**GOOD, labels=3)
    assert told == Told(10, {"accuracy": 0.5, "loss": 2.0}, [[4, 2], [6, 3], [0, 0]])
    assert read(1, {"loss": 0.1}, None, labels=0).classes is None


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"samples": 0}, "samples"),
        ({"samples": True}, "samples"),
        ({"samples": 1.5}, "samples"),
        ({"samples": "10"}, "samples"),
        ({"samples": 10**9 + 1}, "samples"),
        ({"metrics": {}}, "metrics"),
        ({"metrics": [0.5]}, "metrics"),
        ({"metrics": {f"m{n}": 0.5 for n in range(33)}}, "metrics"),
        ({"metrics": {"": 0.5}}, "metrics"),
        ({"metrics": {"x" * 65: 0.5}}, "metrics"),
        ({"metrics": {"a\nb": 0.5}}, "metrics"),
        ({"metrics": {"loss": math.nan}}, "metrics.loss"),
        ({"metrics": {"loss": math.inf}}, "metrics.loss"),
        ({"metrics": {"loss": 1e31}}, "metrics.loss"),
        ({"metrics": {"loss": 10**400}}, "metrics.loss"),
        ({"metrics": {"loss": "0.5"}}, "metrics.loss"),
        ({"metrics": {"loss": True}}, "metrics.loss"),
        ({"classes": {}}, "classes"),
        ({"classes": [[4, 2], [6, 3]]}, "classes"),
        ({"classes": [[4], [6], [0]]}, "classes"),
        ({"classes": [[4, 2], [6, 3], [0, -1]]}, "classes"),
        ({"classes": [[4, 2], [6, 3.0], [0, 0]]}, "classes"),
        ({"classes": [[4, 2], [6, 7], [0, 0]]}, "classes.1"),
        ({"classes": [[4, 2], [6, 3], [1, 0]]}, "classes"),
    ],
)
def test_what_is_no_report_is_refused_by_the_field(change: dict[str, Any], field: str) -> None:
    with pytest.raises(ReportInvalid) as refused:
        read(**GOOD | change, labels=3)
    assert refused.value.field == field
