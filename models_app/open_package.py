"""The process that opens model files: `python -m models_app.open_package`, a job on its stdin.

Keras' loader was made for files that one wrote oneself. A file that was uploaded is opened here,
in a process of its own that knows no secret of the server, may use so much memory, processor time
and disk and no more, and answers with plain JSON and safetensors. In the order it is done:

1. limits on itself, before the first byte of a file is read;
2. the evaluation set: finite numbers only (`read_npz`);
3. the archive's table of contents: exactly the known members, no bomb (`check_archive`);
4. the configuration: built-in Keras objects only (`architecture.check`), before Keras is imported;
5. the HDF5 file: plain numeric data sets only, no links, no bomb (`check_hdf5`);
6. Keras says how large the model is, builds it in safe mode, loads the weights, rebuilds it from
   its own JSON;
7. the model is evaluated;
8. `package.json`, `weights.safetensors` and `evaluation.safetensors` are written.

A refusal is `refusal.json`. `models_app.packages` is the other side.
"""

import json
import resource
import shutil
import sys
import zipfile
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import IO, Any, Final

from client_sdk.architecture import ArchitectureRefused, Config, check
from client_sdk.photo import takes_photos
from models_app.errors import FedserverError, InvalidModel, PackageRefused, PackageTooLarge

Examples = tuple[Any, Any]  # NumPy arrays x and y; NumPy is imported when they are read

CONFIG, WEIGHTS = "config.json", "model.weights.h5"
MEMBERS: Final = frozenset({"metadata.json", CONFIG, WEIGHTS})
CONFIG_LIMIT: Final = 32 * 2**20  # bytes
EXPANSION_LIMIT: Final = 100  # Keras stores; an archive packed again by hand shrinks a little
WHITES: Final = (1.0, 16.0, 255.0, 65_535.0)  # fractions, scikit-learn's digits, bytes, 16 bits
OBJECTS_LIMIT: Final = 200_000  # groups and data sets of an HDF5 file


def main() -> int:
    """Do the job on stdin; 0 when it is done, 3 when the file is refused."""
    job = json.load(sys.stdin)
    out = Path(job["out"])
    _limit(job["limits"])
    try:
        _VERBS[job["verb"]](job, out)
    except FedserverError as error:
        return _refuse(out, error.code, error.detail, error.field)
    except ArchitectureRefused as error:
        return _refuse(out, "package_refused", error.detail)
    except MemoryError:
        return _refuse(out, "package_too_large", "Expected a model that fits into memory.")
    except Exception as error:  # whatever a strange file makes Keras raise refuses that file
        detail = f"Keras could not read it: {type(error).__name__}: {error}"[:2000]
        return _refuse(out, "package_refused", detail)
    return 0


def _limit(limits: dict[str, int]) -> None:
    for name, value in limits.items():
        # The soft limit on processor time is a signal that tells the parent what happened.
        hard = value + 2 if name == "CPU" else value
        resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (value, hard))


def _refuse(out: Path, code: str, detail: str, field: str | None = None) -> int:
    refusal = {"code": code, "detail": detail, "field": field}
    (out / "refusal.json").write_text(json.dumps(refusal))
    return 3


# --- Verbs ----------------------------------------------------------------------------------


def open_keras(job: dict[str, Any], out: Path) -> None:
    """A `.keras` file."""
    examples = _read_examples(job["evaluation"])
    with _archive(Path(job["package"])) as archive:
        check_archive(archive, job["max_bytes"])
        config = _read_json(archive.read(CONFIG), CONFIG)
        checked = check(config)
        with archive.open(WEIGHTS) as source, (out / WEIGHTS).open("wb") as target:
            shutil.copyfileobj(source, target, 1 << 20)
    check_hdf5(out / WEIGHTS, job["max_bytes"])
    _check_size(checked, job["max_bytes"])
    model = _build(checked)
    model.load_weights(out / WEIGHTS)
    _write_package(model, config.get("compile_config"), examples, job, out)


def open_parts(job: dict[str, Any], out: Path) -> None:
    """Keras JSON and safetensors."""
    examples = _read_examples(job["evaluation"])
    source = Path(job["architecture"])
    if source.stat().st_size > CONFIG_LIMIT:
        raise PackageTooLarge(f"Expected at most {CONFIG_LIMIT} bytes of architecture.")
    config = _read_json(source.read_bytes(), "architecture")
    checked = check(config)
    _check_size(checked, job["max_bytes"])
    model = _build(checked)
    _load_safetensors(model, Path(job["weights"]))
    _write_package(model, config.get("compile_config"), examples, job, out)


