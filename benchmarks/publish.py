"""Last update to published version for 100 MB of weights and ten participants, in its parts.

    python -m benchmarks.publish [--megabytes 100] [--updates 10] [--repeats 5] [--no-keras]
                                 [--quick] [--json FILE]

Rounds are closed, folded, judged and published by the functions that workers call, in one process
that has done it once before, on a home of its own with its Valkey. The median of each part:

- `close`: verdicts on the updates, the round moves on;
- `fold`: the updates are read and averaged;
- `add`: base and mean become the new weights, proved finite;
- `write`: they are written, hashed, fsynced;
- `store`: the file moves into the store;
- `evaluate`: Keras measures them on 256 held-out examples, once warm;
- `publish`: the gate, the new version, the next round: one commit;
- `rest`: leases, opening files, the candidate's row.

`of limit` compares the best turns with the least that any program has to do, in turns with it:
`fold` with reading the same updates once, `add` with NumPy's sum of a mapped array and another,
`write` with the longer one of hashing the same bytes and of writing and fsyncing them. Memory is
by how much the process' anonymous memory had grown at the height of the fold, the new weights
included.
"""

import argparse
import hashlib
import json
import multiprocessing
import os
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import numpy as np

from benchmarks import server

if TYPE_CHECKING:
    from models_app.models import Model
    from rounds.models import Assignment

PARTS = ("close", "fold", "add", "write", "store", "evaluate", "publish", "rest")
EXAMPLES = 256

Seconds = dict[str, list[float]]


def main() -> None:
    options = parse()
    before = server.load()
    with server.home() as home, server.broker(home):
        model = large_model(home, options.megabytes * 250_000, with_keras=not options.no_keras)
        seconds, growth = measure(model, home, options.updates, options.repeats)
    report = {
        "before": before,
        "after": server.load(),
        "megabytes": options.megabytes,
        "updates": options.updates,
        "median": {part: statistics.median(seconds[part]) for part in ("total", *PARTS)},
        "limit": {part: min(seconds[f"{part}, limit"]) for part in LIMITS},
        "best": {part: min(seconds[part]) for part in ("total", *PARTS)},
        "seconds": seconds,
        "growth": growth,
    }
    show(report)
    if options.json:
        options.json.write_text(json.dumps(report, indent=2) + "\n")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Last update to published version, in parts.")
    parser.add_argument("--megabytes", type=int, default=100, help="of weights (%(default)s)")
    parser.add_argument("--updates", type=int, default=10, help="of a round (%(default)s)")
    parser.add_argument("--repeats", type=int, default=5, help="rounds that count (%(default)s)")
    parser.add_argument("--no-keras", action="store_true", help="a model without evaluation")
    parser.add_argument("--quick", action="store_true", help="two rounds of 20 MB, no evaluation")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all numbers there")
    options = parser.parse_args()
    if options.quick:
        options.megabytes, options.repeats, options.no_keras = 20, 2, True
    return options


def show(report: dict[str, Any]) -> None:
    median, best, limit = report["median"], report["best"], report["limit"]
    weights, updates = report["megabytes"], report["updates"]
    handled = {"fold": weights * updates, "add": weights, "write": weights}
    print(f"{updates} updates of {weights} MB, from the last one to the published version")
    print(f"{'':<9} {'median ms':>9} {'share':>6} {'best ms':>8} {'GB/s':>6} {'of limit':>9}")
    for part in (*PARTS, "total"):
        line = f"{part:<9} {1e3 * median[part]:>9.0f} {median[part] / median['total']:>6.0%}"
        line += f" {1e3 * best[part]:>8.0f}"
        if part in limit:
            speed = handled[part] / best[part] / 1e3
            line += f" {speed:>6.2f} {limit[part] / best[part]:>9.0%}"
        print(line)
    longest = max(PARTS, key=lambda part: float(median[part]))
    growth = ", ".join(f"{one:.0f}" for one in report["growth"])
    print(f"The longest part is {longest}. Memory grew by {growth} MB (the first fold loads numba)")
    busy = [report[when]["load"][0] for when in ("before", "after")]
    print(f"{os.cpu_count()} processors, load {busy[0]} before, {busy[1]} after")


# --- The model ----------------------------------------------------------------------------------


def large_model(home: Path, weights: int, *, with_keras: bool) -> "Model":
    """A model of so many weights; with Keras one dense layer and a held-out set for it."""
    side = int(weights**0.5)
    values = np.random.default_rng(7).standard_normal((side, side), np.float32)
    if not with_keras:
        return server.register("large", {"kernel": values})
    from models_app import packages, registry

    process = multiprocessing.get_context("spawn").Process(target=save_network, args=(home, side))
    process.start()
    process.join()
    x, y = values[:EXAMPLES], values[:EXAMPLES, ::-1]
    np.savez(home / "held-out.npz", x=x, y=y)
    with packages.open_package(
        package=home / "network.keras", evaluation=home / "held-out.npz", loss="mean_squared_error"
    ) as package:
        return registry.create_model("large", package)


