"""Images as files in folders by label: what everybody's tools understand, and nothing else.

    photos/
        cat/        3f2a….jpg  holiday.png
        T-shirt%2Ftop/         a label that no folder can be called is spelled with %XX

A label becomes the name of a folder and back without loss, on every system: what some system
forbids is written as % and two hexadecimal digits. Labels that differ in case alone get folders
that differ in more. Every other folder is called what its label is called, so that one made by
hand needs no thought.

Files are opened by `client_sdk.photo`, so that an image in a folder gives the numbers that the
same photo gives anywhere. One that is broken is named and skipped: it spoils no training.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final
from urllib.parse import unquote_to_bytes

import numpy as np

from client_sdk import photo
from client_sdk.wire import InputSpec

SUFFIXES: Final = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".webp"})

_NAME_LIMIT: Final = 240  # bytes; file systems stop at 255
_FORBIDDEN: Final = re.compile(r'[\x00-\x1f\x7f%/\\:*?"<>|]')
_AT_THE_ENDS: Final = re.compile(r"^[. ]|[. ]$")
# Devices of Windows, whatever comes after a dot.
_RESERVED: Final = re.compile(r"(?i)(con|prn|aux|nul|com\d|lpt\d)(\.|$)")
_LITTER: Final = frozenset({"thumbs.db", "desktop.ini"})  # of systems, not of people

Skipped = tuple[Path, str]


def folder_name(label: str) -> str:
    """What the folder of a label is called.

    Args:
        label: any text but none.

    Raises:
        ValueError: for an empty label, and for one that is too long to name a folder.

    Example:
        >>> folder_name("cat"), folder_name("T-shirt/top"), folder_name("..")
        ('cat', 'T-shirt%2Ftop', '%2E%2E')
    """
    name = _FORBIDDEN.sub(_spelled, unicodedata.normalize("NFC", label))
    name = _AT_THE_ENDS.sub(_spelled, name)
    if _RESERVED.match(name):
        name = _spelled(name[0]) + name[1:]
    return _checked(name, label)


def label_of(name: str) -> str:
    """The label of a folder; the other way round than `folder_name`.

    A % that spells nothing is a plain %, as in a folder that somebody made by hand.

    Example:
        >>> label_of("T-shirt%2Ftop"), label_of("100% wool")
        ('T-shirt/top', '100% wool')
    """
    try:
        label = unquote_to_bytes(name).decode()
    except UnicodeError:
        label = name
    return unicodedata.normalize("NFC", label)


class ImageFolder:
    """A folder of images by label.

    Args:
        path: the folder; it need not be there yet.

    Example:
        >>> images = ImageFolder(photos)
        >>> images.counts()
        {'cat': 2, 'dog': 1}
        >>> x, y, skipped = images.arrays(InputSpec((8, 8, 3), scale=1 / 255), ["cat", "dog"])
        >>> x.shape, y.tolist(), skipped
        ((3, 8, 8, 3), [0, 0, 1], [])
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path).expanduser()

    def __repr__(self) -> str:
        return f"ImageFolder({str(self.path)!r})"

    def __len__(self) -> int:
        return sum(self.counts().values())

    # --- What is there ---

    def labels(self) -> list[str]:
        """Labels that have a folder, in the order of their names."""
        return list(self._homes())

    def files(self, label: str) -> list[Path]:
        """Images of a label, in the order of their names."""
        return _images(self._homes().get(unicodedata.normalize("NFC", label), []))

    def by_label(self) -> dict[str, list[Path]]:
        """Images of every label that has a folder; both in the order of their names."""
        return {label: _images(homes) for label, homes in self._homes().items()}

    def counts(self) -> dict[str, int]:
        """How many images each label has."""
        return {label: len(files) for label, files in self.by_label().items()}

    def folder(self, label: str) -> Path:
        """Where new files of a label belong; not made here.

        Raises:
            ValueError: for a label that no folder can be named after.
        """
        label, name = unicodedata.normalize("NFC", label), folder_name(label)
        there = [folder.name for folder in self._folders()]
        for other in there:
            if label_of(other) == label:
                return self.path / other
        if name.casefold() in (other.casefold() for other in there):
            # "a" where "A" is: one folder on systems that do not tell them apart.
            name = _checked("".join(_spelled(letter) for letter in label), label)
        return self.path / name

    # --- As a model takes it ---

    def examples(self, labels: Sequence[str]) -> tuple[list[tuple[Path, int]], list[Skipped]]:
        """Files with the number of their class, and what has no place among these labels.

        Args:
            labels: the model's labels; where it has none, folders are called 0, 1, 2, …

        Returns:
            (path, class) by label and name; and (path, reason) of all that is left out.
        """
        classes = {unicodedata.normalize("NFC", label): n for n, label in enumerate(labels)}
        found: list[tuple[Path, int]] = []
        skipped = [
            (path, "Expected a folder of its label around it. Received: a file without one")
            for path in sorted(self._beside())
        ]
        for label, homes in self._homes().items():
            number = classes.get(label) if labels else _number(label)
            if number is None:
                skipped += [(home, _unknown(label, labels)) for home in homes]
                continue
            for path in _files(homes):
                if path.suffix.lower() in SUFFIXES:
                    found.append((path, number))
                else:
                    skipped.append((path, f"Expected {_kinds()}. Received: {path.name}"))
        return found, skipped

    def arrays(
        self, input_spec: InputSpec, labels: Sequence[str]
    ) -> tuple[np.ndarray, np.ndarray, list[Skipped]]:
        """All images as raw examples of a model, for `input_spec.prepare`.

        Args:
            input_spec: what the model takes.
            labels: the model's labels; where it has none, folders are called 0, 1, 2, …

        Returns:
            Examples (n, *shape), class numbers (n,), and (path, reason) of what was skipped.

        Raises:
            PhotoRefused: `takes_no_photos`, when the model is none of images.
        """
        if not photo.takes_photos(input_spec):
            raise photo.PhotoRefused(
                "takes_no_photos",
                f"Expected a model of images. Received: inputs {list(input_spec.shape)}",
            )
        found, skipped = self.examples(labels)
        x: list[np.ndarray] = []
        y: list[int] = []
        for path, number in found:
            try:
                x.append(photo.as_example(read(path), input_spec))
            except (photo.PhotoRefused, OSError) as error:
                skipped.append((path, str(error)))
            else:
                y.append(number)
        empty = photo.empty_examples(input_spec)
        return (np.stack(x) if x else empty), np.array(y, dtype=np.int64), skipped

    # --- Looking ---

    def _folders(self) -> Iterator[Path]:
        return (path for path in _seen(self.path) if path.is_dir())

    def _homes(self) -> dict[str, list[Path]]:
        """Folders by label; two may be of one, as where two systems spelled it."""
        homes: dict[str, list[Path]] = {}
        for folder in sorted(self._folders()):
            homes.setdefault(label_of(folder.name), []).append(folder)
        return dict(sorted(homes.items()))

    def _beside(self) -> Iterator[Path]:
        """Images that lie beside the folders and have no label."""
        for path in _seen(self.path):
            if path.suffix.lower() in SUFFIXES and path.is_file():
                yield path


