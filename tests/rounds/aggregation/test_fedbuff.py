"""FedBuff: the contract, old updates by hand, and a transcription of the formula."""

from collections.abc import Sequence

import numpy as np

from rounds.aggregation import Contribution, FedAvg, Strategy
from rounds.aggregation.fedbuff import FedBuff
from tests.rounds.aggregation.several import Table, expect_formula, play, table
from tests.rounds.aggregation.strategy_contract import MeanContract, StrategyContract, update


class TestFedBuffKeepsTheContract(StrategyContract):
    def strategy(self, *, threads: int | None = None) -> Strategy:
        return FedBuff(threads=threads)


class TestWithoutRegardToAgeItIsAMean(MeanContract):
    def strategy(self, *, threads: int | None = None) -> Strategy:
        return FedBuff(staleness_exponent=0, threads=threads)


def test_old_updates_count_for_less_by_hand() -> None:
    alice = update([8.0], samples=1, key=1)
    bob = update([8.0], samples=3, key=2, staleness=3)
    (result,) = play(FedBuff(server_learning_rate=0.5), [[alice, bob]])
    # 1 / √(1 + 3) = 0.5: 0.5 * (1 * 8 + 3 * 0.5 * 8) / 4, and the step is not made up for.
    assert result.delta.tolist() == [2.5]
    assert result.diagnostics["staleness_mean"] == 1.5
    assert result.diagnostics["staleness_max"] == 3.0


def test_fresh_updates_make_it_fedavg() -> None:
    given = [update([float(key), 1.0], samples=1 + key, key=key) for key in range(9)]
    (result,) = play(FedBuff(), [given])
    np.testing.assert_allclose(result.delta, FedAvg().apply({}, given).delta, rtol=1e-6)


def test_several_buffers_follow_the_paper() -> None:
    def formula(cohort: Sequence[Contribution]) -> Table:
        age = np.array([one.staleness for one in cohort])
        samples = np.array([one.samples for one in cohort], np.float64)
        weights = samples / (1 + age) ** 0.3
        result: Table = 0.8 * weights @ table(cohort) / samples.sum()
        return result

    expect_formula(FedBuff(server_learning_rate=0.8, staleness_exponent=0.3), formula)


def test_it_is_for_asynchronous_runs() -> None:
    assert FedBuff.asynchronous
    assert not FedAvg.asynchronous
