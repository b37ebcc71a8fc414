"""What a participant's rounds came to: by hand."""

from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest

from client_sdk import receipts
from rounds import attendance
from rounds.attendance import VOID, Attendance, durations, outcome, word
from rounds.models import Assignment

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)


def at(seconds: float) -> datetime:
    return NOON + timedelta(seconds=seconds)


@pytest.mark.parametrize(
    ("counts", "words"),
    [
        ({}, "in no round yet"),
        ({"training": 1}, "none has ended yet"),
        ({"accepted": 3, "training": 1}, "3 of 3 accepted"),
        ({"accepted": 8, "late": 1, "lost": 1, "invited": 1}, "8 of 10 accepted; 1 late, 1 lost"),
        ({"failed": 2, VOID: 3}, "0 of 2 accepted; 2 failed"),
    ],
)
def test_reliability_in_words(counts: dict[str, int], words: str) -> None:
    assert Attendance(counts).words == words


def test_a_round_that_came_to_nothing_is_a_round_and_says_nothing_of_reliability() -> None:
    seen = Attendance({"accepted": 1, "late": 1, VOID: 2})
    assert (seen.rounds, seen.ended, seen.void, seen.reliability) == (4, 2, 2, 0.5)
    assert Attendance({VOID: 2}).reliability is None


@pytest.mark.parametrize(
    ("state", "code", "round_code", "expected"),
    [
        ("rejected", "run_completed", "", VOID),
        ("late", "run_stopped", "", VOID),
        ("late", "round_cancelled", "cancelled", VOID),
        ("rejected", "round_failed", "quorum_not_met", VOID),
        ("late", "round_failed", "gate", VOID),
        ("late", "round_failed", "quorum_not_met", "late"),
        ("rejected", "bad_uploads", "", "rejected"),
        ("accepted", "", "", "accepted"),
        ("withdrawn", "run_completed", "", "withdrawn"),  # a code of the participant's own
    ],
)
def test_who_was_not_needed_in_the_end_is_not_at_fault(
    state: str, code: str, round_code: str, expected: str
) -> None:
    found = outcome(state, code, round_code)
    assert found == expected
    assert word(found) == ("not used" if expected == VOID else expected)


def test_the_client_says_the_same_of_its_own_updates() -> None:
    assert receipts.VOID_CODES == attendance.VOID_CODES
    for state in Assignment.State.values:
        for code in (*attendance.VOID_CODES, attendance.ROUND_FAILED, "bad_uploads", ""):
            assert receipts.verdict(state, code) == word(outcome(state, code))


def test_the_bar_is_a_hundred_wide_from_the_best_to_the_worst() -> None:
    bar = Attendance(Counter(failed=1, accepted=2, late=1, training=5)).bar
    assert bar == [("accepted", 2, 0.0, 50.0), ("late", 1, 50.0, 25.0), ("failed", 1, 75.0, 25.0)]
    assert Attendance({"training": 1}).bar == []


def test_the_share_is_of_the_same_models() -> None:
    assert Attendance({}, samples=30, all_samples=120).share == 0.25
    assert Attendance({}).share is None


@pytest.mark.parametrize(
    ("told", "more", "expected"),
    [
        ({"downloading": 0, "training": 2, "uploading": 12}, {"uploaded_at": at(15)}, (2, 10, 3)),
        ({"downloading": 0, "training": 2}, {"ended_at": at(7)}, (2, 5, None)),
        ({"downloading": 0}, {}, (None, None, None)),
        ({"downloading": 0, "uploading": 12}, {"uploaded_at": at(15)}, (None, None, 3)),
        ({}, {"training_at": at(1), "uploaded_at": at(5)}, (None, 4, None)),
        ({}, {}, (None, None, None)),
    ],
    ids=["all of it", "failed", "under way", "too fast to tell", "an old row", "nothing"],
)
def test_how_long_each_part_took(
    told: dict[str, float], more: dict[str, datetime], expected: tuple[float | None, ...]
) -> None:
    activities = {name: at(seconds).isoformat() for name, seconds in told.items()}
    assert durations(Assignment(activities=activities, **more)) == expected
