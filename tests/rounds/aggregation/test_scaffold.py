"""SCAFFOLD: the contract, rounds by hand, and the whole algorithm with its participants."""

from typing import Any

import numpy as np
import pytest

from rounds.aggregation import Contribution, OptionError, Setting, Strategy
from rounds.aggregation.scaffold import Scaffold
from tests.rounds.aggregation.several import play
from tests.rounds.aggregation.strategy_contract import StrategyContract, update


class TestScaffoldKeepsTheContract(StrategyContract):
    def strategy(self, *, threads: int | None = None) -> Strategy:
        return Scaffold(threads=threads)


def test_two_rounds_by_hand() -> None:
    setting = Setting(hyperparameters={"learning_rate": 0.5}, population=4)
    alice = update([-4.0], samples=1, key=1, steps=2)
    bob = update([8.0], samples=900, key=2, steps=8)
    one, two = play(Scaffold(server_learning_rate=0.5), [[alice, bob], [alice]], setting)
    # Half of the mean over heads, (-4 + 8) / 2.
    assert one.delta.tolist() == [1.0]
    # c = 0 + 1/4 ((-0 + 4 / (2 * 0.5)) + (-0 - 8 / (8 * 0.5))) = 1/4 (4 - 2)
    assert one.state["control"].tolist() == [0.5]
    # c = 0.5 + 1/4 (-0.5 + 4 / (2 * 0.5))
    assert two.state["control"].tolist() == [1.375]
    assert two.delta.tolist() == [-2.0]
    assert two.diagnostics["control_norm"] == 1.375
    assert one.diagnostics["steps_mean"] == 5.0
    assert one.diagnostics["population"] == 4.0


def test_nobody_is_fewer_than_those_who_took_part() -> None:
    alice, bob = (update([-4.0], samples=1, key=key, steps=1) for key in (1, 2))
    nobody_counted = Setting(hyperparameters={"learning_rate": 1.0})
    (result,) = play(Scaffold(), [[alice, bob]], nobody_counted)
    # 1/2 (4 + 4), and not by 0 or 1.
    assert result.state["control"].tolist() == [4.0]


def test_newcomers_begin_at_zero_in_the_mean_that_c_is() -> None:
    alice = update([-4.0], samples=1, key=1, steps=2)
    alone = Setting(hyperparameters={"learning_rate": 1.0}, population=1)
    first = Scaffold().apply(Scaffold().init(alice.values), [alice], setting=alone)
    assert first.state["control"].tolist() == [2.0]  # 4 / (2 * 1), which is alice's own
    joined = Setting({"learning_rate": 1.0}, population=4, population_before=1)
    second = Scaffold().apply(first.state, [alice], setting=joined)
    # Alice's c_i⁺ = 2 - 2 + 4 / 2 = 2 once more, and three have 0: c = (2 + 0 + 0 + 0) / 4.
    assert second.state["control"].tolist() == [0.5]


def test_who_joins_in_the_middle_of_a_run_does_not_move_the_optimum() -> None:
    """Quadratic losses (w - b_i)² / 2: ten take part at first, and twenty in the end."""
    b = np.random.default_rng(1).standard_normal(20)
    rate, taken, before = 0.1, 5, 10
    state, w, own = Scaffold().init(np.zeros(1, np.float32)), 0.0, np.zeros(20)
    for number in range(300):
        everybody = 10 if number < 2 else 20
        c, sent = float(state["control"][0]), []
        for one in range(everybody):
            point = w
            for _ in range(taken):
                point -= rate * (point - b[one] + c - own[one])
            delta = np.array([point - w], np.float32)
            own[one] += -c - float(delta[0]) / (taken * rate)
            sent.append(Contribution(delta, 1, one, reports={"steps": taken}))
        setting = Setting({"learning_rate": rate}, everybody, population_before=before)
        result = Scaffold().apply(state, sent, setting=setting)
        state, w, before = result.state, w + float(result.delta[0]), everybody
    assert w == pytest.approx(b.mean(), abs=1e-5)
    assert float(state["control"][0]) == pytest.approx(own.mean(), abs=1e-5)


