"""Local training with Keras: the same numbers as Keras' own, and nothing that Keras could be
talked into by a server.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from client_sdk.loop import Batches
from client_sdk.training import (
    HyperparametersRefused,
    ModelRefused,
    Trainer,
    TrainingDataRefused,
    TrainingDiverged,
    TrainingLoop,
    TrainingResult,
    WeightsRefused,
)
from client_sdk.wire import FEDERATED, FROZEN, LOCAL
from tests.client_sdk.models import (
    ABSOLUTES,
    CROSSENTROPY,
    SQUARES,
    Server,
    branches,
    data_for,
    line,
    on_jax_too,
    on_tensorflow,
    words,
)

pytestmark = pytest.mark.keras

ONE_STEP = {"learning_rate": 0.1, "batch_size": 8}


@pytest.fixture(scope="module")
def keras() -> ModuleType:
    import keras

    return keras


@pytest.fixture(scope="module")
def images(keras: ModuleType) -> Server:
    return Server(branches(keras), CROSSENTROPY)


@pytest.fixture(scope="module")
def sentences(keras: ModuleType) -> Server:
    return Server(words(keras), CROSSENTROPY, dtype="int32")


@pytest.fixture(scope="module")
def alice(images: Server) -> Trainer:
    """Alice keeps her trainer from round to round, as every participant does."""
    return Trainer(images.document)


# --- The numbers --------------------------------------------------------------------------------


@on_jax_too
def test_one_step_on_a_line_is_what_a_pencil_finds(keras: ModuleType) -> None:
    server = line(keras, SQUARES)
    x, y = np.array([[1.0], [2.0]]), np.array([2.0, 4.0])
    result = Trainer(server.document).train(server.weights, (x, y), ONE_STEP, seed=1)
    # Errors -1 and -2: the loss is (1 + 4) / 2, its slope (2 * -1 * 1 + 2 * -2 * 2) / 2 = -5.
    assert result.metrics == {"loss": 2.5}
    assert result.deltas[server.name("kernel")] == pytest.approx(np.array([[0.5]]))
    assert result.samples == 2


@pytest.mark.parametrize(
    ("limits", "steps"),
    [({}, 6), ({"max_steps": 4}, 4), ({"max_steps": 2}, 2), ({"max_steps": 99}, 6)],
)
def test_a_last_batch_counts_even_when_small_and_max_steps_cuts_across_epochs(
    keras: ModuleType, limits: dict[str, int], steps: int
) -> None:
    server = line(keras, ABSOLUTES)
    data = np.ones((5, 1)), np.full(5, -100.0)  # the slope is 1 in each step
    plan = {"learning_rate": 0.1, "epochs": 2, "batch_size": 2, **limits}
    epochs: list[tuple[int, int]] = []
    result = Trainer(server.document).train(
        server.weights, data, plan, seed=1, on_epoch=lambda n, of, _: epochs.append((n, of))
    )
    assert result.deltas[server.name("kernel")] == pytest.approx(-0.1 * steps)
    assert epochs == ([(1, 2), (2, 2)] if steps > 3 else [(1, 1)])


def _by_keras_alone(
    keras: ModuleType,
    server: Server,
    data: tuple[np.ndarray, np.ndarray],
    optimizer: Any,
    seed: int,
) -> dict[str, np.ndarray]:
    """Two epochs of batches of 8 with nothing but Keras, in the order that the seed decides."""
    model = keras.models.model_from_json(json.dumps(server.document["architecture"]))
    states = [v for v in model.variables if v.name == "seed_generator_state"]
    for variable, value in zip(model.variables, server.weights.values(), strict=True):
        variable.assign(value)
    draws = np.random.SeedSequence(seed).generate_state(len(states)) >> 1
    for state, draw in zip(states, draws, strict=True):
        state.assign([draw, 0])
    model.compile(optimizer=optimizer, loss="sparse_categorical_crossentropy")
    random, (x, y) = np.random.default_rng(seed), data
    for _ in range(2):
        order = random.permutation(len(x))
        for start in range(0, len(x), 8):
            batch = order[start : start + 8]
            model.train_on_batch(x[batch], y[batch])
    return {spec.name: v.numpy() for spec, v in zip(server.manifest, model.variables, strict=True)}


@pytest.mark.parametrize(
    ("kind", "optimizer"),
    [
        pytest.param("images", "adam", marks=on_jax_too),
        ("images", "sgd"),
        ("sentences", "adam"),
        ("sentences", "sgd"),
    ],
)
def test_training_gives_the_weights_that_keras_gives(
    keras: ModuleType, request: pytest.FixtureRequest, kind: str, optimizer: str
) -> None:
    server: Server = request.getfixturevalue(kind)
    data = data_for(server, samples=21)
    plan = {"learning_rate": 0.01, "epochs": 2, "batch_size": 8, "optimizer": optimizer}
    plan["momentum"] = 0.9
    options = {"momentum": 0.9} if optimizer == "sgd" else {}
    kinds = {"sgd": keras.optimizers.SGD, "adam": keras.optimizers.Adam}
    expected = _by_keras_alone(keras, server, data, kinds[optimizer](0.01, **options), seed=5)
    result = Trainer(server.document).train(server.weights, data, plan, seed=5)
    assert list(result.deltas) == [s.name for s in server.manifest if s.role == FEDERATED]
    for name, delta in result.deltas.items():
        assert delta.dtype == np.float32
        np.testing.assert_allclose(server.weights[name] + delta, expected[name], atol=1e-6)


@pytest.mark.parametrize("optimizer", ["adamw", "rmsprop", "adagrad"])
def test_each_optimizer_starts_every_round_afresh(
    images: Server, alice: Trainer, optimizer: str
) -> None:
    data = data_for(images, samples=10)
    plan = {"learning_rate": 0.01, "batch_size": 4, "optimizer": optimizer}
    first = alice.train(images.weights, data, plan, seed=3)
    other = alice.train(images.weights, data, {**plan, "learning_rate": 0.5}, seed=4)
    again = alice.train(images.weights, data, plan, seed=3)
    assert _bits(first) == _bits(again)
    assert _bits(first) != _bits(other)


def _bits(result: TrainingResult) -> list[bytes]:
    return [delta.tobytes() for delta in result.deltas.values()]


def test_the_same_seed_gives_the_same_bits_in_a_trainer_built_anew(
    images: Server, alice: Trainer
) -> None:
    data = data_for(images, samples=50)
    plan = {"learning_rate": 0.05, "epochs": 2, "batch_size": 16}
    hers = alice.train(images.weights, data, plan, seed=11)
    bob = Trainer(images.document)  # as another process would: nothing kept
    assert _bits(bob.train(images.weights, data, plan, seed=11)) == _bits(hers)
    assert _bits(bob.train(images.weights, data, plan, seed=12)) != _bits(hers)


def test_the_statistics_of_a_batch_normalisation_are_averaged_as_well(keras: ModuleType) -> None:
    layers = [keras.Input((1,)), keras.layers.BatchNormalization(momentum=0.75)]
    server = Server(keras.Sequential(layers), SQUARES)
    x = np.array([[2.0], [6.0]])
    result = Trainer(server.document).train(server.weights, (x, x), ONE_STEP, seed=1)
    # From mean 0 and variance 1, a quarter of the way to the batch's 4 and 4.
    assert result.deltas[server.name("moving_mean")] == pytest.approx(1.0)
    assert result.deltas[server.name("moving_variance")] == pytest.approx(0.75)


@on_tensorflow
def test_rounds_of_other_sizes_need_no_new_graph(images: Server) -> None:
    bob = Trainer(images.document)
    for number, samples in enumerate([5, 32, 17, 1]):
        plan = {"learning_rate": 0.1 / (number + 1), "epochs": number + 1, "batch_size": 4 + number}
        bob.train(images.weights, data_for(images, samples), plan, seed=number)
    assert bob.traces == 1


@on_jax_too
def test_a_round_like_the_one_before_compiles_nothing(images: Server, alice: Trainer) -> None:
    data, plan = data_for(images, samples=20), {"learning_rate": 0.1, "batch_size": 8}
    alice.train(images.weights, data, plan, seed=1)
    before = alice.traces
    alice.train(images.weights, data, {**plan, "learning_rate": 0.2}, seed=2)
    assert 0 < alice.traces == before


def test_where_there_is_no_tensorflow_the_batches_give_the_same_weights(
    images: Server, monkeypatch: pytest.MonkeyPatch, keras: ModuleType
) -> None:
    data, plan = (
        data_for(images, samples=21),
        {"learning_rate": 0.01, "epochs": 2, "batch_size": 8},
    )
    with_graph = Trainer(images.document).train(images.weights, data, plan, seed=5)
    monkeypatch.setattr(keras.backend, "backend", lambda: "torch")
    charlie = Trainer(images.document)
    by_batch = charlie.train(images.weights, data, plan, seed=5)
    assert charlie.traces == 0
    assert by_batch.metrics == pytest.approx(with_graph.metrics, abs=1e-5)
    for name, delta in by_batch.deltas.items():
        np.testing.assert_allclose(delta, with_graph.deltas[name], atol=1e-6)


# --- Slices -------------------------------------------------------------------------------------

PLAN = {"learning_rate": 0.05, "epochs": 2, "batch_size": 4}


@on_jax_too
def test_where_a_slice_ends_changes_no_bit(
    images: Server, alice: Trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = data_for(images, samples=30)
    whole = alice.train(images.weights, data, PLAN, seed=3)
    seen: list[float] = []
    monkeypatch.setattr("client_sdk.training._SLICE", 0.0)  # each step is a slice of its own
    cut = alice.train(images.weights, data, PLAN, seed=3, on_progress=seen.append)
    assert _bits(cut) == _bits(whole)
    assert cut.metrics == pytest.approx(whole.metrics)
    assert len(seen) >= 16
    assert seen == sorted(seen)
    assert (seen[0], seen[-1]) == (0.0, 1.0)


@on_jax_too
def test_what_a_check_raises_ends_the_training_in_the_middle_of_an_epoch(
    images: Server, alice: Trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stop(Exception):
        pass

    asked: list[int] = []

    def check() -> None:
        asked.append(1)
        if len(asked) == 3:
            raise Stop

    data = data_for(images, samples=30)
    before = alice.train(images.weights, data, PLAN, seed=1)
    monkeypatch.setattr("client_sdk.training._SLICE", 0.0)
    epochs: list[int] = []
    with pytest.raises(Stop):
        alice.train(
            images.weights,
            data,
            PLAN,
            seed=1,
            on_epoch=lambda n, of, _: epochs.append(n),
            check=check,
        )
    assert epochs == []
    assert _bits(alice.train(images.weights, data, PLAN, seed=1)) == _bits(before)


def test_when_time_is_up_what_was_learned_by_then_is_the_result(keras: ModuleType) -> None:
    server = line(keras, ABSOLUTES)
    data = np.ones((10, 1)), np.full(10, -100.0)  # the slope is 1 in each step
    result = Trainer(server.document).train(
        server.weights, data, {"learning_rate": 0.1, "epochs": 5, "batch_size": 4}, 1, seconds=0.0
    )
    assert not result.complete
    assert result.samples == 4  # a first batch is always trained
    assert result.deltas[server.name("kernel")] == pytest.approx(-0.1)


def test_a_sample_counts_once_however_many_epochs_it_is_in(keras: ModuleType) -> None:
    server = line(keras, ABSOLUTES)
    bob, data = Trainer(server.document), (np.ones((5, 1)), np.zeros(5))
    plan = {"learning_rate": 0.1, "epochs": 3, "batch_size": 2}
    assert bob.train(server.weights, data, plan, seed=1).samples == 5
    assert bob.train(server.weights, data, {**plan, "max_steps": 2}, seed=1).samples == 4


def test_a_batch_that_no_memory_holds_is_refused(keras: ModuleType) -> None:
    server = line(keras, SQUARES)
    bob = Trainer(server.document, memory=1000)
    data = np.ones((500, 1)), np.ones(500)
    bob.train(server.weights, data, {"learning_rate": 0.1, "batch_size": 8}, seed=1)
    with pytest.raises(HyperparametersRefused, match=r"batch_size.*Received: .500"):
        bob.train(server.weights, data, {"learning_rate": 0.1, "batch_size": 10**9}, seed=1)


# --- Callbacks and loops of one's own -----------------------------------------------------------


def test_keras_callbacks_are_told_what_fit_tells_them(keras: ModuleType, images: Server) -> None:
    told: list[str] = []

    class Diary(keras.callbacks.Callback):  # type: ignore[name-defined]
        def on_train_begin(self, logs: Any = None) -> None:
            told.append(f"begin {self.params['epochs']} x {self.params['steps']}")

        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            told.append(f"epoch {epoch}")

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            assert set(logs) == {"loss", "accuracy"}
            told.append(f"batch {batch}")

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            assert set(logs) == {"loss", "accuracy"}
            told.append("done")

        def on_train_end(self, logs: Any = None) -> None:
            told.append("end")

    data = data_for(images, samples=10)
    result = Trainer(images.document, callbacks=[Diary()]).train(images.weights, data, PLAN, 1)
    batches = ["batch 0", "batch 1", "batch 2"]
    assert told == [
        "begin 2 x 3",
        *["epoch 0", *batches, "done"],
        *["epoch 1", *batches, "done"],
        "end",
    ]
    assert _bits(result) == _bits(Trainer(images.document).train(images.weights, data, PLAN, 1))


@on_jax_too
def test_a_callback_may_stop_the_training_and_set_the_learning_rate(keras: ModuleType) -> None:
    server = line(keras, ABSOLUTES)
    data = np.ones((4, 1)), np.full(4, -100.0)

    class EnoughAfterTwo(keras.callbacks.Callback):  # type: ignore[name-defined]
        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            self.model.stop_training = epoch == 1

    halved = keras.callbacks.LearningRateScheduler(lambda epoch, rate: rate / 2)
    bob = Trainer(server.document, callbacks=[halved, EnoughAfterTwo()])
    result = bob.train(server.weights, data, {"learning_rate": 0.4, "epochs": 9}, seed=1)
    assert not result.complete
    assert result.deltas[server.name("kernel")] == pytest.approx(-0.2 - 0.1)
    again = bob.train(server.weights, data, {"learning_rate": 0.4, "epochs": 9}, seed=1)
    assert _bits(again) == _bits(result)


def test_a_loop_of_ones_own_takes_the_place_of_ours(images: Server, alice: Trainer) -> None:
    data = data_for(images, samples=21)
    ours = alice.train(images.weights, data, PLAN, seed=5)
    theirs = Trainer(images.document, loop=TrainingLoop()).train(images.weights, data, PLAN, seed=5)
    assert theirs.samples == 21
    assert theirs.metrics == pytest.approx(ours.metrics, abs=1e-5)
    for name, delta in theirs.deltas.items():
        np.testing.assert_allclose(delta, ours.deltas[name], atol=1e-6)


@on_jax_too
def test_a_loop_may_do_with_the_model_what_it_likes(keras: ModuleType) -> None:
    server = line(keras, SQUARES)
    seen: list[Any] = []

    class Setter(TrainingLoop):
        def begin(self, model: Any, weights: Mapping[str, np.ndarray]) -> None:
            seen.append(weights[server.name("kernel")].item())

        def epoch(self, model: Any, batches: Batches) -> dict[str, float]:
            model.compile("adam", "mse")  # the next round must not trip over it
            seen.append((batches.epoch, batches.epochs, len(batches), [len(x) for x, _ in batches]))
            model.trainable_variables[0].assign([[7.0]])
            return {}

        def end(self, model: Any) -> None:
            seen.append("end")

    bob, data = Trainer(server.document, loop=Setter()), (np.ones((5, 1)), np.ones(5))
    for _ in range(2):
        seen.clear()
        result = bob.train(server.weights, data, {"learning_rate": 0.1, "batch_size": 2}, seed=1)
        assert seen == [1.0, (1, 1, 3, [2, 2, 1]), "end"]
        assert result.deltas[server.name("kernel")] == pytest.approx(6.0)
        assert (result.samples, result.metrics) == (5, {})


def test_time_is_up_for_a_loop_of_ones_own_too(keras: ModuleType) -> None:
    server = line(keras, SQUARES)
    data, plan = (np.ones((9, 1)), np.ones(9)), {"learning_rate": 0.1, "batch_size": 2}
    bob = Trainer(server.document, loop=TrainingLoop())
    result = bob.train(server.weights, data, plan, 1, seconds=0.0)
    assert (result.samples, result.complete) == (2, False)


@on_jax_too
def test_a_normalisation_follows_the_weights_that_it_is_given(keras: ModuleType) -> None:
    layers = [keras.Input((1,)), keras.layers.Normalization()]
    server = Server(keras.Sequential(layers), SQUARES)
    bob, x = Trainer(server.document), np.array([[8.0]])
    for mean in (2.0, 4.0):
        weights = server.weights | {server.name("mean"): np.array([mean], np.float32)}
        weights |= {server.name("variance"): np.array([4.0], np.float32)}
        assert bob.predict(weights, x) == pytest.approx((8 - mean) / 2)
        assert bob.evaluate(weights, (x, x)) == {"loss": pytest.approx((8 - (8 - mean) / 2) ** 2)}


# --- Roles --------------------------------------------------------------------------------------


def _roles(layer: str) -> str:
    return {"base": FROZEN, "head": LOCAL}.get(layer.rpartition(".")[2], FEDERATED)


def test_frozen_weights_stay_and_local_ones_are_learned_but_not_sent(keras: ModuleType) -> None:
    layers = [
        keras.Input((4,)),
        keras.layers.Dense(4, name="base"),
        keras.layers.Dense(4, name="middle"),
        keras.layers.Dense(3, activation="softmax", name="head"),
    ]
    server = Server(keras.Sequential(layers), CROSSENTROPY, _roles)
    bob = Trainer(server.document)
    result = bob.train(server.weights, data_for(server, 20), ONE_STEP, seed=1)
    assert [name.split(".")[-2] for name in result.deltas] == ["middle", "middle"]
    assert [name.split(".")[-2] for name in result.local] == ["head", "head"]
    head, base = server.name("head.kernel"), server.name("base.kernel")
    assert not np.array_equal(result.local[head], server.weights[head])
    np.testing.assert_array_equal(_held(bob, base), server.weights[base])


@on_jax_too
def test_a_frozen_batch_normalisation_keeps_its_statistics(keras: ModuleType) -> None:
    normalisation = keras.layers.BatchNormalization(name="base")
    layers = [keras.Input((4,)), normalisation, keras.layers.Dense(3, activation="softmax")]
    server = Server(keras.Sequential(layers), CROSSENTROPY, _roles)
    bob = Trainer(server.document)
    bob.train(server.weights, data_for(server, 20), ONE_STEP, seed=1)
    np.testing.assert_array_equal(_held(bob, server.name("moving_mean")), np.zeros(4))


def _held(trainer: Trainer, name: str) -> np.ndarray:
    names = [spec.name for spec in trainer.weights]
    values: np.ndarray = trainer.model.variables[names.index(name)].numpy()
    return values


# --- On the way ---------------------------------------------------------------------------------


def test_what_a_listener_raises_ends_the_training_and_the_next_one_is_sound(
    images: Server, alice: Trainer
) -> None:
    class RoundIsOver(Exception):
        pass

    def listen(epoch: int, epochs: int, metrics: dict[str, float]) -> None:
        assert (epoch, epochs) == (1, 3)
        assert set(metrics) == {"loss", "accuracy"}
        raise RoundIsOver

    data, plan = data_for(images, 12), {"learning_rate": 0.1, "epochs": 3}
    before = alice.train(images.weights, data, plan, seed=1)
    with pytest.raises(RoundIsOver):
        alice.train(images.weights, data, plan, seed=1, on_epoch=listen)
    assert _bits(alice.train(images.weights, data, plan, seed=1)) == _bits(before)


def test_a_training_that_diverges_says_so(images: Server, alice: Trainer) -> None:
    plan = {"learning_rate": 1e30, "epochs": 5}
    with pytest.raises(TrainingDiverged, match="finite"):
        alice.train(images.weights, data_for(images, 12), plan, seed=1)


def test_weights_can_be_judged_and_used_as_they_are(keras: ModuleType) -> None:
    server = line(keras, SQUARES)
    server.document["input_spec"]["scale"] = 0.5
    bob = Trainer(server.document)
    x, y = np.array([[2], [4]], np.uint8), np.array([1.0, 4.0])
    assert bob.evaluate(server.weights, (x, y)) == {"loss": 2.0}
    np.testing.assert_array_equal(bob.predict(server.weights, x), [[1.0], [2.0]])


def test_a_measurement_counts_each_class_and_who_was_recognised(images: Server) -> None:
    x, y = data_for(images, 300)
    classes = int(Trainer(images.document).model.output_shape[-1])
    labels = [str(label) for label in range(classes)]
    bob = Trainer(images.document | {"labels": labels})
    looked: list[bool] = []
    found = bob.measure(images.weights, (x, y), check=lambda: looked.append(True))
    guesses = bob.predict(images.weights, x).argmax(axis=-1)
    assert found.samples == 300
    assert found.metrics == pytest.approx(bob.evaluate(images.weights, (x, y)))
    assert found.classes == [
        [int((y == label).sum()), int(((y == label) & (guesses == label)).sum())]
        for label in range(classes)
    ]
    assert sum(right for _, right in found.classes) / 300 == pytest.approx(
        found.metrics["accuracy"]
    )
    assert len(looked) == 2  # batches of 256


def test_values_have_no_classes_to_be_counted(keras: ModuleType) -> None:
    server = line(keras, SQUARES)
    x, y = np.array([[2.0], [4.0]]), np.array([1.0, 4.0])
    assert Trainer(server.document).measure(server.weights, (x, y)).classes is None


def test_a_binary_accuracy_knows_that_logits_part_at_zero(keras: ModuleType) -> None:
    server = line(keras, {"loss": "binary_crossentropy", "from_logits": True})
    data = np.array([[0.3], [-0.3]]), np.array([1, 0])
    assert Trainer(server.document).evaluate(server.weights, data)["accuracy"] == 1.0


# --- Refusals -----------------------------------------------------------------------------------

IMAGE = np.zeros((3, 6, 6, 1))


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (IMAGE[:0], [], "at least one example.*Received: 0 examples"),
        (IMAGE, [0, 1], "a label for each.*Received: 3 examples"),
        (np.zeros((3, 6, 5, 1)), [0, 1, 2], "Expected shape .*Received: "),
        (IMAGE, [0, 1, 3], "labels from 0 to 2. Received: 0 to 3"),
        (IMAGE, [0, -1, 2], "labels from 0 to 2. Received: -1 to 2"),
        (IMAGE, [0.0, 1.0, 2.0], "class numbers.*Received: .*float64"),
        (IMAGE, ["cat", "dog", "cat"], "class numbers.*Received: "),
        (IMAGE, np.zeros((3, 3), int), "labels of shape .*Received: shape"),
        (IMAGE * np.nan, [0, 1, 2], "finite examples. Received: "),
        (np.full((3, 6, 6, 1), "cat"), [0, 1, 2], "Expected numbers. Received: "),
    ],
)
def test_data_that_do_not_fit_are_refused_before_training(
    images: Server, alice: Trainer, x: np.ndarray, y: Any, message: str
) -> None:
    with pytest.raises(TrainingDataRefused, match=message):
        alice.train(images.weights, (x, np.asarray(y)), ONE_STEP, seed=1)


def test_labels_in_a_column_are_labels(images: Server, alice: Trainer) -> None:
    column = np.array([[0], [1], [2]])
    assert alice.train(images.weights, (IMAGE, column), ONE_STEP, seed=1).samples == 3


def test_values_that_are_not_finite_are_no_labels(keras: ModuleType) -> None:
    server = line(keras, SQUARES)
    data = np.ones((1, 1)), np.array([np.nan])
    with pytest.raises(TrainingDataRefused, match="Received: nan"):
        Trainer(server.document).train(server.weights, data, ONE_STEP, seed=1)


@on_jax_too
def test_weights_of_another_model_are_refused(images: Server, alice: Trainer) -> None:
    kernel = next(iter(images.weights))
    data = data_for(images, 3)
    for weights in ({**images.weights, kernel: np.zeros(1)}, {}):
        with pytest.raises(WeightsRefused, match=rf"{kernel}.*Received: "):
            alice.train(weights, data, ONE_STEP, seed=1)


def _layer(server: Server) -> dict[str, Any]:
    layer: dict[str, Any] = server.document["architecture"]["config"]["layers"][-1]
    return layer


LAMBDA = {"class_name": "__lambda__", "config": {"value": "4wAAAAA="}}
TYPESPEC = {"class_name": "__typespec__", "spec_name": "x", "module": "os", "config": []}
DOWNLOAD = {"module": "keras.utils", "class_name": "get_file", "config": {"origin": "http://x"}}
FUNCTION = {
    "module": "os",
    "class_name": "function",
    "config": "system",
    "registered_name": "system",
}


@pytest.mark.parametrize(
    "hostile",
    [
        {"class_name": "Lambda"},
        {"class_name": "TFSMLayer"},
        {"class_name": "TorchModuleWrapper"},
        {"class_name": "StringLookup", "config": {"vocabulary": "/etc/passwd"}},
        {"class_name": "deserialize"},
        {"module": "os", "class_name": "Dense"},
        {"module": None},
        {"module": "keras.src.layers.core.lambda_layer", "class_name": "Lambda"},
        {"module": "keras.callbacks", "class_name": "ModelCheckpoint"},
        {"registered_name": "house>Dense"},
        {"config": {"units": 1, "activation": LAMBDA}},
        {"config": {"units": 1, "activation": FUNCTION}},
        {"config": {"units": 1, "kernel_initializer": DOWNLOAD}},
        {"config": {"units": 1, "kernel_initializer": TYPESPEC}},
        {"config": {"units": "many"}},
        {"config": None},
    ],
)
def test_a_server_gets_nothing_but_built_in_layers_built(
    keras: ModuleType, hostile: dict[str, Any]
) -> None:
    server = line(keras, SQUARES)
    _layer(server).update(hostile)
    with pytest.raises(ModelRefused, match="Received: "):
        Trainer(server.document)


@pytest.fixture
def house_layer(keras: ModuleType) -> Iterator[type]:
    """A layer of the participant's own, registered in its process."""

    class House(keras.layers.Dense):  # type: ignore[name-defined]
        pass

    keras.saving.get_custom_objects()["Dense"] = House
    yield House
    del keras.saving.get_custom_objects()["Dense"]


