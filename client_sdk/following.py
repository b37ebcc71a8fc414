"""Following what happens on a server, for those who watch it: notebooks and operators' scripts.

    follower = Follower(transport, {"round": 7}, read=read, take=take)
    follower.start()
    ...
    follower.close()

A thread of its own reads what is to be shown, connects to the server's live socket, and hands on
what is told there. When the connection is lost it connects anew, and reads everything once more:
passing news are told once. Where no socket gets through it only reads, every other second. A server
that is away is waited for, however long; one that says no is not asked again.

Nothing here blocks an event loop, and none is needed: a notebook's kernel is busy for as long as a
cell runs, and what it shows should move all the same.
"""

from __future__ import annotations

import json
import logging
import os
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import httpx
from websockets.exceptions import WebSocketException
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Origin

from client_sdk.backoff import backoff
from client_sdk.errors import ParticipantError, ServerRefused
from client_sdk.transport import Transport, is_local, user_agent

log = logging.getLogger("client_sdk")

Event = dict[str, Any]

CONNECTING, LIVE, POLLING, OFFLINE = "connecting", "live", "polling", "offline"
REFUSED, ENDED = "refused", "ended"
STATUSES = (CONNECTING, LIVE, POLLING, OFFLINE, REFUSED, ENDED)

_PATH = "ws/live/"
_FRAME_LIMIT = 16 << 20  # bytes; a burst of news is one frame
_READING = 10.0  # seconds for one reading
_OPENING, _CLOSING = 8.0, 1.0  # for the socket
_SILENCE = 30.0  # the server speaks every 10 to 20 seconds: after this it is gone
_POLL = 2.0  # seconds between readings where no socket gets through
_PATIENCE = 4.0  # seconds after which who connects again is cut off
_FIRST_PAUSE, _LONGEST_PAUSE, _LONGEST_WITHOUT_SOCKET = 0.25, 10.0, 30.0


class Follower:
    """Hands on what happens, in a thread of its own, until it is closed.

    Args:
        transport: the way to the server.
        wish: what to hear of, as the live socket takes it: ids of subjects by name, and `kinds`;
            looked at whenever it connects, so that `read` may complete it.
        read: reads what is shown anew, and answers the cursor that it contains; None where it
            knows none, then it is called once more when the socket is open.
        take: is given events, in order; some may be in what was read already.
        tell: is told the status (`STATUSES`) and a sentence for people, whenever they change.
        together: seconds between two calls of `take`, at least; what comes meanwhile is joined.

    `read`, `take` and `tell` are called in the follower's thread, never two at a time. They call
    `finish` when there is nothing more to follow.
    """

    def __init__(
        self,
        transport: Transport,
        wish: Mapping[str, Any],
        *,
        read: Callable[[], int | None],
        take: Callable[[list[Event]], None],
        tell: Callable[[str, str], None] = lambda status, sentence: None,
        together: float = 0.0,
    ) -> None:
        self._transport = transport
        self._wish = wish
        self._together = together
        self._taken_at = float("-inf")
        self._read, self._take, self._tell_host = read, take, tell
        url = httpx.URL(transport.url)
        address = url.copy_with(scheme="ws" if url.scheme == "http" else "wss")
        self._url = f"{str(address).rstrip('/')}/{_PATH}"
        self._origin = Origin(f"{url.scheme}://{url.netloc.decode()}")
        self._here = is_local(url.host)
        self._tls: ssl.SSLContext | None = None
        self._line: ClientConnection | None = None
        self._ended = threading.Event()
        self._over = False
        self._status = ("", "")
        self._lost_at = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="fedserver-follower", daemon=True)

    def start(self) -> None:
        """Begin to follow."""
        self._thread.start()

    @property
    def status(self) -> str:
        """One of `STATUSES`."""
        return self._status[0] or CONNECTING

    @property
    def running(self) -> bool:
        """Whether it follows still."""
        return self._thread.is_alive() and not self._ended.is_set()

    def finish(self) -> None:
        """There is nothing more to follow: the thread ends by itself, and tells so."""
        self._over = True
        self._ended.set()

    def close(self, *, wait: bool = True) -> None:
        """Follow no longer, from whichever thread; nothing more is told.

        Args:
            wait: whether to wait until its thread has ended, a second at most.
        """
        self._ended.set()
        line = self._line
        if line is not None:
            line.close_socket()
        if wait and threading.current_thread() is not self._thread:
            self._thread.join(_CLOSING)

    # --- The thread ---

    def _run(self) -> None:
        try:
            self._go_on()
        except Exception:
            log.exception("following stumbled")
            self._tell(OFFLINE, "Following has ended by a mistake of ours; the log tells more.")

    def _go_on(self) -> None:
        self._tell(CONNECTING, "")
        failures = 0  # of the socket, in a row
        try_socket_at = 0.0
        while not self._ended.is_set():
            try:
                cursor = self._read()
                if time.monotonic() >= try_socket_at:
                    failures = self._hear(cursor, failures)
                    pause = backoff(failures, _FIRST_PAUSE, _LONGEST_PAUSE)
                    without = backoff(failures, _FIRST_PAUSE, _LONGEST_WITHOUT_SOCKET)
                    try_socket_at = time.monotonic() + (without if failures >= 2 else 0.0)
                if failures >= 2:  # the first may have come too early
                    self._tell(POLLING, "WebSockets do not get through: news comes now and then.")
                    pause = _POLL
            except ServerRefused as refused:
                self._tell(REFUSED, _said(refused))
                return
            except ParticipantError as error:
                failures += 1
                pause, try_socket_at = backoff(failures, _FIRST_PAUSE, _LONGEST_PAUSE), 0.0
                self._away(str(error))
            self._ended.wait(pause)
        if self._over:
            self._tell(ENDED, "")

    def _hear(self, cursor: int | None, failures: int) -> int:
        """One connection to the socket: how many failed in a row, when it has ended."""
        heard = False
        try:
            with self._connect() as line:
                self._line = line
                if self._ended.is_set():
                    return 0
                after = {} if cursor is None else {"after": cursor}
                line.send(json.dumps({**after, **self._wish}))
                while not self._ended.is_set():
                    events = _events(line.recv(timeout=_SILENCE))
                    if not heard and cursor is None:
                        self._read()  # what happened between the reading and the subscription
                    heard = True
                    self._tell(LIVE, "")
                    if events:
                        self._hand_on(events, line)
        except (OSError, WebSocketException) as error:
            if not self._ended.is_set():
                log.debug("the live socket: %s", f"{type(error).__name__}: {error}"[:200])
        finally:
            self._line = None
        if heard:
            self._lost_at = time.monotonic()
            if not self._ended.is_set():
                self._tell(CONNECTING, "")
        return 0 if heard else failures + 1

    def _hand_on(self, events: list[Event], line: ClientConnection) -> None:
        """What has come, and what comes until it may be handed on."""
        until = self._taken_at + self._together
        while (left := until - time.monotonic()) > 0:
            try:
                events += _events(line.recv(timeout=left))
            except TimeoutError:
                break
        if not self._ended.is_set():
            self._take(events)
        self._taken_at = time.monotonic()

    def _connect(self) -> ClientConnection:
        if self._tls is None and self._url.startswith("wss:"):
            self._tls = httpx.create_ssl_context()
        return connect(
            self._url,
            origin=self._origin,  # none but a browser has one, and the server asks all for it
            additional_headers={"Authorization": f"Bearer {self._transport.token()}"},
            user_agent_header=user_agent(),
            ssl=self._tls,
            proxy=None if self._here else True,
            compression=None,
            open_timeout=_OPENING,
            close_timeout=_CLOSING,
            max_size=_FRAME_LIMIT,
        )

    def _away(self, why: str) -> None:
        cut_off = time.monotonic() - self._lost_at > _PATIENCE or self._status[0] == OFFLINE
        self._tell(OFFLINE if cut_off else CONNECTING, why if cut_off else "")

    def _tell(self, status: str, sentence: str) -> None:
        closed = self._ended.is_set() and not self._over
        if (status, sentence) != self._status and not closed:
            self._status = (status, sentence)
            self._tell_host(status, sentence)


