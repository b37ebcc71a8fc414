"""Images by label on disk: every label finds its folder, and every folder its label."""

import io
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from hypothesis import given
from hypothesis import strategies as st

from client_sdk import folder
from client_sdk.folder import ImageFolder, folder_name, label_of
from client_sdk.photo import PhotoRefused
from client_sdk.wire import InputSpec

SMALL = InputSpec((4, 4, 3), scale=1 / 255)
ANIMALS = ["cat", "dog", "T-shirt/top"]


def png(colour: str) -> bytes:
    file = io.BytesIO()
    PIL.Image.new("RGB", (8, 8), colour).save(file, "PNG")
    return file.getvalue()


def put(path: Path, content: bytes = b"") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content or png("red"))
    return path


# --- Labels and folders -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("label", "name"),
    [
        ("cat", "cat"),
        ("Maine Coon", "Maine Coon"),
        ("Käse", "Käse"),
        ("T-shirt/top", "T-shirt%2Ftop"),
        ("a\\b", "a%5Cb"),
        ("..", "%2E%2E"),
        (".git", "%2Egit"),
        ("etc.", "etc%2E"),
        (" ", "%20"),
        ("con", "%63on"),
        ("NUL.txt", "%4EUL.txt"),
        ("100%", "100%25"),
        ("line\nbreak", "line%0Abreak"),
    ],
)
def test_a_label_becomes_a_folder_and_back(label: str, name: str) -> None:
    assert folder_name(label) == name
    assert label_of(name) == label


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20))
def test_no_label_leaves_its_place_or_is_lost(label: str) -> None:
    name = folder_name(label)
    assert Path(name).name == name
    assert not name.startswith((".", " "))
    assert folder_name(label_of(name)) == name


@pytest.mark.parametrize("label", ["", "x" * 300])
def test_what_no_folder_can_be_called_is_said(label: str) -> None:
    with pytest.raises(ValueError, match="Received: "):
        folder_name(label)


def test_labels_that_differ_in_case_alone_share_no_folder(tmp_path: Path) -> None:
    letters = ImageFolder(tmp_path)
    put(letters.folder("A") / "1.png")
    small = letters.folder("a")
    assert small.name.casefold() != "a"
    put(small / "2.png")
    assert letters.counts() == {"A": 1, "a": 1}
    assert letters.folder("a") == small


def test_the_same_word_in_another_normal_form_is_the_same_label(tmp_path: Path) -> None:
    images = ImageFolder(tmp_path)
    put(tmp_path / "Cafe\N{COMBINING ACUTE ACCENT}" / "1.png")
    assert images.labels() == ["Café"]
    assert len(images.files("Cafe\N{COMBINING ACUTE ACCENT}")) == 1


# --- What is there ------------------------------------------------------------------------------


def test_a_folder_that_is_not_there_is_empty(tmp_path: Path) -> None:
    images = ImageFolder(tmp_path / "nowhere")
    assert (images.labels(), images.counts(), len(images)) == ([], {}, 0)
    x, y, skipped = images.arrays(SMALL, ANIMALS)
    assert (x.shape, y.shape, skipped) == ((0, 4, 4, 3), (0,), [])
    assert x.dtype == np.uint8


def test_images_are_counted_and_litter_is_not(tmp_path: Path) -> None:
    put(tmp_path / "cat" / "b.PNG")
    put(tmp_path / "cat" / "a.jpeg")
    put(tmp_path / "cat" / "notes.txt")
    put(tmp_path / "cat" / ".a.png.part")
    put(tmp_path / "dog" / "Thumbs.db")
    put(tmp_path / ".trash" / "c.png")
    images = ImageFolder(str(tmp_path))
    assert images.counts() == {"cat": 2, "dog": 0}
    assert [path.name for path in images.files("cat")] == ["a.jpeg", "b.PNG"]


# --- As a model takes it ------------------------------------------------------------------------


def test_every_image_becomes_an_example_of_its_class(tmp_path: Path) -> None:
    put(tmp_path / "dog" / "1.png", png("white"))
    put(tmp_path / "cat" / "1.png", png("black"))
    put(tmp_path / "T-shirt%2Ftop" / "1.png", png("white"))
    x, y, skipped = ImageFolder(tmp_path).arrays(SMALL, ANIMALS)
    assert skipped == []
    assert sorted(zip(y.tolist(), x.max(axis=(1, 2, 3)).tolist(), strict=True)) == [
        (0, 0),
        (1, 255),
        (2, 255),
    ]


def test_what_has_no_place_is_named_with_its_reason_and_the_rest_goes_on(tmp_path: Path) -> None:
    put(tmp_path / "cat" / "1.png")
    put(tmp_path / "cat" / "broken.png", png("red")[:40])
    put(tmp_path / "cat" / "letter.pdf", b"%PDF-1.7")
    put(tmp_path / "cat" / "text.png", b"hello, this is text")
    put(tmp_path / "horse" / "1.png")
    put(tmp_path / "loose.png")
    x, y, skipped = ImageFolder(tmp_path).arrays(SMALL, ANIMALS)
    assert (len(x), y.tolist()) == (1, [0])
    reasons = {path.name: reason for path, reason in skipped}
    assert reasons.keys() == {"broken.png", "letter.pdf", "text.png", "horse", "loose.png"}
    assert all("Received: " in reason for reason in reasons.values())
    assert "'horse'" in reasons["horse"]


def test_a_file_that_is_far_too_large_is_never_read(tmp_path: Path) -> None:
    path = put(tmp_path / "cat" / "film.png")
    with path.open("r+b") as file:
        file.truncate(2**40)  # a hole: it takes no room
    with pytest.raises(PhotoRefused) as refused:
        folder.read(path)
    assert refused.value.code == "photo_too_large"


def test_a_model_without_labels_takes_folders_by_number(tmp_path: Path) -> None:
    put(tmp_path / "7" / "1.png")
    put(tmp_path / "seven" / "1.png")
    x, y, skipped = ImageFolder(tmp_path).arrays(SMALL, [])
    assert (len(x), y.tolist()) == (1, [7])
    assert [path.name for path, _ in skipped] == ["seven"]


def test_a_model_of_other_things_says_so(tmp_path: Path) -> None:
    with pytest.raises(PhotoRefused) as refused:
        ImageFolder(tmp_path).arrays(InputSpec((4,)), ANIMALS)
    assert refused.value.code == "takes_no_photos"
