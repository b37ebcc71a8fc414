"""The participants' WebSocket: who waits for work is told when there is some.

`ws/participant/`, opened with the token in the Authorization header. It says nothing but hints:

    {"news": [{"kind": "round.opened", "round": 7}]}

after which the participant asks as ever, by check-in or for its assignment. A hint that is lost
therefore costs a moment and no more. Nothing is expected from the other side, and nothing heard.

Who may not come is answered by a problem document in place of a connection. Who may not stay is
closed with 4401 (get another token) or 4403 (suspended or revoked), the problem's code as reason;
that is seen to at once when the journal tells of it, and for all sockets of the process together
every few seconds. The same look marks them all as seen: one query for each, however many there are.
"""

import asyncio
import json
import logging
from collections.abc import Collection
from functools import lru_cache
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

from django.db import Error

from accounts.models import digest
from journal.hub import Hub, Mailbox
from journal.wish import Wish
from models_app.errors import FedserverError
from rounds import enrolment
from rounds.api import problems
from rounds.api.doors import Receive, Scope, Send, row, token_of
from rounds.errors import ParticipantRevoked, ParticipantSuspended, TokenInvalid
from rounds.models import Participant

logger = logging.getLogger(__name__)

# Close codes, after HTTP's: token ended, not allowed, another connection took its place, nothing
# is to be said here.
UNAUTHENTICATED, FORBIDDEN, REPLACED, BAD_REQUEST = 4401, 4403, 4409, 4400
EVERY = 20.0  # seconds between two looks at everybody
PAUSE = 0.05  # seconds in which more news may join what is sent next
MOST = 500  # that one look looks at
AT_ONCE = 4  # sockets of one participant in a process: a lost one, and the one that replaces it

ROUNDS = frozenset(
    {
        "round.opened",
        "round.has_room",
        "round.published",
        "round.failed",
        "round.cancelled",
        "evaluation.opened",
    }
)
# What befalls a participant, and how its sockets are closed then.
ENDINGS = {
    "participant.suspended": (FORBIDDEN, ParticipantSuspended.code),
    "participant.revoked": (FORBIDDEN, ParticipantRevoked.code),
    "participant.left": (FORBIDDEN, ParticipantRevoked.code),
    "participant.rotated": (UNAUTHENTICATED, TokenInvalid.code),
}
OWN = frozenset(ENDINGS) | {
    f"assignment.{state}"
    for state in (
        "invited",
        "accepted",
        "quarantined",
        "rejected",
        "failed",
        "withdrawn",
        "late",
        "lost",
    )
}
TOLD = ("kind", "round", "assignment")
_SMALL: dict[str, Any] = {"separators": (",", ":")}


async def participant_socket(scope: Scope, receive: Receive, send: Send) -> None:
    """The ASGI application at `ws/participant/`."""
    await receive()  # its first message: somebody wants to connect
    token = token_of(dict(scope["headers"]).get(b"authorization", b"").decode("latin-1"))
    try:
        participant = await row(enrolment.authenticate, token)
    except FedserverError as error:
        await _refuse(scope, send, error)
        return
    socket = Socket(participant, token, receive, send)
    try:
        async with Hub.of_this_loop().subscribe(*_wishes(participant)) as mailbox:
            await send({"type": "websocket.accept"})
            await socket.live(mailbox)
    except OSError:
        pass  # it has gone


async def _refuse(scope: Scope, send: Send, error: FedserverError) -> None:
    if "websocket.http.response" not in scope.get("extensions", {}):
        await send({"type": "websocket.close"})
        return
    body = json.dumps(problems.document(error)).encode()
    headers = {"Content-Type": problems.MEDIA_TYPE} | problems.headers(error)
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "websocket.http.response.start", "status": error.status, "headers": raw})
    await send({"type": "websocket.http.response.body", "body": body})


def _wishes(participant: Participant) -> tuple[Wish, Wish]:
    """What it is told: what befalls itself, and rounds of the models that it may train."""
    about = () if participant.model_id is None else (("model", participant.model_id),)
    return Wish((("participant", participant.pk),), OWN), Wish(about, ROUNDS)


