"""The doorkeeper: sockets end when the session or the token that opened them does."""

import asyncio
import logging
from importlib import import_module
from types import SimpleNamespace
from typing import Any, Protocol

from channels.db import database_sync_to_async
from django.conf import settings
from django.contrib.auth import get_user
from django.db import DatabaseError

from accounts.authentication import holder_of
from accounts.roles import Role, roles_of

logger = logging.getLogger(__name__)

EVERY = 60.0  # seconds


class Visitor(Protocol):
    """A socket, as the doorkeeper sees it."""

    session: str  # or a personal token, as `admitted` takes it
    user: int

    async def dismiss(self) -> None: ...


class Doorkeeper:
    """Looks at the session of every socket of one process once a minute, and when it is told to."""

    def __init__(self) -> None:
        self._visitors: set[Visitor] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._rounds: asyncio.Task[None] | None = None

    def admit(self, visitor: Visitor) -> None:
        self._visitors.add(visitor)
        if self._rounds is None or self._rounds.done():
            self._rounds = asyncio.create_task(self._go_round())

    def forget(self, visitor: Visitor) -> None:
        self._visitors.discard(visitor)

    def recheck(self, user: int) -> None:
        """Look at once at a user's sockets: one of their sessions may have ended."""
        theirs = {visitor for visitor in self._visitors if visitor.user == user}
        if theirs:
            self._start(self._look(theirs))

    async def _go_round(self) -> None:
        while self._visitors:
            await asyncio.sleep(EVERY)
            await self._look(set(self._visitors))

    async def _look(self, visitors: set[Visitor]) -> None:
        for session in {visitor.session for visitor in visitors}:
            try:
                if await admitted(session) is not None:
                    continue
            except DatabaseError as error:
                logger.warning("The sessions cannot be read: %s", error)
                return
            for visitor in visitors:
                if visitor.session == session:
                    self._start(visitor.dismiss())

    def _start(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


@database_sync_to_async
def admitted(session: str) -> int | None:
    """Who a session or a personal token belongs to, if they may look: active, not expired."""
    user = holder_of(session) if session.startswith("fsu_") else _signed_in(session)
    return user.pk if Role.VIEWER in roles_of(user) else None


def _signed_in(session: str) -> Any:
    store = import_module(settings.SESSION_ENGINE).SessionStore(session)
    return get_user(SimpleNamespace(session=store))  # type: ignore[arg-type]
