"""Model files on their way in and out: a separate process does the work, this is its parent.

The web process, the admin and the commands all come through here, and wait: opening takes 5 to
20 seconds of another process, one at a time on a machine, and ends with an answer or a refusal
that names its reason. There is no half-opened model to look after.

    with packages.open_package(package=path, evaluation=npz) as package:
        registry.create_model("digits", package, actor="alice")
"""

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from django.conf import settings

from client_sdk import wire
from client_sdk.architecture import ArchitectureRefused, check
from models_app import errors
from models_app.errors import OpeningBusy, PackageRefused, PackageTooLarge
from models_app.evaluation import Evaluation

CPU_SECONDS: Final = 300
WALL_SECONDS: Final = 300
WAIT_SECONDS: Final = 30  # for another opening on this machine
BASE_MEMORY: Final = 6 * 2**30  # of address space: TensorFlow alone maps 2.4 GiB
_DOCUMENT_LIMIT: Final = 64 * 2**20  # bytes of package.json


@dataclass(frozen=True)
class Package:
    """An opened model: plain data, all of it checked. Its files live as long as the `with`.

    Args:
        architecture: Keras JSON, built-in parts only.
        weights: The weights manifest; federated, but for integers and untrainable layers.
        tensors: All state by name, mapped read-only.
        input_spec: Shape and preprocessing of one input.
        objective: `{"loss": name, "from_logits": bool}`.
        outputs: Length of the output's last axis, None where it varies.
        evaluation: A safetensors file with `x` and `y`, or None.
        evaluation_samples: How many examples that holds.
        evaluated: How good these weights are on that set.
    """

    architecture: dict[str, Any]
    weights: list[wire.WeightSpec]
    tensors: Mapping[str, np.ndarray]
    input_spec: wire.InputSpec
    objective: dict[str, Any]
    outputs: int | None = None
    evaluation: Path | None = None
    evaluation_samples: int = 0
    evaluated: Evaluation = field(default_factory=Evaluation)


@contextmanager
def open_package(
    *,
    package: Path | None = None,
    architecture: Path | None = None,
    weights: Path | None = None,
    evaluation: Path | None = None,
    loss: str = "",
    scale: float = 1.0,
    offset: float = 0.0,
) -> Iterator[Package]:
    """Open a model file, in one of two ways.

    Args:
        package: A `.keras` file; or else
        architecture: Keras JSON, and
        weights: a safetensors file that names tensors as our manifest does, or by ordinals.
        evaluation: Held-out examples: `.npz` with arrays `x` and `y`, or such a blob of ours.
        loss: Name of the loss; empty to take it from the file or the last activation.
        scale: Factor from raw values to inputs, 1/255 for byte images.
        offset: Added after scaling.

    Yields:
        The opened package.

    Raises:
        PackageRefused: With the reason.
        PackageTooLarge: The files, or what they unpack to, are over a limit.
        InvalidModel: The evaluation set or the loss does not fit.
        NonFinite: The loss on the evaluation set is NaN or infinite.
        OpeningBusy: This machine is opening another one.
    """
    parts = {"architecture": architecture, "weights": weights}
    given = {name for name, path in {"package": package, **parts}.items() if path}
    if given not in ({"package"}, set(parts)):
        received = ", ".join(sorted(given)) or "neither"
        raise PackageRefused(
            f"Expected a .keras file, or Keras JSON with safetensors. Received: {received}"
        )
    verb = "open_keras" if package else "open_parts"
    inputs = {"package": package, **parts, "evaluation": evaluation}
    with _opened(verb, inputs, loss=loss, scale=scale, offset=offset) as opened:
        yield opened


def write_keras(
    config: dict[str, Any],
    weights: list[wire.WeightSpec],
    tensors: Mapping[str, np.ndarray],
    target: Path,
) -> None:
    """Write a model as a `.keras` file.

    Args:
        config: Its architecture.
        weights: Its manifest.
        tensors: All its state.
        target: The file to write.
    """
    with _folder() as folder:
        (folder / "architecture.json").write_text(json.dumps(config))
        wire.dump(folder / "state.safetensors", tensors)
        inputs = {
            "architecture": folder / "architecture.json",
            "weights": folder / "state.safetensors",
        }
        _run("write_keras", inputs, folder, manifest=[weight.to_json() for weight in weights])
        shutil.move(folder / "model.keras", target)


@contextmanager
def _opened(verb: str, inputs: Mapping[str, Path | None], **options: Any) -> Iterator[Package]:
    limit = settings.MAX_MODEL_BYTES
    for name, path in inputs.items():
        if path is not None and (size := path.stat().st_size) > limit:
            detail = f"Expected at most {limit} bytes. Received: {size}"
            raise PackageTooLarge(detail, field=name)
    with _folder() as folder:
        _run(verb, inputs, folder, max_bytes=limit, **options)
        yield _read(folder)


