"""Training, evaluation and prediction on data of every kind, those that fit in no memory too."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from client_sdk.data import TrainingDataRefused, read_for
from client_sdk.participant import Participant
from client_sdk.training import Trainer
from tests.client_sdk.models import CROSSENTROPY, SQUARES, Server, line, on_jax_too
from tests.client_sdk.test_data import photo, put

pytestmark = pytest.mark.keras

PLAN = {"learning_rate": 0.1, "epochs": 2, "batch_size": 4}
LABELS = ["dark", "bright"]


@pytest.fixture(scope="module")
def keras() -> ModuleType:
    import keras

    return keras


@pytest.fixture(scope="module")
def server(keras: ModuleType) -> Server:
    layers = [
        keras.Input((4, 4, 1)),
        keras.layers.Flatten(),
        keras.layers.Dense(2, activation="softmax"),
    ]
    return Server(keras.Sequential(layers), CROSSENTROPY, scale=1 / 255)


@pytest.fixture(scope="module")
def alice(server: Server) -> Trainer:
    return Trainer(server.document | {"labels": LABELS})


def shades(count: int = 10) -> tuple[np.ndarray, np.ndarray]:
    """Bytes of images without their channel, and whether they are bright."""
    x = np.random.default_rng(0).integers(0, 256, (count, 4, 4)).astype(np.uint8)
    return x, (x.mean(axis=(1, 2)) > 127).astype(np.int64)


@pytest.fixture
def unshuffled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Arrays are walked in their own order, as datasets are."""
    monkeypatch.setattr("client_sdk.data._order", lambda count, random: None)


def tensorflow_datasets(x: np.ndarray, y: np.ndarray) -> dict[str, Any]:
    import tensorflow as tf

    one_by_one = tf.data.Dataset.from_tensor_slices((x, y))

    def draw() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        yield from zip(x, y, strict=True)

    signature = (tf.TensorSpec((4, 4), tf.uint8), tf.TensorSpec((), tf.int64))
    return {
        "one by one": one_by_one,
        "in batches": one_by_one.batch(3),
        "filtered": one_by_one.filter(lambda x, y: True).batch(3),
        "generated": tf.data.Dataset.from_generator(draw, output_signature=signature),
        "with a channel": tf.data.Dataset.from_tensor_slices((x[..., None], y)).batch(7),
    }


@pytest.mark.parametrize(
    "kind", ["one by one", "in batches", "filtered", "generated", "with a channel"]
)
def test_a_tensorflow_dataset_trains_as_its_arrays_do(
    server: Server, alice: Trainer, unshuffled: None, kind: str
) -> None:
    x, y = shades()
    dataset = tensorflow_datasets(x, y)[kind]
    expected = alice.train(server.weights, (x, y), PLAN, seed=1)
    found = alice.train(server.weights, dataset, PLAN, seed=1)
    assert found.samples == len(read_for(dataset, alice.network.input_spec, [])) == 10
    assert [d.tobytes() for d in found.deltas.values()] == [
        d.tobytes() for d in expected.deltas.values()
    ]
    assert alice.evaluate(server.weights, dataset) == pytest.approx(
        alice.evaluate(server.weights, (x, y))
    )


@on_jax_too
@pytest.mark.parametrize("workers", [1, 3])
def test_a_py_dataset_trains_as_its_arrays_do(
    keras: ModuleType, server: Server, alice: Trainer, unshuffled: None, workers: int
) -> None:
    x, y = shades()
    passes: list[str] = []

    class Scans(keras.utils.PyDataset):  # type: ignore[name-defined]
        def __len__(self) -> int:
            return 4

        def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
            part = slice(3 * index, 3 * index + 3)
            return x[part], y[part]

        def on_epoch_end(self) -> None:
            passes.append("end")

    expected = alice.train(server.weights, (x, y), PLAN, seed=1)
    found = alice.train(server.weights, Scans(workers=workers), PLAN, seed=1)
    assert found.samples == 10
    assert [d.tobytes() for d in found.deltas.values()] == [
        d.tobytes() for d in expected.deltas.values()
    ]
    assert len(passes) == 3  # to count, and two epochs


