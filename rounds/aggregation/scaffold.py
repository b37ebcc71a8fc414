"""Federated averaging corrected by control variates.

Karimireddy, Kale, Mohri, Reddi, Stich and Suresh 2020, *SCAFFOLD: Stochastic Controlled Averaging
for Federated Learning*, arXiv 1910.06378, algorithm 1 with option II. Each participant adds c - c_i
to its gradients, which leads it where all would go, and after K_i steps of rate η, with Δ_i its
update,

    c_i⁺ = c_i - c - Δ_i / (K_i η)

The server folds, S being the round's participants, N all there are and η_g its own learning rate,

    w ← w + η_g / |S| Σ Δ_i
    c ← c + 1 / N Σ (c_i⁺ - c_i)

so that c is the mean of all c_i. It stays so where N has grown since the last round, to N from N₀:
newcomers begin with c_i = 0, and c counts as N₀ / N of itself before the round is folded. Who
leaves a run leaves his c_i in the mean.

The difference c_i⁺ - c_i is known from the update and the number of steps, so that nothing else
travels up. Means are over heads, as in the paper: samples do not weigh. c is float32, for that
is how participants receive it.
"""

import math
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
    reported,
    told,
)


@dataclass(frozen=True, slots=True)
class Scaffold(Strategy):
    """The mean over heads of updates that control variates have corrected.

    Args:
        server_learning_rate: η_g.
        threads: how many threads fold; one per processor by default. The result is the same.
    """

    title: ClassVar[str] = "SCAFFOLD"
    about: ClassVar[str] = (
        "Participants correct each step by what all others learn: for data that differs much "
        "among participants that take part often."
    )
    paper: ClassVar[str] = (
        "Karimireddy et al. 2020, SCAFFOLD: Stochastic Controlled Averaging for Federated "
        "Learning, arXiv 1910.06378"
    )
    family: ClassVar[str] = "drift"

    server_learning_rate: float = number(
        1.0, "How far to go along the mean of the updates.", least=0.0, most=1000.0, above=True
    )
    threads: int | None = None

    @property
    def requires(self) -> Requirements:
        return {"control_variates": {}, "report_steps": {}}

    def check(self, setting: Setting) -> None:
        expect.plain_sgd(setting, "control variates are gradients, and are read from plain steps")

    def init(self, weights: NDArray[np.float32]) -> State:
        return {"control": np.zeros(weights.size, np.float32)}

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
        steps = reported(ordered, "steps", least=1.0)
        rate = expect.learning_rate(setting)
        present = len(ordered)
        population, kept = everybody(setting, present)
        before, control = state["control"], np.empty(ordered[0].values.size, np.float32)

        def step(
            at: slice, whole: NDArray[np.float64], by_step: NDArray[np.float64]
        ) -> NDArray[np.float64]:
            c = before[at].astype(np.float64)
            control[at] = ((kept - present) * c - by_step / rate) / population
            return self.server_learning_rate / present * whole

        weights = [[1.0] * present, [1 / taken for taken in steps]]
        delta, norm = sums.weighted_sums(
            ordered, weights, step, statistics=setting.statistics, out=out, threads=self.threads
        )
        length = sums.norm(control)
        if not math.isfinite(length):
            raise ValueError(f"Expected finite control variates. Received: a norm of {length}")
        return Result(
            state={"control": control},
            delta=delta,
            diagnostics=told(
                ordered,
                norm,
                control_norm=length,
                population=float(population),
                steps_mean=sum(steps) / present,
            ),
        )
