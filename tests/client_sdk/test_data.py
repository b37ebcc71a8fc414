"""A participant's own data, in whatever form they are kept; what needs no Keras."""

from __future__ import annotations

import io
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

from client_sdk import data
from client_sdk.data import Examples, TrainingDataRefused, read_for, read_inputs
from client_sdk.wire import InputSpec

SPEC = InputSpec((4, 4, 3), scale=1 / 255)
LABELS = ["cat", "dog"]


@dataclass
class Card:
    document: dict[str, Any] = field(
        default_factory=lambda: {"input_spec": SPEC.to_json(), "labels": LABELS}
    )


def photo(shade: int = 0) -> bytes:
    file = io.BytesIO()
    PIL.Image.new("RGB", (8, 8), (shade, shade, shade)).save(file, "PNG")
    return file.getvalue()


def put(folder: Path, label: str, name: str, content: bytes) -> Path:
    (folder / label).mkdir(parents=True, exist_ok=True)
    path = folder / label / name
    path.write_bytes(content)
    return path


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Three of alice's photos, each in a shade of its own."""
    for label, shade in [("cat", 10), ("cat", 20), ("dog", 30)]:
        put(tmp_path / "photos", label, f"{shade}.png", photo(shade))
    return tmp_path / "photos"


def shades(examples: Examples) -> list[int]:
    return [int(example[0, 0, 0]) for x, _ in examples.batches(2) for example in x]


# --- Arrays -------------------------------------------------------------------------------------


def test_two_arrays_are_examples() -> None:
    x, y = np.arange(10.0), np.arange(10)
    examples = data.read((x, y), Card())
    assert len(examples) == 10
    assert [len(batch) for batch, _ in examples.batches(4)] == [4, 4, 2]
    again, labels = examples
    assert again is x
    assert labels is y
    assert data.read(examples, Card()) is examples


def test_a_seed_decides_the_order_and_every_example_comes_once() -> None:
    x = np.arange(10)
    examples = read_for((x, x), SPEC, [])

    def order(seed: int) -> list[int]:
        walk, found = examples.walk(np.random.default_rng(seed)), []
        while (batch := walk.take(3)) is not None:
            np.testing.assert_array_equal(*batch)
            found += batch[0].tolist()
        return found

    assert order(1) == order(1) != order(2)
    assert sorted(order(1)) == x.tolist()
    assert order(1) == np.random.default_rng(1).permutation(10).tolist()


def test_arrays_on_disk_are_not_read_into_memory(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.arange(10))
    x = np.load(tmp_path / "x.npy", mmap_mode="r")
    examples = read_for((x, np.arange(10)), SPEC, [])
    assert isinstance(examples[0].base, np.memmap) or isinstance(examples[0], np.memmap)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((np.zeros(3), np.zeros(2)), "a label for each.*Received: 3 examples"),
        ((np.zeros(0), np.zeros(0)), "at least one example.*Received: 0 examples"),
        ((1.0, 2.0), "Received: 0 examples"),
        ((np.zeros(3),), "examples, labels.*Received: a tuple of 1"),
        ((np.zeros(3), np.zeros(3), np.zeros(3)), "Received: a tuple of 3"),
        (np.zeros(3), "path of a folder.*Received: ndarray"),
        (None, "Received: NoneType"),
        ("/nowhere", "a folder of images. Received: /nowhere"),
    ],
)
def test_anything_else_is_refused_with_what_is_expected(given: Any, message: str) -> None:
    with pytest.raises(TrainingDataRefused, match=message):
        read_for(given, SPEC, LABELS)


# --- Pieces of any length -----------------------------------------------------------------------


@pytest.mark.parametrize("lengths", [[1] * 7, [7], [3, 4], [5, 1, 1]])
@pytest.mark.parametrize("size", [1, 2, 3, 7, 9])
def test_pieces_of_any_length_give_batches_of_the_length_that_is_asked_for(
    lengths: Sequence[int], size: int
) -> None:
    ends = np.cumsum(lengths)

    class Pieces(data._Stream):
        def pieces(self) -> Any:
            for end, length in zip(ends, lengths, strict=True):
                part = np.arange(end - length, end)
                yield part, part * 10

    examples = Pieces()
    assert len(examples) == 7
    found = list(examples.batches(size))
    assert all(len(x) == size for x, _ in found[:-1])
    np.testing.assert_array_equal(np.concatenate([x for x, _ in found]), np.arange(7))
    np.testing.assert_array_equal(examples[1], np.arange(7) * 10)


@pytest.mark.parametrize("threads", [1, 3])
def test_what_is_fetched_ahead_comes_in_order_and_may_be_left_in_the_middle(threads: int) -> None:
    assert list(data._ahead(lambda n: n * n, range(20), threads)) == [n * n for n in range(20)]
    fetched: list[int] = []
    walk = data._ahead(fetched.append, range(1000), threads)
    next(walk)
    walk.close()  # type: ignore[attr-defined]
    assert len(fetched) < 20


# --- A folder of photos -------------------------------------------------------------------------