def test_a_layer_registered_in_the_participants_process_is_not_built_in(
    keras: ModuleType, house_layer: type
) -> None:
    server = line(keras, SQUARES)
    _layer(server)["registered_name"] = "Dense"
    with pytest.raises(ModelRefused, match=r"built-in.*Received: .*House"):
        Trainer(server.document)


def test_a_manifest_of_another_model_is_refused(keras: ModuleType) -> None:
    server = line(keras, SQUARES)
    server.document["weights"][0]["shape"] = [2, 1]
    with pytest.raises(ModelRefused, match=r"kernel.*Received: \(2, 1\)"):
        Trainer(server.document)
    server.document["weights"] = []
    with pytest.raises(ModelRefused, match=r"Expected 1 weights.*Received: 0"):
        Trainer(server.document)


def test_an_unknown_loss_and_a_second_output_are_refused(keras: ModuleType) -> None:
    with pytest.raises(ModelRefused, match="Received: 'hinge'"):
        Trainer(line(keras, {"loss": "hinge"}).document)
    x = keras.Input((1,))
    two = keras.Model(x, [keras.layers.Dense(1)(x), keras.layers.Dense(1)(x)])
    with pytest.raises(ModelRefused, match=r"one output. Received: \(1, 2\)"):
        Trainer(Server(two, SQUARES).document)


