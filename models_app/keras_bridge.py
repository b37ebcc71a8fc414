"""Keras, and the only module of the server that imports it: build, weigh, evaluate.

Import this inside the function that needs it, in a worker or a command: TensorFlow costs seconds
of processor time and half a gigabyte in each process, and the web process must never pay that.

A built model is kept with its compiled evaluation for as long as the process lives, so that a
round pays for the arithmetic only.
"""

import json
import math
import os
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

os.environ["KERAS_BACKEND"] = "tensorflow"  # whatever the user's own notebooks use
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import tensorflow as tf

from client_sdk import wire
from models_app import blobs
from models_app.errors import InvalidModel, NonFinite
from models_app.evaluation import CLASSES_LIMIT, Evaluation

if TYPE_CHECKING:
    from models_app.models import Model, ModelVersion

BATCH = 256
_KEPT = 4  # models per process


# --- A model and its weights ----------------------------------------------------------------


@dataclass(frozen=True)
class StateVariable:
    """One variable of a model's state, and where it lives."""

    variable: Any
    layer: str  # names through nested models, joined by "."
    trained: bool  # False where its layer, or one around it, is not trainable

    def spec(self, ordinal: int) -> wire.WeightSpec:
        """The variable as a line of the weights manifest.

        Integers are state (a seed, a counter) and averaging them would mean nothing: frozen,
        like the layers that the model's author froze.
        """
        dtype = np.dtype(self.variable.dtype)
        averaged = dtype.kind == "f" and self.trained
        return wire.WeightSpec(
            name=wire.tensor_name(ordinal, self.layer, self.variable.name),
            ordinal=ordinal,
            layer=self.layer,
            shape=tuple(self.variable.shape),
            dtype=dtype_code(dtype),
            role=wire.FEDERATED if averaged else wire.FROZEN,
        )


def dtype_code(dtype: np.dtype) -> str:
    """How safetensors calls a NumPy dtype: float32 is "F32"."""
    return "BOOL" if dtype.kind == "b" else f"{dtype.kind.upper()}{8 * dtype.itemsize}"


def build(architecture: Mapping[str, Any]) -> keras.Model:
    """A model from its architecture, not compiled, with weights that mean nothing yet."""
    return keras.models.model_from_json(json.dumps(architecture))


def state_bytes(architecture: Mapping[str, Any]) -> int:
    """How many bytes a model's state would take, of which none is allocated.

    It forgets what Keras knows of other models: for a process of one file.
    """
    try:
        with keras.StatelessScope(initialize_variables=False):
            variables = build(architecture).variables
        return sum(math.prod(one.shape) * tf.as_dtype(one.dtype).size for one in variables)
    finally:
        keras.backend.clear_session()  # or the next scope would fill what this one has not


def state_variables(model: keras.Model) -> list[StateVariable]:
    """All of a model's state in creation order: weights, BatchNorm statistics, seeds.

    The order is that of `model.variables`, which is the same on every backend; a variable that
    several layers share counts where it is met first.
    """
    found = list(_walk(model, (), True))
    unique = list({id(state.variable): state for state in found}.values())
    if [id(state.variable) for state in unique] != _unique_ids(model.variables):
        raise InvalidModel(f"Expected state that belongs to layers. Received: {model.name}")
    return unique


def _walk(layer: Any, path: tuple[str, ...], trained: bool) -> Iterator[StateVariable]:
    trained = trained and layer.trainable
    own = [*layer._trainable_variables, *layer._non_trainable_variables]
    own += [generator.state for generator in layer._seed_generators]
    for variable in own:
        yield StateVariable(variable, ".".join(path), trained)
    for child in layer._layers:
        yield from _walk(child, (*path, child.name), trained)


def _unique_ids(variables: Sequence[Any]) -> list[int]:
    return list(dict.fromkeys(id(variable) for variable in variables))


def manifest(model: keras.Model) -> list[wire.WeightSpec]:
    """The weights manifest of a model, before anyone said which weights are local."""
    return [state.spec(ordinal) for ordinal, state in enumerate(state_variables(model))]


