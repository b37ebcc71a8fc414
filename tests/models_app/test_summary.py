"""An architecture in words, from its JSON and its manifest alone."""

from typing import Any

import pytest

from client_sdk import wire
from models_app import summary
from models_app.models import Model
from tests.models_app.conftest import layer, sequential


def weight(ordinal: int, path: str, shape: tuple[int, ...], role: str = "federated") -> Any:
    name = wire.tensor_name(ordinal, path, "kernel")
    return wire.WeightSpec(name, ordinal, path, shape, "F32", role).to_json()


@pytest.fixture
def nested() -> Model:
    encoder = layer("Sequential", name="encoder", layers=[layer("Dense", name="body", units=3)])
    wrapper = layer("Bidirectional", name="both", layer=layer("LSTM", name="lstm", units=4))
    conv = layer("Conv2D", name="conv", filters=8, kernel_size=[3, 3], padding="same")
    conv["build_config"] = {"input_shape": [None, None, 8, 1]}
    architecture = sequential(
        layer("InputLayer", name="x", batch_shape=[None, 8, 8, 1]), conv, encoder, wrapper
    )
    weights = [
        weight(0, "conv", (3, 3, 1, 8)),
        weight(1, "encoder.body", (8, 3), "frozen"),
        weight(2, "both.lstm.cell", (3, 16), "local"),
    ]
    return Model(architecture=architecture, weights_manifest=weights)


def test_layers_are_told_from_input_to_output_with_those_inside(nested: Model) -> None:
    told = [(one.name, one.depth, one.parameters) for one in summary.layers(nested)]
    assert told == [
        ("x", 0, 0),
        ("conv", 0, 72),
        ("encoder", 0, 0),
        ("body", 1, 24),
        ("both", 0, 48),  # its wrapper's cell has no line of its own
    ]


def test_a_layer_says_what_it_was_told_and_what_it_takes(nested: Model) -> None:
    found = {one.name: one for one in summary.layers(nested)}
    times = summary.TIMES
    assert found["x"].takes == f"8{times}8{times}1"
    assert found["conv"].settings == f"8 filters, of 3{times}3, same padding"
    assert found["conv"].takes == f"any{times}8{times}1"
    assert found["conv"].weights == (("kernel", f"3{times}3{times}1{times}8"),)
    assert found["body"].roles == ("frozen",)


def test_parameters_are_counted_by_what_becomes_of_them(nested: Model) -> None:
    assert summary.parameters(nested) == {"federated": 72, "frozen": 24, "local": 48}
