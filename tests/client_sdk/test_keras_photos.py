"""The photo labeller with a real model: it learns fruit from a few photos, and shows it."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import pytest

from client_sdk.participant import Participant
from client_sdk.photos.gallery import Gallery
from client_sdk.photos.labeller import Labeller
from client_sdk.testing import FakeServer
from tests.client_sdk.conftest import Join
from tests.client_sdk.models import CROSSENTROPY, Server
from tests.labelling import LABELS, fruit, jpeg
from tests.waiting import until

pytestmark = pytest.mark.keras


@pytest.fixture
def described() -> Server:
    """Knows nothing yet: every label is as likely as the others."""
    keras: ModuleType = pytest.importorskip("keras")
    layers = [
        keras.Input((8, 8, 3)),
        keras.layers.Flatten(),
        keras.layers.Dense(len(LABELS), kernel_initializer="zeros", activation="softmax"),
    ]
    return Server(keras.Sequential(layers), CROSSENTROPY, scale=1 / 255)


@pytest.fixture
def server(described: Server) -> FakeServer:
    server = described.fake(tuple(LABELS))
    server.hyperparameters = {"epochs": 60, "batch_size": 4, "learning_rate": 0.03}
    return server


def do(labeller: Labeller, verb: str, *buffers: bytes, **content: Any) -> dict[str, Any]:
    answer, _ = labeller.handle({"do": verb, **content}, buffers)
    assert "error" not in answer, answer
    return answer


def test_it_learns_from_a_few_photos_and_shows_what_changed(
    join: Join, server: FakeServer, described: Server, tmp_path: Path
) -> None:
    alice: Participant = join("alice")
    labeller = Labeller(alice, Gallery(tmp_path / "photos"), options={"verdicts": 0.0})
    labeller.start()
    until(lambda: labeller.state()["model"] and not labeller.state()["busy"], 60)
    for label in LABELS:
        for seed in range(3):
            id_ = do(labeller, "add", jpeg(fruit(label, seed, (160, 120))))["photo"]["id"]
            do(labeller, "label", id=id_, label=label)
    (first,) = do(labeller, "gallery", count=1)["photos"]
    scores = do(labeller, "look", id=first["id"])["scores"]
    assert [one["score"] for one in scores] == pytest.approx([0.25] * 4)

    server.open_round()
    do(labeller, "train")
    until(lambda: labeller.state()["training"]["phase"] in ("done", "failed"), 60)
    training = labeller.state()["training"]
    assert training["receipt"]["samples"] == 12, training
    assert training["epochs"][-1]["loss"] < training["epochs"][0]["loss"]

    deltas = server.updates[0].deltas
    server.serve_version({name: value + deltas[name] for name, value in described.weights.items()})
    do(labeller, "refresh")  # unless it has looked already, as it does after training
    until(lambda: labeller.state()["changes"] is not None, 30)
    changes = labeller.state()["changes"]
    assert (changes["before"], changes["after"], changes["photos"]) == (1, 2, 12)
    assert changes["right_before"] == 3  # those of the first label
    assert changes["right_after"] >= 10

    def away(request: httpx.Request) -> httpx.Response | None:
        raise httpx.ConnectError("Connection refused", request=request)

    # The next time, on a train: the version that is here recognises.
    alice.close()
    server.before.append(away)
    with Participant(alice.profile, transport=server.transport, sleep=lambda _: None) as later:
        labeller = Labeller(later, Gallery(tmp_path / "photos"))
        labeller._look()
        do(labeller, "add", jpeg(fruit("plum", 9, (160, 120))))
        state = labeller.state()
        assert (state["trouble"]["code"], state["model"]["version"]) == ("offline", 2)
        assert state["waiting"][0]["top"]["label"] == "plum"
