"""What every strategy must do, whatever it makes of the updates."""

import json
import math
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import ArrayLike, NDArray

from client_sdk import wire
from rounds.aggregation import (
    FAMILIES,
    Contribution,
    OptionError,
    Result,
    Setting,
    State,
    Strategy,
)
from rounds.aggregation.walk import BLOCK

SIZES = [1, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 7]
"""Where blocks begin and end: for kernels, each of which serves several strategies."""
SEAMS = [1, BLOCK, 3 * BLOCK + 7]
"""The same for strategies: a block that is not full, one that is, and several with a rest."""

# What each capability makes a participant tell, and where it is wrong.
TOLD = {"report_steps": "steps", "report_initial_loss": "initial_loss"}
CAPABILITIES = {"proximal", "control_variates", "dynamic_regularization", *TOLD}


def update(
    values: ArrayLike,
    *,
    samples: int,
    key: int,
    steps: int = 4,
    initial_loss: float = 2.0,
    staleness: int = 0,
) -> Contribution:
    return Contribution(
        np.array(values, np.float32),
        samples,
        key,
        staleness,
        {"steps": float(steps), "initial_loss": initial_loss},
    )


def cohort(size: int, *, count: int = 7) -> list[Contribution]:
    """Updates of many magnitudes, so that another order of summation gives other sums."""
    random = np.random.default_rng(size)
    scales = 10.0 ** random.integers(-12, 12, size=(count, size))
    rows = (random.standard_normal((count, size)) * scales).astype(np.float32)
    return [
        Contribution(
            row,
            samples=11 + 7 * key,
            key=key,
            staleness=key % 3,
            reports={"steps": 3.0 + key % 4, "initial_loss": 0.3 + 0.7 * key},
        )
        for key, row in enumerate(rows)
    ]


def on_disk(folder: Path, contributions: Sequence[Contribution]) -> list[Contribution]:
    """The same updates as read-only maps of files, beginning where a header would end."""
    mapped = []
    for one in contributions:
        path = folder / f"{one.key}.update"
        path.write_bytes(bytes(64) + one.values.tobytes())
        values = np.memmap(path, np.float32, mode="r", offset=64)
        mapped.append(replace(one, values=values))
    return mapped


def same(one: Result, other: Result) -> bool:
    """To the last bit, state and diagnostics included."""
    return (
        one.delta.tobytes() == other.delta.tobytes()
        and one.diagnostics == other.diagnostics
        and one.state.keys() == other.state.keys()
        and one.shares == other.shares
        and all(one.state[key].tobytes() == other.state[key].tobytes() for key in one.state)
    )


def stored(state: State, fresh: State, path: Path) -> State:
    """What a later round reads of a state: `fresh` says what is looked for."""
    if not state:
        return fresh
    wire.dump(path, dict(state))
    return wire.open_tensors(path, [wire.TensorSpec.of(*item) for item in fresh.items()])


