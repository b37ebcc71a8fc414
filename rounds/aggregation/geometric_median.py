"""The geometric median by the smoothed Weiszfeld algorithm (RFA).

Pillutla, Kakade and Harchaoui 2022, *Robust Aggregation for Federated Learning*, arXiv 1912.13445,
algorithm 2: with α_k = n_k / Σ n_k the share of participant k's samples, it minimises

    g(v) = Σ α_k ‖v - Δ_k‖

by these steps, until no distance changes by more than a small share of itself:

    β_k = α_k / max(nu, ‖vᵗ - Δ_k‖)        vᵗ⁺¹ = Σ β_k Δ_k / Σ β_k

Where they begin, the paper leaves open. Here it is the mean of updates cut to a norm that half of
the samples stay below, R:

    v⁰ = Σ α_k Δ_k min(1, R / ‖Δ_k‖)

for attackers that hold a share p of the samples come nearer by no more than p / (1 - p) in a step:
from the mean itself it would take hundreds where they send 10³⁰.

Below the smoothing nu distances count as ‖·‖² / 2nu + nu / 2, so that a step never divides by zero.
It withstands attackers as long as they have less than half of all *samples* and the steps come to
an end (`converged` is 1), and unlike the other robust means of this package it believes what
participants say of these, as the paper does.

The fall of g would be no measure of an end: one attacker who sends 10³⁰ is nearly all of g.
Each step is one pass over the updates. Distances are sums of squared differences in float64.
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
    whole,
)
from rounds.aggregation.norm_clipping import cut


@dataclass(frozen=True, slots=True)
class GeometricMedian(Strategy):
    """The point with the least distance from all updates, weighted by samples.

    Args:
        smoothing: an update closer than this L2 norm is weighed as if it were this far away, nu.
        iterations: most steps that are taken.
        tolerance: the steps end with one that changes no distance by more than this share of it.
        threads: how many threads fold; one per processor by default. The result is the same.

    Example:
        >>> rows = np.array([[0], [0], [900]], np.float32)
        >>> updates = [Contribution(row, samples=100, key=key) for key, row in enumerate(rows)]
        >>> bool(abs(GeometricMedian().apply({}, updates).delta[0]) < 1e-3)
        True
    """

    title: ClassVar[str] = "Geometric median"
    about: ClassVar[str] = (
        "The point nearest to all updates, by samples (RFA): holds while attackers have less than "
        "half of the samples, and bends to their number instead of leaving anyone out."
    )
    paper: ClassVar[str] = (
        "Pillutla et al. 2022, Robust Aggregation for Federated Learning, arXiv 1912.13445"
    )
    family: ClassVar[str] = "robust"

    smoothing: float = number(
        1e-6,
        "An update closer to the median than this L2 norm is taken to be this far away (nu, above "
        "0): keeps steps finite.",
        least=0.0,
        most=1e6,
        above=True,
    )
    iterations: int = whole(
        200, "Most steps towards the median, each a pass over all updates.", least=1, most=10_000
    )
    tolerance: float = number(
        1e-4,
        "Steps end with one that changes the distance from no update by more than this share of "
        "it (0 to 1).",
        least=0.0,
        most=1.0,
    )
    threads: int | None = None

    def apply(
        self,
        state: State,
        contributions: Sequence[Contribution],
        *,
        setting: Setting = ANY_SETTING,
        out: NDArray[np.float32] | None = None,
    ) -> Result:
        # Not at the top: compiling and loading kernels is for those who fold.
        from rounds.aggregation import distances, sums

        ordered = in_order(contributions)
        updates = [one.values for one in ordered]
        samples = np.array([one.samples for one in ordered], np.float64)
        alphas = weights = samples / samples.sum()
        norms = sums.norms(updates, threads=self.threads)
        start = alphas * cut(norms, _middle(norms, alphas))
        delta, norm, apart = distances.from_mean(updates, start, out=out, threads=self.threads)
        steps, change = 0, math.inf
        while steps < self.iterations and change > self.tolerance:
            betas = alphas / np.maximum(self.smoothing, apart)
            weights, before = betas / betas.sum(), apart
            delta, norm, apart = distances.from_mean(
                updates, weights, out=delta, threads=self.threads
            )
            steps += 1
            change = float((np.abs(apart - before) / np.maximum(self.smoothing, apart)).max())
        return Result(
            state=state,
            delta=delta,
            diagnostics=told(
                ordered,
                norm,
                iterations=float(steps),
                converged=float(change <= self.tolerance),
                change=change,
                objective=self._objective(alphas, apart),
            ),
            shares={one.key: float(share) for one, share in zip(ordered, weights, strict=True)},
        )

    def _objective(self, alphas: NDArray[np.float64], apart: NDArray[np.float64]) -> float:
        """Computes g of algorithm 2: the mean distance, smoothed where it is below nu."""
        nu = self.smoothing
        smoothed = np.where(apart <= nu, apart * (apart / (2 * nu)) + nu / 2, apart)
        return float(alphas @ smoothed)


def _middle(norms: Sequence[float], alphas: NDArray[np.float64]) -> float:
    """A norm of which half of the samples' updates are no longer."""
    order = np.argsort(norms, kind="stable")
    return norms[order[np.searchsorted(np.cumsum(alphas[order]), 0.5)]]
