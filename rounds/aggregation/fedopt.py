"""What FedAdagrad, FedAdam and FedYogi share: server optimizers with a step for each weight.

Reddi, Charles, Zaheer, Garrett, Rush, Konečný, Kumar and McMahan 2021, *Adaptive Federated
Optimization*, arXiv 2003.00295, algorithm 2, with Δ the mean of the updates, weighted by samples
as in the paper's experiments:

    m ← β₁ m + (1 - β₁) Δ
    v ← …                        each strategy's own
    w ← w + η m / (√v + τ)

m begins at 0 and v at τ², the least that the paper allows. There is no correction for the first
rounds' bias to 0, as Adam has it: the paper has none.
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

PAPER = "Reddi et al. 2021, Adaptive Federated Optimization, arXiv 2003.00295"


@dataclass(frozen=True, slots=True)
class FedOpt(Strategy):
    """Steps of their own size for each weight; what differs is how sizes are learnt.

    Args:
        server_learning_rate: η.
        beta_1: β₁.
        tau: τ.
        threads: how many threads fold; one per processor by default. The result is the same.
    """

    paper: ClassVar[str] = PAPER
    family: ClassVar[str] = "server optimizer"

    server_learning_rate: float = number(
        0.01, "About how far a weight goes in a round.", least=0.0, most=1000.0, above=True
    )
    beta_1: float = number(
        0.9, "Share of the direction that stays from round to round.", least=0.0, most=0.9999
    )
    tau: float = number(
        0.001,
        "What is added to each weight's usual change: the smaller, the more alike all weights go.",
        least=0.0,
        most=1000.0,
        above=True,
    )
    threads: int | None = None

    def spread(self, v: NDArray[np.float64], mean: NDArray[np.float64]) -> NDArray[np.float64]:
        """Computes the next v.

        Args:
            v: of the last round, a block of it.
            mean: Δ, the same block.
        """
        raise NotImplementedError

    def init(self, weights: NDArray[np.float32]) -> State:
        return {"m": np.zeros(weights.size), "v": np.full(weights.size, float(self.tau) ** 2)}

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
        m, v = np.empty(ordered[0].values.size), np.empty(ordered[0].values.size)

        def step(at: slice, mean: NDArray[np.float64]) -> NDArray[np.float64]:
            mean /= total
            m[at] = self.beta_1 * state["m"][at] + (1 - self.beta_1) * mean
            v[at] = self.spread(state["v"][at], mean)
            return self.server_learning_rate * m[at] / (np.sqrt(v[at]) + self.tau)

        delta, norm = sums.weighted_sums(
            ordered, [samples], step, statistics=setting.statistics, out=out, threads=self.threads
        )
        return Result(
            state={"m": m, "v": v},
            delta=delta,
            diagnostics=told(ordered, norm, momentum_norm=sums.norm(m)),
        )
