"""The labeller as a page of this machine's own.

It is served on 127.0.0.1 alone, and to one person alone. Who may see it is decided thus:

1. the link that `fedclient photos` opens holds a token that is good once; it is exchanged for a
   cookie that scripts cannot read and other sites cannot send. Another user of the machine may
   read the link and be quicker: the exchange is refused to who is not us (`neighbours`);
2. a request must name this address as its host, so that no name of somebody else's that points
   here (DNS rebinding) reaches anything;
3. what comes from a page must come from this one: `Origin` is compared, and a socket must have it;
4. the other way round, a page speaks to the program alone that has served it: who listens at its
   port afterwards is sent no photo.

There is one socket and nothing to post to: photos come in as messages of bounded length, a few at
a time, and all that goes out are messages too, so that the page and the notebook speak alike.

A message, either way, is one binary frame: the length of a header in four bytes, the header as
JSON (`content`, or `state`; and `lengths`), and as many buffers as there are lengths.
"""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
import signal
import socket
import struct
import threading
import webbrowser
from collections.abc import Callable, Iterator, MutableMapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from http.cookies import CookieError, SimpleCookie
from pathlib import Path
from typing import Any, Final

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from client_sdk import photo
from client_sdk.photos import neighbours
from client_sdk.photos.labeller import Labeller

log = logging.getLogger("client_sdk")

HOST: Final = "127.0.0.1"
MESSAGE_LIMIT: Final = photo.BYTES_LIMIT + 2**16
_AT_ONCE: Final = 4  # messages of one page that are worked on
_PACE: Final = 0.1  # seconds between two states, at least
_AGAIN: Final = 1.0  # and after one that could not be had

_HERE: Final = Path(__file__).parent
_TYPES: Final = {
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}
_HEADERS: Final = {
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
_SIGN_IN = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta http-equiv="refresh" content="0; url=/">
<link rel="icon" href="/photos/icon.svg"><title>Photo labeller</title>
<p><a href="/">Go on to your photos</a></p></html>"""

Scope = MutableMapping[str, Any]


class Door:
    """Who may come in.

    Args:
        port: of this server.
    """

    def __init__(self, port: int) -> None:
        self.hosts = (f"{HOST}:{port}", f"localhost:{port}")
        self.address = f"http://{HOST}:{port}"
        self.cookie = f"fedclient_photos_{port}"
        self.program = secrets.token_urlsafe(16)
        self._token: str | None = secrets.token_urlsafe(32)
        self._session = secrets.token_urlsafe(32)

    @property
    def link(self) -> str:
        """The address that lets one browser in, once."""
        return f"{self.address}/?token={self._token}"

    def exchange(self, token: str) -> str | None:
        """The session's secret for the token, the first time; None ever after."""
        if self._token is None or not _equal(token, self._token):
            return None
        self._token = None
        return self._session

    def is_for(self, scope: Scope) -> bool:
        """Whether a request comes from a program of ours, as far as the system tells."""
        there, here = scope.get("client"), scope.get("server")
        return not (there and here) or neighbours.is_ours(tuple(there), tuple(here))

    def knows(self, cookies: str) -> bool:
        """Whether a `Cookie` header holds the session's secret."""
        try:
            found = SimpleCookie(cookies).get(self.cookie)
        except CookieError:
            return False
        return found is not None and _equal(found.value, self._session)

    def refusal(self, scope: Scope) -> str:
        """Why a request is turned away before anything looks at it; "" when it is not."""
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in _of(scope)}
        host, origin = headers.get("host", ""), headers.get("origin")
        if host not in self.hosts:
            return f"Expected the host {self.hosts[0]}. Received: {host[:80]!r}"
        if origin != f"http://{host}" and (origin is not None or scope["type"] == "websocket"):
            return f"Expected the origin http://{host}. Received: {(origin or 'none')[:80]!r}"
        if headers.get("sec-purpose", "").startswith("prefetch"):
            return "Expected somebody who looks. Received: a browser that looks ahead"
        return ""


def _of(scope: Scope) -> Sequence[tuple[bytes, bytes]]:
    found: Sequence[tuple[bytes, bytes]] = scope["headers"]
    return found


def _equal(one: str, other: str) -> bool:
    return secrets.compare_digest(one.encode(), other.encode())


