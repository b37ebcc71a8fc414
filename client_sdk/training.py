"""Local training: weights and data in, deltas out.

A `Trainer` holds one model for as long as its architecture lasts. Each round it

1. puts the version's weights in place, resets the optimizer and the dropout seeds,
2. walks the epochs in an order that the seed decides,
3. hands back what changed.

`model.fit` starts each call with work that has nothing to do with the numbers: 150 ms for a
call, and a step at a time through Python. Rounds are short, so on TensorFlow an epoch is one
graph, traced once, that takes any number of samples and any batch size. Its step is Keras' own
`train_step`, so the result is that of `fit` over the same batches.
"""

from __future__ import annotations

import math
import os
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from importlib.util import find_spec
from typing import Any

import numpy as np

from client_sdk import building
from client_sdk.building import ModelRefused
from client_sdk.errors import ParticipantError
from client_sdk.wire import FEDERATED, LOCAL, InputSpec, WireError, read_weights

__all__ = [
    "Hyperparameters",
    "HyperparametersRefused",
    "ModelRefused",
    "Trainer",
    "TrainingDataRefused",
    "TrainingDiverged",
    "TrainingResult",
    "WeightsRefused",
]

# Keras is imported by the first trainer, but who lacks it learns so before a round counts on it.
if find_spec("keras") is None:
    raise ImportError("Expected Keras and a backend: pip install 'fedserver[client]'")

OPTIMIZERS = ("sgd", "adam", "adamw", "rmsprop", "adagrad")
_MOMENTUM = ("sgd", "rmsprop")
_SEED_STATE = "seed_generator_state"  # Keras' name for the counter behind Dropout and its like

OnEpoch = Callable[[int, int, dict[str, float]], None]


class TrainingDataRefused(ParticipantError):
    """The participant's own data do not fit the model."""


class HyperparametersRefused(ParticipantError):
    """The run asks for a training that this SDK does not know."""


class WeightsRefused(ParticipantError):
    """The weights given are not those of the model."""


class TrainingDiverged(ParticipantError):
    """The loss or the weights are no longer finite: there is nothing to send."""


@dataclass(frozen=True, slots=True)
class Hyperparameters:
    """How a run wants its participants to train.

    Args:
        learning_rate: above 0.
        epochs: passes over the data, from 1.
        batch_size: samples in a step, from 1; the last step of an epoch takes what is left.
        optimizer: one of `OPTIMIZERS`.
        momentum: of sgd and rmsprop, 0 to below 1; the others have their own.
        max_steps: most steps in a round, over all epochs; None for no limit.
    """

    learning_rate: float
    epochs: int = 1
    batch_size: int = 32
    optimizer: str = "sgd"
    momentum: float = 0.0
    max_steps: int | None = None

    def __post_init__(self) -> None:
        _expect(_is_count(self.epochs), "epochs", "an integer from 1", self.epochs)
        _expect(_is_count(self.batch_size), "batch_size", "an integer from 1", self.batch_size)
        rate, known = self.learning_rate, self.optimizer in OPTIMIZERS
        _expect(_is_number(rate) and rate > 0, "learning_rate", "a number above 0", rate)
        _expect(known, "optimizer", f"one of {', '.join(OPTIMIZERS)}", self.optimizer)
        fraction = _is_number(self.momentum) and 0 <= self.momentum < 1
        _expect(fraction, "momentum", "a number from 0 to below 1", self.momentum)
        capped = self.max_steps is None or _is_count(self.max_steps)
        _expect(capped, "max_steps", "an integer from 1, or null", self.max_steps)

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Hyperparameters:
        """Read an assignment's hyper-parameters.

        Raises:
            HyperparametersRefused: for values out of range, and for names that are unknown here:
                training without them would be another training than the one asked for.
        """
        unknown = sorted(set(document) - {field.name for field in fields(cls)})
        _expect(not unknown, "hyperparameters", "names that this SDK knows", unknown)
        rate = document.get("learning_rate")
        _expect(rate is not None, "learning_rate", "given", sorted(document))
        return cls(**document)


