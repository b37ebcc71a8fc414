"""How the demo trains its images."""

from dataclasses import replace

from fedserver.demo_data import hyperparameters
from simulation.datasets import load


def test_photographs_are_trained_by_another_optimizer_than_digits() -> None:
    digits = load("digits", seed=1)
    assert hyperparameters(digits)["optimizer"] == "sgd"
    assert hyperparameters(replace(digits, name="cifar10"))["optimizer"] == "adam"