def save_network(home: Path, side: int) -> None:
    import keras

    layer = keras.layers.Dense(side, use_bias=False)
    keras.Sequential([keras.Input((side,)), layer]).save(home / "network.keras")


# --- Measuring ----------------------------------------------------------------------------------


def measure(model: "Model", home: Path, updates: int, repeats: int) -> tuple[Seconds, list[float]]:
    """One round more than counts; seconds of each part by round, and memory growth of each."""
    from rounds import lifecycle

    files = write_updates(model, home, updates)
    run = server.start_run("large", participants=updates, rounds=repeats + 2)
    members = server.members(updates)
    seconds: Seconds = defaultdict(list)
    growth = []
    for _ in range(repeats + 1):
        round_ = run.rounds.latest("number")
        for mine in zip(members, server.invite(members), files, strict=True):
            upload(*mine)
        with stopwatch() as spent:
            began = time.perf_counter()
            lifecycle.close_round(round_.pk, reason="target reached")
            with server.growth(os.getpid()) as grown:
                lifecycle.aggregate(round_.pk)
            growth += grown
            lifecycle.evaluate(round_.pk)
            spent["total"] = time.perf_counter() - began
        spent["rest"] = spent["total"] - sum(spent[part] for part in PARTS)
        for name, limit in LIMITS.items():
            spent[f"{name}, limit"] = limit(files, home / "limit")
        for name, value in spent.items():
            seconds[name].append(value)
    return {name: values[1:] for name, values in seconds.items()}, growth


def write_updates(model: "Model", home: Path, count: int) -> list[Path]:
    """Different updates that together move the model but little."""
    from client_sdk import wire

    (spec,) = model.federated
    noise = np.random.default_rng(8).standard_normal(spec.shape, np.float32)
    files = [home / f"update-{number}" for number in range(1, count + 1)]
    for number, file in enumerate(files, start=1):
        wire.dump(file, {spec.name: noise * np.float32(1e-6 / number)})
    return files


def upload(member: server.Member, place: "Assignment", update: Path) -> None:
    """What the upload's door does once it has let a participant in."""
    from rounds import intake

    manifest, signature = member.sign(place, update)
    admission = intake.admit(
        member.participant,
        place.pk,
        length=update.stat().st_size,
        manifest=manifest,
        signature=signature,
    )
    landing = intake.Landing(update.stat().st_size)
    landing.write(update.read_bytes())
    intake.settle(admission, landing)
    landing.close()


@contextmanager
def stopwatch() -> Iterator[dict[str, float]]:
    """Sums up the seconds spent in each part while the block runs."""
    from client_sdk import wire
    from models_app import blobs
    from rounds import aggregation, lifecycle

    spent = dict.fromkeys(PARTS, 0.0)
    watched: dict[str, tuple[Any, str]] = {
        "close": (lifecycle, "close_round"),
        "fold": (aggregation.FedAvg, "apply"),
        "add": (aggregation, "apply_delta"),
        "write": (wire, "dump"),
        "store": (blobs, "put_file"),
        "evaluate": (lifecycle, "_measure"),
        "publish": (lifecycle, "_publish"),
    }
    with ExitStack() as stack:
        for part, (where, name) in watched.items():
            stack.enter_context(patch.object(where, name, timed(getattr(where, name), spent, part)))
        yield spent


def timed(function: Callable[..., Any], spent: dict[str, float], part: str) -> Callable[..., Any]:
    @wraps(function)
    def call(*args: Any, **options: Any) -> Any:
        began = time.perf_counter()
        try:
            return function(*args, **options)
        finally:
            spent[part] += time.perf_counter() - began

    return call


# --- The least that any program has to do -------------------------------------------------------


def read(files: Sequence[Path], target: Path) -> float:
    from benchmarks.reading import touch_all
    from rounds.aggregation.walk import over_blocks

    rows = [np.memmap(file, np.float32, mode="r") for file in files]
    began = time.perf_counter()
    over_blocks(touch_all, rows, np.zeros(1, np.uint32))
    return time.perf_counter() - began


def add(files: Sequence[Path], target: Path) -> float:
    base = np.memmap(files[0], np.float32, mode="r")
    delta = np.ones(base.size, np.float32)
    began = time.perf_counter()
    np.add(base, delta, out=delta)
    return time.perf_counter() - began


def hash_or_write(files: Sequence[Path], target: Path) -> float:
    content = files[0].read_bytes()
    began = time.perf_counter()
    hashlib.sha256(content).digest()
    hashed = time.perf_counter()
    with target.open("wb", buffering=0) as file:
        file.write(content)
        os.fsync(file.fileno())
    return max(hashed - began, time.perf_counter() - hashed)


LIMITS: dict[str, Callable[[Sequence[Path], Path], float]] = {
    "fold": read,
    "add": add,
    "write": hash_or_write,
}


if __name__ == "__main__":
    main()