class Socket:
    """One participant that waits.

    Args:
        participant: Who it is.
        token: By which it is known.
        receive: What it says.
        send: What it is told.
    """

    def __init__(self, participant: Participant, token: str, receive: Receive, send: Send) -> None:
        self.participant, self.digest = participant.pk, digest(token)
        self._token, self._receive, self._send = token, receive, send
        self._over: asyncio.Future[tuple[int, str]] = asyncio.get_running_loop().create_future()

    async def live(self, mailbox: Mailbox) -> None:
        """Tell it what comes, until it goes or has to."""
        watch = Watch.of_this_loop()
        watch.admit(self)
        tasks = [asyncio.create_task(self._tell(mailbox)), asyncio.create_task(self._hear())]
        try:
            code, reason = await self._over
            await self._send({"type": "websocket.close", "code": code, "reason": reason})
        finally:
            watch.forget(self)
            for task in tasks:
                task.cancel()

    def dismiss(self, code: int, reason: str) -> None:
        """End it, for a reason that programs know."""
        if not self._over.done():
            self._over.set_result((code, reason))

    def refuse(self, error: FedserverError) -> None:
        """End it as one that may not stay."""
        self.dismiss(UNAUTHENTICATED if error.status == 401 else FORBIDDEN, error.code)

    async def _tell(self, mailbox: Mailbox) -> None:
        try:
            while True:
                taken = await mailbox.take()
                if taken is not None and not taken[0]:
                    continue  # the hub's own heart-beat: pings do the same here for fewer bytes
                news = MISSED if taken is None else [one for p in taken[0] for one in _brief(p)]
                if endings := [ENDINGS[one.kind] for one in news if one.kind in ENDINGS]:
                    self.dismiss(*endings[-1])
                    return
                text = f'{{"news":[{",".join(one.text for one in news)}]}}'
                await self._send({"type": "websocket.send", "text": text})
                await asyncio.sleep(PAUSE)
        except OSError as error:
            self._gone(error)
        except Exception as error:
            logger.exception("A participant's socket failed")
            self._gone(error)

    async def _hear(self) -> None:
        message = await self._receive()
        if message["type"] == "websocket.disconnect":
            self._gone(ConnectionResetError())
        else:
            self.dismiss(BAD_REQUEST, "nothing is to be said here")

    def _gone(self, error: Exception) -> None:
        if not self._over.done():
            self._over.set_exception(error)


class Brief(NamedTuple):
    """What participants are told of an event."""

    kind: str
    text: str


# More than could be kept: ask, as after connecting.
MISSED = (Brief("connected", '{"kind":"connected"}'),)


@lru_cache(maxsize=256)
def _brief(piece: str) -> tuple[Brief, ...]:
    """Kind, round and assignment of events, once for all who are told of them."""
    return tuple(
        Brief(one["kind"], json.dumps({name: one[name] for name in TOLD if name in one}, **_SMALL))
        for one in json.loads(f"[{piece}]")
    )


class Watch:
    """Looks after the sockets of one event loop. Use `Watch.of_this_loop()`."""

    _watches: WeakKeyDictionary[asyncio.AbstractEventLoop, "Watch"] = WeakKeyDictionary()

    def __init__(self) -> None:
        self._sockets: dict[int, list[Socket]] = {}
        self._rounds: asyncio.Task[None] | None = None

    @classmethod
    def of_this_loop(cls) -> "Watch":
        loop = asyncio.get_running_loop()
        if loop not in cls._watches:
            cls._watches[loop] = cls()
        return cls._watches[loop]

    def admit(self, socket: Socket) -> None:
        """Look after it; the oldest of many of one participant have to go."""
        theirs = self._sockets.setdefault(socket.participant, [])
        theirs.append(socket)
        for former in theirs[:-AT_ONCE]:  # many may come before the first of them has gone
            former.dismiss(REPLACED, "replaced")
        if self._rounds is None or self._rounds.done():
            self._rounds = asyncio.create_task(self._go_round())

    def forget(self, socket: Socket) -> None:
        """It has ended."""
        theirs = self._sockets[socket.participant]
        theirs.remove(socket)
        if not theirs:
            del self._sockets[socket.participant]

    async def _go_round(self) -> None:
        while self._sockets:
            await asyncio.sleep(EVERY)
            everyone = [socket for theirs in self._sockets.values() for socket in theirs]
            try:
                for start in range(0, len(everyone), MOST):
                    await self._look(everyone[start : start + MOST])
            except Error as error:  # of the database; one of a lost connection among them
                logger.warning("The participants' tokens cannot be read: %s", error)

    async def _look(self, some: Collection[Socket]) -> None:
        refusals = await row(enrolment.watch, {socket.digest for socket in some})
        for socket in some:
            if (error := refusals.get(socket.digest)) is not None:
                socket.refuse(error)
