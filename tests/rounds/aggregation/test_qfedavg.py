"""q-FedAvg: the contract, sums by hand, and a transcription of algorithm 2."""

from collections.abc import Sequence

import numpy as np
import pytest

from rounds.aggregation import Contribution, OptionError, Setting, Strategy
from rounds.aggregation.qfedavg import QFedAvg
from tests.rounds.aggregation.several import SETTING, Table, expect_formula, play, table
from tests.rounds.aggregation.strategy_contract import MeanContract, StrategyContract, update


class TestQFedAvgKeepsTheContract(StrategyContract):
    def strategy(self, *, threads: int | None = None) -> Strategy:
        return QFedAvg(threads=threads)


class TestWithoutFairnessItIsAMean(MeanContract):
    def strategy(self, *, threads: int | None = None) -> Strategy:
        return QFedAvg(q=0, threads=threads)


def test_two_participants_by_hand() -> None:
    setting = Setting(hyperparameters={"learning_rate": 0.5})
    alice = update([3.0, 4.0], samples=1, key=1, initial_loss=2.0)
    bob = update([0.0, 1.0], samples=9, key=2, initial_loss=4.0)
    (result,) = play(QFedAvg(q=2), [[alice, bob]], setting)
    # L = 2. Alice: F² L Δ = 4 * 2 * (3, 4) = (24, 32), h = 2 * 2 * 100 + 2 * 4 = 408.
    # Bob: 16 * 2 * (0, 1) = (0, 32), h = 2 * 4 * 4 + 2 * 16 = 64.
    np.testing.assert_allclose(result.delta, [24 / 472, 64 / 472], rtol=1e-7)
    said = [result.diagnostics[f"loss_{name}"] for name in ("mean", "max", "min")]
    assert said == [3.0, 4.0, 2.0]


@pytest.mark.parametrize("q", [0.0, 0.1, 1.0, 5.0])
def test_it_follows_the_paper(q: float) -> None:
    def formula(cohort: Sequence[Contribution]) -> Table:
        losses = np.array([one.reports["initial_loss"] for one in cohort])
        changes = 20.0 * table(cohort)  # 1 / 0.05
        squares = (changes**2).sum(axis=1)
        steps = q * losses ** (q - 1) * squares + 20.0 * losses**q
        result: Table = losses**q @ changes / steps.sum()
        return result

    expect_formula(QFedAvg(q=q), formula)


def test_those_whom_the_model_serves_worst_count_most() -> None:
    alice = update([1.0, 0.0], samples=5, key=1, initial_loss=0.1)
    bob = update([0.0, 1.0], samples=5, key=2, initial_loss=2.0)
    (fair,) = play(QFedAvg(q=1), [[alice, bob]])
    assert fair.delta[1] == pytest.approx(20 * fair.delta[0])


def test_no_power_of_a_loss_leaves_the_numbers() -> None:
    for losses in ([1e-300, 1e-5], [1e300, 1.0], [0.0, 0.0]):
        given = [
            update([1.0], samples=1, key=key, initial_loss=loss) for key, loss in enumerate(losses)
        ]
        for q in (0.001, 1, 100):
            (result,) = play(QFedAvg(q=q), [given])
            assert 0 <= result.delta[0] <= 1


def test_anything_but_plain_sgd_is_refused() -> None:
    QFedAvg().check(SETTING)
    with pytest.raises(OptionError, match=r"1 / learning_rate\. Received: 'adam'") as refused:
        QFedAvg().check(Setting(hyperparameters={"optimizer": "adam"}))
    assert refused.value.field == "hyperparameters.optimizer"
