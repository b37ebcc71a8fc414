"""Bulyan: the contract, a selection done by hand, a transcription, ties and attackers."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from rounds.aggregation import Contribution, OptionError, Setting, Strategy, ranks
from rounds.aggregation.bulyan import Bulyan
from rounds.aggregation.walk import BLOCK
from tests.rounds.aggregation.strategy_contract import MeanContract, cohort
from tests.rounds.aggregation.test_krum import sent, transcribed


class TestBulyanKeepsTheContract(MeanContract):
    least = 7

    def strategy(self, *, threads: int | None = None) -> Strategy:
        return Bulyan(threads=threads)


def around_median(rows: NDArray[np.float32], keep: int) -> NDArray[np.float64]:
    """The paper's second step, column by column, by its definitions of median and closest."""
    means = []
    for column in np.sort(rows.astype(np.float64), axis=0).T:
        median = column[(len(column) - 1) // 2]
        closest = sorted(column, key=lambda value: (abs(value - median), value))[:keep]
        means.append(np.mean(closest))
    return np.array(means)


def test_seven_participants_by_hand() -> None:
    result = Bulyan(attackers=1).apply({}, sent([[0], [3], [4], [8], [12], [14], [24]]))
    # Four neighbours of seven count: 8 has 16 + 16 + 25 + 36 = 93, the lowest. Of the six left
    # three do: 4 has 1 + 16 + 64 = 81. Then two: 12 has 4 + 81 = 85. Then one: 0 and 3 have 9,
    # and the lower key wins: 0. Then one: 14 and 24 have 100: 14.
    assert result.shares == {1: 0.2, 2: 0.0, 3: 0.2, 4: 0.2, 5: 0.2, 6: 0.2, 7: 0.0}
    # Of 0, 4, 8, 12, 14 the median is 8, and the three closest to it are 4, 8 and 12.
    assert result.delta.tolist() == [8.0]
    said = {"selected": 5.0, "excluded": 2.0, "cut": 2.0}
    assert said.items() <= result.diagnostics.items()


def test_without_attackers_it_is_the_plain_mean() -> None:
    assert Bulyan(attackers=0).apply({}, sent([[1], [2], [9]])).delta.tolist() == [4.0]


def test_each_weight_has_its_own_middle() -> None:
    """An attacker who changes one weight only is near to all, is selected, and is not heard."""
    honest = [[float(x), float(x % 3)] for x in range(10)]
    rows = [*honest, [5.0, 50.0]]
    result = Bulyan(attackers=2).apply({}, sent(rows))
    assert 0 <= result.delta[1] <= 2


def test_of_an_even_count_the_lower_middle_is_the_median() -> None:
    rows = [np.array([value], np.float32) for value in (0.0, 10.0, 12.0, 15.0)]
    # Around 10: 10, 12 and 15. Around 12, which would do as well: the same; two of them differ.
    assert ranks.mean_around_median(rows, 2)[0].tolist() == [11.0]
    assert ranks.mean_around_median(rows[::-1], 3)[0].tolist() == [np.float32(37 / 3)]


def test_of_two_values_equally_far_the_lower_is_closer() -> None:
    rows = [np.array([value], np.float32) for value in (1.0, 4.0, 7.0)]
    assert ranks.mean_around_median(rows, 2)[0].tolist() == [2.5]


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7, 12, 31, 60])
def test_any_count_and_any_number_kept_gives_the_mean_of_the_closest(count: int) -> None:
    random = np.random.default_rng(count)
    # Whole numbers: many are equal, and many equally far.
    rows = random.integers(-9, 9, (count, 300)).astype(np.float32)
    for keep in {1, min(2, count), count // 2 + 1, max(1, count - 2), count}:
        means, _ = ranks.mean_around_median(list(rows), keep)
        np.testing.assert_allclose(means, around_median(rows, keep), rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize(("count", "attackers"), [(7, 1), (12, 2), (50, 11)])
def test_it_selects_and_folds_as_the_paper_says(count: int, attackers: int) -> None:
    random = np.random.default_rng(count)
    rows = random.standard_normal((count, BLOCK // 8 + 129), np.float32)
    given = [Contribution(row, 1, key) for key, row in enumerate(rows)]
    left, picked = list(given), []
    for _ in range(count - 2 * attackers):
        scores = transcribed(left, min(attackers, max(0, len(left) - 3)))
        picked.append(left.pop(int(scores.argmin())))
    result = Bulyan(attackers=attackers, threads=2).apply({}, given)
    assert {key for key, share in result.shares.items() if share} == {one.key for one in picked}
    selected = np.stack([one.values for one in picked])
    expected = around_median(selected, count - 4 * attackers)
    np.testing.assert_allclose(result.delta, expected, rtol=1e-6, atol=1e-14)


values = st.floats(width=32, allow_nan=False, allow_infinity=False)


@given(st.data(), st.integers(1, 3))
@settings(deadline=None)
def test_attackers_it_withstands_cannot_move_it_out_of_the_range_of_the_honest(
    data: st.DataObject, attackers: int
) -> None:
    """Of the values around the median, one below and one above each attack is an honest one."""
    honest = data.draw(
        st.lists(st.integers(-3, 3).map(float), min_size=3 * attackers + 3, max_size=16)
    )
    attacks = data.draw(st.lists(values, min_size=attackers, max_size=attackers))
    result = Bulyan(attackers=attackers).apply({}, sent([[v] for v in [*attacks, *honest]]))
    reach = max(honest) - min(honest)
    assert min(honest) - reach <= result.delta[0] <= max(honest) + reach


def test_a_quorum_that_attackers_could_outvote_is_refused() -> None:
    Bulyan(attackers=1).check(Setting(quorum=7))
    with pytest.raises(OptionError, match=r"at least 7: Bulyan .* 4f \+ 3 .* Received: 6") as no:
        Bulyan(attackers=1).check(Setting(quorum=6))
    assert no.value.field == "quorum"


def test_a_round_of_too_few_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"at least 7 updates for Bulyan .* Received: 6"):
        Bulyan(attackers=1).apply({}, cohort(9, count=6))
