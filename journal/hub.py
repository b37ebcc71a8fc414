"""The hub: the journal followed once per server process, fanned out to all sockets in it.

    async for frame in Hub.of_this_loop().follow(cursor, wish):
        await send(frame)

It hears announcements over one Redis subscription and proves by the ids that none is missing;
where one is (a gap, Redis away, silence), it reads the table, once for all. So what it hands on is
every line once and in order. Sockets with equal wishes share what is filtered and serialised, and
what lies in the tail of the journal is caught up without a query, so that a thousand pages that
come back at once are no thousand queries.

Each socket has a bounded mailbox. One that does not read in time loses its mailbox's content and
begins again at its cursor: a stuck reader costs neither memory nor anybody else's time.
"""

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import redis.asyncio
from channels.db import DatabaseSyncToAsync
from django.conf import settings
from django.db import DatabaseError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from journal import events
from journal.doorkeeper import Doorkeeper
from journal.hints import Hints
from journal.models import Event
from journal.tail import SIZE, Page, Tail
from journal.wish import Told, Wish

logger = logging.getLogger(__name__)
T = TypeVar("T")

PAGE = 500  # lines in a frame, and in a query
JOINED = 0.02  # seconds of a burst that become one frame
HINTS_JOINED = 0.1  # and of passing news
HEARTBEAT = 10.0  # seconds of silence after which a socket is told that there is nothing new
SILENCE = 5.0  # seconds without an announcement after which the table is asked
SHARED = 1.0  # seconds for which one query serves all who ask the same


class CursorUnknown(Exception):
    """A page has seen more than there is: the journal is another one by now."""


class Mailbox:
    """What one socket has not sent yet: pieces of JSON that it shares with its like.

    Args:
        size: How many events it holds before it gives them up.
    """

    __slots__ = ("_count", "_cursor", "_overflown", "_pieces", "_size", "_waiter", "filled_at")

    def __init__(self, size: int = 256) -> None:
        self._size = size
        self._pieces: list[str] = []
        self._count = 0
        self._cursor: int | None = None
        self._waiter: asyncio.Future[None] | None = None
        self.filled_at = 0.0
        self._overflown = False

    def put(self, piece: str, count: int, cursor: int, now: float) -> None:
        """Adds some events, already joined; none at all tell no more than the cursor."""
        self.filled_at = now
        self._cursor = cursor
        self._count += count
        if count:
            self._pieces.append(piece)
        if self._count > self._size:
            self._pieces, self._overflown = [], True
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def take(self) -> tuple[list[str], int] | None:
        """All that has come, as soon as something has; None when it was too much."""
        if self._cursor is None:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        assert self._cursor is not None
        taken = None if self._overflown else (self._pieces, self._cursor)
        self._pieces, self._count, self._cursor, self._overflown = [], 0, None, False
        return taken


