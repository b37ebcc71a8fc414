"""The wire format, version 1: what participant and server say to each other in bytes.

Weights and updates travel as safetensors, read here by a strict parser of our own: the library
accepts duplicate keys, shapes of 2^60 and NaN, spends seconds on a header of a hundred thousand
tensors, and copies what it loads. Here the caller always knows which tensors must come, so the
header's size is capped before it is read, its content compared with what is expected, and the
body only mapped into memory, never copied. Nothing is ever unpickled: a pickle is a program, and
running a stranger's program is how a federated server loses its participants' trust.

The parts, from top to bottom:

1. `WireError`, the one error of this file.
2. `TensorSpec`, `WeightSpec`, `InputSpec`: what is expected.
3. `dump`, `dumps`, `open_tensors`, `open_flat`, `update_length_limit`: safetensors.
4. `norm`: an update's length, and the proof that it is finite.
5. `UpdateManifest`: what a participant signs about its update.
6. The signed messages, and base64 as the wire writes it.

The floor of the house: numpy and the standard library only.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, fields
from typing import Any, BinaryIO, NoReturn

import numpy as np

WIRE_VERSION = 1

FEDERATED, LOCAL, FROZEN = "federated", "local", "frozen"
ROLES = (FEDERATED, LOCAL, FROZEN)
ENCODINGS = ("float32",)

MANIFEST_LIMIT = 4096  # bytes; it travels in an HTTP header
SAMPLES_LIMIT = 10**9
STEPS_LIMIT = 10**9
# What a participant reports with its update, by the capability that a strategy requires for it.
REPORTS = {"report_steps": "steps", "report_initial_loss": "initial_loss"}
METRICS_LIMIT = 32
METRIC_NAME_LIMIT = 64

_DTYPES = {
    "BOOL": np.dtype("?"),
    "U8": np.dtype("u1"),
    "I8": np.dtype("i1"),
    "U16": np.dtype("<u2"),
    "I16": np.dtype("<i2"),
    "F16": np.dtype("<f2"),
    "U32": np.dtype("<u4"),
    "I32": np.dtype("<i4"),
    "F32": np.dtype("<f4"),
    "U64": np.dtype("<u8"),
    "I64": np.dtype("<i8"),
    "F64": np.dtype("<f8"),
}
_CODES = {(dtype.kind, dtype.itemsize): code for code, dtype in _DTYPES.items()}

_METADATA_ALLOWANCE = 1024  # bytes for __metadata__ and white space
_WRITE_ALIGNMENT = 64  # a cache line: what we write can be folded with aligned loads
_READ_ALIGNMENT = 8  # what the safetensors library pads to
_CHUNK = 1 << 20
_BLOCK = 1 << 15  # float64 values that stay in a core's own cache
_INT_DIGITS = 20
_DIMENSIONS_LIMIT = 32
_TENSOR_BYTES_LIMIT = 1 << 48
_NAME_LIMIT = 1024


class WireError(ValueError):
    """Bytes or values that are not what the wire promises.

    Args:
        code: stable short name of what is wrong, for programs; one of `truncated`,
            `trailing_bytes`, `header_too_large`, `header_invalid`, `duplicate_tensor`,
            `missing_tensor`, `unexpected_tensor`, `wrong_shape`, `wrong_dtype`,
            `offsets_invalid`, `holes`, `overlap`, `wrong_order`, `misaligned`, `non_finite`,
            `manifest_invalid`, `unsupported_encoding`, `unsupported_wire`, `spec_invalid`,
            `input_invalid`, `base64_invalid`.
        detail: sentence for people that ends with `Received: …`.
        field: the tensor or manifest field concerned, where there is one.
    """

    def __init__(self, code: str, detail: str, *, field: str | None = None) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail
        self.field = field


def _shown(value: object) -> str:
    """`repr`, short enough for a message whatever a stranger sent."""
    text = repr(value[:80] if isinstance(value, (str, bytes, list, tuple)) else value)
    return text if len(text) <= 100 else f"{text[:97]}..."


# --- What is expected ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One tensor that a file must hold: its name, shape and dtype ("F32", "U32", …)."""

    name: str
    shape: tuple[int, ...]
    dtype: str = "F32"

    @classmethod
    def of(cls, name: str, array: np.ndarray) -> TensorSpec:
        """The spec of an array that is at hand. Raises WireError for a dtype without a code."""
        return cls(name, array.shape, _dtype_code(name, array))

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Length in the data section, in bytes."""
        return self.size * _DTYPES[self.dtype].itemsize


@dataclass(frozen=True, slots=True)
class WeightSpec:
    """One weight of a model: a line of the model's weights manifest.

    Args:
        name: name on the wire, from `tensor_name`.
        ordinal: place in the model's creation order, from 0.
        layer: layer names through nested models, joined by ".".
        shape: shape of the weight.
        dtype: safetensors dtype code, such as "F32".
        role: "federated" (averaged), "local" (stays with the participant) or "frozen".
    """

    name: str
    ordinal: int
    layer: str
    shape: tuple[int, ...]
    dtype: str
    role: str

    def __post_init__(self) -> None:
        _expect_spec(_is_name(self.name), "name", f"1 to {_NAME_LIMIT} characters", self.name)
        _expect_spec(_is_int(self.ordinal, 0, 10**6), "ordinal", "an integer from 0", self.ordinal)
        _expect_spec(isinstance(self.layer, str), "layer", "a string", self.layer)
        _expect_spec(_is_shape(self.shape), "shape", "a list of non-negative integers", self.shape)
        _expect_spec(self.dtype in _DTYPES, "dtype", f"one of {', '.join(_DTYPES)}", self.dtype)
        _expect_spec(self.role in ROLES, "role", f"one of {', '.join(ROLES)}", self.role)
        fits = self.tensor.nbytes <= _TENSOR_BYTES_LIMIT
        _expect_spec(fits, "shape", f"at most {_TENSOR_BYTES_LIMIT} bytes", self.shape)

    @property
    def tensor(self) -> TensorSpec:
        """What a file holds of this weight."""
        return TensorSpec(self.name, self.shape, self.dtype)

    def to_json(self) -> dict[str, Any]:
        """The line as a JSON object."""
        return {
            "name": self.name,
            "ordinal": self.ordinal,
            "layer": self.layer,
            "shape": list(self.shape),
            "dtype": self.dtype,
            "role": self.role,
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> WeightSpec:
        """Read a line, strictly.

        Raises:
            WireError: `spec_invalid`, for unknown or missing fields and wrong types.
        """
        _expect_fields(document, [entry.name for entry in fields(cls)], "spec_invalid")
        shape = document["shape"]
        return cls(**{**document, "shape": tuple(shape) if isinstance(shape, list) else shape})


def read_weights(documents: Sequence[Mapping[str, Any]]) -> list[WeightSpec]:
    """Read a whole weights manifest.

    Args:
        documents: what `WeightSpec.to_json` gave, in the model's creation order.

    Raises:
        WireError: `spec_invalid`, when a line is wrong, a name repeats or the order is another.
    """
    _expect_spec(isinstance(documents, (list, tuple)), "weights", "a list", documents)
    weights = [WeightSpec.from_json(document) for document in documents]
    ordinals = [weight.ordinal for weight in weights]
    names = {weight.name for weight in weights}
    _expect_spec(ordinals == sorted(set(ordinals)), "ordinal", "rising ordinals", ordinals)
    _expect_spec(len(names) == len(weights), "name", "names that differ", sorted(names))
    return weights


def tensors_of(weights: Iterable[WeightSpec], *roles: str) -> list[TensorSpec]:
    """The tensors of a weights manifest that have one of these roles, in manifest order."""
    return [weight.tensor for weight in weights if weight.role in roles]


def tensor_name(ordinal: int, layer: str, weight: str) -> str:
    """Name of a weight on the wire, such as "0003.encoder.dense_1.kernel".

    The ordinal comes first because Keras gives layers other names when a model is rebuilt, and
    with leading zeros because the safetensors library sorts by name.
    """
    return f"{ordinal:04d}.{layer}.{weight}" if layer else f"{ordinal:04d}.{weight}"


@dataclass(frozen=True, slots=True)
class InputSpec:
    """What a model takes, and how raw data become that.

    Args:
        shape: shape of one example, without the batch; None where any length goes.
        dtype: NumPy dtype of the model's input.
        scale: factor for each raw value, before `offset` is added (1/255 for byte images).
        offset: what is added after scaling.
        white: raw value of a white pixel, where examples are images: 255 for bytes.

    Example:
        >>> spec = InputSpec(shape=(2, 2, 1), scale=1 / 255)
        >>> images = np.full((3, 2, 2), 255, dtype=np.uint8)
        >>> spec.prepare(images).shape
        (3, 2, 2, 1)
    """

    shape: tuple[int | None, ...]
    dtype: str = "float32"
    scale: float = 1.0
    offset: float = 0.0
    white: float = 255.0

    def __post_init__(self) -> None:
        known = tuple(0 if length is None else length for length in self.shape)
        _expect_spec(_is_shape(known), "shape", "a list of integers or nulls", self.shape)
        numeric = isinstance(self.dtype, str) and re.fullmatch(r"(float|u?int)\d\d?", self.dtype)
        _expect_spec(bool(numeric), "dtype", "a float or integer dtype", self.dtype)
        _expect_spec(_is_finite(self.scale), "scale", "a finite number", self.scale)
        _expect_spec(_is_finite(self.offset), "offset", "a finite number", self.offset)
        white = _is_finite(self.white) and self.white > 0
        _expect_spec(white, "white", "a number above 0", self.white)

    def prepare(self, x: np.ndarray) -> np.ndarray:
        """Raw examples as the model takes them.

        Args:
            x: shape (n, *shape), any numeric dtype; a trailing channel of length 1 may be missing.

        Returns:
            Array (n, *shape) of the model's dtype, scaled and shifted when that is a float.

        Raises:
            WireError: `input_invalid`, for another shape or values that are no numbers.
        """
        x = np.asarray(x)
        if x.dtype.kind not in "fiub":
            raise WireError("input_invalid", f"Expected numbers. Received: dtype {x.dtype}")
        if self.shape[-1:] == (1,) and self._fits(x.shape[1:], self.shape[:-1]):
            x = x[..., np.newaxis]
        if x.ndim == 0 or not self._fits(x.shape[1:], self.shape):
            expected = ("n", *self.shape)
            raise WireError("input_invalid", f"Expected shape {expected}. Received: {x.shape}")
        prepared = x.astype(self.dtype)
        if prepared.dtype.kind == "f" and (self.scale != 1.0 or self.offset != 0.0):
            prepared *= prepared.dtype.type(self.scale)
            prepared += prepared.dtype.type(self.offset)
        return prepared

    @staticmethod
    def _fits(shape: tuple[int, ...], expected: tuple[int | None, ...]) -> bool:
        return len(shape) == len(expected) and all(
            want is None or have == want for have, want in zip(shape, expected, strict=True)
        )

    def to_json(self) -> dict[str, Any]:
        """The specification as a JSON object."""
        return {
            "shape": list(self.shape),
            "dtype": self.dtype,
            "scale": self.scale,
            "offset": self.offset,
            "white": self.white,
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> InputSpec:
        """Read a specification; all but `shape` may be left out.

        Raises:
            WireError: `spec_invalid`, for unknown fields and wrong types.
        """
        known = [entry.name for entry in fields(cls)]
        _expect_fields(document, known, "spec_invalid", optional=known[1:])
        shape = document["shape"]
        _expect_spec(isinstance(shape, (list, tuple)), "shape", "a list", shape)
        return cls(**{**document, "shape": tuple(shape)})


def _is_int(value: object, low: int, high: int) -> bool:
    return type(value) is int and low <= value <= high


def _is_finite(value: object) -> bool:
    """True for JSON numbers that a float64 can hold; True and False are no numbers."""
    if type(value) is int:
        return bool(abs(value) < 10**_INT_DIGITS)
    return isinstance(value, float) and math.isfinite(value)


def _is_name(value: object) -> bool:
    return isinstance(value, str) and 0 < len(value) <= _NAME_LIMIT and value.isprintable()


def _is_shape(value: object) -> bool:
    return (
        isinstance(value, tuple)
        and len(value) <= _DIMENSIONS_LIMIT
        and all(_is_int(length, 0, _TENSOR_BYTES_LIMIT) for length in value)
    )


def _expect_spec(holds: bool, name: str, expected: str, received: object) -> None:
    if not holds:
        detail = f"Expected `{name}` to be {expected}. Received: {_shown(received)}"
        raise WireError("spec_invalid", detail, field=name)


def _expect_fields(
    document: object, known: Sequence[str], code: str, *, optional: Sequence[str] = ()
) -> None:
    if not isinstance(document, Mapping):
        raise WireError(code, f"Expected a JSON object. Received: {_shown(document)}")
    for name in known:
        if name not in document and name not in optional:
            detail = f"Expected the field `{name}`. Received: {_shown(sorted(document))}"
            raise WireError(code, detail, field=name)
    for name in document:
        if name not in known:
            detail = f"Expected only the fields {', '.join(known)}. Received: {_shown(name)}"
            raise WireError(code, detail, field=str(name)[:64])


# --- Safetensors, written -----------------------------------------------------------------------


def dump(path: str | os.PathLike[str], tensors: Mapping[str, np.ndarray]) -> tuple[str, int]:
    """Write tensors as a safetensors file and make it durable.

    The file is canonical: tensors in the mapping's order without gaps, the header as compact
    JSON padded with spaces so that the data start at a multiple of 64. The same tensors always
    give the same bytes.

    Args:
        path: file to write; an existing one is overwritten.
        tensors: arrays by name, of any dtype that safetensors knows.

    Returns:
        The file's SHA-256 in hexadecimal and its length in bytes.

    Raises:
        WireError: `wrong_dtype`, when an array's dtype has no place in the format.
    """
    header, length = _header(tensors), 0
    # Hashing takes about as long as writing and waiting for the disk: they do so side by side.
    with open(path, "wb") as file, ThreadPoolExecutor(1) as pool:
        digest = pool.submit(_digest, header, tensors)
        for chunk in _chunks(header, tensors):
            length += file.write(chunk)
        file.flush()
        os.fsync(file.fileno())
    return digest.result(), length


def dumps(tensors: Mapping[str, np.ndarray]) -> bytes:
    """The bytes that `dump` would write."""
    return b"".join(_chunks(_header(tensors), tensors))


def _header(tensors: Mapping[str, np.ndarray]) -> bytes:
    entries, end = {}, 0
    for name, array in tensors.items():
        begin, end = end, end + array.nbytes
        entries[name] = {
            "dtype": _dtype_code(name, array),
            "shape": list(array.shape),
            "data_offsets": [begin, end],
        }
    text = _json(entries)
    text += b" " * (-(8 + len(text)) % _WRITE_ALIGNMENT)
    return len(text).to_bytes(8, "little") + text


def _digest(header: bytes, tensors: Mapping[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for chunk in _chunks(header, tensors):
        digest.update(chunk)
    return digest.hexdigest()


def _dtype_code(name: str, array: np.ndarray) -> str:
    code = _CODES.get((array.dtype.kind, array.dtype.itemsize))
    if code is None:
        detail = f"Expected one of {', '.join(_DTYPES)} for {name}. Received: {array.dtype}"
        raise WireError("wrong_dtype", detail, field=name)
    return code


def _chunks(header: bytes, tensors: Mapping[str, np.ndarray]) -> Iterator[bytes | memoryview]:
    """The file in pieces."""
    yield header
    for array in tensors.values():
        little = array.astype(array.dtype.newbyteorder("<"), order="C", copy=False)
        body = little.reshape(-1).view(np.uint8).data
        for start in range(0, len(body), _CHUNK):
            yield body[start : start + _CHUNK]


# --- Safetensors, read --------------------------------------------------------------------------


def update_length_limit(specs: Sequence[TensorSpec]) -> int:
    """Greatest length in bytes that a valid file of these tensors can have.

    Whoever receives a file can refuse more than this before it reads the first byte.
    """
    return 8 + _header_limit(specs) + sum(spec.nbytes for spec in specs)


def _header_limit(specs: Sequence[TensorSpec]) -> int:
    # The longest entry a valid header can hold: every character of the name escaped (\uXXXX,
    # twice beyond the basic plane), each number at its widest. 64 covers the keys and quotes.
    entries = (
        12 * len(spec.name) + 64 + 21 * len(spec.shape) + 2 * (_INT_DIGITS + 1) for spec in specs
    )
    return sum(entries) + _METADATA_ALLOWANCE + _WRITE_ALIGNMENT


def open_tensors(
    path: str | os.PathLike[str], specs: Sequence[TensorSpec]
) -> dict[str, np.ndarray]:
    """Map a file's tensors into memory after checking every byte of its header.

    Args:
        path: safetensors file.
        specs: exactly the tensors that it must hold, in the order of their data.

    Returns:
        Read-only arrays by name, in the order of `specs`, backed by the file.

    Raises:
        WireError: with the code of the first thing that is not as expected.
    """
    with open(path, "rb") as file:
        begin = _check_file(file, specs)
        body = np.memmap(file, dtype=np.uint8, mode="r")
    tensors = {}
    for spec in specs:
        part = body[begin : begin + spec.nbytes]
        tensors[spec.name] = part.view(_DTYPES[spec.dtype]).reshape(spec.shape)
        begin += spec.nbytes
    return tensors


def open_flat(path: str | os.PathLike[str], specs: Sequence[TensorSpec]) -> np.ndarray:
    """Map a file of float32 tensors as one vector, after the same checks as `open_tensors`.

    Args:
        path: safetensors file.
        specs: exactly the tensors that it must hold, all "F32".

    Returns:
        Read-only float32 array of shape (n,): the tensors one after another, backed by the file.

    Raises:
        WireError: with the code of the first thing that is not as expected.
    """
    for spec in specs:
        if spec.dtype != "F32":
            detail = f"Expected F32 for {spec.name}. Received: {spec.dtype}"
            raise WireError("wrong_dtype", detail, field=spec.name)
    with open(path, "rb") as file:
        begin = _check_file(file, specs)
        body = np.memmap(file, dtype=np.uint8, mode="r")
    return body[begin:].view(_DTYPES["F32"])


def split(flat: np.ndarray, specs: Iterable[TensorSpec]) -> dict[str, np.ndarray]:
    """What `open_flat` joined, apart again.

    Args:
        flat: array of shape (n,): the tensors one after another.
        specs: of these tensors, in that order, n values in all.

    Returns:
        Views of `flat` by name, in the order of `specs`.
    """
    found, start = {}, 0
    for spec in specs:
        found[spec.name] = flat[start : start + spec.size].reshape(spec.shape)
        start += spec.size
    return found


def _check_file(file: BinaryIO, specs: Sequence[TensorSpec]) -> int:
    """Check everything but the values; answer where the data begin."""
    size = os.fstat(file.fileno()).st_size
    begin = 8 + _header_length(file.read(8), size, _header_limit(specs))
    _check_header(file.read(begin - 8), specs)
    expected = begin + sum(spec.nbytes for spec in specs)
    if size != expected:
        code = "truncated" if size < expected else "trailing_bytes"
        raise WireError(code, f"Expected {expected} bytes. Received: {size}")
    return begin


def _header_length(prefix: bytes, size: int, limit: int) -> int:
    if len(prefix) < 8:
        raise WireError("truncated", f"Expected at least 8 bytes. Received: {size}")
    length = int.from_bytes(prefix, "little")
    if length > limit:
        detail = f"Expected a header of at most {limit} bytes. Received: {length}"
        raise WireError("header_too_large", detail)
    if length < 2:
        raise WireError("header_invalid", f"Expected a JSON header. Received: {length} bytes")
    if 8 + length > size:
        detail = f"Expected {8 + length} bytes of header. Received: {size}"
        raise WireError("truncated", detail)
    if (8 + length) % _READ_ALIGNMENT:
        detail = f"Expected data at a multiple of {_READ_ALIGNMENT}. Received: {8 + length}"
        raise WireError("misaligned", detail)
    return length


def _check_header(raw: bytes, specs: Sequence[TensorSpec]) -> None:
    if raw[:1] != b"{":
        raise WireError("header_invalid", f"Expected a JSON object. Received: {_shown(raw)}")
    entries = _unique(_read_json(raw, "header_invalid"), "duplicate_tensor")
    _check_metadata(entries.pop("__metadata__", _Pairs()))
    _check_names(entries, specs)
    offsets = [_check_entry(entries[spec.name], spec) for spec in specs]
    _check_offsets(offsets, specs)


def _check_metadata(metadata: object) -> None:
    if not isinstance(metadata, _Pairs):
        detail = f"Expected __metadata__ to be an object. Received: {_shown(metadata)}"
        raise WireError("header_invalid", detail, field="__metadata__")
    for name, value in _unique(metadata, "header_invalid").items():
        if not isinstance(value, str):
            detail = f"Expected strings in __metadata__. Received: {_shown(name)}: {_shown(value)}"
            raise WireError("header_invalid", detail, field="__metadata__")


def _check_names(entries: Mapping[str, object], specs: Sequence[TensorSpec]) -> None:
    for spec in specs:
        if spec.name not in entries:
            detail = f"Expected the tensor {spec.name}. Received: {_shown(list(entries))}"
            raise WireError("missing_tensor", detail, field=spec.name)
    if len(entries) != len(specs):
        expected = {spec.name for spec in specs}
        extra = next(name for name in entries if name not in expected)
        detail = f"Expected {len(specs)} tensors and no other. Received: {_shown(extra)}"
        raise WireError("unexpected_tensor", detail, field=extra[:_NAME_LIMIT])


def _check_entry(entry: object, spec: TensorSpec) -> tuple[int, int]:
    """Compare one tensor's line with what is expected; answer its offsets."""
    if not isinstance(entry, _Pairs):
        detail = f"Expected an object for {spec.name}. Received: {_shown(entry)}"
        raise WireError("header_invalid", detail, field=spec.name)
    document = _unique(entry, "header_invalid")
    _expect_fields(document, ("dtype", "shape", "data_offsets"), "header_invalid")
    dtype, shape, offsets = document["dtype"], document["shape"], document["data_offsets"]
    if dtype != spec.dtype:
        detail = f"Expected {spec.dtype} for {spec.name}. Received: {_shown(dtype)}"
        raise WireError("wrong_dtype", detail, field=spec.name)
    # Compared as they were written: in Python 1 == True and 1 == 1.0.
    if not _are_ints(shape) or tuple(shape) != spec.shape:
        detail = f"Expected shape {list(spec.shape)} for {spec.name}. Received: {_shown(shape)}"
        raise WireError("wrong_shape", detail, field=spec.name)
    if not _are_ints(offsets) or len(offsets) != 2 or offsets[1] - offsets[0] != spec.nbytes:
        detail = f"Expected {spec.nbytes} bytes for {spec.name}. Received: {_shown(offsets)}"
        raise WireError("offsets_invalid", detail, field=spec.name)
    return offsets[0], offsets[1]


