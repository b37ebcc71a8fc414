"""Builds the model that came over the network.

A server need not be trusted. Before Keras sees any of the JSON, `architecture.check` walks it.
While Keras builds, every weight is counted before it takes memory: an architecture that asks for
more than its manifest declares is refused at the layer that does, and a manifest that this machine
could not train is refused before that. What the layers put out for one example is added up before
any of it is computed. The model that comes of it has to fit the weights manifest.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

from client_sdk.architecture import ArchitectureRefused, check
from client_sdk.errors import ParticipantError
from client_sdk.memory import amount, memory_limit
from client_sdk.photo import OPEN_SIDE
from client_sdk.wire import FROZEN, WeightSpec

_COPIES: Final = 5  # of each weight in training: itself, its base, a gradient, two of an optimizer
_SPARE: Final = 1 << 16  # elements that an architecture may ask for beyond its manifest: seeds


class ModelRefused(ParticipantError):
    """The server's model document cannot or must not be built here."""


def expect_room(weights: Iterable[WeightSpec], memory: int | None = None) -> None:
    """Refuse weights that could not be trained in this machine's memory.

    Args:
        weights: the manifest.
        memory: bytes that may be used; `memory_limit` says when None.

    Raises:
        ModelRefused: when their training takes more.
    """
    limit = memory_limit() if memory is None else memory
    needed = _COPIES * sum(weight.tensor.nbytes for weight in weights)
    if needed > limit:
        raise ModelRefused(
            f"Expected a model that is trained in {amount(limit)} of memory. "
            f"Received: weights whose training takes {amount(needed)}"
        )


def build(
    architecture: Mapping[str, Any],
    shape: Sequence[int | None],
    weights: Sequence[WeightSpec],
    memory: int | None = None,
) -> Any:
    """Build a model from its Keras JSON.

    Args:
        architecture: Keras' description of a model, as `json.loads(model.to_json())` gives it;
            what it says about compiling is left out.
        shape: shape of one example, without the batch.
        weights: its manifest, which says how much memory it may ask for.
        memory: bytes that may be used; `memory_limit` says when None.

    Returns:
        A built `keras.Model` with one input and one output, and weights of no meaning.

    Raises:
        ModelRefused: for anything but built-in layers, for what Keras cannot build, and for what
            takes more memory than it declares or than there is.
    """
    import keras

    expect_room(weights, memory)
    try:
        with _counting(sum(weight.tensor.size for weight in weights)):
            model = keras.saving.deserialize_keras_object(check(architecture), safe_mode=True)
            if isinstance(model, keras.Model) and not model.built:
                model.build((None, *shape))
    except ArchitectureRefused as error:
        raise ModelRefused(error.detail) from error
    except ModelRefused:
        raise
    except Exception as error:  # whatever the layers named in the JSON raise
        if isinstance(error.__cause__ or error.__context__, ModelRefused):
            raise (error.__cause__ or error.__context__) from error  # type: ignore[misc]
        raise ModelRefused(f"Expected an architecture that Keras builds. Received: {error}") from (
            error
        )
    _expect_one_in_one_out(model, keras.Model)
    _expect_keras_layers(model)
    _expect_outputs_fit(model, memory_limit() if memory is None else memory)
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


def output_elements(model: Any) -> int:
    """How many numbers all layers put out for one example; open lengths count as a photo's side.

    It is what a step of training keeps for each of its examples.
    """
    total = 0
    for operation in _operations(model):
        for node in operation._inbound_nodes:
            for tensor in node.output_tensors:
                lengths = (OPEN_SIDE if n is None else n for n in tensor.shape[1:])
                total += math.prod(lengths)
    return total


# --- While Keras builds ---------------------------------------------------------------------------

_building = threading.RLock()


@contextmanager
def _counting(allowed: int) -> Iterator[None]:
    """Refuse the weight that would be one too many, before its memory is taken.

    Keras has no hook there. Its `Layer.add_weight` is the one door through which layers come by
    weights, so it is replaced for as long as one model is built, in this thread's eyes alone.
    """
    import keras

    with _building:
        thread, left = threading.get_ident(), allowed + _SPARE
        original = keras.Layer.add_weight

        def add_weight(layer: Any, *args: Any, **options: Any) -> Any:
            nonlocal left
            if threading.get_ident() == thread:
                shape = options.get("shape", args[0] if args else None)
                left -= math.prod(_lengths(shape))
                if left < 0:
                    raise ModelRefused(
                        f"Expected weights of {allowed} numbers in all, as the manifest declares. "
                        f"Received: more, from {type(layer).__name__} `{layer.name}`, "
                        f"which asks for {shape}"
                    )
                if len(args) < 2:  # initial values are never used, and some take hours to draw
                    options["initializer"] = "zeros"
            return original(layer, *args, **options)

        keras.Layer.add_weight = add_weight
        try:
            yield
        finally:
            keras.Layer.add_weight = original


def _lengths(shape: Any) -> tuple[int, ...]:
    if shape is None:
        return ()
    lengths = (shape,) if isinstance(shape, int) else tuple(shape)
    return tuple(int(length or 0) for length in lengths)


def _operations(model: Any) -> Iterator[Any]:
    """Every operation of a model once, those of nested models among them."""
    seen: set[int] = set()
    waiting = [model]
    while waiting:
        operation = waiting.pop()
        if id(operation) in seen:
            continue
        seen.add(id(operation))
        yield operation
        waiting += (
            getattr(operation, "operations", None) or getattr(operation, "layers", None) or []
        )


def _expect_outputs_fit(model: Any, limit: int) -> None:
    needed = 4 * output_elements(model)
    if needed > limit:
        raise ModelRefused(
            f"Expected layers whose outputs fit in {amount(limit)} of memory. "
            f"Received: {amount(needed)} for a single example"
        )


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
