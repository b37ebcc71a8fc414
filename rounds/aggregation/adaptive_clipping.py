"""Norm clipping whose limit follows a quantile of the norms.

Andrew, Thakkar, McMahan and Ramaswamy 2021, *Differentially Private Learning with Adaptive
Clipping*, arXiv 1905.03871, algorithm 1, without noise: with b̄ the share of updates whose norm is
at most C, γ the quantile wanted and η its learning rate,

    w ← w + Σ n_k Δ_k min(1, C / ‖Δ_k‖) / Σ n_k
    C ← C exp(-η (b̄ - γ))

The round that finds b̄ is itself still clipped by the old C. Samples weigh in the mean as in FedAvg;
the paper, for the sake of its noise, gives all participants one weight. b̄ counts heads in both.
"""

import math
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
from rounds.aggregation.norm_clipping import clipped_mean, clipping

LEAST = 1e-12
"""The smallest limit: from 0 it would never grow again."""


@dataclass(frozen=True, slots=True)
class AdaptiveClipping(Strategy):
    """The mean, weighted by samples, of updates cut to a length that a share of them stays below.

    Args:
        clip_norm: C of the first round, an L2 norm.
        quantile: γ.
        clip_learning_rate: η.
        threads: how many threads fold; one per processor by default. The result is the same.
    """

    title: ClassVar[str] = "Adaptive clipping"
    about: ClassVar[str] = (
        "Norm clipping that finds its limit by itself: when you do not know how long updates "
        "are, or they become shorter as the model learns."
    )
    paper: ClassVar[str] = (
        "Andrew et al. 2021, Differentially Private Learning with Adaptive Clipping, "
        "arXiv 1905.03871"
    )
    family: ClassVar[str] = "clipping"

    clip_norm: float = number(
        0.1, "The limit of the first round, an L2 norm.", least=LEAST, most=1e9
    )
    quantile: float = number(
        0.5, "Share of the updates that the limit should leave as they are.", least=0.0, most=1.0
    )
    clip_learning_rate: float = number(
        0.2, "How fast the limit follows, as a rate of its logarithm.", least=0.0, most=10.0
    )
    threads: int | None = None

    def init(self, weights: NDArray[np.float32]) -> State:
        return {"clip": np.array([self.clip_norm], np.float64)}

    def apply(
        self,
        state: State,
        contributions: Sequence[Contribution],
        *,
        setting: Setting = ANY_SETTING,
        out: NDArray[np.float32] | None = None,
    ) -> Result:
        ordered = in_order(contributions)
        clip = float(state["clip"][0])
        delta, norm, norms = clipped_mean(ordered, clip, out=out, threads=self.threads)
        below = sum(norm <= clip for norm in norms) / len(norms)
        following = clip * math.exp(-self.clip_learning_rate * (below - self.quantile))
        following = max(following, LEAST)
        return Result(
            state={"clip": np.array([following])},
            delta=delta,
            diagnostics=told(ordered, norm, **clipping(norms, clip), next_clip_norm=following),
        )
