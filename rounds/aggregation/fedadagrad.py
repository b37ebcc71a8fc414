"""Federated averaging with Adagrad on the server.

Reddi et al. 2021, *Adaptive Federated Optimization*, arXiv 2003.00295, algorithm 2 (see `fedopt`),
with

    v ← v + Δ²

so that a weight's steps only shrink. In the paper's experiments β₁ is 0, and v has no decay.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from rounds.aggregation.contract import number
from rounds.aggregation.fedopt import FedOpt


@dataclass(frozen=True, slots=True)
class FedAdagrad(FedOpt):
    """Steps that shrink with all that a weight has moved so far.

    Args:
        beta_1: β₁.
    """

    title: ClassVar[str] = "FedAdagrad"
    about: ClassVar[str] = (
        "FedAvg with a step of its own for each weight that only shrinks: for models with "
        "weights that are rarely trained, such as those of rare words."
    )

    beta_1: float = number(
        0.0, "Share of the direction that stays from round to round.", least=0.0, most=0.9999
    )

    def spread(self, v: NDArray[np.float64], mean: NDArray[np.float64]) -> NDArray[np.float64]:
        return v + mean * mean