def _are_ints(value: object) -> bool:
    return type(value) is list and all(type(item) is int and item >= 0 for item in value)


def _check_offsets(offsets: Sequence[tuple[int, int]], specs: Sequence[TensorSpec]) -> None:
    """Tensors must lie one after another from 0, in the order expected."""
    in_file = sorted(zip(offsets, range(len(specs)), strict=True))
    cursor = 0
    for (begin, end), index in in_file:
        if begin != cursor:
            code = "holes" if begin > cursor else "overlap"
            detail = f"Expected a tensor at {cursor}. Received: {specs[index].name} at {begin}"
            raise WireError(code, detail, field=specs[index].name)
        cursor = end
    for place, (_, index) in enumerate(in_file):
        if place != index:
            detail = (
                f"Expected {specs[place].name} as number {place}. Received: {specs[index].name}"
            )
            raise WireError("wrong_order", detail, field=specs[place].name)


# --- JSON, ours and that of strangers ------------------------------------------------------------


def canonical_json(document: Any) -> bytes:
    """The one spelling of a JSON document: sorted keys, no white space, UTF-8.

    What is hashed or signed is spelled this way.
    """
    return _json(document, sort=True)


def _json(document: Any, *, sort: bool = False) -> bytes:
    text = json.dumps(
        document, separators=(",", ":"), sort_keys=sort, ensure_ascii=False, allow_nan=False
    )
    return text.encode()


