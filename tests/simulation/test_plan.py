"""What is asked of a simulation is checked before a second is spent on it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from simulation.plan import Plan


def test_a_plan_comes_back_from_its_json() -> None:
    plan = Plan(until=("accuracy", 0.97), options={"mu": 0.1}, attack="scaled", attackers=0.2)
    assert Plan.from_json(plan.as_json()) == plan


def test_whatever_decides_the_numbers_decides_the_home() -> None:
    assert Plan().digest == Plan().digest
    assert Plan().digest != Plan(seed=1).digest
    assert Plan().digest != Plan(options={"mu": 0.1}).digest


def test_another_file_of_the_same_name_is_another_plan(tmp_path: Path) -> None:
    file = tmp_path / "images.npz"
    file.write_bytes(b"one")
    before = Plan(dataset=str(file)).digest
    file.write_bytes(b"two")
    assert Plan(dataset=str(file)).digest != before


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"participants": 0}, "--participants: Expected at least 1. Received: 0"),
        ({"fraction": 0.0}, "--fraction: Expected above 0 and up to 1. Received: 0.0"),
        ({"dropout": 1.0}, "--dropout"),
        ({"model": "resnet"}, "--model: Expected one of small, 2nn, cnn, bn or a .keras file"),
        ({"attack": "rude"}, "--attack: Expected one of label_flip, sign_flip, gaussian"),
        ({"buffer": 5}, "--buffer: Expected given together with concurrency"),
        ({"concurrency": 5, "buffer": 101}, "--buffer: Expected at most all participants"),
        ({"quorum": 11}, "--quorum: Expected at most 10, a fraction of 0.1 of 100. Received: 11"),
        ({"evaluators": 1}, "--evaluators"),
        ({"evaluators": 5}, "--held-out: Expected a share above 0 for those who evaluate"),
        ({"seed": -1}, "--seed"),
        (
            {"attack": "little_is_enough", "concurrency": 5, "buffer": 2},
            "--attack: Expected rounds, in which attackers can agree",
        ),
    ],
)
def test_what_makes_no_sense_is_refused_with_a_sentence(
    changes: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ValueError, match=sentence):
        replace(Plan(), **changes)
