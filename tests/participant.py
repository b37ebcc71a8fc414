"""A participant as a process of its own: `python -m tests.participant NAME [MOMENT]`.

It takes part through the real SDK, with a trainer that needs no Keras. With a moment it kills
itself there, as `kill -9` would: at one of the SDK's events, or `half-sent`, in the middle of its
upload, or `answered`, when the server has answered and it has not read the answer.

It prints what happens, a line each: the event, then the assignment's id.
"""

import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any

import httpx
import numpy as np

from client_sdk import Participant, drift, wire
from client_sdk.participation import Data, Event, OnEpoch
from client_sdk.testing import FakeResult
from models_app.packages import Package

SHAPE = (600, 500)  # 1.2 MB: its upload takes several writes
WEIGHTS = [
    wire.WeightSpec("0000.dense.kernel", 0, "dense", SHAPE, "F32", wire.FEDERATED),
    wire.WeightSpec("0001.dense.bias", 1, "dense", SHAPE[1:], "F32", wire.FEDERATED),
]
EPOCH_SECONDS = 0.1


def package() -> Package:
    """The model that is trained here, as if opened from a file; without an evaluation set."""
    draw = np.random.default_rng(0)
    return Package(
        architecture={"class_name": "Sequential", "config": {"name": "plain", "layers": []}},
        weights=WEIGHTS,
        tensors={w.name: draw.standard_normal(w.shape, dtype=np.float32) for w in WEIGHTS},
        input_spec=wire.InputSpec(SHAPE[:1]),
        objective={"loss": "sparse_categorical_crossentropy", "from_logits": True},
        outputs=SHAPE[1],
    )


class Trainer:
    """Moves the weights towards a draw from the seed: the same bits for the same arguments.

    Each epoch is a step. What strategies let participants keep is kept, and corrects nothing.
    """

    capabilities = tuple(drift.CAPABILITIES)

    def train(
        self,
        weights: Mapping[str, np.ndarray],
        data: Data,
        hyperparameters: Mapping[str, Any],
        seed: int,
        on_epoch: OnEpoch | None = None,
        *,
        requires: drift.Requirements = drift.NOTHING,
        own: drift.Own | None = None,
        control: np.ndarray | None = None,
    ) -> FakeResult:
        draw = np.random.default_rng(seed)
        new = {name: np.array(value) for name, value in weights.items()}
        rate, epochs = np.float32(hyperparameters["learning_rate"]), hyperparameters["epochs"]
        for epoch in range(1, epochs + 1):
            time.sleep(EPOCH_SECONDS)
            for name, value in new.items():
                new[name] += rate * (draw.standard_normal(value.shape, dtype=np.float32) - value)
            if on_epoch is not None:
                on_epoch(epoch, epochs, {"loss": 1 / epoch})
        deltas = {name: new[name] - weights[name] for name in weights}
        told = drift.reports(requires, {"steps": epochs, "initial_loss": 2.0})
        flat = drift.joined(deltas)
        kept = drift.advance(requires, own, control, flat, steps=epochs, learning_rate=float(rate))
        return FakeResult(deltas, len(data[0]), {"loss": 1 / epochs}, {}, told, kept)


def data_of(name: str) -> Data:
    """As many examples as the name has letters, so that the participants' shares differ."""
    return np.zeros((len(name), SHAPE[0])), np.zeros(len(name))


class Deadly(httpx.HTTPTransport):
    """The network, on which this process dies at a moment of its upload."""

    def __init__(self, moment: str) -> None:
        super().__init__()
        self._moment = moment

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        if request.method == "PUT" and self._moment == "half-sent":
            request.stream = _Half(request.stream)
        response = super().handle_request(request)
        if request.method == "PUT" and self._moment == "answered":
            die()
        return response


class _Half(httpx.SyncByteStream):
    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __iter__(self) -> Iterator[bytes]:
        for number, piece in enumerate(self._stream):
            if number == 2:
                time.sleep(0.2)  # so that the server has begun to write
                die()
            yield piece


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def main(name: str, moment: str = "", rounds: str = "") -> None:
    def tell(event: Event) -> None:
        sys.stdout.write(f"{event.kind} {event.assignment.id if event.assignment else ''}\n")
        sys.stdout.flush()
        if event.kind == moment:
            die()

    # Woken by the server's WebSocket as ever, but for those who die in their transport.
    deadly = Deadly(moment) if moment in ("half-sent", "answered") else None
    with Participant.load(name, transport=deadly) as participant:
        participant.participate(
            data_of(name),
            trainer=Trainer(),
            on_event=tell,
            rounds=int(rounds) if rounds else None,
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
