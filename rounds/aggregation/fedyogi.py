"""Federated averaging with Yogi on the server.

Reddi et al. 2021, *Adaptive Federated Optimization*, arXiv 2003.00295, algorithm 2 (see `fedopt`),
with

    v ← v - (1 - β₂) Δ² sign(v - Δ²)

which grows as fast as Adam's v and shrinks more slowly, by no more than (1 - β₂) Δ².
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from rounds.aggregation.contract import number
from rounds.aggregation.fedopt import FedOpt


@dataclass(frozen=True, slots=True)
class FedYogi(FedOpt):
    """Steps by the usual size of a weight's changes, which is slow to forget large ones.

    Args:
        beta_2: β₂.
    """

    title: ClassVar[str] = "FedYogi"
    about: ClassVar[str] = (
        "FedAdam whose steps do not grow at once when updates become small: for rounds that "
        "differ much from one to the next."
    )

    beta_2: float = number(
        0.99, "Share of a weight's usual change that stays.", least=0.0, most=0.999999
    )

    def spread(self, v: NDArray[np.float64], mean: NDArray[np.float64]) -> NDArray[np.float64]:
        squares = mean * mean
        return v - (1 - self.beta_2) * squares * np.sign(v - squares)