def test_a_stream_is_walked_and_never_held(server: Server, alice: Trainer) -> None:
    import tensorflow as tf

    seen: list[int] = []
    most = 0

    def draw() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        nonlocal most
        for number in range(200):
            most = max(most, number - len(seen))
            yield np.full((50, 4, 4), number, np.uint8), np.full(50, number % 2)

    signature = (tf.TensorSpec((None, 4, 4), tf.uint8), tf.TensorSpec((None,), tf.int64))
    dataset = tf.data.Dataset.from_generator(draw, output_signature=signature)
    examples = read_for(dataset, alice.network.input_spec, [])
    for x, _ in examples.batches(50):
        seen.append(int(x[0, 0, 0]))
    assert seen == list(range(200))
    assert most <= 100  # what tf.data fetches ahead
    assert len(examples) == 10_000


def test_max_steps_ends_a_stream_in_the_middle(server: Server, alice: Trainer) -> None:
    x, y = shades()
    dataset = tensorflow_datasets(x, y)["in batches"]
    result = alice.train(server.weights, dataset, {**PLAN, "max_steps": 2}, seed=1)
    assert result.samples == 8


def test_a_dataset_without_an_end_and_one_without_labels_are_refused(alice: Trainer) -> None:
    import tensorflow as tf

    x, y = shades()
    endless = tf.data.Dataset.from_tensor_slices((x, y)).repeat()
    unlabelled = tf.data.Dataset.from_tensor_slices(x)
    weighted = tf.data.Dataset.from_tensor_slices((x, y, y))
    for dataset, message in [
        (endless, "one without an end"),
        (unlabelled, r"\(examples, labels\)"),
        (weighted, r"\(examples, labels\)"),
    ]:
        with pytest.raises(TrainingDataRefused, match=message):
            read_for(dataset, alice.network.input_spec, [])


def test_what_is_wrong_in_the_middle_of_a_stream_is_refused(server: Server, alice: Trainer) -> None:
    x, y = shades()
    y = y.copy()
    y[7] = 2
    for bad in ((x, y), (np.where(np.arange(10) == 7, np.nan, 1)[:, None, None] * x, y % 2)):
        dataset = tensorflow_datasets(*shades())["in batches"].__class__.from_tensor_slices(bad)
        with pytest.raises(TrainingDataRefused, match="Received: "):
            alice.train(server.weights, dataset.batch(3), PLAN, seed=1)


def test_a_folder_trains_as_its_photos_do(server: Server, alice: Trainer, tmp_path: Path) -> None:
    values = [(shade, int(shade > 127)) for shade in range(5, 255, 25)]
    for shade, label in values:
        put(tmp_path, LABELS[label], f"{shade:03}.png", photo(shade))
    put(tmp_path, "dark", "broken.png", b"nothing")
    x = np.array([np.full((4, 4), shade) for shade, _ in sorted(values, key=lambda v: -v[1])])
    y = np.array([label for _, label in sorted(values, key=lambda v: -v[1])])
    expected = alice.train(server.weights, (x, y), PLAN, seed=1)
    found = alice.train(server.weights, tmp_path, PLAN, seed=1)
    assert found.samples == 10
    for name, delta in found.deltas.items():
        assert delta.tobytes() == expected.deltas[name].tobytes()
    assert alice.evaluate(server.weights, str(tmp_path)).keys() == {"loss", "accuracy"}


# --- Through a round ----------------------------------------------------------------------------


@on_jax_too
@pytest.mark.parametrize("kind", ["folder", "dataset"])
def test_bob_takes_part_with_what_he_has(
    server: Server, join: Any, tmp_path: Path, kind: str
) -> None:
    fake = server.fake(tuple(LABELS))
    fake.hyperparameters = PLAN
    fake.open_round()
    bob = Participant.enrol(fake.url, fake.join_code(), profile="bob", transport=fake.transport)
    for shade in (0, 100, 200):
        put(tmp_path, LABELS[int(shade > 127)], f"{shade}.png", photo(shade))
    given = str(tmp_path) if kind == "folder" else tensorflow_datasets(*shades())["in batches"]
    summary = bob.participate(given, rounds=1)
    assert summary.samples == (3 if kind == "folder" else 10)
    [update] = fake.updates
    assert update.manifest.samples == summary.samples
    assert bob.evaluate(given)["loss"] > 0
    fake.publish()
    assert bob.served().version == 2


def test_values_are_learned_from_any_of_them(keras: ModuleType) -> None:
    described = line(keras, SQUARES)
    x = np.arange(12.0).reshape(12, 1) / 12
    dataset = tensorflow_datasets(*shades())["in batches"].__class__.from_tensor_slices((x, 3 * x))
    plan = {"learning_rate": 0.5, "epochs": 20, "batch_size": 4}
    result = Trainer(described.document).train(described.weights, dataset, plan, seed=1)
    assert result.deltas[described.name("kernel")] == pytest.approx(2.0, abs=0.05)
