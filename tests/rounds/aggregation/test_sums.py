"""Weighted sums block by block, values that no gradient trains, and laws that all averages obey."""

import math
import tracemalloc
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from rounds.aggregation import Contribution, FedAvg, Setting, build
from rounds.aggregation.contract import in_order
from rounds.aggregation.sums import norm, norms, weighted_sums
from rounds.aggregation.walk import BLOCK
from tests.rounds.aggregation.several import SETTING, play, rounds, table
from tests.rounds.aggregation.strategy_contract import SIZES, cohort, on_disk, same, update

AVERAGES = [
    "adaptive_clipping",
    "fedadagrad",
    "fedadam",
    "fedavg",
    "fedavgm",
    "fedbn",
    "fedbuff",
    "feddyn",
    "fednova",
    "fedprox",
    "fedyogi",
    "norm_clipping",
    "qfedavg",
    "scaffold",
]
# What goes twice as far when all updates do.
LINEAR = ["fedavg", "fedavgm", "fedbuff", "feddyn", "fednova", "fedprox", "scaffold"]


def in_rows(rows: Sequence[Contribution], weights: Sequence[float]) -> NDArray[np.float64]:
    """The sum as it stands in a formula, one update after the other."""
    sums = np.zeros(rows[0].values.size)
    for one, weight in zip(rows, weights, strict=True):
        sums += weight * one.values.astype(np.float64)
    return sums


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("count", [1, 4, 5, 6, 11])
def test_several_sums_have_the_bits_of_the_formula(size: int, count: int) -> None:
    rows = cohort(size, count=count)
    weights = np.random.default_rng(5).uniform(-1, 1, (2, count))

    def step(_at: slice, one: NDArray[np.float64], two: NDArray[np.float64]) -> NDArray[np.float64]:
        return one - 3 * two

    delta, length = weighted_sums(rows, weights.tolist(), step, threads=2)
    expected = (in_rows(rows, weights[0]) - 3 * in_rows(rows, weights[1])).astype(np.float32)
    assert delta.tobytes() == expected.tobytes()
    assert length == pytest.approx(np.linalg.norm(expected.astype(np.float64)))


def test_steps_see_each_block_of_weights_once() -> None:
    seen: list[tuple[int, int]] = []

    def step(at: slice, sums: NDArray[np.float64]) -> NDArray[np.float64]:
        seen.append((at.start, at.stop))
        return sums

    weighted_sums(cohort(2 * BLOCK + 5, count=1), [[1.0]], step, threads=3)
    assert sorted(seen) == [(0, BLOCK), (BLOCK, 2 * BLOCK), (2 * BLOCK, 2 * BLOCK + 5)]


@pytest.mark.parametrize("size", SIZES)
def test_norms_are_those_of_numpy(size: int) -> None:
    rows = [one.values for one in cohort(size, count=3)]
    expected = [np.linalg.norm(row.astype(np.float64)) for row in rows]
    assert norms(rows, threads=2) == pytest.approx(expected)
    assert [norm(row) for row in rows] == pytest.approx(expected)
    assert norm(np.full(size, 2.0)) == pytest.approx(2 * math.sqrt(size))


def test_a_norm_may_leave_spans_out() -> None:
    alice = np.array([9.0, 3.0, 9.0, 9.0, 4.0, 9.0], np.float32)
    assert norms([alice, alice], statistics=[(5, 6), (0, 1), (2, 4)]) == [5.0, 5.0]


def test_the_norm_of_what_is_not_finite_is_not_finite() -> None:
    poisoned = [np.array([1.0, np.inf], np.float32), np.array([np.nan, 1.0], np.float32)]
    infinite, missing = norms(poisoned)
    assert math.isinf(infinite)
    assert math.isnan(missing)


@pytest.mark.parametrize("name", ["adaptive_clipping", "fedadam", "qfedavg", "scaffold"])
def test_memory_does_not_grow_with_the_number_of_updates(name: str, tmp_path: Path) -> None:
    size, strategy = 4 * BLOCK, build(name, threads=1)
    mapped = on_disk(tmp_path, cohort(size, count=40))
    state = strategy.init(np.zeros(size, np.float32))
    peaks = []
    for count in (1, 3, 40):  # the first loads what is loaded once
        tracemalloc.start()
        strategy.apply(state, mapped[:count], setting=SETTING)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    one_update = 4 * size
    assert peaks[2] - peaks[1] < one_update / 4


# --- Values that no gradient trains ---------------------------------------------------------------

