"""Examples of one's own that are never trained on, so that versions can be measured by them.

Which they are is decided by what each example holds: its bytes, hashed with a key, fall below the
share or not. So an example that is held out once is held out in every round, whatever is added to
the data, however they are ordered, and in which program they are read; of two equal ones, both are.
The key is the participant's id: it lasts through changes of the signing key.

Data that are changed at random each time they are read are not told apart by this: give examples
to evaluate with of their own for these.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from client_sdk.data import ArrayExamples, Examples
from client_sdk.protocol import Evaluation, ModelCard
from client_sdk.trainers import Data, Given

Classes = list[list[int]]


@dataclass(frozen=True, slots=True)
class Measured:
    """What a version came to on examples that were held out.

    Args:
        samples: how many they were.
        metrics: means over them: `loss`, and `accuracy` where the objective has classes.
        classes: for each label of the model how many of them are of it, and how many of these
            were recognised; None where an example is not of one class alone.
    """

    samples: int
    metrics: dict[str, float]
    classes: Classes | None = None


def told_of(evaluation: Evaluation, measured: Measured) -> dict[str, Any]:
    """What leaves with an evaluation, by names of `Entry`."""
    return {
        "model": evaluation.model,
        "version": evaluation.version,
        "evaluation": evaluation.id,
        "samples": measured.samples,
        "metrics": dict(measured.metrics),
        "classes": tuple((examples, right) for examples, right in measured.classes or ()),
    }


class Split:
    """Which examples are held out.

    Args:
        share: of all examples, about; above 0 and below 1.
        key: makes the choice one's own.

    Raises:
        ValueError: for another share.

    Example:
        >>> held_out = Split(0.25, "alice").of(np.arange(12.0).reshape(4, 3))
        >>> held_out.dtype, held_out.shape
        (dtype('bool'), (4,))
    """

    def __init__(self, share: float, key: str) -> None:
        number = isinstance(share, int | float) and not isinstance(share, bool)
        if not number or not 0 < share < 1:
            raise ValueError(f"Expected a share above 0 and below 1. Received: {share!r}")
        self.share = share
        self._below = int(share * 2**64)
        self._key = hashlib.sha256(f"fedserver held out\n{key}".encode()).digest()

    def of(self, x: np.ndarray) -> np.ndarray:
        """For each of the examples (n, …) whether it is held out, bool (n,)."""
        return np.array([self._is_held_out(one) for one in np.ascontiguousarray(x)], dtype=bool)

    def the_rest(self, x: np.ndarray) -> np.ndarray:
        """For each of the examples whether it is there to train on."""
        return ~self.of(x)

    def _is_held_out(self, example: np.ndarray) -> bool:
        digest = hashlib.blake2b(np.asarray(example).tobytes(), digest_size=8, key=self._key)
        return int.from_bytes(digest.digest(), "big") < self._below


class Part:
    """A part of the caller's data, read as `Given` reads all of them.

    Args:
        given: all of them.
        split: which are held out.
        held_out: whether those are meant, or the others.
    """

    def __init__(self, given: Given, split: Split, *, held_out: bool) -> None:
        self._given = given
        self._keep = split.of if held_out else split.the_rest
        self._kept: tuple[Any, Examples] | None = None

    def read(self, card: ModelCard) -> Examples:
        """The examples of this part, for a model."""
        whole = self._given.read(card)
        if self._kept is None or self._kept[0] is not whole:
            examples = whole if isinstance(whole, Examples) else ArrayExamples(*whole)
            self._kept = (whole, examples.part(self._keep))
        return self._kept[1]


def parts(
    data: Data, share: float | None, apart: Data | None, key: str
) -> tuple[Given | Part, Given | Part | None]:
    """What is trained on, and what is held out; None where nothing is.

    Args:
        data: as for `Participant.participate`.
        share: to be held out of them; None for none.
        apart: examples that are held out already, in place of a share.
        key: for `Split`.

    Raises:
        ValueError: for both, and for a share that is none.
    """
    given = Given(data)
    if apart is not None:
        if share is not None:
            raise ValueError("Expected `held_out` or `evaluation_data`. Received: both")
        return given, Given(apart)
    if share is None:
        return given, None
    split = Split(share, key)
    return Part(given, split, held_out=False), Part(given, split, held_out=True)
