"""Real images for the demo: which they are, who holds them, and which network learns them.

The images are split twice: a held-out part for the server to evaluate on, and a pool that the
participants share out between them, evenly (`iid`) or as unevenly as real participants hold
theirs (`dirichlet`, `shards`). Needs numpy, and scikit-learn for its digits; Keras is imported
only to build a network.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

HELD_OUT = 0.2  # share of the images that evaluates, where a data set does not say
OBJECTIVE = {"loss": "sparse_categorical_crossentropy", "from_logits": False}
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
_KEYS = ("x_train", "y_train", "x_test", "y_test")


@dataclass(frozen=True, slots=True)
class Dataset:
    """Labelled images, raw.

    Args:
        name: "digits", "cifar10", or a file's name without its ending.
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


def load(name: str, seed: int) -> Dataset:
    """Load a data set.

    Args:
        name: "digits" (scikit-learn's 1,797 handwritten digits of 8x8 pixels from 0 to 16),
            "cifar10" (`cifar10.npz` or `cifar10_sample.npz` in the folder that FEDSERVER_DATA
            names, else Keras' own loader), or the path of an `.npz` file with uint8 images
            `x_train`, labels `y_train` and, if held out already, `x_test` and `y_test`.
        seed: decides which images are held out, where the data set does not say.

    Raises:
        ValueError: for another name, and for a file without such images.
    """
    if name == "digits":
        return _digits(seed)
    if name == "cifar10":
        return _cifar10(seed)
    if name.endswith(".npz"):
        return _from_file(Path(name), seed)
    raise ValueError(f"Expected digits, cifar10 or the path of an .npz file. Received: {name!r}")


def partition(y: np.ndarray, n: int, spec: str, seed: int) -> list[np.ndarray]:
    """Share samples out among participants: each to exactly one, and nobody goes empty.

    Args:
        y: labels (samples,).
        n: number of participants.
        spec: "iid" (shuffled, equal shares), "dirichlet:ALPHA" (each class in shares drawn from
            a Dirichlet distribution, the more uneven the smaller ALPHA; Hsu et al. 2019,
            arXiv 1909.06335) or "shards:K" (sorted by label, cut into n K shards, K to each;
            McMahan et al. 2017, arXiv 1602.05629).
        seed: the same seed gives the same shares.

    Returns:
        For each participant the sorted indices of its samples.

    Raises:
        ValueError: for another `spec`, or when there are too few samples.
    """
    if not 1 <= n <= len(y):
        raise ValueError(f"Expected 1 to {len(y)} participants. Received: {n}")
    kind, _, option = spec.partition(":")
    random = np.random.default_rng(seed)
    if spec == "iid":
        shares = np.array_split(random.permutation(len(y)), n)
    elif kind == "dirichlet" and _is_alpha(option):
        shares = _dirichlet(y, n, float(option), random)
    elif kind == "shards" and option.isdecimal() and 1 <= int(option) <= len(y) // n:
        shares = _shards(y, n, int(option), random)
    else:
        expected = f"iid, dirichlet:ALPHA or shards:K with K from 1 to {len(y) // n}"
        raise ValueError(f"Expected {expected}. Received: {spec!r}")
    return [np.sort(share) for share in shares]


def hyperparameters(dataset: Dataset) -> dict[str, Any]:
    """How the demo's participants train this data set's network."""
    if dataset.name == "digits":
        own = {"epochs": 5, "batch_size": 16, "learning_rate": 0.03, "optimizer": "sgd"}
    else:
        own = {"epochs": 2, "batch_size": 32, "learning_rate": 0.001, "optimizer": "adam"}
    return {**own, "momentum": 0.9, "max_steps": None}


def network(dataset: Dataset, seed: int = 0) -> Any:
    """The network that the demo trains on a data set, with its initial weights.

    Args:
        dataset: decides the architecture and the shapes.
        seed: decides the initial weights.

    Returns:
        A `keras.Model` that gives class probabilities, compiled with `OBJECTIVE`.
    """
    import keras

    initializers = (keras.initializers.GlorotUniform(seed + number) for number in count())
    stack = _small_stack if dataset.name == "digits" else _photo_labeller_stack
    layers = stack(keras.layers, initializers)
    output = keras.layers.Dense(
        len(dataset.labels),
        activation="softmax",
        kernel_initializer=next(initializers),
        name="output",
    )
    shape = dataset.x_train.shape[1:]
    model = keras.Sequential([keras.Input(shape, name="image"), *layers, output], name="network")
    model.compile(optimizer="sgd", loss=OBJECTIVE["loss"], metrics=["accuracy"])
    return model


# --- Networks -----------------------------------------------------------------------------------


def _small_stack(layers: Any, initializers: Any) -> list[Any]:
    """Enough for 8x8 pixels, and a round of it takes a fraction of a second."""
    options = [{"activation": "relu", "kernel_initializer": next(initializers)} for _ in range(3)]
    return [
        layers.Conv2D(16, 3, padding="same", name="conv1", **options[0]),
        layers.MaxPooling2D(2, name="pool1"),
        layers.Conv2D(32, 3, padding="same", name="conv2", **options[1]),
        layers.MaxPooling2D(2, name="pool2"),
        layers.Flatten(name="flatten"),
        layers.Dense(64, name="dense", **options[2]),
    ]


