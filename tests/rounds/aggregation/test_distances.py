"""Squared distances: NumPy's in float64, the same on any number of threads, and close updates."""

import numpy as np
import pytest
from numpy.typing import NDArray

from rounds.aggregation import distances
from rounds.aggregation.walk import BLOCK
from tests.rounds.aggregation.strategy_contract import cohort

CLOSE = 1e-6  # runs of squares are summed in float32; a weight left out at a seam is more


def rows_of(count: int, size: int) -> list[NDArray[np.float32]]:
    return [one.values for one in cohort(size, count=count)]


def transcribed(rows: list[NDArray[np.float32]]) -> NDArray[np.float64]:
    wide = np.stack(rows).astype(np.float64)
    return np.array([[((one - other) ** 2).sum() for other in wide] for one in wide])


def test_distances_by_hand() -> None:
    rows = [np.array(row, np.float32) for row in ([0, 0], [3, 4], [0, 1])]
    assert distances.between(rows).tolist() == [[0, 25, 1], [25, 0, 18], [1, 18, 0]]


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 9, 50])
def test_any_number_of_rows_gives_the_distances_of_numpy(count: int) -> None:
    rows = rows_of(count, 1_031)
    np.testing.assert_allclose(distances.between(rows), transcribed(rows), rtol=CLOSE)


@pytest.mark.parametrize("size", [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 5 * BLOCK + 7])
def test_blocks_have_no_seams_and_threads_change_no_bit(size: int) -> None:
    rows = rows_of(6, size)
    found = distances.between(rows, threads=1)
    np.testing.assert_allclose(found, transcribed(rows), rtol=CLOSE)
    assert all((distances.between(rows, threads=n) == found).all() for n in (2, 3))


def test_long_updates_that_lie_close_together_are_told_apart() -> None:
    """‖a‖² + ‖b‖² - 2 a·b is 0 in float32 and has four digits in float64."""
    base = np.full(3 * BLOCK, 1e4, np.float32)
    near = base.copy()
    near[::2] += np.float32(2**-7)
    squares = distances.between([base, near])
    assert squares[0, 1] == 1.5 * BLOCK * 2.0**-14


def test_the_largest_numbers_do_not_overflow() -> None:
    largest = np.finfo(np.float32).max
    rows = [np.array([largest, largest]), np.array([-largest, -largest])]
    expected = 2 * (2 * np.float64(largest)) ** 2
    assert distances.between(rows)[0, 1] == pytest.approx(expected, rel=1e-15)


@pytest.mark.parametrize("factor", [1e-42, 1e-30, 1e-15, 1e18, 1e25])
def test_what_leaves_the_range_of_float32_is_computed_in_float64(factor: float) -> None:
    rows = [row * np.float32(factor) for row in rows_of(6, 1_031)]
    np.testing.assert_allclose(distances.between(rows), transcribed(rows), rtol=CLOSE)


def test_equal_updates_lie_at_no_distance() -> None:
    one, other = rows_of(2, 1_031)
    assert distances.between([one, one, one]).tolist() == [[0.0] * 3] * 3
    assert distances.between([one, other, one])[0, 2] == 0.0


@pytest.mark.parametrize("size", [1, BLOCK - 1, BLOCK + 1, 3 * BLOCK + 7])
@pytest.mark.parametrize("count", [1, 7, 50])
def test_a_mean_and_the_distances_from_it_are_those_of_numpy(size: int, count: int) -> None:
    rows = rows_of(count, size)
    weights = np.arange(1, count + 1) / (count * (count + 1) / 2)
    mean, norm, apart = distances.from_mean(rows, weights, threads=2)
    wide = np.stack(rows).astype(np.float64)
    middle = weights @ wide
    # Of magnitudes this different, the order of a float64 sum is seen in its last digits.
    rounding = np.abs(wide).max(axis=0) * count / 2**50
    assert (np.abs(mean - middle) <= np.abs(middle) / 2**23 + rounding).all()
    np.testing.assert_allclose(apart, np.sqrt(((wide - middle) ** 2).sum(axis=1)), rtol=1e-9)
    assert norm == pytest.approx(np.linalg.norm(mean.astype(np.float64)), rel=1e-12)
