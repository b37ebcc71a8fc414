"""A model that is built once and filled with one version's weights after another.

What training, prediction and evaluation share: what the model document says, the Keras model that
was built of it, the way in for weights, and a forward pass that is compiled once.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import numpy as np

from client_sdk import building
from client_sdk.building import ModelRefused
from client_sdk.data import Batch, Examples, TrainingDataRefused
from client_sdk.errors import ParticipantError
from client_sdk.held_out import Measured
from client_sdk.objective import Objective
from client_sdk.wire import InputSpec, WireError, read_weights

BATCH: Final = 256  # examples that are predicted or judged at a time
SEED_STATE: Final = "seed_generator_state"  # Keras' name for the counter behind Dropout


class WeightsRefused(ParticipantError):
    """The weights given are not those of the model."""


def import_keras() -> Any:
    """Keras, imported in the way that is fastest for us."""
    # TensorFlow's faster convolutions are off on processors without AVX512-VNNI, where they
    # halve the time of training as well; it reads this when it is imported.
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    import keras

    return keras


class Network:
    """A Keras model as its server describes it.

    Args:
        document: `architecture` (Keras JSON), `weights` (manifest), `input_spec`, `objective` and
            perhaps `labels`. It need not be trusted.
        memory: bytes that the model may take; `memory_limit` says when None.

    Attributes:
        model: the `keras.Model`, frozen where the manifest says so, not compiled.
        weights: the manifest; `input_spec`, `objective`, `labels` the rest of the document.
        variables: the model's variable for each line of the manifest, by name.
        generation: rises when what was compiled before no longer fits the weights.

    Raises:
        ModelRefused: when the model is not made of built-in Keras layers, does not fit its
            manifest or this machine, or has an unknown objective.
    """

    def __init__(self, document: Mapping[str, Any], memory: int | None = None) -> None:
        import_keras()
        try:
            self.weights = read_weights(document["weights"])
            self.input_spec = InputSpec.from_json(document["input_spec"])
            self.objective = Objective.from_json(document["objective"])
            self.labels = [str(label) for label in document.get("labels") or []]
            described = document["architecture"]
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            received = str(error) if type(error) in (ValueError, WireError) else repr(error)
            raise ModelRefused(f"Expected a whole model document. Received: {received}") from error
        self.model = building.build(described, self.input_spec.shape, self.weights, memory)
        self.variables = building.variables(self.model, self.weights)
        building.freeze(self.model, self.weights)
        # Layers such as Normalization keep numbers that they work out of their weights, and a
        # graph holds these as constants.
        self._finals = [
            layer for layer in self.model._flatten_layers() if hasattr(layer, "finalize_state")
        ]
        self._final: list[bytes] = []
        self.generation = 0
        self._forward: Callable[[np.ndarray], np.ndarray] | None = None

    def load(self, weights: Mapping[str, np.ndarray]) -> None:
        """Put a version's weights in place.

        Raises:
            WeightsRefused: a tensor is missing or has another shape.
        """
        for name, variable in self.variables.items():
            if variable.name == SEED_STATE:  # differs between backends; training sets it
                continue
            value = weights.get(name)
            if value is None or tuple(value.shape) != tuple(variable.shape):
                received = "none" if value is None else value.shape
                raise WeightsRefused(
                    f"Expected tensor `{name}` of shape {tuple(variable.shape)}. "
                    f"Received: {received}"
                )
            # Copied, for JAX would share the memory: what is trained must not change its base.
            variable.assign(np.array(value))
        self._finalize()

    def _finalize(self) -> None:
        finals = [v.numpy().tobytes() for layer in self._finals for v in layer.variables]
        if finals == self._final:
            return
        self._final = finals
        for layer in self._finals:
            layer.finalize_state()
        self.generation += 1
        self._forward = None
        if self.model.compiled:
            self.model.make_test_function(force=True)

    def compile(self, optimizer: Any) -> None:
        """Compile with the model's own loss and metrics."""
        loss, metrics = self.objective.compiled()
        self.model.compile(optimizer=optimizer, loss=loss, metrics=metrics)

    # --- What goes in -----------------------------------------------------------------------

    def inputs(self, x: np.ndarray, *, finite: bool = True) -> np.ndarray:
        """Raw examples as the model takes them.

        Args:
            x: raw examples (n, *shape).
            finite: whether to look for NaN and infinity.

        Raises:
            TrainingDataRefused: another shape, no numbers, or values that are not finite.
        """
        try:
            prepared = self.input_spec.prepare(x)
        except WireError as error:
            raise TrainingDataRefused(error.detail) from error
        # Integers times finite numbers are finite.
        doubtful = prepared.dtype.kind == "f" and np.asarray(x).dtype.kind == "f"
        if finite and doubtful and not np.isfinite(prepared).all():
            raise TrainingDataRefused("Expected finite examples. Received: NaN or infinity")
        return prepared

    def targets(self, y: np.ndarray) -> np.ndarray:
        """Labels as the loss takes them; see `Objective.targets`."""
        return self.objective.targets(np.asarray(y), self.model.output_shape)

    def batches(self, examples: Examples, size: int = BATCH) -> Iterator[Batch]:
        """All examples as the model takes them, with their labels, in their own order."""
        for x, y in examples.batches(size):
            yield self.inputs(x), self.targets(y)

    # --- What comes out ---------------------------------------------------------------------

    def outputs(self, x: np.ndarray) -> np.ndarray:
        """The model's outputs (n, …) for raw examples (n, *shape)."""
        prepared = self.inputs(x)
        starts = range(0, max(len(prepared), 1), BATCH)
        return np.concatenate([self._outputs(prepared[at : at + BATCH]) for at in starts])

    def evaluate(
        self, examples: Examples, check: Callable[[], object] | None = None
    ) -> dict[str, float]:
        """Loss, and accuracy where the objective has classes, over all examples.

        Args:
            examples: with labels.
            check: called between batches; what it raises breaks it off.
        """
        return self._measured(examples, None, check).metrics

    def measure(self, examples: Examples, check: Callable[[], object] | None = None) -> Measured:
        """The same, with how many of each class were recognised.

        Args:
            examples: that were held out.
            check: called between batches; what it raises breaks it off.
        """
        count = len(self.labels)
        told = self.objective.exclusive and self.model.output_shape[1:] == (count,)
        classes = np.zeros((count, 2), np.int64) if told else None
        return self._measured(examples, classes, check)

    def _measured(
        self,
        examples: Examples,
        classes: np.ndarray | None,
        check: Callable[[], object] | None,
    ) -> Measured:
        count, totals = 0, dict[str, float]()
        for x, y in self.batches(examples):
            if check is not None:
                check()
            found = self.model.test_on_batch(x, y, return_dict=True)
            for name, value in found.items():
                totals[name] = totals.get(name, 0.0) + float(value) * len(x)
            if classes is not None:
                truth = y if self.objective.sparse else y.argmax(axis=-1)
                right = truth[self._outputs(x).argmax(axis=-1) == truth]
                for part, those in enumerate((truth, right)):
                    classes[:, part] += np.bincount(those, minlength=len(classes))
            count += len(x)
        if not count:
            raise TrainingDataRefused("Expected at least one example. Received: none")
        metrics = {name: total / count for name, total in totals.items()}
        return Measured(count, metrics, None if classes is None else classes.tolist())

    def _outputs(self, prepared: np.ndarray) -> np.ndarray:
        """The model's outputs for no more than `BATCH` examples."""
        if self._forward is None:
            self._forward = self._new_forward()
        return self._forward(prepared)

    def _new_forward(self) -> Callable[[np.ndarray], np.ndarray]:
        """A forward pass for any number of examples up to `BATCH`.

        `model.predict` prepares a dataset, callbacks and an iterator for each call: 50 ms, for a
        photo that takes one.
        """
        import keras

        backend = keras.backend.backend()
        if backend == "tensorflow":
            return self._tensorflow_forward()
        if backend == "jax":
            return self._jax_forward()
        return lambda x: np.asarray(keras.ops.convert_to_numpy(self.model(x, training=False)))

    def _tensorflow_forward(self) -> Callable[[np.ndarray], np.ndarray]:
        import tensorflow as tf

        spec = tf.TensorSpec((None, *self.input_spec.shape), self.input_spec.dtype)
        graph = tf.function(
            lambda x: self.model(x, training=False), autograph=False, input_signature=[spec]
        )
        return lambda x: np.asarray(graph(x))

    def _jax_forward(self) -> Callable[[np.ndarray], np.ndarray]:
        import jax
        import keras

        # Listed once: Keras walks all layers for its lists, which takes longer than a small model
        # needs to answer. The values are asked for each time, for training changes them.
        model, variables = self.model, list(self.model.variables)

        def call(values: list[Any], x: Any) -> Any:
            with keras.StatelessScope(state_mapping=list(zip(variables, values, strict=True))):
                return model(x, training=False)

        compiled = jax.jit(call)

        def forward(x: np.ndarray) -> np.ndarray:
            # A program is compiled for each length, so that lengths are rounded up to powers of 2.
            length = 1 << max(len(x) - 1, 0).bit_length()
            padded = x
            if len(x) < length:
                padded = np.zeros((length, *x.shape[1:]), x.dtype)
                padded[: len(x)] = x
            return np.asarray(compiled([variable.value for variable in variables], padded))[
                : len(x)
            ]

        return forward