def write_keras(job: dict[str, Any], out: Path) -> None:
    """The other way: a version's architecture and tensors as a `.keras` file."""
    from client_sdk import wire
    from models_app import keras_bridge

    model = _build(check(_read_json(Path(job["architecture"]).read_bytes(), "")))
    weights = wire.read_weights(job["manifest"])
    tensors = wire.open_tensors(job["weights"], [weight.tensor for weight in weights])
    keras_bridge.load_state(model, weights, tensors)
    model.save(out / "model.keras")


_VERBS = {"open_keras": open_keras, "open_parts": open_parts, "write_keras": write_keras}


# --- What is checked before Keras is imported -----------------------------------------------


def _archive(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError) as error:
        with path.open("rb") as file:
            start = file.read(16)
        raise PackageRefused(
            f"Expected a .keras file, which is a zip archive ({error}). Received: {start!r}"
        ) from None


def check_archive(archive: zipfile.ZipFile, max_bytes: int) -> None:
    """Refuse an archive that holds anything but the three members of a `.keras` file.

    Args:
        archive: The opened archive; only its table of contents is read.
        max_bytes: The most that its members may hold together.

    Raises:
        PackageRefused: A member too many, missing, repeated or encrypted.
        PackageTooLarge: Too many bytes, or far more than the archive's own size tells.
    """
    names = archive.namelist()
    for name in names:
        if name not in MEMBERS:
            why = "; assets of layers are not supported" if name.startswith("assets/") else ""
            expected = ", ".join(sorted(MEMBERS))
            raise PackageRefused(f"Expected only {expected}{why}. Received: {name[:200]!r}")
    if len(set(names)) != len(names) or not {CONFIG, WEIGHTS} <= set(names):
        expected = f"{CONFIG} and {WEIGHTS}, each once"
        raise PackageRefused(f"Expected {expected}. Received: {sorted(names)}")
    for info in archive.infolist():
        _check_member(info, CONFIG_LIMIT if info.filename != WEIGHTS else max_bytes)


def _check_member(info: zipfile.ZipInfo, limit: int) -> None:
    if info.flag_bits & 1:
        raise PackageRefused(f"Expected no encryption. Received: {info.filename} encrypted")
    if info.file_size > limit:
        raise PackageTooLarge(
            f"Expected at most {limit} bytes in {info.filename}. Received: {info.file_size}"
        )
    if info.file_size > EXPANSION_LIMIT * max(info.compress_size, 1 << 12):
        raise PackageTooLarge(
            f"Expected {info.filename} to expand at most {EXPANSION_LIMIT} times. "
            f"Received: {info.compress_size} bytes that claim to be {info.file_size}"
        )


def check_hdf5(path: Path, max_bytes: int) -> None:
    """Refuse an HDF5 file that is more than a tree of numbers.

    Links can point into other files or in circles, external and virtual data sets read other
    files, object types are unpickled by those who read them, and a data set of a few stored bytes
    may declare any shape.

    Raises:
        PackageRefused: With the path of the object and the reason.
        PackageTooLarge: The data sets declare more than `max_bytes` together.
    """
    import h5py

    try:
        file = h5py.File(path, "r")
    except OSError as error:
        with path.open("rb") as raw:
            start = raw.read(16)
        raise PackageRefused(
            f"Expected {WEIGHTS} to be an HDF5 file ({str(error)[:200]}). Received: {start!r}"
        ) from None
    with file:
        total, seen = 0, 0
        groups = [file["/"]]
        while groups:
            group = groups.pop()
            for name in group:
                seen += 1
                child = _plain_child(group, name, seen)
                if isinstance(child, h5py.Group):
                    groups.append(child)
                else:
                    total += child.size * child.dtype.itemsize
    _expect_at_most(max_bytes, total)


def _expect_at_most(max_bytes: int, size: int) -> None:
    if size > max_bytes:
        raise PackageTooLarge(f"Expected at most {max_bytes} bytes of weights. Received: {size}")


