"""The coordinate-wise trimmed mean.

Yin, Chen, Ramchandran and Bartlett 2018, *Byzantine-Robust Distributed Learning: Towards Optimal
Statistical Rates*, arXiv 1803.01498, definition 2: of m updates, weight by weight,

    Δ[j] = 1 / ((1 - 2β) m) Σ { x : x in U_j }

where U_j are the m values Δ_k[j] without the βm largest and the βm smallest ones. If βm is no
whole number it is rounded down, as SciPy's `trim_mean` does, and the mean is of those that are
left: m - 2 ⌊βm⌋ of them, at least one. As long as no more than ⌊βm⌋ updates are an attacker's,
each weight lies between two that honest participants sent.

All updates count alike: samples are what a participant says it has, and an attacker may say much.
Of equal values any are cut: the mean is the same.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from rounds.aggregation.contract import (
    ANY_SETTING,
    Contribution,
    OptionError,
    Result,
    Setting,
    State,
    Strategy,
    in_order,
    number,
    told,
)


@dataclass(frozen=True, slots=True)
class TrimmedMean(Strategy):
    """The mean of the updates without the largest and smallest values of each weight.

    Args:
        trim: the share of the updates that is cut at each end.
        threads: how many threads fold; one per processor by default. The result is the same.

    Example:
        >>> rows = np.array([[-900], [1], [2], [6], [900]], np.float32)
        >>> updates = [Contribution(row, samples=100, key=key) for key, row in enumerate(rows)]
        >>> TrimmedMean(trim=0.2).apply({}, updates).delta
        array([3.], dtype=float32)
    """

    title: ClassVar[str] = "Trimmed mean"
    about: ClassVar[str] = (
        "The mean of each weight without its largest and smallest values: steadier than the "
        "median, if you can say how many attack."
    )
    paper: ClassVar[str] = (
        "Yin et al. 2018, Byzantine-Robust Distributed Learning: Towards Optimal Statistical "
        "Rates, arXiv 1803.01498"
    )
    family: ClassVar[str] = "robust"

    trim: float = number(
        0.2,
        "The share of the updates that is cut at each end, weight by weight: the share of "
        "attackers that it withstands (above 0, at most 0.49).",
        least=0.0,
        most=0.49,
        above=True,
    )
    threads: int | None = None

    def check(self, setting: Setting) -> None:
        if not self._cut(setting.quorum):
            needed = math.ceil(1 / self.trim - 1e-9)
            raise OptionError(
                "quorum",
                f"Expected a quorum of at least {needed}: {self.trim:g} of fewer updates is less "
                "than one, so that none would be cut, and a single attacker could move the mean "
                f"at will. Received: {setting.quorum}",
            )

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
        cut = self._cut(len(ordered))
        delta, norm = ranks.middle_mean(
            [one.values for one in ordered],
            cut,
            len(ordered) - cut,
            out=out,
            threads=self.threads,
        )
        return Result(state=state, delta=delta, diagnostics=told(ordered, norm, cut=float(cut)))

    def _cut(self, count: int) -> int:
        """How many are cut at each end; 0.29 of 100 are 29, whatever binary fractions say."""
        return math.floor(self.trim * count + 1e-9)
