"""The trimmed mean: the contract, means done by hand, a transcription, SciPy's, and attackers."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import trim_mean  # type: ignore[import-untyped]

from rounds.aggregation import Contribution, OptionError, Setting, Strategy
from rounds.aggregation.trimmed_mean import TrimmedMean
from rounds.aggregation.walk import BLOCK
from tests.rounds.aggregation.strategy_contract import MeanContract, cohort, update


class TestTrimmedMeanKeepsTheContract(MeanContract):
    def strategy(self, *, threads: int | None = None) -> Strategy:
        return TrimmedMean(threads=threads)


def mean_of(*contributions: Contribution, trim: float = 0.2) -> list[float]:
    return TrimmedMean(trim=trim).apply({}, contributions).delta.tolist()


def transcribed(contributions: list[Contribution], cut: int) -> NDArray[np.float64]:
    """The mean of each column without its `cut` smallest and largest values, in float64."""
    rows = np.sort(np.stack([one.values for one in contributions]).astype(np.float64), axis=0)
    mean: NDArray[np.float64] = rows[cut : len(rows) - cut].mean(axis=0)
    return mean


def test_five_participants_by_hand() -> None:
    rows = [[1.0, 5.0], [2.0, -5.0], [3.0, 5.0], [7.0, 5.0], [-100.0, 8.0]]
    given = [update(row, samples=1, key=key) for key, row in enumerate(rows)]
    # Without -100 and 7: (1 + 2 + 3) / 3. Without -5 and 8: 5.
    assert mean_of(*given) == [2.0, 5.0]
    result = TrimmedMean().apply({}, given)
    assert result.diagnostics["cut"] == 1.0


def test_many_samples_give_nobody_a_louder_voice() -> None:
    rows = [1.0, 2.0, 3.0, 4.0, 1e30]
    given = [update([row], samples=10**key, key=key) for key, row in enumerate(rows)]
    assert mean_of(*given) == [3.0]


def test_what_is_left_of_a_fraction_is_rounded_down() -> None:
    rows = [[float(value)] for value in (0, 1, 2, 3, 4, 5, 60, 70, 80)]
    given = [update(row, samples=1, key=key) for key, row in enumerate(rows)]
    # 0.2 of 9 are 1.8, of which one is cut: (1 + 2 + 3 + 4 + 5 + 60 + 70) / 7.
    assert mean_of(*given) == [np.float32(145 / 7)]


def test_a_share_is_cut_as_it_is_written() -> None:
    """0.29 * 100 is 28.999999999999996."""
    rows = np.zeros((100, 1), np.float32)
    rows[:29] = 1e6
    given = [Contribution(row, 1, key) for key, row in enumerate(rows)]
    assert mean_of(*given, trim=0.29) == [0.0]


def test_the_largest_numbers_do_not_overflow() -> None:
    given = [update([1e30 * sign], samples=1, key=key) for key, sign in enumerate([-1, 1, 1, 1, 1])]
    assert mean_of(*given) == [np.float32(1e30)]


@pytest.mark.parametrize("count", range(1, 61))
def test_any_number_of_participants_gives_the_mean_of_the_sorted(count: int) -> None:
    given = cohort(300, count=count)
    mean = TrimmedMean(trim=0.1).apply({}, given).delta
    rows = np.stack([one.values for one in given]).astype(np.float64)
    # Of magnitudes this different, the order of a float64 sum is seen in its last digits.
    rounding = np.abs(rows).max(axis=0) * count / 2**50
    assert (np.abs(mean - transcribed(given, count // 10)) <= np.abs(mean) / 2**23 + rounding).all()
    assert (np.abs(mean - trim_mean(rows, 0.1)) <= np.abs(mean) / 2**23 + rounding).all()


@pytest.mark.parametrize("count", [5, 50, 200])
def test_blocks_have_no_seams(count: int) -> None:
    random = np.random.default_rng(count)
    rows = random.standard_normal((count, BLOCK + 129), np.float32)
    given = [Contribution(row, 1, key) for key, row in enumerate(rows)]
    mean = TrimmedMean(threads=2).apply({}, given).delta
    np.testing.assert_allclose(mean, transcribed(given, count // 5), rtol=1e-6, atol=1e-15)


values = st.floats(width=32, allow_nan=False, allow_infinity=False)


@given(st.data(), st.integers(1, 40), st.sampled_from([0.1, 0.2, 0.3, 0.45, 0.49]))
@settings(deadline=None)
def test_attackers_it_withstands_cannot_move_it_out_of_the_range_of_the_honest(
    data: st.DataObject, count: int, trim: float
) -> None:
    attackers = round(100 * trim) * count // 100
    honest = data.draw(st.lists(st.integers(-3, 3), min_size=count - attackers, max_size=count))
    honest = honest[: count - attackers]
    cohort = [*data.draw(st.lists(values, min_size=attackers, max_size=attackers)), *honest]
    mean = mean_of(*(update([v], samples=1, key=k) for k, v in enumerate(cohort)), trim=trim)
    assert min(honest) <= mean[0] <= max(honest)


@pytest.mark.parametrize("trim", [0.0, 0.5, -0.1, float("nan"), "0.1", True])
def test_a_share_that_leaves_nobody_or_cuts_nobody_is_refused(trim: float) -> None:
    with pytest.raises(OptionError) as refused:
        TrimmedMean(trim=trim)
    assert refused.value.field == "strategy_options.trim"


def test_a_quorum_of_which_nobody_would_be_cut_is_refused() -> None:
    TrimmedMean(trim=0.2).check(Setting(quorum=5))
    TrimmedMean(trim=0.1).check(Setting(quorum=10))
    with pytest.raises(OptionError, match=r"quorum of at least 5: .* Received: 4") as refused:
        TrimmedMean(trim=0.2).check(Setting(quorum=4))
    assert refused.value.field == "quorum"
