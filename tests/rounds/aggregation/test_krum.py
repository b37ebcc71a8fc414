"""Krum: the contract, scores done by hand, a transcription, ties and attackers."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from rounds.aggregation import Contribution, OptionError, Setting, Strategy
from rounds.aggregation.krum import Krum
from rounds.aggregation.walk import BLOCK
from tests.rounds.aggregation.strategy_contract import MeanContract, cohort, update

FIVE = [[0.0], [1.0], [2.5], [3.0], [100.0]]


class TestKrumKeepsTheContract(MeanContract):
    least = 5

    def strategy(self, *, threads: int | None = None) -> Strategy:
        return Krum(threads=threads)


def sent(rows: list[list[float]]) -> list[Contribution]:
    return [update(row, samples=1, key=key) for key, row in enumerate(rows, start=1)]


def transcribed(contributions: list[Contribution], attackers: int) -> NDArray[np.float64]:
    """Each score as it stands in the paper, in float64, with no care for speed."""
    rows = [one.values.astype(np.float64) for one in contributions]
    near = len(rows) - attackers - 2
    scores = []
    for i, one in enumerate(rows):
        others = sorted(float(((one - row) ** 2).sum()) for j, row in enumerate(rows) if j != i)
        scores.append(sum(others[:near]))
    return np.array(scores)


def test_five_participants_by_hand() -> None:
    result = Krum(attackers=1).apply({}, sent(FIVE))
    # Each from its two neighbours: 1 + 6.25, 1 + 2.25, 0.25 + 2.25, 0.25 + 4, 97² + 97.5².
    assert result.delta.tolist() == [2.5]
    said = {"selected": 1.0, "excluded": 4.0, "score_ratio": (97.0**2 + 97.5**2) / 2.5}
    assert said.items() <= result.diagnostics.items()
    assert result.shares == {1: 0.0, 2: 0.0, 3: 1.0, 4: 0.0, 5: 0.0}


def test_more_attackers_leave_fewer_neighbours_to_count() -> None:
    rows = [[0.0], [5.0], [6.0], [7.0], [7.5], [20.0], [20.0]]
    # Three neighbours count: 6 has 1 + 1 + 2.25, and 7, the next, 0.25 + 1 + 4.
    assert Krum(attackers=2).apply({}, sent(rows)).delta.tolist() == [6.0]
    # Four: 5 has 1 + 4 + 6.25 + 25 = 36.25, and 6 has 4.25 + 36.
    assert Krum(attackers=1).apply({}, sent(rows)).delta.tolist() == [5.0]
    # Five: 7.5 has 0.25 + 2.25 + 6.25 + 56.25 + 156.25 = 221.25, and 7 has 5.25 + 49 + 169.
    assert Krum(attackers=0).apply({}, sent(rows)).delta.tolist() == [7.5]


def test_of_equal_scores_the_lowest_key_wins() -> None:
    rows = [[0.0], [1.0], [2.0]]
    assert Krum(attackers=0).apply({}, sent(rows)).delta.tolist() == [0.0]
    assert Krum(attackers=0).apply({}, sent(rows[::-1])).delta.tolist() == [2.0]


def test_updates_that_are_all_alike_have_no_ratio() -> None:
    result = Krum(attackers=1).apply({}, sent([[3.0, 4.0]] * 5))
    assert result.delta.tolist() == [3.0, 4.0]
    assert "score_ratio" not in result.diagnostics


def test_huge_attacks_do_not_overflow() -> None:
    rows = [[1.0] * 9, [1.25] * 9, [1.5] * 9, [1e38] * 9, [1e38] * 9, [1.0] * 9, [-3e38] * 9]
    result = Krum(attackers=2).apply({}, sent(rows))
    assert result.delta.tolist() == [1.25] * 9
    assert np.isfinite(result.diagnostics["score_ratio"])


@pytest.mark.parametrize(("count", "attackers"), [(3, 0), (5, 1), (9, 2), (9, 3), (50, 10)])
def test_it_takes_the_lowest_of_the_papers_scores(count: int, attackers: int) -> None:
    random = np.random.default_rng(count)
    rows = random.standard_normal((count, BLOCK + 129), np.float32)
    given = [Contribution(row, 1, key) for key, row in enumerate(rows)]
    best = int(transcribed(given, attackers).argmin())
    result = Krum(attackers=attackers, threads=2).apply({}, given)
    assert result.delta.tobytes() == given[best].values.tobytes()
    assert result.shares[best] == 1.0


wide = st.floats(width=32, allow_nan=False, allow_infinity=False)


@given(st.data(), st.integers(0, 4))
@settings(deadline=None)
def test_attackers_it_withstands_cannot_pull_it_from_honest_ones_that_agree(
    data: st.DataObject, attackers: int
) -> None:
    """Who is picked has a neighbour among the honest, and a score no higher than theirs."""
    honest = data.draw(st.lists(st.integers(-3, 3), min_size=attackers + 3, max_size=12))
    attacks = data.draw(st.lists(wide, min_size=attackers, max_size=attackers))
    rows = [[value] for value in [*attacks, *map(float, honest)]]
    (picked,) = Krum(attackers=attackers).apply({}, sent(rows)).delta
    farthest = (len(rows) - attackers - 2) ** 0.5 * (max(honest) - min(honest))
    assert min(honest) - farthest <= picked <= max(honest) + farthest


def test_a_quorum_that_attackers_could_outvote_is_refused() -> None:
    Krum(attackers=0).check(Setting(quorum=3))
    Krum(attackers=2).check(Setting(quorum=7))
    with pytest.raises(OptionError, match=r"at least 7: Krum .* f is 2\. Received: 6") as refused:
        Krum(attackers=2).check(Setting(quorum=6))
    assert refused.value.field == "quorum"


def test_a_round_of_too_few_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"at least 5 updates for Krum .* Received: 4"):
        Krum(attackers=1).apply({}, cohort(9, count=4))


@pytest.mark.parametrize("attackers", [-1, 1.5, True, "1"])
def test_attackers_that_are_no_count_are_refused(attackers: int) -> None:
    with pytest.raises(OptionError) as refused:
        Krum(attackers=attackers)
    assert refused.value.field == "strategy_options.attackers"