def read_state(model: keras.Model) -> dict[str, np.ndarray]:
    """The model's state by names of the wire, in creation order."""
    pairs = zip(manifest(model), state_variables(model), strict=True)
    return {spec.name: state.variable.numpy() for spec, state in pairs}


def load_state(
    model: keras.Model,
    weights: Sequence[wire.WeightSpec],
    tensors: Mapping[str, np.ndarray],
) -> None:
    """Set the state that `tensors` holds; the rest stays as it is.

    Args:
        model: Built from the architecture that `weights` describes.
        weights: The whole weights manifest.
        tensors: Arrays by name.
    """
    for spec, state in zip(weights, state_variables(model), strict=True):
        if spec.name in tensors:
            state.variable.assign(tensors[spec.name])


def build_version(version: "ModelVersion") -> keras.Model:
    """A model that predicts what this version predicts, to the bit."""
    from models_app import selectors  # needs Django's apps, which the opening process has not

    model = build(version.model.architecture)
    load_state(model, version.model.weights, selectors.tensors(version))
    return model


# --- Evaluation -----------------------------------------------------------------------------


def evaluate(version: "ModelVersion") -> Evaluation:
    """Loss and quality of a version on its model's held-out set.

    Returns:
        Metrics `{"loss": …, "accuracy": …}` for a classifier, with its confusion matrix,
        `{"loss": …, "mean_absolute_error": …}` for a regression; nothing for a model without an
        evaluation set.

    Raises:
        NonFinite: A weight or the loss is NaN or infinite.
    """
    if not version.model.evaluation_set:
        return Evaluation()
    with _lock:
        return _kept(version.model).evaluate(version)


def is_warm(model: "Model") -> bool:
    """Whether this process has the model built, with its evaluation compiled."""
    return _key(model) in _models


@dataclass
class _Kept:
    """A model kept warm, and which fixed weights it holds at present."""

    evaluator: "Evaluator"
    fixed: str = ""

    def evaluate(self, version: "ModelVersion") -> Evaluation:
        model = version.model
        self._refuse_non_finite(version)
        self.evaluator.load(wire.open_tensors(blobs.path(version.weights), model.federated))
        if version.fixed != self.fixed:
            self.evaluator.load(wire.open_tensors(blobs.path(version.fixed), model.fixed))
            self.fixed = version.fixed
        return self.evaluator.evaluate()

    @staticmethod
    def _refuse_non_finite(version: "ModelVersion") -> None:
        specs = version.model.federated
        try:
            wire.norm(wire.open_flat(blobs.path(version.weights), specs), specs)
        except wire.WireError as error:
            raise NonFinite(error.detail, field=error.field) from None


_lock = Lock()
_models: OrderedDict[tuple[str, ...], _Kept] = OrderedDict()


def _key(model: "Model") -> tuple[str, ...]:
    parts = [model.weights_manifest, model.input_spec, model.objective]
    return (model.architecture_digest, model.evaluation_set, json.dumps(parts))


def _kept(model: "Model") -> _Kept:
    key = _key(model)
    if key not in _models:
        data = read_examples(blobs.path(model.evaluation_set))
        spec, objective = wire.InputSpec.from_json(model.input_spec), model.objective
        built = build(model.architecture)
        _models[key] = _Kept(Evaluator(built, model.weights, spec, objective, *data))
    _models.move_to_end(key)
    while len(_models) > _KEPT:
        _models.popitem(last=False)
    return _models[key]


