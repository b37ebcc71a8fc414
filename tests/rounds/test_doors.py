"""The participants' hot doors, knocked at over real sockets: good visitors and all the bad ones."""

import io
import json
import pickle
import socket
import struct
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import httpx
import numpy as np
import pytest
from django.conf import settings
from django.contrib.auth.models import User
from django.test import Client

from accounts.models import PersonalToken
from client_sdk import wire
from journal.models import Event
from models_app import blobs
from models_app.models import Model
from rounds import clock, enrolment, intake, lifecycle
from rounds.api import doors
from rounds.models import Assignment, ParticipantToken, Round, Update
from tests.rounds.conftest import Enrolled
from tests.rounds.updates import all_check_in, manifest_of, update_bytes, wire_digest

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.timeout(60),
    pytest.mark.alike,  # those that are let in knock on both: tests/end_to_end
]

Enrol = Callable[..., Enrolled]


@dataclass
class Knock:
    """Charlie at the server's door, with an open assignment."""

    http: httpx.Client
    charlie: Enrolled
    dora: Enrolled
    mine: Assignment
    model: Model

    @property
    def good(self) -> bytes:
        return update_bytes(self.model, 1.0)

    def headers(
        self, body: bytes, *, key: Any = None, token: str | None = None, **tampered: Any
    ) -> dict[str, str]:
        """The headers of an upload; keyword arguments replace fields of its manifest."""
        fields = manifest_of(self.mine, body) | tampered
        manifest = json.dumps(
            {name: value for name, value in fields.items() if value is not ...}
        ).encode()
        return {
            "Authorization": f"Bearer {self.charlie.token if token is None else token}",
            "Content-Type": "application/octet-stream",
            "Fedserver-Manifest": wire.b64(manifest),
            "Fedserver-Signature": (key or self.charlie.key).sign(wire.update_message(manifest)),
        }

    def put(self, body: bytes, headers: dict[str, str] | None = None) -> httpx.Response:
        headers = self.headers(body) if headers is None else headers
        return self.http.put(self.path, content=body, headers=headers)

    @property
    def path(self) -> str:
        return f"/api/v1/assignments/{self.mine.pk}/update"


@pytest.fixture
def knock(server: str, tiny_model: Model, enrolled: Enrol) -> Iterator[Knock]:
    charlie, dora = enrolled("charlie"), enrolled("dora")
    lifecycle.start_run(lifecycle.create_run(tiny_model).pk)
    mine, _ = all_check_in(charlie, dora)
    blobs.sweep_spool(timedelta(seconds=-1))  # of what other tests left
    with httpx.Client(base_url=server, timeout=10) as http:
        yield Knock(http, charlie, dora, mine, tiny_model)


def nothing_was_written(knock: Knock) -> None:
    assert not Update.objects.exists()
    knock.mine.refresh_from_db()
    assert knock.mine.state == "invited"
    assert Round.objects.get().phase == "training"
    assert not list((settings.FEDSERVER_HOME / "spool").iterdir())


def expect_problem(response: httpx.Response, status: int, code: str) -> dict[str, Any]:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    problem: dict[str, Any] = response.json()
    assert (problem["code"], problem["status"]) == (code, status)
    assert problem["title"]
    assert problem["detail"]
    return problem


# --- Good visitors ------------------------------------------------------------------------------


def test_an_update_is_acknowledged_when_it_is_durable_and_again_with_the_same_receipt(
    knock: Knock,
) -> None:
    first, again = knock.put(knock.good), knock.put(knock.good)
    assert first.status_code == again.status_code == 200
    assert first.json() == again.json()
    assert first.json() | {"received_at": ""} == {
        "assignment": knock.mine.pk,
        "state": "uploaded",
        "digest": wire_digest(knock.good),
        "bytes": len(knock.good),
        "samples": 10,
        "received_at": "",
    }
    update = Update.objects.get()
    assert update.norm == pytest.approx(3.0)  # nine weights of 1
    assert Event.objects.filter(kind="assignment.uploaded").count() == 1


