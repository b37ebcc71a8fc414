"""The participants' hot doors: check-in, upload and download as plain ASGI in front of Django.

They stand here for three reasons. Django buffers a whole body before any view can refuse it; a
check-in may wait for half a minute and must not hold a thread; and a check-in is the one request
that every participant makes all the time. Everything else goes on to Django.
"""

import asyncio
import json
import logging
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from weakref import WeakValueDictionary

from django.conf import settings
from django.db import close_old_connections
from django.http.cookie import parse_cookie

from accounts.authentication import roles_shown
from accounts.roles import Role
from journal.hub import Hub
from journal.wish import Wish
from models_app import blobs
from models_app.errors import FedserverError
from rounds import capabilities, enrolment, handshake, intake, lifecycle, selectors, tasks
from rounds.api import documents, parsing, problems
from rounds.errors import (
    BlobNotFound,
    BodySilent,
    LengthRequired,
    NotAllowed,
    NotAuthenticated,
    RulesInvalid,
    TooLarge,
    UnsupportedBody,
)
from rounds.models import Participant

logger = logging.getLogger(__name__)

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Result = TypeVar("Result")

MAX_WAIT = 25.0  # seconds; proxies commonly cut a silent connection at 30 or 60
CHECK_IN_BYTES = 16_384
SILENCE = 60.0  # seconds without a byte of the body; who is gone without a word must not stay
CHUNK = 1 << 20
TELL_EVERY = 0.5  # seconds between the news of a long upload
UPLOADS_AT_ONCE = 2  # of one assignment: one that hangs, and the one that is to replace it
BODY_TYPES = ("application/octet-stream", "application/vnd.safetensors")

# Each thread keeps its database connection, so a request costs its queries and nothing more.
_rows = ThreadPoolExecutor(8, thread_name_prefix="door-rows")
_files = ThreadPoolExecutor(8, thread_name_prefix="door-files")
_places: WeakValueDictionary[int, asyncio.Semaphore] = WeakValueDictionary()


class Disconnected(Exception):
    """The other side hung up: nobody is there to answer."""


class ParticipantDoors:
    """The ASGI application in front of Django.

    Args:
        application: Where all other requests go.
    """

    def __init__(self, application: Callable[..., Awaitable[None]]) -> None:
        self._application = application

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            path = scope["path"].removeprefix(scope.get("root_path", ""))
            exchange = Exchange.of(scope, receive, send)
            for method, pattern, door in ROUTES:
                if scope["method"] == method and (match := pattern.fullmatch(path)):
                    return await _guard(exchange, door(exchange, *match.groups()))
            if refusal := await _not_for_django(exchange):
                return await exchange.problem(refusal)
        return await self._application(scope, receive, send)


async def _not_for_django(exchange: "Exchange") -> FedserverError | None:
    """Why Django must not see a request: it writes a whole body to disk before any view runs."""
    headers = exchange.headers
    told = headers.get("content-length", "0")
    # No more digits than any length has: servers skip zeros before a number, however many.
    is_length = told.isascii() and told.isdigit() and len(told) <= 18
    if "transfer-encoding" in headers or not is_length:
        return LengthRequired(f"Expected a Content-Length. Received: {told!r:.40}, or chunks")
    length, small = int(told), settings.DATA_UPLOAD_MAX_MEMORY_SIZE
    kind = headers.get("content-type", "").lower()
    limit, needed = small, Role.VIEWER
    if kind.startswith("multipart/form-data"):
        limit += 2 * settings.MAX_MODEL_BYTES  # a model and its examples
        needed = Role.OPERATOR
    elif kind.startswith("image/"):
        limit = settings.MAX_PHOTO_BYTES  # which Django keeps in memory
    if length > limit:
        return TooLarge(f"Expected at most {limit} bytes. Received: {length}", field="body")
    # As Django reads them: another program's odd cookie is no reason to refuse ours.
    session = parse_cookie(headers.get("cookie", "")).get(settings.SESSION_COOKIE_NAME, "")
    if length <= small:
        return None
    roles = await row(roles_shown, exchange.token, session)
    if not roles:
        return NotAuthenticated("Expected a sign-in before a large body. Received: none")
    if needed not in roles:
        return NotAllowed(f"Expected an {needed} before files so large. Received: {max(roles)}")
    return None


