"""Multi-Krum: the contract, a mean done by hand, a transcription, and what may be kept."""

import numpy as np
import pytest

from rounds.aggregation import Contribution, OptionError, Setting, Strategy
from rounds.aggregation.multi_krum import MultiKrum
from rounds.aggregation.walk import BLOCK
from tests.rounds.aggregation.strategy_contract import MeanContract, update
from tests.rounds.aggregation.test_krum import FIVE, sent, transcribed


class TestMultiKrumKeepsTheContract(MeanContract):
    least = 5

    def strategy(self, *, threads: int | None = None) -> Strategy:
        return MultiKrum(threads=threads)


def test_five_participants_by_hand() -> None:
    """Scores are 7.25, 3.25, 2.5, 4.25 and a large one (see Krum)."""
    result = MultiKrum(attackers=1, keep=3).apply({}, sent(FIVE))
    assert result.delta.tolist() == [np.float32((1 + 2.5 + 3) / 3)]
    assert result.diagnostics["selected"] == 3.0
    assert result.diagnostics["score_ratio"] == (97.0**2 + 97.5**2) / 4.25
    third = 1 / 3
    assert result.shares == {1: 0.0, 2: third, 3: third, 4: third, 5: 0.0}


def test_two_fewer_than_the_honest_are_kept_by_default() -> None:
    assert MultiKrum(attackers=1).apply({}, sent(FIVE)).delta.tolist() == [1.75]


def test_the_mean_is_by_heads_and_not_by_samples() -> None:
    given = [update(row, samples=10**key, key=key) for key, row in enumerate(FIVE)]
    assert MultiKrum(attackers=1, keep=2).apply({}, given).delta.tolist() == [1.75]


@pytest.mark.parametrize(("count", "attackers", "keep"), [(5, 1, 4), (9, 2, 5), (50, 10, 38)])
def test_it_takes_the_mean_of_the_lowest_of_the_papers_scores(
    count: int, attackers: int, keep: int
) -> None:
    random = np.random.default_rng(count)
    rows = random.standard_normal((count, BLOCK + 129), np.float32)
    given = [Contribution(row, 1, key) for key, row in enumerate(rows)]
    best = np.argsort(transcribed(given, attackers))[:keep]
    result = MultiKrum(attackers=attackers, keep=keep, threads=2).apply({}, given)
    mean = rows[best].mean(axis=0, dtype=np.float64)
    np.testing.assert_allclose(result.delta, mean, rtol=1e-6, atol=1e-14)
    assert {key for key, share in result.shares.items() if share} == set(best.tolist())


def test_more_than_the_honest_cannot_be_kept() -> None:
    MultiKrum(attackers=1, keep=4).check(Setting(quorum=5))
    with pytest.raises(OptionError, match=r"at most 4: .* Received: 5") as refused:
        MultiKrum(attackers=1, keep=5).check(Setting(quorum=5))
    assert refused.value.field == "strategy_options.keep"
    with pytest.raises(ValueError, match=r"at least 6 updates, to keep 5 .* Received: 5"):
        MultiKrum(attackers=1, keep=5).apply({}, sent(FIVE))


def test_a_quorum_that_attackers_could_outvote_is_refused() -> None:
    with pytest.raises(OptionError, match=r"at least 5: Multi-Krum .* Received: 2") as refused:
        MultiKrum().check(Setting(quorum=2))
    assert refused.value.field == "quorum"


@pytest.mark.parametrize("keep", [0, -1, 1.5, True, "2"])
def test_what_is_no_count_cannot_be_kept(keep: int) -> None:
    with pytest.raises(OptionError) as refused:
        MultiKrum(keep=keep)
    assert refused.value.field == "strategy_options.keep"
