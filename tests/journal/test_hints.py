"""Passing news: the first at once, then the latest twice a second, none of who has moved on."""

from typing import Any

import pytest

from journal.hints import KEPT, Hints
from journal.wish import Told, Wish


def progress(assignment: int, epoch: int) -> Told:
    document = {"id": None, "kind": "assignment.progress", "round": 7, "assignment": assignment}
    return Told.of(document | {"data": {"epoch": epoch}})


def line(kind: str, assignment: int) -> Told:
    return Told.of({"id": 1, "kind": kind, "assignment": assignment, "data": {}})


@pytest.fixture
def hints() -> Hints:
    return Hints()


def told(hints: Hints, *times: float) -> list[Any]:
    return [one.text.partition('"epoch":')[2][:-2] for now in times for one in hints.due(now)]


def test_the_first_is_told_at_once(hints: Hints) -> None:
    hints.put(progress(1, 1), now=100.0)
    assert hints.next_at() == 100.0
    assert told(hints, 100.0) == ["1"]


def test_of_a_burst_the_latest_is_told_half_a_second_later(hints: Hints) -> None:
    hints.put(progress(1, 1), now=100.0)
    assert told(hints, 100.0) == ["1"]
    for epoch in range(2, 9):
        hints.put(progress(1, epoch), now=100.0 + epoch / 100)
    assert told(hints, 100.1, 100.4) == []
    assert hints.next_at() == 100.5
    assert told(hints, 100.5, 101.0) == ["8"]
    assert hints.next_at() is None


def test_the_one_after_a_rest_is_told_at_once_again(hints: Hints) -> None:
    hints.put(progress(1, 1), now=100.0)
    hints.due(100.0)
    hints.put(progress(1, 2), now=109.0)
    assert told(hints, 109.0) == ["2"]


def test_who_is_handed_on_to_the_next_round_goes_on_telling(hints: Hints) -> None:
    hints.put(progress(1, 1), now=100.0)
    hints.put(progress(1, 2), now=100.1)
    hints.heed(line("assignment.carried", 1))
    assert told(hints, 100.6) == []  # the line has told all that was known
    hints.put(progress(1, 3), now=101.0)
    assert told(hints, 101.0) == ["3"]


def test_nobody_waits_for_another(hints: Hints) -> None:
    hints.put(progress(1, 1), now=100.0)
    hints.due(100.0)
    hints.put(progress(2, 5), now=100.1)
    assert told(hints, 100.1) == ["5"]


def test_a_steady_stream_is_told_twice_a_second(hints: Hints) -> None:
    count = 0
    for tick in range(400):
        hints.put(progress(1, tick), now=tick / 100)
        count += len(hints.due(tick / 100))
    assert count == 8


@pytest.mark.parametrize("kind", ["uploaded", "failed", "withdrawn", "lost", "late", "rejected"])
def test_of_who_has_moved_on_nothing_comes_any_more(hints: Hints, kind: str) -> None:
    hints.put(progress(1, 1), now=100.0)
    hints.put(progress(2, 1), now=100.0)
    hints.heed(line(f"assignment.{kind}", 1))
    hints.put(progress(1, 2), now=100.1)  # announced late
    assert [one.subjects["assignment"] for one in hints.due(101.0)] == [2]
    assert [one.subjects["assignment"] for one in hints.latest(Wish())] == [2]


@pytest.mark.parametrize("kind", ["invited", "training", "refused"])
def test_who_is_still_at_work_is_told_of(hints: Hints, kind: str) -> None:
    hints.put(progress(1, 1), now=100.0)
    hints.heed(line(f"assignment.{kind}", 1))
    assert len(hints.due(100.0)) == 1


def test_a_page_that_comes_is_told_the_latest_of_what_it_shows(hints: Hints) -> None:
    for epoch in (1, 2):
        hints.put(progress(1, epoch), now=100.0)
    hints.due(100.0)
    assert [one.text for one in hints.latest(Wish((("round", 7),)))] == [progress(1, 2).text]
    assert hints.latest(Wish((("round", 8),))) == []


def test_memory_is_bounded(hints: Hints) -> None:
    for assignment in range(KEPT + 10):
        hints.put(progress(assignment, 1), now=0.0)
        hints.heed(line("assignment.lost", 10**6 + assignment))
    assert len(hints.latest(Wish())) == KEPT
    assert len(hints._over) == KEPT