class Guard:
    """Around the app: turns away what does not come from its own page, and says so everywhere."""

    def __init__(self, app: Any, door: Door) -> None:
        self._app, self._door = app, door
        sources = " ".join(f"ws://{host}" for host in door.hosts)
        policy = (
            "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
            f"media-src blob:; connect-src 'self' {sources}; base-uri 'none'; form-action 'none'; "
            "frame-ancestors 'none'"
        )
        self._headers = [
            (name.lower().encode(), value.encode())
            for name, value in {**_HEADERS, "Content-Security-Policy": policy}.items()
        ]

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        """Answer a request or a socket."""

        async def with_headers(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", []), *self._headers]
            await send(message)

        reason = self._door.refusal(scope)
        if not reason:
            await self._app(scope, receive, with_headers)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008, "reason": reason[:100]})
        else:
            await PlainTextResponse(reason, 403)(scope, receive, with_headers)


def application(labeller: Labeller, door: Door) -> Guard:
    """The app, guarded.

    Args:
        labeller: what it shows.
        door: who may come in.
    """

    async def page(request: Request) -> Response:
        if door.knows(request.headers.get("cookie", "")):
            text = (_HERE / "page.html").read_text("utf-8")
            return HTMLResponse(text.replace("{program}", door.program))
        if not door.is_for(request.scope):
            return PlainTextResponse("Expected the user who started this. Received: another", 403)
        session = door.exchange(request.query_params.get("token", ""))
        if session is None:
            return HTMLResponse((_HERE / "locked.html").read_text("utf-8"), 403)
        # A page and no redirect: where the link was clicked elsewhere, browsers would not send a
        # strict cookie along with the redirect.
        answer = HTMLResponse(_SIGN_IN)
        answer.set_cookie(door.cookie, session, httponly=True, samesite="strict", path="/")
        return answer

    async def live(websocket: WebSocket) -> None:
        if not door.knows(websocket.headers.get("cookie", "")):
            await websocket.close(1008)
            return
        await websocket.accept()
        await _Line(websocket, labeller, door.program).hold()

    assets = [Route(path, partial(_asset, file)) for path, file in _assets().items()]
    routes = [Route("/", page), WebSocketRoute("/live", live), *assets]
    return Guard(Starlette(routes=routes), door)


def _assets() -> dict[str, Path]:
    """The files that pages may load, by their paths: these and no others."""
    homes = {"photos": _HERE, "drawings": _HERE.parent / "drawings"}
    return {
        f"/{name}/{file.name}": file
        for name, home in homes.items()
        for file in sorted(home.iterdir())
        if file.suffix in _TYPES
    }


def _asset(file: Path, _: Request) -> Response:
    return Response(file.read_bytes(), media_type=_TYPES[file.suffix])


# --- The socket ---------------------------------------------------------------------------------


def packed(header: dict[str, Any], buffers: Sequence[bytes] = ()) -> bytes:
    """A message as one frame."""
    lengths = [len(one) for one in buffers]
    text = json.dumps({**header, "lengths": lengths}, separators=(",", ":")).encode()
    return b"".join([struct.pack("<I", len(text)), text, *buffers])


def unpacked(frame: bytes) -> tuple[dict[str, Any], list[bytes]]:
    """The header of a frame, and its buffers.

    Raises:
        ValueError: it is none.
    """
    if len(frame) < 4:
        raise ValueError(f"Expected a frame. Received: {len(frame)} bytes")
    (length,) = struct.unpack_from("<I", frame)
    header = json.loads(frame[4 : 4 + length])
    lengths = header.get("lengths") if isinstance(header, dict) else None
    if not isinstance(lengths, list) or not all(type(n) is int and n >= 0 for n in lengths):
        raise ValueError("Expected a header with `lengths`. Received: another")
    if 4 + length + sum(lengths) != len(frame):
        raise ValueError(f"Expected {4 + length + sum(lengths)} bytes. Received: {len(frame)}")
    buffers, start = [], 4 + length
    for one in lengths:
        buffers.append(frame[start : start + one])
        start += one
    return header, buffers


