"""A photo as a model takes it: upright, undistorted, the same numbers everywhere."""

import io
import struct
import zlib
from typing import Any

import numpy as np
import PIL.Image
import pytest

from client_sdk import photo
from client_sdk.photo import PhotoRefused
from client_sdk.wire import InputSpec

BYTES = InputSpec((4, 4, 3), scale=1 / 255)
DIGITS = InputSpec((8, 8, 1), scale=1 / 16, white=16.0)


def file_of(pixels: Any, kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image = pixels if isinstance(pixels, PIL.Image.Image) else PIL.Image.fromarray(pixels)
    image.save(file, kind, **options)
    return file.getvalue()


def halves(width: int = 40, height: int = 20) -> PIL.Image.Image:
    """Black on the left, white on the right."""
    image = PIL.Image.new("RGB", (width, height), "white")
    image.paste("black", (0, 0, width // 2, height))
    return image


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few bytes that claims to be so large."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0))
    body = chunk(b"IDAT", zlib.compress(bytes(2**16))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + header + body


# --- What comes out -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP"])
def test_five_formats_are_opened(kind: str) -> None:
    example = photo.as_example(file_of(halves(), kind), BYTES)
    assert example.shape == (4, 4, 3)
    assert example.dtype == np.uint8
    assert example[:, 0].max() < 12
    assert example[:, 3].min() > 243


def test_the_centre_is_cut_out_and_nothing_is_distorted() -> None:
    stripes = np.repeat(np.array([0, 0, 50, 100, 150, 200, 255, 255], np.uint8), 10)
    wide = file_of(np.tile(stripes, (40, 1)))
    example = photo.as_example(wide, InputSpec((4, 4, 1), scale=1 / 255))
    # Each stripe of the middle half becomes one column.
    np.testing.assert_allclose(example[1, :, 0], [50, 100, 150, 200], atol=8)


def test_a_photo_taken_upside_down_is_turned_upright() -> None:
    exif = PIL.Image.Exif()
    exif[0x0112] = 3
    example = photo.as_example(file_of(halves(), "JPEG", exif=exif.tobytes()), BYTES)
    assert example[0, 0, 0] > 200
    assert example[0, 3, 0] < 50


def test_what_is_transparent_becomes_white() -> None:
    clear = PIL.Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    assert photo.as_example(file_of(clear), BYTES).min() == 255
    four = InputSpec((4, 4, 4), scale=1 / 255)
    assert photo.as_example(file_of(clear), four)[0, 0].tolist() == [0, 0, 0, 0]


def test_sixteen_bits_a_pixel_are_not_cut_off() -> None:
    ramp = (np.arange(64, dtype=np.uint16) * 1024).reshape(8, 8)
    example = photo.as_example(file_of(ramp), InputSpec((8, 8), scale=1 / 255))
    assert example[0, 0] == 0
    assert example[7, 7] == 252
    assert len(np.unique(example)) > 60


def test_bytes_become_values_as_the_models_own_examples_have_them() -> None:
    example = photo.as_example(file_of(halves(20, 20)), DIGITS)
    assert example.dtype == np.float32
    assert (example.min(), example.max()) == (0.0, 16.0)
    inputs = DIGITS.prepare(example[None])
    assert (inputs.shape, inputs.min(), inputs.max()) == ((1, 8, 8, 1), 0.0, 1.0)


def test_light_and_dark_may_change_places() -> None:
    content = file_of(halves())
    plain = photo.as_example(content, BYTES)
    np.testing.assert_array_equal(photo.as_example(content, BYTES, invert=True), 255 - plain)


def test_a_model_of_any_size_gets_a_square() -> None:
    assert photo.as_example(file_of(halves()), InputSpec((None, None, 3))).shape == (224, 224, 3)


def test_the_same_photo_gives_the_same_numbers() -> None:
    noise = np.random.default_rng(1).integers(0, 255, (90, 120, 3), dtype=np.uint8)
    content = file_of(noise, "JPEG", quality=90)
    once, again = photo.as_example(content, BYTES), photo.as_example(content, BYTES)
    np.testing.assert_array_equal(once, again)


@pytest.mark.parametrize("spec", [BYTES, DIGITS, InputSpec((8, 8)), InputSpec((4, 4, 4))])
def test_the_picture_of_an_example_is_what_the_model_sees(spec: InputSpec) -> None:
    example = photo.as_example(file_of(halves()), spec)
    seen = np.asarray(PIL.Image.open(io.BytesIO(photo.as_png(example, spec))))
    assert seen.shape[:2] == spec.shape[:2]
    assert (seen[0, 0].min(), seen[0, -1].max()) == (0, 255)


@pytest.mark.parametrize(
    ("shape", "takes"),
    [
        ((8, 8, 1), True),
        ((32, 24, 3), True),
        ((None, None, 3), True),
        ((28, 28), True),
        ((30, 12), False),
        ((None, 64), False),
        ((None, None), False),
        ((4,), False),
        ((8, 8, 2), False),
        ((3, 224, 224), False),
    ],
)
def test_which_models_take_photos(shape: tuple[int | None, ...], takes: bool) -> None:
    assert photo.takes_photos(InputSpec(shape)) is takes


# --- What is refused ----------------------------------------------------------------------------


def code(content: bytes, spec: InputSpec = BYTES) -> str:
    with pytest.raises(PhotoRefused) as refused:
        photo.as_example(content, spec)
    assert "Received: " in refused.value.detail
    return refused.value.code


@pytest.mark.parametrize("content", [b"", b"%PDF-1.7", b"<svg/>", file_of(halves(), "TIFF")])
def test_other_formats_are_not_opened(content: bytes) -> None:
    assert code(content) == "photo_unsupported"


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP"])
def test_a_broken_photo_is_refused(kind: str) -> None:
    whole = file_of(halves(200, 200), kind)
    assert code(whole[: len(whole) // 2]) == "photo_broken"
    assert code(whole[:14]) == "photo_broken"


@pytest.mark.parametrize(("width", "height"), [(10_000, 5_000), (30_000, 30_000)])
def test_a_bomb_is_refused_by_its_header(width: int, height: int) -> None:
    assert len(bomb(width, height)) < 300
    assert code(bomb(width, height)) == "photo_too_large"


def test_too_many_bytes_are_refused() -> None:
    assert code(b"\xff\xd8\xff" + bytes(photo.BYTES_LIMIT)) == "photo_too_large"


def test_a_model_of_other_things_takes_no_photo() -> None:
    assert code(file_of(halves()), InputSpec((4,))) == "takes_no_photos"
