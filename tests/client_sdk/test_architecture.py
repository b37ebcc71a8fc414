"""Built-in parts of Keras come in; everything else is named and refused."""

import copy
from typing import Any

import pytest

from client_sdk import architecture
from client_sdk.architecture import ArchitectureRefused
from tests.models_app.conftest import Config, layer, sequential, two_layers


def inside(part: Any) -> Config:
    """A model with `part` somewhere deep in a layer's configuration."""
    return sequential(layer("Dense", name="body", units=3, activation=part))


def custom(**changes: Any) -> Config:
    return layer("Dense", name="body", units=3) | changes


HARMLESS = [
    "relu",
    {"module": "builtins", "class_name": "function", "config": "relu", "registered_name": "relu"},
    layer("LeakyReLU", negative_slope=0.1),
    {"class_name": "__keras_tensor__", "config": {"shape": [None, 3], "keras_history": ["a", 0]}},
    {"module": "keras.src.ops.numpy", "class_name": "Add", "config": {}, "registered_name": "Add"},
    {"module": "keras", "class_name": "DTypePolicy", "config": {"name": "float32"}},
    sequential(layer("Dense", name="inner", units=1), name="nested"),
]
HOSTILE = [
    (layer("Lambda", function={"class_name": "__lambda__", "config": {"value": "x"}}), "code"),
    ({"class_name": "__lambda__", "config": {"value": "4wEAAA=="}}, "Python code"),
    (custom(module="keras.src.layers.core.lambda_layer", class_name="Lambda"), "Python code"),
    (custom(module="alices_layers", class_name="Dense"), "no built-in"),
    (custom(module=None), "no built-in"),
    (custom(registered_name="alice>Dense"), "custom objects"),
    (custom(module="os", class_name="system"), "no built-in"),
    (custom(module="keras.utils", class_name="get_file"), "no built-in"),
    (custom(module="keras.src.saving.saving_lib", class_name="load_model"), "no built-in"),
    (custom(module="keras.saving", class_name="load_model"), "no built-in"),
    (layer("TFSMLayer", filepath="/srv/program"), "program from a file"),
    (layer("TorchModuleWrapper", module="gAR9"), "unpickles"),
    (layer("StringLookup", vocabulary="/etc/passwd"), "from files"),
    (layer("TextVectorization", vocabulary="/etc/passwd"), "from files"),
    (
        {
            "module": "keras.utils",
            "class_name": "function",
            "config": "get_file",
            "registered_name": "get_file",
        },
        "no built-in function",
    ),
    ({"class_name": ["Dense"], "config": {}}, "has no name"),
]


@pytest.mark.parametrize("part", HARMLESS)
def test_built_in_parts_come_in(part: Any) -> None:
    assert architecture.check(inside(part)) == inside(part)


@pytest.mark.parametrize(("part", "reason"), HOSTILE)
def test_anything_else_is_refused_with_its_place_and_the_reason(part: Any, reason: str) -> None:
    with pytest.raises(ArchitectureRefused, match=reason) as refused:
        architecture.check(inside([{"deep": part}]))
    assert "net.body" in refused.value.detail
    assert "Received: " in refused.value.detail


@pytest.mark.parametrize("config", [None, [], "Dense", {}, layer("Dense"), custom(module="keras")])
def test_only_sequential_and_functional_models_come_in(config: Any) -> None:
    with pytest.raises(ArchitectureRefused, match="Sequential or a functional"):
        architecture.check(config)


def test_an_endless_nest_is_refused_before_python_gives_up() -> None:
    config: Any = []
    for _ in range(300):
        config = [config]
    with pytest.raises(ArchitectureRefused, match="levels of nesting"):
        architecture.check(inside(config))


def test_an_optimizer_is_no_part_of_an_architecture() -> None:
    compiled = two_layers() | {"compile_config": {"optimizer": "anything", "loss": "mse"}}
    before = copy.deepcopy(compiled)
    assert architecture.check(compiled) == two_layers()
    assert compiled == before


def test_the_digest_sees_what_a_model_is_and_not_how_it_was_spelt() -> None:
    respelt = dict(reversed(two_layers().items()))
    assert architecture.digest(respelt) == architecture.digest(two_layers())
    assert architecture.digest(two_layers(hidden=5)) != architecture.digest(two_layers())
