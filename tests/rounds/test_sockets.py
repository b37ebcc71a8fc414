"""The participants' WebSocket over a real server and a real Valkey."""

import json
import os
import select
import time
from base64 import b64encode
from collections.abc import Callable
from datetime import timedelta
from socket import create_connection
from socket import socket as raw_socket
from typing import Any
from urllib.parse import urlsplit

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection
from websockets.sync.client import connect as open_socket

from client_sdk import wire
from client_sdk.keys import Key
from models_app import registry
from models_app.models import Model
from rounds import clock, enrolment, lifecycle
from rounds.api import sockets
from rounds.models import Participant, ParticipantToken, Round
from tests.rounds.conftest import Enrolled, tiny_package
from tests.rounds.updates import all_check_in, carry, upload
from tests.serving import serving

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.timeout(60)]

Enrol = Callable[..., Enrolled]


@pytest.fixture
def charlie(enrolled: Enrol) -> Enrolled:
    return enrolled("charlie")


@pytest.fixture
def looking_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sockets, "EVERY", 0.05)


def waiting(server: str, token: str, **options: Any) -> ClientConnection:
    """A participant's program that waits to be told of something; use it as a context."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    url = f"{server.replace('http', 'ws')}/ws/participant/"
    return open_socket(url, additional_headers=headers, open_timeout=10, **options)


def told(socket: ClientConnection, count: int = 1) -> list[dict[str, Any]]:
    """The next news, so many of them."""
    found: list[dict[str, Any]] = []
    while len(found) < count:
        found += json.loads(socket.recv(10))["news"]
    return found


def closed(socket: ClientConnection) -> tuple[int, str]:
    """With what the server closes."""
    with pytest.raises(ConnectionClosed) as closing:
        told(socket, 1000)
    assert closing.value.rcvd is not None
    return closing.value.rcvd.code, closing.value.rcvd.reason


def start(model: Model, **rules: Any) -> Round:
    return lifecycle.start_run(lifecycle.create_run(model, **rules).pk)


# --- What is told -------------------------------------------------------------------------------


def test_charlie_is_told_of_a_round_his_place_and_his_verdict_in_few_bytes(
    server: str, tiny_model: Model, enrolled: Enrol
) -> None:
    charlie, dora = enrolled("charlie"), enrolled("dora")
    with waiting(server, charlie.token) as socket:
        round_ = start(tiny_model, rounds_planned=1)
        assert told(socket) == [{"kind": "round.opened", "round": round_.pk}]
        mine, _ = all_check_in(charlie, dora)
        about = {"round": round_.pk, "assignment": mine.pk}
        assert told(socket) == [{"kind": "assignment.invited", **about}]
        upload(charlie)
        upload(dora)
        carry(round_)
        assert told(socket, 2) == [
            {"kind": "assignment.accepted", **about},
            {"kind": "round.published", "round": round_.pk},
        ]


def test_who_is_bound_to_a_model_is_not_told_of_the_rounds_of_others(
    server: str, tiny_model: Model, enrolled: Enrol
) -> None:
    other = registry.create_model("other", tiny_package())
    with waiting(server, enrolled("charlie", model=tiny_model).token) as socket:
        start(other)
        mine = start(tiny_model)
        assert told(socket) == [{"kind": "round.opened", "round": mine.pk}]


def test_who_waits_is_seen(server: str, charlie: Enrolled, looking_often: None) -> None:
    long_ago = clock.now() - timedelta(hours=1)
    Participant.objects.update(last_seen_at=long_ago)
    with waiting(server, charlie.token) as socket:
        with pytest.raises(TimeoutError):
            socket.recv(0.5)
    assert Participant.objects.filter(last_seen_at__gt=long_ago).exists()


# --- Who may not come, and who may not stay -----------------------------------------------------


@pytest.mark.parametrize(
    ("deed", "code"),
    [
        (enrolment.suspend, "participant_suspended"),
        (enrolment.revoke, "participant_revoked"),
        (enrolment.leave, "participant_revoked"),
    ],
)
def test_who_is_sent_away_is_told_at_once(
    server: str, charlie: Enrolled, deed: Callable[..., None], code: str
) -> None:
    with waiting(server, charlie.token) as socket:
        deed(charlie.participant)
        assert closed(socket) == (4403, code)


def test_a_rotated_key_ends_the_sockets_of_the_old_one(server: str, charlie: Enrolled) -> None:
    new = Key.generate()
    signature = charlie.key.sign(wire.rotate_message(new.public))
    with waiting(server, charlie.token) as socket:
        enrolment.rotate(charlie.participant, public_key=new.public, signature=signature)
        assert closed(socket) == (4401, "token_invalid")


def test_a_token_ends_after_its_time(server: str, charlie: Enrolled, looking_often: None) -> None:
    with waiting(server, charlie.token) as socket:
        ParticipantToken.objects.update(expires_at=clock.now())
        assert closed(socket) == (4401, "token_expired")


def test_nobody_is_closed_while_the_token_is_good(
    server: str, charlie: Enrolled, looking_often: None
) -> None:
    with waiting(server, charlie.token) as socket, pytest.raises(TimeoutError):
        socket.recv(0.5)


@pytest.mark.parametrize(
    ("token", "status", "code"),
    [("", 401, "not_authenticated"), ("fsp_unknown", 401, "token_invalid")],
)
def test_a_stranger_gets_a_problem_document(
    server: str, valkey: str, token: str, status: int, code: str
) -> None:
    with pytest.raises(InvalidStatus) as refused, waiting(server, token):
        pass
    assert refused.value.response.status_code == status
    assert json.loads(refused.value.response.body or b"")["code"] == code


def test_a_suspended_charlie_is_refused(server: str, charlie: Enrolled) -> None:
    enrolment.suspend(charlie.participant)
    with pytest.raises(InvalidStatus) as refused, waiting(server, charlie.token):
        pass
    assert refused.value.response.status_code == 403
    assert json.loads(refused.value.response.body or b"")["code"] == "participant_suspended"


def test_pages_of_other_sites_are_refused_and_our_own_are_not(
    server: str, charlie: Enrolled
) -> None:
    with (
        pytest.raises(InvalidStatus) as refused,
        waiting(server, charlie.token, origin="https://evil.example"),
    ):
        pass
    assert refused.value.response.status_code == 403
    with waiting(server, charlie.token, origin=server):
        pass


def test_who_says_something_is_not_listened_to(server: str, charlie: Enrolled) -> None:
    with waiting(server, charlie.token) as socket:
        socket.send("{}")
        assert closed(socket)[0] == 4400


def test_the_newest_sockets_of_a_participant_stay(server: str, charlie: Enrolled) -> None:
    first, *others = [
        waiting(server, charlie.token, legacy=True) for _ in range(sockets.AT_ONCE + 1)
    ]
    assert closed(first) == (4409, "replaced")
    for socket in others:
        socket.ping().wait(10)
        socket.close()


def asks_and_says_no_more(server: str, token: str) -> raw_socket:
    """A program that opens a socket, and neither reads nor answers a thing."""
    at, key = urlsplit(server), b64encode(os.urandom(16)).decode()
    line = create_connection((at.hostname, at.port), 10)
    line.sendall(
        (
            f"GET /ws/participant/ HTTP/1.1\r\nHost: {at.netloc}\r\nConnection: Upgrade\r\n"
            f"Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n"
            f"Authorization: Bearer {token}\r\n\r\n"
        ).encode()
    )
    return line


def test_a_crowd_of_sockets_that_come_together_is_no_more_than_a_few(
    server: str, charlie: Enrolled
) -> None:
    there = [asks_and_says_no_more(server, charlie.token) for _ in range(40)]
    # Which of them stay is open: they come together, and are looked up side by side.
    until = time.monotonic() + 30
    while len(there) > sockets.AT_ONCE and time.monotonic() < until:
        for line in select.select(there, [], [], 0.1)[0]:
            if b"replaced" in line.recv(4096):
                there.remove(line)
                line.close()
    assert len(there) == sockets.AT_ONCE
    for line in there:
        line.close()


def test_it_is_found_below_a_prefix_that_a_proxy_takes_off(
    charlie: Enrolled, valkey: str, tiny_model: Model
) -> None:
    with serving(root_path="/fed") as port, waiting(f"http://127.0.0.1:{port}", charlie.token) as s:
        start(tiny_model)
        assert told(s)[0]["kind"] == "round.opened"


def test_there_is_no_other_socket(server: str, charlie: Enrolled) -> None:
    with (
        pytest.raises(InvalidStatus) as refused,
        open_socket(f"{server.replace('http', 'ws')}/ws/other/"),
    ):
        pass
    assert refused.value.response.status_code == 403
