"""Federated averaging of participants that are held near where they began.

Li, Sahu, Zaheer, Sanjabi, Talwalkar and Smith 2020, *Federated Optimization in Heterogeneous
Networks*, arXiv 1812.06127, algorithm 2. Each participant makes

    F_k(w) + (μ / 2) ‖w - w₀‖²

smaller, which adds μ (w - w₀) to each of its gradients, by as much work as it has time for: the
updates of those who did less are folded as they are. The paper draws participants by their share
of the samples and takes the plain mean; ours are drawn evenly, so that samples weigh in the mean,
as in FedAvg:

    w ← w + Σ n_k Δ_k / Σ n_k
"""

from dataclasses import dataclass
from typing import ClassVar

from rounds.aggregation import expect
from rounds.aggregation.contract import Requirements, Setting, number
from rounds.aggregation.fedavg import FedAvg


@dataclass(frozen=True, slots=True)
class FedProx(FedAvg):
    """FedAvg with a proximal term in each participant's loss.

    Args:
        mu: strength of the pull to the weights that training began with.
    """

    title: ClassVar[str] = "FedProx"
    about: ClassVar[str] = (
        "FedAvg that keeps participants near the shared model while they train: for data that "
        "differs, and for slow participants that do less work."
    )
    paper: ClassVar[str] = (
        "Li et al. 2020, Federated Optimization in Heterogeneous Networks, arXiv 1812.06127"
    )
    family: ClassVar[str] = "drift"

    mu: float = number(
        0.01,
        "Strength of the pull to the shared model; 0 is FedAvg, the paper tries 0.001 to 1.",
        least=0.0,
        most=1000.0,
    )

    @property
    def requires(self) -> Requirements:
        return {"proximal": {"mu": float(self.mu)}}

    def check(self, setting: Setting) -> None:
        expect.steady_pull(setting, "mu", self.mu)
