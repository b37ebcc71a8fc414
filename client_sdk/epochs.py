"""How a slice of an epoch is trained, on each backend.

`model.fit` starts each call with work that has nothing to do with the numbers: 150 ms for a
call, and a step at a time through Python. Rounds are short. So on TensorFlow a slice is one graph,
traced once, that takes any number of examples and any batch size; on JAX a step is one compiled
program, kept for each length of a batch. Both take Keras' own `train_step`, so that the result is
that of `fit` over the same batches, and where one slice ends and the next begins changes no bit.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from client_sdk.network import Network


class Epoch(Protocol):
    """Trains the batches that it is given, one slice after another."""

    @property
    def traces(self) -> int:
        """How often a slice was compiled."""

    def begin(self) -> None:
        """Forget the metrics of the epoch before."""

    def train(self, x: np.ndarray, y: np.ndarray, batch_size: int) -> None:
        """Train on all of these examples, as the model takes them; the last batch may be short."""

    def metrics(self) -> dict[str, float]:
        """Loss and metrics since `begin`, over the batches as they were seen."""


def new_epoch(network: Network) -> Epoch:
    """The way to train that suits the backend."""
    import keras

    backend = keras.backend.backend()
    if backend == "tensorflow":
        return GraphEpoch(network)
    return JaxEpoch(network) if backend == "jax" else BatchEpoch(network)


class GraphEpoch:
    """A slice as one TensorFlow graph, traced once for any number of samples."""

    def __init__(self, network: Network) -> None:
        import tensorflow as tf

        model, inputs = network.model, network.input_spec
        sparse = network.objective.sparse
        _build_metrics(network)
        targets = model.output_shape[:-1] if sparse else model.output_shape
        self._tf, self._model = tf, model
        self._graph = tf.function(
            self._slice,
            autograph=False,
            input_signature=[
                tf.TensorSpec((None, *inputs.shape), inputs.dtype),
                tf.TensorSpec(targets, tf.int32 if sparse else tf.float32),
                tf.TensorSpec((), tf.int32),
            ],
        )

    def begin(self) -> None:
        self._model.reset_metrics()

    def train(self, x: np.ndarray, y: np.ndarray, batch_size: int) -> None:
        self._graph(x, y, min(batch_size, len(x)))

    def metrics(self) -> dict[str, float]:
        found = self._model.get_metrics_result()
        return {name: float(value) for name, value in found.items()}

    @property
    def traces(self) -> int:
        return int(self._graph.experimental_get_tracing_count())

    def _slice(self, x: Any, y: Any, batch_size: Any) -> None:
        tf, model = self._tf, self._model
        count = tf.shape(x)[0]

        def step(start: Any) -> tuple[Any]:
            end = tf.minimum(start + batch_size, count)
            model.train_step((x[start:end], y[start:end]))
            return (end,)

        tf.while_loop(lambda start: start < count, step, [0], parallel_iterations=1)


class JaxEpoch:
    """Step by step through one program, compiled once for each length of a batch."""

    def __init__(self, network: Network) -> None:
        import jax

        _build_metrics(network)
        self._model = network.model
        self._traces = 0
        self._step = jax.jit(self._traced, donate_argnums=0)

    def _traced(self, state: Any, data: Any) -> Any:
        self._traces += 1  # when it is traced, not when it runs
        return self._model.train_step(state, data)[1]

    def begin(self) -> None:
        self._model.reset_metrics()

    def train(self, x: np.ndarray, y: np.ndarray, batch_size: int) -> None:
        groups = self._state()
        state = [[variable.value for variable in group] for group in groups]
        for start in range(0, len(x), batch_size):
            end = start + batch_size
            state = self._step(tuple(state), (x[start:end], y[start:end]))
        for group, values in zip(groups, state, strict=True):
            for variable, value in zip(group, values, strict=True):
                variable.assign(value)

    def _state(self) -> list[list[Any]]:
        model = self._model
        return [
            model.trainable_variables,
            model.non_trainable_variables,
            model.optimizer.variables,
            model.metrics_variables,
        ]

    def metrics(self) -> dict[str, float]:
        found = self._model.get_metrics_result()
        return {name: float(value) for name, value in found.items()}

    @property
    def traces(self) -> int:
        return self._traces


class BatchEpoch:
    """Batch by batch through Keras: the way that every backend has."""

    def __init__(self, network: Network) -> None:
        self._model = network.model
        self.begin()

    @property
    def traces(self) -> int:
        return 0

    def begin(self) -> None:
        self._totals: dict[str, float] = {}
        self._seen = 0

    def train(self, x: np.ndarray, y: np.ndarray, batch_size: int) -> None:
        for start in range(0, len(x), batch_size):
            batch = x[start : start + batch_size], y[start : start + batch_size]
            found = self._model.train_on_batch(*batch, return_dict=True)
            for name, value in found.items():
                self._totals[name] = self._totals.get(name, 0.0) + float(value) * len(batch[0])
            self._seen += len(batch[0])

    def metrics(self) -> dict[str, float]:
        return {name: total / max(self._seen, 1) for name, total in self._totals.items()}


def _build_metrics(network: Network) -> None:
    """Let loss and metrics make their variables, which a compiled step must not."""
    model, inputs = network.model, network.input_spec
    x = np.zeros((1, *(length or 1 for length in inputs.shape)), inputs.dtype)
    found = model(x, training=False)
    sparse = network.objective.sparse
    y = np.zeros(found.shape[:-1] if sparse else found.shape, np.float32)
    model.compute_loss(x=x, y=y, y_pred=found, training=False)
    model.compute_metrics(x, y, found)
