"""FedAvg: the contract, sums done by hand, and a transcription of the formula."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from rounds.aggregation import Contribution, FedAvg, Strategy
from rounds.aggregation.walk import BLOCK
from tests.rounds.aggregation.strategy_contract import MeanContract, cohort, update


class TestFedAvgKeepsTheContract(MeanContract):
    def strategy(self, *, threads: int | None = None) -> Strategy:
        return FedAvg(threads=threads)


def mean_of(*contributions: Contribution) -> list[float]:
    return FedAvg().apply({}, contributions).delta.tolist()


def transcribed(contributions: list[Contribution]) -> NDArray[np.float32]:
    """Σ n_k Δ_k / Σ n_k as it stands in the paper, in float64, one participant after the other."""
    sums = np.zeros(contributions[0].values.size)
    for one in contributions:
        sums += np.float64(one.samples) * one.values.astype(np.float64)
    mean: NDArray[np.float32] = (sums / sum(one.samples for one in contributions)).astype("f4")
    return mean


def test_nine_hundred_samples_outweigh_a_hundred() -> None:
    alice, bob = update([0.0], samples=100, key=1), update([1.0], samples=900, key=2)
    assert mean_of(alice, bob) == [np.float32(0.9)]


def test_three_participants_by_hand() -> None:
    alice = update([1.0, -8.0, 0.5], samples=1, key=1)
    bob = update([3.0, 0.0, 0.5], samples=2, key=2)
    charlie = update([-2.0, 4.0, 0.5], samples=5, key=3)
    # (1 + 6 - 10) / 8, (-8 + 0 + 20) / 8, (0.5 + 1 + 2.5) / 8
    assert mean_of(alice, bob, charlie) == [-0.375, 1.5, 0.5]


def test_it_is_weighted_by_samples_and_not_by_heads() -> None:
    alice, bob = update([2.0], samples=1, key=1), update([6.0], samples=3, key=2)
    assert mean_of(alice, bob) == [5.0]
    assert mean_of(alice, update([6.0], samples=1, key=2)) == [4.0]


def test_one_who_trained_on_nothing_changes_nothing() -> None:
    alice, bob = update([2.0], samples=4, key=1), update([100.0], samples=0, key=2)
    assert mean_of(alice, bob) == [2.0]


def test_small_updates_are_not_lost_beside_large_ones() -> None:
    """In float32 the sum would be 0: 1 + 1e8 = 1e8."""
    alice = update([1e8], samples=1, key=1)
    bob = update([1.0], samples=1, key=2)
    charlie = update([-1e8], samples=1, key=3)
    assert mean_of(alice, bob, charlie) == [np.float32(1 / 3)]


def test_the_largest_numbers_do_not_overflow() -> None:
    largest = float(np.finfo(np.float32).max)
    alice, bob = update([largest], samples=10**9, key=1), update([largest], samples=10**9, key=2)
    assert mean_of(alice, bob) == [largest]


def test_the_norm_is_that_of_the_mean() -> None:
    alice, bob = update([0.0] * 4, samples=1, key=1), update([6.0] * 4, samples=2, key=2)
    # The mean is 4 four times: sqrt(4 * 16).
    assert FedAvg().apply({}, [alice, bob]).diagnostics["delta_norm"] == 8.0


def test_a_model_without_federated_weights_has_nothing_to_add() -> None:
    result = FedAvg().apply({}, [update([], samples=3, key=1)])
    assert result.delta.shape == (0,)
    assert result.diagnostics["delta_norm"] == 0.0


def test_it_remembers_nothing() -> None:
    assert dict(FedAvg().init(np.ones(5, np.float32))) == {}


@pytest.mark.parametrize("count", range(1, 13))
def test_any_number_of_participants_gives_the_bits_of_the_formula(count: int) -> None:
    given = cohort(2 * BLOCK + 3, count=count)
    result = FedAvg(threads=2).apply({}, given)
    assert result.delta.tobytes() == transcribed(given).tobytes()


values = st.floats(width=32, allow_nan=False, allow_infinity=False)
samples = st.integers(min_value=1, max_value=2**29)
# Rows are as long as the shortest, so that shrinking one does not have to shrink them all.
cohorts = st.lists(st.tuples(st.lists(values, min_size=1, max_size=40), samples), min_size=1).map(
    lambda rows: [
        update(row[: min(len(row) for row, _ in rows)], samples=samples, key=key)
        for key, (row, samples) in enumerate(rows)
    ]
)


@given(cohorts)
@settings(deadline=None)
def test_every_cohort_gives_the_bits_of_the_formula(contributions: list[Contribution]) -> None:
    result = FedAvg().apply({}, contributions)
    assert result.delta.tobytes() == transcribed(contributions).tobytes()


@given(cohorts)
@settings(deadline=None)
def test_every_mean_lies_between_the_updates(contributions: list[Contribution]) -> None:
    mean = FedAvg().apply({}, contributions).delta
    rows = np.stack([one.values for one in contributions])
    assert (rows.min(axis=0) <= mean).all()
    assert (mean <= rows.max(axis=0)).all()


@given(st.lists(st.tuples(values, samples), min_size=1, max_size=20))
@settings(deadline=None)
def test_every_mean_is_the_exact_one_rounded(pairs: list[tuple[float, int]]) -> None:
    total = sum(count for _, count in pairs)
    exact = sum((Fraction(value) * count for value, count in pairs), Fraction()) / total
    largest = max(abs(value) for value, _ in pairs)
    (mean,) = mean_of(*(update([v], samples=n, key=k) for k, (v, n) in enumerate(pairs)))
    # Float32 rounds once, by half a step; float64 a little in each of the sums.
    rounding = abs(exact) / 2**24 + Fraction(1, 2**150)
    assert abs(Fraction(mean) - exact) <= rounding + Fraction(largest) * len(pairs) / 2**52
