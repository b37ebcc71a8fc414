"""predict: what is on photos, says the served model."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from client_sdk import folder, photo
from client_sdk.cli import codes
from client_sdk.cli.joining import PATIENCE
from client_sdk.cli.output import Output, snake
from client_sdk.participant import Participant

if TYPE_CHECKING:
    from client_sdk.served import Prediction, Served

_AT_ONCE = 32  # photos in memory


def predict(options: argparse.Namespace, out: Output) -> int:
    """Say what is on each photo, and name those that cannot be read."""
    with Participant.load(options.profile) as participant:
        served = participant.served(options.model, patience=PATIENCE)
        out.say(_told(served))
        found: list[dict[str, Any]] = []
        for first in range(0, len(options.photos), _AT_ONCE):
            # The first ones take seconds, in which Keras is loaded.
            with out.busy(f"{first} of {len(options.photos)} photos"):
                found += _predict(served, options.photos[first : first + _AT_ONCE])
    _table(found, options.top, out)
    for one in found:
        if "error" in one:
            out.complain(f"{one['photo']}: {one['error']['message']}")
    out.result(_document(served, found))
    return codes.BAD_DATA if any("error" in one for one in found) else codes.OK


def _told(served: Served) -> str:
    away = "" if served.fresh else " (the server is away: the newest version that is here)"
    return f"{served.name}, version {served.version}{away}"


def _document(served: Served, found: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "model": served.slug,
        "name": served.name,
        "version": served.version,
        "fresh": served.fresh,
        "photos": found,
    }


def _predict(served: Served, paths: Sequence[Path]) -> Iterator[dict[str, Any]]:
    """What is known of each photo, in their order."""
    known: dict[int, dict[str, Any]] = {}
    examples: dict[int, np.ndarray] = {}
    for place, path in enumerate(paths):
        try:
            examples[place] = photo.as_example(folder.read(path), served.input_spec)
        except (photo.PhotoRefused, OSError) as error:
            known[place] = {"photo": str(path), "error": _reason(error)}
    if examples:
        said = served.predictions(np.stack(list(examples.values())))
        for place, prediction in zip(examples, said, strict=True):
            known[place] = {"photo": str(paths[place])} | _scores(prediction)
    return (known[place] for place in range(len(paths)))


def _reason(error: photo.PhotoRefused | OSError) -> dict[str, str]:
    if isinstance(error, photo.PhotoRefused):
        if error.code == "takes_no_photos":
            raise codes.UsageError(error.detail)
        return {"kind": error.code, "message": error.detail}
    return {"kind": snake(type(error).__name__), "message": error.strerror or str(error)}


def _scores(said: Prediction) -> dict[str, Any]:
    ranked = dict(sorted(said.scores.items(), key=lambda one: -one[1]))
    return {"label": said.label, "score": said.scores[said.label], "scores": ranked}


def _table(found: list[dict[str, Any]], top: int, out: Output) -> None:
    rows = []
    for one in found:
        if "error" in one:
            rows.append([one["photo"], "cannot be read", "", ""])
            continue
        others = list(one["scores"].items())[1:top]
        told = "  ".join(f"{label} {_percent(score)}" for label, score in others)
        rows.append([one["photo"], one["label"], _percent(one["score"]), told])
    out.table(["photo", "label", "score", "then"], rows, right=["score"])


def _percent(score: float) -> str:
    return f"{score:.1%}"