class _Pairs(list[tuple[str, Any]]):
    """A JSON object before anybody looked whether its keys repeat."""


def _read_json(raw: bytes, code: str) -> Any:
    """JSON as its standard has it: no NaN, numbers of bounded length, no endless nesting."""

    def refuse(token: str) -> NoReturn:
        raise WireError(code, f"Expected numbers. Received: {_shown(token)}")

    def whole(token: str) -> int:
        return int(token) if len(token) <= _INT_DIGITS else refuse(token)

    try:
        return json.loads(
            raw.decode(),
            object_pairs_hook=_Pairs,
            parse_int=whole,
            parse_constant=refuse,
        )
    except WireError:
        raise
    except (ValueError, RecursionError) as error:
        raise WireError(code, f"Expected JSON ({error}). Received: {_shown(raw)}") from None


def _unique(pairs: object, code: str) -> dict[str, Any]:
    if not isinstance(pairs, _Pairs):
        raise WireError("header_invalid", f"Expected a JSON object. Received: {_shown(pairs)}")
    document = dict(pairs)
    if len(document) != len(pairs):
        name = Counter(key for key, _ in pairs).most_common(1)[0][0]
        detail = f"Expected each key once. Received: {_shown(name)} twice"
        raise WireError(code, detail, field=name[:_NAME_LIMIT])
    return document


