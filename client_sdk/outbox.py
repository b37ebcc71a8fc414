"""Updates that are trained and not yet acknowledged.

Training is the dear part of an exchange, so its result is made durable before it is sent: a
process that is killed while it uploads sends the same bytes again, and does not train again.

    outbox/ASSIGNMENT/update       safetensors, the deltas
    outbox/ASSIGNMENT/manifest     what is signed about them
    outbox/ASSIGNMENT/about        what the ledger says of them: model, version, tensors' names
    outbox/ASSIGNMENT/local/MODEL  weights that stay here, once the update is acknowledged

An entry is written in a folder with another name and renamed, so that it is there whole or not.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from client_sdk import wire
from client_sdk.cache import digest_of
from client_sdk.keys import sync_folder, write_private
from client_sdk.protocol import Assignment


@dataclass(frozen=True, slots=True)
class Parcel:
    """One update, ready to be sent."""

    folder: Path
    manifest: wire.UpdateManifest

    @property
    def update(self) -> Path:
        """The file to upload."""
        return self.folder / "update"

    def about(self) -> dict[str, Any]:
        """What its assignment was about, by names of `client_sdk.ledger.Entry`."""
        try:
            told = json.loads((self.folder / "about").read_text("utf-8"))
        except (OSError, ValueError):
            return {}  # put here before there was a ledger
        return told if isinstance(told, dict) else {}

    @property
    def local(self) -> list[Path]:
        """The file of weights that stay here, named as the model; none when it has none."""
        return list((self.folder / "local").glob("*"))


class Outbox:
    """The folder of updates that wait for their receipt.

    Example:
        >>> parcel = outbox.put(assignment, deltas, local={}, samples=500, metrics={})
        >>> outbox.find(assignment) == parcel
        True
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    def put(
        self,
        assignment: Assignment,
        deltas: Mapping[str, np.ndarray],
        local: Mapping[str, np.ndarray],
        samples: int,
        metrics: Mapping[str, float],
        reports: Mapping[str, float] | None = None,
    ) -> Parcel:
        """Keep the result of a training until it is acknowledged.

        Args:
            assignment: what was trained.
            deltas: float32 arrays in the order of the model's manifest.
            local: new values of the weights that stay here.
            samples: examples trained on.
            metrics: finite numbers by name.
            reports: what the strategy asks to be told, by name.

        Raises:
            wire.WireError: when the manifest would not be valid.
        """
        begun = self.folder / f"{assignment.id}.new"
        shutil.rmtree(begun, ignore_errors=True)
        begun.mkdir(mode=0o700)
        digest, length = wire.dump(begun / "update", deltas)
        manifest = wire.UpdateManifest(
            assignment=assignment.id,
            round=assignment.round,
            base=assignment.weights.sha256,
            digest=digest,
            length=length,
            samples=samples,
            metrics=metrics,
            reports=reports or {},
        )
        if local:
            (begun / "local").mkdir()
            wire.dump(begun / "local" / assignment.model, local)
        write_private(begun / "manifest", manifest.to_bytes())
        write_private(begun / "about", json.dumps(_about(assignment, deltas)).encode())
        folder = self.folder / str(assignment.id)
        shutil.rmtree(folder, ignore_errors=True)
        begun.replace(folder)
        sync_folder(self.folder)
        return Parcel(folder, manifest)

    def find(self, assignment: Assignment) -> Parcel | None:
        """What was trained for an assignment already, if it is whole and still fits."""
        folder = self.folder / str(assignment.id)
        try:
            manifest = wire.UpdateManifest.from_bytes((folder / "manifest").read_bytes())
            intact = digest_of(folder / "update") == manifest.digest
        except (OSError, wire.WireError):
            return None
        ours = (manifest.assignment, manifest.round, manifest.base)
        wanted = (assignment.id, assignment.round, assignment.weights.sha256)
        return Parcel(folder, manifest) if intact and ours == wanted else None

    def waiting(self) -> int | None:
        """The assignment whose update waits to be sent, if one does."""
        names = [path.name for path in self.folder.iterdir()]
        return next((int(name) for name in names if name.isdecimal()), None)

    def without_metrics(self, parcel: Parcel) -> Parcel:
        """The same update, with no metrics in what is signed about it."""
        if not parcel.manifest.metrics:
            return parcel
        manifest = replace(parcel.manifest, metrics={})
        write_private(parcel.folder / "manifest", manifest.to_bytes())
        return replace(parcel, manifest=manifest)

    def drop(self, assignment: int) -> None:
        """Forget the update of an assignment."""
        shutil.rmtree(self.folder / str(assignment), ignore_errors=True)

    def keep_only(self, assignment: int) -> None:
        """Forget the updates of all other assignments: the server gave us this one instead."""
        for folder in self.folder.iterdir():
            if folder.name != str(assignment):
                shutil.rmtree(folder, ignore_errors=True)


def _about(assignment: Assignment, deltas: Mapping[str, np.ndarray]) -> dict[str, Any]:
    return {
        "model": assignment.model,
        "run": assignment.run,
        "number": assignment.number,
        "version": assignment.version,
        "tensors": list(deltas),
    }