def test_a_waiting_check_in_is_answered_the_moment_a_round_opens(
    server: str, tiny_model: Model, enrolled: Enrol
) -> None:
    charlie = enrolled("charlie")
    run = lifecycle.create_run(tiny_model, cohort_min=1, quorum=1)
    answers: list[tuple[float, dict[str, Any]]] = []

    def wait() -> None:
        answer = httpx.post(
            f"{server}/api/v1/check-in",
            json={"wait": 20},
            headers={"Authorization": f"Bearer {charlie.token}"},
            timeout=30,
        )
        answers.append((time.monotonic(), answer.json()))

    thread = threading.Thread(target=wait)
    thread.start()
    time.sleep(0.7)
    opened = time.monotonic()
    lifecycle.start_run(run.pk)
    thread.join()
    answered, answer = answers[0]
    assert answer["action"] == "train"
    assert answered - opened < 2
    assert answer["assignment"]["version"]["weights"]["bytes"] > 0


def test_a_check_in_says_when_to_come_back(server: str, enrolled: Enrol) -> None:
    charlie = enrolled("charlie")
    headers = {"Authorization": f"Bearer {charlie.token}"}
    answer = httpx.post(f"{server}/api/v1/check-in", json={}, headers=headers).json()
    assert (answer["action"], answer["reason"]) == ("wait", "no_open_round")
    assert answer["retry_after"] > 0


def test_weights_come_whole_in_part_or_not_again(knock: Knock) -> None:
    version = knock.mine.round.base
    path, etag = f"/api/v1/blobs/{version.weights}", f'"{version.weights}"'
    headers = {"Authorization": f"Bearer {knock.charlie.token}"}
    whole = knock.http.get(path, headers=headers)
    assert (whole.status_code, whole.headers["etag"]) == (200, etag)
    assert wire_digest(whole.content) == version.weights
    assert "immutable" in whole.headers["cache-control"]
    part = knock.http.get(path, headers=headers | {"Range": "bytes=10-19"})
    assert (part.status_code, part.content) == (206, whole.content[10:20])
    assert part.headers["content-range"] == f"bytes 10-19/{len(whole.content)}"
    rest = knock.http.get(path, headers=headers | {"Range": "bytes=-5"})
    assert (rest.status_code, rest.content) == (206, whole.content[-5:])
    beyond = knock.http.get(path, headers=headers | {"Range": "bytes=999999-"})
    assert beyond.status_code == 416
    again = knock.http.get(path, headers=headers | {"If-None-Match": etag})
    assert (again.status_code, again.content) == (304, b"")


def test_nobody_downloads_an_update_or_a_blob_of_another_model(
    knock: Knock, enrolled: Enrol
) -> None:
    knock.put(knock.good)
    headers = {"Authorization": f"Bearer {knock.dora.token}"}
    response = knock.http.get(f"/api/v1/blobs/{wire_digest(knock.good)}", headers=headers)
    expect_problem(response, 404, "blob_not_found")


# --- Bad visitors -------------------------------------------------------------------------------


def named(**tensors: Any) -> bytes:
    """A safetensors file with a header of one's own: name -> entry."""
    header = json.dumps(tensors).encode()
    header += b" " * (-len(header) % 8)
    return struct.pack("<Q", len(header)) + header + np.ones(9, np.float32).tobytes()


KERNEL, BIAS = "0000.dense.kernel", "0001.dense.bias"
K = {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}
B = {"dtype": "F32", "shape": [3], "data_offsets": [24, 36]}


def raw(header: bytes) -> bytes:
    header += b" " * (-len(header) % 8)
    return struct.pack("<Q", len(header)) + header + np.ones(9, np.float32).tobytes()


def valued(value: float) -> bytes:
    body = bytearray(named(**{KERNEL: K, BIAS: B}))
    body[-4:] = np.float32(value).tobytes()
    return bytes(body)


def zipped() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("weights.npy", b"\0" * 36)
    return file.getvalue()


def npz() -> bytes:
    file = io.BytesIO()
    np.savez(file, w=np.ones(9, np.float32))
    return file.getvalue()