def _plain_child(group: Any, name: str, seen: int) -> Any:
    import h5py

    place = f"{group.name.rstrip('/')}/{name}"
    link = group.get(name, getlink=True)
    if not isinstance(link, h5py.HardLink):
        raise PackageRefused(f"Expected no links in {WEIGHTS}. Received: {link} at {place}")
    # A hard link to a group above makes a tree without an end.
    if seen > OBJECTS_LIMIT or place.count("/") > 200:
        raise PackageRefused(f"Expected at most {OBJECTS_LIMIT} objects in {WEIGHTS}.")
    child = group[name]
    if isinstance(child, h5py.Group):
        return child
    if not isinstance(child, h5py.Dataset) or child.dtype.kind not in "fiub":
        raise PackageRefused(f"Expected numbers in {WEIGHTS}. Received: {child} at {place}")
    if child.external or child.is_virtual:
        raise PackageRefused(f"Expected data inside {WEIGHTS}. Received: other files at {place}")
    return child


def _read_examples(source: str) -> Examples | None:
    """The held-out set of a job: an `.npz` that came with it, or the model's own blob."""
    from safetensors.numpy import load_file

    if not source:
        return None
    with Path(source).open("rb") as file:
        packed = file.read(2) == b"PK"
        file.seek(0)
        if packed:
            return read_npz(file)
    tensors = load_file(source)
    return tensors["x"], tensors["y"]


def read_npz(file: IO[bytes]) -> Examples:
    """The arrays `x` and `y` of an `.npz` file, numbers only, never unpickled.

    Raises:
        InvalidModel: Arrays are missing, empty, of objects, not finite, or of different lengths.
    """
    import numpy as np

    try:
        with np.load(file, allow_pickle=False) as arrays:
            x, y = arrays["x"], arrays["y"]
    except (KeyError, ValueError, OSError, zipfile.BadZipFile) as error:
        detail = f"Expected an .npz file with the arrays x and y. Received: {error}"[:500]
        raise InvalidModel(detail, field="evaluation") from None
    if x.ndim == 0 or y.ndim == 0 or len(x) != len(y) or len(x) == 0:
        raise InvalidModel(
            f"Expected as many answers as examples. Received: x {x.shape}, y {y.shape}",
            field="evaluation",
        )
    for name, array in (("x", x), ("y", y)):
        if array.dtype.kind not in "fiub" or not np.isfinite(array).all():
            received = f"NaN, infinity or other things ({array.dtype})"
            detail = f"Expected finite numbers in {name}. Received: {received}"
            raise InvalidModel(detail, field="evaluation")
    return x, y


def _read_json(raw: bytes, name: str) -> Any:
    try:
        return json.loads(raw)
    except (ValueError, RecursionError) as error:
        detail = f"Expected JSON in {name} ({error}). Received: {raw[:40]!r}"
        raise PackageRefused(detail) from None


# --- What Keras does ------------------------------------------------------------------------


def _check_size(checked: Config, max_bytes: int) -> None:
    """Refuse too large layers at once; TensorFlow would try for many seconds to allocate them."""
    from models_app import keras_bridge

    try:
        size = keras_bridge.state_bytes(checked)
    except Exception:  # building it for good tells why, or succeeds
        return
    _expect_at_most(max_bytes, size)


def _build(checked: Config) -> Any:
    from models_app import keras_bridge

    model = keras_bridge.build(checked)
    if not model.built:
        raise PackageRefused(
            "Expected a model whose input shape is known, for example through an Input layer. "
            f"Received: {model.name}, which was never built"
        )
    if len(model.inputs) != 1 or len(model.outputs) != 1:
        raise PackageRefused(
            "Expected one input and one output. "
            f"Received: {len(model.inputs)} inputs, {len(model.outputs)} outputs"
        )
    return model


def _load_safetensors(model: Any, path: Path) -> None:
    """Set a model's state from a file that names it as our manifest does, or by ordinals.

    A seed may be missing, for `model.weights` lists none; everything else must be there.
    """
    from safetensors.numpy import load_file

    from models_app import keras_bridge

    weights = keras_bridge.manifest(model)
    try:
        given = load_file(path)
    except Exception as error:  # the library raises types of its own, without a common base
        detail = f"Expected a safetensors file. Received: {error}"[:500]
        raise PackageRefused(detail, field="weights") from None
    tensors = {_resolved(name, weights): array for name, array in given.items()}
    _check_tensors(weights, tensors, len(given))
    keras_bridge.load_state(model, weights, tensors)


