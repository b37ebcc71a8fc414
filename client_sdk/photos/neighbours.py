"""Who is at the other end of a connection within this machine.

The link that a browser is started with is for every user of a machine to read, among the words that
processes were started with. So it is not enough to know it: where the system tells whose a
connection is, it must be ours.
"""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path
from typing import Final

Address = tuple[str, int]

CONNECTIONS: Final = Path("/proc/net/tcp")  # of Linux
_LOCAL, _REMOTE, _OWNER = 1, 2, 7  # columns


def is_ours(there: Address, here: Address) -> bool:
    """Whether a connection is of the user who runs this, or of who may do anything anyhow.

    Args:
        there: its other end.
        here: its end at which we listen.

    Returns:
        True also where the system does not tell.
    """
    owner = owner_of(there, here)
    return owner is None or owner in _ours()


def owner_of(there: Address, here: Address) -> int | None:
    """Number of the user at the other end; None where the system does not tell."""
    try:
        lines = CONNECTIONS.read_text("ascii").splitlines()[1:]
        ends = [_spelled(there), _spelled(here)]
    except (OSError, ValueError):
        return None
    for columns in map(str.split, lines):
        if len(columns) > _OWNER and [columns[_LOCAL], columns[_REMOTE]] == ends:
            return int(columns[_OWNER])
    return None


def _spelled(address: Address) -> str:
    """As Linux does: the four bytes as one number of this processor's."""
    host, port = address
    return f"{int.from_bytes(socket.inet_aton(host), sys.byteorder):08X}:{port:04X}"


def _ours() -> set[int]:
    mine = {0, os.getuid()} if hasattr(os, "getuid") else set()
    sudo = os.environ.get("SUDO_UID", "")  # who runs this as root, and looks at it as oneself
    return mine | ({int(sudo)} if sudo.isdecimal() and 0 in mine else set())
