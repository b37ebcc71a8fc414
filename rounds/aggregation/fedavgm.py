"""Federated averaging with server momentum.

Hsu, Qi and Brown 2019, *Measuring the Effects of Non-Identical Data Distribution for Federated
Visual Classification*, arXiv 1909.06335, section 4.3, with Δ the mean of the updates weighted by
samples, β the momentum and η the server's learning rate (1 in the paper):

    v ← β v + Δ
    w ← w + η v

The paper writes Δ for base minus new weights, and w ← w - v. v begins at 0.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from rounds.aggregation.contract import (
    ANY_SETTING,
    Contribution,
    Result,
    Setting,
    State,
    Strategy,
    in_order,
    number,
    told,
)


@dataclass(frozen=True, slots=True)
class FedAvgM(Strategy):
    """The mean of the updates, carried on by momentum.

    Args:
        server_learning_rate: η.
        server_momentum: β.
        threads: how many threads fold; one per processor by default. The result is the same.

    Example:
        >>> alice = Contribution(np.ones(2, np.float32), samples=5, key=1)
        >>> strategy = FedAvgM(server_momentum=0.5)
        >>> first = strategy.apply(strategy.init(np.zeros(2, np.float32)), [alice])
        >>> strategy.apply(first.state, [alice]).delta
        array([1.5, 1.5], dtype=float32)
    """

    title: ClassVar[str] = "FedAvgM"
    about: ClassVar[str] = (
        "FedAvg that keeps part of its direction from round to round: for data that differs, "
        "where rounds pull to and fro."
    )
    paper: ClassVar[str] = (
        "Hsu, Qi and Brown 2019, Measuring the Effects of Non-Identical Data Distribution for "
        "Federated Visual Classification, arXiv 1909.06335"
    )
    family: ClassVar[str] = "server optimizer"

    server_learning_rate: float = number(
        1.0, "How far to go along the momentum.", least=0.0, most=1000.0, above=True
    )
    server_momentum: float = number(
        0.9, "Share of the momentum that stays from round to round.", least=0.0, most=0.9999
    )
    threads: int | None = None

    def init(self, weights: NDArray[np.float32]) -> State:
        return {"momentum": np.zeros(weights.size)}

    def apply(
        self,
        state: State,
        contributions: Sequence[Contribution],
        *,
        setting: Setting = ANY_SETTING,
        out: NDArray[np.float32] | None = None,
    ) -> Result:
        from rounds.aggregation import sums

        ordered = in_order(contributions)
        samples = [one.samples for one in ordered]
        total = sum(samples)
        before, momentum = state["momentum"], np.empty(ordered[0].values.size)

        def step(at: slice, mean: NDArray[np.float64]) -> NDArray[np.float64]:
            mean /= total
            momentum[at] = self.server_momentum * before[at] + mean
            return self.server_learning_rate * momentum[at]

        delta, norm = sums.weighted_sums(
            ordered, [samples], step, statistics=setting.statistics, out=out, threads=self.threads
        )
        return Result(
            state={"momentum": momentum},
            delta=delta,
            diagnostics=told(ordered, norm, momentum_norm=sums.norm(momentum)),
        )
