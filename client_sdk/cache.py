"""Blobs that were fetched: files named by their SHA-256, so that nothing travels twice."""

from __future__ import annotations

import hashlib
import itertools
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


class BlobCache:
    """A folder of blobs that forgets the ones used longest ago.

    Args:
        folder: where the blobs lie; made when it is not there.
        limit: bytes to keep at most, apart from what is in use.

    Example:
        >>> cache = BlobCache(profile.cache_folder)
        >>> cache.find(sha256, length) is None
        True
    """

    def __init__(self, folder: Path, limit: int = 2 << 30) -> None:
        self.folder = folder
        self.limit = limit
        folder.mkdir(parents=True, exist_ok=True)

    def path(self, sha256: str) -> Path:
        """Where a blob lies or will lie."""
        return self.folder / sha256

    def partial(self, sha256: str) -> Path:
        """Where a blob grows while it is fetched."""
        return self.folder / f"{sha256}.part"

    @contextmanager
    def growing(self, sha256: str) -> Iterator[Path]:
        """Where a blob may grow for one who fetches it, held against all others who do as well.

        The first goes on with what a former one has left in `partial`; the file must be emptied
        and not be replaced by another one meanwhile.
        """
        others = (self.folder / f"{sha256}.{number}.part" for number in itertools.count(1))
        path = self.partial(sha256)
        while (descriptor := _hold(path)) is None:
            path = next(others)
        try:
            yield path
        finally:
            if path.exists() and not path.stat().st_size:
                path.unlink()
            os.close(descriptor)
            _held.discard(path)

    def find(self, sha256: str, length: int) -> Path | None:
        """A blob that is here and whole, or None.

        A file that has rotted is removed: it is hashed each time, because weights are too
        important to be trusted to a disk.
        """
        path = self.path(sha256)
        if not path.exists():
            return None
        if path.stat().st_size == length and digest_of(path) == sha256:
            path.touch()
            return path
        path.unlink()
        return None

    def trim(self, *in_use: str) -> None:
        """Remove the blobs used longest ago until the rest is within the limit."""
        kept = 0
        there = []
        for path in self.folder.iterdir():
            with suppress(FileNotFoundError):  # another has renamed it by now
                found = path.stat()
                there.append((found.st_mtime, found.st_size, path))
        for _, size, path in sorted(there, reverse=True):
            kept += size
            if kept > self.limit and path.stem not in in_use:
                path.unlink(missing_ok=True)


_held: set[Path] = set()  # by this process
_holding = threading.Lock()


def _hold(path: Path) -> int | None:
    """The file, made where it is not there and held until it is closed; None if another has it."""
    with _holding:
        if path in _held:
            return None
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        with suppress(BlockingIOError, FileNotFoundError):
            _lock(descriptor)
            # Who had it may have renamed it by now.
            if path.stat().st_ino == os.fstat(descriptor).st_ino:
                _held.add(path)
                return descriptor
        os.close(descriptor)
        return None


if os.name == "posix":
    import fcntl

    def _lock(descriptor: int) -> None:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise
        except OSError:
            pass  # a file system without locks: the other processes are not kept off

else:  # pragma: no cover - Windows, where a lock would keep ourselves from writing

    def _lock(descriptor: int) -> None:
        pass


def digest_of(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
