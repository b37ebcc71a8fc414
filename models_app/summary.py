"""A model's architecture as people read it, from its JSON and its weights manifest alone."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from client_sdk.wire import WeightSpec
from models_app.models import Model

TIMES: Final = " \u00d7 "
# What a layer was told, in the order that it is said, and how.
_SETTINGS: Final[Mapping[str, str]] = {
    "units": "{} units",
    "filters": "{} filters",
    "kernel_size": "of {}",
    "pool_size": "of {}",
    "strides": "by {}",
    "padding": "{} padding",
    "size": "by {}",
    "target_shape": "to {}",
    "num_heads": "{} heads",
    "input_dim": "of {}",
    "output_dim": "to {}",
    "rate": "rate {}",
    "activation": "{}",
}
_DEFAULTS: Final = {"valid padding", "linear", "by 1", f"by 1{TIMES}1"}


@dataclass(frozen=True)
class Layer:
    """One layer.

    Args:
        path: Its name, with those of the models around it.
        kind: Its class.
        depth: How many models are around it.
        settings: What it was told, in words.
        takes: Shape of its input without the batch, "" where the JSON does not say.
        weights: Name and shape of each of its weights.
        parameters: How many numbers those hold.
        roles: What becomes of them: federated, local or frozen.
    """

    path: str
    kind: str
    depth: int
    settings: str
    takes: str
    weights: tuple[tuple[str, str], ...]
    parameters: int
    roles: tuple[str, ...]

    @property
    def name(self) -> str:
        """Its own name."""
        return self.path.rpartition(".")[2]


def layers(model: Model) -> list[Layer]:
    """Every layer of a model, from input to output, with those of the models inside it.

    Weights of layers that the JSON keeps inside others (a wrapper's, a cell's) stand with these.
    """
    found = list(_walk(model.architecture["config"]["layers"], "", 0))
    paths = {path for path, _, _ in found}
    owned: dict[str, list[WeightSpec]] = {}
    for weight in model.weights:
        owned.setdefault(_owner(weight.layer, paths), []).append(weight)
    return [_layer(path, depth, document, owned.get(path, ())) for path, depth, document in found]


def parameters(model: Model) -> dict[str, int]:
    """How many numbers of each role a model holds."""
    counts: dict[str, int] = {}
    for weight in model.weights:
        counts[weight.role] = counts.get(weight.role, 0) + weight.tensor.size
    return counts


def shape_words(shape: Sequence[Any]) -> str:
    """A shape in words: 8 times 8 times 1, with "any" where a side is open."""
    return TIMES.join("any" if side is None else str(side) for side in shape) or "one number"


def _walk(documents: Any, path: str, depth: int) -> Iterator[tuple[str, int, Mapping[str, Any]]]:
    for document in documents:
        config = document.get("config", {})
        name = str(config.get("name") or document.get("name") or document.get("class_name", ""))
        here = f"{path}.{name}" if path else name
        yield here, depth, document
        if isinstance(config.get("layers"), list):
            yield from _walk(config["layers"], here, depth + 1)


def _owner(layer: str, paths: set[str]) -> str:
    """The innermost listed layer that a weight belongs to."""
    while layer not in paths and "." in layer:
        layer = layer.rpartition(".")[0]
    return layer


def _layer(
    path: str, depth: int, document: Mapping[str, Any], weights: Sequence[WeightSpec]
) -> Layer:
    config = document.get("config", {})
    takes = (document.get("build_config") or {}).get("input_shape") or config.get("batch_shape")
    plain = isinstance(takes, list) and all(side is None or type(side) is int for side in takes)
    return Layer(
        path=path,
        kind=str(document.get("class_name", "")),
        depth=depth,
        settings=", ".join(_settings(config)),
        takes=shape_words(takes[1:]) if plain else "",
        weights=tuple((weight.name.rpartition(".")[2], _shape(weight)) for weight in weights),
        parameters=sum(weight.tensor.size for weight in weights),
        roles=tuple(dict.fromkeys(weight.role for weight in weights)),
    )


def _shape(weight: WeightSpec) -> str:
    return shape_words(weight.shape) if weight.shape else "1"


def _settings(config: Mapping[str, Any]) -> Iterator[str]:
    for name, words in _SETTINGS.items():
        value = config.get(name)
        if isinstance(value, list):
            value = shape_words(value)
        if value is None or isinstance(value, (dict, bool)):
            continue
        if (said := words.format(value)) not in _DEFAULTS:
            yield said