class Hub:
    """The sockets of one event loop. Use `Hub.of_this_loop()`."""

    _hubs: WeakKeyDictionary[asyncio.AbstractEventLoop, "Hub"] = WeakKeyDictionary()

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._mailboxes: dict[Wish, set[Mailbox]] = {}
        # Wishes by a subject that they name: thousands wish to hear of themselves alone.
        self._wishes: dict[tuple[str, int] | None, set[Wish]] = {}
        self._tail: asyncio.Future[Tail] = self._loop.create_future()
        self._heard = 0  # every line up to this id has come; those beyond the tail are `_fresh`
        self._fresh: list[Told] = []
        self._hints = Hints()
        self._delivered_at = self._hinted_at = float("-inf")
        self._timer: asyncio.TimerHandle | None = None
        self._pages: dict[tuple[int, Wish], asyncio.Task[Page]] = {}
        self._reading: asyncio.Task[bool] | None = None
        # Of its own: it must not queue behind a thousand sockets that sign in.
        self._thread = ThreadPoolExecutor(1, "journal")
        self._tasks = [asyncio.create_task(self._listen()), asyncio.create_task(self._beat())]
        self.doorkeeper = Doorkeeper()

    @classmethod
    def of_this_loop(cls) -> "Hub":
        loop = asyncio.get_running_loop()
        if loop not in cls._hubs:
            cls._hubs[loop] = cls()
        return cls._hubs[loop]

    # --- For a socket -------------------------------------------------------------------------

    async def follow(self, cursor: int | None, wish: Wish) -> AsyncGenerator[str, None]:
        """What a page is to be sent: what it missed, then what happens.

        The frame after which it knows all that there was comes in any case, and a frame comes at
        least every few seconds: else the page takes its connection for dead.

        Args:
            cursor: The greatest id that it has seen; None to begin now.
            wish: What it shows.

        Yields:
            Frames, `{"events": […], "cursor": 58}`.

        Raises:
            CursorUnknown: It has seen more than there is.
        """
        tail = await asyncio.shield(self._tail)
        cursor = tail.head if cursor is None else await self._reach(cursor)
        while True:
            page = await self._catch_up(cursor, wish)
            cursor = page.cursor
            if cursor < tail.head:
                yield _frame([line.text for line in page.lines], cursor)
                continue
            with self._subscribed(wish) as mailbox:  # nothing was awaited since the comparison
                news = [*page.lines, *self._hints.latest(wish)]
                yield _frame([one.text for one in news], cursor)
                while taken := await mailbox.take():
                    cursor = taken[1]
                    yield _frame(*taken)

    @asynccontextmanager
    async def subscribe(self, *wishes: Wish) -> AsyncIterator[Mailbox]:
        """A mailbox for what is told from now on, for who wants to be woken by it."""
        await asyncio.shield(self._tail)
        with self._subscribed(*wishes) as mailbox:
            yield mailbox

    @contextmanager
    def _subscribed(self, *wishes: Wish) -> Iterator[Mailbox]:
        mailbox = Mailbox()
        mailbox.filled_at = self._loop.time()
        for wish in wishes:
            self._mailboxes.setdefault(wish, set()).add(mailbox)
            self._wishes.setdefault(wish.subject, set()).add(wish)
        try:
            yield mailbox
        finally:
            for wish in wishes:
                self._mailboxes[wish].discard(mailbox)
                if not self._mailboxes[wish]:
                    self._give_up(wish)

    def _give_up(self, wish: Wish) -> None:
        """Nobody has this wish any more."""
        del self._mailboxes[wish]
        self._wishes[wish.subject].discard(wish)
        if not self._wishes[wish.subject]:
            del self._wishes[wish.subject]

    async def _reach(self, cursor: int) -> int:
        """A page may have read what has not been announced yet."""
        tail = self._tail.result()
        if cursor > tail.head:
            await self._read_on()
            self._deliver()
        if cursor > tail.head:
            raise CursorUnknown(f"Expected an id up to {tail.head}. Received: {cursor}")
        return cursor

    async def _catch_up(self, cursor: int, wish: Wish) -> Page:
        """The next lines for a reader; out of memory where they are, without a pause."""
        tail = self._tail.result()
        if cursor >= tail.start:
            return tail.since(cursor, wish, PAGE)
        key = cursor, wish
        if key not in self._pages:
            self._pages[key] = asyncio.create_task(self._query(_page, cursor, tail.head, wish))
            self._loop.call_later(SHARED, self._pages.pop, key)
        return await asyncio.shield(self._pages[key])

    # --- What comes ---------------------------------------------------------------------------

    async def _listen(self) -> None:
        """Follow the journal for as long as the loop lives; without Redis by asking the table."""
        pause = 0.1
        while True:
            try:
                client = redis.asyncio.Redis.from_url(
                    settings.REDIS_URL, socket_connect_timeout=3, health_check_interval=20
                )
                async with client, client.pubsub(ignore_subscribe_messages=True) as subscription:
                    await subscription.subscribe(events.CHANNEL)
                    await self._begin()
                    await self._read_on()  # what was said while nobody listened
                    pause = 0.1
                    await self._hear(subscription)
            except (RedisError, OSError, DatabaseError) as error:
                logger.warning("No announcements for %.1f s: %s", pause, error)
            except Exception:
                logger.exception("The hub stumbled")
            await asyncio.sleep(pause)
            pause = min(pause * 2, 2.0)
            await self._try_to_read_on()

    async def _begin(self) -> None:
        if self._tail.done():
            return
        found, start = await self._query(_last)
        self._tail.set_result(Tail(found, start))
        self._heard = self._tail.result().head
        for line in found:
            self._hints.heed(line)

    async def _try_to_read_on(self) -> None:
        try:
            await self._begin()
            await self._read_on()
        except DatabaseError as error:
            logger.warning("The journal cannot be read: %s", error)

    async def _hear(self, subscription: Any) -> None:
        deaf = 0
        while True:
            message = await subscription.get_message(timeout=SILENCE)
            if message is not None:
                deaf = 0
                if not self._accept(json.loads(message["data"])):
                    await self._read_on()
            elif await self._read_on():
                deaf += 1  # once may be bad luck: a line whose announcement is under way
                if deaf > 1:
                    raise RedisConnectionError("lines are written, and not announced")

    def _accept(self, documents: Sequence[dict[str, Any]]) -> bool:
        """Take what was announced; False if a line before it is missing."""
        for document in documents:
            if document["kind"] == events.RECHECK:
                self.doorkeeper.recheck(document["user"])
                continue
            one = Told.of(document)
            if one.id is None:
                self._hints.put(one, self._loop.time())
            elif one.id > self._heard + 1:
                return False
            else:
                self._take(one, one.id)
        self._schedule()
        return True

    def _take(self, line: Told, pk: int) -> None:
        if pk > self._heard:
            self._heard = pk
            self._fresh.append(line)
            self._hints.heed(line)

    async def _read_on(self) -> bool:
        """Take what the table has beyond what was heard; whether there was anything.

        Whoever needs it meanwhile waits for the same reading, and for one more: that under way may
        have looked before the line was there.
        """
        found = False
        if self._reading is not None and not self._reading.done():
            found = await asyncio.shield(self._reading)
        if self._reading is None or self._reading.done():
            self._reading = asyncio.create_task(self._read())
        return await asyncio.shield(self._reading) or found

    async def _read(self) -> bool:
        found = await self._query(_after, self._heard)
        some = bool(found)
        while found:
            for line in found:
                self._take(line, line.id or 0)
            self._schedule()
            found = await self._query(_after, self._heard) if len(found) == PAGE else []
        return some

    async def _query(self, ask: Callable[..., T], *arguments: Any) -> T:
        asking = DatabaseSyncToAsync(ask, thread_sensitive=False, executor=self._thread)
        answer: T = await asking(*arguments)
        return answer

    # --- What goes out ------------------------------------------------------------------------

    def _schedule(self) -> None:
        """Deliver as soon as it is time: at once, or when the burst's first moment is over."""
        times = [self._delivered_at + JOINED] if self._fresh else []
        if (due := self._hints.next_at()) is not None:
            times.append(max(due, self._hinted_at + HINTS_JOINED))
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(min(times), self._deliver) if times else None

    def _deliver(self) -> None:
        """Hand what is new to the mailboxes, filtered and joined once for equal wishes."""
        now = self._loop.time()
        lines, self._fresh = self._fresh, []
        self._tail.result().extend(lines)
        news = [*lines, *self._hints_due(now)]
        if lines:
            self._delivered_at = now
        for wish, shown in self._granted(news).items():
            piece = ",".join(shown)
            for mailbox in self._mailboxes[wish]:
                mailbox.put(piece, len(shown), self._tail.result().head, now)
        self._schedule()

    def _granted(self, news: Sequence[Told]) -> dict[Wish, list[str]]:
        """What each wish is to be sent; those that are sent nothing are not there."""
        found: dict[Wish, list[str]] = {}
        for one in news:
            for subject in (None, *one.subjects.items()):
                for wish in self._wishes.get(subject, ()):
                    if wish.takes(one):
                        found.setdefault(wish, []).append(one.text)
        return found

    def _hints_due(self, now: float) -> list[Told]:
        if now < self._hinted_at + HINTS_JOINED:
            return []
        found = self._hints.due(now)
        if found:
            self._hinted_at = now
        return found

    async def _beat(self) -> None:
        """Tell sockets that have heard nothing for long where the journal stands, a few at once."""
        tail = await asyncio.shield(self._tail)
        while True:
            await asyncio.sleep(1)
            now = self._loop.time()
            everyone = [one for mailboxes in self._mailboxes.values() for one in mailboxes]
            quiet = [one for one in everyone if now - one.filled_at >= HEARTBEAT]
            for mailbox in quiet[: max(50, len(everyone) // 8)]:
                mailbox.put("", 0, tail.head, now)


def _frame(pieces: Sequence[str], cursor: int) -> str:
    return f'{{"events":[{",".join(pieces)}],"cursor":{cursor}}}'


# --- What the table is asked, in the hub's thread -------------------------------------------------


def _told(lines: Sequence[Event]) -> list[Told]:
    return [Told.of(events.as_json(line)) for line in lines]


def _last() -> tuple[list[Told], int]:
    """The last lines of the journal, and the id after which none is missing."""
    lines = list(Event.objects.order_by("-id")[: SIZE + 1])[::-1]
    if len(lines) <= SIZE:
        return _told(lines), 0
    return _told(lines[1:]), lines[0].pk


def _after(cursor: int) -> list[Told]:
    return _told(list(events.replay(cursor)[:PAGE]))


def _page(cursor: int, head: int, wish: Wish) -> Page:
    """What a reader has yet to see, up to the head that the hub has reached."""
    found = events.replay(cursor).filter(wish.query(), id__lte=head)
    lines = _told(list(found[:PAGE]))
    whole = len(lines) < PAGE
    return Page(lines, head if whole else lines[-1].id or head)
