"""Builds the model that came over the network.

A server need not be trusted: `architecture.check` walks the JSON before Keras sees any of it, and
the model that Keras then builds has to fit the weights manifest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from client_sdk.architecture import ArchitectureRefused, check
from client_sdk.errors import ParticipantError
from client_sdk.wire import FROZEN, WeightSpec


class ModelRefused(ParticipantError):
    """The server's model document cannot or must not be built here."""


def build(architecture: Mapping[str, Any], shape: Sequence[int | None]) -> Any:
    """Build a model from its Keras JSON.

    Args:
        architecture: Keras' description of a model, as `json.loads(model.to_json())` gives it;
            what it says about compiling is left out.
        shape: shape of one example, without the batch.

    Returns:
        A built `keras.Model` with one input and one output, and weights of no meaning.

    Raises:
        ModelRefused: for anything but built-in layers, and what Keras cannot build.
    """
    import keras

    try:
        model = keras.saving.deserialize_keras_object(check(architecture), safe_mode=True)
        if isinstance(model, keras.Model) and not model.built:
            model.build((None, *shape))
    except ArchitectureRefused as error:
        raise ModelRefused(error.detail) from error
    except Exception as error:  # whatever the layers named in the JSON raise
        raise ModelRefused(f"Expected an architecture that Keras builds. Received: {error}") from (
            error
        )
    _expect_one_in_one_out(model, keras.Model)
    _expect_keras_layers(model)
    return model


def variables(model: Any, weights: Sequence[WeightSpec]) -> dict[str, Any]:
    """Pair each line of a weights manifest with the model's variable, in creation order.

    Raises:
        ModelRefused: when the manifest is not of this model.
    """
    found = list({id(variable): variable for variable in model.variables}.values())
    if len(found) != len(weights):
        raise ModelRefused(
            f"Expected {len(found)} weights, as the architecture has. Received: {len(weights)}"
        )
    for weight, variable in zip(weights, found, strict=True):
        shape, floats = tuple(variable.shape), variable.dtype == "float32"
        if shape != weight.shape or floats != (weight.dtype == "F32"):
            raise ModelRefused(
                f"Expected weight `{weight.name}` to be {shape} {variable.dtype}, as in the "
                f"architecture. Received: {weight.shape} {weight.dtype}"
            )
    return {weight.name: variable for weight, variable in zip(weights, found, strict=True)}


def freeze(model: Any, weights: Sequence[WeightSpec]) -> None:
    """Keep the weights whose role is frozen out of training.

    A layer with nothing but frozen weights is frozen whole, so that a frozen BatchNormalization
    also keeps its statistics and normalises by them, as Keras has it for transfer learning.
    """
    pairs = zip(weights, variables(model, weights).values(), strict=True)
    frozen = {id(variable) for weight, variable in pairs if weight.role == FROZEN}
    for layer in model._flatten_layers():
        if layer.weights and all(id(variable) in frozen for variable in layer.weights):
            layer.trainable = False
    for variable in model.trainable_variables:
        variable.trainable = id(variable) not in frozen


def _expect_one_in_one_out(model: Any, kind: type) -> None:
    if not isinstance(model, kind):
        raise ModelRefused(f"Expected a Keras model. Received: {type(model).__name__}")
    counts = len(model.inputs), len(model.outputs)  # type: ignore[attr-defined]
    if counts != (1, 1):
        raise ModelRefused(f"Expected one input and one output. Received: {counts}")


def _expect_keras_layers(model: Any) -> None:
    """Names found in the process's own registry of custom objects are no built-in layers."""
    for layer in model._flatten_layers():
        if type(layer).__module__.partition(".")[0] != "keras":
            raise ModelRefused(f"Expected built-in Keras layers only. Received: {type(layer)}")
