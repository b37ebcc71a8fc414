"""Federated learning with dynamic regularization.

Acar, Zhao, Matas Navarro, Mattina, Whatmough and Saligrama 2021, *Federated Learning Based on
Dynamic Regularization*, arXiv 2111.04263, algorithm 1. Each participant adds α (w - w₀) - h_i to
its gradients and, when it has trained, keeps h_i ← h_i - α Δ_i. The server folds, P being the
round's participants and m all there are,

    h ← h - α / m Σ Δ_i
    w ← w + 1 / |P| Σ Δ_i - h / α

so that where all rest is where the sum of their losses does: h is the mean of all h_i. It stays so
where m has grown since the last round, to m from m₀: newcomers begin with h_i = 0, and h counts as
m₀ / m of itself before the round is folded. Who leaves a run leaves his h_i in the mean. Means are
over heads, as in the paper: samples do not weigh.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from rounds.aggregation import expect
from rounds.aggregation.contract import (
    ANY_SETTING,
    Contribution,
    Requirements,
    Result,
    Setting,
    State,
    Strategy,
    everybody,
    in_order,
    number,
    told,
)


@dataclass(frozen=True, slots=True)
class FedDyn(Strategy):
    """The mean over heads of updates that each participant's own term has corrected.

    Args:
        alpha: α.
        threads: how many threads fold; one per processor by default. The result is the same.
    """

    title: ClassVar[str] = "FedDyn"
    about: ClassVar[str] = (
        "Participants are held near the shared model by a term that learns where they differ: "
        "for data that differs much, when rounds are dear."
    )
    paper: ClassVar[str] = (
        "Acar et al. 2021, Federated Learning Based on Dynamic Regularization, arXiv 2111.04263"
    )
    family: ClassVar[str] = "drift"

    alpha: float = number(
        0.01,
        "Strength of the term; the paper tries 0.001 to 0.1.",
        least=0.0,
        most=1000.0,
        above=True,
    )
    threads: int | None = None

    @property
    def requires(self) -> Requirements:
        return {"dynamic_regularization": {"alpha": float(self.alpha)}}

    def check(self, setting: Setting) -> None:
        expect.steady_pull(setting, "alpha", self.alpha)

    def init(self, weights: NDArray[np.float32]) -> State:
        return {"h": np.zeros(weights.size)}

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
        present = len(ordered)
        population, kept = everybody(setting, present)
        before, h = state["h"], np.empty(ordered[0].values.size)

        def step(at: slice, whole: NDArray[np.float64]) -> NDArray[np.float64]:
            h[at] = kept / population * before[at] - self.alpha / population * whole
            return whole / present - h[at] / self.alpha

        delta, norm = sums.weighted_sums(
            ordered,
            [[1.0] * present],
            step,
            statistics=setting.statistics,
            out=out,
            threads=self.threads,
        )
        return Result(
            state={"h": h},
            delta=delta,
            diagnostics=told(
                ordered,
                norm,
                correction_norm=sums.norm(h) / self.alpha,
                population=float(population),
            ),
        )