@dataclass(slots=True)
class Exchange:
    """One request and its answer."""

    headers: dict[str, str]
    receive: Receive
    send: Send
    began: bool = False
    body_read: bool = False

    @classmethod
    def of(cls, scope: Scope, receive: Receive, send: Send) -> "Exchange":
        headers = {k.decode("latin-1").lower(): v.decode("latin-1") for k, v in scope["headers"]}
        return cls(headers, receive, send)

    @property
    def token(self) -> str:
        return token_of(self.headers.get("authorization", ""))

    async def body(self) -> AsyncIterator[bytes]:
        """The body as it arrives. Raises Disconnected, and BodySilent when nothing comes."""
        more = True
        while more:
            try:
                async with asyncio.timeout(SILENCE):
                    message = await self.receive()
            except TimeoutError:
                raise BodySilent(
                    f"Expected the rest of the body. Received: nothing in {SILENCE:g} s"
                ) from None
            if message["type"] == "http.disconnect":
                raise Disconnected
            more = message.get("more_body", False)
            yield message.get("body", b"")
        self.body_read = True

    async def start(self, status: int, headers: dict[str, str]) -> None:
        self.began = True
        raw = [(name.encode(), value.encode()) for name, value in headers.items()]
        await self.send({"type": "http.response.start", "status": status, "headers": raw})

    async def json(self, status: int, document: Any, headers: dict[str, str] | None = None) -> None:
        body = json.dumps(document).encode()
        headers = {
            "content-type": "application/json",
            "content-length": str(len(body)),
            "cache-control": "no-store",
        } | (headers or {})
        if not self.body_read:
            headers["connection"] = "close"  # the rest of the body is not wanted
        await self.start(status, headers)
        await self.send({"type": "http.response.body", "body": body})

    async def problem(self, error: FedserverError) -> None:
        headers = {"content-type": problems.MEDIA_TYPE} | problems.headers(error)
        await self.json(error.status, problems.document(error), headers)


async def _guard(exchange: Exchange, work: Awaitable[None]) -> None:
    """Answer every error with its problem document."""
    try:
        await work
    except Disconnected:
        return
    except FedserverError as error:
        await exchange.problem(error)
    except Exception:
        logger.exception("A participant's request failed")
        if not exchange.began:
            headers = {"content-type": problems.MEDIA_TYPE}
            await exchange.json(500, problems.SERVER_FAILED, headers)


def token_of(authorization: str) -> str:
    """The bearer token of a header, or an empty string."""
    scheme, _, token = authorization.partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


async def row(verb: Callable[..., Result], *args: Any) -> Result:
    """Run something that needs the database in a thread that keeps a connection."""

    def call() -> Result:
        close_old_connections()
        try:
            return verb(*args)
        finally:
            close_old_connections()

    return await asyncio.get_running_loop().run_in_executor(_rows, call)


async def _file(work: Callable[..., Result], *args: Any) -> Result:
    return await asyncio.get_running_loop().run_in_executor(_files, work, *args)


# --- Check-in ---------------------------------------------------------------------------------


async def check_in(exchange: Exchange) -> None:
    """`POST /api/v1/check-in`: what to do, at once or as soon as there is something."""
    # The token first: nobody is heard who has not shown one.
    participant = await row(enrolment.authenticate, exchange.token)
    wait, models, sdk, evaluates = _parse_check_in(await _json_body(exchange, CHECK_IN_BYTES))
    if sdk and sdk != participant.sdk:
        await row(enrolment.note_sdk, participant, sdk)  # first, so that operators see what it is
    handshake.check(sdk or participant.sdk)

    def ask() -> dict[str, Any]:
        # Again each time: whoever was suspended while waiting must not be invited.
        participant = enrolment.authenticate(exchange.token)
        return documents.answer(lifecycle.check_in(participant, models, evaluates=evaluates))

    if not wait:
        await exchange.json(200, await row(ask))
        return
    async with Hub.of_this_loop().subscribe(*_news_for(participant)) as mailbox:
        answer = await row(ask)
        loop = asyncio.get_running_loop()
        until = loop.time() + wait
        gone = asyncio.create_task(_disconnect(exchange))
        try:
            while answer["action"] == "wait" and (left := until - loop.time()) > 0:
                news = asyncio.create_task(mailbox.take())
                await asyncio.wait((news, gone), timeout=left, return_when=asyncio.FIRST_COMPLETED)
                if gone.done() or not news.done():
                    news.cancel()
                if gone.done():
                    return
                # More than the mailbox holds, or anything at all.
                if news.done() and ((taken := news.result()) is None or taken[0]):
                    answer = await row(ask)
        finally:
            gone.cancel()
    if answer["action"] == "wait":
        answer["retry_after"] = 0.0  # it has waited here
    await exchange.json(200, answer)


