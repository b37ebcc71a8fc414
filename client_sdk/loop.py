"""A training loop of the user's own, in the place of ours."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any, ClassVar

import numpy as np

from client_sdk.data import Batch
from client_sdk.drift import CAPABILITIES


class Batches:
    """The batches of one epoch, in the order that the round's seed decides.

    Walking over them counts the examples for the update, tells of progress, and ends early when
    time is up or the round is over. They are as the model takes them: scaled, float32.

    Args:
        batches: the batches.
        epoch: number of the epoch, from 1; `epochs` is how many there are.
        steps: how many batches a whole epoch has.
    """

    def __init__(self, batches: Iterator[Batch], epoch: int, epochs: int, steps: int) -> None:
        self._batches = batches
        self.epoch, self.epochs = epoch, epochs
        self._steps = steps

    def __iter__(self) -> Iterator[Batch]:
        return self._batches

    def __len__(self) -> int:
        return self._steps


class TrainingLoop:
    """Trains an epoch; subclass it and give it to `Participant.participate(loop=…)`.

    As it is, it does what `model.fit` does, batch by batch. The model comes with the round's
    weights in place, compiled with the run's optimizer, learning rate, loss and metrics. Change
    its weights in whatever way; what they changed by is the update. Weights that the model's owner
    has frozen are not trainable, and do not travel.

    Some strategies correct each gradient, or count steps: the model's optimizer does both, for
    whoever steps with it. A loop that does not says so by its `capabilities`, and is then spared
    the rounds of such strategies. Where steps are counted, those beyond the round's epochs and
    batches are refused by the server.

    Attributes:
        capabilities: what a strategy may ask of it: names of `client_sdk.drift.CAPABILITIES`.

    Example:
        >>> class Proximal(TrainingLoop):
        ...     def begin(self, model, weights):
        ...         self.start = [np.array(w) for w in model.trainable_variables]
        ...
        ...     def epoch(self, model, batches):
        ...         metrics = super().epoch(model, batches)
        ...         for weight, start in zip(model.trainable_variables, self.start):
        ...             weight.assign(0.9 * weight + 0.1 * start)  # not too far from the others
        ...         return metrics
        >>> alice.participate((images, labels), rounds=1, loop=Proximal()).rounds
        1
    """

    capabilities: ClassVar[Collection[str]] = tuple(CAPABILITIES)

    def begin(self, model: Any, weights: Mapping[str, np.ndarray]) -> None:
        """A round begins.

        Args:
            model: the compiled `keras.Model`, its weights those of the round's version.
            weights: the same weights by their names on the wire.
        """

    def epoch(self, model: Any, batches: Batches) -> Mapping[str, float]:
        """Train one epoch.

        Args:
            model: the model.
            batches: (examples, labels) as NumPy arrays.

        Returns:
            Metrics to tell the server, unless the participant shares none; `loss` among them
            if there is one.
        """
        totals: dict[str, float] = {}
        seen = 0
        for x, y in batches:
            found = model.train_on_batch(x, y, return_dict=True)
            for name, value in found.items():
                totals[name] = totals.get(name, 0.0) + float(value) * len(x)
            seen += len(x)
        return {name: total / max(seen, 1) for name, total in totals.items()}

    def end(self, model: Any) -> None:
        """A round's training is done; the weights are now read."""
