"""FedDyn: the contract, rounds by hand, a transcription, and the algorithm with participants."""

from collections.abc import Sequence

import numpy as np
import pytest

from rounds.aggregation import Contribution, OptionError, Setting, Strategy
from rounds.aggregation.feddyn import FedDyn
from tests.rounds.aggregation.several import Table, expect_formula, play, table
from tests.rounds.aggregation.strategy_contract import StrategyContract, update


class TestFedDynKeepsTheContract(StrategyContract):
    def strategy(self, *, threads: int | None = None) -> Strategy:
        return FedDyn(threads=threads)


def test_two_rounds_by_hand() -> None:
    setting = Setting(population=4)
    alice, bob = update([4.0], samples=1, key=1), update([-8.0], samples=900, key=2)
    one, two = play(FedDyn(alpha=0.5), [[alice, bob], [alice]], setting)
    # h = 0 - 0.5 / 4 * (4 - 8) = 0.5; the mean over heads is -2, and -2 - 0.5 / 0.5 = -3.
    assert one.state["h"].tolist() == [0.5]
    assert one.delta.tolist() == [-3.0]
    # h = 0.5 - 0.5 / 4 * 4 = 0; 4 - 0.
    assert two.state["h"].tolist() == [0.0]
    assert two.delta.tolist() == [4.0]
    assert one.diagnostics["correction_norm"] == 1.0
    assert one.diagnostics["population"] == 4.0


def test_newcomers_begin_at_zero_in_the_mean_that_h_is() -> None:
    alice, nothing = update([1.0], samples=1, key=1), update([0.0], samples=1, key=1)
    feddyn = FedDyn(alpha=1.0)
    alone, joined = Setting(population=1), Setting(population=4, population_before=1)
    first = feddyn.apply(feddyn.init(alice.values), [alice], setting=alone)
    assert first.state["h"].tolist() == [-1.0]  # which is alice's own
    second = feddyn.apply(first.state, [nothing], setting=joined)
    assert second.state["h"].tolist() == [-0.25]  # hers and three times 0


def test_several_rounds_follow_the_paper() -> None:
    h = np.zeros(300)

    def formula(cohort: Sequence[Contribution]) -> Table:
        nonlocal h
        deltas = table(cohort)
        h = h - 0.03 / 12 * deltas.sum(axis=0)
        result: Table = deltas.mean(axis=0) - h / 0.03
        return result

    expect_formula(FedDyn(alpha=0.03), formula)


def test_it_comes_to_rest_where_the_sum_of_the_losses_does() -> None:
    """Participants of losses a_i/2 (w - b_i)² train to the end, as in the paper's analysis."""
    a, b = np.array([1.0, 3.0, 0.5, 2.0]), np.array([-1.0, 2.0, 4.0, 0.0])
    alpha, own = 0.5, np.zeros(4)
    strategy, base = FedDyn(alpha=alpha), np.zeros(1, np.float32)
    state = strategy.init(base)
    for _ in range(200):
        # The minimum of a/2 (w - b)² - h_i w + α/2 (w - w₀)².
        deltas = (a * b + own + alpha * base[0]) / (a + alpha) - base[0]
        own -= alpha * deltas
        given = [update([delta], samples=1, key=key) for key, delta in enumerate(deltas)]
        result = strategy.apply(state, given, setting=Setting(population=4))
        state = result.state
        base += result.delta
    np.testing.assert_allclose(base, [(a * b).sum() / a.sum()], rtol=1e-4)


def test_participants_are_told_the_strength() -> None:
    assert FedDyn(alpha=1).requires == {"dynamic_regularization": {"alpha": 1.0}}


def test_a_pull_that_pushes_away_is_refused() -> None:
    with pytest.raises(OptionError, match="alpha below 2 / learning_rate = 20") as refused:
        FedDyn(alpha=25).check(Setting(hyperparameters={"learning_rate": 0.1}))
    assert refused.value.field == "strategy_options.alpha"
