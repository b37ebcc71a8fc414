"""Federated averaging that is fair to those whom the model serves worst.

Li, Sanjabi, Beirami and Smith 2020, *Fair Resource Allocation in Federated Learning*, arXiv
1905.10497, algorithm 2. With F_k the loss of the base version on participant k's own data, Δ_k its
update, η the participants' learning rate and L = 1 / η,

    w ← w + Σ F_k^q L Δ_k / Σ (q F_k^(q - 1) ‖L Δ_k‖² + L F_k^q)

The larger q, the more the largest losses count; with q = 0 this is the plain mean. Samples do not
weigh: the paper draws participants by their share of them instead. A loss below 1e-10 counts as
1e-10, and numerator and denominator are both divided by the largest F_k^q, so that neither leaves
the numbers.
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
    number,
    reported,
    told,
)


@dataclass(frozen=True, slots=True)
class QFedAvg(Strategy):
    """Updates weighed by a power of the loss that each participant began with.

    Args:
        q: how much fairness: the power.
        threads: how many threads fold; one per processor by default. The result is the same.
    """

    title: ClassVar[str] = "q-FedAvg"
    about: ClassVar[str] = (
        "Participants whom the model serves badly count for more: when the worst accuracy "
        "matters and not only the mean."
    )
    paper: ClassVar[str] = (
        "Li et al. 2020, Fair Resource Allocation in Federated Learning, arXiv 1905.10497"
    )
    family: ClassVar[str] = "average"

    q: float = number(
        1.0,
        "How much large losses count; 0 is a plain mean, the paper tries 0.001 to 5.",
        least=0.0,
        most=100.0,
    )
    threads: int | None = None

    @property
    def requires(self) -> Requirements:
        return {"report_initial_loss": {}}

    def check(self, setting: Setting) -> None:
        expect.plain_sgd(setting, "updates are read as gradients by 1 / learning_rate")

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
        losses = [max(loss, LEAST) for loss in reported(ordered, "initial_loss")]
        lipschitz = 1 / expect.learning_rate(setting)
        rows = [one.values for one in ordered]
        norms = sums.norms(rows, statistics=setting.statistics, threads=self.threads)
        powers = [(loss / max(losses)) ** self.q for loss in losses]
        total = sum(
            power * (self.q / loss * (lipschitz * norm) ** 2 + lipschitz)
            for power, loss, norm in zip(powers, losses, norms, strict=True)
        )

        def step(_: slice, fair: NDArray[np.float64]) -> NDArray[np.float64]:
            return lipschitz / total * fair

        delta, norm = sums.weighted_sums(
            ordered, [powers], step, statistics=setting.statistics, out=out, threads=self.threads
        )
        return Result(
            state=state,
            delta=delta,
            diagnostics=told(
                ordered,
                norm,
                loss_mean=sum(losses) / len(losses),
                loss_max=max(losses),
                loss_min=min(losses),
            ),
        )


LEAST = 1e-10
"""A loss of nothing, to which no power below 0 can be raised."""
