"""FedNova: the contract, steps by hand, and transcriptions with and without momentum."""

from collections.abc import Sequence

import numpy as np
import pytest

from rounds.aggregation import Contribution, FedAvg, OptionError, Setting, Strategy
from rounds.aggregation.fednova import FedNova, accumulated
from tests.rounds.aggregation.several import Table, expect_formula, play, table
from tests.rounds.aggregation.strategy_contract import MeanContract, cohort, update


class TestFedNovaKeepsTheContract(MeanContract):
    """Of contributions with the same steps it is a mean: the contract's have."""

    def strategy(self, *, threads: int | None = None) -> Strategy:
        return FedNova(threads=threads)


def test_uneven_steps_by_hand() -> None:
    alice = update([3.0], samples=1, key=1, steps=1)
    bob = update([10.0], samples=3, key=2, steps=5)
    (result,) = play(FedNova(), [[alice, bob]])
    # By step 3 and 2, whose mean is 0.25 * 3 + 0.75 * 2; and 0.25 * 1 + 0.75 * 5 steps of it.
    assert result.delta.tolist() == [2.25 * 4.0]
    assert result.diagnostics["effective_steps"] == 4.0
    assert (result.diagnostics["steps_min"], result.diagnostics["steps_max"]) == (1.0, 5.0)


def test_with_equal_steps_it_is_fedavg() -> None:
    given = [update(one.values, samples=one.samples, key=one.key) for one in cohort(99)]
    fedavg = FedAvg().apply({}, given).delta
    np.testing.assert_allclose(FedNova().apply({}, given).delta, fedavg, rtol=1e-6)


@pytest.mark.parametrize("steps", [1, 2, 7, 500])
@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9, 0.99])
def test_how_often_gradients_enter_is_counted_as_momentum_does(steps: int, momentum: float) -> None:
    """A gradient of 1 in each step, and a learning rate of 1: the way is the number."""
    velocity = way = 0.0
    for _ in range(steps):
        velocity = momentum * velocity + 1.0
        way += velocity
    assert accumulated(steps, momentum) == pytest.approx(way, rel=1e-9)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_several_rounds_follow_the_paper(momentum: float) -> None:
    def formula(cohort: Sequence[Contribution]) -> Table:
        steps = np.array([one.reports["steps"] for one in cohort])
        share = np.array([one.samples for one in cohort], np.float64)
        share /= share.sum()
        norm = (steps - momentum * (1 - momentum**steps) / (1 - momentum)) / (1 - momentum)
        directions = table(cohort) / norm[:, None]
        result: Table = (share * norm).sum() * (share @ directions)
        return result

    setting = Setting(hyperparameters={"learning_rate": 0.05, "momentum": momentum})
    expect_formula(FedNova(), formula, setting)


def test_steps_of_other_optimizers_are_refused() -> None:
    FedNova().check(Setting(hyperparameters={"optimizer": "sgd", "momentum": 0.9}))
    with pytest.raises(OptionError, match="is known of SGD") as refused:
        FedNova().check(Setting(hyperparameters={"optimizer": "adamw"}))
    assert refused.value.field == "hyperparameters.optimizer"