# --- The length of an update --------------------------------------------------------------------


def norm(values: np.ndarray, specs: Sequence[TensorSpec] | None = None) -> float:
    """Euclidean norm, summed in float64 by blocks that fit in a core's cache.

    One pass serves two ends: no square of a float32 overflows a float64, so the sum is finite
    if and only if all values are.

    Args:
        values: float32 array (n,), memory-mapped or not.
        specs: tensors that make up `values`, to name the one at fault.

    Returns:
        The norm; 0.0 when there are no values.

    Raises:
        WireError: `non_finite`, when a value is NaN or infinite.
    """
    values = np.asarray(values)  # slices of a memmap are dear
    block, total = np.empty(_BLOCK, dtype=np.float64), 0.0
    with np.errstate(all="ignore"):
        for start in range(0, values.size, _BLOCK):
            part = block[: min(_BLOCK, values.size - start)]
            part[:] = values[start : start + _BLOCK]
            # Not BLAS: its threads cost more than they bring, and would let the sum depend on
            # how many there are.
            square = float(np.einsum("i,i", part, part))
            if not math.isfinite(square):
                place = start + int(np.flatnonzero(~np.isfinite(part))[0])
                _refuse_value(values, place, specs or ())
            total += square
    return math.sqrt(total)


def _refuse_value(values: np.ndarray, place: int, specs: Sequence[TensorSpec]) -> NoReturn:
    end, name = 0, None
    for spec in specs:
        end += spec.size
        if place < end:
            name = spec.name
            break
    where = f"{name} (element {place})" if name else f"element {place}"
    detail = f"Expected finite values in {where}. Received: {values[place]}"
    raise WireError("non_finite", detail, field=name)


