"""Waiting for the end of a run or a round, in an event loop that goes on meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

from client_sdk.errors import ServerRefused
from client_sdk.following import Event, Follower

if TYPE_CHECKING:
    from client_sdk.admin.admin import Admin


class Ends(Protocol):
    """What can be waited for."""

    _admin: Admin

    @property
    def over(self) -> bool: ...

    @property
    def path(self) -> str: ...

    def _become(self, document: Mapping[str, Any]) -> None: ...


async def until_over(
    thing: Ends,
    wish: Mapping[str, Any],
    timeout: float | None,  # noqa: ASYNC109 - in a notebook it reads better than a context
) -> None:
    """Wait until something has ended, told by the live socket.

    Args:
        thing: What is read again when there is news.
        wish: The news of its end, as the live socket takes it.
        timeout: Seconds at most; None for ever.

    Raises:
        TimeoutError: It goes on still.
        ServerRefused: It may not be read, or is there no longer.
    """
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[None] = loop.create_future()

    def settle(error: Exception | None) -> None:
        if not ended.done():
            ended.set_exception(error) if error else ended.set_result(None)

    def read() -> None:
        try:
            document = thing._admin.get(thing.path, patience=0.0)
        except ServerRefused as refused:
            loop.call_soon_threadsafe(settle, refused)
            raise
        thing._become(document)
        if thing.over:
            follower.finish()
            loop.call_soon_threadsafe(settle, None)

    def take(_: list[Event]) -> None:
        read()

    follower = Follower(thing._admin.transport, wish, read=read, take=take)
    follower.start()
    try:
        async with asyncio.timeout(timeout):
            await ended
    except TimeoutError:
        raise TimeoutError(
            f"Expected {thing.path} to end within {timeout:g} s. Received: it goes on"
        ) from None
    finally:
        follower.close(wait=False)