class StrategyContract:
    """What holds for every strategy. Inherit, say how the strategy is made, and pass.

    Attributes:
        least: fewest contributions that the strategy folds.
        setting: the run that it folds for.
    """

    least: int = 1
    setting: Setting = Setting(
        hyperparameters={"learning_rate": 0.125, "optimizer": "sgd", "momentum": 0.0},
        population=10,
        quorum=7,
    )

    def strategy(self, *, threads: int | None = None) -> Strategy:
        raise NotImplementedError

    def fold(self, contributions: Sequence[Contribution], *, threads: int | None = None) -> Result:
        strategy = self.strategy(threads=threads)
        size = contributions[0].values.size if contributions else 1
        state = strategy.init(np.zeros(size, np.float32))
        return strategy.apply(state, contributions, setting=self.setting)

    def test_it_says_what_it_is(self) -> None:
        strategy = self.strategy()
        assert strategy.title
        assert strategy.about.endswith(".")
        assert strategy.paper
        assert strategy.family in FAMILIES
        for option in fields(strategy):  # type: ignore[arg-type]
            assert option.name == "threads" or option.metadata["help"].endswith("."), option.name

    def test_an_option_out_of_its_range_is_an_error_of_its_own_field(self) -> None:
        strategy = self.strategy()
        for option in fields(strategy):  # type: ignore[arg-type]
            if "least" in option.metadata:
                limits = option.metadata["least"], option.metadata["most"]
                for wrong in (limits[0] - 1, limits[1] + 1, math.nan, True, "1"):
                    with pytest.raises(OptionError, match=r"Expected a .*number ") as refused:
                        replace(strategy, **{option.name: wrong})  # type: ignore[type-var]
                    assert refused.value.field == f"strategy_options.{option.name}"

    def test_what_it_requires_is_known_and_can_travel(self) -> None:
        requires = self.strategy().requires
        assert requires.keys() <= CAPABILITIES
        assert json.loads(json.dumps(dict(requires))) == requires
        assert all(type(value) is float for one in requires.values() for value in one.values())

    def test_it_accepts_the_setting_that_it_is_tested_in(self) -> None:
        self.strategy().check(self.setting)

    def test_a_report_that_it_requires_and_lacks_is_an_error(self) -> None:
        alice, *others = cohort(5, count=max(2, self.least))
        for capability in self.strategy().requires.keys() & TOLD.keys():
            told = {name: 1.0 for name in TOLD.values() if name != TOLD[capability]}
            silent = replace(alice, reports=told)
            with pytest.raises(ValueError, match=f"report of {TOLD[capability]} with each"):
                self.fold([silent, *others])

    def test_its_state_is_the_same_when_it_was_stored_between_rounds(self, tmp_path: Path) -> None:
        strategy, size = self.strategy(), BLOCK + 3
        fresh = strategy.init(np.zeros(size, np.float32))
        kept = read = fresh
        for number in range(3):
            given = cohort(size, count=max(7, self.least + 2))[number:]
            result = strategy.apply(kept, given, setting=self.setting)
            assert same(strategy.apply(read, given, setting=self.setting), result)
            assert {name: (array.shape, array.dtype) for name, array in result.state.items()} == {
                name: (array.shape, array.dtype) for name, array in fresh.items()
            }
            kept, read = result.state, stored(result.state, fresh, tmp_path / str(number))

    def test_its_state_outlives_the_delta(self) -> None:
        """A worker adds the base to it in place, and uses it again for the next round."""
        result = self.fold(cohort(BLOCK + 1))
        assert not any(np.shares_memory(result.delta, one) for one in result.state.values())

    @pytest.mark.parametrize("size", SEAMS)
    def test_the_delta_goes_where_it_is_wanted_with_the_same_bits(self, size: int) -> None:
        given, out = cohort(size), np.full(size, np.nan, np.float32)
        strategy = self.strategy()
        state = strategy.init(np.zeros(size, np.float32))
        result = strategy.apply(state, given, setting=self.setting, out=out)
        assert result.delta is out
        assert same(result, strategy.apply(state, given, setting=self.setting))

    def test_an_output_that_does_not_fit_is_an_error(self) -> None:
        wrong: list[Any] = [np.empty(3, np.float32), np.empty(2), np.empty(4, np.float32)[::2]]
        strategy = self.strategy()
        state = strategy.init(np.zeros(2, np.float32))
        for out in wrong:
            with pytest.raises(ValueError, match=r"output of shape \(2,\)"):
                strategy.apply(state, cohort(2), setting=self.setting, out=out)

    @pytest.mark.parametrize("size", SEAMS)
    def test_any_number_of_threads_gives_the_same_bits(self, size: int) -> None:
        given = cohort(size)
        alone = self.fold(given, threads=1)
        assert all(same(self.fold(given, threads=threads), alone) for threads in (2, 3, 8))

    def test_the_order_is_that_of_the_keys_whoever_comes_first(self) -> None:
        given = cohort(500)
        assert same(self.fold(given[::-1]), self.fold(given))
        assert same(self.fold([*given[3:], *given[:3]]), self.fold(given))

    @pytest.mark.parametrize("size", SEAMS)
    def test_a_memory_map_is_as_good_as_an_array(self, size: int, tmp_path: Path) -> None:
        given = cohort(size)
        assert same(self.fold(on_disk(tmp_path, given)), self.fold(given))

    def test_updates_are_only_read(self) -> None:
        given = cohort(BLOCK + 1)
        before = [one.values.tobytes() for one in given]
        for one in given:
            one.values.setflags(write=False)
        delta = self.fold(given).delta
        assert [one.values.tobytes() for one in given] == before
        assert not any(np.shares_memory(delta, one.values) for one in given)

    def test_state_is_not_written_either(self) -> None:
        strategy, given = self.strategy(), cohort(50)
        state = strategy.init(np.ones(50, np.float32))
        before = {name: array.tobytes() for name, array in state.items()}
        first = strategy.apply(state, given, setting=self.setting)
        assert {name: array.tobytes() for name, array in state.items()} == before
        assert same(strategy.apply(state, given, setting=self.setting), first)

    def test_nobody_is_an_error(self) -> None:
        with pytest.raises(ValueError, match=r"at least one contribution\. Received: none"):
            self.fold([])

    def test_no_samples_at_all_are_an_error(self) -> None:
        alice, bob = update([1.0], samples=0, key=1), update([2.0], samples=0, key=2)
        with pytest.raises(ValueError, match=r"at least one sample in all\. Received: 0"):
            self.fold([alice, bob])

    def test_fewer_than_no_samples_are_an_error(self) -> None:
        alice, bob = update([1.0], samples=9, key=1), update([2.0], samples=-1, key=2)
        with pytest.raises(ValueError, match=r"samples from contribution 2\. Received: -1"):
            self.fold([alice, bob])

    def test_nobody_counts_twice(self) -> None:
        alice = update([1.0], samples=9, key=4)
        with pytest.raises(ValueError, match=r"each key once\. Received: 4 twice"):
            self.fold([alice, alice])

    @pytest.mark.parametrize(
        "values",
        [
            np.zeros(3, np.float32),
            np.zeros((2, 1), np.float32),
            np.zeros(2, np.float64),
            np.zeros(2, np.int32),
            np.zeros(2, ">f4"),
            np.zeros(4, np.float32)[::2],
            np.frombuffer(bytes(9), np.float32, count=2, offset=1),
        ],
        ids=["longer", "table", "float64", "integers", "big-endian", "strided", "misaligned"],
    )
    def test_an_update_of_another_make_is_an_error(self, values: NDArray[np.float32]) -> None:
        alice, bob = update([1.0, 2.0], samples=1, key=1), Contribution(values, 1, key=2)
        with pytest.raises(ValueError, match=r"from contribution 2\. Received: "):
            self.fold([alice, bob])

    @pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf])
    def test_a_result_that_is_not_finite_is_an_error(self, poison: float) -> None:
        alice, bob, *others = cohort(BLOCK + 1, count=max(2, self.least))
        bob.values[-1] = poison
        with pytest.raises(ValueError, match="finite"):
            self.fold([alice, bob, *others])

    def test_the_diagnostics_say_who_took_part_and_how_far_it_went(self) -> None:
        given = cohort(BLOCK + 1)
        result = self.fold(given)
        samples = float(sum(one.samples for one in given))
        expected = {"participants": float(len(given)), "samples": samples}
        assert expected.items() <= result.diagnostics.items()
        norm = np.linalg.norm(result.delta.astype(np.float64))
        assert result.diagnostics["delta_norm"] == pytest.approx(norm)
        assert all(type(value) is float for value in result.diagnostics.values())
        json.dumps(result.diagnostics, allow_nan=False)

    def test_shares_are_of_a_whole(self) -> None:
        if shares := self.fold(cohort(5)).shares:
            assert sum(shares.values()) == pytest.approx(1.0)
            assert shares.keys() == {one.key for one in cohort(5)}


