"""The path below which a proxy shows this server: taken off by it or not, known here or not."""

from collections.abc import Awaitable, Callable
from typing import Any

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
OTHER_PREFIX = """\
This fedserver is shown below another path than it knows of, so that its pages would lead astray.
Start it with these settings in its environment:

    FEDSERVER_ROOT_PATH={prefix}
    FEDSERVER_FRAME_OPTIONS=SAMEORIGIN
"""


class BelowRoot:
    """The ASGI application in front of all others.

    uvicorn puts the root path before every path, for most proxies take it off. Who asks us
    directly by an address that we have given out ourselves has it there already.

    Args:
        application: What answers.
    """

    def __init__(self, application: Callable[[Scope, Receive, Send], Awaitable[None]]) -> None:
        self._application = application

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        root = scope.get("root_path", "")
        if scope["type"] == "http" and (told := _told(scope)) not in ("", root):
            return await _refuse(told, send)
        if root and scope.get("path", "").startswith(f"{root}{root}/"):
            scope = scope | {"path": scope["path"].removeprefix(root)}
        return await self._application(scope, receive, send)


def _told(scope: Scope) -> str:
    """The prefix that a proxy says to have taken off, as JupyterLab's does; empty without one."""
    headers: list[tuple[bytes, bytes]] = scope["headers"]
    told = next((value for name, value in headers if name == b"x-forwarded-prefix"), b"")
    return told.decode("latin-1").rstrip("/")


async def _refuse(prefix: str, send: Send) -> None:
    body = OTHER_PREFIX.format(prefix=prefix[:200]).encode()
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"cache-control", b"no-store")]
    headers += [(b"x-content-type-options", b"nosniff"), (b"vary", b"x-forwarded-prefix")]
    await send({"type": "http.response.start", "status": 421, "headers": headers})
    await send({"type": "http.response.body", "body": body})
