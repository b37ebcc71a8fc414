"""Being told when there is something to do, so that nobody has to ask again and again.

    with Wake(transport) as wake:
        while wake.wait(60.0):
            for news in wake.news():
                ...

One WebSocket, held open by a thread of its own. It carries hints, a few bytes each, and nothing
else does harm when one is lost: who is woken asks the server as ever, and who is not connected
asks by the long poll. So this may fail in every way, and says nothing but "not connected".

A server is not believed here either: it cannot send us elsewhere, and what is larger, faster or
other than a sound server would send ends the connection, for longer each time.
"""

from __future__ import annotations

import json
import logging
import ssl
import threading
import time
from collections import deque
from collections.abc import Mapping
from typing import Any, NamedTuple

import httpx
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException
from websockets.frames import CONT, Frame
from websockets.sync.client import ClientConnection, connect

from client_sdk.backoff import backoff
from client_sdk.errors import ParticipantError, ServerRefused
from client_sdk.transport import Transport, is_local, user_agent

log = logging.getLogger("client_sdk")

PATH = "ws/participant/"
CONNECTED = "connected"  # kinds of our own, beside the server's
REFUSED = "refused"
# After these there may be something to do; all others tell what became of what was done.
WORK = frozenset(
    {CONNECTED, "evaluation.opened", "round.opened", "round.has_room", "assignment.invited"}
)

_MESSAGE_LIMIT = 16 * 1024  # bytes
_KEPT = 64  # news that nobody has asked for; the oldest are forgotten first
_FRAMES, _WHILE = 240, 10.0  # of any kind, in so many seconds: pings as well
_OPENING, _CLOSING = 10.0, 2.0  # seconds
_PING = 20.0  # seconds, and as many until the other side is taken for dead
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 30.0
_NOT_SERVED_PAUSE = 300.0
_SETTLED = 30.0  # seconds after which a connection has proved to be a good one
# The server's words for: your token has ended; you may not.
_TOKEN_ENDED, _NOT_ALLOWED = 4401, 4403


class News(NamedTuple):
    """Something that the server told.

    Args:
        kind: as in the server's journal (`round.opened`), or `connected`: what happened before is
            not told, so ask; or `refused`: ask, and the answer says why.
        round: the round that it is about, if any.
        assignment: our assignment that it is about, if any.
    """

    kind: str
    round: int | None = None
    assignment: int | None = None


