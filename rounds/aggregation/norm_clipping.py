"""The mean of updates that are no longer than a limit.

Sun, Kairouz, Suresh and McMahan 2019, *Can You Really Backdoor Federated Learning?*, arXiv
1911.07963, section 4, without noise: with M the limit and n_k the samples of participant k,

    w ← w + Σ n_k Δ_k / max(1, ‖Δ_k‖ / M) / Σ n_k

so that nobody moves the model by more than its share of M, however it scaled its update.
"""

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


@dataclass(frozen=True, slots=True)
class NormClipping(Strategy):
    """The mean, weighted by samples, of updates cut to a length.

    Args:
        clip_norm: M, an L2 norm.
        threads: how many threads fold; one per processor by default. The result is the same.

    Example:
        >>> alice = Contribution(np.array([3, 4], np.float32), samples=5, key=1)
        >>> NormClipping(clip_norm=2.5).apply({}, [alice]).delta
        array([1.5, 2. ], dtype=float32)
    """

    title: ClassVar[str] = "Norm clipping"
    about: ClassVar[str] = (
        "FedAvg in which no update may be longer than a limit: against single participants that "
        "push too hard."
    )
    paper: ClassVar[str] = (
        "Sun et al. 2019, Can You Really Backdoor Federated Learning?, arXiv 1911.07963"
    )
    family: ClassVar[str] = "clipping"

    clip_norm: float = number(
        1.0, "The longest that an update counts, an L2 norm.", least=0.0, most=1e9, above=True
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
        ordered = in_order(contributions)
        delta, norm, norms = clipped_mean(ordered, self.clip_norm, out=out, threads=self.threads)
        diagnostics = told(ordered, norm, **clipping(norms, self.clip_norm))
        return Result(state=state, delta=delta, diagnostics=diagnostics)


def clipped_mean(
    ordered: Sequence[Contribution],
    clip: float,
    *,
    out: NDArray[np.float32] | None,
    threads: int | None,
) -> tuple[NDArray[np.float32], float, list[float]]:
    """Computes the mean, weighted by samples, of updates cut to an L2 norm.

    Returns:
        The mean, its norm, and the norms that the updates came with.
    """
    # Not at the top: compiling and loading kernels is for those who fold.
    from rounds.aggregation import sums

    rows = [one.values for one in ordered]
    norms = sums.norms(rows, threads=threads)
    total = sum(one.samples for one in ordered)
    shares = cut(norms, clip)
    weights = [one.samples * share for one, share in zip(ordered, shares, strict=True)]
    delta, norm = sums.weighted_sums(
        ordered, [weights], lambda _, mean: mean / total, out=out, threads=threads
    )
    return delta, norm, norms


def cut(norms: Sequence[float], clip: float) -> list[float]:
    """What updates of such norms are multiplied by to be no longer than a limit."""
    return [1.0 if norm <= clip else clip / norm for norm in norms]


def clipping(norms: Sequence[float], clip: float) -> dict[str, float]:
    """What there is to say of a round's clipping: the limit, and the share of updates beyond it."""
    clipped = sum(norm > clip for norm in norms) / len(norms)
    return {"clip_norm": float(clip), "clipped_share": clipped, "largest_norm": max(norms)}
