"""Who holds which examples: pure, and decided by a seed."""

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]


def partition(y: np.ndarray, n: int, spec: str, seed: int) -> list[Indices]:
    """Share examples out among participants: each to exactly one, and nobody goes empty.

    Args:
        y: labels (examples,).
        n: number of participants.
        spec: "iid" (shuffled, equal shares), "dirichlet:ALPHA" (each class in shares drawn from
            a Dirichlet distribution, the more uneven the smaller ALPHA, in size too; Yurochkin
            et al. 2019, arXiv 1905.12022) or "shards:K" (sorted by label, cut into n K shards,
            K to each; McMahan et al. 2017, arXiv 1602.05629).
        seed: the same seed gives the same shares.

    Returns:
        For each participant the sorted indices of its examples.

    Raises:
        ValueError: for another `spec`, or when there are too few examples.
    """
    if not 1 <= n <= len(y):
        raise ValueError(f"Expected 1 to {len(y)} participants. Received: {n}")
    kind, _, option = spec.partition(":")
    random = np.random.default_rng(seed)
    if spec == "iid":
        shares = np.array_split(random.permutation(len(y)), n)
    elif kind == "dirichlet" and _is_alpha(option):
        shares = _dirichlet(y, n, float(option), random)
    elif kind == "shards" and option.isdecimal() and 1 <= int(option) <= len(y) // n:
        shares = _shards(y, n, int(option), random)
    else:
        expected = f"iid, dirichlet:ALPHA or shards:K with K from 1 to {len(y) // n}"
        raise ValueError(f"Expected {expected}. Received: {spec!r}")
    return [np.sort(share) for share in shares]


def _dirichlet(y: np.ndarray, n: int, alpha: float, random: np.random.Generator) -> list[Indices]:
    parts: list[list[Indices]] = [[] for _ in range(n)]
    for label in np.unique(y):
        members = random.permutation(np.flatnonzero(y == label))
        cuts = np.cumsum(random.dirichlet(np.full(n, alpha)))[:-1] * len(members)
        for part, share in zip(parts, np.split(members, cuts.astype(int)), strict=True):
            part.append(share)
    shares = [np.concatenate(part) for part in parts]
    return _fill_empty(shares)


def _fill_empty(shares: list[Indices]) -> list[Indices]:
    """Who drew nothing gets one example from whoever holds the most."""
    for empty in (number for number, share in enumerate(shares) if len(share) == 0):
        richest = max(range(len(shares)), key=lambda number: len(shares[number]))
        shares[empty], shares[richest] = shares[richest][:1], shares[richest][1:]
    return shares


def _shards(y: np.ndarray, n: int, each: int, random: np.random.Generator) -> list[Indices]:
    shuffled = random.permutation(len(y))  # so that ties under one label are not in file order
    by_label = shuffled[np.argsort(y[shuffled], kind="stable")]
    shards = np.array_split(by_label, n * each)
    dealt = random.permutation(n * each).reshape(n, each)
    return [np.concatenate([shards[number] for number in hand]) for hand in dealt]


def _is_alpha(text: str) -> bool:
    try:
        return 0 < float(text) <= 1e6  # beyond it the drawing overflows, and shares are even anyway
    except ValueError:
        return False
