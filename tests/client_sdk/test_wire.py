"""The wire: what a stranger's bytes may be, and what every other kind of bytes gets."""

from __future__ import annotations

import hashlib
import io
import json
import math
import pickle
import time
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from client_sdk import wire
from client_sdk.wire import InputSpec, TensorSpec, UpdateManifest, WeightSpec, WireError

GOLDEN = Path(__file__).parent / "golden"

KERNEL = TensorSpec("0000.dense.kernel", (2, 3), "F32")
BIAS = TensorSpec("0001.dense.bias", (3,), "F32")
SPECS = [KERNEL, BIAS]


def alices_update() -> dict[str, np.ndarray]:
    return {
        KERNEL.name: np.arange(6, dtype=np.float32).reshape(2, 3) / 4,
        BIAS.name: np.array([-1.0, 0.0, 1.0], dtype=np.float32),
    }


def entry(begin: int, end: int, shape: Any = (3,), dtype: Any = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


KERNEL_ENTRY = entry(0, 24, [2, 3])
BIAS_ENTRY = entry(24, 36, [3])
GOOD = {KERNEL.name: KERNEL_ENTRY, BIAS.name: BIAS_ENTRY}


def file_bytes(header: Any, data: bytes = bytes(36), length: int | None = None) -> bytes:
    """A safetensors file with any header; text goes in as it is."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def npz_bytes() -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, kernel=np.zeros((2, 3)), bias=np.zeros(3))
    return buffer.getvalue()


def zip_bytes() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("config.json", "{}")
    return buffer.getvalue()


def many_tensors() -> bytes:
    return file_bytes({f"{number:06d}.x": entry(0, 0, [0]) for number in range(100_000)})


GOOD_TEXT = json.dumps(GOOD)
BAD_FILES: list[tuple[str, str, Callable[[], bytes]]] = [
    ("empty body", "truncated", lambda: b""),
    ("seven bytes", "truncated", lambda: bytes(7)),
    ("header length 0", "header_invalid", lambda: bytes(8) + bytes(36)),
    ("header length 1", "header_invalid", lambda: file_bytes(GOOD, length=1)),
    ("header length 2^63", "header_too_large", lambda: file_bytes(GOOD, length=2**63)),
    ("header length 2^64 - 1", "header_too_large", lambda: file_bytes(GOOD, length=2**64 - 1)),
    ("header longer than the file", "truncated", lambda: file_bytes(GOOD, b"", length=1000)),
    ("header that is cut", "misaligned", lambda: file_bytes(GOOD, length=9)),
    ("data cut by one byte", "truncated", lambda: file_bytes(GOOD, bytes(35))),
    ("no data", "truncated", lambda: file_bytes(GOOD, b"")),
    ("one byte too many", "trailing_bytes", lambda: file_bytes(GOOD, bytes(37))),
    ("padded by a page", "trailing_bytes", lambda: file_bytes(GOOD, bytes(36 + 4096))),
    ("pickle", "header_too_large", lambda: pickle.dumps(alices_update())),
    ("h5", "header_too_large", lambda: b"\x89HDF\r\n\x1a\n" + bytes(2000)),
    ("npz", "header_too_large", npz_bytes),
    ("zip", "header_too_large", zip_bytes),
    ("gzip", "header_too_large", lambda: b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03" + bytes(90)),
    ("hundred thousand tensors", "header_too_large", many_tensors),
    ("not JSON", "header_invalid", lambda: file_bytes(b"{nonsense}")),
    ("not UTF-8", "header_invalid", lambda: file_bytes(b'{"\xff\xfe": 1}')),
    ("byte order mark", "header_invalid", lambda: file_bytes(b"\xef\xbb\xbf{}")),
    ("a list", "header_invalid", lambda: file_bytes([1, 2])),
    ("two documents", "header_invalid", lambda: file_bytes(b"{}{}")),
    ("nesting without end", "header_invalid", lambda: file_bytes(b'{"a":' + b"[" * 1200)),
    ("NaN in the header", "header_invalid", lambda: file_bytes(b'{"a": NaN}')),
    ("number of 900 digits", "header_invalid", lambda: file_bytes(b'{"a": ' + b"9" * 900 + b"}")),
    ("no tensors", "missing_tensor", lambda: file_bytes({})),
    ("missing tensor", "missing_tensor", lambda: file_bytes({KERNEL.name: KERNEL_ENTRY})),
    (
        "renamed tensor",
        "missing_tensor",
        lambda: file_bytes({KERNEL.name: KERNEL_ENTRY, "0001.dense.Bias": BIAS_ENTRY}),
    ),
    (
        "extra tensor",
        "unexpected_tensor",
        lambda: file_bytes({**GOOD, "0002.backdoor": entry(36, 36, [0])}),
    ),
    (
        "name that is a path",
        "unexpected_tensor",
        lambda: file_bytes({**GOOD, "../../etc/passwd\x00": entry(36, 36, [0])}),
    ),
    (
        "duplicate tensor",
        "duplicate_tensor",
        lambda: file_bytes(f'{GOOD_TEXT[:-1]},"{BIAS.name}":{json.dumps(BIAS_ENTRY)}}}'.encode()),
    ),
    (
        "duplicate key in a tensor",
        "header_invalid",
        lambda: file_bytes(GOOD_TEXT.replace('"dtype"', '"dtype": "F64", "dtype"', 1).encode()),
    ),
    ("metadata no object", "header_invalid", lambda: file_bytes({**GOOD, "__metadata__": "x"})),
    (
        "metadata of numbers",
        "header_invalid",
        lambda: file_bytes({**GOOD, "__metadata__": {"a": 1}}),
    ),
    (
        "metadata twice",
        "duplicate_tensor",
        lambda: file_bytes(f'{GOOD_TEXT[:-1]},"__metadata__":{{}},"__metadata__":{{}}}}'.encode()),
    ),
    ("tensor that is null", "header_invalid", lambda: file_bytes({**GOOD, BIAS.name: None})),
    (
        "tensor without dtype",
        "header_invalid",
        lambda: file_bytes({**GOOD, BIAS.name: {"shape": [3], "data_offsets": [24, 36]}}),
    ),
    (
        "tensor with another field",
        "header_invalid",
        lambda: file_bytes({**GOOD, BIAS.name: {**BIAS_ENTRY, "device": "gpu"}}),
    ),
]
BAD_ENTRIES: list[tuple[str, str, dict[str, Any]]] = [
    ("F64 for F32", "wrong_dtype", entry(24, 48, [3], "F64")),
    ("BF16 for F32", "wrong_dtype", entry(24, 30, [3], "BF16")),
    ("integers for F32", "wrong_dtype", entry(24, 36, [3], "I32")),
    ("dtype that is no string", "wrong_dtype", entry(24, 36, [3], 7)),
    ("dtype that is a list", "wrong_dtype", entry(24, 36, [3], ["F32"])),
    ("another shape", "wrong_shape", entry(24, 40, [4])),
    ("same size, another rank", "wrong_shape", entry(24, 36, [1, 3])),
    ("shape 0 to 2^60", "wrong_shape", entry(24, 36, [0, 2**60])),
    ("shape with a float", "wrong_shape", entry(24, 36, [3.0])),
    ("shape with true", "wrong_shape", entry(24, 36, [True])),
    ("negative shape", "wrong_shape", entry(24, 36, [-3])),
    ("shape that is no list", "wrong_shape", entry(24, 36, 3)),
    ("offsets 0 to 2^60", "offsets_invalid", {**BIAS_ENTRY, "data_offsets": [0, 2**60]}),
    ("offsets 2^60 long", "offsets_invalid", {**BIAS_ENTRY, "data_offsets": [24, 24 + 2**60]}),
    ("offsets backwards", "offsets_invalid", {**BIAS_ENTRY, "data_offsets": [36, 24]}),
    ("negative offsets", "offsets_invalid", {**BIAS_ENTRY, "data_offsets": [-12, 0]}),
    ("offsets in floats", "offsets_invalid", {**BIAS_ENTRY, "data_offsets": [24.0, 36.0]}),
    ("one offset", "offsets_invalid", {**BIAS_ENTRY, "data_offsets": [36]}),
    ("three offsets", "offsets_invalid", {**BIAS_ENTRY, "data_offsets": [24, 36, 36]}),
    ("overlap", "overlap", entry(20, 32, [3])),
    ("the same place twice", "overlap", entry(0, 12, [3])),
    ("hole", "holes", entry(28, 40, [3])),
]
BAD_FILES += [
    (name, code, lambda bad=bad: file_bytes({**GOOD, BIAS.name: bad}, bytes(40)))  # type: ignore[misc]
    for name, code, bad in BAD_ENTRIES
]


class TestAStrangersFile:
    @pytest.mark.parametrize(
        ("code", "content"),
        [(code, content) for _, code, content in BAD_FILES],
        ids=[name for name, _, _ in BAD_FILES],
    )
    def test_is_refused_with_the_reason(
        self, tmp_path: Path, code: str, content: Callable[[], bytes]
    ) -> None:
        path = tmp_path / "update"
        path.write_bytes(content())
        for read in (wire.open_flat, wire.open_tensors):
            with pytest.raises(WireError, match="Received: ") as caught:
                read(path, SPECS)
            assert caught.value.code == code
            assert len(str(caught.value)) < 600

    def test_in_another_order_is_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "update"
        wire.dump(path, dict(reversed(alices_update().items())))
        with pytest.raises(WireError) as caught:
            wire.open_flat(path, SPECS)
        assert caught.value.code == "wrong_order"

    def test_names_the_tensor_at_fault(self, tmp_path: Path) -> None:
        path = tmp_path / "update"
        path.write_bytes(file_bytes({KERNEL.name: KERNEL_ENTRY}))
        with pytest.raises(WireError) as caught:
            wire.open_flat(path, SPECS)
        assert caught.value.field == BIAS.name

    def test_with_a_header_at_the_cap_costs_little_time_and_memory(self, tmp_path: Path) -> None:
        specs = [TensorSpec(f"{number:04d}.layer.kernel", (4, 4)) for number in range(500)]
        limit = wire.update_length_limit(specs) - 500 * 64 - 8
        path = tmp_path / "update"
        for filling in (b'{"a":' + b"[" * limit, b'{"a":"' + b"\\u0000" * (limit // 6)):
            text = filling[:limit]
            path.write_bytes(file_bytes(text[: len(text) // 8 * 8]))
            tracemalloc.start()
            started = time.process_time()
            with pytest.raises(WireError):
                wire.open_flat(path, specs)
            assert time.process_time() - started < 1
            assert tracemalloc.get_traced_memory()[1] < 4_000_000
            tracemalloc.stop()

    def test_of_a_hundred_thousand_tensors_is_refused_at_once(self, tmp_path: Path) -> None:
        path = tmp_path / "update"
        path.write_bytes(many_tensors())
        started = time.process_time()
        with pytest.raises(WireError):
            wire.open_flat(path, SPECS)
        assert time.process_time() - started < 0.1

    @given(place=st.integers(0, 10**6), value=st.integers(0, 255))
    @settings(max_examples=300, deadline=None)
    def test_with_any_byte_changed_is_read_or_refused_but_never_breaks_the_parser(
        self, tmp_path_factory: pytest.TempPathFactory, place: int, value: int
    ) -> None:
        content = bytearray(wire.dumps(alices_update()))
        content[place % len(content)] = value
        path = tmp_path_factory.getbasetemp() / "changed"
        path.write_bytes(content)
        try:
            flat = wire.open_flat(path, SPECS)
        except WireError as error:
            assert error.code  # noqa: PT017 - whether it raises is what the example decides
        else:
            assert flat.tobytes() == bytes(content[-36:])

    @given(content=st.binary(max_size=400))
    @settings(max_examples=300, deadline=None)
    def test_of_noise_is_refused(
        self, tmp_path_factory: pytest.TempPathFactory, content: bytes
    ) -> None:
        path = tmp_path_factory.getbasetemp() / "noise"
        path.write_bytes(len(content).to_bytes(8, "little") + content + bytes(36))
        with pytest.raises(WireError):
            wire.open_flat(path, SPECS)


class TestAGoodFile:
    def test_comes_back_as_it_went(self, tmp_path: Path) -> None:
        digest, length = wire.dump(tmp_path / "update", alices_update())
        content = (tmp_path / "update").read_bytes()
        assert digest == hashlib.sha256(content).hexdigest()
        assert length == len(content) <= wire.update_length_limit(SPECS)
        tensors = wire.open_tensors(tmp_path / "update", SPECS)
        assert list(tensors) == [KERNEL.name, BIAS.name]
        np.testing.assert_array_equal(tensors[KERNEL.name], alices_update()[KERNEL.name])
        flat = wire.open_flat(tmp_path / "update", SPECS)
        np.testing.assert_array_equal(flat, [0, 0.25, 0.5, 0.75, 1, 1.25, -1, 0, 1])

    def test_is_mapped_and_cannot_be_written_to(self, tmp_path: Path) -> None:
        wire.dump(tmp_path / "update", alices_update())
        flat = wire.open_flat(tmp_path / "update", SPECS)
        assert isinstance(flat, np.memmap)
        assert flat.ctypes.data % 64 == 0
        with pytest.raises(ValueError, match="read-only"):
            flat[0] = 1

    def test_gives_the_same_bytes_each_time(self, tmp_path: Path) -> None:
        wire.dump(tmp_path / "update", alices_update())
        assert (tmp_path / "update").read_bytes() == wire.dumps(alices_update())

    def test_may_carry_metadata(self, tmp_path: Path) -> None:
        path = tmp_path / "update"
        path.write_bytes(file_bytes({"__metadata__": {"format": "np"}, **GOOD}))
        assert wire.open_flat(path, SPECS).size == 9

    def test_may_be_of_no_tensors(self, tmp_path: Path) -> None:
        wire.dump(tmp_path / "fixed", {})
        assert wire.open_tensors(tmp_path / "fixed", []) == {}
        assert wire.open_flat(tmp_path / "fixed", []).size == 0

    def test_does_not_depend_on_how_an_array_lies_in_memory(self) -> None:
        array = np.arange(12, dtype=np.float32).reshape(3, 4)
        expected = wire.dumps({"a": array})
        assert wire.dumps({"a": np.asfortranarray(array)}) == expected
        assert wire.dumps({"a": array.astype(">f4")}) == expected
        assert wire.dumps({"a": np.repeat(array, 2, axis=1)[:, ::2]}) == expected

    def test_cannot_hold_what_the_format_does_not_know(self) -> None:
        for array in (np.array(["text"]), np.array([None]), np.array([1j])):
            with pytest.raises(WireError) as caught:
                wire.dumps({"a": array})
            assert caught.value.code == "wrong_dtype"

    @given(
        arrays=st.lists(
            st.one_of(
                hnp.arrays(
                    dtype=st.sampled_from(["<f4", "<f8", "<f2", "<i8", "<u4", "i1", "?"]),
                    shape=hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4),
                )
            ),
            max_size=6,
        )
    )
    @settings(max_examples=100, deadline=None)
    def test_of_any_tensors_comes_back_bit_by_bit(
        self, tmp_path_factory: pytest.TempPathFactory, arrays: list[np.ndarray]
    ) -> None:
        tensors = {f"{number:04d}.größe.{number}": array for number, array in enumerate(arrays)}
        specs = [
            TensorSpec(name, array.shape, safetensors_dtype(array))
            for name, array in tensors.items()
        ]
        path = tmp_path_factory.getbasetemp() / "any"
        _, length = wire.dump(path, tensors)
        assert length <= wire.update_length_limit(specs)
        read = wire.open_tensors(path, specs)
        for name, array in tensors.items():
            assert read[name].dtype == array.dtype
            assert read[name].shape == array.shape
            assert read[name].tobytes() == array.tobytes()


def safetensors_dtype(array: np.ndarray) -> str:
    if array.dtype.kind == "b":
        return "BOOL"
    return f"{array.dtype.kind.upper()}{8 * array.dtype.itemsize}"


class TestTheSafetensorsLibrary:
    def test_reads_what_we_write(self, tmp_path: Path) -> None:
        wire.dump(tmp_path / "update", alices_update())
        read = safetensors.numpy.load_file(tmp_path / "update")
        assert {name: array.tobytes() for name, array in read.items()} == {
            name: array.tobytes() for name, array in alices_update().items()
        }

    def test_writes_what_we_read(self, tmp_path: Path) -> None:
        safetensors.numpy.save_file(alices_update(), tmp_path / "update", {"by": "charlie"})
        flat = wire.open_flat(tmp_path / "update", SPECS)
        np.testing.assert_array_equal(flat[-3:], [-1, 0, 1])

    def test_differs_from_us_in_padding_only(self) -> None:
        theirs = safetensors.numpy.save(alices_update())
        ours = wire.dumps(alices_update())
        assert ours[8:].replace(b" ", b"") == theirs[8:].replace(b" ", b"")


class TestTheNorm:
    def test_is_the_euclidean_one(self) -> None:
        assert wire.norm(np.array([3, 4], dtype=np.float32)) == 5.0
        assert wire.norm(np.zeros(0, dtype=np.float32)) == 0.0

    def test_is_summed_in_float64(self) -> None:
        # Float32 sums stop growing at 2^24 ones; the greatest float32 squared overflows there.
        assert wire.norm(np.ones(2**25, dtype=np.float32)) == math.sqrt(2**25)
        greatest = np.full(4, np.finfo(np.float32).max)
        assert wire.norm(greatest) == pytest.approx(2 * float(greatest[0]))

    @pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
    @pytest.mark.parametrize("place", [0, 7, 40_000, 99_999])
    def test_of_what_is_not_finite_does_not_exist(self, bad: float, place: int) -> None:
        values = np.zeros(100_000, dtype=np.float32)
        values[place] = bad
        with pytest.raises(WireError, match=f"element {place}") as caught:
            wire.norm(values)
        assert caught.value.code == "non_finite"

    def test_names_the_tensor_that_is_not_finite(self) -> None:
        values = np.array([0, 0, 0, 0, 0, 0, 0, np.nan, 0], dtype=np.float32)
        with pytest.raises(WireError) as caught:
            wire.norm(values, SPECS)
        assert caught.value.field == BIAS.name

    def test_sees_an_infinity_beside_its_opposite(self) -> None:
        with pytest.raises(WireError):
            wire.norm(np.array([np.inf, -np.inf], dtype=np.float32))


MANIFEST: dict[str, Any] = {
    "assignment": 12,
    "round": 3,
    "base": "ab" * 32,
    "digest": "cd" * 32,
    "length": 292,
    "samples": 500,
    "encoding": "float32",
    "metrics": {"loss": 0.25, "accuracy": 0.5},
    "wire": 1,
}
BAD_MANIFESTS: list[tuple[str, str, dict[str, Any]]] = [
    *(
        (f"samples {shown!r}", "samples", {"samples": shown})
        for shown in (0, -1, 1.5, 1.0, "10", True, 10**9 + 1, 10**18, 10**19, None, [1])
    ),
    ("unknown field", "weight", {"weight": 2}),
    ("assignment as text", "assignment", {"assignment": "12"}),
    ("assignment 0", "assignment", {"assignment": 0}),
    ("assignment 2^63", "assignment", {"assignment": 2**63}),
    ("round true", "round", {"round": True}),
    ("base in capitals", "base", {"base": "AB" * 32}),
    ("digest too short", "digest", {"digest": "cd" * 31}),
    ("digest with a new line", "digest", {"digest": "cd" * 32 + "\n"}),
    ("negative length", "length", {"length": -1}),
    ("metrics as a list", "metrics", {"metrics": [1]}),
    ("metric as text", "metrics", {"metrics": {"loss": "0.1"}}),
    ("metric true", "metrics", {"metrics": {"loss": True}}),
    ("metric name too long", "metrics", {"metrics": {"l" * 65: 1.0}}),
    ("metric name empty", "metrics", {"metrics": {"": 1.0}}),
    ("metric name with a control character", "metrics", {"metrics": {"a\x00": 1.0}}),
    ("33 metrics", "metrics", {"metrics": {f"m{number}": 1.0 for number in range(33)}}),
    *(
        (f"steps {shown!r}", "reports", {"reports": {"steps": shown}})
        for shown in (0, -1, 1.5, "10", True, 10**9 + 1, 10**19, None, [1])
    ),
    *(
        (f"initial loss {shown!r}", "reports", {"reports": {"initial_loss": shown}})
        for shown in (-0.1, "0.1", True, None)
    ),
    ("a report of another name", "reports", {"reports": {"battery": 0.5}}),
    ("reports as a list", "reports", {"reports": [1]}),
    ("reports as null", "reports", {"reports": None}),
]
BAD_MANIFEST_BYTES: list[tuple[str, str, bytes]] = [
    ("nothing", "manifest_invalid", b""),
    ("no JSON", "manifest_invalid", b"\x80\x04pickle"),
    ("a list", "manifest_invalid", b"[]"),
    ("NaN", "manifest_invalid", json.dumps({**MANIFEST, "metrics": {"a": math.nan}}).encode()),
    ("infinity", "manifest_invalid", json.dumps(MANIFEST).replace("0.25", "1e999").encode()),
    ("repeated key", "manifest_invalid", b'{"samples":1,' + json.dumps(MANIFEST).encode()[1:]),
    (
        "repeated metric",
        "manifest_invalid",
        json.dumps(MANIFEST).replace('"loss"', '"accuracy"').encode(),
    ),
    (
        "repeated report",
        "manifest_invalid",
        json.dumps(MANIFEST).encode()[:-1] + b', "reports": {"steps": 1, "steps": 2}}',
    ),
    (
        "initial loss NaN",
        "manifest_invalid",
        json.dumps({**MANIFEST, "reports": {"initial_loss": math.nan}}).encode(),
    ),
    (
        "samples of 30 digits",
        "manifest_invalid",
        json.dumps({**MANIFEST, "samples": 10**30}).encode(),
    ),
    ("too long", "manifest_invalid", json.dumps(MANIFEST).encode() + b" " * 4096),
    ("deep", "manifest_invalid", b"[" * 4000),
    (
        "other encoding",
        "unsupported_encoding",
        json.dumps({**MANIFEST, "encoding": "int8"}).encode(),
    ),
    ("later wire", "unsupported_wire", json.dumps({**MANIFEST, "wire": 2}).encode()),
    ("wire true", "unsupported_wire", json.dumps({**MANIFEST, "wire": True}).encode()),
]


class TestAnUpdateManifest:
    def test_comes_back_as_it_went(self) -> None:
        manifest = UpdateManifest(**MANIFEST)
        assert UpdateManifest.from_bytes(manifest.to_bytes()) == manifest

    def test_has_one_way_to_be_written(self) -> None:
        shuffled = {**MANIFEST, "metrics": {"accuracy": 0.5, "loss": 0.25}}
        raw = UpdateManifest(**MANIFEST).to_bytes()
        assert UpdateManifest(**shuffled).to_bytes() == raw
        assert raw == json.dumps(MANIFEST, sort_keys=True, separators=(",", ":")).encode()

    @pytest.mark.parametrize(
        ("field", "change"),
        [(field, change) for _, field, change in BAD_MANIFESTS],
        ids=[name for name, _, _ in BAD_MANIFESTS],
    )
    def test_with_a_wrong_value_is_refused_by_field(
        self, field: str, change: dict[str, Any]
    ) -> None:
        with pytest.raises(WireError, match="Received: ") as caught:
            UpdateManifest.from_bytes(json.dumps({**MANIFEST, **change}).encode())
        assert (caught.value.code, caught.value.field) == ("manifest_invalid", field)

    @pytest.mark.parametrize("field", sorted(MANIFEST))
    def test_without_a_field_is_refused(self, field: str) -> None:
        rest = {name: value for name, value in MANIFEST.items() if name != field}
        with pytest.raises(WireError) as caught:
            UpdateManifest.from_bytes(json.dumps(rest).encode())
        assert (caught.value.code, caught.value.field) == ("manifest_invalid", field)

    @pytest.mark.parametrize(
        ("code", "raw"),
        [(code, raw) for _, code, raw in BAD_MANIFEST_BYTES],
        ids=[name for name, _, _ in BAD_MANIFEST_BYTES],
    )
    def test_of_other_bytes_is_refused(self, code: str, raw: bytes) -> None:
        with pytest.raises(WireError) as caught:
            UpdateManifest.from_bytes(raw)
        assert caught.value.code == code

    @given(raw=st.binary(max_size=200))
    @settings(max_examples=200, deadline=None)
    def test_of_noise_is_refused(self, raw: bytes) -> None:
        with pytest.raises(WireError):
            UpdateManifest.from_bytes(raw)

    @given(
        metrics=st.dictionaries(
            st.text(min_size=1, max_size=8).filter(str.isprintable),
            st.floats(allow_nan=False, allow_infinity=False),
            max_size=20,
        ),
        samples=st.integers(1, 10**9),
    )
    @settings(max_examples=100, deadline=None)
    def test_of_any_metrics_comes_back_bit_by_bit(
        self, metrics: dict[str, float], samples: int
    ) -> None:
        manifest = UpdateManifest(**{**MANIFEST, "metrics": metrics, "samples": samples})
        assert UpdateManifest.from_bytes(manifest.to_bytes()) == manifest

    @given(
        steps=st.none() | st.integers(1, 10**9),
        loss=st.none() | st.floats(0, allow_nan=False, allow_infinity=False),
    )
    @settings(max_examples=100, deadline=None)
    def test_of_any_reports_comes_back_and_older_servers_see_none_where_there_are_none(
        self, steps: int | None, loss: float | None
    ) -> None:
        told = {"steps": steps, "initial_loss": loss}
        reports = {name: value for name, value in told.items() if value is not None}
        manifest = UpdateManifest(**{**MANIFEST, "reports": reports})
        assert UpdateManifest.from_bytes(manifest.to_bytes()) == manifest
        assert manifest.reports == reports
        assert (b"reports" in manifest.to_bytes()) == bool(reports)

    @given(
        reports=st.dictionaries(
            st.text(max_size=12).filter(lambda name: name not in ("steps", "initial_loss")),
            st.floats(),
            min_size=1,
            max_size=3,
        )
    )
    @settings(max_examples=100, deadline=None)
    def test_of_other_reports_is_refused(self, reports: dict[str, float]) -> None:
        with pytest.raises(WireError) as caught:
            UpdateManifest(**{**MANIFEST, "reports": reports})
        assert (caught.value.code, caught.value.field) == ("manifest_invalid", "reports")

    def test_that_would_be_too_long_is_not_written(self) -> None:
        metrics = {f"{number:02d}" + "é" * 62: 0.1 for number in range(32)}
        with pytest.raises(WireError, match="4096"):
            UpdateManifest(**{**MANIFEST, "metrics": metrics}).to_bytes()


class TestWireVersionOne:
    """Bytes that were written once and must be read, and written, the same for ever."""

    def test_writes_the_golden_update(self) -> None:
        assert wire.dumps(alices_update()) == (GOLDEN / "update-v1.safetensors").read_bytes()

    def test_reads_the_golden_update(self) -> None:
        flat = wire.open_flat(GOLDEN / "update-v1.safetensors", SPECS)
        np.testing.assert_array_equal(flat, [0, 0.25, 0.5, 0.75, 1, 1.25, -1, 0, 1])

    def test_writes_the_golden_manifest(self) -> None:
        raw = (GOLDEN / "manifest-v1.json").read_bytes()
        assert UpdateManifest(**MANIFEST).to_bytes() == raw
        assert UpdateManifest.from_bytes(raw) == UpdateManifest(**MANIFEST)

    def test_signs_the_golden_messages(self) -> None:
        messages = [
            wire.enrol_message("CODE-1", "alice's laptop", "a2V5"),
            wire.token_message("challenge"),
            wire.update_message((GOLDEN / "manifest-v1.json").read_bytes()),
            wire.rotate_message("bmV3"),
        ]
        assert b"\n--\n".join(messages) == (GOLDEN / "messages-v1.bin").read_bytes()


class TestBase64:
    @given(data=st.binary(max_size=70))
    def test_comes_back_as_it_went(self, data: bytes) -> None:
        assert wire.unb64(wire.b64(data)) == data
        assert "=" not in wire.b64(data)

    @pytest.mark.parametrize("text", ["YQ==", "Y", "YR", "Y Q", "YQ\n", "a+b/", "é"])
    def test_written_otherwise_is_refused(self, text: str) -> None:
        with pytest.raises(WireError) as caught:
            wire.unb64(text)
        assert caught.value.code == "base64_invalid"


class TestAWeightsManifest:
    WEIGHTS = (
        WeightSpec("0000.dense.kernel", 0, "dense", (2, 3), "F32", wire.FEDERATED),
        WeightSpec("0001.norm.gamma", 1, "norm", (3,), "F32", wire.LOCAL),
        WeightSpec("0002.dropout.seed", 2, "dropout", (2,), "U32", wire.FROZEN),
    )

    def test_comes_back_as_it_went(self) -> None:
        text = json.dumps([weight.to_json() for weight in self.WEIGHTS])
        assert tuple(wire.read_weights(json.loads(text))) == self.WEIGHTS

    def test_says_which_tensors_travel(self) -> None:
        federated = wire.tensors_of(self.WEIGHTS, wire.FEDERATED)
        fixed = wire.tensors_of(self.WEIGHTS, wire.LOCAL, wire.FROZEN)
        assert federated == [TensorSpec("0000.dense.kernel", (2, 3), "F32")]
        assert [spec.nbytes for spec in fixed] == [12, 8]

    @pytest.mark.parametrize(
        "change",
        [
            {"name": ""},
            {"name": "a\x00b"},
            {"name": "x" * 1025},
            {"ordinal": -1},
            {"ordinal": "0"},
            {"layer": None},
            {"shape": [2, -1]},
            {"shape": [2.0]},
            {"shape": "23"},
            {"shape": [2**40, 2**40]},
            {"dtype": "BF16"},
            {"role": "shared"},
            {"device": "gpu"},
        ],
    )
    def test_with_a_wrong_line_is_refused(self, change: dict[str, Any]) -> None:
        with pytest.raises(WireError) as caught:
            wire.read_weights([{**self.WEIGHTS[0].to_json(), **change}])
        assert (caught.value.code, caught.value.field) == ("spec_invalid", next(iter(change)))

    def test_that_names_a_weight_twice_is_refused(self) -> None:
        line = self.WEIGHTS[0].to_json()
        for documents in ([line, line], [line, {**line, "ordinal": 1}]):
            with pytest.raises(WireError):
                wire.read_weights(documents)

    def test_names_sort_as_their_ordinals(self) -> None:
        names = [wire.tensor_name(number, "dense", "kernel") for number in range(0, 3000, 7)]
        assert names == sorted(names)
        assert wire.tensor_name(3, "encoder.dense_1", "kernel") == "0003.encoder.dense_1.kernel"
        assert wire.tensor_name(0, "", "seed") == "0000.seed"


class TestAnInputSpec:
    def test_scales_raw_images_and_adds_a_missing_channel(self) -> None:
        spec = InputSpec(shape=(2, 2, 1), scale=1 / 255, offset=-0.5)
        prepared = spec.prepare(np.array([[[0, 255], [51, 102]]], dtype=np.uint8))
        assert prepared.dtype == np.float32
        np.testing.assert_allclose(prepared.reshape(-1), [-0.5, 0.5, -0.3, -0.1], atol=1e-6)

    def test_leaves_the_raw_data_as_they_were(self) -> None:
        raw = np.ones((2, 3), dtype=np.float32)
        InputSpec(shape=(3,), scale=2.0).prepare(raw)
        np.testing.assert_array_equal(raw, 1)

    def test_leaves_token_ids_whole_numbers(self) -> None:
        prepared = InputSpec(shape=(None,), dtype="int32").prepare(np.array([[4, 5, 6]]))
        assert prepared.dtype == np.int32

    @pytest.mark.parametrize("shape", [(5,), (5, 8), (5, 8, 8, 3), (5, 7, 8), ()])
    def test_refuses_another_shape(self, shape: tuple[int, ...]) -> None:
        with pytest.raises(WireError, match="Received: ") as caught:
            InputSpec(shape=(8, 8, 1)).prepare(np.zeros(shape))
        assert caught.value.code == "input_invalid"

    def test_refuses_what_is_no_number(self) -> None:
        with pytest.raises(WireError):
            InputSpec(shape=(1,)).prepare(np.array([["seven"]]))

    def test_comes_back_as_it_went(self) -> None:
        spec = InputSpec(shape=(None, 8, 1), scale=0.5)
        assert InputSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec
        assert InputSpec.from_json({"shape": [3]}) == InputSpec(shape=(3,))

    @pytest.mark.parametrize(
        "document",
        [
            {},
            [],
            {"shape": 3},
            {"shape": ["3"]},
            {"shape": [3], "dtype": "object"},
            {"shape": [3], "scale": "2"},
            {"shape": [3], "scale": float("nan")},
            {"shape": [3], "unit": "m"},
        ],
    )
    def test_that_is_wrong_is_refused(self, document: Any) -> None:
        with pytest.raises(WireError) as caught:
            InputSpec.from_json(document)
        assert caught.value.code == "spec_invalid"
