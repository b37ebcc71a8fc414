"""The coordinate-wise median.

Yin, Chen, Ramchandran and Bartlett 2018, *Byzantine-Robust Distributed Learning: Towards Optimal
Statistical Rates*, arXiv 1803.01498, definition 1: of m updates, weight by weight,

    Δ[j] = med{ Δ_k[j] : k = 1 … m }

the middle one by size, and the mean of both middle ones if m is even. As long as fewer than half
of the updates are an attacker's, each weight lies between two that honest participants sent.

All updates count alike: samples are what a participant says it has, and an attacker may say much.
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
class Median(Strategy):
    """The median of the updates, weight by weight and whatever their samples.

    Args:
        threads: how many threads fold; one per processor by default. The result is the same.

    Example:
        >>> rows = np.array([[1, 5], [2, -4], [900, 6]], np.float32)
        >>> updates = [Contribution(row, samples=100, key=key) for key, row in enumerate(rows)]
        >>> Median().apply({}, updates).delta
        array([2., 5.], dtype=float32)
    """

    title: ClassVar[str] = "Median"
    about: ClassVar[str] = (
        "The median of each weight: holds while fewer than half of the participants attack."
    )
    paper: ClassVar[str] = (
        "Yin et al. 2018, Byzantine-Robust Distributed Learning: Towards Optimal Statistical "
        "Rates, arXiv 1803.01498"
    )
    family: ClassVar[str] = "robust"

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
        from rounds.aggregation import ranks

        ordered = in_order(contributions)
        count = len(ordered)
        delta, norm = ranks.middle_mean(
            [one.values for one in ordered],
            (count - 1) // 2,
            count // 2 + 1,
            out=out,
            threads=self.threads,
        )
        return Result(state=state, delta=delta, diagnostics=told(ordered, norm))
