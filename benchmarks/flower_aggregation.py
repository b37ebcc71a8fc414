"""Flower's side of `benchmarks/aggregation.py`: runs in Flower's environment, not in ours.

Called with the files of the updates (raw float32) and, as JSON, the sizes of the model's tensors.
Makes the records that Flower's server holds once all replies are in, says "ready", and then for
each line on its input aggregates them once and answers {"seconds", "norm"}.
"""

import json
import sys
import time

import numpy as np
from flwr.app import Array, ArrayRecord, MetricRecord, RecordDict
from flwr.serverapp.strategy.strategy_utils import aggregate_arrayrecords


def record(path: str, sizes: list[int], samples: int) -> RecordDict:
    tensors = np.split(np.fromfile(path, np.float32), np.cumsum(sizes)[:-1])
    arrays = ArrayRecord({f"{index:04}": Array(one) for index, one in enumerate(tensors)})
    return RecordDict({"arrays": arrays, "metrics": MetricRecord({"num-examples": samples})})


def main() -> None:
    sizes, paths = json.loads(sys.argv[1]), sys.argv[2:]
    records = [record(path, sizes, samples) for samples, path in enumerate(paths, start=1)]
    print("ready", flush=True)
    for _ in sys.stdin:
        started = time.perf_counter()
        result = aggregate_arrayrecords(records, "num-examples")
        seconds = time.perf_counter() - started
        squares = sum(float(np.vdot(one, one)) for one in result.to_numpy_ndarrays())
        print(json.dumps({"seconds": seconds, "norm": squares**0.5}), flush=True)


if __name__ == "__main__":
    main()
