"""One socket: replay since a cursor, then forward what is announced. It decides nothing.

The page says `{"after": 42, "round": 7}`: the greatest event id that it has seen, and what it
shows. It gets frames `{"events": […], "cursor": 58}`, every event once and in order: what comes
over Redis is forwarded only where it continues the cursor, and wherever it does not (a gap, events
out of order, a mailbox that overflowed, Redis away) the journal is read instead.
"""

import asyncio
import json
from typing import Any

from channels.db import database_sync_to_async
from channels.generic.websocket import AsyncWebsocketConsumer

from accounts.roles import Role, roles_of
from journal import events
from journal.hub import RESYNC, Hub

UNAUTHENTICATED, BAD_REQUEST = 4401, 4400  # close codes, after HTTP's
PAGE = 500


class LiveConsumer(AsyncWebsocketConsumer):
    """`ws/live/`, for everyone who may sign in."""

    _forwarding: asyncio.Task[None] | None = None

    async def connect(self) -> None:
        await self.accept()
        if Role.VIEWER not in await database_sync_to_async(roles_of)(self.scope["user"]):
            await self.close(UNAUTHENTICATED)

    async def disconnect(self, code: int) -> None:
        self._stop()

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        """A page says what it shows; saying it again begins anew."""
        try:
            after, subjects = _parse(text_data or "")
        except (ValueError, RecursionError) as error:
            await self.close(BAD_REQUEST, str(error)[:100])
            return
        self._stop()
        self._forwarding = asyncio.create_task(self._forward(after, subjects))

    def _stop(self) -> None:
        if self._forwarding is not None:
            self._forwarding.cancel()

    async def _forward(self, cursor: int, subjects: dict[str, int]) -> None:
        async with Hub.of_this_loop().subscribe() as mailbox:
            cursor = await self._replay(cursor, subjects)
            while True:
                announced = await mailbox.take()
                hints = [one for one in announced if one["id"] is None and one is not RESYNC]
                lines = [one for one in announced if (one["id"] or 0) > cursor]
                if any(one is RESYNC for one in announced) or not _continue(lines, cursor):
                    cursor = await self._replay(cursor, subjects)
                    lines = []
                cursor = lines[-1]["id"] if lines else cursor
                await self._send([one for one in lines + hints if _shows(one, subjects)], cursor)

    async def _replay(self, cursor: int, subjects: dict[str, int]) -> int:
        """Send what the journal has after the cursor; returns the new one."""
        while True:
            found = await database_sync_to_async(_page)(cursor, subjects)
            cursor = found[-1]["id"] if found else cursor
            await self._send(found, cursor)
            if len(found) < PAGE:
                return cursor

    async def _send(self, found: list[dict[str, Any]], cursor: int) -> None:
        if found:
            await self.send(json.dumps({"events": found, "cursor": cursor}))


def _page(cursor: int, subjects: dict[str, int]) -> list[dict[str, Any]]:
    return [events.as_json(line) for line in events.replay(cursor, **subjects)[:PAGE]]


def _parse(text: str) -> tuple[int, dict[str, int]]:
    asked = json.loads(text)
    known = {"after", *events.SUBJECTS}
    if not isinstance(asked, dict) or asked.keys() - known:
        raise ValueError(f"Expected an object with some of {sorted(known)}. Received: {text}")
    if any(type(value) is not int or not 0 <= value < 2**63 for value in asked.values()):
        raise ValueError(f"Expected ids. Received: {text}")
    return asked.pop("after", 0), asked


def _continue(lines: list[dict[str, Any]], cursor: int) -> bool:
    return [one["id"] for one in lines] == list(range(cursor + 1, cursor + 1 + len(lines)))


def _shows(event: dict[str, Any], subjects: dict[str, int]) -> bool:
    return all(event.get(name) == value for name, value in subjects.items())
