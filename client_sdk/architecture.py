"""Opens an architecture that came over the network: built-in layers, and nothing else.

A Keras model's JSON names Python classes for Keras to find and call, and a server need not be
trusted. Keras' safe mode refuses lambdas, but can be switched off for a whole process, and some
built-in layers run what they are given or read files (`REFUSED`). So each object in the JSON has
to come from a module that only holds parts of networks before Keras sees any of it, and the
model that Keras then builds has to fit the weights manifest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from client_sdk.errors import ParticipantError
from client_sdk.wire import FROZEN, WeightSpec

# They run code from the JSON, load programs from disk, or read vocabularies from any file.
REFUSED = frozenset(
    {
        "FlaxLayer",
        "IntegerLookup",
        "JaxLayer",
        "Lambda",
        "StringLookup",
        "TFSMLayer",
        "TextVectorization",
        "TorchModuleWrapper",
    }
)
_MODULES = frozenset(
    {
        "keras.activations",
        "keras.constraints",
        "keras.dtype_policies",
        "keras.initializers",
        "keras.layers",
        "keras.models",
        "keras.ops",
        "keras.random",
        "keras.regularizers",
        "keras.src.models.functional",
        "keras.src.models.sequential",
    }
)
_TOP_LEVEL = frozenset({"DTypePolicy", "Functional", "Model", "SeedGenerator", "Sequential"})
_OPERATIONS = "keras.src.ops."  # where Keras keeps the classes behind `keras.ops` and `x + y`
_FUNCTION_MODULES = frozenset({"builtins", "keras.activations"})
_VALUES = frozenset(
    {"__bytes__", "__ellipsis__", "__keras_tensor__", "__numpy__", "__slice__", "__tensor__"}
)


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
        model = keras.saving.deserialize_keras_object(_inspected(architecture), safe_mode=True)
        if isinstance(model, keras.Model) and not model.built:
            model.build((None, *shape))
    except ModelRefused:
        raise
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


def _inspected(part: Any) -> Any:
    """The same JSON without compile settings, every object in it found harmless."""
    if isinstance(part, (list, tuple)):
        return [_inspected(entry) for entry in part]
    if not isinstance(part, Mapping):
        return part
    if "class_name" in part:
        _expect_builtin(part)
    return {key: _inspected(entry) for key, entry in part.items() if key != "compile_config"}


def _expect_builtin(part: Mapping[str, Any]) -> None:
    name, module, registered = (part.get(k) for k in ("class_name", "module", "registered_name"))
    if name in _VALUES:
        return
    if name == "function":
        known = module in _FUNCTION_MODULES and registered in (None, name, part.get("config"))
    else:
        known = _is_part_of_network(name, module) and registered in (None, name)
    if not known:
        shown = {"module": module, "class_name": name, "registered_name": registered}
        raise ModelRefused(f"Expected built-in Keras layers only. Received: {shown}")


def _is_part_of_network(name: object, module: object) -> bool:
    if not isinstance(name, str) or not isinstance(module, str):
        return False
    if module == "keras":
        return name in _TOP_LEVEL
    inside = module in _MODULES or module.startswith(_OPERATIONS)
    return inside and name[:1].isupper() and name not in REFUSED


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