class _Line:
    """One page that is open.

    Args:
        websocket: to it.
        labeller: what it shows.
        program: word by which the page knows that it is we who listen here, and not somebody who
            has come to this port after us.
    """

    def __init__(self, websocket: WebSocket, labeller: Labeller, program: str) -> None:
        self._socket, self._labeller, self._program = websocket, labeller, program
        self._news = asyncio.Event()
        self._free = asyncio.Semaphore(_AT_ONCE)
        self._tasks: set[asyncio.Task[None]] = set()

    async def hold(self) -> None:
        """Until the page is closed."""
        loop = asyncio.get_running_loop()
        end = self._labeller.subscribe(lambda: loop.call_soon_threadsafe(self._news.set))
        self._news.set()
        telling = asyncio.create_task(self._tell())
        try:
            await self._hear()
        except WebSocketDisconnect:
            pass
        finally:
            end()
            for task in (telling, *self._tasks):
                task.cancel()

    async def _tell(self) -> None:
        while True:
            await self._news.wait()
            self._news.clear()
            try:
                state = await asyncio.to_thread(self._labeller.state)
            except (
                OSError
            ) as error:  # a folder that goes while we look, a drive that was pulled out
                log.warning("the photos' folder cannot be read: %s", error)
                await asyncio.sleep(_AGAIN)
                self._news.set()
                continue
            with suppress(RuntimeError, WebSocketDisconnect):  # closed meanwhile
                await self._socket.send_bytes(packed({"state": state, "program": self._program}))
            await asyncio.sleep(_PACE)

    async def _hear(self) -> None:
        while True:
            frame = await self._socket.receive_bytes()
            await self._free.acquire()
            task = asyncio.create_task(self._answer(frame))
            self._tasks.add(task)
            task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._free.release()
        if not task.cancelled() and task.exception() is not None:
            log.error("a message was not answered", exc_info=task.exception())

    async def _answer(self, frame: bytes) -> None:
        try:
            header, buffers = unpacked(frame)
        except ValueError:
            await self._socket.close(1003)
            return
        content = header.get("content")
        answer, back = await asyncio.to_thread(self._labeller.handle, content, buffers)
        if isinstance(content, dict):
            answer = {**answer, "re": content.get("re")}
        with suppress(RuntimeError, WebSocketDisconnect):
            await self._socket.send_bytes(packed({"content": answer}, back))


# --- Running ------------------------------------------------------------------------------------


def _listening(port: int) -> socket.socket:
    found = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        found.bind((HOST, port))
    except OSError:
        found.close()
        raise
    return found


def _server(labeller: Labeller, door: Door) -> uvicorn.Server:
    config = uvicorn.Config(
        application(labeller, door),
        ws_max_size=MESSAGE_LIMIT,
        ws_max_queue=_AT_ONCE,
        ws_per_message_deflate=False,  # photos are compressed, and bombs would be too
        limit_concurrency=64,
        lifespan="off",
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=3,
    )
    return uvicorn.Server(config)


def run(
    labeller: Labeller,
    *,
    port: int = 0,
    open_browser: bool = True,
    on_ready: Callable[[str], object] = lambda _: None,
) -> None:
    """Serve the page until Ctrl-C or SIGTERM.

    Args:
        labeller: what it shows.
        port: of 127.0.0.1; a free one when 0.
        open_browser: open the page in the person's browser.
        on_ready: told the link, which lets one browser in, once.

    Raises:
        OSError: the port is taken.
    """
    with _listening(port) as listener:
        door = Door(listener.getsockname()[1])
        labeller.start()
        on_ready(door.link)
        if open_browser:
            threading.Thread(target=webbrowser.open, args=(door.link,), daemon=True).start()
        try:
            with _sigterm_interrupts():
                _server(labeller, door).run(sockets=[listener])
        finally:
            labeller.close()


@contextmanager
def _sigterm_interrupts() -> Iterator[None]:
    """uvicorn ends in good order and then lets the signal be: a round must be given back first."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def running(labeller: Labeller, port: int = 0) -> Iterator[Door]:
    """The page, served from a thread; gives its door.

    Example:
        >>> with running(labeller) as door:
        ...     door.link.startswith(door.address)
        True
    """
    with _listening(port) as listener:
        door = Door(listener.getsockname()[1])
        listener.listen()  # whoever comes before the thread runs waits
        server = _server(labeller, door)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        labeller.start()
        thread.start()
        try:
            yield door
        finally:
            server.should_exit = True
            thread.join()
            labeller.close()