def test_folders_are_the_models_labels_in_the_models_order(photos: Path) -> None:
    examples = read_for(photos, SPEC, ["dog", "cat"])
    assert len(examples) == 3
    assert examples[1].tolist() == [1, 1, 0]
    assert shades(examples) == [10, 20, 30]
    assert examples[0].dtype == np.uint8
    assert read_for(str(photos), SPEC, LABELS)[1].tolist() == [0, 0, 1]


def test_a_broken_photo_is_named_and_skipped(
    photos: Path, caplog: pytest.LogCaptureFixture
) -> None:
    broken = put(photos, "cat", "15.png", photo()[:8] + b"and no more")
    text = put(photos, "dog", "notes.txt", b"a good dog")
    with caplog.at_level(logging.WARNING, "client_sdk"):
        examples = read_for(photos, SPEC, LABELS)
    assert shades(examples) == [10, 20, 30]
    assert {path for path, _ in examples.skipped} == {broken, text}
    assert all("Received: " in reason for _, reason in examples.skipped)
    assert "15.png" in caplog.text
    caplog.clear()
    assert read_for(examples, SPEC, LABELS).skipped == examples.skipped
    assert not caplog.text  # once is enough


def test_a_folder_that_is_no_label_is_skipped_but_not_if_none_is(photos: Path) -> None:
    put(photos, "cats", "1.png", photo())
    examples = read_for(photos, SPEC, LABELS)
    assert len(examples) == 3
    [(folder, reason)] = examples.skipped
    assert folder.name == "cats"
    assert "cat, dog" in reason
    with pytest.raises(TrainingDataRefused, match=r"labels: sheep.*Received: 'cat'"):
        read_for(photos, SPEC, ["sheep"])


def test_where_the_model_has_no_labels_folders_are_numbers(photos: Path) -> None:
    for old, new in [("cat", "0"), ("dog", "7")]:
        (photos / old).rename(photos / new)
    assert read_for(photos, SPEC, [])[1].tolist() == [0, 0, 7]


@pytest.mark.parametrize("content", [None, b"no photo"])
def test_a_folder_without_one_photo_that_can_be_read_is_refused(
    tmp_path: Path, content: bytes | None
) -> None:
    (tmp_path / "cat").mkdir()
    if content:
        put(tmp_path, "cat", "1.png", content)
    with pytest.raises(TrainingDataRefused, match=r"photos in folders by label.*Received: "):
        read_for(tmp_path, SPEC, LABELS)


def test_a_model_of_no_images_takes_no_folder(photos: Path) -> None:
    with pytest.raises(TrainingDataRefused, match=r"a model of images.*Received: \[3\]"):
        read_for(photos, InputSpec((3,)), LABELS)


def test_only_photos_that_are_new_are_read_again(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    original = data.read_photo

    def read(path: Path) -> bytes:
        opened.append(path.name)
        return original(path)

    monkeypatch.setattr(data, "read_photo", read)
    examples = read_for(photos, SPEC, LABELS)
    assert shades(examples) == shades(examples) == [10, 20, 30]
    assert sorted(opened) == ["10.png", "20.png", "30.png"]
    opened.clear()
    put(photos, "dog", "40.png", photo(40))
    (photos / "cat" / "10.png").unlink()
    put(photos, "cat", "20.png", photo(211))
    examples = read_for(examples, SPEC, LABELS)
    assert shades(examples) == [211, 30, 40]
    assert sorted(opened) == ["20.png", "40.png"]
    assert shades(read_for(examples, InputSpec((2, 2, 3)), LABELS)) == [211, 30, 40]


def test_a_folder_too_large_to_keep_is_read_in_each_pass(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data, "PHOTOS_LIMIT", 10)
    examples = read_for(photos, SPEC, LABELS)
    assert shades(examples) == shades(examples) == [10, 20, 30]
    order = np.random.default_rng(3).permutation(3)
    walk = examples.walk(np.random.default_rng(3))
    found = walk.take(3)
    assert found is not None
    assert found[1].tolist() == np.array([0, 0, 1])[order].tolist()
    (photos / "dog" / "30.png").unlink()
    with pytest.raises(TrainingDataRefused, match=r"stay as they were. Received: .*30\.png"):
        shades(examples)


# --- Photos to be recognised --------------------------------------------------------------------


def test_photos_come_as_paths_or_bytes_or_one_alone(photos: Path) -> None:
    path = photos / "cat" / "10.png"
    for given in (path, str(path), [path], [photo(10)], photo(10)):
        found = read_inputs(given, SPEC)
        assert found.shape == (1, 4, 4, 3)
        assert (found == 10).all()
    x = np.zeros((2, 4, 4, 3))
    assert read_inputs(x, SPEC) is x
    assert read_inputs([[1.0, 2.0]], InputSpec((2,))).shape == (1, 2)


def test_a_broken_photo_that_is_to_be_recognised_is_named(photos: Path) -> None:
    put(photos, "cat", "holiday.png", b"nothing")
    with pytest.raises(TrainingDataRefused, match=r"holiday\.png: .*Received: "):
        read_inputs([photos / "cat" / "10.png", photos / "cat" / "holiday.png"], SPEC)
    with pytest.raises(TrainingDataRefused, match=r"photo 1: .*Received: "):
        read_inputs([photo(), b"nothing"], SPEC)
