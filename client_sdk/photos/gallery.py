"""The photos on disk: files in folders by label, without anything that tells more than the picture.

    PHOTOS/
        cat/3f2a….jpg        labelled
        .waiting/9b1c….jpg   recognised, and not labelled yet

A photo comes in upright and re-encoded: place, time and camera are gone, and so is what is larger
than any model here needs. Its name is made from its pixels, so that the same photo twice is one.
A file is written beside its place, flushed, and renamed into it; to label it is to rename it. So
whatever is killed at whatever moment, a photo is here whole, once, or not at all.

Whoever asks from outside names a photo by its id, never by a path.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from client_sdk import folder, photo
from client_sdk.folder import SUFFIXES, ImageFolder
from client_sdk.keys import sync_folder

if TYPE_CHECKING:
    import PIL.Image

SIDE: Final = 1024  # pixels of the longer side: more than models on a participant's machine take
THUMB: Final = 176
WAITING_LIMIT: Final = 200
_SMALL: Final = 256  # pixels of a drawing or an icon, that JPEG would smear
_QUALITY: Final = 92
_OWN_NAME: Final = re.compile(r"[0-9a-f]{32}")


class GalleryRefused(Exception):
    """What the gallery does not do.

    Args:
        code: stable short name: `photo_unknown`, `label_invalid` or `waiting_full`.
        detail: sentence for people that ends with `Received: …`.
    """

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail


@dataclass(frozen=True, slots=True)
class Photo:
    """One photo of the gallery.

    Args:
        id: what it is called from outside.
        path: its file.
        label: its label; None while it waits for one.
        added: seconds since the epoch when its file was written.
    """

    id: str
    path: Path
    label: str | None
    added: float


class Gallery:
    """A folder of photos by label.

    Args:
        path: the folder; made when the first photo comes.

    Example:
        >>> gallery = Gallery(photos)
        >>> found = gallery.add(content)
        >>> gallery.label(found.id, "cat").label
        'cat'
        >>> gallery.counts()["cat"]
        1
    """

    def __init__(self, path: Path | str) -> None:
        self.images = ImageFolder(path)
        self._waiting = self.images.path / ".waiting"
        self._lock = threading.RLock()
        self._deleted: tuple[Photo, bytes] | None = None
        self._known: dict[str, Photo] = {}
        for left in self._waiting.glob(".*.part"):  # of a process that was killed
            left.unlink(missing_ok=True)

    @property
    def path(self) -> Path:
        """The folder."""
        return self.images.path

    # --- What is there ---

    def photos(self, label: str | None = None) -> list[Photo]:
        """Labelled photos, the newest first.

        Args:
            label: only those of this label.
        """
        files = {label: self.images.files(label)} if label else self.images.by_label()
        found = [self._photo(path, one) for one, paths in files.items() for path in paths]
        return sorted(found, key=lambda photo: (-photo.added, photo.id))

    def waiting(self) -> list[Photo]:
        """Photos that wait for a label, in the order in which they came."""
        found = [self._photo(path, None) for path in _files(self._waiting)]
        return sorted(found, key=lambda photo: (photo.added, photo.id))

    def counts(self) -> dict[str, int]:
        """How many photos each label has."""
        return self.images.counts()

    def find(self, id_: str) -> Photo:
        """A photo by its id.

        Raises:
            GalleryRefused: `photo_unknown`.
        """
        for look_again in (False, True):
            if look_again:  # at what others may have put there or moved
                self._known = {found.id: found for found in (*self.waiting(), *self.photos())}
            known = self._known.get(id_)
            if known is not None and known.path.is_file():
                return known
        raise GalleryRefused(
            "photo_unknown", f"Expected a photo of the gallery. Received: {id_!r:.60}"
        )

    def read(self, id_: str) -> bytes:
        """The file of a photo.

        Raises:
            GalleryRefused: `photo_unknown`.
            PhotoRefused: it is too large.
        """
        return folder.read(self.find(id_).path)

    # --- What changes it ---

    def add(self, content: bytes) -> Photo:
        """Take in a photo, to wait for its label; one that is here already stays as it is.

        Args:
            content: a file as a camera, a browser or a person gives it.

        Raises:
            PhotoRefused: it cannot be decoded.
            GalleryRefused: `waiting_full`, when too many wait already.
        """
        known = self._same_file(content)
        if known is not None:
            return known
        image = upright(content)
        id_ = _id_of(image)
        with self._lock:
            with suppress(GalleryRefused):
                return self.find(id_)
            if len(self.waiting()) >= WAITING_LIMIT:
                raise GalleryRefused(
                    "waiting_full",
                    f"Expected labels for the {WAITING_LIMIT} photos that wait, before another "
                    "comes. Received: one more",
                )
            encoded, suffix = encode(image)
            self.path.mkdir(parents=True, exist_ok=True, mode=0o700)  # nobody else's to look at
            return self._photo(_write(self._waiting / (id_ + suffix), encoded), None)

    def label(self, id_: str, label: str) -> Photo:
        """Give a photo its label, or another one.

        Raises:
            GalleryRefused: `photo_unknown`; `label_invalid`, when no folder can be called so.
        """
        with self._lock:
            found = self.find(id_)
            if found.label == label:
                return found
            try:
                home = self.images.folder(label)
            except ValueError as error:
                raise GalleryRefused("label_invalid", str(error)) from error
            home.mkdir(parents=True, exist_ok=True, mode=0o700)
            path = _free(home, found.path)
            found.path.replace(path)
            sync_folder(home)
            self._tidy(found.path.parent)
            return self._photo(path, label)

    def delete(self, id_: str) -> Photo:
        """Delete a photo. The file is gone at once; only `undo`, once, can bring it back.

        Raises:
            GalleryRefused: `photo_unknown`.
        """
        with self._lock:
            found = self.find(id_)
            content = b""
            with suppress(photo.PhotoRefused):  # far too large to be kept in mind
                content = folder.read(found.path)
            found.path.unlink()
            self._tidy(found.path.parent)
            self._deleted = (found, content) if content else None
            return found

    def undo(self) -> Photo | None:
        """Bring the photo back that was deleted last, if one was; it is remembered until then."""
        with self._lock:
            if self._deleted is None:
                return None
            (found, content), self._deleted = self._deleted, None
            return self._photo(_write(found.path, content), found.label)

    # --- Inside ---

    def _photo(self, path: Path, label: str | None) -> Photo:
        """A file that somebody else put there is called by its place, until it is moved."""
        own = _OWN_NAME.fullmatch(path.stem)
        place = f"{path.parent.name}/{path.name}".encode(errors="surrogateescape")
        id_ = path.stem if own else f"f{hashlib.sha256(place).hexdigest()[:31]}"
        try:
            added = path.stat().st_mtime
        except OSError:
            added = 0.0
        self._known[id_] = found = Photo(id_, path, label, added)
        return found

    def _same_file(self, content: bytes) -> Photo | None:
        """A photo of which this is the very file, as when one is dropped from the gallery."""
        for found in (*self.waiting(), *self.photos()):
            with suppress(OSError):
                same_size = found.path.stat().st_size == len(content)
                if same_size and found.path.read_bytes() == content:
                    return found
        return None

    def _tidy(self, parent: Path) -> None:
        with suppress(OSError):  # others lie in it
            parent.rmdir()


# --- Pictures -----------------------------------------------------------------------------------


def upright(content: bytes) -> PIL.Image.Image:
    """A photo's picture: upright, RGB or RGBA, at most `SIDE` pixels long, and nothing else.

    Raises:
        PhotoRefused: it cannot be decoded.
    """
    import PIL.Image

    image = photo.decode(content)
    image = image.convert("RGBA" if image.has_transparency_data else "RGB")
    image.thumbnail((SIDE, SIDE), PIL.Image.Resampling.LANCZOS)
    # A new picture of the same pixels: no profile, comment, thumbnail or text comes with it.
    return PIL.Image.fromarray(np.asarray(image))


def encode(image: PIL.Image.Image) -> tuple[bytes, str]:
    """The file of a picture and its suffix: PNG for what JPEG would spoil, else JPEG."""
    file = io.BytesIO()
    if image.mode == "RGBA" or max(image.size) <= _SMALL:
        image.save(file, "PNG", optimize=True)
        return file.getvalue(), ".png"
    image.save(file, "JPEG", quality=_QUALITY, subsampling=0)
    return file.getvalue(), ".jpg"


def thumbnail(content: bytes) -> bytes:
    """A small picture of a photo, for a page.

    Raises:
        PhotoRefused: it cannot be decoded.
    """
    import PIL.ImageOps

    image = photo.decode(content)
    image = image.convert("RGBA" if image.has_transparency_data else "RGB")
    small = PIL.ImageOps.fit(image, (THUMB, THUMB)) if max(image.size) > THUMB else image
    file = io.BytesIO()
    if small.mode == "RGBA":
        small.save(file, "PNG")
    else:
        small.save(file, "JPEG", quality=85)
    return file.getvalue()


def _id_of(image: PIL.Image.Image) -> str:
    """By its pixels: the same photo with other metadata is the same photo."""
    named = f"{image.mode} {image.width} {image.height}\n".encode() + image.tobytes()
    return hashlib.sha256(named).hexdigest()[:32]


# --- Files --------------------------------------------------------------------------------------


def _files(home: Path) -> Sequence[Path]:
    if not home.is_dir():
        return []
    seen = (path for path in home.iterdir() if not path.name.startswith("."))
    return [path for path in seen if path.suffix.lower() in SUFFIXES and path.is_file()]


def _free(home: Path, path: Path) -> Path:
    """Where a file can go without taking another's place; its own twin is no other."""
    taken = home / path.name
    if not taken.exists() or _OWN_NAME.fullmatch(path.stem):
        return taken
    numbers = (home / f"{path.stem}-{number}{path.suffix}" for number in range(2, 10**6))
    return next(place for place in numbers if not place.exists())


def _write(path: Path, content: bytes) -> Path:
    """Write a file so that it is there whole, or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    part = path.with_name(f".{path.name}.part")  # hidden from who walks the folder meanwhile
    with part.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
    sync_folder(path.parent)
    return path
