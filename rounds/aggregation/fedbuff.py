"""Buffered asynchronous federated averaging.

Nguyen, Malik, Zhan, Yousefpour, Rabbat, Malek and Huba 2022, *Federated Learning with Buffered
Asynchronous Aggregation*, arXiv 2106.06639, algorithm 1: as soon as K updates are there, trained
from whatever versions, they become the next version. With τ_k the number of versions published
since the one that update k was trained from, and η the server's learning rate,

    w ← w + η Σ n_k s(τ_k) Δ_k / Σ n_k        s(τ) = 1 / (1 + τ)^a, in the paper a = 1/2

Samples weigh here as in FedAvg, which it equals when nothing is stale; the paper writes the
formula for participants of equal weight, Σ s(τ_k) Δ_k / K. Staleness makes the step smaller and is
not normalized away, in the paper and here.

Moving means and variances of batch normalization can be federated in rounds alone: a difference to
the statistics of an old version says nothing of those of the new one, and could make a variance
negative. So a model must keep them local, or have none.
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
    number,
    told,
)


@dataclass(frozen=True, slots=True)
class FedBuff(Strategy):
    """The mean of the updates, weighted by samples, in which old ones count for less.

    Args:
        server_learning_rate: η.
        staleness_exponent: a.
        threads: how many threads fold; one per processor by default. The result is the same.

    Example:
        >>> ones = np.ones(2, np.float32)
        >>> updates = [Contribution(ones, 5, key=1), Contribution(ones, 5, key=2, staleness=3)]
        >>> FedBuff().apply({}, updates).delta
        array([0.75, 0.75], dtype=float32)
    """

    title: ClassVar[str] = "FedBuff"
    about: ClassVar[str] = (
        "Rounds that wait for nobody: each few updates make a version, and old ones count for "
        "less. For participants of very different speed."
    )
    paper: ClassVar[str] = (
        "Nguyen et al. 2022, Federated Learning with Buffered Asynchronous Aggregation, "
        "arXiv 2106.06639"
    )
    family: ClassVar[str] = "asynchronous"
    asynchronous: ClassVar[bool] = True

    server_learning_rate: float = number(
        1.0, "How far to go along the mean of the updates.", least=0.0, most=1000.0, above=True
    )
    staleness_exponent: float = number(
        0.5, "How fast updates lose weight with age; 0 is not at all.", least=0.0, most=100.0
    )
    threads: int | None = None

    def check(self, setting: Setting) -> None:
        if setting.statistics:
            raise OptionError(
                "strategy",
                "Expected a model without moving means and variances among its federated weights, "
                "for updates from versions of different age cannot be averaged there. Received: "
                f"{len(setting.statistics)} of them; register it with its batch normalization "
                "local, or choose a strategy of synchronous runs",
            )

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
        ages = [one.staleness for one in ordered]
        total = sum(one.samples for one in ordered)

        def step(_: slice, mean: NDArray[np.float64]) -> NDArray[np.float64]:
            return self.server_learning_rate / total * mean

        weights = [one.samples * (1 + one.staleness) ** -self.staleness_exponent for one in ordered]
        delta, norm = sums.weighted_sums(ordered, [weights], step, out=out, threads=self.threads)
        return Result(
            state=state,
            delta=delta,
            diagnostics=told(
                ordered,
                norm,
                staleness_mean=sum(ages) / len(ages),
                staleness_max=float(max(ages)),
            ),
        )
