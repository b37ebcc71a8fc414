"""Models as their server describes them, for tests with Keras."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from client_sdk.testing import FakeServer
from client_sdk.wire import FEDERATED, FROZEN, WeightSpec, tensor_name

CROSSENTROPY = {"loss": "sparse_categorical_crossentropy", "from_logits": False}
SQUARES = {"loss": "mean_squared_error", "from_logits": False}
ABSOLUTES = {"loss": "mean_absolute_error", "from_logits": False}

# `KERAS_BACKEND=jax` runs the same tests on JAX, but for those about TensorFlow's graphs.
# A few of them, which between them touch everything that differs, do so in each `make test`.
on_jax_too = pytest.mark.jax
on_tensorflow = pytest.mark.skipif(
    os.environ.get("KERAS_BACKEND", "tensorflow") != "tensorflow", reason="about TensorFlow alone"
)


class Server:
    """A model as its server describes it, and the weights of its first version."""

    def __init__(
        self,
        model: Any,
        objective: dict[str, Any],
        roles: Callable[[str], str] = lambda layer: FEDERATED,
        **input_spec: Any,
    ) -> None:
        self.manifest = [
            _spec(ordinal, variable, roles) for ordinal, variable in enumerate(model.variables)
        ]
        self.weights = {
            spec.name: variable.numpy()
            for spec, variable in zip(self.manifest, model.variables, strict=True)
        }
        self.document = {
            "architecture": json.loads(model.to_json()),
            "weights": [spec.to_json() for spec in self.manifest],
            "input_spec": {"shape": list(model.input_shape[1:]), **input_spec},
            "objective": objective,
        }

    def fake(self, labels: tuple[str, ...] = (), **more: Any) -> FakeServer:
        """A server in memory that has this model and serves its first version."""
        document = self.document | {"labels": list(labels)} | more
        server = FakeServer(self.manifest, document=document)
        server.serve_version(self.weights)
        return server

    def name(self, part: str) -> str:
        """The one weight whose name has this part."""
        [found] = [spec.name for spec in self.manifest if part in spec.name]
        return found


def _spec(ordinal: int, variable: Any, roles: Callable[[str], str]) -> WeightSpec:
    layer = variable.path.rpartition("/")[0].replace("/", ".")
    floats = variable.dtype == "float32"
    return WeightSpec(
        name=tensor_name(ordinal, layer, variable.name),
        ordinal=ordinal,
        layer=layer,
        shape=tuple(variable.shape),
        dtype="F32" if floats else "I64",
        role=roles(layer) if floats else FROZEN,
    )


def line(keras: ModuleType, objective: dict[str, Any]) -> Server:
    """y = w x with w = 1."""
    layers = [keras.Input((1,)), keras.layers.Dense(1, use_bias=False, kernel_initializer="ones")]
    return Server(keras.Sequential(layers), objective)


def branches(keras: ModuleType) -> Any:
    """Everything that trains in its own way: statistics, dropout, penalties, two branches."""
    image = keras.Input((6, 6, 1))
    x = keras.layers.Conv2D(4, 3, activation="relu", kernel_regularizer="l2")(image)
    x = keras.layers.BatchNormalization()(x)
    x = keras.layers.Flatten()(x)
    left = keras.layers.Dense(8, activation="relu")(keras.layers.Dropout(0.4)(x))
    right = keras.layers.Dense(8, activity_regularizer="l1")(x)
    x = keras.layers.Dropout(0.2)(left * 2 + right)
    return keras.Model(image, keras.layers.Dense(3, activation="softmax")(x))


def words(keras: ModuleType) -> Any:
    inner = keras.Sequential([keras.Input((8,)), keras.layers.Dense(6, activation="tanh")])
    layers = [
        keras.Input((5,), dtype="int32"),
        keras.layers.Embedding(11, 8),
        keras.layers.GlobalAveragePooling1D(),
        inner,
        keras.layers.Dense(3, activation="softmax"),
    ]
    return keras.Sequential(layers)


def data_for(server: Server, samples: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    spec = server.document["input_spec"]
    shape = (samples, *spec["shape"])
    words = spec.get("dtype") == "int32"
    x: np.ndarray = random.integers(0, 11, shape) if words else random.normal(size=shape)
    return x, random.integers(0, 3, samples)
