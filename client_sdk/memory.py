"""How much memory a model may take here."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Final

_UNTOLD: Final = 8 << 30  # bytes, where the system does not tell


def memory_limit(root: Path = Path("/")) -> int:
    """Bytes that a model may take: half of this machine's memory, or of its container's.

    Args:
        root: where `proc` and `sys` lie, for tests.

    Example:
        >>> memory_limit() > 0
        True
    """
    return min(_physical(), *_allotted(root)) // 2


def amount(count: int) -> str:
    """An amount of memory for people, in the units that memory is sold in.

    Example:
        >>> amount(3 << 20), amount(3 << 30)
        ('3.0 MiB', '3.0 GiB')
    """
    return f"{count / 2**30:.1f} GiB" if count >= 1 << 28 else f"{count / 2**20:.1f} MiB"


def _physical() -> int:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):  # Windows has no sysconf
        return _UNTOLD


def _allotted(root: Path) -> Iterator[int]:
    """What Linux' control groups allow this process (cgroups(7)): whoever takes more is killed."""
    yield _UNTOLD << 20  # more than any machine has: there may be no group
    try:
        groups = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in groups:
        _, controllers, path = line.split(":", 2)
        if not controllers:  # version 2 has one hierarchy for all
            home, name = root / "sys/fs/cgroup", "memory.max"
        elif "memory" in controllers.split(","):
            home, name = root / "sys/fs/cgroup/memory", "memory.limit_in_bytes"
        else:
            continue
        # A group has what those above it have at most. In a container its own is the root, though
        # its path may be told as it is outside.
        inside = PurePosixPath(path.lstrip("/"))
        for group in (inside, *inside.parents):
            try:
                yield int((home / group / name).read_text())
            except (OSError, ValueError):  # no such group here, or "max"
                continue