# --- The manifest of an update ------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class UpdateManifest:
    """What a participant signs about its update.

    It binds the update to one assignment, and so to one round and one base version, so that it
    can never be counted anywhere else.

    Args:
        assignment: id of the assignment.
        round: id of the round.
        base: SHA-256 (hexadecimal) of the base version's weights blob.
        digest: SHA-256 (hexadecimal) of the update's bytes.
        length: length of the update in bytes.
        samples: examples trained on, 1 to 10^9.
        encoding: how the deltas are written; "float32".
        metrics: at most 32 finite numbers by name.
        reports: what the strategy asked to be told, and nothing else: `steps` taken, a whole
            number from 1 to 10^9; `initial_loss`, finite and not negative.
        wire: version of the wire format.

    Raises:
        WireError: `manifest_invalid`, `unsupported_encoding` or `unsupported_wire`.

    Example:
        >>> manifest = UpdateManifest(
        ...     assignment=7, round=3, base="ab" * 32, digest="cd" * 32, length=128, samples=500
        ... )
        >>> UpdateManifest.from_bytes(manifest.to_bytes()) == manifest
        True
    """

    assignment: int
    round: int
    base: str
    digest: str
    length: int
    samples: int
    encoding: str = "float32"
    metrics: Mapping[str, float] = field(default_factory=dict)
    reports: Mapping[str, float] = field(default_factory=dict)
    wire: int = WIRE_VERSION

    def __post_init__(self) -> None:
        for name, holds, expected in _MANIFEST_RULES:
            received = getattr(self, name)
            if not holds(received):
                detail = f"Expected `{name}` to be {expected}. Received: {_shown(received)}"
                code = _MANIFEST_CODES.get(name) if isinstance(received, (int, str)) else None
                raise WireError(code or "manifest_invalid", detail, field=name)
        for name in ("metrics", "reports"):
            numbers = {key: float(value) for key, value in getattr(self, name).items()}
            object.__setattr__(self, name, numbers)

    def to_bytes(self) -> bytes:
        """Canonical JSON: sorted keys, no white space, UTF-8; without `reports` where none are.

        Raises:
            WireError: `manifest_invalid`, when it is longer than 4096 bytes.
        """
        document = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        if not self.reports:  # older servers know no such field
            del document["reports"]
        raw = canonical_json(document)
        _check_manifest_length(raw)
        return raw

    @classmethod
    def from_bytes(cls, raw: bytes) -> UpdateManifest:
        """Read a manifest that a stranger sent.

        Args:
            raw: JSON, at most 4096 bytes; every field must be there but `reports`, and no other.

        Raises:
            WireError: `manifest_invalid`, `unsupported_encoding` or `unsupported_wire`.
        """
        _check_manifest_length(raw)
        pairs = _read_json(raw, "manifest_invalid")
        if not isinstance(pairs, _Pairs):
            detail = f"Expected a JSON object. Received: {_shown(pairs)}"
            raise WireError("manifest_invalid", detail)
        document = _unique(pairs, "manifest_invalid")
        known = [entry.name for entry in fields(cls)]
        _expect_fields(document, known, "manifest_invalid", optional=("reports",))
        for name in ("metrics", "reports"):
            if isinstance(document.get(name), _Pairs):
                document[name] = _unique(document[name], "manifest_invalid")
        return cls(**document)


