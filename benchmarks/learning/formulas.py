"""The papers' formulas in float64 NumPy, as they stand there and with no care for speed.

Each is made anew for a run and then called round after round with the updates' table, shape
(participants, weights), and what else the round knows; it returns the step of the weights. They
share nothing with `rounds.aggregation`, which they are there to check.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Table = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Round:
    """What came in.

    Args:
        updates: new minus base weights, shape (participants, weights), float64.
        samples: of each participant, shape (participants,), float64; also what follows is.
        steps: of SGD, with the learning rate `rate`.
        losses: of the base version on the participant's own data.
        ages: versions published since the one that was trained from.
        population: how many participants there are.
    """

    updates: Table
    samples: Table
    steps: Table
    losses: Table
    ages: Table
    rate: float
    population: int


Formula = Callable[[Round], Table]


def mean(one: Round) -> Table:
    """Σ n_k Δ_k / Σ n_k (McMahan et al. 2017, algorithm 1)."""
    result: Table = (one.samples[:, None] * one.updates).sum(axis=0) / one.samples.sum()
    return result


def momentum(*, rate: float, beta: float) -> Formula:
    """v ← β v + Δ, w ← w + η v (Hsu et al. 2019, section 4.3)."""
    v: Table | float = 0.0

    def step(one: Round) -> Table:
        nonlocal v
        v = beta * v + mean(one)
        return rate * v

    return step


def adaptive(kind: str, *, rate: float, beta_1: float, beta_2: float, tau: float) -> Formula:
    """Reddi et al. 2021, algorithm 2, with v₋₁ = τ²."""
    m: Table | float = 0.0
    v: Table | float = tau**2

    def step(one: Round) -> Table:
        nonlocal m, v
        delta = mean(one)
        m = beta_1 * m + (1 - beta_1) * delta
        if kind == "adagrad":
            v = v + delta**2
        elif kind == "adam":
            v = beta_2 * v + (1 - beta_2) * delta**2
        else:
            v = v - (1 - beta_2) * delta**2 * np.sign(v - delta**2)
        return np.asarray(rate * m / (np.sqrt(v) + tau))

    return step


def scaffold(*, rate: float) -> Formula:
    """Karimireddy et al. 2020, algorithm 1: x ← x + η_g mean(Δy), whatever c is."""
    return lambda one: np.asarray(rate * one.updates.mean(axis=0))


def nova(one: Round) -> Table:
    """Wang et al. 2020, section 4, for plain SGD: ‖a_k‖₁ = τ_k."""
    shares = one.samples / one.samples.sum()
    normalized = sum(
        share * update / steps
        for share, update, steps in zip(shares, one.updates, one.steps, strict=True)
    )
    return np.asarray((shares * one.steps).sum() * normalized)


def dynamic(*, alpha: float) -> Formula:
    """Acar et al. 2021, algorithm 1."""
    h: Table | float = 0.0

    def step(one: Round) -> Table:
        nonlocal h
        h = h - alpha / one.population * one.updates.sum(axis=0)
        return np.asarray(one.updates.mean(axis=0) - h / alpha)

    return step


def fair(*, q: float) -> Formula:
    """Li et al. 2020, algorithm 2, with L = 1 / η and gradients L (w - w_k)."""

    def step(one: Round) -> Table:
        lipschitz = 1 / one.rate
        gradients = -lipschitz * one.updates
        deltas = one.losses[:, None] ** q * gradients
        squares = (gradients**2).sum(axis=1)
        weights = q * one.losses ** (q - 1) * squares + lipschitz * one.losses**q
        return np.asarray(-deltas.sum(axis=0) / weights.sum())

    return step


def median(one: Round) -> Table:
    """Yin et al. 2018, definition 1."""
    return np.asarray(np.median(one.updates, axis=0))


def trimmed(*, trim: float) -> Formula:
    """Yin et al. 2018, definition 2."""

    def step(one: Round) -> Table:
        count = len(one.updates)
        cut = int(trim * count)
        return np.asarray(np.sort(one.updates, axis=0)[cut : count - cut].mean(axis=0))

    return step


def weiszfeld(*, smoothing: float, steps: int) -> Formula:
    """Pillutla et al. 2022, algorithm 2, from the mean of updates cut to their median norm."""

    def step(one: Round) -> Table:
        alphas = one.samples / one.samples.sum()
        lengths = np.sqrt((one.updates**2).sum(axis=1))
        half = sorted(zip(lengths, alphas, strict=True))
        limit = next(
            length
            for place, (length, _) in enumerate(half)
            if sum(share for _, share in half[: place + 1]) >= 0.5
        )
        cut = np.minimum(1.0, limit / np.maximum(lengths, np.finfo(float).tiny))
        point = (alphas * cut) @ one.updates
        for _ in range(steps):
            distances = np.sqrt(((one.updates - point) ** 2).sum(axis=1))
            betas = alphas / np.maximum(smoothing, distances)
            point = (betas[:, None] * one.updates).sum(axis=0) / betas.sum()
        return np.asarray(point)

    return step


def krum_scores(updates: Table, attackers: int) -> Table:
    """Blanchard et al. 2017, section 4."""
    scores = []
    for i, one in enumerate(updates):
        others = [((one - other) ** 2).sum() for j, other in enumerate(updates) if j != i]
        scores.append(sum(sorted(others)[: max(1, len(updates) - attackers - 2)]))
    return np.array(scores)


def krum(*, attackers: int, keep: int | None = 1) -> Formula:
    """Blanchard et al. 2017, sections 4 and 5; `keep` is m, n - f - 2 if None."""

    def step(one: Round) -> Table:
        best = np.argsort(krum_scores(one.updates, attackers), kind="stable")
        m = keep or len(one.updates) - attackers - 2
        return np.asarray(one.updates[best[:m]].mean(axis=0))

    return step


def bulyan(*, attackers: int) -> Formula:
    """El Mhamdi et al. 2018, section 4."""

    def step(one: Round) -> Table:
        left, selected = list(one.updates), []
        for _ in range(len(one.updates) - 2 * attackers):
            scores = krum_scores(np.array(left), attackers) if len(left) > 1 else np.zeros(1)
            selected.append(left.pop(int(np.argmin(scores))))
        columns = np.sort(np.array(selected), axis=0)
        middles = columns[(len(columns) - 1) // 2]
        nearest = np.argsort(np.abs(columns - middles), axis=0, kind="stable")
        chosen = np.take_along_axis(columns, nearest[: len(columns) - 2 * attackers], axis=0)
        return np.asarray(chosen.mean(axis=0))

    return step


def clipped(one: Round, limit: float) -> Table:
    """Σ n_k Δ_k / max(1, ‖Δ_k‖ / M) / Σ n_k (Sun et al. 2019, section 4)."""
    norms = np.sqrt((one.updates**2).sum(axis=1))
    shorter = one.updates / np.maximum(1, norms / limit)[:, None]
    return np.asarray((one.samples[:, None] * shorter).sum(axis=0) / one.samples.sum())


def norm_clipping(*, limit: float) -> Formula:
    return lambda one: clipped(one, limit)


def adaptive_clipping(*, limit: float, quantile: float, rate: float) -> Formula:
    """Andrew et al. 2021, algorithm 1, without noise."""

    def step(one: Round) -> Table:
        nonlocal limit
        result = clipped(one, limit)
        below = float((np.sqrt((one.updates**2).sum(axis=1)) <= limit).mean())
        limit = limit * float(np.exp(-rate * (below - quantile)))
        return result

    return step


def buffered(*, rate: float, exponent: float) -> Formula:
    """Nguyen et al. 2022, algorithm 1, weighted by samples."""

    def step(one: Round) -> Table:
        old = (1 + one.ages) ** -exponent
        whole = ((one.samples * old)[:, None] * one.updates).sum(axis=0)
        return np.asarray(rate * whole / one.samples.sum())

    return step
