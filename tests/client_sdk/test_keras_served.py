"""The served version at home: predicted with, evaluated, built, and kept for a journey."""

from __future__ import annotations

import doctest
import importlib
import logging
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import numpy as np
import pytest

from client_sdk.data import TrainingDataRefused
from client_sdk.errors import ServerRefused
from client_sdk.participant import Participant
from client_sdk.served import NoModel, VersionBroken
from client_sdk.testing import FakeServer
from client_sdk.training import Trainer, TrainingLoop
from client_sdk.wire import FEDERATED, LOCAL, InputSpec
from tests.client_sdk.models import CROSSENTROPY, SQUARES, Server, line, on_jax_too
from tests.client_sdk.test_data import photo, put

pytestmark = pytest.mark.keras

LABELS = ("cat", "dog", "sheep")


@pytest.fixture(scope="module")
def keras() -> ModuleType:
    import keras

    return keras


@pytest.fixture(scope="module")
def described(keras: ModuleType) -> Server:
    """Sees how bright a photo is: dark is a cat, bright is a sheep."""
    layers = [
        keras.Input((4, 4, 3)),
        keras.layers.Flatten(),
        keras.layers.Dense(3, kernel_initializer="zeros", name="head"),
    ]
    logits = {**CROSSENTROPY, "from_logits": True}
    roles = {"sequential.head": FEDERATED}
    model = keras.Sequential(layers, name="sequential")
    return Server(model, logits, lambda layer: roles.get(layer, FEDERATED), scale=1 / 255)


def bright(described: Server, step: float = 0.1) -> dict[str, np.ndarray]:
    kernel = np.tile(np.array([-step, 0, step], np.float32), (48, 1))
    return described.weights | {described.name("kernel"): kernel}


@pytest.fixture
def server(described: Server) -> FakeServer:
    return described.fake(LABELS)


@pytest.fixture
def away(server: FakeServer) -> list[str]:
    """Put something in, and the server is away."""
    reasons: list[str] = []

    def before(request: httpx.Request) -> httpx.Response | None:
        if reasons:
            raise httpx.ConnectError(reasons[0], request=request)
        return None

    server.before.append(before)
    return reasons


DARK, BRIGHT = np.zeros((1, 4, 4, 3), np.uint8), np.full((1, 4, 4, 3), 255, np.uint8)
DATA = np.concatenate([DARK, BRIGHT]), np.array([0, 2])


@on_jax_too
def test_what_a_photo_shows_is_said_with_all_scores_and_the_version(
    alice: Participant, server: FakeServer, described: Server, tmp_path: Path
) -> None:
    server.serve_version(bright(described))
    path = put(tmp_path, "any", "white.png", photo(255))
    [white, black] = alice.predict([path, photo(0)])
    assert (white.label, white.version) == ("sheep", 2)
    assert list(white.scores) == list(LABELS)
    assert sum(white.scores.values()) == pytest.approx(1)
    assert white.scores["sheep"] > 0.98
    assert black.scores == pytest.approx(dict.fromkeys(LABELS, 1 / 3))


@on_jax_too
def test_the_model_is_ones_own_and_the_log_says_which(
    alice: Participant, server: FakeServer, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "client_sdk"):
        model = alice.model()
    assert "digits, version 1, as it is served" in caplog.text
    model.fit(DATA[0] / 255, DATA[1], verbose=0)
    assert alice.model() is model
    assert alice.predict(BRIGHT)[0].scores == pytest.approx(dict.fromkeys(LABELS, 1 / 3))


@on_jax_too
def test_it_is_evaluated_on_data_that_stay_here(
    alice: Participant, server: FakeServer, described: Server
) -> None:
    server.serve_version(bright(described))
    found = alice.evaluate(DATA)
    assert found["accuracy"] == 1.0
    assert found["loss"] == pytest.approx((np.log(3) + 0.0083) / 2, abs=1e-3)
    with pytest.raises(TrainingDataRefused, match="labels from 0 to 2"):
        alice.evaluate((DATA[0], DATA[1] + 1))


