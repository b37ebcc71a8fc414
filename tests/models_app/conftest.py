"""A small model that needs no Keras: two layers by hand, one of them a head."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from django.contrib.auth.models import Group, User
from rest_framework.test import APIClient

from accounts.roles import Role
from client_sdk import wire
from models_app import registry
from models_app.models import Model
from models_app.packages import Package

Config = dict[str, Any]


def layer(class_name: str, /, **config: Any) -> Config:
    """A built-in layer as Keras writes it."""
    return {
        "module": "keras.layers",
        "class_name": class_name,
        "config": config,
        "registered_name": None,
    }


def sequential(*layers: Config, name: str = "net") -> Config:
    """A Sequential model as Keras writes it."""
    config = {"name": name, "trainable": True, "layers": list(layers)}
    return {
        "module": "keras",
        "class_name": "Sequential",
        "config": config,
        "registered_name": None,
    }


def two_layers(inputs: int = 4, hidden: int = 3, outputs: int = 2) -> Config:
    """The architecture of `alice_weights`."""
    return sequential(
        layer("InputLayer", batch_shape=[None, inputs], dtype="float32", name="x"),
        layer("Dense", name="body", units=hidden, activation="relu"),
        layer("Dense", name="head", units=outputs, activation="softmax"),
    )


SHAPES = (
    ("body", "kernel", (4, 3)),
    ("body", "bias", (3,)),
    ("head", "kernel", (3, 2)),
    ("head", "bias", (2,)),
)


@pytest.fixture
def weights() -> list[wire.WeightSpec]:
    return [
        wire.WeightSpec(
            name=wire.tensor_name(ordinal, path, name),
            ordinal=ordinal,
            layer=path,
            shape=shape,
            dtype="F32",
            role=wire.FEDERATED,
        )
        for ordinal, (path, name, shape) in enumerate(SHAPES)
    ]


@pytest.fixture
def tensors(weights: list[wire.WeightSpec]) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(1)
    return {spec.name: generator.normal(size=spec.shape).astype(np.float32) for spec in weights}


@pytest.fixture
def package(weights: list[wire.WeightSpec], tensors: dict[str, np.ndarray]) -> Package:
    return Package(
        architecture=two_layers(),
        weights=weights,
        tensors=tensors,
        input_spec=wire.InputSpec(shape=(4,)),
        objective={"loss": "sparse_categorical_crossentropy", "from_logits": False},
        outputs=2,
    )


@pytest.fixture
def digits(db: None, package: Package) -> Model:
    """A registered model that serves version 1."""
    return registry.create_model("digits", package, actor="alice")


@pytest.fixture
def parts(tmp_path: Path, tensors: dict[str, np.ndarray]) -> dict[str, Path]:
    """The small model as files: Keras JSON, safetensors, an evaluation set."""
    paths = {
        "architecture": tmp_path / "model.json",
        "weights": tmp_path / "weights.safetensors",
        "evaluation": tmp_path / "held_out.npz",
    }
    paths["architecture"].write_text(json.dumps(two_layers()))
    wire.dump(paths["weights"], tensors)
    x = np.random.default_rng(2).normal(size=(20, 4)).astype(np.float32)
    np.savez(paths["evaluation"], x=x, y=np.arange(20) % 2)
    return paths


@pytest.fixture
def user(db: None) -> Callable[[str, str], User]:
    """`user("alice", "owner")`"""

    def make(name: str, role: str) -> User:
        made = User.objects.create_user(name, password="a long secret", is_staff=True)
        if role != Role.VIEWER:
            made.groups.add(Group.objects.get_or_create(name=role)[0])
        return made

    return make


@pytest.fixture
def api(user: Callable[[str, str], User]) -> Callable[[str, str], APIClient]:
    """`api("alice", "owner")`: a client that is signed in."""

    def make(name: str, role: str) -> APIClient:
        client = APIClient()
        client.force_authenticate(user(name, role))
        return client

    return make