def _only(kind: str, shape: tuple[int, ...] = (1,), **config: Any) -> dict[str, Any]:
    """A model of one layer."""
    start = {"batch_shape": [None, *shape], "dtype": "float32", "name": "start"}
    layers = [
        {"module": "keras.layers", "class_name": "InputLayer", "config": start},
        {"module": "keras.layers", "class_name": kind, "config": {"name": "greedy", **config}},
    ]
    return {
        "module": "keras",
        "class_name": "Sequential",
        "config": {"name": "net", "layers": layers},
    }


LSTM = {"module": "keras.layers", "class_name": "LSTM", "config": {"units": 10**6}}


@on_jax_too
@pytest.mark.parametrize(
    "architecture",
    [
        _only("Dense", units=10**10),
        _only("Embedding", input_dim=10**10, output_dim=64),
        _only("Normalization", (10**5, 10**5), axis=[1, 2]),
        _only("LSTM", (4, 4), units=10**6),
        _only("Bidirectional", (4, 4), layer=LSTM),
        _only("UpSampling2D", (4, 4, 1), size=10**5),
        _only("ZeroPadding2D", (4, 4, 1), padding=10**6),
        _only("Resizing", (4, 4, 1), height=10**6, width=10**6),
        _only("RepeatVector", n=10**12),
        _only("CategoryEncoding", num_tokens=10**12),
    ],
)
def test_a_server_gets_no_more_memory_than_it_declares(
    keras: ModuleType, architecture: dict[str, Any]
) -> None:
    server = line(keras, SQUARES)
    server.document["architecture"] = architecture
    with pytest.raises(ModelRefused, match=r"(manifest declares|outputs fit).*Received: "):
        Trainer(server.document)


