"""The hub: one Redis subscription per server process, fanned out to whoever waits in it.

Each subscriber has a bounded mailbox. One that does not read in time loses its mailbox's content
and finds `RESYNC` there instead: it then reads the journal from its own cursor. So a stuck reader
costs neither memory nor anybody else's time.
"""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from typing import Any, Final
from weakref import WeakKeyDictionary

import redis.asyncio
from django.conf import settings
from redis.exceptions import RedisError

from journal.events import CHANNEL

logger = logging.getLogger(__name__)

RESYNC: Final = {"id": None, "kind": "resync"}


class Mailbox:
    """What one subscriber has not read yet.

    Args:
        size: How many events it holds before they give way to `RESYNC`.
    """

    def __init__(self, size: int = 256) -> None:
        self._size = size
        self._events: list[dict[str, Any]] = []
        self._filled = asyncio.Event()

    def put(self, events: Iterable[dict[str, Any]]) -> None:
        self._events.extend(events)
        if len(self._events) > self._size:
            self._events = [RESYNC]
        self._filled.set()

    async def take(self, seconds: float | None = None) -> list[dict[str, Any]]:
        """All that has come, as soon as something has; empty when that many seconds passed."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._filled.wait(), seconds)
        self._filled.clear()
        events, self._events = self._events, []
        return events


class Hub:
    """The subscribers of one event loop. Use `Hub.of_this_loop()`."""

    _hubs: WeakKeyDictionary[asyncio.AbstractEventLoop, "Hub"] = WeakKeyDictionary()

    def __init__(self) -> None:
        self._mailboxes: set[Mailbox] = set()
        self._listener: asyncio.Task[None] | None = None

    @classmethod
    def of_this_loop(cls) -> "Hub":
        return cls._hubs.setdefault(asyncio.get_running_loop(), cls())

    @asynccontextmanager
    async def subscribe(self) -> AsyncIterator[Mailbox]:
        """A mailbox that receives every event announced while the block runs."""
        mailbox = Mailbox()
        self._mailboxes.add(mailbox)
        if self._listener is None or self._listener.done():
            self._listener = asyncio.create_task(self._listen())
        try:
            yield mailbox
        finally:
            self._mailboxes.discard(mailbox)

    def _deliver(self, events: list[dict[str, Any]]) -> None:
        for mailbox in self._mailboxes:
            mailbox.put(events)

    async def _listen(self) -> None:
        """Forward for as long as the loop lives; after each loss of Redis everyone resyncs."""
        pause = 0.1
        while True:
            try:
                client = redis.asyncio.Redis.from_url(settings.REDIS_URL, health_check_interval=20)
                async with client, client.pubsub(ignore_subscribe_messages=True) as subscription:
                    await subscription.subscribe(CHANNEL)
                    self._deliver([RESYNC])  # what was said while nobody listened
                    pause = 0.1
                    async for message in subscription.listen():
                        self._deliver(json.loads(message["data"]))
            except (RedisError, OSError) as error:
                logger.warning("No live events for %.1f s: %s", pause, error)
                await asyncio.sleep(pause)
                pause = min(pause * 2, 5.0)
