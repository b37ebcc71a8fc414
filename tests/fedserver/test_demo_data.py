"""The demo's images: who may see which, and that every one of them is somebody's."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedserver.demo_data import Dataset, hyperparameters, load, partition

SPECS = st.one_of(
    st.just("iid"),
    st.floats(0.001, 1000).map(lambda alpha: f"dirichlet:{alpha}"),
    st.integers(1, 4).map(lambda shards: f"shards:{shards}"),
)


@settings(deadline=None, max_examples=200)
@given(
    spec=SPECS,
    participants=st.integers(1, 12),
    extra=st.integers(0, 60),
    classes=st.integers(1, 10),
    seed=st.integers(0, 2**32),
)
def test_every_sample_goes_to_one_participant_and_nobody_goes_empty(
    spec: str, participants: int, extra: int, classes: int, seed: int
) -> None:
    y = np.random.default_rng(seed).integers(0, classes, participants * 4 + extra)
    shares = partition(y, participants, spec, seed)
    assert len(shares) == participants
    assert min(len(share) for share in shares) >= 1
    np.testing.assert_array_equal(np.sort(np.concatenate(shares)), np.arange(len(y)))
    for share, again in zip(shares, partition(y, participants, spec, seed), strict=True):
        np.testing.assert_array_equal(share, again)


def test_as_many_participants_as_samples_get_one_each() -> None:
    for spec in ("iid", "dirichlet:0.01", "shards:1"):
        assert [len(share) for share in partition(np.arange(5), 5, spec, seed=1)] == [1] * 5


def test_iid_shares_are_even_and_mixed() -> None:
    y = np.repeat(np.arange(10), 100)
    for share in partition(y, 5, "iid", seed=1):
        assert len(share) == 200
        assert np.bincount(y[share], minlength=10).min() >= 8


def test_two_shards_hold_few_classes() -> None:
    y = np.tile(np.arange(10), 100)
    assert all(len(np.unique(y[share])) <= 4 for share in partition(y, 10, "shards:2", seed=1))


def test_a_small_alpha_is_less_even_than_a_great_one() -> None:
    y = np.repeat(np.arange(10), 100)

    def largest_class(alpha: str) -> float:
        shares = partition(y, 5, f"dirichlet:{alpha}", seed=1)
        return float(np.mean([np.bincount(y[share]).max() / len(share) for share in shares]))

    assert largest_class("0.1") > 0.3 > 0.15 > largest_class("1000")


UNKNOWN = "IID iid:1 dirichlet dirichlet:0 dirichlet:-1 dirichlet:inf dirichlet:much"
TOO_MANY = "shards shards:0 shards:1.5 shards:5"


@pytest.mark.parametrize("spec", ["", *UNKNOWN.split(), *TOO_MANY.split()])
def test_another_way_to_share_is_refused(spec: str) -> None:
    with pytest.raises(ValueError, match=f"Received: '{spec}'"):
        partition(np.arange(12), 3, spec, seed=1)


@pytest.mark.parametrize("participants", [0, -1, 13])
def test_more_participants_than_samples_are_refused(participants: int) -> None:
    with pytest.raises(ValueError, match=f"Received: {participants}"):
        partition(np.arange(12), participants, "iid", seed=1)


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
    assert hyperparameters(cifar10)["optimizer"] == "adam"


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
        "import sys; from fedserver.demo_data import load, partition; d = load('digits', 1);"
        "partition(d.y_train, 5, 'iid', 1); print({'keras', 'tensorflow'} & set(sys.modules))"
    )
    environment = {**os.environ, "DJANGO_SETTINGS_MODULE": "fedserver.settings"}
    found = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, env=environment
    )
    assert found.stdout == "set()\n"
