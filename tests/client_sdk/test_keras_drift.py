"""What strategies ask of local training: corrected gradients, counted steps, the loss before."""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from client_sdk.errors import CapabilityMissing
from client_sdk.loop import Batches
from client_sdk.training import Trainer, TrainingLoop, TrainingResult
from client_sdk.wire import FEDERATED, FROZEN, LOCAL
from tests.client_sdk.models import (
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

# y = w x from w = 1, on two examples of y = 2 x: the slope is 5 (w - 2), and a step is 0.1 of it.
# Two plain steps lead to 1.5 and 1.75.
DATA = np.array([[1.0], [2.0]]), np.array([2.0, 4.0])
TWO_STEPS = {"learning_rate": 0.1, "epochs": 2, "batch_size": 2}
REPORTS: dict[str, dict[str, float]] = {"report_steps": {}, "report_initial_loss": {}}

PROXIMAL = {"proximal": {"mu": 2.0}}
SCAFFOLD: dict[str, dict[str, float]] = {"control_variates": {}, "report_steps": {}}
FEDDYN = {"dynamic_regularization": {"alpha": 2.0}}


def vector(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


@pytest.fixture(scope="module")
def keras() -> ModuleType:
    import keras

    return keras


@pytest.fixture(scope="module")
def images(keras: ModuleType) -> Server:
    return Server(branches(keras), CROSSENTROPY)


@pytest.fixture(scope="module")
def alice(keras: ModuleType) -> Trainer:
    """Alice's line; she keeps her trainer, whatever strategy comes next."""
    return Trainer(line(keras, SQUARES).document)


def trained(trainer: Trainer, plan: Mapping[str, Any] = TWO_STEPS, **asked: Any) -> TrainingResult:
    weights = {trainer.weights[0].name: np.ones((1, 1), np.float32)}
    return trainer.train(weights, DATA, plan, 1, **asked)


def moved(result: TrainingResult) -> float:
    return float(next(iter(result.deltas.values())).item())


@on_jax_too
def test_a_proximal_term_pulls_back_to_where_the_round_began(alice: Trainer) -> None:
    # At 1 nothing pulls: -5 leads to 1.5. There the slope is -2.5 + 2 * 0.5: to 1.65.
    assert moved(trained(alice, requires=PROXIMAL)) == pytest.approx(0.65)
    assert moved(trained(alice, requires={"proximal": {"mu": 0.0}})) == pytest.approx(0.75)


@on_jax_too
def test_control_variates_shift_each_gradient_and_become_the_mean_of_those_found(
    alice: Trainer,
) -> None:
    own = {"control_variates": vector(0.5)}
    result = trained(alice, requires=SCAFFOLD, own=own, control=vector(1.0))
    # By 1 - 0.5: -5 + 0.5 leads to 1.45, and there -2.75 + 0.5 to 1.675.
    assert moved(result) == pytest.approx(0.675)
    # 0.5 - 1 - 0.675 / (2 * 0.1) is the mean of the slopes -5 and -2.75.
    assert result.own["control_variates"] == pytest.approx(-3.875)
    assert result.reports == {"steps": 2.0}
    first = trained(alice, requires=SCAFFOLD)
    assert moved(first) == pytest.approx(0.75)
    assert first.own["control_variates"] == pytest.approx(-3.75)


@on_jax_too
def test_dynamic_regularization_pulls_and_shifts(alice: Trainer) -> None:
    own = {"dynamic_regularization": vector(0.5)}
    result = trained(alice, requires=FEDDYN, own=own)
    # -5 - 0.5 leads to 1.55, and there -2.25 + 2 * 0.55 - 0.5 to 1.715.
    assert moved(result) == pytest.approx(0.715)
    assert result.own["dynamic_regularization"] == pytest.approx(0.5 - 2 * 0.715)


@on_jax_too
def test_a_loop_of_ones_own_is_corrected_and_counted_by_its_optimizer(keras: ModuleType) -> None:
    bob = Trainer(line(keras, SQUARES).document, loop=TrainingLoop())
    assert moved(trained(bob, requires=PROXIMAL)) == pytest.approx(0.65)
    own = {"control_variates": vector(0.5)}
    result = trained(bob, requires=SCAFFOLD, own=own, control=vector(1.0))
    assert moved(result) == pytest.approx(0.675)
    assert result.steps == 2


def test_a_loop_that_steps_otherwise_is_refused_where_it_matters(keras: ModuleType) -> None:
    class Setter(TrainingLoop):
        def epoch(self, model: Any, batches: Batches) -> dict[str, float]:
            assert sum(len(x) for x, _ in batches) == 2
            model.trainable_variables[0].assign([[7.0]])
            return {}

    class Frank(Setter):
        capabilities = ()

    charlie = Trainer(line(keras, SQUARES).document, loop=Setter())
    assert moved(trained(charlie)) == 6.0
    with pytest.raises(CapabilityMissing, match="Received: 0 such steps"):
        trained(charlie, requires=PROXIMAL)
    with pytest.raises(CapabilityMissing, match="Received: proximal"):
        trained(Trainer(line(keras, SQUARES).document, loop=Frank()), requires=PROXIMAL)


def test_where_there_is_no_tensorflow_the_batches_are_corrected_as_well(
    monkeypatch: pytest.MonkeyPatch, keras: ModuleType
) -> None:
    monkeypatch.setattr(keras.backend, "backend", lambda: "torch")
    charlie = Trainer(line(keras, SQUARES).document)
    own = {"control_variates": vector(0.5)}
    result = trained(charlie, requires=SCAFFOLD, own=own, control=vector(1.0))
    assert moved(result) == pytest.approx(0.675)
    assert result.steps == 2


@on_jax_too
def test_steps_and_the_loss_before_the_first_are_told_where_they_are_asked_for(
    alice: Trainer,
) -> None:
    result = trained(alice, requires=REPORTS)
    assert result.reports == {"steps": 2.0, "initial_loss": pytest.approx(2.5)}
    capped = trained(alice, {**TWO_STEPS, "batch_size": 1, "max_steps": 3}, requires=REPORTS)
    assert capped.reports["steps"] == capped.steps == 3
    plain = trained(alice)
    assert (plain.reports, plain.own, plain.steps) == ({}, {}, 2)


def test_who_has_little_time_tells_the_steps_that_were_taken(alice: Trainer) -> None:
    plan = {**TWO_STEPS, "batch_size": 1, "epochs": 50}
    asked: dict[str, Any] = {"requires": {**PROXIMAL, "report_steps": {}}, "seconds": 0.0}
    result = trained(alice, plan, **asked)
    assert not result.complete
    assert result.reports == {"steps": 1.0}


@on_jax_too
def test_without_requirements_the_bits_are_what_they_were(images: Server) -> None:
    data = data_for(images, samples=21)
    plan = {"learning_rate": 0.01, "epochs": 2, "batch_size": 8, "optimizer": "adam"}
    bob = Trainer(images.document)
    before = bob.train(images.weights, data, plan, seed=5)
    variables = len(bob.model.optimizer.variables)
    told = bob.train(images.weights, data, plan, seed=5, requires=REPORTS)
    pulled = bob.train(images.weights, data, plan, seed=5, requires=PROXIMAL)
    after = bob.train(images.weights, data, plan, seed=5)
    assert _bits(before) == _bits(told) == _bits(after) != _bits(pulled)
    assert len(bob.model.optimizer.variables) == variables
    assert type(bob.model.optimizer).__module__.startswith("keras.")


def _bits(result: TrainingResult) -> list[bytes]:
    return [delta.tobytes() for delta in result.deltas.values()]


@on_tensorflow
def test_rounds_of_a_strategy_share_one_graph(images: Server) -> None:
    bob = Trainer(images.document)
    size = sum(one.tensor.size for one in images.manifest if one.role == FEDERATED)
    requires = FEDDYN | SCAFFOLD  # all that a correction may be: pulled back, and shifted
    own: dict[str, np.ndarray] = {}
    for number in range(3):
        control = np.full(size, 0.01 * number, np.float32)
        result = bob.train(
            images.weights,
            data_for(images, 5 + number),
            {"learning_rate": 0.1, "batch_size": 4},
            seed=number,
            requires=requires,
            own=own,
            control=control,
        )
        own = result.own
    assert bob.traces == 1


@on_jax_too
def test_weights_that_are_local_or_frozen_are_left_alone(keras: ModuleType) -> None:
    layers = [
        keras.Input((1,)),
        keras.layers.Dense(1, use_bias=False, kernel_initializer="ones", name="federated"),
        keras.layers.Dense(1, use_bias=False, kernel_initializer="ones", name="own"),
        keras.layers.Dense(1, use_bias=False, kernel_initializer="ones", name="still"),
    ]
    roles = {"own": LOCAL, "still": FROZEN}
    server = Server(
        keras.Sequential(layers), SQUARES, lambda layer: roles.get(layer.split(".")[-1], FEDERATED)
    )
    x = np.ones((2, 1))
    # Predictions are 1 as wanted, so that no slope moves anything: the shift alone does.
    result = Trainer(server.document).train(
        server.weights,
        (x, np.ones(2)),
        {"learning_rate": 0.1, "batch_size": 2},
        1,
        requires=SCAFFOLD,
        control=vector(-1.0),
    )
    assert moved(result) == pytest.approx(0.1)
    assert next(iter(result.local.values())) == pytest.approx(1.0)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_rows_that_no_word_of_a_batch_is_in_are_pulled_and_shifted_too(
    keras: ModuleType, optimizer: str
) -> None:
    server = Server(words(keras), CROSSENTROPY, dtype="int32")
    x, y = np.full((4, 5), 3), np.zeros(4, int)  # but one word of eleven
    size = sum(spec.tensor.size for spec in server.manifest)
    plan = {"learning_rate": 0.1, "batch_size": 4, "epochs": 2, "optimizer": optimizer}
    bob = Trainer(server.document)
    result = bob.train(
        server.weights,
        (x, y),
        plan,
        1,
        requires={**SCAFFOLD, **PROXIMAL},
        control=np.ones(size, np.float32),
    )
    rows = result.deltas[server.name("embeddings")]
    expected = -0.1 - 0.1 * (1 - 2 * 0.1) if optimizer == "sgd" else -0.2
    np.testing.assert_allclose(np.delete(rows, 3, axis=0), expected, rtol=0.02)


def test_a_vector_of_another_length_is_refused(alice: Trainer) -> None:
    with pytest.raises(ValueError, match=r"shape \(1,\). Received: \(2,\)"):
        trained(alice, requires=SCAFFOLD, control=vector(1.0, 2.0))
