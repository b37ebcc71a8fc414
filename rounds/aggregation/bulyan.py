"""Bulyan: a selection by Krum, and of each weight the values around the median.

El Mhamdi, Guerraoui and Rouault 2018, *The Hidden Vulnerability of Distributed Learning in
Byzantium*, arXiv 1802.07927, section 4: of n ≥ 4f + 3 updates of which f may be an attacker's,

1. Krum picks one, which is moved to the selection S, and picks again from the rest, until S has
   θ = n - 2f of them. Scores are computed anew for the updates that are left, over the r - f - 2
   closest of r; of the last f + 2, which the paper does not speak of, over the closest one.
2. Weight by weight, Δ[j] is the plain mean of the β = θ - 2f values of S that are closest to the
   median of S.

The paper's median is one of the values: argmin over m in S of Σ |x - m|. Of an even count both
middle values are that, and the lower one is taken. Of two values equally far from it the lower
one is the closer. Of equal scores the participant with the lowest key wins. Samples have no say.
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
    whole,
)
from rounds.aggregation.krum import expect_enough, expect_quorum, scores, selection, shares


@dataclass(frozen=True, slots=True)
class Bulyan(Strategy):
    """The mean around the median of the updates that Krum selects.

    Args:
        attackers: how many participants may be an attacker's, f.
        threads: how many threads fold; one per processor by default. The result is the same.

    Example:
        >>> rows = np.array([[1], [2], [2.5], [3], [3.5], [4], [900]], np.float32)
        >>> updates = [Contribution(row, samples=100, key=key) for key, row in enumerate(rows)]
        >>> Bulyan(attackers=1).apply({}, updates).delta
        array([2.5], dtype=float32)
    """

    title: ClassVar[str] = "Bulyan"
    about: ClassVar[str] = (
        "Krum's selection and then the middle of each weight: against attackers who hide a large "
        "change of few weights, in large rounds."
    )
    paper: ClassVar[str] = (
        "El Mhamdi et al. 2018, The Hidden Vulnerability of Distributed Learning in Byzantium, "
        "arXiv 1802.07927"
    )
    family: ClassVar[str] = "robust"

    attackers: int = whole(
        1,
        "How many participants of a round may be attackers (f, from 0): it needs a quorum of at "
        "least 4f + 3.",
        least=0,
        most=100_000,
    )
    threads: int | None = None

    def check(self, setting: Setting) -> None:
        expect_quorum(setting, "Bulyan", self.attackers, factor=4)

    def apply(
        self,
        state: State,
        contributions: Sequence[Contribution],
        *,
        setting: Setting = ANY_SETTING,
        out: NDArray[np.float32] | None = None,
    ) -> Result:
        # Not at the top: compiling and loading kernels is for those who fold.
        from rounds.aggregation import distances, ranks

        ordered = in_order(contributions)
        expect_enough(ordered, "Bulyan", self.attackers, factor=4)
        updates = [one.values for one in ordered]
        squares = distances.between(updates, threads=self.threads)
        best = np.sort(picks(squares, self.attackers))
        delta, norm = ranks.mean_around_median(
            [updates[place] for place in best],
            len(best) - 2 * self.attackers,
            out=out,
            threads=self.threads,
        )
        said = selection(scores(squares, self.attackers), best)
        return Result(
            state=state,
            delta=delta,
            diagnostics=told(ordered, norm, **said, cut=2.0 * self.attackers),
            shares=shares(ordered, best),
        )


def picks(squares: NDArray[np.float64], attackers: int) -> NDArray[np.intp]:
    """Lets Krum pick n - 2f updates, one after the other.

    Args:
        squares: squared distances, shape (n, n), zeros on the diagonal.
        attackers: f.

    Returns:
        Places of those picked, in the order in which they were.
    """
    left, picked = list(range(len(squares))), []
    for _ in range(len(squares) - 2 * attackers):
        score = scores(squares[np.ix_(left, left)], attackers)
        picked.append(left.pop(int(score.argmin())))
    return np.array(picked, np.intp)
