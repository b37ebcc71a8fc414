"""The geometric median: the contract, steps done by hand, a transcription, and attackers."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from rounds.aggregation import Contribution, OptionError, Strategy
from rounds.aggregation.geometric_median import GeometricMedian
from rounds.aggregation.walk import BLOCK
from tests.rounds.aggregation.strategy_contract import MeanContract, update


class TestGeometricMedianKeepsTheContract(MeanContract):
    def strategy(self, *, threads: int | None = None) -> Strategy:
        return GeometricMedian(iterations=20, threads=threads)


def transcribed(contributions: list[Contribution], *, nu: float, steps: int) -> NDArray[np.float64]:
    """The steps of algorithm 2 as they stand there, in float64, and our beginning."""
    alphas = np.array([one.samples for one in contributions], np.float64)
    alphas /= alphas.sum()
    rows = np.stack([one.values for one in contributions]).astype(np.float64)
    lengths = np.linalg.norm(rows, axis=1)
    half = min(one for one in lengths if alphas[lengths <= one].sum() >= 0.5)
    point: NDArray[np.float64] = (alphas * np.minimum(1, half / lengths)) @ rows
    for _ in range(steps):
        betas = alphas / np.maximum(nu, np.linalg.norm(rows - point, axis=1))
        point = betas @ rows / betas.sum()
    return point


def test_one_step_by_hand() -> None:
    alice, bob = update([0.0, 0.0], samples=1, key=1), update([8.0, 0.0], samples=3, key=2)
    result = GeometricMedian(iterations=1).apply({}, [alice, bob])
    # Bob has half of the samples, so that 8 is not cut. It begins at (6, 0), 6 from alice and 2
    # from bob: β = 1/24 and 3/8, and so 9 parts of 10.
    assert result.delta == pytest.approx([7.2, 0.0], rel=1e-7)
    assert result.shares == pytest.approx({1: 0.1, 2: 0.9})
    assert result.diagnostics["iterations"] == 1.0
    assert result.diagnostics["converged"] == 0.0
    assert result.diagnostics["objective"] == pytest.approx(0.25 * 7.2 + 0.75 * 0.8)


def test_whoever_has_more_than_half_of_the_samples_is_the_median() -> None:
    rows = [([1.0, 2.0], 60), ([9.0, 9.0], 20), ([-50.0, 3.0], 20)]
    given = [update(row, samples=count, key=key) for key, (row, count) in enumerate(rows)]
    result = GeometricMedian(tolerance=0.0, iterations=1_000).apply({}, given)
    assert result.delta == pytest.approx([1.0, 2.0], abs=1e-5)
    assert result.diagnostics["objective"] == pytest.approx(
        0.2 * math.hypot(8, 7) + 0.2 * math.hypot(51, 1), rel=1e-6
    )


def test_of_three_corners_it_is_fermats_point() -> None:
    """All sides of a triangle of equal sides are seen from its centre under 120 degrees."""
    rows = [[0.0, 0.0], [2.0, 0.0], [1.0, math.sqrt(3)], [1.0, math.sqrt(3)]]
    given = [update(row, samples=2 - key // 2, key=key) for key, row in enumerate(rows)]
    result = GeometricMedian(tolerance=0.0).apply({}, given)
    assert result.delta == pytest.approx([1.0, 1 / math.sqrt(3)], rel=1e-6)


@pytest.mark.parametrize("count", [1, 2, 3, 10, 50])
@pytest.mark.parametrize("steps", [1, 4])
def test_every_step_is_that_of_the_paper(count: int, steps: int) -> None:
    random = np.random.default_rng(count)
    rows = random.standard_normal((count, BLOCK + 129), np.float32)
    rows *= 10.0 ** random.integers(-3, 3, size=(count, 1))
    given = [Contribution(row, 11 + 7 * key, key) for key, row in enumerate(rows)]
    median = GeometricMedian(iterations=steps, tolerance=0.0, threads=2).apply({}, given)
    expected = transcribed(given, nu=1e-6, steps=int(median.diagnostics["iterations"]))
    assert np.linalg.norm(median.delta - expected) <= 1e-7 * np.linalg.norm(expected)


def test_steps_end_when_they_no_longer_help() -> None:
    random = np.random.default_rng(1)
    rows = random.standard_normal((9, 1_000), np.float32)
    result = GeometricMedian().apply({}, [Contribution(row, 1, k) for k, row in enumerate(rows)])
    assert result.diagnostics["converged"] == 1.0
    assert result.diagnostics["iterations"] < 10
    assert 0 <= result.diagnostics["change"] <= 1e-4


@pytest.mark.parametrize("size", [10.0, 1e30])
def test_attackers_of_any_size_with_a_fifth_of_the_samples_are_kept_off(size: float) -> None:
    random = np.random.default_rng(3)
    rows = random.standard_normal((20, 1_000), np.float32)
    rows[:4] = size
    result = GeometricMedian().apply({}, [Contribution(row, 1, k) for k, row in enumerate(rows)])
    assert result.diagnostics["converged"] == 1.0
    honest = rows[4:].mean(axis=0)
    assert np.linalg.norm(result.delta - honest) < np.linalg.norm(rows[5] - honest)
    assert max(result.shares[key] for key in range(4)) < 1 / 20


@pytest.mark.parametrize(("attackers", "of"), [(4, 10), (45, 100), (49, 100)])
@pytest.mark.parametrize("size", [1e3, 1e15, 1e30])
def test_attackers_of_any_size_with_less_than_half_of_the_samples_are_kept_off(
    attackers: int, of: int, size: float
) -> None:
    random = np.random.default_rng(5)
    rows = random.standard_normal((of, 30), np.float32)
    rows[:attackers] = size
    given = [Contribution(row, 1, key) for key, row in enumerate(rows)]
    result = GeometricMedian().apply({}, given)
    assert result.diagnostics["converged"] == 1.0
    # All are pulled one way, and come to rest among the honest: none is farther than 8 from 0.
    assert np.linalg.norm(result.delta) < 30


def test_where_more_than_half_send_nothing_nothing_is_the_median() -> None:
    rows = [[0.0, 0.0], [0.0, 0.0], [1e30, 3.0]]
    given = [update(row, samples=1, key=key) for key, row in enumerate(rows)]
    result = GeometricMedian().apply({}, given)
    assert result.delta == pytest.approx([0.0, 0.0], abs=1e-5)


values = st.integers(-100, 100).map(float)


@given(st.lists(st.tuples(values, values, st.integers(1, 9)), min_size=1, max_size=20))
@settings(deadline=None)
def test_no_update_and_no_mean_is_nearer_to_all(rows: list[tuple[float, float, int]]) -> None:
    given = [update([x, y], samples=count, key=key) for key, (x, y, count) in enumerate(rows)]
    result = GeometricMedian(tolerance=0.0, iterations=300).apply({}, given)
    wide, counts = np.array([row[:2] for row in rows]), np.array([row[2] for row in rows])

    def distance(point: NDArray[np.float64]) -> float:
        return float(counts @ np.linalg.norm(wide - point, axis=1)) / counts.sum()

    rivals = [*wide, counts @ wide / counts.sum(), np.median(wide, axis=0)]
    nearest = min(distance(point) for point in rivals)
    # Where the median is an update itself, steps towards it become ever smaller.
    assert distance(result.delta.astype(np.float64)) <= nearest * (1 + 1e-2) + 1e-4


@pytest.mark.parametrize(
    ("option", "value"),
    [("smoothing", 0.0), ("iterations", 0), ("iterations", 1.5), ("tolerance", -0.1)],
)
def test_options_out_of_range_are_refused(option: str, value: float) -> None:
    with pytest.raises(OptionError) as refused:
        GeometricMedian(**{option: value})  # type: ignore[arg-type]
    assert refused.value.field == f"strategy_options.{option}"
