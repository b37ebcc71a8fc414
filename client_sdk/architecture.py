"""Which architectures may travel: built-in Keras objects and nothing else.

A Keras configuration names classes and functions to be called with arguments of its author's
choosing. Keras' own safe mode was bypassed more than once, so a configuration is walked before
Keras sees it, and everything that is not plainly a built-in part of a model is refused by name.

It is a part of the wire: the server walks what an owner uploads, and the participant walks what
the server sends. Like `wire`, it needs no Keras and knows nobody in the house.
"""

import hashlib
from collections.abc import Iterator
from typing import Any, Final

from client_sdk import wire

Config = dict[str, Any]

# Modules under which Keras writes its own parts of models.
_MODULES: Final = frozenset(
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
_TOP_LEVEL: Final = frozenset({"Sequential", "Functional", "Model", "DTypePolicy", "SeedGenerator"})
_OPERATIONS: Final = "keras.src.ops."  # what `a + b` and `keras.ops.relu(x)` leave in a graph
_FUNCTIONS: Final = frozenset({"builtins", "keras.activations"})
_COMPILING: Final = "compile_config"  # an optimizer is no part of an architecture
_MODELS: Final = frozenset({"Sequential", "Functional"})
_VALUES: Final = frozenset(
    {"__keras_tensor__", "__tensor__", "__numpy__", "__bytes__", "__ellipsis__", "__slice__"}
)
_REFUSED: Final = {
    "__lambda__": "it carries Python code",
    "__typespec__": "it is no part of a model",
    "Lambda": "it carries Python code",
    "TFSMLayer": "it runs a program from a file",
    "TorchModuleWrapper": "it unpickles a PyTorch module",
    "JaxLayer": "it carries Python code",
    "FlaxLayer": "it carries Python code",
    "IntegerLookup": "it reads vocabularies from files and keeps state that is no weight",
    "StringLookup": "it reads vocabularies from files and keeps state that is no weight",
    "TextVectorization": "it reads vocabularies from files and keeps state that is no weight",
}
_DEPTH: Final = 200


class ArchitectureRefused(ValueError):
    """A configuration that holds more than built-in parts of Keras.

    Args:
        detail: What was expected, ending with what was received.
        place: The path of the part within the model.
    """

    def __init__(self, detail: str, place: str = "") -> None:
        super().__init__(detail)
        self.detail = detail
        self.place = place


def check(config: Any) -> Config:
    """Refuse a configuration that holds anything but built-in parts of Keras.

    Args:
        config: What `json.loads` gave of a `config.json` or of `model.to_json()`.

    Returns:
        The same configuration without what it says about compiling.

    Raises:
        ArchitectureRefused: With the place and the reason.
    """
    if not isinstance(config, dict) or config.get("class_name") not in _MODELS:
        found = config.get("class_name") if isinstance(config, dict) else type(config).__name__
        raise ArchitectureRefused(
            "Expected a Sequential or a functional model; a subclassed model is Python code "
            f"that the file does not hold. Received: {found!r}"
        )
    for place, part in _objects(config, ""):
        _check_object(place, part)
    model: Config = _without_compiling(config)
    return model


def digest(config: Config) -> str:
    """SHA-256 of the canonical JSON of an architecture, in hexadecimal."""
    return hashlib.sha256(wire.canonical_json(config)).hexdigest()


def _without_compiling(value: Any) -> Any:
    if isinstance(value, dict):
        kept = {key: item for key, item in value.items() if key != _COMPILING}
        return {key: _without_compiling(item) for key, item in kept.items()}
    return [_without_compiling(item) for item in value] if isinstance(value, list) else value


def _objects(value: Any, place: str, depth: int = 0) -> Iterator[tuple[str, Config]]:
    """Every dictionary of a configuration that names a class, with the path to it."""
    if depth > _DEPTH:
        raise ArchitectureRefused(f"Expected at most {_DEPTH} levels of nesting. Received: more")
    if isinstance(value, dict):
        place = f"{place}.{value['name']}" if isinstance(value.get("name"), str) else place
        if "class_name" in value:
            yield place or "model", value
        for key, item in value.items():
            if key == _COMPILING:
                continue
            inner = place if key in ("config", "layers") else f"{place}.{key}"
            yield from _objects(item, inner, depth + 1)
    elif isinstance(value, list):
        for item in value:
            yield from _objects(item, place, depth + 1)


def _check_object(place: str, part: Config) -> None:
    name, module, inner = part["class_name"], part.get("module"), part.get("config")
    if not isinstance(name, str):
        raise _refusal(place, name, "a class has no name")
    if name in _VALUES:
        return
    if name in _REFUSED:
        raise _refusal(place, name, _REFUSED[name])
    registered = part.get("registered_name")
    if registered not in (None, name, inner if name == "function" else None):
        raise _refusal(place, registered, "custom objects are Python code that the file lacks")
    if name == "function":
        if not isinstance(inner, str) or module not in _FUNCTIONS:
            raise _refusal(place, f"{module}.{inner}", "it is no built-in function of Keras")
        return
    if not _is_built_in(module, name):
        raise _refusal(place, f"{module}.{name}", "it is no built-in part of Keras")


def _is_built_in(module: Any, name: str) -> bool:
    if module == "keras":
        return name in _TOP_LEVEL
    inside = module in _MODULES or (isinstance(module, str) and module.startswith(_OPERATIONS))
    return inside and name[:1].isupper()  # a class: functions such as `load_model` live there too


def _refusal(place: str, found: Any, reason: str) -> ArchitectureRefused:
    return ArchitectureRefused(
        f"Expected only built-in Keras layers; at {place.lstrip('.')}, {reason}. Received: {found}",
        place.lstrip("."),
    )