def test_the_server_is_asked_now_and_then_and_not_for_each_photo(
    alice: Participant, server: FakeServer
) -> None:
    for _ in range(3):
        alice.predict(DARK)
    assert server.requests.count("GET models/digits") == 1
    alice.forget_served()  # as after a round
    alice.predict(DARK)
    assert server.requests.count("GET models/digits") == 2
    assert alice.served().fresh
    assert server.requests.count("GET models/digits") == 3


def test_two_versions_can_be_compared(
    alice: Participant, server: FakeServer, described: Server
) -> None:
    before = alice.served()
    server.serve_version(bright(described))
    after = alice.served()
    assert (before.version, after.version) == (1, 2)
    for _ in range(2):
        assert before.evaluate(DATA)["accuracy"] == 0.5
        assert after.evaluate(DATA)["accuracy"] == 1.0
    assert before.predict(BRIGHT)[0] == pytest.approx(1 / 3)
    assert before.model() is not after.model()


# --- On a journey -------------------------------------------------------------------------------


def test_without_the_server_the_newest_version_that_is_here_goes_on(
    alice: Participant, server: FakeServer, described: Server, away: list[str]
) -> None:
    assert alice.served().version == 1
    server.serve_version(bright(described))
    assert alice.served().version == 2
    away.append("No route to host")
    kept = alice.served(patience=0.0)
    assert (kept.version, kept.fresh, kept.slug, kept.labels) == (2, False, "digits", [*LABELS])
    with Participant(alice.profile, transport=server.transport) as later:  # another process
        served = later.served("digits", patience=0.0)
        assert (served.version, served.fresh) == (2, False)
        assert served.predictions(BRIGHT)[0].label == "sheep"
        assert later.evaluate(DATA)["accuracy"] == 1.0
    away.clear()
    assert alice.served().fresh


def test_a_version_that_was_trained_from_is_here_too(
    alice: Participant, server: FakeServer, described: Server, away: list[str]
) -> None:
    server.serve_version(bright(described))
    server.open_round()
    alice.participate(DATA, rounds=1)
    away.append("No route to host")
    assert alice.served(patience=0.0).version == 2


def test_what_is_kept_for_a_journey_is_not_trimmed_away(
    alice: Participant, server: FakeServer, described: Server, away: list[str]
) -> None:
    alice.cache.limit = 1000  # the weights take 780
    for step in (0.1, 0.2, 0.3):
        server.serve_version(bright(described, step))
        alice.served()
    assert len(list(alice.cache.folder.iterdir())) == 1
    alice.cache.path("ab" * 32).write_bytes(bytes(900))  # of another model, and newer
    alice.cache.trim(*alice._shelf.blobs())
    away.append("No route to host")
    assert alice.served(patience=0.0).version == 4


def test_who_never_asked_is_told_so_without_the_server(
    alice: Participant, away: list[str], server: FakeServer
) -> None:
    away.append("No route to host")
    with pytest.raises(NoModel, match=r"No route to host.*Received: none is here"):
        alice.served(patience=0.0)
    away.clear()
    alice.served()
    away.append("No route to host")
    with pytest.raises(NoModel, match="'letters', and here are digits"):
        alice.served("letters", patience=0.0)


@pytest.mark.parametrize("damage", ["weights", "card", "version"])
def test_what_was_kept_and_is_damaged_is_not_used(
    alice: Participant, server: FakeServer, away: list[str], damage: str
) -> None:
    alice.served()
    folder = alice.profile.folder / "models" / "digits"
    paths = {"card": folder / "card.json", "version": folder / "version.json"}
    path = paths.get(damage) or next(alice.cache.folder.iterdir())
    path.write_bytes(path.read_bytes()[:-9] + b"123456789")
    away.append("No route to host")
    with pytest.raises(NoModel, match="kept whole"):
        alice.served(patience=0.0)
    away.clear()
    assert alice.served().fresh


# --- Which model --------------------------------------------------------------------------------


def test_of_several_models_the_one_used_last_is_meant(
    alice: Participant, server: FakeServer, described: Server
) -> None:
    server.add_model("letters", described.manifest, document=described.document)
    with pytest.raises(NoModel, match=r"one of the server's models.*digits, letters") as several:
        alice.served()
    assert several.value.models == ["digits", "letters"]
    assert alice.served("digits").slug == "digits"
    assert alice.served().slug == "digits"