def test_weights_that_could_not_be_trained_here_are_refused_unbuilt(keras: ModuleType) -> None:
    server = line(keras, SQUARES)
    server.document["architecture"] = _only("Dense", units=10**10, use_bias=False)
    server.document["weights"][0]["shape"] = [1, 10**10]
    with pytest.raises(ModelRefused, match=r"trained in .* of memory. Received: .*186.3 GiB"):
        Trainer(server.document)


def test_while_a_model_is_built_other_threads_build_what_they_like(
    keras: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, built = line(keras, SQUARES), []

    def build_beside(*arguments: Any, **options: Any) -> Any:
        layer = keras.layers.Dense(10**6)
        other = threading.Thread(target=lambda: built.append(layer.build((None, 1))))
        other.start()
        other.join()
        return original(*arguments, **options)

    original = keras.saving.deserialize_keras_object
    monkeypatch.setattr(keras.saving, "deserialize_keras_object", build_beside)
    Trainer(server.document)
    assert built == [None]


@pytest.mark.parametrize("part", ["architecture", "weights", "input_spec", "objective"])
def test_half_a_model_document_is_refused(keras: ModuleType, part: str) -> None:
    server = line(keras, SQUARES)
    rest = {name: value for name, value in server.document.items() if name != part}
    for document in (rest, {**rest, part: 7}):
        with pytest.raises(ModelRefused, match="Received: "):
            Trainer(document)


def test_how_the_model_was_compiled_at_home_is_not_read(keras: ModuleType) -> None:
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile("adam", "mse")
    server = Server(model, SQUARES)
    server.document["architecture"]["compile_config"]["optimizer"] = LAMBDA
    assert Trainer(server.document).weights == server.manifest
