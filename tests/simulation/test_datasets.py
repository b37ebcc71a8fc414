"""The images: which are held out, and what is refused in place of them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from simulation.datasets import Dataset, load


def _overlap(dataset: Dataset) -> int:
    pool = {image.tobytes() for image in dataset.x_train}
    return sum(image.tobytes() in pool for image in dataset.x_test)


def test_the_digits_are_held_out_evenly_and_nobody_trains_on_what_is_judged() -> None:
    digits = load("digits", seed=1)
    assert digits.x_train.shape[1:] == (8, 8, 1)
    assert digits.x_train.dtype == np.uint8
    assert digits.x_train.max() * digits.scale == 1.0
    assert len(digits.x_train) + len(digits.x_test) == 1797
    assert len(digits.x_test) == pytest.approx(0.2 * 1797, abs=5)
    assert np.ptp(np.bincount(digits.y_test)) <= 3
    assert _overlap(digits) == 0
    assert digits.labels == tuple("0123456789")


def test_the_seed_decides_which_digits_are_held_out() -> None:
    one, again, other = (load("digits", seed).x_test.tobytes() for seed in (1, 1, 2))
    assert one == again
    assert one != other


def _save(path: Path, samples: int, *, held_out: int = 0) -> None:
    random = np.random.default_rng(0)
    parts = {"train": samples, "test": held_out} if held_out else {"train": samples}
    arrays = {}
    for part, count in parts.items():
        arrays[f"x_{part}"] = random.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
        arrays[f"y_{part}"] = (np.arange(count) % 10).astype(np.uint8)[:, np.newaxis]
    np.savez(path, **arrays)  # type: ignore[arg-type]


def test_mnist_is_read_from_the_folder_that_is_named(tmp_path: Path) -> None:
    _save(tmp_path / "mnist.npz", 40, held_out=20)
    mnist = load("mnist", seed=1, folder=tmp_path)
    assert (mnist.name, len(mnist.x_train), len(mnist.x_test)) == ("mnist", 40, 20)
    assert mnist.scale == 1 / 255


@pytest.mark.parametrize("file", ["cifar10.npz", "cifar10_sample.npz"])
def test_cifar10_is_read_from_the_data_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str
) -> None:
    _save(tmp_path / file, 40, held_out=20)
    monkeypatch.setenv("FEDSERVER_DATA", str(tmp_path))
    cifar10 = load("cifar10", seed=1)
    assert (len(cifar10.x_train), len(cifar10.x_test)) == (40, 20)
    assert cifar10.y_train.shape == (40,)
    assert (cifar10.labels[0], cifar10.labels[9]) == ("airplane", "truck")


def test_a_file_of_ones_own_is_split_when_it_holds_nothing_out(tmp_path: Path) -> None:
    path = tmp_path / "mine.npz"
    _save(path, 50)
    mine = load(str(path), seed=1)
    assert (mine.name, len(mine.x_train), len(mine.x_test)) == ("mine", 40, 10)
    assert np.bincount(mine.y_test).tolist() == [1] * 10


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": np.zeros(3)}, "Expected `x_train`.*Received"),
        ({"x_train": np.zeros((3, 4, 4)), "y_train": np.zeros(3, int)}, "uint8.*Received: float64"),
        ({"x_train": np.zeros((3, 4), np.uint8), "y_train": np.zeros(3, int)}, "Received: uint8"),
        ({"x_train": np.zeros((3, 4, 4), np.uint8), "y_train": np.zeros(2, int)}, "3 labels"),
        ({"x_train": np.zeros((3, 4, 4), np.uint8), "y_train": np.full(3, -1)}, "from 0"),
        ({"x_train": np.zeros((3, 4, 4), np.uint8), "y_train": np.full(3, None)}, "allow_pickle"),
    ],
)
def test_a_file_without_images_is_refused(
    tmp_path: Path, arrays: dict[str, np.ndarray], message: str
) -> None:
    np.savez(tmp_path / "odd.npz", **arrays)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=message):
        load(str(tmp_path / "odd.npz"), seed=1)


@pytest.mark.parametrize(("name", "content"), [("gone.npz", None), ("text.npz", "x,y")])
def test_a_file_that_is_no_archive_is_refused(
    tmp_path: Path, name: str, content: str | None
) -> None:
    if content:
        (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=r"Expected an \.npz file. Received: .*which is"):
        load(str(tmp_path / name), seed=1)


def test_an_unknown_data_set_is_refused() -> None:
    with pytest.raises(ValueError, match="Received: 'imagenet'"):
        load("imagenet", seed=1)


def test_sharing_out_images_imports_no_keras() -> None:
    code = (
        "import sys; from simulation.datasets import load;"
        "from simulation.partitions import partition;"
        "partition(load('digits', 1).y_train, 5, 'iid', 1);"
        "print({'keras', 'tensorflow'} & set(sys.modules))"
    )
    environment = {**os.environ, "DJANGO_SETTINGS_MODULE": "fedserver.settings"}
    found = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, env=environment
    )
    assert found.stdout == "set()\n"
