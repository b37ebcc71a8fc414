"""FedAvgM: the contract, two rounds by hand, and a transcription of the formula."""

from collections.abc import Sequence

import numpy as np

from rounds.aggregation import Contribution, FedAvg, Strategy
from rounds.aggregation.fedavgm import FedAvgM
from tests.rounds.aggregation.several import Table, expect_formula, mean, play, rounds
from tests.rounds.aggregation.strategy_contract import StrategyContract, update


class TestFedAvgMKeepsTheContract(StrategyContract):
    def strategy(self, *, threads: int | None = None) -> Strategy:
        return FedAvgM(threads=threads)


def test_two_rounds_by_hand() -> None:
    strategy = FedAvgM(server_learning_rate=0.5, server_momentum=0.75)
    first = [update([4.0], samples=1, key=1), update([8.0], samples=3, key=2)]
    second = [update([-1.0], samples=5, key=1)]
    one, two = play(strategy, [first, second])
    # The mean is (4 + 24) / 4 = 7, v = 0.75 * 0 + 7, and half of that is gone.
    assert one.delta.tolist() == [3.5]
    assert one.state["momentum"].tolist() == [7.0]
    # v = 0.75 * 7 - 1 = 4.25.
    assert two.delta.tolist() == [2.125]
    assert two.diagnostics["momentum_norm"] == 4.25


def test_without_momentum_it_is_the_mean() -> None:
    for cohort in rounds():
        (result,) = play(FedAvgM(server_momentum=0.0), [cohort])
        assert result.delta.tobytes() == FedAvg().apply({}, cohort).delta.tobytes()


def test_several_rounds_follow_the_paper() -> None:
    v = np.zeros(300)

    def formula(cohort: Sequence[Contribution]) -> Table:
        nonlocal v
        v = 0.9 * v + mean(cohort)
        return 0.7 * v

    expect_formula(FedAvgM(server_learning_rate=0.7, server_momentum=0.9), formula)
