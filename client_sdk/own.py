"""What a participant keeps of each run for its strategy: vectors that never leave the machine.

    own/RUN/kept         what the last update that was counted has left
    own/RUN/ASSIGNMENT   what this assignment's update leaves, once it is counted

`client_sdk.drift` says what they are. They move forward with updates that came into a version and
with no others, or they would tell of a training that the server knows nothing of. So what an
update leaves is on the disk before the update is in the outbox, and becomes `kept` by a rename
when the server has said that it was counted: whoever is killed in between asks again.

A run that nothing was heard of for `KEPT_FOR`, or that is the oldest where all take more than
`LIMIT`, is forgotten, and begins at zero should it come back.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np

from client_sdk import wire
from client_sdk.drift import Vector
from client_sdk.keys import sync_folder, write_private

LIMIT: Final = 2 << 30  # bytes
KEPT_FOR: Final = 90 * 24 * 3600.0  # seconds

_KEPT = "kept"


class OwnState:
    """The folder of what strategies let us keep.

    Args:
        folder: where; made when there is something to keep.
        limit: bytes to keep at most, apart from the run in use.

    Example:
        >>> kept = OwnState(profile.folder / "own")
        >>> kept.put(1, 7, {"control_variates": np.ones(3, np.float32)})
        >>> kept.find(1, ["control_variates"], 3)
        {}
        >>> kept.settle(7, counted=True)
        >>> kept.find(1, ["control_variates"], 3)
        {'control_variates': array([1., 1., 1.], dtype=float32)}
    """

    def __init__(self, folder: Path, limit: int = LIMIT) -> None:
        self.folder = folder
        self.limit = limit

    def find(self, run: int, names: Sequence[str], size: int) -> dict[str, Vector]:
        """What was kept of a run; nothing where there is nothing, or of another model.

        Args:
            run: its number.
            names: capabilities for which something is kept.
            size: number of federated values.
        """
        specs = [wire.TensorSpec(name, (size,)) for name in names]
        try:
            found = wire.open_tensors(self.folder / str(run) / _KEPT, specs)
        except (OSError, wire.WireError):
            return {}
        # Copied: the file is replaced when the next update is counted.
        return {name: np.array(values) for name, values in found.items()}

    def put(self, run: int, assignment: int, values: Mapping[str, Vector]) -> None:
        """Keep what an update leaves until it is known whether it was counted; durable.

        Raises:
            ValueError: when a value is not finite.
        """
        for name, vector in values.items():
            if not np.isfinite(vector).all():
                raise ValueError(f"Expected finite values to keep for {name}. Received: NaN")
        folder = self.folder / str(run)
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._trim(folder)
        write_private(folder / str(assignment), wire.dumps(values))

    def undecided(self, run: int) -> list[int]:
        """Assignments of a run of which it is not known here whether their update was counted."""
        return sorted(_number(path) for path in self._waiting(self.folder / str(run)))

    def settle(self, assignment: int, *, counted: bool) -> None:
        """Move forward with an update that was counted; forget what another would have left."""
        for path in self.folder.glob(f"*/{assignment}"):
            if not counted:
                path.unlink()
                continue
            older = [one for one in self._waiting(path.parent) if _number(one) < assignment]
            for one in older:  # a verdict that comes late must not lead back
                one.unlink()
            path.replace(path.parent / _KEPT)
            sync_folder(path.parent)

    def _waiting(self, folder: Path) -> list[Path]:
        there = folder.iterdir() if folder.is_dir() else ()
        return [path for path in there if path.name.isdecimal()]

    def _trim(self, used: Path) -> None:
        """Forget the runs unheard of, and the oldest of too many; and what a killed write left."""
        for path in used.glob("*.new"):
            path.unlink()
        size, now = 0, time.time()
        for folder in sorted(self.folder.iterdir(), key=lambda one: -one.stat().st_mtime):
            size += sum(path.stat().st_size for path in folder.iterdir())
            old = now - folder.stat().st_mtime > KEPT_FOR
            if folder != used and (old or size > self.limit):
                shutil.rmtree(folder, ignore_errors=True)


def _number(path: Path) -> int:
    return int(path.name)
