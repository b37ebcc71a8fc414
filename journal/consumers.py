"""One socket: a page says what it has seen and what it shows, and is sent what it has not seen.

The page says `{"after": 42, "round": 7}`: the greatest event id that it has seen (without it: from
now on), what it shows and, if it likes, `"kinds": ["run.", "round.failed"]`. It gets frames
`{"events": […], "cursor": 58}`, every event once and in order: first what it missed, then what
happens; a frame without events says that there is nothing new. All of this is the hub's work.
"""

import asyncio
import json
import logging
from collections import deque
from collections.abc import Mapping
from contextlib import aclosing
from typing import Any

from channels.consumer import get_handler_name
from channels.generic.websocket import AsyncWebsocketConsumer
from django.conf import settings

from journal.doorkeeper import admitted
from journal.hub import CursorUnknown, Hub
from journal.wish import Wish, is_id

logger = logging.getLogger(__name__)

# Close codes, after HTTP's: not signed in (any more), no sense, a cursor of another journal.
UNAUTHENTICATED, BAD_REQUEST, CONFLICT = 4401, 4400, 4409
SERVER_FAILED = 1011
REASON_BYTES = 120  # of a closing, at most; the protocol has 123
# A page speaks once for each socket. Each word may be a query: no socket asks for many in a while.
MOST_WORDS, WHILE = 20, 10.0


class LiveConsumer(AsyncWebsocketConsumer):
    """`ws/live/`, for everyone who may sign in, by a session or by a personal token."""

    session = ""
    user = 0
    _forwarding: asyncio.Task[None] | None = None
    _over = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._spoken: deque[float] = deque(maxlen=MOST_WORDS)  # when

    async def dispatch(self, message: dict[str, Any]) -> None:
        """As in the base class, without its way to another thread to close connections."""
        await getattr(self, get_handler_name(message))(message)

    async def connect(self) -> None:
        await self.accept()
        session = _token(self.scope) or self.scope["cookies"].get(settings.SESSION_COOKIE_NAME, "")
        user = await admitted(session) if session else None
        if user is None:
            await self.close(UNAUTHENTICATED)
            return
        self.session, self.user = session, user
        Hub.of_this_loop().doorkeeper.admit(self)

    async def disconnect(self, code: int) -> None:
        Hub.of_this_loop().doorkeeper.forget(self)
        self._stop()

    async def dismiss(self) -> None:
        """The session has ended."""
        self._stop()
        await self.close(UNAUTHENTICATED)

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        """A page says what it shows; saying it again begins anew."""
        if not self.session or self._over:
            return  # it is being closed
        try:
            self._count()
            after, wish = _parse(text_data or "")
        except (ValueError, RecursionError) as error:
            self._stop()
            self._over = True
            await self.close(BAD_REQUEST, _reason(error))
            return
        self._stop()
        self._forwarding = asyncio.create_task(self._forward(after, wish))

    def _count(self) -> None:
        now = asyncio.get_running_loop().time()
        if len(self._spoken) == MOST_WORDS and now - self._spoken[0] < WHILE:
            raise ValueError(f"Expected {MOST_WORDS} words in {WHILE:g} s at most. Received: more")
        self._spoken.append(now)

    def _stop(self) -> None:
        if self._forwarding is not None:
            self._forwarding.cancel()

    async def _forward(self, after: int | None, wish: Wish) -> None:
        try:
            async with aclosing(Hub.of_this_loop().follow(after, wish)) as frames:
                async for frame in frames:
                    await self.send(frame)
        except CursorUnknown as error:
            await self.close(CONFLICT, _reason(error))
        except OSError:
            pass  # the page has gone
        except Exception:
            logger.exception("A live socket failed")
            await self.close(SERVER_FAILED)


def _token(scope: Mapping[str, Any]) -> str:
    """The personal token that a script or a notebook shows, for it has no session."""
    headers = dict(scope["headers"])
    scheme, _, token = headers.get(b"authorization", b"").decode("latin-1").partition(" ")
    return token if scheme.lower() == "bearer" and token.startswith("fsu_") else ""


def _reason(error: Exception) -> str:
    """As much as a closing has room for, in bytes; half characters are not sent."""
    return str(error).encode(errors="replace")[:REASON_BYTES].decode(errors="ignore")


def _parse(text: str) -> tuple[int | None, Wish]:
    asked: Any = json.loads(text)
    if not isinstance(asked, dict):
        raise ValueError(f"Expected an object. Received: {text}")
    after = asked.pop("after", None)
    if after is not None and not is_id(after):
        raise ValueError(f"Expected an id. Received: {after}")
    return after, Wish.of(asked)