def _resolved(name: str, weights: Sequence[Any]) -> str:
    """The manifest's name for a tensor called "7", "0007" or "0007.….kernel".

    The layers in between are not compared: Keras counts those that have no name of their own.
    """
    ordinal, *path = name.split(".")
    if ordinal.isascii() and ordinal.isdecimal() and int(ordinal) < len(weights):
        found = str(weights[int(ordinal)].name)
        if not path or path[-1] == found.rpartition(".")[2]:
            return found
    return name


def _check_tensors(weights: Sequence[Any], tensors: dict[str, Any], given: int) -> None:
    expected = {weight.name: weight for weight in weights}
    if len(tensors) != given or tensors.keys() - expected.keys():
        unknown = sorted(tensors.keys() - expected.keys())[:5]
        detail = f"Expected names such as {list(expected)[:5]} or ordinals. Received: {unknown}"
        raise PackageRefused(detail, field="weights")
    for weight in weights:
        seed = weight.dtype[0] != "F" and weight.name.endswith("seed_generator_state")
        if weight.name not in tensors and not seed:
            found = sorted(tensors)[:5]
            detail = f"Expected the tensor {weight.name} (or {weight.ordinal}). Received: {found}"
            raise PackageRefused(detail, field="weights")
        if weight.name in tensors and tensors[weight.name].shape != weight.shape:
            shape = list(tensors[weight.name].shape)
            detail = f"Expected shape {list(weight.shape)} for {weight.name}. Received: {shape}"
            raise PackageRefused(detail, field="weights")


def _write_package(
    model: Any, compiled: Any, examples: Examples | None, job: dict[str, Any], out: Path
) -> None:
    from client_sdk import wire
    from models_app import keras_bridge

    config = check(json.loads(model.to_json()))
    weights = keras_bridge.manifest(model)
    rebuilt = keras_bridge.manifest(_build(config))
    if [spec.shape for spec in weights] != [spec.shape for spec in rebuilt]:
        raise PackageRefused(
            "Expected a model that its own JSON rebuilds. "
            f"Received: {len(weights)} weights, of which {len(rebuilt)} come back"
        )
    objective = keras_bridge.infer_objective(model, compiled, job["loss"])
    spec = wire.InputSpec(
        shape=tuple(model.inputs[0].shape[1:]),
        dtype=str(model.inputs[0].dtype),
        scale=job["scale"],
        offset=job["offset"],
    )
    spec = replace(spec, white=_white(spec, examples))
    wire.dump(out / "weights.safetensors", keras_bridge.read_state(model))
    evaluated: dict[str, Any] = {"metrics": {}, "confusion": None}
    document = {
        "architecture": config,
        "weights": [weight.to_json() for weight in weights],
        "input_spec": spec.to_json(),
        "outputs": model.output_shape[-1],
        "objective": objective,
    }
    if examples:
        evaluator = keras_bridge.Evaluator(model, weights, spec, objective, *examples)
        evaluated = asdict(evaluator.evaluate())
        document["evaluation"] = _write_examples(examples, out)
    (out / "package.json").write_text(json.dumps(document | {"evaluated": evaluated}))


def _white(spec: Any, examples: Examples | None) -> float:
    """The raw value of a white pixel, so that a photo can be given as participants' images are.

    Nobody says so; a whole set of images tells, for hardly any is without a white pixel.
    """
    if not takes_photos(spec):
        return 255.0
    if examples is not None:
        brightest = float(examples[0].max())
        return next((white for white in WHITES if brightest <= white), WHITES[-1])
    plain = spec.offset == 0 and 0 < spec.scale < 1
    return 1 / spec.scale if plain else 255.0


def _write_examples(examples: Examples, out: Path) -> dict[str, Any]:
    from client_sdk import wire
    from models_app import keras_bridge

    arrays = dict(zip(("x", "y"), examples, strict=True))
    wire.dump(out / "evaluation.safetensors", arrays)
    return {
        name: {"shape": list(array.shape), "dtype": keras_bridge.dtype_code(array.dtype)}
        for name, array in arrays.items()
    }


if __name__ == "__main__":
    sys.exit(main())
