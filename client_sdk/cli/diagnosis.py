"""test: each thing that taking part needs, looked at one by one.

A check that fails says what to do, and those that build on it are left out.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import os
import ssl
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any

import httpx

from client_sdk import errors, wire
from client_sdk.cli import codes
from client_sdk.cli.output import Output
from client_sdk.participant import Participant
from client_sdk.transport import check_address, is_local, user_agent, version
from client_sdk.wake import Wake

PATIENCE = 10.0
_PUSH = 3.0  # seconds for a WebSocket to open
_CLOCK = 60.0  # seconds that two clocks may differ
_CERTIFICATE = timedelta(days=14)
_ANSWER_LIMIT = 1 << 20

GOOD, WARNING, FAILED = "ok", "warning", "failed"


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at.

    Args:
        name: what it was.
        state: "ok", "warning" or "failed".
        detail: what was found.
        advice: what to do, where it is not ok.
        exit_code: that it leads to.
    """

    name: str
    state: str
    detail: str
    advice: str = ""
    exit_code: int = codes.OK


@dataclass(slots=True)
class _Found:
    """What the checks have found so far."""

    url: str = ""
    participant: Participant | None = None
    answer: httpx.Response | None = None
    body: bytes = b""
    certificate: dict[str, Any] | None = None
    told: dict[str, Any] = field(default_factory=dict)
    asked: datetime = datetime(1970, 1, 1, tzinfo=UTC)
    seconds: float = 0.0


class _Failed(Exception):
    """What comes after it would only repeat it."""

    def __init__(self, check: Check) -> None:
        self.check = check


def test(options: argparse.Namespace, out: Output) -> int:
    """Look at everything; answers with the exit code of the first check that failed."""
    found = _Found()
    checks: list[Check] = []
    try:
        for check in _checks(options, found):
            checks.append(check)
            _show(check, out)
    finally:
        if found.participant is not None:
            found.participant.close()
    code = next((check.exit_code for check in checks if check.state == FAILED), codes.OK)
    ready = "Ready to join." if options.url else "Ready to take part."
    out.say(ready if code == codes.OK else "Not ready: see above.")
    out.result({"url": found.url or None, "ok": code == codes.OK, "checks": checks})
    return code


def _show(check: Check, out: Output) -> None:
    out.mark(check.state, f"{check.name:<12} {check.detail}")
    if check.advice and check.state != GOOD:
        out.say(f"{'':<10}{'':<13}-> {check.advice}")


def _checks(options: argparse.Namespace, found: _Found) -> Iterator[Check]:
    yield _keras()
    try:
        yield _who(options, found)
        yield _reach(found)
        yield _certificate(found)
        yield _service(found)
        yield _versions(found)
        yield _clock(found)
        if found.participant is not None:
            yield _accepted(found.participant)
            yield _push(found.participant)
    except _Failed as failed:
        yield failed.check


def _keras() -> Check:
    # Looked for and not imported: that takes seconds.
    backend = os.environ.get("KERAS_BACKEND", "tensorflow")
    needed = {"keras": "keras", backend: backend, "PIL": "pillow"}
    missing = [name for module, name in needed.items() if importlib.util.find_spec(module) is None]
    if missing:
        advice = "pip install 'fedserver[client]'"
        detail = f"not installed: {', '.join(missing)}"
        return Check("installation", FAILED, detail, advice, codes.MISSING)
    keras = importlib.metadata.version("keras")
    return Check("installation", GOOD, f"fedclient {version()}, Keras {keras} on {backend}")


def _who(options: argparse.Namespace, found: _Found) -> Check:
    """The address to ask: the one given, or the profile's."""
    if options.url:
        found.url = check_address(options.url)
        return Check("profile", GOOD, f"none is needed to look at {found.url}")
    try:
        found.participant = Participant.load(options.profile)
    except errors.ProfileError as error:
        advice = "join first: fedclient join URL CODE; or name a server: fedclient test URL"
        raise _Failed(Check("profile", FAILED, str(error), advice, codes.NO_PROFILE)) from None
    mine = found.participant.profile
    found.url = mine.url
    return Check("profile", GOOD, f"{mine.name}, key in {mine.folder}")