GOOD = named(**{KERNEL: K, BIAS: B})
BODIES: dict[str, tuple[bytes, str | None]] = {
    "empty": (b"", "truncated"),
    "truncated in the length": (GOOD[:5], "truncated"),
    "truncated in the header": (GOOD[:50], "truncated"),
    "truncated by one byte": (GOOD[:-1], "truncated"),
    "padded by one byte": (GOOD + b"\0", "trailing_bytes"),
    "header length 0": (struct.pack("<Q", 0) + GOOD[8:], "header_invalid"),
    "header length 2^63": (struct.pack("<Q", 2**63) + GOOD[8:], "header_too_large"),
    "a tensor twice": (
        raw(
            f'{{"{KERNEL}":{json.dumps(K)},"{KERNEL}":{json.dumps(K)},"{BIAS}":'
            f"{json.dumps(B)}}}".encode()
        ),
        "duplicate_tensor",
    ),
    "a tensor missing": (named(**{KERNEL: K}), "missing_tensor"),
    "a tensor too many": (named(**{KERNEL: K, BIAS: B, "x": B}), "unexpected_tensor"),
    "a tensor renamed": (named(**{KERNEL: K, "0001.dense.bios": B}), "missing_tensor"),
    "an overlap": (named(**{KERNEL: K, BIAS: B | {"data_offsets": [20, 32]}}), "overlap"),
    "a hole": (named(**{KERNEL: K, BIAS: B | {"data_offsets": [28, 40]}}), "holes"),
    "another dtype": (named(**{KERNEL: K, BIAS: B | {"dtype": "I32"}}), "wrong_dtype"),
    "another shape": (named(**{KERNEL: K | {"shape": [3, 2]}, BIAS: B}), "wrong_shape"),
    "a shape of 2^60": (named(**{KERNEL: K | {"shape": [0, 2**60]}, BIAS: B}), "wrong_shape"),
    "NaN": (valued(float("nan")), "non_finite"),
    "infinity": (valued(float("inf")), "non_finite"),
    "minus infinity": (valued(float("-inf")), "non_finite"),
    "no JSON": (raw(b"{" * 64), "header_invalid"),
    "a pickle": (pickle.dumps(np.ones(9, np.float32)), None),
    "an HDF5 file": (b"\x89HDF\r\n\x1a\n" + b"\0" * 200, None),
    "an npz file": (npz(), None),
    "a zip file": (zipped(), None),
}


@pytest.mark.parametrize("what", BODIES)
def test_a_body_that_is_no_update_of_this_model(knock: Knock, what: str) -> None:
    body, reason = BODIES[what]
    response = knock.put(body)
    if response.status_code == 413:  # longer than any update of this model can be
        expect_problem(response, 413, "too_large")
    else:
        problem = expect_problem(response, 422, "update_invalid")
        assert reason in (None, problem["reason"]), problem
    nothing_was_written(knock)
    assert knock.put(knock.good).status_code == 200  # the round goes on, and so does charlie


def test_a_hundred_thousand_tensors_are_refused_before_they_are_read(knock: Knock) -> None:
    many = named(
        **{f"t{i}": {"dtype": "F32", "shape": [], "data_offsets": [0, 4]} for i in range(10**5)}
    )
    response = knock.put(many)
    expect_problem(response, 413, "too_large")
    assert response.headers["connection"] == "close"
    nothing_was_written(knock)


MANIFESTS: dict[str, tuple[dict[str, Any], str | None]] = {
    "0 samples": ({"samples": 0}, "samples"),
    "-1 samples": ({"samples": -1}, "samples"),
    "1.5 samples": ({"samples": 1.5}, "samples"),
    '"10" samples': ({"samples": "10"}, "samples"),
    "true samples": ({"samples": True}, "samples"),
    "10^18 samples": ({"samples": 10**18}, "samples"),
    "no samples": ({"samples": ...}, "samples"),
    "an unknown field": ({"colour": "blue"}, "colour"),
    "another round": ({"round": 999}, "round"),
    "another assignment": ({"assignment": 999}, "assignment"),
    "another base": ({"base": "0" * 64}, "base"),
    "another length": ({"length": 1}, "length"),
    "another digest": ({"digest": "0" * 64}, "digest"),
    "another encoding": ({"encoding": "int8"}, "encoding"),
    "another wire": ({"wire": 2}, "wire"),
    "a NaN metric": ({"metrics": {"loss": float("nan")}}, None),
    "a metric that is a text": ({"metrics": {"loss": "small"}}, "metrics"),
}