def _check_manifest_length(raw: bytes) -> None:
    if len(raw) > MANIFEST_LIMIT:
        detail = f"Expected a manifest of at most {MANIFEST_LIMIT} bytes. Received: {len(raw)}"
        raise WireError("manifest_invalid", detail)


def _is_digest(value: object) -> bool:
    return isinstance(value, str) and re.fullmatch(r"[0-9a-f]{64}", value) is not None


def _is_id(value: object) -> bool:
    return _is_int(value, 1, 2**63 - 1)


def _are_metrics(value: object) -> bool:
    return (
        isinstance(value, dict)
        and len(value) <= METRICS_LIMIT
        and all(_is_name(name) and len(name) <= METRIC_NAME_LIMIT for name in value)
        and all(_is_finite(number) for number in value.values())
    )


def _are_reports(value: object) -> bool:
    return isinstance(value, dict) and all(
        name in _REPORTS and _is_finite(number) and _REPORTS[name](number)
        for name, number in value.items()
    )


_REPORTS: dict[str, Callable[[float], bool]] = {
    "steps": lambda number: 1 <= number <= STEPS_LIMIT and number == int(number),
    "initial_loss": lambda number: number >= 0,
}

_MANIFEST_RULES: tuple[tuple[str, Callable[[Any], bool], str], ...] = (
    # First what decides how the rest is to be read.
    ("wire", lambda value: _is_int(value, WIRE_VERSION, WIRE_VERSION), f"{WIRE_VERSION}"),
    ("encoding", lambda value: value in ENCODINGS, f"one of {', '.join(ENCODINGS)}"),
    ("assignment", _is_id, "a positive integer"),
    ("round", _is_id, "a positive integer"),
    ("base", _is_digest, "a SHA-256 in 64 lower-case hexadecimal digits"),
    ("digest", _is_digest, "a SHA-256 in 64 lower-case hexadecimal digits"),
    ("length", lambda value: _is_int(value, 0, 2**63 - 1), "a length in bytes"),
    (
        "samples",
        lambda value: _is_int(value, 1, SAMPLES_LIMIT),
        f"an integer from 1 to {SAMPLES_LIMIT}",
    ),
    (
        "metrics",
        _are_metrics,
        f"at most {METRICS_LIMIT} finite numbers, named in {METRIC_NAME_LIMIT} characters",
    ),
    (
        "reports",
        _are_reports,
        f"`steps`, a whole number from 1 to {STEPS_LIMIT}, `initial_loss`, finite from 0, or none",
    ),
)
_MANIFEST_CODES = {"wire": "unsupported_wire", "encoding": "unsupported_encoding"}


