"""What is read from a confusion matrix, and which documents are one."""

from typing import Any

import pytest

from models_app.evaluation import Evaluation, class_labels, class_scores, worst_class

# Of ten cats eight are recognised; of four dogs one, and two of them are called cats.
COUNTS = [[8, 1, 1], [2, 1, 1], [0, 0, 0]]
LABELS = ["cat", "dog", "emu"]


def test_each_class_is_told_with_what_it_is_mistaken_for() -> None:
    cat, dog, emu = class_scores(COUNTS, LABELS)
    assert (cat.samples, cat.correct, cat.accuracy) == (10, 8, 0.8)
    assert (cat.mistaken_for, cat.mistakes) == ("dog", 1)  # of two that are equal the first
    assert (dog.accuracy, dog.mistaken_for, dog.mistakes) == (0.25, "cat", 2)
    assert (emu.samples, emu.accuracy, emu.mistaken_for) == (0, None, "")


def test_the_worst_class_is_one_that_has_examples() -> None:
    worst = worst_class(class_scores(COUNTS, LABELS))
    assert worst
    assert worst.label == "dog"
    assert worst_class(class_scores([[0, 0], [0, 0]], [])) is None


def test_classes_without_names_are_called_by_their_numbers() -> None:
    assert class_labels(["cat"], 3) == ["0", "1", "2"]
    assert class_labels(LABELS, 3) == LABELS


@pytest.mark.parametrize("confusion", [None, [[1, 0], [0, 1]]])
def test_a_document_becomes_an_evaluation(confusion: Any) -> None:
    document = {"metrics": {"loss": 0.5}, "confusion": confusion}
    assert Evaluation.read(document) == Evaluation({"loss": 0.5}, confusion)


@pytest.mark.parametrize(
    ("metrics", "confusion"),
    [
        ([], None),
        ({"loss": "low"}, None),
        ({}, [[1, 0]]),
        ({}, [[1]]),
        ({}, [[1, -1], [0, 1]]),
        ({}, [[1, 0.5], [0, 1]]),
        ({}, [[1, True], [0, 1]]),
        ({}, [[0] * 101] * 101),
        ({}, "many"),
    ],
)
def test_what_a_process_apart_wrote_is_not_believed(metrics: Any, confusion: Any) -> None:
    with pytest.raises(ValueError, match="Expected an evaluation"):
        Evaluation.read({"metrics": metrics, "confusion": confusion})
