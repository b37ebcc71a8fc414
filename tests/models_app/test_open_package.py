"""Hostile model files, opened for real in the process apart; each is refused with its reason."""

import io
import json
import pickle
import zipfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from models_app import packages
from models_app.errors import InvalidModel, PackageRefused, PackageTooLarge
from tests.models_app.conftest import Config, layer, sequential, two_layers


def hdf5(fill: Any = lambda file: None) -> bytes:
    """An HDF5 file that `fill` was given."""
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        file.create_group("layers/dense/vars")["0"] = np.zeros((4, 3), np.float32)
        fill(file)
    return buffer.getvalue()


def keras_file(path: Path, config: Any = None, weights: bytes = b"", **members: bytes) -> Path:
    """A `.keras` file as an attacker would pack it; it never gets as far as Keras."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("metadata.json", json.dumps({"keras_version": "3.15.1"}))
        archive.writestr("config.json", json.dumps(config or two_layers()))
        archive.writestr("model.weights.h5", weights or hdf5())
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def refusal(path: Path, kind: type[PackageRefused] = PackageRefused) -> str:
    with pytest.raises(kind) as refused:
        with packages.open_package(package=path):
            pass
    return refused.value.detail


# --- The archive ------------------------------------------------------------------------------


class Exploit:
    def __reduce__(self) -> tuple[Any, ...]:
        return (print, ("unpickled",))


@pytest.mark.parametrize(
    ("content", "received"),
    [
        (pickle.dumps(Exploit()), "Received: b'"),
        (b"\x89HDF\r\n\x1a\n and so on", "HDF"),
        (b"", "Received: b''"),
    ],
)
def test_what_is_no_archive_is_refused(tmp_path: Path, content: bytes, received: str) -> None:
    path = tmp_path / "model.keras"
    path.write_bytes(content)
    assert received in refusal(path)


@pytest.mark.parametrize(
    "name", ["../../escaped.txt", "/etc/cron.d/job", "model.pkl", "assets/layer/vocabulary.txt"]
)
def test_a_member_that_is_not_expected_is_refused(tmp_path: Path, name: str) -> None:
    detail = refusal(keras_file(tmp_path / "model.keras", **{name: pickle.dumps(Exploit())}))
    assert f"Received: '{name}'" in detail
    assert not (tmp_path.parent / "escaped.txt").exists()


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    path = keras_file(tmp_path / "model.keras", weights=bytes(200 * 2**20))
    assert path.stat().st_size < 2**20
    assert "claim to be 209715200" in refusal(path, PackageTooLarge)


def test_a_configuration_that_is_a_bomb_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.keras"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("config.json", b"[" * (33 * 2**20))
        archive.writestr("model.weights.h5", hdf5())
    assert "in config.json" in refusal(path, PackageTooLarge)


def test_a_deep_configuration_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.keras"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", "[" * 100_000)
        archive.writestr("model.weights.h5", hdf5())
    assert "Expected JSON in config.json" in refusal(path)


def test_a_file_over_the_servers_limit_is_not_even_opened(tmp_path: Path, settings: Any) -> None:
    settings.MAX_MODEL_BYTES = 100
    path = keras_file(tmp_path / "model.keras")
    assert "at most 100 bytes" in refusal(path, PackageTooLarge)


@pytest.mark.parametrize("missing", ["config.json", "model.weights.h5"])
def test_a_file_without_a_part_is_refused(tmp_path: Path, missing: str) -> None:
    path = tmp_path / "model.keras"
    with zipfile.ZipFile(path, "w") as archive:
        for name in {"config.json", "model.weights.h5", "metadata.json"} - {missing}:
            archive.writestr(name, b"{}")
    assert "each once" in refusal(path)


# --- The configuration ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "received"),
    [
        (sequential(layer("Lambda", name="evil", function="print")), "Received: Lambda"),
        (
            sequential(layer("Evil", name="e") | {"module": "alice", "registered_name": "a>Evil"}),
            "Received: a>Evil",
        ),
        ({"module": "alice", "class_name": "MyModel", "config": {}}, "Received: 'MyModel'"),
        (sequential(layer("StringLookup", name="s", vocabulary="/etc/passwd")), "StringLookup"),
    ],
)
def test_code_and_custom_layers_are_refused(tmp_path: Path, config: Config, received: str) -> None:
    assert received in refusal(keras_file(tmp_path / "model.keras", config))


# --- The weights ------------------------------------------------------------------------------


def external_link(file: h5py.File) -> None:
    file["stolen"] = h5py.ExternalLink("/etc/passwd", "/")


def soft_link(file: h5py.File) -> None:
    file["again"] = h5py.SoftLink("/layers")


def external_storage(file: h5py.File) -> None:
    file.create_dataset("stolen", (16,), "u1", external=[("/etc/passwd", 0, 16)])


def virtual(file: h5py.File) -> None:
    layout = h5py.VirtualLayout((4,), "f4")
    layout[:] = h5py.VirtualSource("/srv/other.h5", "x", (4,))
    file.create_virtual_dataset("stolen", layout)


def circle(file: h5py.File) -> None:
    file["layers/up"] = file["layers"]


def strings(file: h5py.File) -> None:
    file["names"] = ["a", "b"]


@pytest.mark.parametrize(
    ("fill", "reason"),
    [
        (external_link, "no links"),
        (soft_link, "no links"),
        (external_storage, "other files at /stolen"),
        (virtual, "other files at /stolen"),
        (circle, "objects in model.weights.h5"),
        (strings, "Expected numbers"),
    ],
)
def test_an_hdf5_file_is_a_tree_of_numbers(tmp_path: Path, fill: Any, reason: str) -> None:
    assert reason in refusal(keras_file(tmp_path / "model.keras", weights=hdf5(fill)))


def test_a_data_set_that_declares_more_than_the_limit_is_refused(tmp_path: Path) -> None:
    def declare(file: h5py.File) -> None:
        file.create_dataset("bomb", (2**40,), "u1", chunks=(2**20,), compression="gzip")

    path = keras_file(tmp_path / "model.keras", weights=hdf5(declare))
    assert "bytes of weights" in refusal(path, PackageTooLarge)


def test_a_pickle_in_the_place_of_weights_is_refused(tmp_path: Path) -> None:
    path = keras_file(tmp_path / "model.keras", weights=pickle.dumps(Exploit()))
    assert "to be an HDF5 file" in refusal(path)


# --- The process --------------------------------------------------------------------------------


def test_opening_may_not_take_more_processor_time_than_allowed(
    parts: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packages, "CPU_SECONDS", 1)
    with pytest.raises(PackageTooLarge, match="1 processor seconds"):
        with packages.open_package(**parts):  # type: ignore[arg-type]
            pass


def test_opening_may_not_take_more_memory_than_allowed(
    parts: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packages, "BASE_MEMORY", 2**29)
    with pytest.raises(PackageRefused):
        with packages.open_package(**parts):  # type: ignore[arg-type]
            pass


def test_a_layer_of_terabytes_is_refused(parts: dict[str, Path]) -> None:
    parts["architecture"].write_text(json.dumps(two_layers(hidden=10**12)))
    with pytest.raises(PackageTooLarge) as refused:
        with packages.open_package(**parts):  # type: ignore[arg-type]
            pass
    # 4 inputs and 2 outputs for each of the hidden units, their biases and those of the outputs.
    assert refused.value.detail.endswith(f"Received: {4 * (10**12 * (4 + 1 + 2) + 2)}")


def test_the_process_is_told_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgres://alice:secret@db/fed")
    environment = packages._environment(tmp_path)
    assert not any("secret" in value for value in environment.values())


# --- Keras JSON and safetensors -------------------------------------------------------------------


def test_json_and_safetensors_are_the_second_way_in(
    parts: dict[str, Path], tensors: dict[str, np.ndarray]
) -> None:
    with packages.open_package(scale=0.5, **parts) as package:  # type: ignore[arg-type]
        assert [weight.name for weight in package.weights] == list(tensors)
        for name, values in tensors.items():
            np.testing.assert_array_equal(package.tensors[name], values)
        assert package.input_spec.to_json() == {
            "shape": [4],
            "dtype": "float32",
            "scale": 0.5,
            "offset": 0.0,
            "white": 255.0,
        }
        assert package.objective["loss"] == "sparse_categorical_crossentropy"
        assert package.evaluation_samples == 20
        assert set(package.evaluated.metrics) == {"loss", "accuracy"}
        confusion = package.evaluated.confusion or []
        assert [sum(row) for row in confusion] == [10, 10]
        right = sum(confusion[place][place] for place in range(2))
        assert package.evaluated.metrics["accuracy"] == right / 20


def test_a_way_in_has_all_its_files() -> None:
    with pytest.raises(PackageRefused, match="Received: weights"):
        with packages.open_package(weights=Path("w.safetensors")):
            pass


@pytest.mark.parametrize(
    ("change", "kind", "reason"),
    [
        ({"weights": {"0": np.zeros((4, 3), np.float32)}}, PackageRefused, "0001.body.bias"),
        ({"evaluation": {"x": np.zeros((3, 4)), "y": np.zeros(2)}}, InvalidModel, "as many"),
        ({"evaluation": {"x": np.zeros((3, 4))}}, InvalidModel, "arrays x and y"),
        ({"evaluation": {"x": np.full((3, 4), np.nan), "y": np.zeros(3)}}, InvalidModel, "finite"),
        ({"evaluation": {"x": np.array(["a"]), "y": np.zeros(1)}}, InvalidModel, "in x"),
        (
            {"evaluation": {"x": np.zeros((3, 4)), "y": np.array([Exploit()] * 3)}},
            InvalidModel,
            "allow_pickle=False",
        ),
    ],
)
def test_parts_that_do_not_fit_are_refused(
    parts: dict[str, Path], change: dict[str, Any], kind: type[Exception], reason: str
) -> None:
    from safetensors.numpy import save_file

    for name, arrays in change.items():
        if name == "weights":
            save_file(arrays, parts[name])
        else:
            np.savez(parts[name], **arrays)
    with pytest.raises(kind, match=reason):
        with packages.open_package(**parts):  # type: ignore[arg-type]
            pass