SPANS = ((3, 5), (BLOCK - 2, BLOCK + 4), (2 * BLOCK, 2 * BLOCK + 1))
GRADIENTS = [
    "fedadagrad",
    "fedadam",
    "fedavgm",
    "feddyn",
    "fednova",
    "fedyogi",
    "qfedavg",
    "scaffold",
]


@pytest.mark.parametrize("name", GRADIENTS)
def test_statistics_become_their_mean_and_change_nothing_else(name: str) -> None:
    size, strategy = 2 * BLOCK + 9, build(name, threads=2)
    cohorts = rounds(size=size, count=3)
    spans = np.zeros(size, bool)
    for first, last in SPANS:
        spans[first:last] = True
    without = [[replace(one, values=one.values * ~spans) for one in part] for part in cohorts]
    plain = play(strategy, without)
    apart = play(strategy, cohorts, replace(SETTING, statistics=SPANS))
    for one, other, cohort_ in zip(plain, apart, cohorts, strict=True):
        mean = FedAvg().apply({}, cohort_).delta
        assert other.delta[spans].tobytes() == mean[spans].tobytes()
        assert other.delta[~spans].tobytes() == one.delta[~spans].tobytes()


def test_a_moving_variance_stays_positive_under_adam() -> None:
    """By steps of one size it would not: it is 0.004, and goes down by 0.01 a round."""
    variance = 0.004
    setting = Setting(statistics=[(1, 2)])
    strategy = build("fedadam", {"server_learning_rate": 0.01})
    state = strategy.init(np.zeros(2, np.float32))
    for _ in range(20):
        alice = update([0.1, 0.002 - variance], samples=5, key=1)
        result = strategy.apply(state, [alice], setting=setting)
        state, variance = result.state, variance + float(result.delta[1])
    assert variance == pytest.approx(0.002)
    assert not state["m"][1]


# --- Laws -----------------------------------------------------------------------------------------

# None so small that what becomes of it has fewer bits than it: doubling is exact for the others.
values = st.floats(width=32, min_value=-1e6, max_value=1e6).map(
    lambda value: value if abs(value) > 1e-30 else 0.0
)
cohorts = st.lists(
    st.tuples(
        st.lists(values, min_size=3, max_size=3),
        st.integers(1, 1000),
        st.integers(1, 100),
        st.floats(0.0, 1e3),
        st.integers(0, 9),
    ),
    min_size=1,
    max_size=8,
).map(
    lambda rows: [
        update(row, samples=n, key=key, steps=steps, initial_loss=loss, staleness=age)
        for key, (row, n, steps, loss, age) in enumerate(rows)
    ]
)


@pytest.mark.parametrize("name", AVERAGES)
@given(cohorts, st.randoms(use_true_random=False))
@settings(deadline=None, max_examples=15)
def test_who_comes_first_does_not_matter(
    name: str, given: list[Contribution], chance: object
) -> None:
    shuffled = list(given)
    chance.shuffle(shuffled)  # type: ignore[attr-defined]
    (one,), (other,) = play(build(name), [given]), play(build(name), [shuffled])
    assert same(one, other)


@pytest.mark.parametrize("name", LINEAR)
@given(cohorts)
@settings(deadline=None, max_examples=15)
def test_twice_the_updates_go_twice_as_far(name: str, given: list[Contribution]) -> None:
    doubled = [replace(one, values=one.values * 2) for one in given]
    once, twice = play(build(name), [given, given]), play(build(name), [doubled, doubled])
    for one, other in zip(once, twice, strict=True):
        assert (one.delta * 2).tobytes() == other.delta.tobytes()


@pytest.mark.parametrize("name", AVERAGES)
@given(cohorts)
@settings(deadline=None, max_examples=15)
def test_the_scale_of_all_samples_does_not_matter(name: str, given: list[Contribution]) -> None:
    more = [replace(one, samples=one.samples * 4) for one in given]
    (one,), (other,) = play(build(name), [given]), play(build(name), [more])
    np.testing.assert_allclose(one.delta, other.delta, rtol=1e-6, atol=1e-12)


@given(cohorts, st.floats(1e-3, 1e3))
@settings(deadline=None)
def test_clipping_holds_whoever_comes(given: list[Contribution], clip: float) -> None:
    (result,) = play(build("norm_clipping", {"clip_norm": clip}), [given])
    assert result.diagnostics["delta_norm"] <= clip * (1 + 1e-6)


@given(cohorts)
@settings(deadline=None)
def test_a_mean_by_heads_forgets_samples(given: list[Contribution]) -> None:
    expected = table(in_order(given)).mean(axis=0)
    (result,) = play(build("scaffold"), [given])
    np.testing.assert_allclose(result.delta, expected, rtol=1e-6, atol=1e-6)
