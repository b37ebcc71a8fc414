"""The data of `train`: an .npz, or a folder of images by class; read anew when they change."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from client_sdk.cli.codes import DataUnreadable
from client_sdk.errors import Declined
from client_sdk.folder import ImageFolder
from client_sdk.held_out import Split

Arrays = tuple[np.ndarray, np.ndarray]
Tell = Callable[[str, int], None]  # a sentence, and how many examples there are

_LOOK = 2.0  # seconds between two looks for data that are not there yet


class NoData(Declined):
    """There is nothing to train with at the moment."""

    code = "no_data"


def read(path: Path) -> tuple[Arrays | Path, int]:
    """What `Participant.participate` takes, and how many examples it has.

    Raises:
        DataUnreadable: when it is neither an .npz nor a folder with images.
    """
    if not path.is_dir():
        x, y = _read_npz(path)
        return (x, y), len(x)
    images = len(ImageFolder(path))
    if not images:
        expected = "images in folders by class"
        raise DataUnreadable(f"Expected {expected} in {path}. Received: none")
    return path, images


def told(data: Arrays | Path, count: int, split: Split | None = None) -> str:
    """How much there is, for people.

    Args:
        data: what `read` gave.
        count: how many examples that are.
        split: which of them are held out.
    """
    what = "image" if isinstance(data, Path) else "example"
    text = f"{count} {what}" if count == 1 else f"{count} {what}s"
    if split is None:
        return text
    if isinstance(data, Path):  # which of them is known when a model says how it wants them
        return f"{text}, about {split.share:.0%} of them held out"
    held_out = int(split.of(data[0]).sum())
    return f"{text}: {count - held_out} to train with, {held_out} held out"


def _read_npz(path: Path) -> Arrays:
    """Arrays x and y of an .npz file; never a pickle."""
    try:
        with np.load(path, allow_pickle=False) as file:
            if not {"x", "y"} <= set(file.files):
                found = ", ".join(file.files) or "none"
                raise DataUnreadable(f"Expected arrays x and y in {path}. Received: {found}")
            x, y = file["x"], file["y"]
    except (OSError, ValueError, EOFError, TypeError, AttributeError, BadZipFile) as error:
        reason = error.strerror if isinstance(error, OSError) else "something else"
        expected = "an .npz file or a folder of images"
        raise DataUnreadable(f"Expected {expected}. Received: {path}, {reason}") from None
    if not x.ndim or not y.ndim or len(x) != len(y):
        shapes = f"x {list(x.shape)}, y {list(y.shape)}"
        raise DataUnreadable(f"Expected as many examples as labels in {path}. Received: {shapes}")
    return x, y


class Watched:
    """Data that are read anew when they have changed; give it to `Participant.participate`.

    A file that is being written is no reason to stop: as long as it cannot be read, the data of
    before are used. Where there are none, the assignment is given back.

    Args:
        path: the .npz or the folder.
        tell: told what was found.
        split: which of the examples are held out.
    """

    def __init__(self, path: Path, tell: Tell, split: Split | None = None) -> None:
        self._path, self._tell, self._split = path, tell, split
        self._seen: frozenset[tuple[str, int, int]] | None = None
        self._data: Arrays | Path | None = None
        self._count = 0

    def __call__(self) -> Arrays | Path:
        """The data as they are now.

        Raises:
            NoData: when there are none.
        """
        self.look()
        if self._data is None:
            raise NoData(f"Expected data in {self._path}. Received: none that can be read")
        return self._data

    def look(self) -> bool:
        """Read the data if they have changed; answers whether there are any."""
        seen = frozenset(_state(self._path))
        if seen != self._seen:
            self._seen = seen
            self._read()
        return self._data is not None

    def wait(self) -> None:
        """Until there is something to train with."""
        while not self.look():
            time.sleep(_LOOK)

    def _read(self) -> None:
        first = self._data is None
        try:
            self._data, self._count = read(self._path)
        except DataUnreadable as error:
            if self._path.is_dir():
                self._data, self._count = None, 0
            kept = "" if self._data is None else "; the data of before are used"
            self._tell(f"{error}{kept}", self._count)
        else:
            anew = "" if first else ", read anew"
            self._tell(told(self._data, self._count, self._split) + anew, self._count)


def _state(path: Path) -> Iterator[tuple[str, int, int]]:
    """Name, length and time of each file: what changes when the data do."""
    try:
        if path.is_dir():
            for folder, _, names in os.walk(path):
                for name in names:
                    yield from _state(Path(folder, name))
        else:
            found = path.stat()
            yield str(path), found.st_size, found.st_mtime_ns
    except OSError:
        return  # gone since we saw its name
