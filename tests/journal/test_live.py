"""Live events over real WebSockets and a real Valkey: every one once, and in order."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager, suppress
from typing import Any

import pytest
import redis
from asgiref.sync import sync_to_async
from django.conf import settings
from django.contrib.auth.models import User
from django.contrib.sessions.models import Session
from django.test import Client
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from accounts.models import PersonalToken
from journal import consumers, doorkeeper, events
from journal import hub as hubs
from journal.hub import Hub
from journal.models import Event
from journal.wish import Wish

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.timeout(60)]


def write(count: int = 1, **subjects: Any) -> None:
    with events.transaction() as journal:
        for number in range(count):
            journal.record("round.opened", **subjects, number=number)


def write_kind(kind: str, **subjects: Any) -> None:
    with events.transaction() as journal:
        journal.record(kind, **subjects)


def progress(assignment: int, epoch: int) -> None:
    events.hint("assignment.progress", round=1, assignment=assignment, epoch=epoch)


def cookie_of(name: str) -> str:
    """What the browser of somebody who may only look sends along."""
    client = Client()
    client.force_login(User.objects.create_user(name))
    return f"{settings.SESSION_COOKIE_NAME}={client.cookies[settings.SESSION_COOKIE_NAME].value}"


def token_of(name: str) -> tuple[PersonalToken, str]:
    """What a script of somebody who may only look shows."""
    return PersonalToken.objects.issue(User.objects.create_user(name), "a notebook")


awrite, awrite_kind = sync_to_async(write), sync_to_async(write_kind)
aprogress, acookie = sync_to_async(progress), sync_to_async(cookie_of)


@pytest.fixture
def cookie(db: None) -> str:
    return cookie_of("victor")


@asynccontextmanager
async def page(
    server: str,
    cookie: str = "",
    origin: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> AsyncIterator[ClientConnection]:
    url = server.replace("http", "ws") + "/ws/live/"
    headers = headers or ({"Cookie": cookie} if cookie else {})
    async with connect(url, additional_headers=headers, origin=origin or server) as socket:  # type: ignore[arg-type]
        yield socket


async def shown(socket: ClientConnection, count: int) -> list[dict[str, Any]]:
    """The next events, so many of them."""
    found: list[dict[str, Any]] = []
    while len(found) < count:
        frame = json.loads(await asyncio.wait_for(socket.recv(), 10))
        found += frame["events"]
    return found


async def code_of(socket: ClientConnection) -> int:
    """With what the server closes."""
    with suppress(ConnectionClosed):
        while True:
            await asyncio.wait_for(socket.recv(), 10)
    assert socket.close_code
    return socket.close_code


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


async def test_of_a_burst_of_progress_a_page_hears_the_first_and_the_last(
    server: str, cookie: str
) -> None:
    async with page(server, cookie) as socket:
        await socket.send('{"after": 0}')
        await caught_up(socket)
        await aprogress(7, 1)
        heard = [(await shown(socket, 1))[0]["data"]["epoch"]]
        for epoch in range(2, 21):
            await aprogress(7, epoch)
        while heard[-1] != 20:
            heard.append((await shown(socket, 1))[0]["data"]["epoch"])
        assert heard[0] == 1
        assert len(heard) <= 5


async def test_no_progress_comes_after_the_update_it_led_to(server: str, cookie: str) -> None:
    async with page(server, cookie) as socket:
        await socket.send('{"after": 0}')
        await caught_up(socket)
        await aprogress(7, 1)
        await shown(socket, 1)
        await aprogress(7, 2)  # waits for its half second
        await awrite_kind("assignment.uploaded", assignment=7)
        await aprogress(7, 3)  # comes late
        await aprogress(8, 1)
        found = await shown(socket, 2)
        await asyncio.sleep(0.7)
        await awrite(1)
        found += await shown(socket, 1)
        kinds = [(one["kind"], one.get("assignment")) for one in found]
        assert ("assignment.progress", 7) not in kinds
        assert {("assignment.uploaded", 7), ("assignment.progress", 8)} < set(kinds)


async def test_a_page_that_comes_late_is_told_how_far_everybody_is(
    server: str, cookie: str
) -> None:
    async with page(server, cookie) as first:
        await first.send('{"after": 0}')
        await caught_up(first)
        for epoch in (1, 2, 3):
            await aprogress(7, epoch)
        while (await shown(first, 1))[0]["data"]["epoch"] != 3:
            pass
        async with page(server, cookie) as second:
            await second.send('{"after": 0, "round": 1}')
            assert (await shown(second, 1))[0]["data"]["epoch"] == 3


async def test_a_page_may_ask_for_some_kinds_only(server: str, cookie: str) -> None:
    async with page(server, cookie) as socket:
        await socket.send('{"after": 0, "kinds": ["run.", "assignment."]}')
        await caught_up(socket)
        await awrite(1)
        await aprogress(7, 1)
        await awrite_kind("run.started", run=1)
        assert [one["kind"] for one in await shown(socket, 1)] == ["run.started"]


async def test_a_page_without_a_cursor_hears_what_happens_from_now_on(
    server: str, cookie: str
) -> None:
    await awrite(3)
    async with page(server, cookie) as socket:
        await socket.send("{}")
        await caught_up(socket)
        await awrite(1, round=9)
        assert (await shown(socket, 1))[0]["round"] == 9


async def test_a_page_that_has_seen_more_than_there_is_must_begin_anew(
    server: str, cookie: str
) -> None:
    async with page(server, cookie) as socket:
        await socket.send('{"after": 1000000}')
        assert await code_of(socket) == 4409


async def test_a_silent_server_says_that_it_is_there(
    server: str, cookie: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hubs, "HEARTBEAT", 0.5)
    async with page(server, cookie) as socket:
        await socket.send('{"after": 0, "round": 7}')
        before = await caught_up(socket)
        await awrite(1, round=8)
        while (after := await caught_up(socket)) == before:
            pass
        assert after > before  # and it need not read this again when it comes back


async def test_a_thousand_pages_that_come_back_ask_the_table_once(
    server: str, cookie: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, ask = [], hubs._page

    def count(*told: Any) -> Any:
        asked.append(told)
        return ask(*told)

    monkeypatch.setattr(hubs, "SIZE", 10)
    monkeypatch.setattr(hubs, "SHARED", 60.0)  # a busy machine takes seconds to let all of them in
    monkeypatch.setattr(hubs, "_page", count)
    await awrite(30, round=7)

    async def come_back() -> list[int]:
        async with page(server, cookie) as socket:
            await socket.send('{"after": 0, "round": 7}')
            return [one["id"] for one in await shown(socket, 30)]

    found = await asyncio.gather(*(come_back() for _ in range(25)))
    assert all(ids == found[0] for ids in found)
    assert found[0] == sorted(set(found[0]))
    assert len(asked) == 1


async def test_without_redis_the_table_is_asked(db: None, settings: Any) -> None:
    settings.REDIS_URL = "unix:///nowhere/valkey.sock"
    events._redis.cache_clear()
    hub = hubs.Hub()
    try:
        async with aclosing(hub.follow(0, Wish())) as frames:
            assert json.loads(await anext(frames))["events"] == []
            await awrite(1)
            frame = await asyncio.wait_for(anext(frames), 10)
            assert len(json.loads(frame)["events"]) == 1
    finally:
        events._redis.cache_clear()


async def test_who_signs_out_is_shown_nothing_more(server: str, cookie: str) -> None:
    async with page(server, cookie) as socket, page(server, await acookie("dora")) as other:
        for one in (socket, other):
            await one.send('{"after": 0}')
            await caught_up(one)
        victor = await User.objects.aget(username="victor")
        await Session.objects.filter(session_key=cookie.partition("=")[2]).adelete()
        await sync_to_async(events.recheck)(victor.pk)
        assert await code_of(socket) == 4401
        await awrite(1)
        assert len(await shown(other, 1)) == 1


async def test_who_may_no_longer_sign_in_is_shown_nothing_a_minute_later(
    server: str, cookie: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doorkeeper, "EVERY", 0.3)
    async with page(server, cookie) as socket:
        await socket.send('{"after": 0}')
        await caught_up(socket)
        await User.objects.filter(username="victor").aupdate(is_active=False)
        assert await code_of(socket) == 4401


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


async def test_a_script_shows_a_personal_token_until_it_is_deleted(
    server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doorkeeper, "EVERY", 0.3)
    token, secret = await sync_to_async(token_of)("victor")
    async with page(server, headers={"Authorization": f"Bearer {secret}"}) as socket:
        await socket.send('{"after": 0}')
        await awrite(1)
        assert len(await shown(socket, 1)) == 1
        await token.adelete()
        assert await code_of(socket) == 4401
    async with page(server, headers={"Authorization": f"Bearer {secret}"}) as socket:
        assert await code_of(socket) == 4401


async def test_who_has_not_signed_in_is_shown_nothing(server: str) -> None:
    async with page(server) as socket:
        assert await code_of(socket) == 4401


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
        '{"after": "\\ud800"}',  # half a character
        f'"{"😀" * 100}"',  # more bytes than a closing has room for
    ],
)
async def test_a_page_that_makes_no_sense_is_closed(server: str, cookie: str, said: str) -> None:
    async with page(server, cookie) as socket:
        await socket.send(said)
        assert await code_of(socket) == 4400


async def test_a_page_that_never_stops_asking_is_closed(server: str, cookie: str) -> None:
    async with page(server, cookie) as socket:
        for number in range(consumers.MOST_WORDS):
            await socket.send(f'{{"after": 0, "run": {number}}}')
        await socket.send('{"after": 0}')
        assert await code_of(socket) == 4400


async def test_a_page_that_says_too_much_at_once_is_closed_before_it_is_read(
    server: str, cookie: str
) -> None:
    async with page(server, cookie) as socket:
        await socket.send("[" * 100_000)
        assert await code_of(socket) == 1009


async def test_a_page_knows_more_than_a_reading_that_began_before(
    db: None, valkey: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub, may_end = Hub.of_this_loop(), asyncio.Event()
    async with hub.subscribe(Wish()):
        query = hub._query

        async def slowly(*asked: Any) -> Any:
            found = await query(*asked)
            await may_end.wait()
            return found

        monkeypatch.setattr(hub, "_query", slowly)
        early = asyncio.create_task(hub._read_on())
        await asyncio.sleep(0.2)  # it has looked by now, and seen nothing
        line = await Event.objects.acreate(kind="run.paused", run=1)  # nobody announces it
        async with aclosing(hub.follow(line.pk, Wish())) as frames:
            first = asyncio.create_task(anext(frames))
            await asyncio.sleep(0.1)
            may_end.set()
            assert json.loads(await first) == {"events": [], "cursor": line.pk}
        assert await early is False


async def test_one_process_subscribes_once_however_many_wait(db: None, valkey: str) -> None:
    hub = Hub.of_this_loop()
    async with hub.subscribe(Wish()), hub.subscribe(Wish()), hub.subscribe(Wish()) as mailbox:
        await awrite(1)
        taken = await asyncio.wait_for(mailbox.take(), 10)
        assert taken is not None
        assert len(taken[0]) == 1
        client = redis.Redis.from_url(settings.REDIS_URL)
        assert client.pubsub_numsub(events.CHANNEL)[0][1] == 1