@pytest.mark.parametrize("what", MANIFESTS)
def test_a_manifest_that_does_not_fit(knock: Knock, what: str) -> None:
    tampered, field = MANIFESTS[what]
    body = knock.good
    response = knock.put(body, knock.headers(body, **tampered))
    problem = expect_problem(response, 422, "update_invalid")
    assert field in (None, problem.get("field")), problem
    nothing_was_written(knock)


def test_a_manifest_signed_by_another_key_or_not_at_all(knock: Knock) -> None:
    body = knock.good
    response = knock.put(body, knock.headers(body, key=knock.dora.key))
    expect_problem(response, 401, "signature_invalid")
    for missing in ("Fedserver-Signature", "Fedserver-Manifest"):
        headers = knock.headers(body)
        del headers[missing]
        assert knock.put(body, headers).status_code in (401, 422)
    for garbage in ("", "%%%", "A", "A" * 5000):
        headers = knock.headers(body) | {"Fedserver-Manifest": garbage}
        assert knock.put(body, headers).status_code in (401, 422)
    nothing_was_written(knock)


HEADERS: dict[str, tuple[dict[str, str], int, str]] = {
    "gzip": ({"Content-Encoding": "gzip"}, 415, "unsupported_body"),
    "identity": ({"Content-Encoding": "identity"}, 415, "unsupported_body"),
    "json": ({"Content-Type": "application/json"}, 415, "unsupported_body"),
    "multipart": ({"Content-Type": "multipart/form-data"}, 415, "unsupported_body"),
    "no token": ({"Authorization": ""}, 401, "not_authenticated"),
    "garbage token": ({"Authorization": "Bearer garbage"}, 401, "token_invalid"),
    "basic": ({"Authorization": "Basic Y2hhcmxpZTpwYXNz"}, 401, "not_authenticated"),
}


@pytest.mark.parametrize("what", HEADERS)
def test_headers_that_do_not_do(knock: Knock, what: str) -> None:
    headers, status, code = HEADERS[what]
    expect_problem(knock.put(knock.good, knock.headers(knock.good) | headers), status, code)
    nothing_was_written(knock)


def test_another_participants_assignment_does_not_exist(knock: Knock) -> None:
    body = knock.good
    response = knock.put(body, knock.headers(body, token=knock.dora.token, key=knock.dora.key))
    expect_problem(response, 404, "assignment_not_found")
    nothing_was_written(knock)


def test_an_expired_and_a_revoked_token(knock: Knock) -> None:
    ParticipantToken.objects.update(expires_at=clock.now() - timedelta(seconds=1))
    expect_problem(knock.put(knock.good), 401, "token_expired")
    enrolment.suspend(knock.charlie.participant)
    expect_problem(knock.put(knock.good), 403, "participant_suspended")
    enrolment.revoke(knock.charlie.participant)
    expect_problem(knock.put(knock.good), 401, "token_invalid")
    assert not Update.objects.exists()


def test_a_full_disk_asks_to_come_again(knock: Knock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake, "RESERVE", 2**62)
    response = knock.put(knock.good)
    expect_problem(response, 503, "no_space")
    assert response.headers["retry-after"] == "60"
    nothing_was_written(knock)
    monkeypatch.undo()
    assert knock.put(knock.good).status_code == 200