class Wake:
    """A connection over which the server says that there is something to do.

    It connects, and connects anew when it is lost, in a thread of its own until it is closed.

    Args:
        transport: of the participant; names the server and gets the tokens.

    Example:
        >>> with Wake(transport) as wake:
        ...     wake.wait(0.1)  # nobody answers there
        False
    """

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        url = httpx.URL(transport.url)
        self._url = str(url.copy_with(scheme="ws" if url.scheme == "http" else "wss"))
        self._url = f"{self._url.rstrip('/')}/{PATH}"
        self._here = is_local(url.host)
        self._tls: ssl.SSLContext | None = None
        self._news: deque[News] = deque(maxlen=_KEPT)
        self._changed = threading.Condition()
        self._told = self._lost = False
        self._line: _Line | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="fedclient-wake", daemon=True)
        self._thread.start()

    def __enter__(self) -> Wake:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def connected(self) -> bool:
        """Whether the server would be heard now."""
        return self._line is not None

    def wait(self, seconds: float) -> bool:
        """Wait until the server tells something, or has told it since the last time.

        Args:
            seconds: how long at most.

        Returns:
            True when there is news; False after the time, or as soon as the connection is lost,
            or has been lost since the last time.
        """
        until = time.monotonic() + seconds
        with self._changed:
            while not (self._told or self._lost or self._ended.is_set()):
                if (left := until - time.monotonic()) <= 0:
                    break
                self._changed.wait(left)
            if self._told:
                self._told = False
                return True
            self._lost = False
            return False

    def news(self) -> list[News]:
        """What was told since the last time this was asked, oldest first."""
        with self._changed:
            found = list(self._news)
            self._news.clear()
            return found

    def wake(self) -> None:
        """Let who waits go on, as if there were news; from any thread."""
        self._tell()

    def close(self) -> None:
        """Hang up."""
        self._ended.set()
        with self._changed:
            line = self._line
            self._changed.notify_all()
        if line is not None:
            line.close_socket()
        if threading.current_thread() is not self._thread:
            self._thread.join(_CLOSING)

    # --- The thread ---

    def _run(self) -> None:
        tries = 0
        while not self._ended.is_set():
            began = time.monotonic()
            longest = _LONGEST_PAUSE
            try:
                self._follow()
            except _Refusal as refusal:
                tries = max(tries, refusal.tries)
                longest = refusal.pause
                log.debug("not woken by a WebSocket: %s", refusal)
            except (OSError, WebSocketException, ParticipantError, ValueError) as error:
                log.debug("not woken by a WebSocket: %s", f"{type(error).__name__}: {error}"[:200])
            except Exception:  # the long poll goes on without us
                log.exception("the WebSocket stumbled")
                longest, tries = _NOT_SERVED_PAUSE, 16
            if time.monotonic() - began > _SETTLED:
                tries = 0
            self._ended.wait(backoff(tries, _FIRST_PAUSE, longest))
            tries += 1

    def _follow(self) -> None:
        """One connection, from its beginning to its end."""
        try:
            # A server that is away is waited for here: the others must not wait for us.
            token = self._transport.token(patience=0.0)
        except ServerRefused as refused:
            raise _Refusal(f"no token: {refused.code}", tries=16) from refused
        try:
            with self._connect(token) as line:
                assert isinstance(line, _Line)
                self._hear(line)
        except _Status as answer:
            raise self._refusal(answer.status) from None

    def _connect(self, token: str) -> ClientConnection:
        return connect(
            self._url,
            additional_headers={"Authorization": f"Bearer {token}"},
            user_agent_header=user_agent(),
            ssl=self._certificates(),
            # A proxy has no business between us and a server on this machine.
            proxy=None if self._here else True,
            compression=None,
            open_timeout=_OPENING,
            close_timeout=_CLOSING,
            ping_interval=_PING,
            ping_timeout=_PING,
            max_size=_MESSAGE_LIMIT,
            create_connection=_Line,
        )

    def _certificates(self) -> ssl.SSLContext | None:
        """What httpx trusts; plain ws goes to this machine alone, as the transport has checked."""
        if self._tls is None and self._url.startswith("wss:"):
            self._tls = httpx.create_ssl_context()
        return self._tls

    def _hear(self, line: _Line) -> None:
        with self._changed:
            self._line, self._lost = line, False
        self._tell(News(CONNECTED))
        try:
            while not self._ended.is_set():
                if news := _read(line.recv()):
                    self._tell(*news)
        except ConnectionClosed as closed:
            if line.cut_off or (closed.sent is not None and not closed.rcvd_then_sent):
                raise _Refusal("it says what a sound server does not", tries=16) from None
            self._tell_why(closed.rcvd.code if closed.rcvd else None)
        finally:
            with self._changed:
                self._line, self._lost = None, True
                self._changed.notify_all()

    def _tell(self, *news: News) -> None:
        with self._changed:
            self._news.extend(news)
            self._told = True
            self._changed.notify_all()

    def _tell_why(self, code: int | None) -> None:
        if code == _TOKEN_ENDED:
            self._transport.forget_token()
        elif code == _NOT_ALLOWED:
            self._tell(News(REFUSED))
            raise _Refusal("the server has closed: not allowed", tries=16)

    def _refusal(self, status: int) -> Exception:
        if status == 401:
            self._transport.forget_token()
            return _Refusal("the token has ended")
        if status >= 500 or status in (408, 425, 429):
            return OSError(f"status {status}")
        if status == 403:
            return _Refusal("not allowed", tries=16)
        return _Refusal(f"status {status}: not served there", _NOT_SERVED_PAUSE, tries=16)


class _Refusal(Exception):
    """The server does not want to be heard.

    Args:
        pause: seconds until the next try, once there were many.
        tries: as if there had been so many.
    """

    def __init__(self, reason: str, pause: float = _LONGEST_PAUSE, *, tries: int = 0) -> None:
        super().__init__(reason)
        self.pause, self.tries = pause, tries


class _Status(Exception):
    """An answer that opens no connection; it is never followed elsewhere."""

    def __init__(self, status: int) -> None:
        super().__init__(f"status {status}")
        self.status = status


class _Line(ClientConnection):
    """A connection that ends when it says too much, and follows no redirect."""

    def __init__(self, *args: Any, **options: Any) -> None:
        self.cut_off = False
        self._counted, self._since = 0, time.monotonic()
        super().__init__(*args, **options)

    def handshake(self, *args: Any, **options: Any) -> None:
        try:
            super().handshake(*args, **options)
        except InvalidStatus as refused:
            raise _Status(refused.response.status_code) from None

    def process_event(self, event: Any) -> None:
        if self.cut_off:
            return
        if isinstance(event, Frame) and self._is_too_much(event):
            self.cut_off = True
            self.close_socket()
            return
        super().process_event(event)

    def _is_too_much(self, frame: Frame) -> bool:
        now = time.monotonic()
        if now - self._since > _WHILE:
            self._counted, self._since = 0, now
        self._counted += 1
        # A message in pieces can have any number of them, all empty.
        return self._counted > _FRAMES or frame.opcode is CONT or not frame.fin


def _read(message: str | bytes) -> list[News]:
    """What a message tells.

    Raises:
        _Refusal: It is none that a sound server sends.
    """
    try:
        told = json.loads(message)["news"]
        return [_news(one) for one in told]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise _Refusal(f"Expected news. Received: {message[:80]!r}", tries=16) from None


def _news(one: Mapping[str, Any]) -> News:
    kind, about = one["kind"], [one.get("round"), one.get("assignment")]
    if not isinstance(kind, str) or not all(id_ is None or type(id_) is int for id_ in about):
        raise TypeError
    return News(kind[:64], *about)
