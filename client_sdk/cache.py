"""Blobs that were fetched: files named by their SHA-256, so that nothing travels twice."""

from __future__ import annotations

import hashlib
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
        newest_first = sorted(self.folder.iterdir(), key=_used, reverse=True)
        for path in newest_first:
            kept += path.stat().st_size
            if kept > self.limit and path.stem not in in_use:
                path.unlink()


def _used(path: Path) -> float:
    return path.stat().st_mtime


def digest_of(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
