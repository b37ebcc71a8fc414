"""Norm clipping and adaptive clipping: the contract, updates cut by hand, and where limits go."""

import math
from collections.abc import Sequence

import numpy as np
import pytest

from rounds.aggregation import Contribution, FedAvg, Strategy
from rounds.aggregation.adaptive_clipping import AdaptiveClipping
from rounds.aggregation.norm_clipping import NormClipping
from tests.rounds.aggregation.several import Table, expect_formula, play, rounds, table
from tests.rounds.aggregation.strategy_contract import StrategyContract, update


class TestNormClippingKeepsTheContract(StrategyContract):
    def strategy(self, *, threads: int | None = None) -> Strategy:
        return NormClipping(threads=threads)


class TestAdaptiveClippingKeepsTheContract(StrategyContract):
    def strategy(self, *, threads: int | None = None) -> Strategy:
        return AdaptiveClipping(threads=threads)


ALICE = update([3.0, 4.0], samples=1, key=1)
BOB = update([0.0, 1.0], samples=3, key=2)


def test_who_goes_too_far_is_cut_by_hand() -> None:
    (result,) = play(NormClipping(clip_norm=2.5), [[ALICE, BOB]])
    # Alice's norm is 5, so that half of her counts: (1.5 + 0) / 4, (2 + 3) / 4.
    assert result.delta.tolist() == [0.375, 1.25]
    said = result.diagnostics
    assert (said["clip_norm"], said["clipped_share"], said["largest_norm"]) == (2.5, 0.5, 5.0)


def test_a_norm_at_the_limit_stays() -> None:
    (result,) = play(NormClipping(clip_norm=5), [[ALICE]])
    assert result.delta.tolist() == [3.0, 4.0]
    assert result.diagnostics["clipped_share"] == 0.0


def test_where_nobody_is_cut_it_is_fedavg() -> None:
    for cohort in rounds():
        (result,) = play(NormClipping(clip_norm=1e6), [cohort])
        assert result.delta.tobytes() == FedAvg().apply({}, cohort).delta.tobytes()


def test_an_update_scaled_without_end_goes_no_farther_than_the_limit() -> None:
    mallory = update([1e30, -1e30], samples=1, key=9)
    (result,) = play(NormClipping(clip_norm=1.0), [[mallory]])
    np.testing.assert_allclose(result.delta, [math.sqrt(0.5), -math.sqrt(0.5)], rtol=1e-6)


def test_norm_clipping_follows_the_paper() -> None:
    def formula(cohort: Sequence[Contribution]) -> Table:
        rows, samples = table(cohort), np.array([one.samples for one in cohort], np.float64)
        cut = rows / np.maximum(1, np.linalg.norm(rows, axis=1) / 0.345)[:, None]
        result: Table = samples @ cut / samples.sum()
        return result

    expect_formula(NormClipping(clip_norm=0.345), formula)


def test_the_limit_follows_the_norms_by_hand() -> None:
    strategy = AdaptiveClipping(clip_norm=2.5, quantile=0.75, clip_learning_rate=2.0)
    one, two = play(strategy, [[ALICE, BOB], [ALICE, BOB]])
    assert one.delta.tolist() == [0.375, 1.25]
    # One of two is below: C = 2.5 exp(-2 (0.5 - 0.75)) = 2.5 exp(0.5).
    assert one.state["clip"].tolist() == pytest.approx([2.5 * math.exp(0.5)])
    assert one.diagnostics["clip_norm"] == 2.5
    assert one.diagnostics["next_clip_norm"] == two.diagnostics["clip_norm"]
    # Alice is cut to 2.5 exp(0.5) = 4.12.
    assert two.delta[0] == pytest.approx(3 * 2.5 * math.exp(0.5) / 5 / 4)


@pytest.mark.parametrize("quantile", [0.2, 0.5, 0.8])
def test_the_limit_comes_to_rest_at_the_quantile(quantile: float) -> None:
    given = [update([float(norm)], samples=1, key=norm) for norm in range(1, 101)]
    strategy = AdaptiveClipping(clip_norm=1000.0, quantile=quantile, clip_learning_rate=0.2)
    *_, last = play(strategy, [given] * 300)
    assert last.diagnostics["next_clip_norm"] == pytest.approx(100 * quantile, abs=2)
    assert last.diagnostics["clipped_share"] == pytest.approx(1 - quantile, abs=0.02)


def test_a_limit_never_falls_to_where_it_could_not_grow_again() -> None:
    strategy = AdaptiveClipping(clip_norm=1.0, quantile=0.0, clip_learning_rate=10.0)
    nothing = update([0.0], samples=1, key=1)
    state = strategy.init(nothing.values)
    for _ in range(80):
        state = strategy.apply(state, [nothing]).state
    assert state["clip"].tolist() == [1e-12]


def test_adaptive_clipping_follows_the_paper() -> None:
    clip = 0.3

    def formula(cohort: Sequence[Contribution]) -> Table:
        nonlocal clip
        rows, samples = table(cohort), np.array([one.samples for one in cohort], np.float64)
        norms = np.linalg.norm(rows, axis=1)
        cut = rows * np.minimum(1, clip / norms)[:, None]
        clip *= math.exp(-0.5 * ((norms <= clip).mean() - 0.6))
        result: Table = samples @ cut / samples.sum()
        return result

    strategy = AdaptiveClipping(clip_norm=0.3, quantile=0.6, clip_learning_rate=0.5)
    expect_formula(strategy, formula)
