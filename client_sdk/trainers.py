"""What a participation trains with: the caller's data, and who trains on them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from inspect import signature
from typing import Any, Protocol

import numpy as np

from client_sdk.drift import CAPABILITIES
from client_sdk.protocol import ModelCard

Data = Any  # (x, y), or what else `client_sdk.data.read` takes, or a function that answers it
OnEpoch = Callable[[int, int, dict[str, float]], None]


class TrainerLike(Protocol):
    """What trains: `client_sdk.training.Trainer`, or something of yours.

    One whose `train` takes these as well is handed them: `check`, to be called about every second,
    and what it raises ends the training; `on_progress`, to be called with the fraction that is
    done; and `seconds`, after which it may answer with what it has trained so far.

    Some strategies ask for more than a plain training: `client_sdk.drift` says what. A trainer
    that can do some of it has `capabilities`, their names, and its `train` takes `requires`, `own`
    and `control` as that of `client_sdk.training.Trainer`; its answer has `reports` and `own` as
    well. One without is spared the rounds of such strategies.
    """

    # One that has `measure` as well, as `client_sdk.training.Trainer`, can evaluate versions.

    def train(
        self,
        weights: Mapping[str, np.ndarray],
        data: Any,
        hyperparameters: Mapping[str, Any],
        seed: int,
        on_epoch: OnEpoch | None = None,
    ) -> Any:
        """Train, and answer with `deltas`, `samples`, `metrics` and `local`."""


class Trainers:
    """Keeps the trainer of the last model, so that its graph is built once.

    Args:
        given: trains in place of all others.
        loop: handed to each `Trainer`, and so are `callbacks`.
    """

    def __init__(
        self,
        given: TrainerLike | None = None,
        loop: Any = None,
        callbacks: Sequence[Any] | None = None,
    ) -> None:
        self._given = given
        self._kept: tuple[str, TrainerLike] | None = None
        self._build: Callable[..., TrainerLike] | None = None
        options = {"loop": loop, "callbacks": callbacks}
        self._options = {name: value for name, value in options.items() if value is not None}
        if given is None:
            # Now and not at the first assignment: who lacks Keras learns it before a round
            # counts on us, and the seconds that its import takes pass while we wait for one.
            from client_sdk.training import Trainer

            self._build = Trainer
            threading.Thread(target=import_module, args=("keras",), daemon=True).start()
        elif self._options:
            names = " and ".join(self._options)
            raise ValueError(f"Expected either a trainer or {names}. Received: both")

    @property
    def capabilities(self) -> list[str]:
        """What a strategy may ask for here: of `client_sdk.drift.CAPABILITIES`."""
        able = CAPABILITIES if self._given is None else getattr(self._given, "capabilities", ())
        if (loop := self._options.get("loop")) is not None:
            able = loop.capabilities
        return [name for name in CAPABILITIES if name in able]

    @property
    def measures(self) -> bool:
        """Whether versions can be evaluated here."""
        return self._given is None or hasattr(self._given, "measure")

    def of(self, card: ModelCard) -> TrainerLike:
        """The trainer of a model."""
        if self._given is not None:
            return self._given
        key = f"{card.slug}/{card.architecture_digest}"
        if self._kept is None or self._kept[0] != key:
            assert self._build is not None
            self._kept = (key, self._build(card.document, **self._options))
        return self._kept[1]


class Given:
    """The participant's data, as the caller gave them, read for a model when it is known.

    Args:
        data: as for `Participant.participate`.
    """

    def __init__(self, data: Data) -> None:
        self._data = data
        self._kept: tuple[Any, Any] | None = None

    def read(self, card: ModelCard) -> Any:
        """What the trainer is handed, with as many examples as `count` says."""
        data = self._data() if callable(self._data) else self._data
        if isinstance(data, tuple | list) and len(data) == 2:
            return data
        from client_sdk.data import read

        known = self._kept is not None and self._kept[0] is data
        # What was read before is cheap to read again: of a folder only what is new.
        examples = read(self._kept[1] if known and self._kept else data, card)
        self._kept = (data, examples)
        return examples


def count(examples: Any) -> int:
    """How many examples there are, in two arrays or in what `client_sdk.data.read` made."""
    return len(examples[0]) if isinstance(examples, tuple | list) else len(examples)


def takes(function: Callable[..., Any], name: str) -> bool:
    """Whether a function has a parameter of this name."""
    # By its name: what takes anything may hand it on to what does not.
    return name in signature(function).parameters