def _reach(found: _Found) -> Check:
    """One request of our own, that tells more than a Transport's: it gives up at once."""
    local = is_local(httpx.URL(found.url).host)
    try:
        with httpx.Client(
            verify=httpx.create_ssl_context(),  # as a Transport: see there
            timeout=PATIENCE,
            headers={"User-Agent": user_agent()},
            follow_redirects=False,
            trust_env=not local,
        ) as client:
            found.asked = datetime.now(UTC)
            begin = time.monotonic()
            with client.stream("GET", f"{found.url}/api/v1/") as answer:
                found.seconds = time.monotonic() - begin
                found.certificate = _peer(answer)
                found.body = _read(answer)
    except httpx.HTTPError as error:
        raise _Failed(_unreachable(error, found.url)) from None
    found.answer = answer
    return Check("server", GOOD, f"{found.url} answers in {found.seconds * 1000:.0f} ms")


def _read(answer: httpx.Response) -> bytes:
    """The body, or nothing where it is too long for one."""
    body = bytearray()
    for piece in answer.iter_bytes():
        body += piece
        if len(body) > _ANSWER_LIMIT:
            return b""
    return bytes(body)


def _peer(answer: httpx.Response) -> dict[str, Any] | None:
    stream = answer.extensions.get("network_stream")
    tls = stream.get_extra_info("ssl_object") if stream is not None else None
    return tls.getpeercert() if tls is not None else None


def _unreachable(error: httpx.HTTPError, url: str) -> Check:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return _distrusted(cause)
        if isinstance(cause, ssl.SSLError):
            advice = "is this the right port, and does it speak https?"
            return Check("server", FAILED, f"no TLS: {cause}", advice, codes.UNREACHABLE)
        cause = cause.__cause__ or cause.__context__
    host = httpx.URL(url).host
    return Check("server", FAILED, str(error), _what_to_do(error, host), codes.UNREACHABLE)


def _distrusted(error: ssl.SSLCertVerificationError) -> Check:
    advice = (
        "a certificate of one's own authority: SSL_CERT_FILE=/path/to/authority.pem; "
        "otherwise tell the operator, and do not go on"
    )
    detail = f"not trusted: {error.verify_message}"
    return Check("certificate", FAILED, detail, advice, codes.UNREACHABLE)


def _what_to_do(error: httpx.HTTPError, host: str) -> str:
    text = str(error)
    if isinstance(error, httpx.ProxyError):
        return "ask who runs the proxy in HTTPS_PROXY whether it lets us through"
    if "Name or service" in text or "getaddrinfo" in text or "resolution" in text:
        return f"is {host} spelled right, and known to this machine's DNS?"
    if "refused" in text:
        return "is the server running, and this the right port?"
    if isinstance(error, httpx.TimeoutException):
        return "does a firewall let us out to it? A proxy is named by HTTPS_PROXY"
    return "is the address right, and does a firewall or proxy stand in between?"


def _certificate(found: _Found) -> Check:
    if found.certificate is None:
        detail = "none is needed: the server is this machine"
        return Check("certificate", GOOD, detail)
    ends = datetime.fromtimestamp(ssl.cert_time_to_seconds(found.certificate["notAfter"]), UTC)
    names = dict(part for part_of in found.certificate.get("issuer", ()) for part in part_of)
    issuer = names.get("organizationName") or names.get("commonName") or "an unnamed authority"
    detail = f"of {issuer}, good until {ends:%Y-%m-%d}"
    if ends - datetime.now(UTC) < _CERTIFICATE:
        return Check("certificate", WARNING, detail, "tell the operator that it ends soon")
    return Check("certificate", GOOD, detail)