def test_control_variates_beyond_all_numbers_are_refused() -> None:
    alice = update([1e38], samples=1, key=1, steps=1)
    tiny = Setting(hyperparameters={"learning_rate": 0.01}, population=1)
    with pytest.raises(ValueError, match="finite control variates"):
        Scaffold().apply(Scaffold().init(alice.values), [alice], setting=tiny)


def test_the_server_knows_the_control_variates_that_participants_keep() -> None:
    """Algorithm 1 with option II as in the paper, participants and all, on quadratic losses.

    Participant i's loss is a_i/2 (w - b_i)². What it keeps, c_i, never reaches the server; c must
    still be the paper's, and the model go to the optimum of the sum, which FedAvg misses.
    """
    a, b = np.array([1.0, 3.0, 0.5, 2.0]), np.array([-1.0, 2.0, 4.0, 0.0])
    rate, steps, everybody = 0.05, [4, 20, 9, 1], range(4)
    setting = Setting(hyperparameters={"learning_rate": rate}, population=4)
    strategy = Scaffold()
    base = np.zeros(1, np.float32)
    state = strategy.init(base)
    w, c, own = 0.0, 0.0, np.zeros(4)
    random = np.random.default_rng(3)
    for _ in range(300):
        present = sorted(random.choice(4, size=3, replace=False))
        deltas, following = {}, own.copy()
        for i in present:
            y = w
            for _ in range(steps[i]):
                y -= rate * (a[i] * (y - b[i]) - own[i] + c)
            deltas[i] = y - w
            following[i] = own[i] - c + (w - y) / (steps[i] * rate)
        contributions = [
            Contribution(np.array([deltas[i]], np.float32), 5, key=i, reports={"steps": steps[i]})
            for i in present
        ]
        result = strategy.apply(state, contributions, setting=setting)
        state = result.state
        w += sum(deltas.values()) / 3
        c += sum(following[i] - own[i] for i in present) / len(everybody)
        own = following
        base += result.delta
        np.testing.assert_allclose(state["control"], [c], rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(base, [w], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(base, [(a * b).sum() / a.sum()], rtol=1e-3)


def test_one_round_follows_the_paper_to_a_millionth() -> None:
    from tests.rounds.aggregation.several import SETTING, rounds, table

    c = np.zeros(300, np.float32)
    for result, cohort in zip(play(Scaffold(), rounds()), rounds(), strict=True):
        deltas, steps = table(cohort), np.array([[one.reports["steps"]] for one in cohort])
        np.testing.assert_allclose(result.delta, deltas.mean(axis=0), rtol=1e-6)
        changes = -c.astype(np.float64) - deltas / (steps * 0.05)
        expected = c + changes.sum(axis=0) / SETTING.population
        np.testing.assert_allclose(result.state["control"], expected, rtol=1e-6)
        c = result.state["control"]


@pytest.mark.parametrize(
    ("hyperparameters", "field"),
    [
        ({"optimizer": "adam", "momentum": 0.0}, "hyperparameters.optimizer"),
        ({"optimizer": "sgd", "momentum": 0.9}, "hyperparameters.momentum"),
    ],
)
def test_anything_but_plain_sgd_is_refused(hyperparameters: dict[str, Any], field: str) -> None:
    with pytest.raises(OptionError, match="control variates are gradients") as refused:
        Scaffold().check(Setting(hyperparameters=hyperparameters))
    assert refused.value.field == field


def test_a_setting_without_a_learning_rate_is_an_error() -> None:
    with pytest.raises(ValueError, match="to tell a learning_rate"):
        play(Scaffold(), [[update([1.0], samples=1, key=1)]], Setting())
