"""Krum: the one update that lies nearest to those around it.

Blanchard, El Mhamdi, Guerraoui and Stainer 2017, *Machine Learning with Adversaries: Byzantine
Tolerant Gradient Descent*, arXiv 1703.02757, section 4: of n updates of which f may be an
attacker's, the score of update i is

    s(i) = Σ ‖Δ_i - Δ_j‖²  over the n - f - 2 updates j ≠ i that are closest to it

and the update with the lowest score is taken whole. It holds for n ≥ 2f + 3. Of equal scores the
participant with the lowest key wins, as in the paper.

All updates count alike: samples are what a participant says it has, and an attacker may say much.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from rounds.aggregation.contract import (
    ANY_SETTING,
    Contribution,
    OptionError,
    Result,
    Setting,
    State,
    Strategy,
    in_order,
    told,
    whole,
)


@dataclass(frozen=True, slots=True)
class Krum(Strategy):
    """The update with the lowest score; all others are left out.

    Args:
        attackers: how many participants may be an attacker's, f.
        threads: how many threads fold; one per processor by default. The result is the same.

    Example:
        >>> rows = np.array([[1], [2], [2.5], [3], [900]], np.float32)
        >>> updates = [Contribution(row, samples=100, key=key) for key, row in enumerate(rows)]
        >>> Krum(attackers=1).apply({}, updates).delta
        array([2.5], dtype=float32)
    """

    title: ClassVar[str] = "Krum"
    about: ClassVar[str] = (
        "The one update nearest to its neighbours: against few attackers who send anything, where "
        "participants hold alike data."
    )
    paper: ClassVar[str] = (
        "Blanchard et al. 2017, Machine Learning with Adversaries: Byzantine Tolerant Gradient "
        "Descent, arXiv 1703.02757"
    )
    family: ClassVar[str] = "robust"

    attackers: int = whole(
        1,
        "How many participants of a round may be attackers (f, from 0): it needs a quorum of at "
        "least 2f + 3.",
        least=0,
        most=100_000,
    )
    threads: int | None = None

    def check(self, setting: Setting) -> None:
        expect_quorum(setting, "Krum", self.attackers, factor=2)

    def apply(
        self,
        state: State,
        contributions: Sequence[Contribution],
        *,
        setting: Setting = ANY_SETTING,
        out: NDArray[np.float32] | None = None,
    ) -> Result:
        ordered = in_order(contributions)
        return mean_of_best(
            1, ordered, "Krum", self.attackers, state=state, out=out, threads=self.threads
        )


def mean_of_best(
    keep: int,
    ordered: Sequence[Contribution],
    title: str,
    attackers: int,
    *,
    state: State,
    out: NDArray[np.float32] | None,
    threads: int | None,
) -> Result:
    """Takes the plain mean of the updates with the lowest scores.

    Args:
        keep: how many are taken.
        ordered: the round's contributions in the order of their keys.
        title: of the strategy, for an error.
        attackers: f.
        state: handed on.
        out: where the delta goes.
        threads: how many threads fold.

    Raises:
        ValueError: fewer contributions came than 2f + 3, or `keep` and f more.
    """
    # Not at the top: compiling and loading kernels is for those who fold.
    from rounds.aggregation import distances, walk

    expect_enough(ordered, title, attackers, factor=2)
    if keep > len(ordered) - attackers:
        raise ValueError(
            f"Expected at least {keep + attackers} updates, to keep {keep} and leave out "
            f"{attackers}. Received: {len(ordered)}"
        )
    updates = [one.values for one in ordered]
    score = scores(distances.between(updates, threads=threads), attackers)
    best = np.sort(np.argsort(score, kind="stable")[:keep])
    delta, norm = walk.weighted_mean(
        [updates[i] for i in best], [1] * keep, out=out, threads=threads
    )
    return Result(
        state=state,
        delta=delta,
        diagnostics=told(ordered, norm, **selection(score, best)),
        shares=shares(ordered, best),
    )


def scores(squares: NDArray[np.float64], attackers: int) -> NDArray[np.float64]:
    """Computes Krum's score of each update.

    Where less than f + 3 updates are left (in the last steps of Bulyan), the score is the distance
    from the nearest one.

    Args:
        squares: squared distances, shape (n, n), zeros on the diagonal.
        attackers: f.

    Returns:
        Sums of the n - f - 2 smallest distances from others, at least of one; shape (n,), float64.
    """
    near = max(1, len(squares) - attackers - 2)
    # Each row begins with its own zero.
    total: NDArray[np.float64] = np.sort(squares, axis=1)[:, 1 : near + 1].sum(axis=1)
    return total


def selection(score: NDArray[np.float64], best: NDArray[np.intp]) -> dict[str, float]:
    """Tells of a selection: how many are in and out, and how far scores are apart.

    Args:
        score: of each update, shape (n,).
        best: places of those selected.

    Returns:
        `selected` and `excluded`, and `score_ratio`: the highest score of the excluded over the
        highest of the selected, where there are both and the latter is above 0.
    """
    others = np.delete(score, best)
    said = {"selected": float(len(best)), "excluded": float(len(others))}
    highest = score[best].max()
    if len(others) and highest > 0:
        said["score_ratio"] = float(others.max() / highest)
    return said


def shares(ordered: Sequence[Contribution], best: NDArray[np.intp]) -> dict[int, float]:
    """Shares of the delta by key: alike for those selected, none for the rest."""
    selected = {ordered[place].key for place in best}
    return {one.key: (one.key in selected) / len(selected) for one in ordered}


def expect_quorum(setting: Setting, title: str, attackers: int, *, factor: int) -> None:
    """Refuses a run in which fewer than `factor` · f + 3 updates may be enough for a round."""
    needed = factor * attackers + 3
    if setting.quorum < needed:
        raise OptionError(
            "quorum",
            f"Expected a quorum of at least {needed}: {title} withstands f attackers among no "
            f"fewer than {factor}f + 3 updates, and f is {attackers}. Received: {setting.quorum}",
        )


def expect_enough(
    ordered: Sequence[Contribution], title: str, attackers: int, *, factor: int
) -> None:
    """Refuses a round of fewer than `factor` · f + 3 updates."""
    needed = factor * attackers + 3
    if len(ordered) < needed:
        raise ValueError(
            f"Expected at least {needed} updates for {title} with {attackers} attackers. "
            f"Received: {len(ordered)}"
        )
