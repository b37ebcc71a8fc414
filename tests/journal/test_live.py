"""Live events over real WebSockets and a real Valkey: every one once, and in order."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import redis
from asgiref.sync import sync_to_async
from django.conf import settings
from django.contrib.auth.models import User
from django.test import Client
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from journal import events
from journal.hub import Hub
from journal.models import Event
from journal.wish import Wish

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.timeout(60)]


def write(count: int = 1, **subjects: Any) -> None:
    with events.transaction() as journal:
        for number in range(count):
            journal.record("round.opened", **subjects, number=number)


awrite = sync_to_async(write)


@pytest.fixture
def cookie(db: None) -> str:
    """What the browser of victor, who may only look, sends along."""
    victor = User.objects.create_user("victor", password="victor's password")
    client = Client()
    client.force_login(victor)
    return f"{settings.SESSION_COOKIE_NAME}={client.cookies[settings.SESSION_COOKIE_NAME].value}"


@asynccontextmanager
async def page(
    server: str, cookie: str = "", origin: str | None = None
) -> AsyncIterator[ClientConnection]:
    url = server.replace("http", "ws") + "/ws/live/"
    headers = {"Cookie": cookie} if cookie else {}
    async with connect(url, additional_headers=headers, origin=origin or server) as socket:  # type: ignore[arg-type]
        yield socket


async def shown(socket: ClientConnection, count: int) -> list[dict[str, Any]]:
    """The next events, so many of them."""
    found: list[dict[str, Any]] = []
    while len(found) < count:
        frame = json.loads(await asyncio.wait_for(socket.recv(), 10))
        found += frame["events"]
    return found


async def caught_up(socket: ClientConnection) -> int:
    """Waits until the page knows all that there is; the cursor then."""
    frame = json.loads(await asyncio.wait_for(socket.recv(), 10))
    assert frame["events"] == []
    return int(frame["cursor"])


async def test_a_page_sees_what_was_before_it_came_and_then_what_happens(
    server: str, cookie: str
) -> None:
    await awrite(3)
    async with page(server, cookie) as socket:
        await socket.send('{"after": 0}')
        before = await shown(socket, 3)
        await awrite(2)
        after = await shown(socket, 2)
    ids = [one["id"] for one in before + after]
    assert ids == sorted(set(ids))
    assert after[0]["kind"] == "round.opened"
    assert after[0]["at"]


async def test_a_page_that_comes_back_with_its_cursor_misses_nothing_and_sees_nothing_twice(
    server: str, cookie: str
) -> None:
    async with page(server, cookie) as socket:
        await socket.send('{"after": 0}')
        await awrite(2)
        first = await shown(socket, 2)
    await awrite(700)  # more than a page of the journal, while it was away
    async with page(server, cookie) as socket:
        await socket.send(json.dumps({"after": first[-1]["id"]}))
        rest = await shown(socket, 700)
    assert len({one["id"] for one in first + rest}) == 702
    assert len(rest) == 700


async def test_a_page_about_one_round_hears_of_no_other(server: str, cookie: str) -> None:
    async with page(server, cookie) as socket:
        await socket.send('{"after": 0, "round": 7}')
        await caught_up(socket)
        for number in (6, 7, 8, 7):
            await awrite(1, round=number)
        assert [one["round"] for one in await shown(socket, 2)] == [7, 7]


async def test_announcements_that_come_out_of_order_are_shown_in_order(
    server: str, cookie: str
) -> None:
    await awrite(4)
    lines = [events.as_json(line) async for line in Event.objects.all()]
    await Event.objects.filter(id__gt=lines[0]["id"]).adelete()
    async with page(server, cookie) as socket:
        await socket.send(json.dumps({"after": lines[0]["id"]}))
        await caught_up(socket)
        for line in lines[1:]:
            fields = {name: value for name, value in line.items() if name != "data"}
            await Event.objects.acreate(**fields, data=line["data"])
        for line in reversed(lines[1:]):
            await sync_to_async(events.announce)([line])
        ids = [one["id"] for one in await shown(socket, 3)]
        assert ids == [one["id"] for one in lines[1:]]


async def test_progress_is_shown_as_it_comes_and_moves_no_cursor(server: str, cookie: str) -> None:
    async with page(server, cookie) as socket:
        await socket.send('{"after": 0}')
        await caught_up(socket)
        await sync_to_async(events.hint)("assignment.progress", round=1, name="alice", epoch=2)
        (progress,) = await shown(socket, 1)
        assert (progress["id"], progress["data"]["epoch"]) == (None, 2)


async def test_after_valkey_lost_its_connections_the_page_hears_everything(
    server: str, cookie: str
) -> None:
    async with page(server, cookie) as socket:
        await socket.send('{"after": 0}')
        await awrite(1)
        await shown(socket, 1)
        client = redis.Redis.from_url(settings.REDIS_URL)
        client.client_kill_filter(_type="pubsub")
        await awrite(1)
        assert len(await shown(socket, 1)) == 1


async def test_who_has_not_signed_in_is_shown_nothing(server: str) -> None:
    async with page(server) as socket:
        with pytest.raises(ConnectionClosed) as closed:
            await asyncio.wait_for(socket.recv(), 10)
        assert closed.value.rcvd
        assert closed.value.rcvd.code == 4401


async def test_another_sites_page_is_refused(server: str, cookie: str) -> None:
    with pytest.raises(InvalidStatus):
        async with page(server, cookie, origin="https://evil.example"):
            pass


@pytest.mark.parametrize(
    "said",
    [
        "",
        "[]",
        "{",
        '{"after": -1}',
        '{"after": "1"}',
        '{"colour": 1}',
        '{"round": true}',
        '{"kinds": "run."}',
        '{"kinds": ["run.exploded"]}',
        '{"kinds": [["run."]]}',
    ],
)
async def test_a_page_that_makes_no_sense_is_closed(server: str, cookie: str, said: str) -> None:
    async with page(server, cookie) as socket:
        await socket.send(said)
        with pytest.raises(ConnectionClosed) as closed:
            await asyncio.wait_for(socket.recv(), 10)
        assert closed.value.rcvd
        assert closed.value.rcvd.code == 4400


async def test_one_process_subscribes_once_however_many_wait(db: None, valkey: str) -> None:
    hub = Hub.of_this_loop()
    async with hub.subscribe(Wish()), hub.subscribe(Wish()), hub.subscribe(Wish()) as mailbox:
        await awrite(1)
        taken = await asyncio.wait_for(mailbox.take(), 10)
        assert taken is not None
        assert len(taken[0]) == 1
        client = redis.Redis.from_url(settings.REDIS_URL)
        assert client.pubsub_numsub(events.CHANNEL)[0][1] == 1
