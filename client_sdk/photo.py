"""A photo as a model takes it: the one way, for the server's page and for participants.

The same photo gives the same numbers wherever it is prepared, or a model would be judged on other
inputs than those it was trained on. In the order it is done:

1. the first bytes say what it is, and only five formats are opened;
2. the header says how large it is, before one pixel is decoded;
3. it is turned upright as its EXIF data say; what is transparent becomes white;
4. its centre is cut out in the model's proportions and scaled down: nothing is distorted, and no
   bars are added, which no model has met in its training. What a photo loses at its edges the
   page shows, for it shows the picture that the model saw;
5. bytes become raw values as the model's examples have them (`InputSpec.white`).

Like `wire`, it knows no framework: numpy and Pillow. Pillow is imported when a photo is decoded,
so that a process which only looks at first bytes never loads it.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Final

import numpy as np

from client_sdk.wire import InputSpec

if TYPE_CHECKING:
    import PIL.Image

BYTES_LIMIT: Final = 10 * 2**20
PIXELS_LIMIT: Final = 40_000_000
OPEN_SIDE: Final = 224  # pixels, where a model takes images of any size

# What a file begins with, by the name that Pillow has for its format.
_SIGNATURES: Final = {
    "JPEG": (b"\xff\xd8\xff",),
    "PNG": (b"\x89PNG\r\n\x1a\n",),
    "GIF": (b"GIF87a", b"GIF89a"),
    "BMP": (b"BM",),
}
_FORMATS: Final = (*_SIGNATURES, "WEBP")
_MODES: Final = {1: "L", 3: "RGB", 4: "RGBA"}  # of Pillow, by number of channels


class PhotoRefused(ValueError):
    """A photo that is not decoded.

    Args:
        code: Stable short name for programs: `photo_unsupported`, `photo_too_large`,
            `photo_broken` or `takes_no_photos`.
        detail: Sentence for people that ends with `Received: …`.
    """

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail


def takes_photos(spec: InputSpec) -> bool:
    """Whether an input is an image: height, width and 1, 3 or 4 channels, or a plain square."""
    if len(spec.shape) == 3:
        return spec.shape[2] in _MODES
    return len(spec.shape) == 2 and spec.shape[0] == spec.shape[1] and spec.shape[0] is not None


def format_of(content: bytes) -> str:
    """The format of a file, by its first bytes alone.

    Raises:
        PhotoRefused: It is none of the five.
    """
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        return "WEBP"
    for name, signatures in _SIGNATURES.items():
        if content.startswith(signatures):
            return name
    raise PhotoRefused(
        "photo_unsupported",
        f"Expected a photo as {', '.join(_FORMATS)}. Received: {_told(content)}",
    )


def decode(content: bytes) -> PIL.Image.Image:
    """The first picture of a file, upright.

    Args:
        content: The whole file.

    Raises:
        PhotoRefused: It is too large, of another format, or broken.
    """
    import PIL.Image
    import PIL.ImageOps

    if len(content) > BYTES_LIMIT:
        raise PhotoRefused(
            "photo_too_large", f"Expected at most {BYTES_LIMIT} bytes. Received: {len(content)}"
        )
    kind = format_of(content)
    try:
        image = PIL.Image.open(io.BytesIO(content), formats=[kind])
        _expect_pixels(*image.size)
        return PIL.ImageOps.exif_transpose(_eight_bits(image))
    except PhotoRefused:
        raise
    except PIL.Image.DecompressionBombError:
        raise PhotoRefused(
            "photo_too_large", f"Expected at most {PIXELS_LIMIT} pixels. Received: far more"
        ) from None
    except PIL.UnidentifiedImageError:  # its words hold an address in memory
        received = f"{len(content)} bytes that are none"
        raise PhotoRefused(
            "photo_broken", f"Expected a {kind} that can be read. Received: {received}"
        ) from None
    except Exception as error:  # whatever a broken file makes a decoder raise
        raise PhotoRefused(
            "photo_broken", f"Expected a {kind} that can be read. Received: {error}"
        ) from error


def as_example(content: bytes, spec: InputSpec, *, invert: bool = False) -> np.ndarray:
    """A photo as one raw example of a model, for `spec.prepare(example[None])`.

    Args:
        content: The whole file.
        spec: What the model takes.
        invert: Turn light into dark, for a model whose images are light on dark ground.

    Returns:
        Array of the input's shape: bytes where white is 255, float32 otherwise.

    Raises:
        PhotoRefused: The photo cannot be decoded, or the model takes no photos.
    """
    import PIL.ImageOps

    if not takes_photos(spec):
        raise PhotoRefused(
            "takes_no_photos", f"Expected a model of images. Received: inputs {list(spec.shape)}"
        )
    height, width, channels = _target(spec)
    image = _on_white(decode(content), _MODES[channels])
    fitted = PIL.ImageOps.fit(image, (width, height))
    pixels = np.asarray(fitted).reshape(height, width, channels)
    if invert:
        pixels = np.concatenate([255 - pixels[..., :3], pixels[..., 3:]], axis=-1)
    pixels = pixels if len(spec.shape) == 3 else pixels[..., 0]
    return pixels if spec.white == 255.0 else pixels * np.float32(spec.white / 255)


def empty_examples(spec: InputSpec) -> np.ndarray:
    """No examples at all, in the shape and type that `as_example` gives."""
    height, width, channels = _target(spec)
    shape = (0, height, width, channels)[: len(spec.shape) + 1]
    return np.zeros(shape, np.uint8 if spec.white == 255.0 else np.float32)


def as_png(example: np.ndarray, spec: InputSpec) -> bytes:
    """The picture of an example, as a model sees it.

    Args:
        example: What `as_example` gave.
        spec: What the model takes.
    """
    import PIL.Image

    pixels = np.clip(np.rint(example * (255 / spec.white)), 0, 255).astype(np.uint8)
    pixels = pixels[..., 0] if pixels.shape[2:] == (1,) else pixels
    file = io.BytesIO()
    PIL.Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def _target(spec: InputSpec) -> tuple[int, int, int]:
    height, width = (OPEN_SIDE if side is None else side for side in spec.shape[:2])
    return height, width, (spec.shape[2] or 1) if len(spec.shape) == 3 else 1


def _expect_pixels(width: int, height: int) -> None:
    if width * height > PIXELS_LIMIT:
        raise PhotoRefused(
            "photo_too_large",
            f"Expected at most {PIXELS_LIMIT} pixels. Received: {width} x {height}",
        )


def _eight_bits(image: PIL.Image.Image) -> PIL.Image.Image:
    """Sixteen bits a pixel scaled to eight: Pillow would cut off what is above 255."""
    if not image.mode.startswith("I;16"):
        return image
    import PIL.Image

    upright = PIL.Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    upright.info = dict(image.info)
    return upright


def _on_white(image: PIL.Image.Image, mode: str) -> PIL.Image.Image:
    if mode == "RGBA" or not image.has_transparency_data:
        return image.convert(mode)
    import PIL.Image

    seen = image.convert("RGBA")
    ground = PIL.Image.new("RGBA", seen.size, "white")
    return PIL.Image.alpha_composite(ground, seen).convert(mode)


def _told(content: bytes) -> str:
    return repr(content[:12]) if content else "nothing"