class MeanContract(StrategyContract):
    """What holds besides for strategies whose delta lies among the updates, as means do.

    Not for server optimizers, which have their own length of step; nor for what extrapolates
    (FedDyn), makes steps smaller (q-FedAvg, stale updates) or cuts.
    """

    @pytest.mark.parametrize("size", SEAMS)
    def test_one_participant_returns_its_own_update(self, size: int) -> None:
        """Or as few as the strategy takes, who all send the same."""
        (alice,) = cohort(size, count=1)
        alike = [replace(alice, key=key) for key in range(self.least)]
        assert self.fold(alike).delta.tobytes() == alice.values.tobytes()

    @pytest.mark.parametrize("size", SEAMS)
    def test_constant_updates_give_the_constant(self, size: int) -> None:
        values = np.resize(np.array([0.1, -3.5e-30, 7.7e30], np.float32), size)
        counts = [3, 1, 10**9, *[5] * (self.least - 3)]
        given = [update(values, samples=count, key=key) for key, count in enumerate(counts)]
        assert self.fold(given).delta.tobytes() == values.tobytes()

    def test_it_goes_as_far_as_all_do(self) -> None:
        alice, bob = update([3.0, 4.0], samples=2, key=1), update([3.0, 4.0], samples=5, key=2)
        others = [update([3.0, 4.0], samples=0, key=key) for key in range(3, self.least + 1)]
        diagnostics = self.fold([alice, bob, *others]).diagnostics
        participants = float(max(2, self.least))
        expected = {"participants": participants, "samples": 7.0, "delta_norm": 5.0}
        assert expected.items() <= diagnostics.items()
