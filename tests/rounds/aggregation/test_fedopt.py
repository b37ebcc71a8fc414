"""FedAdagrad, FedAdam and FedYogi: the contract, rounds by hand, transcriptions of algorithm 2."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from rounds.aggregation import Contribution, Strategy
from rounds.aggregation.fedadagrad import FedAdagrad
from rounds.aggregation.fedadam import FedAdam
from rounds.aggregation.fedopt import FedOpt
from rounds.aggregation.fedyogi import FedYogi
from tests.rounds.aggregation.several import Table, expect_formula, mean, play
from tests.rounds.aggregation.strategy_contract import StrategyContract, update


class TestFedAdagradKeepsTheContract(StrategyContract):
    def strategy(self, *, threads: int | None = None) -> Strategy:
        return FedAdagrad(threads=threads)


class TestFedAdamKeepsTheContract(StrategyContract):
    def strategy(self, *, threads: int | None = None) -> Strategy:
        return FedAdam(threads=threads)


class TestFedYogiKeepsTheContract(StrategyContract):
    def strategy(self, *, threads: int | None = None) -> Strategy:
        return FedYogi(threads=threads)


ROUNDS = [[update([2.0], samples=3, key=1)], [update([1.0], samples=3, key=1)]]


def test_two_rounds_of_adagrad_by_hand() -> None:
    one, two = play(FedAdagrad(server_learning_rate=0.5, beta_1=0.5, tau=2.0), ROUNDS)
    # m = 0.5 * 0 + 0.5 * 2 = 1, v = 2² + 2² = 8: 0.5 * 1 / (√8 + 2).
    assert one.delta.tolist() == [np.float32(0.5 / (8**0.5 + 2))]
    # m = 0.5 * 1 + 0.5 * 1 = 1, v = 8 + 1 = 9: 0.5 * 1 / (3 + 2).
    assert two.delta.tolist() == [np.float32(0.1)]


def test_two_rounds_of_adam_by_hand() -> None:
    strategy = FedAdam(server_learning_rate=0.5, beta_1=0.75, beta_2=0.25, tau=4.0)
    one, two = play(strategy, ROUNDS)
    # m = 0.25 * 2 = 0.5, v = 0.25 * 16 + 0.75 * 4 = 7: 0.5 * 0.5 / (√7 + 4).
    assert one.delta.tolist() == [np.float32(0.25 / (7**0.5 + 4))]
    # m = 0.75 * 0.5 + 0.25 * 1 = 0.625, v = 0.25 * 7 + 0.75 * 1 = 2.5.
    assert two.delta.tolist() == [np.float32(0.3125 / (2.5**0.5 + 4))]
    assert two.state["m"].tolist() == [0.625]
    assert two.state["v"].tolist() == [2.5]
    assert two.diagnostics["momentum_norm"] == 0.625


def test_two_rounds_of_yogi_by_hand() -> None:
    strategy = FedYogi(server_learning_rate=1.0, beta_1=0.0, beta_2=0.75, tau=1.0)
    one, two = play(strategy, ROUNDS)
    # v = 1 - 0.25 * 4 * sign(1 - 4) = 2, so that v grows: 2 / (√2 + 1).
    assert one.delta.tolist() == [np.float32(2 / (2**0.5 + 1))]
    # v = 2 - 0.25 * 1 * sign(2 - 1) = 1.75, so that it shrinks.
    assert two.state["v"].tolist() == [1.75]


def test_a_weight_that_nobody_changes_stays() -> None:
    for strategy in (FedAdagrad(), FedAdam(), FedYogi()):
        (result,) = play(strategy, [[update([0.0, 1.0], samples=3, key=1)]])
        assert result.delta[0] == 0.0
        assert result.delta[1] > 0.0


def test_a_weight_goes_about_as_far_as_the_learning_rate_says() -> None:
    """Whatever the scale of the updates: that is what these are for."""
    for scale in (0.1, 1e3, 1e6):
        cohorts = [[update([scale, -scale / 7], samples=3, key=1)]] * 500
        *_, last = play(FedAdam(server_learning_rate=0.01), cohorts)
        np.testing.assert_allclose(last.delta, [0.01, -0.01], rtol=0.1)


def adagrad(v: Table, mean: Table) -> Table:
    return v + mean**2


def adam(v: Table, mean: Table) -> Table:
    result: Table = 0.95 * v + (1 - 0.95) * mean**2
    return result


def yogi(v: Table, mean: Table) -> Table:
    result: Table = v - (1 - 0.95) * mean**2 * np.sign(v - mean**2)
    return result


@pytest.mark.parametrize(
    ("strategy", "spread"),
    [
        (FedAdagrad(server_learning_rate=0.1, beta_1=0.8, tau=0.01), adagrad),
        (FedAdam(server_learning_rate=0.1, beta_1=0.8, beta_2=0.95, tau=0.01), adam),
        (FedYogi(server_learning_rate=0.1, beta_1=0.8, beta_2=0.95, tau=0.01), yogi),
    ],
    ids=["adagrad", "adam", "yogi"],
)
def test_several_rounds_follow_algorithm_2(
    strategy: FedOpt, spread: Callable[[Table, Table], Table]
) -> None:
    m, v = np.zeros(300), np.full(300, 0.01**2)

    def formula(cohort: Sequence[Contribution]) -> Table:
        nonlocal m, v
        change = mean(cohort)
        m = 0.8 * m + (1 - 0.8) * change
        v = spread(v, change)
        return 0.1 * m / (np.sqrt(v) + 0.01)

    expect_formula(strategy, formula)