def _seen(folder: Path) -> Iterator[Path]:
    """What is in a folder and not hidden; nothing where there is no folder."""
    if folder.is_dir():
        for path in folder.iterdir():
            if not path.name.startswith(".") and path.name.lower() not in _LITTER:
                yield path


def _files(folders: Iterable[Path]) -> list[Path]:
    return sorted(path for folder in folders for path in _seen(folder) if path.is_file())


def _images(folders: Iterable[Path]) -> list[Path]:
    return [path for path in _files(folders) if path.suffix.lower() in SUFFIXES]


def read(path: Path) -> bytes:
    """A photo's file; one that is too large is refused before it is read.

    Raises:
        PhotoRefused: `photo_too_large`.
    """
    size = path.stat().st_size
    if size > photo.BYTES_LIMIT:
        raise photo.PhotoRefused(
            "photo_too_large", f"Expected at most {photo.BYTES_LIMIT} bytes. Received: {size}"
        )
    return path.read_bytes()


def _spelled(found: re.Match[str] | str) -> str:
    text = found if isinstance(found, str) else found[0]
    return "".join(f"%{byte:02X}" for byte in text.encode())


def _checked(name: str, label: str) -> str:
    if not name or len(name.encode()) > _NAME_LIMIT:
        received = f"{label[:40]!r}…" if label else "an empty one"
        raise ValueError(
            f"Expected a label that a folder can be named after, of 1 to {_NAME_LIMIT} bytes. "
            f"Received: {received}"
        )
    return name


def _number(label: str) -> int | None:
    """The class of a folder that is called by its number."""
    return int(label) if re.fullmatch(r"0|[1-9][0-9]{0,5}", label) else None


def _unknown(label: str, labels: Sequence[str]) -> str:
    some = ", ".join(labels[:6]) + (", …" if len(labels) > 6 else "")
    return f"Expected one of the model's labels: {some or '0, 1, 2, …'}. Received: {label!r}"


def _kinds() -> str:
    return ", ".join(sorted(SUFFIXES))
