"""The files of a form, from what a notebook has: a model, arrays, or paths."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, BinaryIO

import numpy as np


@contextmanager
def opened(model: Any, evaluation: Any = None) -> Iterator[dict[str, BinaryIO]]:
    """A model's file, and that of its held-out set.

    Args:
        model: A `keras.Model`, or the path of a `.keras` file.
        evaluation: `(x, y)`, the path of an `.npz` file, or None.
    """
    with TemporaryDirectory(prefix="fedserver-") as folder, ExitStack() as stack:
        path = model
        if not isinstance(model, (str, Path)):
            path = Path(folder) / "model.keras"
            model.save(path)
        files: dict[str, BinaryIO] = {"package": stack.enter_context(Path(path).open("rb"))}
        if isinstance(evaluation, (str, Path)):
            files["evaluation"] = stack.enter_context(Path(evaluation).open("rb"))
        elif evaluation is not None:
            x, y = evaluation
            packed = io.BytesIO()
            np.savez_compressed(packed, x=np.asarray(x), y=np.asarray(y))
            packed.seek(0)
            packed.name = "evaluation.npz"
            files["evaluation"] = packed
        yield files
