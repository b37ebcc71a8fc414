"""Several rounds of several participants, for comparing a strategy with its paper's formula."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from rounds.aggregation import Contribution, Result, Setting, Strategy

Table = NDArray[np.float64]
SETTING = Setting(hyperparameters={"learning_rate": 0.05}, population=12)


def rounds(*, size: int = 300, count: int = 5) -> list[list[Contribution]]:
    """Rounds of 3 to 6 participants whose updates are like those of training."""
    random = np.random.default_rng(7)
    return [
        [
            Contribution(
                values=(0.02 * random.standard_normal(size)).astype(np.float32),
                samples=int(random.integers(20, 600)),
                key=key,
                staleness=int(random.integers(0, 5)),
                reports={
                    "steps": float(random.integers(1, 60)),
                    "initial_loss": float(random.uniform(0.1, 3.0)),
                },
            )
            for key in range(3 + number % 4)
        ]
        for number in range(count)
    ]


def play(
    strategy: Strategy, cohorts: Sequence[Sequence[Contribution]], setting: Setting = SETTING
) -> list[Result]:
    """Folds round after round, each with the state that the one before has left."""
    state = strategy.init(np.zeros(cohorts[0][0].values.size, np.float32))
    results = []
    for cohort in cohorts:
        results.append(strategy.apply(state, cohort, setting=setting))
        state = results[-1].state
    return results


def table(cohort: Sequence[Contribution]) -> Table:
    """The updates as rows of float64."""
    return np.stack([one.values for one in cohort]).astype(np.float64)


def mean(cohort: Sequence[Contribution]) -> Table:
    """Σ n_k Δ_k / Σ n_k."""
    samples = np.array([one.samples for one in cohort], np.float64)
    result: Table = samples @ table(cohort) / samples.sum()
    return result


def expect_formula(
    strategy: Strategy,
    formula: Callable[[Sequence[Contribution]], Table],
    setting: Setting = SETTING,
) -> None:
    """Plays several rounds by the strategy and by the formula, which may remember things.

    Each value must be the same to 1e-6 of itself; not of the largest.
    """
    cohorts = rounds()
    for result, cohort in zip(play(strategy, cohorts, setting), cohorts, strict=True):
        np.testing.assert_allclose(result.delta, formula(cohort), rtol=1e-6)
