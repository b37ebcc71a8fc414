"""What the hub is made of: mailboxes, the journal's tail, wishes."""

import asyncio
from typing import Any

import pytest

from journal import tail as tails
from journal.hub import Mailbox
from journal.tail import Tail
from journal.wish import Told, Wish


def told(pk: int | None, kind: str = "round.opened", **subjects: int) -> Told:
    return Told.of({"id": pk, "kind": kind, "data": {}} | subjects)


async def test_what_comes_together_is_taken_together() -> None:
    mailbox = Mailbox()
    mailbox.put("1,2", 2, 2, 0.0)
    mailbox.put("3", 1, 3, 0.0)
    assert await mailbox.take() == (["1,2", "3"], 3)


async def test_who_waits_is_woken() -> None:
    mailbox = Mailbox()
    waiting = asyncio.create_task(mailbox.take())
    await asyncio.sleep(0)
    mailbox.put("1", 1, 1, 0.0)
    assert await waiting == (["1"], 1)


async def test_a_reader_that_is_stuck_costs_nobody_else_and_begins_again() -> None:
    stuck, quick = Mailbox(size=3), Mailbox(size=3)
    for number in range(1000):
        for mailbox in (stuck, quick):
            mailbox.put("{}", 1, number, 0.0)
        assert await quick.take() == (["{}"], number)
        assert len(stuck._pieces) <= 3
    assert await stuck.take() is None
    stuck.put("{}", 1, 1000, 0.0)
    assert await stuck.take() == (["{}"], 1000)


async def test_that_there_is_nothing_new_is_news_as_well() -> None:
    mailbox = Mailbox()
    mailbox.put("", 0, 8, 0.0)
    assert await mailbox.take() == ([], 8)


def test_the_tail_tells_what_a_reader_has_yet_to_see() -> None:
    tail = Tail([told(pk, round=pk % 2) for pk in range(5, 10)], start=4)
    everything = tail.since(6, Wish(), 10)
    assert ([one.id for one in everything.lines], everything.cursor) == ([7, 8, 9], 9)
    odd = tail.since(4, Wish((("round", 1),)), 2)
    assert ([one.id for one in odd.lines], odd.cursor) == ([5, 7], 7)
    assert tail.since(9, Wish(), 10).cursor == 9


def test_the_tail_forgets_its_oldest_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tails, "SIZE", 3)
    tail = Tail([], start=0)
    for pk in range(1, 9):
        tail.extend([told(pk)])
    assert len(tail) <= 6
    assert tail.head == 8
    assert [one.id for one in tail.since(tail.start, Wish(), 10).lines] == list(
        range(tail.start + 1, 9)
    )


@pytest.mark.parametrize(
    ("asked", "taken"),
    [
        ({}, True),
        ({"round": 7}, True),
        ({"round": 7, "run": 1}, True),
        ({"round": 8}, False),
        ({"participant": 7}, False),
        ({"kinds": ["round."]}, True),
        ({"kinds": ["round.opened", "run."]}, True),
        ({"kinds": ["round.failed", "run."]}, False),
        ({"kinds": ["round."], "round": 8}, False),
    ],
)
def test_a_page_is_told_what_it_wishes(asked: dict[str, Any], taken: bool) -> None:
    assert Wish.of(asked).takes(told(1, round=7, run=1)) is taken


def test_passing_news_are_for_those_who_name_them() -> None:
    hint = told(None, "assignment.progress")
    assert Wish.of({}).takes(hint)
    assert Wish.of({"kinds": ["assignment.progress"]}).takes(hint)
    assert not Wish.of({"kinds": ["assignment."]}).takes(hint)


def test_what_no_encoding_takes_reaches_the_pages_all_the_same() -> None:
    one = Told.of({"id": 1, "kind": "run.paused", "reason": "half a pair: \ud83d", "data": {}})
    assert b"half a pair" in one.text.encode()