def test_two_uploads_that_hang_do_not_let_a_third_one_begin(knock: Knock) -> None:
    body = knock.good
    head = knock.headers(body) | {"Content-Length": str(len(body))}
    url = knock.http.base_url
    lines = [f"PUT {knock.path} HTTP/1.1", f"Host: {url.host}"]
    lines += [f"{name}: {value}" for name, value in head.items()]
    opening = "\r\n".join(lines).encode() + b"\r\n\r\n" + body[:100]
    hanging = [socket.create_connection((url.host, url.port or 80), timeout=10) for _ in range(2)]
    for line in hanging:
        line.sendall(opening)
    time.sleep(0.5)
    with pytest.raises(httpx.ReadTimeout):
        knock.http.put(knock.path, content=body, headers=knock.headers(body), timeout=0.5)
    assert len(list((settings.FEDSERVER_HOME / "spool").iterdir())) == 2
    for line in hanging:
        line.close()
    assert knock.put(body).status_code == 200


def test_a_large_form_of_somebody_who_has_not_signed_in_is_not_read(knock: Knock) -> None:
    head = {"Content-Type": "multipart/form-data; boundary=x", "Content-Length": str(10**8)}
    path = "/api/v1/models"
    answer = talk(knock, head, b"", path=path, method="POST")
    assert answer.startswith(b"HTTP/1.1 401")
    for token in ("garbage", knock.charlie.token):  # participants upload no models
        bearer = head | {"Authorization": f"Bearer {token}"}
        answer = talk(knock, bearer, b"", path=path, method="POST")
        assert answer.startswith(b"HTTP/1.1 401")


def test_a_large_form_is_read_of_bob_and_not_of_victor_who_may_only_look(
    knock: Knock, bob: User, victor: User
) -> None:
    head = {"Content-Type": "multipart/form-data; boundary=x", "Content-Length": str(10**8)}
    for who, begins in ((victor, b"HTTP/1.1 403"), (bob, b"")):
        shown = [{"Authorization": f"Bearer {PersonalToken.objects.issue(who, 'notebook')[1]}"}]
        browser = Client()
        browser.force_login(who)
        name = settings.SESSION_COOKIE_NAME
        shown.append({"Cookie": f"{name}={browser.cookies[name].value}"})
        for one in shown:
            assert waits_or_refuses(knock, head | one) == begins[:12]


def waits_or_refuses(knock: Knock, head: dict[str, str]) -> bytes:
    """How the answer to a form without its body begins; nothing where the body is waited for."""
    url = knock.http.base_url
    with socket.create_connection((url.host, url.port or 80), timeout=10) as line:
        lines = ["POST /models/new/ HTTP/1.1", f"Host: {url.host}"]
        lines += [f"{name}: {value}" for name, value in head.items()]
        line.sendall("\r\n".join(lines).encode() + b"\r\n\r\n")
        line.settimeout(0.7)
        try:
            return line.recv(12)
        except TimeoutError:
            return b""


def test_a_second_different_update_is_a_conflict(knock: Knock) -> None:
    assert knock.put(knock.good).status_code == 200
    expect_problem(knock.put(update_bytes(knock.model, 2.0)), 409, "update_conflict")
    headers = knock.headers(knock.good, samples=11)
    expect_problem(knock.put(knock.good, headers), 409, "update_conflict")
    assert Update.objects.get().samples == 10


def test_a_closed_round_takes_nothing(knock: Knock) -> None:
    lifecycle.cancel_round(knock.mine.round_id, actor="bob")
    problem = expect_problem(knock.put(knock.good), 409, "round_closed")
    assert problem["phase"] == "cancelled"
    assert not Update.objects.exists()


def test_after_five_bad_uploads_the_assignment_is_rejected_with_the_reason(knock: Knock) -> None:
    for _ in range(5):
        expect_problem(knock.put(valued(float("nan"))), 422, "update_invalid")
    knock.mine.refresh_from_db()
    assert (knock.mine.state, knock.mine.code) == ("rejected", "non_finite")
    assert Event.objects.filter(kind="assignment.refused").count() == 5
    expect_problem(knock.put(knock.good), 409, "round_closed")


# --- Lies about length, told over a bare socket ---------------------------------------------------