def read_examples(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """The examples and answers of an evaluation set, as they were given (raw bytes of images)."""
    from safetensors.numpy import load_file

    tensors = load_file(path)
    return tensors["x"], tensors["y"]


class Evaluator:
    """A built model with its examples and one compiled function that walks over them.

    Args:
        model: Built model, one input and one output.
        weights: The model's weights manifest.
        input_spec: How raw examples become inputs.
        objective: `{"loss": name, "from_logits": bool}`.
        x: Raw examples (n, …).
        y: Answers (n, …): class numbers, one-hot rows or values.

    Raises:
        InvalidModel: The examples or answers do not fit the model.
    """

    def __init__(
        self,
        model: keras.Model,
        weights: Sequence[wire.WeightSpec],
        input_spec: wire.InputSpec,
        objective: Mapping[str, Any],
        x: np.ndarray,
        y: np.ndarray,
    ) -> None:
        self.model = model
        self.weights = weights
        self._judge = _JUDGES[objective["loss"]](bool(objective["from_logits"]))
        try:
            self._x = tf.constant(input_spec.prepare(x))
        except wire.WireError as error:
            raise InvalidModel(f"Evaluation set: {error.detail}", field="evaluation") from None
        output = tuple(model.output_shape)
        self._y = tf.constant(self._judge.answers(y, len(x), output))
        self._classes = _confused_classes(self._judge, output)
        self._totals = tf.function(self._sum_over_batches)

    def load(self, tensors: Mapping[str, np.ndarray]) -> None:
        """Set the weights that `tensors` holds."""
        load_state(self.model, self.weights, tensors)

    def evaluate(self) -> Evaluation:
        """Means over all examples, summed in float64, and the confusion matrix, in one pass.

        Raises:
            NonFinite: A mean is NaN or infinite.
        """
        count, classes = int(self._x.shape[0]), self._classes
        sums, counts = (tensor.numpy() for tensor in self._totals())
        totals = sums / count
        means = dict(zip(("loss", self._judge.quality), map(float, totals), strict=True))
        if not np.isfinite(totals).all():
            raise NonFinite(f"Expected a finite loss on {count} examples. Received: {means}")
        return Evaluation(means, counts.reshape(classes, classes).tolist() if classes else None)

    def _sum_over_batches(self) -> tuple[tf.Tensor, tf.Tensor]:
        totals, count = tf.zeros(2, tf.float64), tf.shape(self._x)[0]
        pairs = tf.TensorArray(tf.int64, (count + BATCH - 1) // BATCH, element_shape=[None])
        for start in tf.range(0, count, BATCH):
            stop = tf.minimum(start + BATCH, count)
            outputs = self.model(self._x[start:stop], training=False)
            y, outputs = self._y[start:stop], tf.cast(outputs, tf.float32)
            judged = self._judge(y, outputs)
            totals += tf.stack([tf.reduce_sum(_per_example(column)) for column in judged])
            if self._classes:
                true, given = self._judge.classes(y, outputs)
                pairs = pairs.write(start // BATCH, true * self._classes + given)
        return totals, self._count(pairs.concat()) if self._classes else totals

    def _count(self, pairs: tf.Tensor) -> tf.Tensor:
        """How often each pair of a true and a given class occurs, in one row."""
        cells = self._classes**2
        return tf.math.bincount(tf.cast(pairs, tf.int32), minlength=cells, maxlength=cells)


def _confused_classes(judge: "_Judge", output: tuple[int | None, ...]) -> int:
    """How many classes a confusion matrix has, 0 where it makes no sense.

    It counts examples, so each of them has one answer; positions within an example it would
    count as if they were examples.
    """
    classes = judge.class_count(output[-1] or 0) if len(output) == 2 else 0
    return classes if 2 <= classes <= CLASSES_LIMIT else 0


def _per_example(values: tf.Tensor) -> tf.Tensor:
    """One float64 number for each example, whatever dimensions follow the first."""
    flat = tf.reshape(tf.cast(values, tf.float64), [tf.shape(values)[0], -1])
    return tf.reduce_mean(flat, axis=1)


class _Judge(Protocol):
    """What a loss needs to know: its answers, and how good each output is."""

    quality: ClassVar[str]

    def answers(self, y: np.ndarray, count: int, output: tuple[int | None, ...]) -> np.ndarray:
        """The answers in the shape and dtype that the loss takes."""

    def __call__(self, y: tf.Tensor, outputs: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Loss and quality of a batch, element by element."""

    def class_count(self, units: int) -> int:
        """Of how many classes each answer is one; 0 where an answer is something else."""

    def classes(self, y: tf.Tensor, outputs: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """True class and given class of each example, int64, where there are classes."""


@dataclass(frozen=True)
class _Sparse:
    """Class numbers against a row of scores."""

    from_logits: bool
    quality: ClassVar[str] = "accuracy"

    def answers(self, y: np.ndarray, count: int, output: tuple[int | None, ...]) -> np.ndarray:
        if y.ndim == len(output) and y.shape[-1] == 1:
            y = y[..., 0]
        classes = output[-1] or 0
        _expect_answers(y, count, y.ndim == len(output) - 1, f"class numbers for {output}")
        if y.dtype.kind == "f" and (y != np.floor(y)).any():
            raise InvalidModel(
                "Expected whole class numbers. Received: fractions", field="evaluation"
            )
        if y.size and not (y.min() >= 0 and y.max() < classes):
            raise InvalidModel(
                f"Expected classes from 0 to {classes - 1}. Received: {y.min()} to {y.max()}",
                field="evaluation",
            )
        return y.astype(np.int64)

    def __call__(self, y: tf.Tensor, outputs: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        loss = keras.losses.sparse_categorical_crossentropy(
            y, outputs, from_logits=self.from_logits
        )
        return loss, tf.argmax(outputs, -1) == y

    def class_count(self, units: int) -> int:
        return units

    def classes(self, y: tf.Tensor, outputs: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return y, tf.argmax(outputs, -1)


@dataclass(frozen=True)
class _Dense:
    """Answers of the same shape as the outputs."""

    from_logits: bool
    quality: ClassVar[str] = "accuracy"

    def class_count(self, units: int) -> int:
        return 0

    def classes(self, y: tf.Tensor, outputs: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        raise NotImplementedError

    def answers(self, y: np.ndarray, count: int, output: tuple[int | None, ...]) -> np.ndarray:
        if y.ndim == len(output) - 1 and output[-1] == 1:
            y = y[..., np.newaxis]
        fits = y.ndim == len(output) and y.shape[-1] == output[-1]
        _expect_answers(y, count, fits, f"answers of shape {output}")
        return y.astype(np.float32)


class _OneHot(_Dense):
    """One-hot rows against a row of scores."""

    def __call__(self, y: tf.Tensor, outputs: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        loss = keras.losses.categorical_crossentropy(y, outputs, from_logits=self.from_logits)
        return loss, tf.argmax(outputs, -1) == tf.argmax(y, -1)

    def class_count(self, units: int) -> int:
        return units

    def classes(self, y: tf.Tensor, outputs: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return tf.argmax(y, -1), tf.argmax(outputs, -1)


class _Binary(_Dense):
    """Yes and no, one output or several."""

    def __call__(self, y: tf.Tensor, outputs: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        loss = keras.losses.binary_crossentropy(y, outputs, from_logits=self.from_logits)
        return loss, self._yes(outputs) == (y > 0.5)

    def class_count(self, units: int) -> int:
        return 2 if units == 1 else 0

    def classes(self, y: tf.Tensor, outputs: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return tf.cast(y[:, 0] > 0.5, tf.int64), tf.cast(self._yes(outputs)[:, 0], tf.int64)

    def _yes(self, outputs: tf.Tensor) -> tf.Tensor:
        return outputs > (0.0 if self.from_logits else 0.5)


class _Squared(_Dense):
    quality: ClassVar[str] = "mean_absolute_error"

    def __call__(self, y: tf.Tensor, outputs: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return tf.square(outputs - y), tf.abs(outputs - y)


class _Absolute(_Dense):
    quality: ClassVar[str] = "mean_absolute_error"

    def __call__(self, y: tf.Tensor, outputs: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return tf.abs(outputs - y), tf.abs(outputs - y)


_JUDGES: dict[str, Callable[[bool], _Judge]] = {
    "sparse_categorical_crossentropy": _Sparse,
    "categorical_crossentropy": _OneHot,
    "binary_crossentropy": _Binary,
    "mean_squared_error": _Squared,
    "mean_absolute_error": _Absolute,
}


def _expect_answers(y: np.ndarray, count: int, fits: bool, expected: str) -> None:
    if y.dtype.kind not in "fiub" or not fits or len(y) != count:
        received = f"shape {y.shape}, dtype {y.dtype}"
        raise InvalidModel(f"Expected {count} {expected}. Received: {received}", field="evaluation")


# --- Prediction -----------------------------------------------------------------------------


def predict(version: "ModelVersion", inputs: np.ndarray) -> np.ndarray:
    """What a version answers to prepared inputs.

    Its model is kept with its weights, apart from those that are evaluated: a candidate's weights
    must not be in the way of whoever tries what is served.

    Args:
        version: The version.
        inputs: As `InputSpec.prepare` gives them.
    """
    with _lock:
        return _predictor(version.model).predict(version, inputs)


def warm(version: "ModelVersion") -> None:
    """Build and load what `predict` needs, so that it takes the time of the arithmetic only."""
    with _lock:
        _predictor(version.model).load(version)


@dataclass
class _Predictor:
    """A built model, and which version it holds at present."""

    model: keras.Model
    holds: tuple[str, str] = ("", "")

    def load(self, version: "ModelVersion") -> None:
        from models_app import selectors

        wanted = (version.weights, version.fixed)
        if self.holds != wanted:
            self.holds = ("", "")  # half loaded, should this fail
            load_state(self.model, version.model.weights, selectors.tensors(version))
            self.holds = wanted

    def predict(self, version: "ModelVersion", inputs: np.ndarray) -> np.ndarray:
        self.load(version)
        # Not compiled: one example pays for no tracing.
        outputs = self.model(tf.constant(inputs), training=False)
        found: np.ndarray = tf.cast(outputs, tf.float32).numpy()
        return found


_predictors: OrderedDict[tuple[str, ...], _Predictor] = OrderedDict()


def _predictor(model: "Model") -> _Predictor:
    key = (model.architecture_digest, json.dumps(model.weights_manifest))
    if key not in _predictors:
        _predictors[key] = _Predictor(build(model.architecture))
    _predictors.move_to_end(key)
    while len(_predictors) > _KEPT:
        _predictors.popitem(last=False)
    return _predictors[key]


# --- What a model is trained for ------------------------------------------------------------


def infer_objective(model: keras.Model, compiled: Any, loss: str) -> dict[str, Any]:
    """What the model's loss is, from what its author said or else from its last activation.

    Args:
        model: Built model.
        compiled: The `compile_config` of its file, or None.
        loss: Name of a loss that the caller asks for; empty to infer it.

    Raises:
        InvalidModel: Nothing tells, or the loss is none of ours.
    """
    activation = _last_activation(model)
    named, from_logits = _named_loss((compiled or {}).get("loss"))
    name = loss or named or _loss_of(activation, model.output_shape[-1])
    if name not in _JUDGES:
        known = ", ".join(_JUDGES)
        raise InvalidModel(f"Expected one of the losses {known}. Received: {name!r}", field="loss")
    if from_logits is None or name != named:
        from_logits = activation not in ("softmax", "sigmoid")
    return {"loss": name, "from_logits": bool(from_logits) and name.endswith("crossentropy")}


def _named_loss(loss: Any) -> tuple[str, bool | None]:
    """Name of a loss as Keras writes it into a file, and whether it takes logits if it says."""
    if not isinstance(loss, dict):
        return (loss, None) if isinstance(loss, str) else ("", None)
    config = loss.get("config")
    if isinstance(config, dict):
        return str(config.get("name", "")), config.get("from_logits")
    return str(config or ""), None


def _loss_of(activation: str, units: int | None) -> str:
    if activation == "softmax":
        return "sparse_categorical_crossentropy"
    if activation == "sigmoid":
        return "binary_crossentropy"
    if activation == "linear":
        # Several plain outputs are the scores of a classifier more often than anything else.
        return "mean_squared_error" if units == 1 else "sparse_categorical_crossentropy"
    raise InvalidModel(
        f"Expected a loss, for the model's last activation does not tell. Received: {activation}",
        field="loss",
    )


def _last_activation(model: Any) -> str:
    layer = model.outputs[0]._keras_history.operation
    while isinstance(layer, keras.Model):
        layer = layer.outputs[0]._keras_history.operation
    if isinstance(layer, keras.layers.TimeDistributed):
        layer = layer.layer
    activation = getattr(layer, "activation", None)
    return getattr(activation, "__name__", "") or type(layer).__name__.lower()