def _events(frame: str | bytes) -> list[Event]:
    try:
        events: list[Event] = json.loads(frame)["events"]
    except (ValueError, KeyError, TypeError) as error:
        raise OSError("Expected a frame of events. Received: something else") from error
    return events


def personal(url: str, token: str | None = None) -> tuple[Transport, str]:
    """The way to a server for a person who shows a personal token.

    Args:
        url: the server's address.
        token: from the profile page, or `manage.py personal_token`; None for the environment's
            `FEDSERVER_TOKEN`, so that no notebook need hold one. Where `FEDSERVER_URL` says whose
            it is, no other server is shown it.

    Returns:
        The way, and the token.

    Raises:
        AddressRefused: plain http to another machine, or no address at all.
        TokenMissing: no token here, and none in the environment, or that is for another server.
    """
    shown = token or os.environ.get("FEDSERVER_TOKEN", "")
    if not shown:
        raise TokenMissing("Expected a personal token, here or in FEDSERVER_TOKEN. Received: none")
    its = os.environ.get("FEDSERVER_URL", "")
    if not token and its and _who(its) != _who(url):
        raise TokenMissing(
            f"Expected a personal token for {url}, for the one in FEDSERVER_TOKEN is shown to "
            f"{its} (FEDSERVER_URL) alone. Received: none"
        )
    return Transport(url, login=lambda _, __: shown), shown


def _who(url: str) -> tuple[str, str, int | None]:
    """Scheme, host and port of a server; all names of this machine are one."""
    try:
        at = httpx.URL(url)
    except httpx.InvalidURL:
        return ("", url, None)
    port = at.port or {"http": 80, "https": 443}.get(at.scheme)
    return at.scheme, "localhost" if is_local(at.host) else at.host, port


class TokenMissing(ParticipantError):
    """Nobody has said which token to show."""


def read_patiently(transport: Transport, path: str) -> Any:
    """One reading for a follower, which is patient itself."""
    return transport.get(path, patience=0.0, timeout=_READING)


def _said(refused: ServerRefused) -> str:
    """Why a server says no, and what to do about it."""
    what = {
        401: "The token is not accepted: make one on the profile page of the dashboard.",
        403: "The token's role does not allow to see this.",
        404: "There is nothing of this id on the server.",
    }.get(refused.status, "The server refuses.")
    return f"{what} It says: {refused.detail}"