def _news_for(participant: Participant) -> tuple[Wish, Wish]:
    """The events after which a waiting participant may have something to do."""
    own = {"assignment.invited", "participant.suspended", "participant.revoked"}
    return (
        Wish((("participant", participant.pk),), frozenset(own)),
        Wish(kinds=frozenset({"round.opened", "round.has_room", "evaluation.opened"})),
    )


async def _disconnect(exchange: Exchange) -> None:
    while (await exchange.receive())["type"] != "http.disconnect":
        pass


async def _json_body(exchange: Exchange, limit: int) -> dict[str, Any]:
    body = bytearray()
    async for part in exchange.body():
        body += part
        if len(body) > limit:
            raise TooLarge(f"Expected at most {limit} bytes. Received: more", field="body")
    try:
        document = json.loads(body or b"{}")
        parsing.bound_nesting(document)
    except (ValueError, RecursionError) as error:
        raise RulesInvalid(f"Expected JSON. Received: {error}", field="body") from error
    if not isinstance(document, dict):
        raise RulesInvalid(f"Expected a JSON object. Received: {document!r:.60}", field="body")
    return document


def _parse_check_in(
    document: dict[str, Any],
) -> tuple[float, list[str] | None, dict[str, Any] | None, bool]:
    known = {"wait", "models", "sdk", "evaluates"}
    if unknown := sorted(document.keys() - known):
        raise RulesInvalid(f"Expected {sorted(known)}. Received: {unknown}", field=unknown[0])
    wait, models, sdk = document.get("wait", 0), document.get("models"), document.get("sdk")
    if type(wait) not in (int, float) or not 0 <= wait <= MAX_WAIT:
        raise RulesInvalid(
            f"Expected 0 to {MAX_WAIT:g} seconds. Received: {wait!r:.60}", field="wait"
        )
    slugs = isinstance(models, list) and len(models) <= 100
    if models is not None and not (slugs and all(_is_plain(slug) for slug in models)):
        raise RulesInvalid(
            f"Expected at most 100 slugs of models. Received: {models!r:.60}", field="models"
        )
    if sdk is not None and not _are_versions(sdk):
        raise RulesInvalid(
            "Expected at most 20 versions by name, and `capabilities` as a list of names. "
            f"Received: {sdk!r:.60}",
            field="sdk",
        )
    evaluates = document.get("evaluates", False)
    if not isinstance(evaluates, bool):
        detail = f"Expected true or false. Received: {evaluates!r:.60}"
        raise RulesInvalid(detail, field="evaluates")
    return float(wait), models, sdk, evaluates


def _are_versions(sdk: Any) -> bool:
    return (
        isinstance(sdk, dict)
        and len(sdk) <= 20
        and all(_is_plain(name) for name in sdk)
        and all(
            capabilities.are_names(value)
            if name == "capabilities"
            else _is_plain(value) or _is_small(value)
            for name, value in sdk.items()
        )
    )


def _is_small(value: Any) -> bool:
    return type(value) is int and abs(value) < 2**31


def _is_plain(text: Any) -> bool:
    """A short text that a database takes: JSON can spell NUL and half a character too."""
    return isinstance(text, str) and len(text) <= 100 and text.isprintable()


# --- Upload -----------------------------------------------------------------------------------


async def upload(exchange: Exchange, assignment: str) -> None:
    """`PUT /api/v1/assignments/{id}/update`: to disk as it comes, in bounded memory."""
    participant = await row(enrolment.authenticate, exchange.token)
    length = _declared_length(exchange.headers)
    place = _places.setdefault(int(assignment), asyncio.Semaphore(UPLOADS_AT_ONCE))
    async with place:
        await _receive(exchange, participant, int(assignment), length)


async def _receive(
    exchange: Exchange, participant: Participant, assignment: int, length: int
) -> None:
    admission = await row(
        lambda: intake.admit(
            participant,
            assignment,
            length=length,
            manifest=exchange.headers.get("fedserver-manifest", ""),
            signature=exchange.headers.get("fedserver-signature", ""),
        )
    )
    if admission.receipt is not None:
        await exchange.json(200, admission.receipt)
        return
    landing = await _file(intake.Landing, length)
    try:
        await _land(exchange, landing, admission)
        receipt = await row(_settle, admission, landing)
    finally:
        await _file(landing.close)
    await exchange.json(200, receipt)


