"""What can be said of local training without Keras."""

import subprocess
import sys
from typing import Any

import pytest

from client_sdk.training import Hyperparameters, HyperparametersRefused


def test_importing_the_trainer_imports_no_keras() -> None:
    code = "import sys, client_sdk.training; print({'keras', 'tensorflow'} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert found.stdout == "set()\n"


def test_who_lacks_keras_is_told_what_to_install() -> None:
    code = "import sys; sys.modules['keras'] = None; import client_sdk.training"
    found = subprocess.run(
        [sys.executable, "-c", code], check=False, capture_output=True, text=True
    )
    assert "ImportError: Expected Keras and a backend: pip install" in found.stderr


def test_a_run_needs_to_say_no_more_than_its_learning_rate() -> None:
    plan = Hyperparameters.from_json({"learning_rate": 0.1})
    assert (plan.epochs, plan.batch_size, plan.optimizer, plan.max_steps) == (1, 32, "sgd", None)


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"learning_rate": 0}, "learning_rate"),
        ({"learning_rate": float("nan")}, "learning_rate"),
        ({"learning_rate": "0.1"}, "learning_rate"),
        ({"learning_rate": None}, "learning_rate"),
        ({"epochs": 0}, "epochs"),
        ({"epochs": True}, "epochs"),
        ({"batch_size": 1.5}, "batch_size"),
        ({"optimizer": "lion"}, "optimizer"),
        ({"optimizer": ["sgd"]}, "optimizer"),
        ({"momentum": 1.0}, "momentum"),
        ({"momentum": -0.1}, "momentum"),
        ({"max_steps": 0}, "max_steps"),
        ({"proximal": 0.1}, "proximal"),
    ],
)
def test_hyperparameters_that_are_unknown_or_out_of_range_are_refused(
    wrong: dict[str, Any], named: str
) -> None:
    with pytest.raises(
        HyperparametersRefused, match=rf"{named}[\s\S]*Received: |Received: .*{named}"
    ):
        Hyperparameters.from_json({"learning_rate": 0.1, **wrong})
