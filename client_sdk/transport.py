"""The way to the server: one seam through which every request passes.

What it promises to the rest of the package:

1. It goes to the server named in the profile and nowhere else: no plain http to another
   machine, no redirects. Nothing of it is kept from one request to the next but the token.
2. A server that restarts or is away costs waiting: each request is repeated with jittered
   back-off, as `Retry-After` asks where it asks, for as long as the caller has patience.
3. A token that has ended is renewed once, and the request repeated.
4. Problem documents become typed errors.
5. Large bodies stream from and to files; a download goes on where it broke off, and is refused
   when it is longer than promised or has another digest.
6. Each request ends: at a time by which a slow connection has done it, and after as many bytes as
   an answer may have. What is packed is refused, for it may grow a thousandfold.

Tests put an `httpx.BaseTransport` in its place: see `client_sdk.testing`.
"""

from __future__ import annotations

import email.utils
import importlib.metadata
import ipaddress
import json
import logging
import math
import os
import platform
import random
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.cookiejar import DefaultCookiePolicy
from pathlib import Path
from typing import Any, TypeVar

import httpx

from client_sdk.backoff import backoff
from client_sdk.cache import BlobCache, digest_of
from client_sdk.deadlines import Clock, keep
from client_sdk.errors import (
    AddressRefused,
    CertificateRefused,
    IntegrityError,
    LoginRefused,
    ParticipantError,
    RedirectRefused,
    ServerDistrusted,
    ServerUnreachable,
    TooSlow,
    refusal,
)

log = logging.getLogger("client_sdk")

Login = Callable[["Transport", float | None], str]
Answer = TypeVar("Answer")

_TRY_AGAIN = (408, 425, 429, 500, 502, 503, 504)
_ANSWER_LIMIT = 16 << 20  # bytes of JSON
_VALUES_LIMIT = 10**6  # in it: three bytes of `[],` are sixty in memory
_ATTEMPT = 120.0  # seconds for one try, beside what its bytes need
_SLOWEST = 1 << 14  # bytes a second of the slowest connection that we go on with
_BLOB_WITHIN = 3600.0  # seconds for a blob with all its tries, beside what its bytes need
_CHUNK = 1 << 18
_FIRST_PAUSE, _LONGEST_PAUSE, _LONGEST_ASKED = 0.5, 30.0, 600.0


def version() -> str:
    """Version of the installed package."""
    try:
        return importlib.metadata.version("fedserver")
    except importlib.metadata.PackageNotFoundError:
        return "0"


def user_agent() -> str:
    """What every request says of who sends it."""
    return f"fedclient/{version()} python/{platform.python_version()}"


def check_address(url: str) -> str:
    """The server's address without a slash at its end.

    Raises:
        AddressRefused: when it is no http address, holds a password, or is plain http to
            another machine: join codes and tokens would be for everybody on the way to read.
    """
    try:
        parsed = httpx.URL(url)
    except (httpx.InvalidURL, TypeError):
        raise AddressRefused(f"Expected an address like https://host. Received: {url!r}") from None
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise AddressRefused(f"Expected an address like https://host. Received: {url!r}")
    if parsed.userinfo or parsed.query or parsed.fragment:
        shown = str(parsed.copy_with(userinfo=b"", query=None, fragment=None))
        raise AddressRefused(
            f"Expected an address without user, query or fragment. Received: {shown} with them"
        )
    if parsed.scheme == "http" and not is_local(parsed.host):
        raise AddressRefused(f"Expected https for another machine. Received: {url!r}")
    return str(parsed).rstrip("/")


