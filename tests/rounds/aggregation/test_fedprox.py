"""FedProx and FedBN: the contract, and that on the server they are FedAvg."""

import pytest

from rounds.aggregation import FedAvg, OptionError, Setting, Strategy
from rounds.aggregation.fedbn import FedBN
from rounds.aggregation.fedprox import FedProx
from tests.rounds.aggregation.strategy_contract import MeanContract, cohort, same, update


class TestFedProxKeepsTheContract(MeanContract):
    def strategy(self, *, threads: int | None = None) -> Strategy:
        return FedProx(threads=threads)


class TestFedBNKeepsTheContract(MeanContract):
    def strategy(self, *, threads: int | None = None) -> Strategy:
        return FedBN(threads=threads)


def test_participants_are_told_the_strength_of_the_pull() -> None:
    assert FedProx(mu=1).requires == {"proximal": {"mu": 1.0}}
    assert FedBN().requires == {}


def test_those_who_did_less_work_are_folded_as_they_are() -> None:
    alice = update([1.0], samples=100, key=1, steps=50)
    bob = update([5.0], samples=300, key=2, steps=1)
    # (100 * 1 + 300 * 5) / 400
    assert FedProx(mu=0.1).apply({}, [alice, bob]).delta.tolist() == [4.0]


def test_on_the_server_they_are_fedavg() -> None:
    for strategy in (FedProx(mu=0.5), FedBN()):
        assert same(strategy.apply({}, cohort(99)), FedAvg().apply({}, cohort(99)))


def test_a_pull_that_pushes_away_is_refused() -> None:
    setting = Setting(hyperparameters={"learning_rate": 0.5, "optimizer": "sgd"})
    FedProx(mu=3.9).check(setting)
    with pytest.raises(OptionError, match=r"mu below 2 / learning_rate = 4.* Received: 4") as no:
        FedProx(mu=4).check(setting)
    assert no.value.field == "strategy_options.mu"
    FedProx(mu=4).check(Setting(hyperparameters={"learning_rate": 0.5, "optimizer": "adam"}))
