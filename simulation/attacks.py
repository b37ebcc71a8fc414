"""What participants do that mean harm: pure functions of their updates, for experiments.

label_flip        trains on labels y that became c - 1 - y (Fang et al. 2020,
                  arXiv 1911.11815)
sign_flip         sends -s Δ; s = 4 (Li et al. 2019, arXiv 1811.03761)
gaussian          sends noise in place of Δ, of s times its root mean square; s = 10 (after
                  Blanchard et al. 2017, arXiv 1703.02757)
scaled            trains on flipped labels and sends s Δ; s = 10 (model replacement: Bagdasaryan
                  et al. 2020, arXiv 1807.00459)
little_is_enough  all attackers send the mean of their updates less z standard deviations, just
                  so much that robust rules still take it for one of many (Baruch et al. 2019,
                  arXiv 1902.06156)
"""

import math
from collections.abc import Mapping, Sequence
from statistics import NormalDist
from typing import Final

import numpy as np
from numpy.typing import NDArray

from rounds.selection import derive_seed

ATTACKS: Final = ("label_flip", "sign_flip", "gaussian", "scaled", "little_is_enough")
STRENGTHS: Final[Mapping[str, float]] = {"sign_flip": 4.0, "gaussian": 10.0, "scaled": 10.0}

Delta = Mapping[str, NDArray[np.float32]]


def attackers(participants: int, share: float, seed: int) -> frozenset[int]:
    """Which participants attack: their places, from 0.

    Args:
        participants: how many there are.
        share: of them, rounded to whole participants.
        seed: the same seed gives the same attackers.
    """
    order = np.random.default_rng(derive_seed(seed, "attackers")).permutation(participants)
    return frozenset(order[: round(share * participants)].tolist())


def flips_labels(attack: str) -> bool:
    """Whether an attack begins with the labels."""
    return attack in ("label_flip", "scaled")


def flipped(y: NDArray[np.int64], classes: int) -> NDArray[np.int64]:
    """Labels y as c - 1 - y: of ten digits, 0 becomes 9 and 9 becomes 0."""
    return classes - 1 - y


def disguised(attack: str, delta: Delta, *, strength: float | None, seed: int) -> Delta:
    """What one attacker sends in place of its update.

    Args:
        attack: one of `ATTACKS`; those that need to know of others leave the update as it is.
        delta: what it has learned, by tensor.
        strength: s above; None for the attack's own.
        seed: of the noise.
    """
    factor = np.float32(STRENGTHS.get(attack, 1.0) if strength is None else strength)
    if attack == "sign_flip":
        return {name: -factor * values for name, values in delta.items()}
    if attack == "scaled":
        return {name: factor * values for name, values in delta.items()}
    if attack == "gaussian":
        return _noise(delta, float(factor), seed)
    return delta


def _noise(delta: Delta, factor: float, seed: int) -> Delta:
    count = sum(values.size for values in delta.values())
    squares = sum(float(np.square(values, dtype=np.float64).sum()) for values in delta.values())
    spread = np.float32(factor * math.sqrt(squares / count))
    random = np.random.default_rng(derive_seed(seed, "noise"))
    return {
        name: spread * random.standard_normal(values.shape, dtype=np.float32)
        for name, values in delta.items()
    }


def z_max(participants: int, attacking: int) -> float:
    """How many standard deviations robust rules do not notice (Baruch et al. 2019, section 3).

    The attackers need s = ⌊n/2 + 1⌋ - m others that lie farther from the mean than they do; so
    z is the quantile of (n - m - s) / (n - m) of the normal distribution.

    Args:
        participants: n, of the round.
        attacking: m of them.

    Returns:
        At least 0, where so few attack that no z goes unnoticed; 3.09, the quantile of 0.999, for
        a majority, which needs no disguise.
    """
    honest = participants - attacking
    needed = participants // 2 + 1 - attacking
    share = (honest - needed) / honest if honest else 1.0
    return NormalDist().inv_cdf(min(share, 0.999)) if share > 0.5 else 0.0


def little_is_enough(deltas: Sequence[NDArray[np.float32]], z: float) -> NDArray[np.float32]:
    """What all attackers of a round send: mean - z standard deviations of what they learned.

    Args:
        deltas: the attackers' own updates, each (n,).
        z: see `z_max`.
    """
    stack = np.stack(deltas).astype(np.float64)
    return np.asarray(stack.mean(axis=0) - z * stack.std(axis=0), np.float32)