@contextmanager
def _folder() -> Iterator[Path]:
    spool = Path(settings.FEDSERVER_HOME) / "spool"
    spool.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=spool, prefix="opening-") as name:
        yield Path(name)


# --- The child ------------------------------------------------------------------------------


def _run(verb: str, inputs: Mapping[str, Path | None], folder: Path, **job: Any) -> None:
    paths = {name: str(path.resolve()) if path else "" for name, path in inputs.items()}
    size = sum(path.stat().st_size for path in inputs.values() if path)
    document = {"verb": verb, "out": str(folder), "limits": _limits(size), **paths, **job}
    with _one_at_a_time():
        try:
            child = subprocess.run(
                [sys.executable, "-m", "models_app.open_package"],
                input=json.dumps(document).encode(),
                capture_output=True,
                timeout=WALL_SECONDS,
                cwd=settings.BASE_DIR,
                env=_environment(folder),
                check=False,
            )
        except subprocess.TimeoutExpired:
            detail = f"Expected a model that opens within {WALL_SECONDS} seconds."
            raise PackageTooLarge(detail) from None
    if child.returncode:
        raise _refusal(child, folder)


def _limits(size: int) -> dict[str, int]:
    """Limits in bytes and seconds, for files of `size` bytes together."""
    return {
        "AS": BASE_MEMORY + 8 * size,
        "CPU": CPU_SECONDS,
        "FSIZE": 2**26 + 4 * size,
        "CORE": 0,
    }


def _environment(folder: Path) -> dict[str, str]:
    """All that the child is told: no address and no secret of the server."""
    return {
        "PATH": os.environ.get("PATH", os.defpath),
        "LANG": "C.UTF-8",
        "HOME": str(folder),
        "KERAS_HOME": str(folder),
        "TMPDIR": str(folder),
        "CUDA_VISIBLE_DEVICES": "-1",
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }


@contextmanager
def _one_at_a_time() -> Iterator[None]:
    """Wait for the machine's other opening: two at once would take the processor from rounds."""
    with (Path(settings.FEDSERVER_HOME) / "opening.lock").open("w") as lock:
        until = time.monotonic() + WAIT_SECONDS
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > until:
                    detail = "Another model file is being opened. Try again in a minute."
                    raise OpeningBusy(detail, retry_after=60) from None
                time.sleep(0.2)
        yield


_REFUSALS = {
    kind.code: kind for kind in (errors.PackageTooLarge, errors.InvalidModel, errors.NonFinite)
}


def _refusal(child: subprocess.CompletedProcess[bytes], folder: Path) -> Exception:
    if (path := folder / "refusal.json").exists():
        refusal = json.loads(path.read_bytes())
        kind = _REFUSALS.get(refusal["code"], PackageRefused)
        return kind(refusal["detail"], field=refusal["field"])
    if child.returncode == -signal.SIGXCPU:
        return PackageTooLarge(f"Expected a model that opens in {CPU_SECONDS} processor seconds.")
    tail = child.stderr[-500:].decode(errors="replace").strip()
    detail = f"The process that opened it ended with {child.returncode}. Received: {tail}"
    return PackageRefused(detail)


# --- What it left ---------------------------------------------------------------------------


def _read(folder: Path) -> Package:
    """Read what the child wrote as if a stranger had written it, for one may have by then."""
    path = folder / "package.json"
    if path.stat().st_size > _DOCUMENT_LIMIT:
        raise PackageTooLarge(f"Expected at most {_DOCUMENT_LIMIT} bytes of architecture.")
    document = json.loads(path.read_bytes())
    try:
        weights = wire.read_weights(document["weights"])
        specs = [weight.tensor for weight in weights]
        evaluation = _evaluation(folder, document.get("evaluation"))
        return Package(
            architecture=check(document["architecture"]),
            weights=weights,
            tensors=wire.open_tensors(folder / "weights.safetensors", specs),
            input_spec=wire.InputSpec.from_json(document["input_spec"]),
            objective=document["objective"],
            outputs=document["outputs"],
            evaluation=evaluation[0],
            evaluation_samples=evaluation[1],
            evaluated=Evaluation.read(document["evaluated"]),
        )
    except wire.WireError as error:
        raise PackageRefused(error.detail, field=error.field) from None
    except (KeyError, TypeError) as error:
        raise PackageRefused(f"Expected a whole package. Received: {error}") from None
    except ArchitectureRefused as error:
        raise PackageRefused(error.detail, place=error.place) from None


def _evaluation(folder: Path, shapes: Mapping[str, Any] | None) -> tuple[Path | None, int]:
    if shapes is None:
        return None, 0
    specs = [
        wire.TensorSpec(name, tuple(shapes[name]["shape"]), shapes[name]["dtype"])
        for name in ("x", "y")
    ]
    path = folder / "evaluation.safetensors"
    wire.open_tensors(path, specs)
    return path, specs[0].shape[0]