def _settle(admission: intake.Admission, landing: intake.Landing) -> dict[str, Any]:
    receipt = intake.settle(admission, landing)
    if intake.wants_step(admission.assignment):
        tasks.ring(admission.assignment.round_id)
    return receipt


def _declared_length(headers: dict[str, str]) -> int:
    if encoding := headers.get("content-encoding"):
        raise UnsupportedBody(
            f"Expected no Content-Encoding. Received: {encoding}", field="content-encoding"
        )
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in BODY_TYPES:
        raise UnsupportedBody(f"Expected {BODY_TYPES[0]}. Received: {kind}", field="content-type")
    length = headers.get("content-length", "")
    if not (length.isascii() and length.isdigit() and len(length) <= 18):
        raise LengthRequired(
            f"Expected a Content-Length. Received: {length!r}", field="content-length"
        )
    return int(length)


async def _land(exchange: Exchange, landing: intake.Landing, admission: intake.Admission) -> None:
    """Two buffers: one fills from the network while the other is hashed and written."""
    buffer, writing = bytearray(), None
    told = time.monotonic()
    try:
        async for part in exchange.body():
            buffer += part
            if len(buffer) >= CHUNK:
                if writing is not None:
                    await writing
                writing = asyncio.ensure_future(_file(landing.write, buffer))
                buffer = bytearray()
                if time.monotonic() - told > TELL_EVERY:
                    told = time.monotonic()
                    await row(intake.tell, admission, landing.length)
        if writing is not None:
            await writing
        await _file(landing.write, buffer)
    except BaseException:
        if writing is not None:
            with suppress(Exception):
                await writing  # the file is closed only when nobody writes to it
        raise


# --- Download ---------------------------------------------------------------------------------


async def download(exchange: Exchange, sha256: str) -> None:
    """`GET /api/v1/blobs/{sha256}`: a version's weights, whole or a range of them."""
    participant = await row(enrolment.authenticate, exchange.token)
    if not await row(selectors.may_download, participant, sha256):
        raise BlobNotFound(f"Expected a blob of a version. Received: {sha256}")
    exchange.body_read = True
    headers = {
        "etag": f'"{sha256}"',
        "cache-control": "private, max-age=31536000, immutable",
        "accept-ranges": "bytes",
        "content-type": "application/octet-stream",
    }
    if exchange.headers.get("if-none-match") == headers["etag"]:
        await exchange.start(304, headers)
        await exchange.send({"type": "http.response.body"})
        return
    path = await _file(blobs.path, sha256)
    size = path.stat().st_size
    part = _range(exchange.headers, size, headers["etag"])
    if part is None:
        headers |= {"content-range": f"bytes */{size}", "content-length": "0"}
        await exchange.start(416, headers)
        await exchange.send({"type": "http.response.body"})
        return
    if len(part) < size:
        headers["content-range"] = f"bytes {part.start}-{part.stop - 1}/{size}"
    headers["content-length"] = str(len(part))
    await exchange.start(206 if len(part) < size else 200, headers)
    await _send_file(exchange, path, part)


def _range(headers: dict[str, str], size: int, etag: str) -> range | None:
    """The bytes that are asked for; None if there are no such bytes."""
    match = re.fullmatch(r"bytes=(\d{0,18})-(\d{0,18})", headers.get("range", ""))
    if not match or match.groups() == ("", "") or headers.get("if-range", etag) != etag:
        return range(size)
    first, last = match.groups()
    if not first:
        return range(max(0, size - int(last)), size) if int(last) else None
    stop = min(size, int(last) + 1) if last else size
    return range(int(first), stop) if int(first) < stop else None


async def _send_file(exchange: Exchange, path: Path, part: range) -> None:
    with path.open("rb", buffering=0) as file:
        file.seek(part.start)
        left = len(part)
        while left:
            chunk = await _file(file.read, min(CHUNK, left))
            left -= len(chunk)
            await exchange.send(
                {"type": "http.response.body", "body": chunk, "more_body": bool(left)}
            )
        if not part:
            await exchange.send({"type": "http.response.body"})


ROUTES: tuple[tuple[str, re.Pattern[str], Callable[..., Awaitable[None]]], ...] = (
    ("POST", re.compile(r"/api/v1/check-in"), check_in),
    ("PUT", re.compile(r"/api/v1/assignments/(\d{1,18})/update"), upload),
    ("GET", re.compile(r"/api/v1/blobs/([0-9a-f]{64})"), download),
)
