"""Federated averaging of participants that take different numbers of steps.

Wang, Liu, Liang, Joshi and Poor 2020, *Tackling the Objective Inconsistency Problem in
Heterogeneous Federated Optimization*, arXiv 2007.07481, section 4. An update of τ_i steps is
divided by how much it has accumulated, ‖a_i‖₁, and the mean of what comes out is taken as far as
the mean of these: with p_i = n_i / Σ n_i,

    w ← w + τ_eff Σ p_i Δ_i / ‖a_i‖₁        τ_eff = Σ p_i ‖a_i‖₁

    ‖a_i‖₁ = τ_i                                          SGD
    ‖a_i‖₁ = (τ_i - ρ (1 - ρ^τ_i) / (1 - ρ)) / (1 - ρ)    SGD with momentum ρ

FedAvg lets those who take more steps pull more, and so ends in the optimum of other shares than
p_i. With equal steps both are the same.
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
    in_order,
    reported,
    told,
)


@dataclass(frozen=True, slots=True)
class FedNova(Strategy):
    """The mean of the updates per step taken, as far as the mean of the steps.

    Args:
        threads: how many threads fold; one per processor by default. The result is the same.

    Example:
        >>> ones, threes = np.full(2, 1, np.float32), np.full(2, 3, np.float32)
        >>> updates = [
        ...     Contribution(ones, samples=5, key=1, reports={"steps": 1}),
        ...     Contribution(threes, samples=5, key=2, reports={"steps": 3}),
        ... ]
        >>> FedNova().apply({}, updates).delta
        array([2., 2.], dtype=float32)
    """

    title: ClassVar[str] = "FedNova"
    about: ClassVar[str] = (
        "FedAvg that does not favour those who take more steps: for participants with very "
        "different amounts of data or time."
    )
    paper: ClassVar[str] = (
        "Wang et al. 2020, Tackling the Objective Inconsistency Problem in Heterogeneous "
        "Federated Optimization, arXiv 2007.07481"
    )
    family: ClassVar[str] = "drift"

    threads: int | None = None

    @property
    def requires(self) -> Requirements:
        return {"report_steps": {}}

    def check(self, setting: Setting) -> None:
        expect.sgd(setting, "how much its steps accumulate is known of SGD, with momentum or not")

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
        momentum = float(setting.hyperparameters.get("momentum", 0.0))
        lengths = [accumulated(taken, momentum) for taken in steps]
        total = sum(one.samples for one in ordered)
        effective = (
            sum(one.samples * length for one, length in zip(ordered, lengths, strict=True)) / total
        )

        def step(_: slice, normalized: NDArray[np.float64]) -> NDArray[np.float64]:
            return effective / total * normalized

        weights = [one.samples / length for one, length in zip(ordered, lengths, strict=True)]
        delta, norm = sums.weighted_sums(
            ordered, [weights], step, statistics=setting.statistics, out=out, threads=self.threads
        )
        return Result(
            state=state,
            delta=delta,
            diagnostics=told(
                ordered,
                norm,
                effective_steps=effective,
                steps_min=min(steps),
                steps_max=max(steps),
            ),
        )


def accumulated(steps: float, momentum: float) -> float:
    """Computes ‖a‖₁: how often the gradients of so many steps of SGD enter an update, in all."""
    return (steps - momentum * (1 - momentum**steps) / (1 - momentum)) / (1 - momentum)