def is_local(host: str) -> bool:
    """Whether a host is this machine."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Transport:
    """Requests to one server.

    Args:
        url: address of the server.
        login: gets a new token; called with this transport and the patience left.
        transport: what carries the requests, for tests; the network when None.
        on_wait: told the reason and the seconds before each pause.
        sleep: waits for seconds.

    Example:
        >>> with Transport("https://fed.example.org") as transport:
        ...     transport.get("", authenticated=False)["service"]
        'fedserver'
    """

    def __init__(
        self,
        url: str,
        *,
        login: Login | None = None,
        transport: httpx.BaseTransport | None = None,
        on_wait: Callable[[str, float], None] | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.url = check_address(url)
        self._login = login
        self._token: str | None = None
        self._token_lock = threading.Lock()
        self._on_wait = on_wait or log_wait
        self._sleep = sleep
        self._client = httpx.Client(
            transport=transport,
            # SSL_CERT_FILE counts on this machine as well, whatever becomes of its proxies.
            verify=httpx.create_ssl_context() if transport is None else True,
            headers={
                "User-Agent": user_agent(),
                "Accept-Encoding": "identity",
            },
            timeout=httpx.Timeout(60.0, connect=10.0),
            follow_redirects=False,
            # A proxy has no business between us and a server on this machine.
            trust_env=not is_local(httpx.URL(self.url).host),
        )
        # A server could have us keep, and show it, ever more of them.
        self._client.cookies.jar.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        self._clock = Clock()
        keep(self._clock, self._client)

    def __enter__(self) -> Transport:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def forget_token(self) -> None:
        """Log in anew at the next request."""
        self._token = None

    def token(self, patience: float | None = None) -> str:
        """The token of the next request, after a login where there is none."""
        return self._current_token(patience)

    def log_in(self, patience: float | None = None) -> None:
        """Log in anew at once."""
        self.forget_token()
        self._current_token(patience)

    # --- Requests ---

    def get(self, path: str, **options: Any) -> Any:
        """GET; see `request`."""
        return self.request("GET", path, **options)

    def post(self, path: str, body: Mapping[str, Any], **options: Any) -> Any:
        """POST of a JSON object; see `request`."""
        return self.request("POST", path, json=body, **options)

    def request(
        self,
        method: str,
        path: str,
        *,
        authenticated: bool = True,
        patience: float | None = None,
        within: float | None = None,
        file: Path | None = None,
        headers: Mapping[str, str] | None = None,
        before: Callable[[], object] | None = None,
        check: Callable[[], object] | None = None,
        **options: Any,
    ) -> Any:
        """One request, repeated until the server has answered.

        Args:
            method: HTTP method.
            path: below /api/v1/.
            authenticated: whether to send a token, logging in first where needed.
            patience: seconds to go on trying; None for ever.
            within: seconds for all tries together, the last one broken off; None for no limit.
            file: body to stream, read anew for each try.
            headers: more headers.
            before: called before each try; what it raises reaches the caller.
            check: called as the body leaves, piece by piece; what it raises breaks it off.
            **options: what httpx takes, such as `json` and `timeout`.

        Returns:
            The answer's JSON; None when it has no body.

        Raises:
            ServerUnreachable: when patience ends.
            TooSlow: when `within` ends.
            ServerRefused: for a problem document, by its code.
            ServerDistrusted: for an answer that a sound server would not give.
        """

        def attempt() -> Any:
            sent, length = dict(headers or {}), 0
            if before is not None:
                before()
            if file is not None:
                length = file.stat().st_size
                sent["Content-Length"] = str(length)
                sent["Content-Type"] = "application/octet-stream"
                options["content"] = _pieces(file, check)
            with (
                self._clock.limited(_ATTEMPT + length / _SLOWEST),
                self._answer(method, path, authenticated, patience, sent, options) as answer,
            ):
                return _json(answer)

        return self._persist(attempt, patience, within)

    def download(
        self,
        sha256: str,
        length: int,
        cache: BlobCache,
        *,
        patience: float | None = None,
        within: float | None = None,
        check: Callable[[], object] | None = None,
    ) -> Path:
        """A blob from the cache, or else from the server.

        Args:
            sha256: its digest.
            length: its length in bytes; not one more is accepted.
            cache: where it goes, and where a part of it may wait already.
            patience: seconds to go on trying; None for ever.
            within: seconds for all tries together; None for as many as its length may take.
            check: called as bytes come; what it raises breaks it off.

        Raises:
            IntegrityError: when what came has another length or digest.
            TooSlow: when it takes longer; what has come is kept for another time.
        """
        found = cache.find(sha256, length)
        if found is not None:
            return found
        within = _BLOB_WITHIN + length / _SLOWEST if within is None else within

        with cache.growing(sha256) as part:

            def attempt() -> None:
                with self._clock.limited(_ATTEMPT + length / _SLOWEST):
                    self._fetch(sha256, length, part, patience, check or (lambda: None))

            try:
                self._persist(attempt, patience, within)
            except IntegrityError:
                part.unlink(missing_ok=True)
                raise
            return part.replace(cache.path(sha256))

    def _fetch(
        self,
        sha256: str,
        length: int,
        part: Path,
        patience: float | None,
        check: Callable[[], object],
    ) -> None:
        have = part.stat().st_size if part.exists() else 0
        if have > length:
            os.truncate(part, 0)
            have = 0
        if have < length or length == 0:
            self._fetch_rest(sha256, length, part, have, patience, check)
        digest = digest_of(part)
        if digest != sha256 and have:  # the part that lay here may be the rotten one
            os.truncate(part, 0)
            raise _Away("a download that was resumed came out wrong")
        if digest != sha256:
            raise IntegrityError(f"Expected a blob with SHA-256 {sha256}. Received: {digest}")

    def _fetch_rest(
        self,
        sha256: str,
        length: int,
        part: Path,
        have: int,
        patience: float | None,
        check: Callable[[], object],
    ) -> None:
        headers = {}
        if have:
            headers = {"Range": f"bytes={have}-", "If-Range": f'"{sha256}"'}
        path = f"blobs/{sha256}"
        received = have
        with self._answer("GET", path, True, patience, headers, {}) as answer:
            if answer.status_code == 206:
                _check_range(answer.headers.get("Content-Range", ""), have, length)
            else:
                received = 0
            with part.open("ab" if received else "wb") as file:
                for piece in answer.iter_bytes(_CHUNK):
                    check()
                    received += len(piece)
                    if received > length:
                        break
                    file.write(piece)
        if received > length:
            raise IntegrityError(f"Expected a blob of {length} bytes. Received: more")
        if received < length:
            raise _Away(f"a download ended after {received} of {length} bytes")

    # --- One try ---

    @contextmanager
    def _answer(
        self,
        method: str,
        path: str,
        authenticated: bool,
        patience: float | None,
        headers: dict[str, str],
        options: Mapping[str, Any],
    ) -> Iterator[httpx.Response]:
        if authenticated:
            headers["Authorization"] = f"Bearer {self._current_token(patience)}"
        url = f"{self.url}/api/v1/{path}"
        try:
            with self._client.stream(method, url, headers=headers, **options) as answer:
                _check_encoding(answer)
                _check_status(answer, authenticated)
                yield answer
        except httpx.RequestError as error:
            raise _away(error) from error

    def _current_token(self, patience: float | None) -> str:
        with self._token_lock:
            if self._token is None:
                if self._login is None:
                    raise ParticipantError("Expected a participant that can log in. Received: none")
                self._token = self._login(self, patience)
            return self._token

    # --- Patience ---

    def _persist(
        self, attempt: Callable[[], Answer], patience: float | None, within: float | None = None
    ) -> Answer:
        began = time.monotonic()
        ends = math.inf if patience is None else began + patience
        over = math.inf if within is None else began + within
        tries, renewed = 0, False
        while True:
            try:
                with self._clock.limited(over - time.monotonic()):
                    return attempt()
            except _TokenEnded as ended:
                self.forget_token()
                if renewed:
                    raise ended.refusal from None
                renewed = True
            except _Away as away:
                pause = _pause(tries, away.retry_after)
                if time.monotonic() + pause > ends:
                    raise ServerUnreachable(
                        f"Expected an answer from {self.url}. Received: {away.reason}"
                    ) from away
                if time.monotonic() + pause > over:
                    raise TooSlow(
                        f"Expected all of it within {within:.0f} s. Received: {away.reason}"
                    ) from away
                self._on_wait(away.reason, pause)
                self._sleep(pause)
                tries, renewed = tries + 1, False


class _Away(Exception):
    """No answer for now; worth another try."""

    def __init__(self, reason: str, retry_after: float | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.retry_after = retry_after


class _TokenEnded(Exception):
    """The token was good once."""

    def __init__(self, refused: LoginRefused) -> None:
        super().__init__(refused)
        self.refusal = refused


def _pause(tries: int, asked: float | None) -> float:
    """Seconds to wait: as long as asked, or twice as long each time; never all at once."""
    if asked:
        return min(asked, _LONGEST_ASKED) * random.uniform(1.0, 1.25)  # noqa: S311 - no secret
    return backoff(tries, _FIRST_PAUSE, _LONGEST_PAUSE)


def log_wait(reason: str, seconds: float) -> None:
    """What happens before a pause when nobody else listens."""
    log.info("the server is away (%s); trying again in %.1f s", reason, seconds)


def _away(error: httpx.RequestError) -> Exception:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            reason = cause.verify_message
            return CertificateRefused(f"Expected a certificate to be trusted. Received: {reason}")
        cause = cause.__cause__ or cause.__context__
    if isinstance(error, httpx.DecodingError):
        return ServerDistrusted("Expected an answer as its headers say. Received: another encoding")
    return _Away(f"{type(error).__name__}: {error}"[:200])


def _check_encoding(answer: httpx.Response) -> None:
    encoding = answer.headers.get("Content-Encoding", "identity")
    if encoding.lower() not in ("", "identity"):
        raise ServerDistrusted(f"Expected what is not packed. Received: {encoding[:80]}")


def _check_status(answer: httpx.Response, authenticated: bool) -> None:
    status = answer.status_code
    if 200 <= status < 300:
        return
    if 300 <= status < 400:
        raise RedirectRefused(
            f"Expected an answer from {answer.request.url.host}. Received: redirect {status}"
        )
    if status == 416:
        raise IntegrityError("Expected the rest of a blob. Received: 416, there is no rest")
    problem = _problem(answer)
    if status in _TRY_AGAIN:
        reason = f"{status} {problem.get('detail') or problem.get('title') or ''}"[:200].strip()
        raise _Away(reason, _seconds(answer.headers.get("Retry-After")))
    refused = refusal(status, problem)
    if authenticated and status == 401 and isinstance(refused, LoginRefused):
        raise _TokenEnded(refused)
    raise refused


def _problem(answer: httpx.Response) -> dict[str, Any]:
    try:
        problem = _parse(_body(answer))
    except (ValueError, RecursionError):
        return {}  # a proxy's page
    return problem if isinstance(problem, dict) else {}


def _json(answer: httpx.Response) -> Any:
    body = _body(answer)
    if not body:
        return None
    try:
        return _parse(body)
    except (ValueError, RecursionError):
        kind = answer.headers.get("Content-Type", "no content type")[:80]
        raise ServerDistrusted(f"Expected JSON. Received: {kind}") from None


def _parse(body: bytes) -> Any:
    """JSON of a size that we have memory for, without the numbers that are none."""
    if sum(body.count(mark) for mark in (b",", b"[", b"{")) > _VALUES_LIMIT:
        raise ValueError(f"Expected at most {_VALUES_LIMIT} values. Received: more")
    return json.loads(body, parse_constant=_no_constant)


def _no_constant(name: str) -> float:
    raise ValueError(f"Expected a number. Received: {name}")


def _body(answer: httpx.Response) -> bytes:
    body = bytearray()
    for piece in answer.iter_bytes():
        body += piece
        if len(body) > _ANSWER_LIMIT:
            raise ServerDistrusted(f"Expected at most {_ANSWER_LIMIT} bytes. Received: more")
    return bytes(body)


def _seconds(retry_after: str | None) -> float | None:
    """`Retry-After` in seconds, whichever of its two forms it has (RFC 9110, section 10.2.3)."""
    if not retry_after:
        return None
    try:
        return max(0.0, float(retry_after))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(retry_after).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None


def _check_range(content_range: str, have: int, length: int) -> None:
    if content_range != f"bytes {have}-{length - 1}/{length}":
        expected = f"bytes {have}-{length - 1}/{length}"
        raise IntegrityError(f"Expected {expected}. Received: {content_range[:80]!r}")


def _pieces(path: Path, check: Callable[[], object] | None) -> Iterator[bytes]:
    with path.open("rb") as file:
        while piece := file.read(_CHUNK):
            if check is not None:
                check()
            yield piece
