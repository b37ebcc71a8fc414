"""Only what the vocabulary knows is written, with the change that it tells of or not at all."""

from typing import Any

import pytest

from journal import events
from journal.models import Event


def record_and_fail() -> None:
    with events.transaction() as journal:
        journal.record("run.started", run=1)
        raise ZeroDivisionError


@pytest.mark.django_db
def test_a_line_is_written_with_the_transaction_it_tells_of() -> None:
    with events.transaction() as journal:
        journal.record("run.started", run=1, model=2, actor="bob", reason="it is time")
    line = Event.objects.get()
    assert (line.kind, line.run, line.model, line.actor) == ("run.started", 1, 2, "bob")
    assert line.at is not None


@pytest.mark.django_db
def test_a_transaction_that_fails_leaves_no_line() -> None:
    with pytest.raises(ZeroDivisionError):
        record_and_fail()
    assert not Event.objects.exists()


@pytest.mark.django_db
def test_an_inner_transaction_is_a_part_of_the_outer_one() -> None:
    with events.transaction() as outer:
        outer.record("run.created", run=1)
        with events.transaction() as inner:
            inner.record("run.started", run=1)
        assert inner is outer
        assert not Event.objects.exists()
    assert [line.kind for line in Event.objects.all()] == ["run.created", "run.started"]


@pytest.mark.django_db
def test_the_lines_of_an_inner_transaction_that_fails_are_gone_with_it() -> None:
    with events.transaction() as outer:
        outer.record("run.created", run=1)
        with pytest.raises(ZeroDivisionError):
            record_and_fail()
    assert [line.kind for line in Event.objects.all()] == ["run.created"]


@pytest.mark.parametrize(
    ("kind", "fields"),
    [("run.exploded", {}), ("run.started", {"colour": "blue"}), ("round.opened", {"name": "x"})],
)
def test_undeclared_events_are_refused(kind: str, fields: dict[str, Any]) -> None:
    with pytest.raises(events.UndeclaredEvent, match="Received: "):
        events.Journal().record(kind, **fields)


@pytest.mark.django_db
def test_a_reader_replays_from_its_cursor_narrowed_to_what_it_shows() -> None:
    with events.transaction() as journal:
        for number in (1, 2, 1):
            journal.record("round.opened", round=number, number=number)
    first, second, third = Event.objects.all()
    assert list(events.replay(first.id)) == [second, third]
    assert list(events.replay(0, round=1)) == [first, third]
