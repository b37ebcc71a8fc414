"""Federated averaging.

McMahan, Moore, Ramage, Hampson and Agüera y Arcas 2017, *Communication-Efficient Learning of Deep
Networks from Decentralized Data*, arXiv 1602.05629, algorithm 1, written for deltas: with n_k the
samples of participant k and Δ_k its new minus the base weights,

    w ← w + Σ n_k Δ_k / Σ n_k

which is the paper's w ← Σ n_k w_k / n, since every w_k = w + Δ_k.
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
    told,
)


@dataclass(frozen=True, slots=True)
class FedAvg(Strategy):
    """The mean of the updates, weighted by samples; it remembers nothing.

    Args:
        threads: how many threads fold; one per processor by default. The result is the same.

    Example:
        >>> zeros, ones = np.zeros(2, np.float32), np.ones(2, np.float32)
        >>> updates = [Contribution(zeros, samples=100, key=1), Contribution(ones, 900, key=2)]
        >>> FedAvg().apply({}, updates).delta
        array([0.9, 0.9], dtype=float32)
    """

    title: ClassVar[str] = "FedAvg"
    about: ClassVar[str] = "The mean of the updates, weighted by samples: where to begin."
    paper: ClassVar[str] = (
        "McMahan et al. 2017, Communication-Efficient Learning of Deep Networks from "
        "Decentralized Data, arXiv 1602.05629"
    )

    threads: int | None = None

    def apply(
        self,
        state: State,
        contributions: Sequence[Contribution],
        *,
        setting: Setting = ANY_SETTING,
        out: NDArray[np.float32] | None = None,
    ) -> Result:
        # Not at the top: compiling and loading kernels is for those who fold.
        from rounds.aggregation import walk

        ordered = in_order(contributions)
        samples = [one.samples for one in ordered]
        updates = [one.values for one in ordered]
        delta, norm = walk.weighted_mean(updates, samples, out=out, threads=self.threads)
        return Result(state=state, delta=delta, diagnostics=told(ordered, norm))
