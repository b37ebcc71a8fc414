"""Multi-Krum: the mean of the updates that lie nearest to those around them.

Blanchard, El Mhamdi, Guerraoui and Stainer 2017, *Machine Learning with Adversaries: Byzantine
Tolerant Gradient Descent*, arXiv 1703.02757, section 5: with Krum's scores (see `krum.py`), the
mean of the m updates with the lowest scores,

    Δ = (1 / m) Σ Δ_i  over the m lowest s(i)

Scores are computed once, for all of them. m = 1 is Krum; m = n - f - 2 is the default, up to
which El Mhamdi, Guerraoui and Rouault 2018 (*The Hidden Vulnerability of Distributed Learning in
Byzantium*, arXiv 1802.07927) and their later works use it; more than n - f would be sure to take
an attacker in and is refused. Of equal scores the participants with the lowest keys win.

The mean is by heads, as in the paper: samples are what a participant says it has, and an attacker
may say much.
"""

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
    whole,
)
from rounds.aggregation.krum import expect_quorum, mean_of_best


@dataclass(frozen=True, slots=True)
class MultiKrum(Strategy):
    """The plain mean of the updates with the lowest scores.

    Args:
        attackers: how many participants may be an attacker's, f.
        keep: how many updates the mean is of, m; n - f - 2 by default.
        threads: how many threads fold; one per processor by default. The result is the same.

    Example:
        >>> rows = np.array([[1], [2], [2.5], [3], [900]], np.float32)
        >>> updates = [Contribution(row, samples=100, key=key) for key, row in enumerate(rows)]
        >>> MultiKrum(attackers=1, keep=2).apply({}, updates).delta
        array([2.25], dtype=float32)
    """

    title: ClassVar[str] = "Multi-Krum"
    about: ClassVar[str] = (
        "The mean of the updates nearest to their neighbours: leaves out whole updates that stand "
        "apart, and learns from all the others."
    )
    paper: ClassVar[str] = (
        "Blanchard et al. 2017, Machine Learning with Adversaries: Byzantine Tolerant Gradient "
        "Descent, arXiv 1703.02757"
    )
    family: ClassVar[str] = "robust"

    attackers: int = whole(
        1,
        "How many participants of a round may be attackers (f, from 0): it needs a quorum of at "
        "least 2f + 3.",
        least=0,
        most=100_000,
    )
    keep: int | None = whole(
        None,
        "How many updates the mean is of (m, from 1): no more than the quorum without the "
        "attackers; two fewer than that by default, of those that came.",
        least=1,
        most=100_000,
    )
    threads: int | None = None

    def check(self, setting: Setting) -> None:
        expect_quorum(setting, "Multi-Krum", self.attackers, factor=2)
        if self.keep is not None and self.keep > setting.quorum - self.attackers:
            raise OptionError(
                "strategy_options.keep",
                f"Expected at most {setting.quorum - self.attackers}: of a quorum of "
                f"{setting.quorum} updates {self.attackers} may be attackers', and more could not "
                f"be kept without one of these. Received: {self.keep}",
            )

    def apply(
        self,
        state: State,
        contributions: Sequence[Contribution],
        *,
        setting: Setting = ANY_SETTING,
        out: NDArray[np.float32] | None = None,
    ) -> Result:
        ordered = in_order(contributions)
        keep = self.keep or max(1, len(ordered) - self.attackers - 2)
        return mean_of_best(
            keep, ordered, "Multi-Krum", self.attackers, state=state, out=out, threads=self.threads
        )