@dataclass(frozen=True, slots=True)
class TrainingResult:
    """What a round of local training brought.

    Args:
        deltas: new minus base, float32, for the federated tensors in manifest order.
        samples: number of samples trained on, the participant's weight in the mean.
        metrics: of the last epoch, over its batches as they were seen: `loss`, and `accuracy`
            where the objective has classes.
        local: new values of the tensors that stay with the participant.
    """

    deltas: dict[str, np.ndarray]
    samples: int
    metrics: dict[str, float]
    local: dict[str, np.ndarray]


class Trainer:
    """A model that is built once and trained round after round.

    Args:
        model_document: what the server says of a model: `architecture` (Keras JSON), `weights`
            (manifest), `input_spec` and `objective`. It need not be trusted.

    Example:
        >>> trainer = Trainer(document)
        >>> result = trainer.train(weights, (images, labels), {"learning_rate": 0.1}, seed=7)
        >>> result.metrics["accuracy"]
        0.93

    Raises:
        ModelRefused: when the model is not made of built-in Keras layers, does not fit its
            manifest, or has an unknown objective.
    """

    def __init__(self, model_document: Mapping[str, Any]) -> None:
        keras = _import_keras()
        try:
            self.weights = read_weights(model_document["weights"])
            self.input_spec = InputSpec.from_json(model_document["input_spec"])
            self.objective = _Objective.from_json(model_document["objective"])
            described = model_document["architecture"]
        except (KeyError, TypeError, WireError) as error:
            raise ModelRefused(f"Expected a whole model document. Received: {error!r}") from error
        self.model = building.build(described, self.input_spec.shape)
        self._variables = building.variables(self.model, self.weights)
        building.freeze(self.model, self.weights)
        self._graphs = keras.backend.backend() == "tensorflow"
        self._compile("sgd", 0.0)

    def train(
        self,
        weights: Mapping[str, np.ndarray],
        data: tuple[np.ndarray, np.ndarray],
        hyperparameters: Mapping[str, Any],
        seed: int,
        on_epoch: OnEpoch | None = None,
    ) -> TrainingResult:
        """Train from a version's weights on the participant's data.

        Args:
            weights: all tensors of the version by name, the participant's own values in the
                place of the local ones.
            data: raw examples (n, *shape) and their labels: class numbers (n,), or values of
                the shape of the model's output.
            hyperparameters: see `Hyperparameters`.
            seed: decides the order of the samples and the dropout. The same seed, weights and
                data give the same bits on the same machine.
            on_epoch: called after each epoch with its number (from 1), the number of epochs and
                the epoch's metrics. What it raises ends the training and reaches the caller.

        Raises:
            TrainingDataRefused: no samples, another shape, values not finite, unknown classes.
            HyperparametersRefused: see `Hyperparameters.from_json`.
            WeightsRefused: a tensor is missing or has another shape.
            TrainingDiverged: loss or weights became infinite or NaN.
        """
        plan = Hyperparameters.from_json(hyperparameters)
        x, y = self._prepare(data)
        self._compile(plan.optimizer, plan.momentum)
        self._load(weights)
        self._reset(plan.learning_rate, seed)
        metrics = self._walk(x, y, plan, np.random.default_rng(seed), on_epoch)
        return TrainingResult(self._deltas(weights), len(x), metrics, self._local())

    def evaluate(
        self, weights: Mapping[str, np.ndarray], data: tuple[np.ndarray, np.ndarray]
    ) -> dict[str, float]:
        """Loss, and accuracy where the objective has classes, of these weights on labelled data.

        Args and Raises: as for `train`.
        """
        x, y = self._prepare(data)
        self._load(weights)
        found = self.model.evaluate(x, y, batch_size=256, verbose=0, return_dict=True)
        return {name: float(value) for name, value in found.items()}

    def predict(self, weights: Mapping[str, np.ndarray], x: np.ndarray) -> np.ndarray:
        """The model's outputs (n, …) for raw examples (n, *shape).

        Raises:
            TrainingDataRefused, WeightsRefused: as for `train`.
        """
        prepared = self._prepare_inputs(x)
        self._load(weights)
        return np.asarray(self.model.predict(prepared, batch_size=256, verbose=0))

    @property
    def traces(self) -> int:
        """How often an epoch was made into a graph: once, for as long as the optimizer stays."""
        return self._epoch.traces

    # --- Before the first round, and when the run's optimizer changes ---

    def _compile(self, optimizer: str, momentum: float) -> None:
        """Compile, unless the model is compiled for this optimizer already."""
        if getattr(self, "_compiled_for", None) == (optimizer, momentum):
            return
        loss, metrics = self.objective.compiled()
        self.model.compile(optimizer=_optimizer(optimizer, momentum), loss=loss, metrics=metrics)
        self.model.optimizer.build(self.model.trainable_variables)
        # Every state of these optimizers starts as one number throughout: zeros, or Adagrad's 0.1.
        self._fresh = [float(state.numpy().flat[0]) for state in self.model.optimizer.variables]
        self._epoch = self._new_epoch()
        self._compiled_for = (optimizer, momentum)

    def _new_epoch(self) -> _GraphEpoch | _BatchEpoch:
        if self._graphs:
            return _GraphEpoch(self.model, self.input_spec, self.objective)
        return _BatchEpoch(self.model)

    # --- A round ---

    def _prepare(self, data: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        x, y = self._prepare_inputs(data[0]), np.asarray(data[1])
        if len(x) == 0 or y.shape[:1] != x.shape[:1]:
            raise TrainingDataRefused(
                "Expected at least one example, and a label for each. "
                f"Received: {len(x)} examples and labels of shape {y.shape}"
            )
        return x, self.objective.targets(y, self.model.output_shape)

    def _prepare_inputs(self, x: np.ndarray) -> np.ndarray:
        try:
            prepared = self.input_spec.prepare(x)
        except WireError as error:
            raise TrainingDataRefused(error.detail) from error
        if prepared.dtype.kind == "f" and not np.isfinite(prepared).all():
            raise TrainingDataRefused("Expected finite examples. Received: NaN or infinity")
        return prepared

    def _load(self, weights: Mapping[str, np.ndarray]) -> None:
        for name, variable in self._variables.items():
            if variable.name == _SEED_STATE:  # differs between backends; `_reset` sets it
                continue
            value = weights.get(name)
            if value is None or tuple(value.shape) != tuple(variable.shape):
                received = "none" if value is None else value.shape
                raise WeightsRefused(
                    f"Expected tensor `{name}` of shape {tuple(variable.shape)}. "
                    f"Received: {received}"
                )
            variable.assign(value)

    def _reset(self, learning_rate: float, seed: int) -> None:
        """Start as a newly compiled model does, without compiling."""
        optimizer = self.model.optimizer
        for state, value in zip(optimizer.variables, self._fresh, strict=True):
            state.assign(np.full(state.shape, value, state.dtype))
        optimizer.learning_rate = learning_rate
        states = [v for v in self._variables.values() if v.name == _SEED_STATE]
        draws = np.random.SeedSequence(seed).generate_state(len(states)) >> 1  # fits in int32
        for state, draw in zip(states, draws, strict=True):
            state.assign(np.array([draw, 0], state.dtype))

    def _walk(
        self,
        x: np.ndarray,
        y: np.ndarray,
        plan: Hyperparameters,
        random: np.random.Generator,
        on_epoch: OnEpoch | None,
    ) -> dict[str, float]:
        per_epoch = math.ceil(len(x) / plan.batch_size)
        left = min(plan.epochs * per_epoch, plan.max_steps or math.inf)
        epochs = math.ceil(left / per_epoch)
        metrics: dict[str, float] = {}
        for epoch in range(1, epochs + 1):
            steps = int(min(per_epoch, left))
            left -= steps
            order = random.permutation(len(x)).astype(np.int32)
            metrics = self._epoch(x, y, order, plan.batch_size, steps)
            _expect_finite_loss(metrics, epoch)
            if on_epoch is not None:
                on_epoch(epoch, epochs, metrics)
        return metrics

    def _deltas(self, base: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        deltas = {}
        for name, variable in self._with_role(FEDERATED):
            deltas[name] = np.subtract(variable.numpy(), base[name], dtype=np.float32)
            if not np.isfinite(deltas[name]).all():
                raise TrainingDiverged(f"Expected finite weights. Received: NaN in `{name}`")
        return deltas

    def _local(self) -> dict[str, np.ndarray]:
        return {name: variable.numpy() for name, variable in self._with_role(LOCAL)}

    def _with_role(self, role: str) -> list[tuple[str, Any]]:
        names = [weight.name for weight in self.weights if weight.role == role]
        return [(name, self._variables[name]) for name in names]


@dataclass(frozen=True, slots=True)
class _Objective:
    """What the model is trained for, and what labels that takes."""

    loss: str
    from_logits: bool = False

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> _Objective:
        objective = cls(document["loss"], bool(document.get("from_logits", False)))
        if objective.loss not in _LOSSES:
            expected = ", ".join(_LOSSES)
            raise ModelRefused(f"Expected a loss of {expected}. Received: {objective.loss!r}")
        return objective

    @property
    def sparse(self) -> bool:
        return self.loss == "sparse_categorical_crossentropy"

    def compiled(self) -> tuple[Any, list[Any]]:
        """Keras' loss and metrics; the metric is named, because Keras guesses it from shapes."""
        import keras

        loss_name, accuracy_name = _LOSSES[self.loss]
        if not accuracy_name:
            return getattr(keras.losses, loss_name)(), []
        # Even odds are 0.5 as a probability and 0 as a logit.
        binary = accuracy_name == "BinaryAccuracy"
        options = {"threshold": 0.0 if self.from_logits else 0.5} if binary else {}
        accuracy = getattr(keras.metrics, accuracy_name)(name="accuracy", **options)
        return getattr(keras.losses, loss_name)(from_logits=self.from_logits), [accuracy]

    def targets(self, y: np.ndarray, output: tuple[int | None, ...]) -> np.ndarray:
        """Labels as the loss takes them: int32 class numbers or float32 values.

        Args:
            y: class numbers (n, …) or values (n, …); an axis of length 1 at the end may be
                there too much or too little.
            output: shape of the model's output, the batch as None.
        """
        expected = output[:-1] if self.sparse else output
        if y.ndim == len(expected) + 1 and y.shape[-1] == 1:
            y = y[..., 0]
        elif y.ndim == len(expected) - 1 and expected[-1] == 1:
            y = y[..., np.newaxis]
        fits = y.ndim == len(expected) and all(
            want in (None, have) for have, want in zip(y.shape, expected, strict=True)
        )
        if not fits or y.dtype.kind not in ("iub" if self.sparse else "fiub"):
            kind = "class numbers (integers)" if self.sparse else "numbers"
            raise TrainingDataRefused(
                f"Expected labels of shape {('n', *expected[1:])}, {kind}. "
                f"Received: shape {y.shape}, dtype {y.dtype}"
            )
        low, high = self._range(output)
        if not (y.min() >= low and y.max() <= high):  # false for NaN as well
            raise TrainingDataRefused(
                f"Expected labels from {low} to {high}. Received: {y.min()} to {y.max()}"
            )
        return y.astype(np.int32 if self.sparse else np.float32)

    def _range(self, output: tuple[int | None, ...]) -> tuple[float, float]:
        if self.sparse:
            return 0, (output[-1] or 1) - 1
        largest = float(np.finfo(np.float32).max)
        return (0, 1) if _LOSSES[self.loss][1] else (-largest, largest)


# The objective's name -> Keras' loss, and Keras' metric where "accuracy" means something.
_LOSSES = {
    "sparse_categorical_crossentropy": (
        "SparseCategoricalCrossentropy",
        "SparseCategoricalAccuracy",
    ),
    "categorical_crossentropy": ("CategoricalCrossentropy", "CategoricalAccuracy"),
    "binary_crossentropy": ("BinaryCrossentropy", "BinaryAccuracy"),
    "mean_squared_error": ("MeanSquaredError", ""),
    "mean_absolute_error": ("MeanAbsoluteError", ""),
}


def _import_keras() -> Any:
    # TensorFlow's faster convolutions are off on processors without AVX512-VNNI, where they
    # halve the time of training as well; it reads this when it is imported.
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    import keras

    return keras


def _optimizer(name: str, momentum: float) -> Any:
    """A Keras optimizer; each round sets its learning rate."""
    import keras

    kinds = {kind.lower(): kind for kind in ("SGD", "Adam", "AdamW", "RMSprop", "Adagrad")}
    options = {"momentum": momentum} if name in _MOMENTUM else {}
    return getattr(keras.optimizers, kinds[name])(learning_rate=1.0, **options)


class _GraphEpoch:
    """One epoch as one TensorFlow graph, traced once for any number of samples."""

    def __init__(self, model: Any, inputs: InputSpec, objective: _Objective) -> None:
        import tensorflow as tf

        _build_metrics(model, inputs, objective)
        targets = model.output_shape[:-1] if objective.sparse else model.output_shape
        self._tf, self._model = tf, model
        self._graph = tf.function(
            self._epoch,
            autograph=False,
            input_signature=[
                tf.TensorSpec((None, *inputs.shape), inputs.dtype),
                tf.TensorSpec(targets, tf.int32 if objective.sparse else tf.float32),
                tf.TensorSpec((None,), tf.int32),
                tf.TensorSpec((), tf.int32),
                tf.TensorSpec((), tf.int32),
            ],
        )

    def __call__(
        self, x: np.ndarray, y: np.ndarray, order: np.ndarray, batch_size: int, steps: int
    ) -> dict[str, float]:
        found = self._graph(x, y, order, batch_size, steps)
        return {name: float(value) for name, value in found.items()}

    @property
    def traces(self) -> int:
        return int(self._graph.experimental_get_tracing_count())

    def _epoch(self, x: Any, y: Any, order: Any, batch_size: Any, steps: Any) -> dict[str, Any]:
        tf, model = self._tf, self._model
        for metric in model.metrics:
            metric.reset_state()

        def step(number: Any) -> tuple[Any]:
            batch = order[number * batch_size : (number + 1) * batch_size]
            model.train_step((tf.gather(x, batch), tf.gather(y, batch)))
            return (number + 1,)

        tf.while_loop(lambda number: number < steps, step, [0], parallel_iterations=1)
        return dict(model.get_metrics_result())


class _BatchEpoch:
    """One epoch, batch by batch through Keras: the way that every backend has."""

    traces = 0

    def __init__(self, model: Any) -> None:
        self._model = model

    def __call__(
        self, x: np.ndarray, y: np.ndarray, order: np.ndarray, batch_size: int, steps: int
    ) -> dict[str, float]:
        totals: dict[str, float] = defaultdict(float)
        for start in range(0, steps * batch_size, batch_size):
            batch = order[start : start + batch_size]
            found = self._model.train_on_batch(x[batch], y[batch], return_dict=True)
            for name, value in found.items():
                totals[name] += float(value) * len(batch)
        seen = min(len(order), steps * batch_size)
        return {name: total / seen for name, total in totals.items()}


def _build_metrics(model: Any, inputs: InputSpec, objective: _Objective) -> None:
    """Let loss and metrics make their variables, which a graph's loop must not."""
    x = np.zeros((1, *(length or 1 for length in inputs.shape)), inputs.dtype)
    found = model(x, training=False)
    y = np.zeros(found.shape[:-1] if objective.sparse else found.shape, np.float32)
    model.compute_loss(x=x, y=y, y_pred=found, training=False)
    model.compute_metrics(x, y, found)


def _expect_finite_loss(metrics: Mapping[str, float], epoch: int) -> None:
    if not math.isfinite(metrics["loss"]):
        raise TrainingDiverged(
            f"Expected a finite loss in epoch {epoch}; a lower learning rate may help. "
            f"Received: {metrics['loss']}"
        )


def _expect(holds: bool, name: str, expected: str, received: object) -> None:
    if not holds:
        raise HyperparametersRefused(f"Expected `{name}` to be {expected}. Received: {received!r}")


def _is_count(value: object) -> bool:
    return type(value) is int and value >= 1


def _is_number(value: object) -> bool:
    return type(value) in (int, float) and math.isfinite(value)  # type: ignore[arg-type]