def _photo_labeller_stack(layers: Any, initializers: Any) -> list[Any]:
    """The network of the PhotoLabeller app, the ancestor of this project.

    Its shape: convolution 4x4x64, pool 3, convolution 5x5x32, pool 3, dense 250 with dropout.
    Mended: its second half had the sigmoids of its library's default, through which little was
    learned; its inputs were raw bytes; its local response normalisation divided by a near
    constant 3^0.75 and is gone; its learning rate is left to the run.
    """
    options = [{"activation": "relu", "kernel_initializer": next(initializers)} for _ in range(3)]
    return [
        layers.Conv2D(64, 4, padding="same", name="cnn1", **options[0]),
        layers.MaxPooling2D(3, strides=2, padding="same", name="pool1"),
        layers.Conv2D(32, 5, padding="same", name="cnn2", **options[1]),
        layers.MaxPooling2D(3, strides=2, padding="same", name="pool2"),
        layers.Flatten(name="flatten"),
        layers.Dropout(0.5, seed=0, name="dropout"),
        layers.Dense(250, name="ffn1", **options[2]),
    ]


# --- Data sets ----------------------------------------------------------------------------------


def _digits(seed: int) -> Dataset:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = bunch.images.astype(np.uint8)[..., np.newaxis]
    labels = tuple(str(name) for name in bunch.target_names)
    return Dataset("digits", *_split(images, bunch.target, seed), labels, scale=1 / 16)


def _cifar10(seed: int) -> Dataset:
    folder = os.environ.get("FEDSERVER_DATA")
    for file in ("cifar10.npz", "cifar10_sample.npz"):
        if folder and (Path(folder) / file).is_file():
            parts = _read(Path(folder) / file, seed)
            break
    else:
        parts = _downloaded()
    return Dataset("cifar10", *parts, _CIFAR10, scale=1 / 255)


def _downloaded() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    import keras

    try:
        (x_train, y_train), (x_test, y_test) = keras.datasets.cifar10.load_data()
    except Exception as error:  # Keras says it in no other way that it found no network
        raise ValueError(
            f"Expected cifar10.npz in the folder that FEDSERVER_DATA names, or a network to"
            f" fetch it from. Received: {error}"
        ) from error
    return x_train, y_train.ravel(), x_test, y_test.ravel()


def _from_file(path: Path, seed: int) -> Dataset:
    x_train, y_train, x_test, y_test = _read(path, seed)
    classes = int(max(y_train.max(), y_test.max())) + 1
    labels = tuple(str(number) for number in range(classes))
    return Dataset(path.stem, x_train, y_train, x_test, y_test, labels, scale=1 / 255)


def _read(path: Path, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
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


def _split(
    images: np.ndarray, labels: np.ndarray, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Hold out the same share of each class."""
    random = np.random.default_rng(seed)
    held_out = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        members = random.permutation(np.flatnonzero(labels == label))
        held_out[members[: round(HELD_OUT * len(members))]] = True
    return images[~held_out], labels[~held_out], images[held_out], labels[held_out]


# --- Shares -------------------------------------------------------------------------------------


def _dirichlet(
    y: np.ndarray, n: int, alpha: float, random: np.random.Generator
) -> list[np.ndarray]:
    parts: list[list[np.ndarray]] = [[] for _ in range(n)]
    for label in np.unique(y):
        members = random.permutation(np.flatnonzero(y == label))
        cuts = np.cumsum(random.dirichlet(np.full(n, alpha)))[:-1] * len(members)
        for part, share in zip(parts, np.split(members, cuts.astype(int)), strict=True):
            part.append(share)
    shares = [np.concatenate(part) for part in parts]
    return _fill_empty(shares)


def _fill_empty(shares: list[np.ndarray]) -> list[np.ndarray]:
    """Who drew nothing gets one sample from whoever holds the most."""
    for empty in (number for number, share in enumerate(shares) if len(share) == 0):
        richest = max(range(len(shares)), key=lambda number: len(shares[number]))
        shares[empty], shares[richest] = shares[richest][:1], shares[richest][1:]
    return shares


def _shards(y: np.ndarray, n: int, each: int, random: np.random.Generator) -> list[np.ndarray]:
    shuffled = random.permutation(len(y))  # so that ties under one label are not in file order
    by_label = shuffled[np.argsort(y[shuffled], kind="stable")]
    shards = np.array_split(by_label, n * each)
    dealt = random.permutation(n * each).reshape(n, each)
    return [np.concatenate([shards[number] for number in hand]) for hand in dealt]


def _is_alpha(text: str) -> bool:
    try:
        return 0 < float(text) <= 1e6  # beyond it the drawing overflows, and shares are even anyway
    except ValueError:
        return False
