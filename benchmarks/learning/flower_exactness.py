"""Flower's side of `benchmarks/learning/exactness.py`: runs in Flower's environment, not in ours.

Called with a file of arrays (NumPy's .npz), a JSON list of plays and a file to write. A play is
{"name", "class", "options", "rounds"}: how one of Flower's strategies is made, and the names of
the rounds that it folds one after the other. Round r is `r.updates`, shape (participants, weights),
float32, with `r.samples` and `r.losses`. The base weights of each round are `r.base`, or zeros, so
that no float32 sum of base and update comes between. Writes the step of each round of each play
as `name.r`.
"""

import json
import logging
import sys

import numpy as np
from flwr.app import Array, ArrayRecord, MetricRecord, RecordDict
from flwr.serverapp import strategy as strategies


class Reply:
    """As much of a message as a strategy looks at."""

    def __init__(self, weights: np.ndarray, samples: float, loss: float) -> None:
        metrics = MetricRecord({"num-examples": float(samples), "train_loss": float(loss)})
        self.content = RecordDict({"arrays": record(weights), "metrics": metrics})

    def has_error(self) -> bool:
        return False


def record(weights: np.ndarray) -> ArrayRecord:
    return ArrayRecord({"weights": Array(weights)})


def main() -> None:
    logging.disable()
    given = np.load(sys.argv[1])
    steps = {}
    for play in json.loads(sys.argv[2]):
        strategy = getattr(strategies, play["class"])(**play["options"])
        for number, name in enumerate(play["rounds"], start=1):
            updates = given[f"{name}.updates"]
            base = given.get(f"{name}.base", np.zeros(updates.shape[1], np.float32))
            # What `configure_train` would keep of the round's base version.
            named = play["class"] in {"FedAdagrad", "FedAdam", "FedYogi"}
            strategy.current_arrays = {"weights": base} if named else record(base)
            replies = [
                Reply(base + update, samples, loss)
                for update, samples, loss in zip(
                    updates, given[f"{name}.samples"], given[f"{name}.losses"], strict=True
                )
            ]
            arrays, _ = strategy.aggregate_train(number, replies)
            steps[f"{play['name']}.{name}"] = arrays.to_numpy_ndarrays()[0] - base
    np.savez(sys.argv[3], **steps)


if __name__ == "__main__":
    main()
