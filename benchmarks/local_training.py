"""Local training through the SDK beside `model.fit` on a kept model.

A small CNN, 500 images of 32x32x3, two epochs: what a participant does in a round. Both sides
keep their compiled model, start each round from the same weights, and are timed in turns in one
process, from the second round on.

    python -m benchmarks.local_training [--rounds N] [--json FILE]

Target: `Trainer.train` no slower than `fit`; aim: half its time.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from client_sdk.training import Trainer
from client_sdk.wire import WeightSpec, tensor_name

IMAGES, SHAPE, CLASSES = 500, (32, 32, 3), 10
HYPERPARAMETERS = {
    "epochs": 2,
    "batch_size": 32,
    "learning_rate": 0.01,
    "optimizer": "sgd",
    "momentum": 0.9,
    "max_steps": None,
}


def network() -> Any:
    """A small CNN: two convolutions and two dense layers, 35,000 weights."""
    import keras

    return keras.Sequential(
        [
            keras.Input(SHAPE),
            keras.layers.Conv2D(16, 3, activation="relu"),
            keras.layers.MaxPooling2D(3),
            keras.layers.Conv2D(32, 3, activation="relu"),
            keras.layers.MaxPooling2D(2),
            keras.layers.Flatten(),
            keras.layers.Dense(64, activation="relu"),
            keras.layers.Dense(CLASSES, activation="softmax"),
        ]
    )


def document(model: Any) -> dict[str, Any]:
    """The model document that a server would give."""
    weights = [
        WeightSpec(
            name=tensor_name(ordinal, "", variable.name),
            ordinal=ordinal,
            layer="",
            shape=tuple(variable.shape),
            dtype="F32",
            role="federated",
        )
        for ordinal, variable in enumerate(model.variables)
    ]
    return {
        "architecture": json.loads(model.to_json()),
        "weights": [weight.to_json() for weight in weights],
        "input_spec": {"shape": list(SHAPE)},
        "objective": {"loss": "sparse_categorical_crossentropy", "from_logits": False},
    }


def contestants() -> dict[str, Callable[[int], object]]:
    """The two ways to train one round, as functions of the round's number."""
    import keras

    model = network()
    described = document(model)
    start = [variable.numpy() for variable in model.variables]
    weights = {
        entry["name"]: value for entry, value in zip(described["weights"], start, strict=True)
    }
    random = np.random.default_rng(0)
    x = random.random((IMAGES, *SHAPE), dtype=np.float32)
    y = random.integers(0, CLASSES, IMAGES)
    trainer = Trainer(described)
    model.compile(
        optimizer=keras.optimizers.SGD(0.01, momentum=0.9),
        loss="sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )

    def fit(number: int) -> object:
        model.set_weights(start)
        return model.fit(x, y, epochs=2, batch_size=32, verbose=0)

    def train(number: int) -> object:
        return trainer.train(weights, (x, y), HYPERPARAMETERS, seed=number)

    return {"fit": fit, "trainer": train}


def measure(rounds: int) -> dict[str, Any]:
    """Seconds of each side's rounds, without the first, and the ratio of their medians."""
    sides = contestants()
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds + 1):
        for name, side in sides.items():
            began = time.perf_counter()
            side(number)
            seconds[name].append(time.perf_counter() - began)
    medians = {name: statistics.median(times[1:]) for name, times in seconds.items()}
    return {
        "first_round_seconds": {name: times[0] for name, times in seconds.items()},
        "median_seconds": medians,
        "ratio": medians["trainer"] / medians["fit"],
        "rounds": rounds,
        "images": IMAGES,
        "hyperparameters": HYPERPARAMETERS,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--json", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    found = measure(arguments.rounds)
    for name, seconds in found["median_seconds"].items():
        first = found["first_round_seconds"][name]
        print(f"{name:8} {seconds * 1000:7.1f} ms a round (the first {first * 1000:.0f} ms)")
    print(f"ratio    {found['ratio']:7.2f} (target 1.0, aim 0.5)")
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