def test_a_model_that_is_not_there_or_not_published_is_told(
    alice: Participant, server: FakeServer, described: Server
) -> None:
    with pytest.raises(NoModel, match=r"digits\. Received: 'letters'"):
        alice.served("letters")
    server.add_model("letters", described.manifest, document=described.document)
    with pytest.raises(NoModel, match="none is published"):
        alice.served("letters")
    server.suspend(alice.profile.participant, "revoked")
    with pytest.raises(ServerRefused):
        alice.served("digits")


# --- What models say ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (("healthy",), {"not healthy": 0.25, "healthy": 0.75}),
        (("ill", "healthy"), {"ill": 0.25, "healthy": 0.75}),
        ((), {"0": 0.25, "1": 0.75}),
    ],
)
def test_a_yes_or_no_has_two_scores(
    keras: ModuleType, join: Any, labels: tuple[str, ...], expected: dict[str, float]
) -> None:
    binary = line(keras, {"loss": "binary_crossentropy", "from_logits": True})
    fake = binary.fake(labels)
    bob = Participant.enrol(fake.url, fake.join_code(), profile="bob", transport=fake.transport)
    [said] = bob.predict(np.array([[np.log(3)]]))
    assert said.scores == pytest.approx(expected)
    assert said.scores[said.label] == max(said.scores.values())


def test_a_version_that_puts_out_nan_says_so_and_nothing_else(
    alice: Participant, server: FakeServer, described: Server
) -> None:
    server.serve_version(bright(described, 3e38))
    with pytest.raises(VersionBroken, match=r"digits, version 2\. Received: NaN"):
        alice.predict(BRIGHT)
    with pytest.raises(VersionBroken):
        alice.evaluate(DATA)


def test_a_plain_value_stays_one(keras: ModuleType) -> None:
    fake = line(keras, SQUARES).fake()
    bob = Participant.enrol(fake.url, fake.join_code(), profile="bob", transport=fake.transport)
    assert bob.predict(np.array([[-3.5]]))[0].scores == {"0": -3.5}


@on_jax_too
def test_ones_own_layers_are_used_where_they_stay_here(keras: ModuleType) -> None:
    layers = [keras.Input((1,)), keras.layers.Dense(1, name="body")]
    head = keras.layers.Dense(1, name="head")
    body = Server(keras.Sequential([*layers, head]), SQUARES, _head_is_local)
    fake = body.fake()
    fake.hyperparameters = {"epochs": 1, "batch_size": 8, "learning_rate": 0.1}
    bob = Participant.enrol(fake.url, fake.join_code(), profile="bob", transport=fake.transport)
    x, y = np.ones((4, 1)), np.full(4, 5.0)
    before = bob.served()
    at_first = before.predict(x[:1]).item()
    fake.open_round()
    bob.participate((x, y), rounds=1)
    assert bob.served().predict(x[:1]).item() != at_first
    assert before.predict(x[:1]).item() == at_first


def _head_is_local(layer: str) -> str:
    return LOCAL if layer.endswith("head") else FEDERATED


# --- Examples -----------------------------------------------------------------------------------


def examples() -> Iterator[doctest.DocTest]:
    for name in ("data", "loop", "network", "served", "training"):
        module = importlib.import_module(f"client_sdk.{name}")
        yield from (test for test in doctest.DocTestFinder().find(module) if test.examples)


@pytest.mark.parametrize("example", list(examples()), ids=lambda example: example.name)
def test_example(example: doctest.DocTest, keras: ModuleType) -> None:
    layers = [keras.Input((3,)), keras.layers.Dense(2, activation="softmax")]
    described = Server(keras.Sequential(layers), CROSSENTROPY)
    fake = described.fake()
    alice = Participant.enrol(fake.url, fake.join_code(), profile="a", transport=fake.transport)
    fake.open_round()
    images, labels = np.eye(3), np.array([0, 1, 1])
    example.globs |= {
        "np": np,
        "alice": alice,
        "card": alice.served().card,
        "TrainingLoop": TrainingLoop,
        "Trainer": Trainer,
        "InputSpec": InputSpec,
        "document": described.document,
        "weights": described.weights,
        "images": images,
        "labels": labels,
    }
    result = doctest.DocTestRunner(verbose=False, optionflags=doctest.ELLIPSIS).run(example)
    assert result.attempted
    assert result.failed == 0
