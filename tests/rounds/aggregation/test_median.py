"""The coordinate-wise median: the contract, medians done by hand, NumPy's, and attackers."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from rounds.aggregation import Contribution, Strategy
from rounds.aggregation.median import Median
from rounds.aggregation.walk import BLOCK
from tests.rounds.aggregation.strategy_contract import MeanContract, cohort, update


class TestMedianKeepsTheContract(MeanContract):
    def strategy(self, *, threads: int | None = None) -> Strategy:
        return Median(threads=threads)


def median_of(*contributions: Contribution) -> list[float]:
    return Median().apply({}, contributions).delta.tolist()


def transcribed(contributions: list[Contribution]) -> NDArray[np.float32]:
    """NumPy's median in float64, rounded once."""
    rows = np.stack([one.values for one in contributions]).astype(np.float64)
    middle: NDArray[np.float32] = np.median(rows, axis=0).astype(np.float32)
    return middle


def test_the_middle_one_of_three_by_hand() -> None:
    alice = update([1.0, -8.0, 0.5], samples=1, key=1)
    bob = update([3.0, 0.0, 0.5], samples=2, key=2)
    charlie = update([-2.0, 4.0, 0.75], samples=5, key=3)
    assert median_of(alice, bob, charlie) == [1.0, 0.0, 0.5]


def test_of_an_even_count_it_is_the_mean_of_both_middle_ones() -> None:
    rows = [[1.0, 7.0], [2.0, 7.0], [4.0, -7.0], [1e30, 9.0]]
    assert median_of(*(update(row, samples=1, key=key) for key, row in enumerate(rows))) == [3, 7]


def test_many_samples_give_nobody_a_louder_voice() -> None:
    alice, bob = update([1.0], samples=1, key=1), update([2.0], samples=1, key=2)
    assert median_of(alice, bob, update([1e9], samples=10**9, key=3)) == [2.0]


def test_the_largest_numbers_do_not_overflow() -> None:
    largest = float(np.finfo(np.float32).max)
    alice, bob = update([largest], samples=1, key=1), update([largest], samples=1, key=2)
    assert median_of(alice, bob) == [largest]


def test_a_number_that_is_none_is_seen_wherever_it_would_have_landed() -> None:
    given = cohort(2 * BLOCK + 3, count=9)
    given[4].values[BLOCK + 700] = np.inf
    with pytest.raises(ValueError, match="Expected finite updates"):
        Median().apply({}, given)


@pytest.mark.parametrize("count", range(1, 61))
def test_any_number_of_participants_gives_the_bits_of_numpy(count: int) -> None:
    given = cohort(300, count=count)
    assert Median().apply({}, given).delta.tobytes() == transcribed(given).tobytes()


@pytest.mark.parametrize("count", [2, 7, 50, 200])
def test_blocks_have_no_seams(count: int) -> None:
    given = cohort(BLOCK + 129, count=count)
    assert Median(threads=2).apply({}, given).delta.tobytes() == transcribed(given).tobytes()


values = st.floats(width=32, allow_nan=False, allow_infinity=False)
columns = st.lists(values, min_size=1, max_size=60)


@given(columns, st.randoms())
@settings(deadline=None)
def test_who_sent_what_does_not_matter(column: list[float], random: object) -> None:
    given = [update([value], samples=1, key=key) for key, value in enumerate(column)]
    random.shuffle(column)  # type: ignore[attr-defined]
    shuffled = [update([value], samples=1, key=key) for key, value in enumerate(column)]
    assert median_of(*given) == median_of(*shuffled) == transcribed(given).tolist()


@given(st.data(), st.lists(st.integers(-3, 3).map(float), min_size=1, max_size=30))
@settings(deadline=None)
def test_fewer_than_half_cannot_move_it_out_of_the_range_of_the_honest(
    data: st.DataObject, honest: list[float]
) -> None:
    attacks = data.draw(st.lists(values, max_size=len(honest) - 1))
    cohort = [*attacks, *honest]
    (median,) = median_of(*(update([value], samples=1, key=k) for k, value in enumerate(cohort)))
    assert min(honest) <= median <= max(honest)