def _service(found: _Found) -> Check:
    answer = found.answer
    assert answer is not None
    status = answer.status_code
    if 300 <= status < 400:
        detail = f"sends us to {answer.headers.get('Location', 'another address')}"
        advice = "join with that address, if it is the operator's"
        raise _Failed(Check("service", FAILED, detail, advice, codes.DISTRUSTED))
    try:
        told = json.loads(found.body)
    except (ValueError, RecursionError):
        told = None
    if status != 200 or not isinstance(told, dict) or told.get("service") != "fedserver":
        detail = f"something else answers, with HTTP status {status}"
        advice = "is the address right to the last slash? A proxy may answer in its place"
        raise _Failed(Check("service", FAILED, detail, advice, codes.DISTRUSTED))
    found.told = told
    return Check("service", GOOD, f"fedserver {told.get('version', '')}".strip())


def _versions(found: _Found) -> Check:
    spoken = found.told.get("wire")
    wires = spoken if isinstance(spoken, list) else []
    oldest = found.told.get("sdk", found.told.get("oldest_sdk"))
    oldest = oldest.get("oldest") if isinstance(oldest, dict) else oldest
    detail = f"wire {wire.WIRE_VERSION}, the server speaks {', '.join(map(str, wires)) or 'none'}"
    if wire.WIRE_VERSION not in wires:
        newer = any(isinstance(one, int) and one > wire.WIRE_VERSION for one in wires)
        update = "pip install --upgrade 'fedserver[client]'"
        advice = update if newer else "ask the operator to update the server"
        raise _Failed(Check("versions", FAILED, detail, advice, codes.VERSIONS))
    if isinstance(oldest, str):
        detail += f", and from client {oldest} on"
    return Check("versions", GOOD, detail)


def _clock(found: _Found) -> Check:
    """How far the two clocks are apart, as near as the way there and back tells."""
    assert found.answer is not None
    theirs = _their_time(found)
    if theirs is None:
        return Check("clock", WARNING, "the server does not tell its time", "nothing, most likely")
    apart = (theirs - found.asked).total_seconds() - found.seconds / 2
    if abs(apart) <= max(1.0, found.seconds):
        return Check("clock", GOOD, "as the server's")
    way = "behind" if apart > 0 else "ahead of"
    detail = f"{abs(apart):.0f} s {way} the server's"
    if abs(apart) <= _CLOCK:
        return Check("clock", GOOD, detail)
    advice = "set this machine's clock (timedatectl set-ntp true), or tell the operator"
    return Check("clock", WARNING, detail, advice)


def _their_time(found: _Found) -> datetime | None:
    assert found.answer is not None
    told: datetime | None = None
    with suppress(KeyError, ValueError, TypeError):
        told = parsedate_to_datetime(found.answer.headers["Date"])
    with suppress(KeyError, ValueError):
        told = datetime.fromisoformat(str(found.told["time"]))
    return told if told is None or told.tzinfo else told.replace(tzinfo=UTC)


def _accepted(participant: Participant) -> Check:
    try:
        participant.log_in(patience=PATIENCE)
    except errors.ParticipantError as error:
        code = codes.exit_code(error)
        advice = next((text for kind, text in _ADVICE if isinstance(error, kind)), "try again")
        raise _Failed(Check("accepted", FAILED, str(error), advice, code)) from None
    return Check("accepted", GOOD, f"as {participant.profile.name}")


_ADVICE: tuple[tuple[type[errors.ParticipantError], str], ...] = (
    (errors.VersionRefused, "pip install --upgrade 'fedserver[client]'"),
    (errors.ParticipantSuspended, "ask an operator to reinstate this participant"),
    (errors.ParticipantRevoked, "fedclient leave, and join anew with a code from an operator"),
    (
        errors.LoginRefused,
        "is the profile a copy, or from a backup? fedclient leave --here-only, and join anew",
    ),
)


def _push(participant: Participant) -> Check:
    """Whether rounds can be told at once."""
    with Wake(participant._transport) as push:
        ends = time.monotonic() + _PUSH
        while not push.connected and time.monotonic() < ends:
            push.wait(0.1)
        connected = push.connected
    if connected:
        return Check("push", GOOD, "a WebSocket tells of new rounds at once")
    advice = "let WebSockets through the proxy; until then rounds are noticed by asking"
    return Check("push", WARNING, "no WebSocket opens", advice)
