"""Real images: which they are, and which of them are held out for the server to evaluate on.

Needs numpy, and scikit-learn for its digits; Keras is imported only to fetch CIFAR-10.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

HELD_OUT = 0.2  # share of the images that evaluates, where a data set does not say
_CIFAR10 = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)
_DIGITS = tuple("0123456789")
_KEYS = ("x_train", "y_train", "x_test", "y_test")

_Parts = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


@dataclass(frozen=True, slots=True)
class Dataset:
    """Labelled images, raw.

    Args:
        name: "digits", "mnist", "cifar10", or a file's name without its ending.
        x_train: uint8 (n, height, width, channels), for the participants.
        y_train: int64 (n,), places in `labels`.
        x_test: as `x_train`, for the evaluation on the server.
        y_test: as `y_train`.
        labels: names of the classes.
        scale: what a raw value is multiplied by before it enters a network.
    """

    name: str
    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    labels: tuple[str, ...]
    scale: float

    @property
    def input_spec(self) -> dict[str, Any]:
        """The input specification of a model for these images."""
        return {
            "shape": list(self.x_train.shape[1:]),
            "dtype": "float32",
            "scale": self.scale,
            "offset": 0.0,
        }


def load(name: str, seed: int, folder: Path | None = None) -> Dataset:
    """Load a data set.

    Args:
        name: "digits" (scikit-learn's 1,797 handwritten digits of 8x8 pixels from 0 to 16),
            "mnist" (`mnist.npz`) or "cifar10" (`cifar10.npz` or `cifar10_sample.npz`), or the
            path of an `.npz` file with uint8 images `x_train`, labels `y_train` and, if held out
            already, `x_test` and `y_test`.
        seed: decides which images are held out, where the data set does not say.
        folder: where the files of mnist and cifar10 lie; None for the folder that
            FEDSERVER_DATA names. What is not there is fetched by Keras' own loader.

    Raises:
        ValueError: for another name, and for a file without such images.
    """
    if name == "digits":
        return _digits(seed)
    if name == "mnist":
        parts = _named("mnist", ("mnist.npz",), seed, folder)
        return Dataset("mnist", *parts, _DIGITS, scale=1 / 255)
    if name == "cifar10":
        parts = _named("cifar10", ("cifar10.npz", "cifar10_sample.npz"), seed, folder)
        return Dataset("cifar10", *parts, _CIFAR10, scale=1 / 255)
    if name.endswith(".npz"):
        return _from_file(Path(name), seed)
    raise ValueError(
        f"Expected digits, mnist, cifar10 or the path of an .npz file. Received: {name!r}"
    )


# --- Data sets ----------------------------------------------------------------------------------


def _digits(seed: int) -> Dataset:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = bunch.images.astype(np.uint8)[..., np.newaxis]
    labels = tuple(str(name) for name in bunch.target_names)
    return Dataset("digits", *_split(images, bunch.target, seed), labels, scale=1 / 16)


def _named(name: str, files: tuple[str, ...], seed: int, folder: Path | None) -> _Parts:
    """A data set's file in the folder, the first that is there; else from the network."""
    given = folder or os.environ.get("FEDSERVER_DATA")
    for file in files:
        if given and (Path(given) / file).is_file():
            return _read(Path(given) / file, seed)
    return _downloaded(name)


def _downloaded(name: str) -> _Parts:
    import keras

    try:
        train, test = getattr(keras.datasets, name).load_data()
    except Exception as error:  # Keras says it in no other way that it found no network
        raise ValueError(
            f"Expected {name}.npz in the folder that FEDSERVER_DATA names, or a network to"
            f" fetch it from. Received: {error}"
        ) from error
    return (*_checked(*train), *_checked(*test))


def _from_file(path: Path, seed: int) -> Dataset:
    x_train, y_train, x_test, y_test = _read(path, seed)
    classes = int(max(y_train.max(), y_test.max())) + 1
    labels = tuple(str(number) for number in range(classes))
    return Dataset(path.stem, x_train, y_train, x_test, y_test, labels, scale=1 / 255)


def _read(path: Path, seed: int) -> _Parts:
    with _opened(path) as archive:
        missing = [key for key in _KEYS[:2] if key not in archive]
        if missing:
            raise ValueError(f"Expected `{missing[0]}` in {path.name}. Received: {archive.files}")
        held_out = all(key in archive for key in _KEYS[2:])
        found = [archive[key] for key in (_KEYS if held_out else _KEYS[:2])]
    pairs = [_checked(*pair) for pair in zip(found[::2], found[1::2], strict=True)]
    return (*pairs[0], *pairs[1]) if held_out else _split(*pairs[0], seed)


def _opened(path: Path) -> Any:
    try:
        archive = np.load(path, allow_pickle=False)
    except FileNotFoundError:
        raise ValueError(f"Expected an .npz file. Received: {path}, which is not there") from None
    except (ValueError, EOFError, BadZipFile):
        archive = None
    if not isinstance(archive, np.lib.npyio.NpzFile):
        raise ValueError(f"Expected an .npz file. Received: {path}, which is something else")
    return archive


def _checked(images: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    images = images[..., np.newaxis] if images.ndim == 3 else images
    labels = labels.ravel()
    if images.dtype != np.uint8 or images.ndim != 4 or len(images) == 0:
        shown = f"{images.dtype} {images.shape}"
        raise ValueError(f"Expected uint8 images (n, height, width, channels). Received: {shown}")
    if labels.dtype.kind not in "iu" or len(labels) != len(images) or labels.min() < 0:
        shown = f"{labels.dtype} {labels.shape}"
        raise ValueError(f"Expected {len(images)} labels, integers from 0. Received: {shown}")
    return images, labels.astype(np.int64)


def _split(images: np.ndarray, labels: np.ndarray, seed: int) -> _Parts:
    """Hold out the same share of each class."""
    random = np.random.default_rng(seed)
    held_out = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        members = random.permutation(np.flatnonzero(labels == label))
        held_out[members[: round(HELD_OUT * len(members))]] = True
    return images[~held_out], labels[~held_out], images[held_out], labels[held_out]
