"""A round of the paper's CNN in the simulator, beside the same training as a plain Keras loop.

    python -m benchmarks.learning.plain [--rounds N] [--json FILE]

Ten participants of 600 images of MNIST train five epochs in batches of 10 (McMahan et al. 2017):
3,000 steps a round. One side is `manage.py simulate`, with selection, uploads, aggregation and
evaluation on 10,000 images, from its second round on. The other one is `model.fit` for one
participant after another on a kept, compiled model, and nothing else; once with Keras' usual
threads and once with one. Each side is a process of its own, one after the other. Processor seconds
are those of all threads, so that what else the machine does matters little.

`FEDSERVER_DATA` names the folder of `mnist.npz`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent.parent
FILE = Path(__file__).parent / "results" / "plain.json"
PARTICIPANTS, IMAGES, EPOCHS, BATCH, RATE = 10, 600, 5, 10, 0.215
OPTIONS = (
    "--dataset mnist --participants 100 --fraction 0.1 --batch 10 --model cnn --epochs 5"
    f" --learning-rate {RATE} --seed 1"
)
ONE_THREAD = {"TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "1"}


def fit(rounds: int) -> list[float]:
    """Processor seconds of each round of the plain loop; Keras and its model are warm by then."""
    import keras
    import numpy as np

    from simulation import networks

    with np.load(Path(os.environ["FEDSERVER_DATA"]) / "mnist.npz") as file:
        order = np.random.default_rng(1).permutation(60_000)[: PARTICIPANTS * IMAGES]
        x = (file["x_train"][order, ..., np.newaxis] / 255).astype(np.float32)
        y = file["y_train"][order].astype(np.int64)
    shares = [slice(at, at + IMAGES) for at in range(0, len(x), IMAGES)]
    model = networks.build("cnn", (28, 28, 1), 10, 1)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(RATE), loss, metrics=["accuracy"])
    start = model.get_weights()
    model.fit(x[:50], y[:50], batch_size=BATCH, verbose=0)
    seconds = []
    for _ in range(rounds):
        began = time.process_time()
        trained = []
        for share in shares:
            model.set_weights(start)
            model.fit(x[share], y[share], epochs=EPOCHS, batch_size=BATCH, verbose=0)
            trained.append(model.get_weights())
        start = [np.mean(layer, axis=0) for layer in zip(*trained, strict=True)]
        seconds.append(time.process_time() - began)
    return seconds


def plain(rounds: int, environment: dict[str, str]) -> list[float]:
    """The plain loop in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.learning.plain", "--fit", str(rounds)]
    out = subprocess.run(
        command, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True, check=True
    )
    seconds: list[float] = json.loads(out.stdout.splitlines()[-1])
    return seconds


def simulated(rounds: int) -> list[float]:
    """Processor seconds of the simulator's rounds, without the first, in which all is built."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "result.json"
        command = [sys.executable, "manage.py", "simulate", *OPTIONS.split()]
        command += ["--rounds", str(rounds + 1), "--home", f"{folder}/home", "--json", str(file)]
        subprocess.run(command, cwd=ROOT, capture_output=True, check=True)
        curve = json.loads(file.read_text())["curve"]
    return [row["cpu_seconds"] for row in curve if row["round"] > 1]


def measure(rounds: int) -> dict[str, Any]:
    """All sides, one after another: processor seconds a round, the least of each side's rounds."""
    seconds = {
        "simulator": simulated(rounds),
        "plain": plain(rounds, {}),
        "plain, one thread": plain(rounds, ONE_THREAD),
    }
    least = {name: round(min(each), 2) for name, each in seconds.items()}
    return {
        "command": f"python -m benchmarks.learning.plain --rounds {rounds}",
        "cpu_seconds_per_round": least,
        "all_rounds": {name: [round(one, 2) for one in each] for name, each in seconds.items()},
        "times": {name: round(value / least["simulator"], 2) for name, value in least.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--json", type=Path, metavar="FILE", default=FILE)
    parser.add_argument("--fit", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.fit:
        print(json.dumps(fit(arguments.fit)))
        return
    found = measure(arguments.rounds)
    for name, seconds in found["cpu_seconds_per_round"].items():
        print(f"{name:18} {seconds:6.1f} s a round, {found['times'][name]:.2f} times the simulator")
    arguments.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