def talk(
    knock: Knock,
    head: dict[str, str],
    body: bytes,
    *,
    hang_up: bool = False,
    path: str = "",
    method: str = "PUT",
) -> bytes:
    url = knock.http.base_url
    with socket.create_connection((url.host, url.port or 80), timeout=10) as line:
        lines = [f"{method} {path or knock.path} HTTP/1.1", f"Host: {url.host}"]
        lines += [f"{name}: {value}" for name, value in head.items()]
        line.sendall("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
        if hang_up:
            return b""
        answer = b""
        while part := line.recv(65536):
            answer += part
            if b"\r\n\r\n" in answer and b"Connection: close" not in answer:
                break
        return answer


def test_a_body_over_the_limit_is_refused_before_it_is_sent(knock: Knock) -> None:
    head = knock.headers(knock.good) | {"Content-Length": str(10**12)}
    answer = talk(knock, head, b"")  # not one byte of the body
    assert answer.startswith(b"HTTP/1.1 413")
    assert b"too_large" in answer
    nothing_was_written(knock)


@pytest.mark.parametrize("length", ["", "-1", "1e3", "0x10", "9" * 30])
def test_a_length_that_is_none(knock: Knock, length: str) -> None:
    answer = talk(knock, knock.headers(knock.good) | {"Content-Length": length}, b"")
    assert answer.startswith((b"HTTP/1.1 400", b"HTTP/1.1 411"))
    nothing_was_written(knock)


def test_a_chunked_body_without_a_length(knock: Knock) -> None:
    head = knock.headers(knock.good) | {"Transfer-Encoding": "chunked"}
    answer = talk(knock, head, b"5\r\nhello\r\n0\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 411")
    nothing_was_written(knock)


def test_who_hangs_up_in_the_middle_leaves_nothing_and_may_come_again(knock: Knock) -> None:
    body = knock.good
    head = knock.headers(body) | {"Content-Length": str(len(body))}
    talk(knock, head, body[:100], hang_up=True)
    deadline = time.monotonic() + 5
    while list((settings.FEDSERVER_HOME / "spool").iterdir()) and time.monotonic() < deadline:
        time.sleep(0.02)
    nothing_was_written(knock)
    assert knock.put(body).status_code == 200


def test_who_falls_silent_in_the_middle_is_not_waited_for(
    knock: Knock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doors, "SILENCE", 0.2)
    body = knock.good
    head = knock.headers(body) | {"Content-Length": str(len(body))}
    assert talk(knock, head, body[:100]).startswith(b"HTTP/1.1 408")
    nothing_was_written(knock)


def test_progress_by_names_that_no_database_takes(knock: Knock) -> None:
    headers = {"Authorization": f"Bearer {knock.charlie.token}", "Content-Type": "application/json"}
    for name in (b"\\u0000", b"\\ud800", b"", b"x" * 65):
        body = b'{"activity": "training", "fraction": 0.5, "metrics": {"%s": 1}}' % name
        path = f"/api/v1/assignments/{knock.mine.pk}/progress"
        response = knock.http.post(path, content=body, headers=headers)
        assert expect_problem(response, 400, "invalid")["field"] == "metrics"


@pytest.mark.parametrize(
    ("head", "status"),
    [
        ({"Content-Length": str(10**9), "Content-Type": "application/json"}, 413),
        ({"Content-Length": str(10**12), "Content-Type": "multipart/form-data; boundary=x"}, 413),
        ({"Transfer-Encoding": "chunked", "Content-Type": "application/json"}, 411),
        ({"Content-Length": str(11 * 2**20), "Content-Type": "image/jpeg"}, 413),
        ({"Content-Length": str(9 * 2**20), "Content-Type": "image/jpeg"}, 401),
        ({"Content-Length": "0" * 18 + str(10**9), "Content-Type": "application/json"}, 411),
        ({"Content-Length": str(9 * 2**20), "Content-Type": "image/jpeg", "Cookie": "a@b=1"}, 401),
    ],
)
def test_what_goes_to_django_is_bounded_before_it_is_read(
    server: str, head: dict[str, str], status: int
) -> None:
    """Django writes a whole body to disk before it asks who sends it."""
    host, port = server.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as line:
        lines = ["POST /api/v1/enrol HTTP/1.1", f"Host: {host}"]
        lines += [f"{name}: {value}" for name, value in head.items()]
        line.sendall("\r\n".join(lines).encode() + b"\r\n\r\n")  # not one byte of the body
        answer = line.recv(65536)
    assert answer.startswith(f"HTTP/1.1 {status}".encode())


def test_an_odd_cookie_of_another_program_locks_nobody_out(server: str) -> None:
    for odd in ("a@b=1", "a/b=1", "[x]=1", '{"json": 1}'):
        with httpx.Client(base_url=server) as browser:
            assert browser.get("/sign-in/", headers={"Cookie": odd}).status_code == 200


CHECK_INS: dict[str, tuple[bytes, str]] = {
    "no JSON": (b"{", "body"),
    "a list": (b"[]", "body"),
    "deep": (b"[" * 8000, "body"),
    "unknown field": (b'{"colour": 1}', "colour"),
    "a long wait": (b'{"wait": 1e9}', "wait"),
    "NaN": (b'{"wait": NaN}', "wait"),
    "a wait that is a text": (b'{"wait": "5"}', "wait"),
    "models that are a text": (b'{"models": "tiny"}', "models"),
    "models that are numbers": (b'{"models": [1]}', "models"),
    "a model with NUL": (b'{"models": ["\\u0000"]}', "models"),
    "sdk that is a text": (b'{"sdk": "1.0"}', "sdk"),
    "sdk with NUL": (b'{"sdk": {"\\u0000": "1"}}', "sdk"),
    "sdk with half a character": (b'{"sdk": {"keras": "\\ud800"}}', "sdk"),
    "sdk that is NaN": (b'{"sdk": {"keras": NaN}}', "sdk"),
    "capabilities that are a text": (b'{"sdk": {"capabilities": "proximal"}}', "sdk"),
    "capabilities that are no names": (b'{"sdk": {"capabilities": ["Proximal, "]}}', "sdk"),
    "too many capabilities": (
        b'{"sdk": {"capabilities": [%s]}}' % b",".join([b'"a"'] * 33),
        "sdk",
    ),
    "versions that are lists": (b'{"sdk": {"keras": ["3"]}}', "sdk"),
}


@pytest.mark.parametrize("what", CHECK_INS)
def test_a_check_in_that_makes_no_sense(knock: Knock, what: str) -> None:
    body, field = CHECK_INS[what]
    headers = {"Authorization": f"Bearer {knock.charlie.token}"}
    response = knock.http.post("/api/v1/check-in", content=body, headers=headers)
    assert expect_problem(response, 400, "rules_invalid")["field"] == field


def test_a_check_in_of_versions_that_do_not_fit_is_refused_until_they_do(knock: Knock) -> None:
    headers = {"Authorization": f"Bearer {knock.charlie.token}"}

    def check_in(**body: Any) -> httpx.Response:
        return knock.http.post("/api/v1/check-in", json=body, headers=headers)

    expect_problem(check_in(sdk={"version": "0.0.1", "wire": 1}), 403, "sdk_unsupported")
    expect_problem(check_in(), 403, "sdk_unsupported")  # it is still the same
    assert check_in(sdk={"version": "0.1.7", "wire": 1}).json()["action"] == "train"
    assert check_in().json()["action"] == "train"


def test_a_check_in_tells_what_the_software_can_do(knock: Knock) -> None:
    headers = {"Authorization": f"Bearer {knock.charlie.token}"}
    sdk = {"version": "0.5.0", "wire": 1, "capabilities": ["report_steps", "proximal"]}
    answer = knock.http.post("/api/v1/check-in", json={"sdk": sdk}, headers=headers)
    assert answer.json()["action"] == "train"
    knock.charlie.participant.refresh_from_db()
    assert knock.charlie.participant.sdk == sdk
    assert knock.charlie.participant.capabilities == ",proximal,report_steps,"


def test_a_check_in_that_is_too_long(knock: Knock) -> None:
    headers = {"Authorization": f"Bearer {knock.charlie.token}"}
    response = knock.http.post("/api/v1/check-in", content=b" " * 20_000, headers=headers)
    expect_problem(response, 413, "too_large")