# --- What is signed -----------------------------------------------------------------------------

# Each kind of message begins with words of its own, so that no signature can serve for another.
ENROL_CONTEXT = b"fedserver enrol v1\n"
TOKEN_CONTEXT = b"fedserver token v1\n"
UPDATE_CONTEXT = b"fedserver update v1\n"
ROTATE_CONTEXT = b"fedserver rotate v1\n"


def enrol_message(code: str, name: str, public_key: str) -> bytes:
    """What a participant signs to enrol; `public_key` as `b64` writes it."""
    return ENROL_CONTEXT + f"{code}\n{name}\n{public_key}".encode()


def token_message(challenge: str) -> bytes:
    """What a participant signs to get a token."""
    return TOKEN_CONTEXT + challenge.encode()


def update_message(manifest: bytes) -> bytes:
    """What a participant signs with an update: the manifest's bytes as they travel."""
    return UPDATE_CONTEXT + manifest


def rotate_message(new_public_key: str) -> bytes:
    """What a participant signs, with its old key, to change to a new one."""
    return ROTATE_CONTEXT + new_public_key.encode()


def b64(data: bytes) -> str:
    """Base64 for URLs and headers, without padding (RFC 4648, section 5)."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def unb64(text: str) -> bytes:
    """Read what `b64` wrote, and nothing else.

    Raises:
        WireError: `base64_invalid`, for other characters, padding or bits that mean nothing.
    """
    if re.fullmatch(r"[A-Za-z0-9_-]*", text) and len(text) % 4 != 1:
        data = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
        if b64(data) == text:
            return data
    detail = f"Expected base64url without padding. Received: {_shown(text)}"
    raise WireError("base64_invalid", detail)
