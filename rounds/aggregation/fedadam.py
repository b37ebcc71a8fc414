"""Federated averaging with Adam on the server.

Reddi et al. 2021, *Adaptive Federated Optimization*, arXiv 2003.00295, algorithm 2 (see `fedopt`),
with

    v ← β₂ v + (1 - β₂) Δ²
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from rounds.aggregation.contract import number
from rounds.aggregation.fedopt import FedOpt


@dataclass(frozen=True, slots=True)
class FedAdam(FedOpt):
    """Steps by the usual size of a weight's recent changes.

    Args:
        beta_2: β₂.
    """

    title: ClassVar[str] = "FedAdam"
    about: ClassVar[str] = (
        "FedAvg with momentum and a step of its own for each weight: for deep models that FedAvg "
        "trains slowly or unevenly."
    )

    beta_2: float = number(
        0.99, "Share of a weight's usual change that stays.", least=0.0, most=0.999999
    )

    def spread(self, v: NDArray[np.float64], mean: NDArray[np.float64]) -> NDArray[np.float64]:
        return self.beta_2 * v + (1 - self.beta_2) * (mean * mean)
