"""Flower's side of `benchmarks/aggregation.py`: runs in Flower's environment, not in ours.

Called with JSON, {"sizes", "strategy", "options"}, and the files of the updates (raw float32).
Makes the records that Flower's server holds once all replies are in, says "ready", and then for
each line on its input aggregates them once and answers {"seconds", "norm", "extra"}; the last is
by how many MB the process has ever been larger than it was when it said "ready".
"""

import json
import logging
import sys
import time
from pathlib import Path

import numpy as np
from flwr.app import Array, ArrayRecord, MetricRecord, RecordDict
from flwr.serverapp import strategy as strategies

CLASSES = {
    "fedavg": "FedAvg",
    "median": "FedMedian",
    "trimmed_mean": "FedTrimmedAvg",
    "krum": "Krum",
    "multi_krum": "MultiKrum",
    "bulyan": "Bulyan",
}


class Reply:
    """As much of a message as a strategy looks at."""

    def __init__(self, arrays: dict[str, Array], samples: int) -> None:
        # Some strategies take the arrays out of their record: it is made anew for each turn.
        metrics = MetricRecord({"num-examples": samples})
        self.content = RecordDict({"arrays": ArrayRecord(arrays), "metrics": metrics})

    def has_error(self) -> bool:
        return False


def arrays_of(path: str, sizes: list[int]) -> dict[str, Array]:
    tensors = np.split(np.fromfile(path, np.float32), np.cumsum(sizes)[:-1])
    return {f"{index:04}": Array(one) for index, one in enumerate(tensors)}


def memory(line: str) -> float:
    """One line of what Linux says of this process's memory, in MB; 0 where it does not."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((int(one.split()[1]) / 1e3 for one in lines if one.startswith(line)), 0.0)


def main() -> None:
    logging.disable()
    told, paths = json.loads(sys.argv[1]), sys.argv[2:]
    strategy = getattr(strategies, CLASSES[told["strategy"]])(**told["options"])
    updates = [arrays_of(path, told["sizes"]) for path in paths]
    # By heads, as the papers of the robust means have it.
    samples = [1 + number * (told["strategy"] == "fedavg") for number in range(len(paths))]
    print("ready", flush=True)
    before = memory("VmRSS")
    for _ in sys.stdin:
        replies = [Reply(*one) for one in zip(updates, samples, strict=True)]
        started = time.perf_counter()
        result, _ = strategy.aggregate_train(1, replies)
        seconds = time.perf_counter() - started
        squares = sum(float(np.vdot(one, one)) for one in result.to_numpy_ndarrays())
        answer = {"seconds": seconds, "norm": squares**0.5, "extra": memory("VmHWM") - before}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
