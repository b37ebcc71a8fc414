"""A page's live part: drawn once for all who see the same, never older than what they heard."""

from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from frontend import page
from journal import events

pytestmark = pytest.mark.django_db

PATH = "/runs/"


def of(user: User | None) -> Client:
    client = Client()
    if user is not None:
        client.force_login(user)
    return client


def ask(client: Client, heard: int = 0, age: int = 60) -> Any:
    headers = {"Fedserver-Live": str(heard), "Cache-Control": f"max-age={age}"}
    return client.get(PATH, headers=headers)


def reads(client: Client, heard: int = 0, age: int = 60) -> int:
    """How often the tables of rounds and models are asked for it."""
    with CaptureQueriesContext(connection) as asked:
        assert ask(client, heard, age).status_code == 200
    return sum('FROM "rounds_' in one["sql"] for one in asked)


def write() -> int:
    with events.transaction() as journal:
        journal.record("run.retrying", failures=1, seconds=1)
    return events.head()


def test_the_live_part_alone_is_told_with_the_event_up_to_which_it_is_true(
    valkey: str, victor: User
) -> None:
    heard = write()
    answer = ask(of(victor), heard)
    assert answer["Fedserver-Live"] == str(heard)
    assert answer["Cache-Control"] == "no-store"
    assert b"<html" not in answer.content
    assert answer.content.decode().strip() in of(victor).get(PATH).content.decode()


def test_all_who_watch_in_the_same_role_are_one_drawing(
    valkey: str, victor: User, alice: User
) -> None:
    assert reads(of(victor)) > 0
    assert [reads(of(victor)) for _ in range(20)] == [0] * 20
    assert reads(of(alice)) > 0  # she may do more, and is shown more


def test_nobody_is_shown_a_state_older_than_what_they_heard(valkey: str, victor: User) -> None:
    client, before = of(victor), write()
    assert reads(client) > 0
    heard = write()
    assert reads(client, before) == 0
    assert reads(client, heard) > 0
    assert reads(client, heard) == 0


def test_time_passes_without_events(
    valkey: str, victor: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, clock = of(victor), page.time.time
    assert reads(client) > 0
    monkeypatch.setattr(page.time, "time", lambda: clock() + 11)
    assert reads(client, age=20) == 0
    assert reads(client, age=10) > 0


def test_without_redis_everybody_is_drawn_for(victor: User, settings: Any) -> None:
    gone = settings.CACHES["default"] | {"LOCATION": "unix:///nowhere/valkey.sock"}
    settings.CACHES = {"default": gone}
    assert reads(of(victor)) > 0
    assert reads(of(victor)) > 0


def test_who_is_not_signed_in_is_told_so_without_a_page() -> None:
    assert ask(of(None)).status_code == 401


@pytest.mark.parametrize("heard", ["", "-1", "x", "9" * 20, "²"])
def test_what_is_no_event_id_is_refused(victor: User, heard: str) -> None:
    assert of(victor).get(PATH, headers={"Fedserver-Live": heard}).status_code == 400
