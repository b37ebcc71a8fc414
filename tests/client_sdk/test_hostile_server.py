"""A server that means harm: what it sends is refused, in bounded time and memory, and nothing is
written but where the cache and the profile are."""

from __future__ import annotations

import gzip
import hashlib
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from client_sdk import transport as transport_module
from client_sdk import wire
from client_sdk.cache import BlobCache
from client_sdk.errors import (
    IntegrityError,
    RedirectRefused,
    ServerDistrusted,
    ServerUnreachable,
    TooSlow,
)
from client_sdk.participant import Participant
from client_sdk.participation import Event
from client_sdk.profile import Profile
from client_sdk.protocol import Assignment, check_slug
from client_sdk.testing import FakeServer, FakeTrainer
from client_sdk.transport import Transport

Data = tuple[np.ndarray, np.ndarray]
Speak = Callable[[socket.socket], None]

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"


class Mallory:
    """A server that says, byte by byte, what the test wants; it knows no HTTP."""

    def __init__(self, speak: Speak) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.connections = 0
        self._speak = speak
        self._ended = False
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        while not self._ended:
            with suppress(OSError):
                line, _ = self._listener.accept()
                self.connections += 1
                threading.Thread(target=self._talk, args=(line,), daemon=True).start()

    def _talk(self, line: socket.socket) -> None:
        with suppress(OSError), line:
            line.recv(65536)
            self._speak(line)

    def close(self) -> None:
        self._ended = True
        self._listener.close()


@pytest.fixture
def mallory() -> Iterator[Callable[[Speak], Mallory]]:
    begun: list[Mallory] = []

    def begin(speak: Speak) -> Mallory:
        begun.append(Mallory(speak))
        return begun[-1]

    yield begin
    for one in begun:
        one.close()


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a second in the place of two minutes, and of an hour for a blob."""
    monkeypatch.setattr(transport_module, "_ATTEMPT", 0.4)
    monkeypatch.setattr(transport_module, "_BLOB_WITHIN", 1.0)
    monkeypatch.setattr(transport_module, "_FIRST_PAUSE", 0.05)


def trickle(line: socket.socket, text: bytes = b" ") -> None:
    """A byte now and then, before every limit for one read, for ever."""
    for _ in range(1000):
        line.sendall(text)
        time.sleep(0.02)


class TestATrickle:
    """No single read waits for long, and yet it would never end."""

    @pytest.mark.parametrize(
        "before",
        [
            b"HTTP/1.1 200 OK\r\nX-Slow: ",
            HEAD + b"Content-Length: 100000\r\n\r\n",
            HEAD + b"Transfer-Encoding: chunked\r\n\r\n5;comment=",
        ],
        ids=["of headers", "of a body", "within a chunk's header"],
    )
    def test_ends_at_the_time_of_the_whole_request(
        self, mallory: Callable[[Speak], Mallory], before: bytes
    ) -> None:
        def speak(line: socket.socket) -> None:
            line.sendall(before)
            trickle(line)

        with Transport(mallory(speak).url) as transport:
            began = time.monotonic()
            with pytest.raises(ServerUnreachable):
                transport.get("", authenticated=False, patience=0.0)
            assert time.monotonic() - began < 3

    def test_of_a_blob_ends_and_is_not_begun_for_ever(
        self, mallory: Callable[[Speak], Mallory], tmp_path: Path
    ) -> None:
        def speak(line: socket.socket) -> None:
            line.sendall(HEAD + b"Content-Length: 10000\r\n\r\n")
            trickle(line)

        cache = BlobCache(tmp_path)
        with Transport(mallory(speak).url, login=lambda *_: "token") as transport:
            began = time.monotonic()
            with pytest.raises(TooSlow):
                transport.download("ab" * 32, 10_000, cache)
            assert time.monotonic() - began < 6

    def test_of_connections_that_each_bring_a_byte_ends_as_well(
        self, mallory: Callable[[Speak], Mallory], tmp_path: Path
    ) -> None:
        def speak(line: socket.socket) -> None:
            line.sendall(HEAD + b"Content-Length: 10000\r\n\r\nx")

        with (
            Transport(mallory(speak).url, login=lambda *_: "token") as transport,
            pytest.raises(TooSlow),
        ):
            transport.download("ab" * 32, 10_000, BlobCache(tmp_path))

    def test_of_a_server_that_hardly_reads_ends(
        self,
        mallory: Callable[[Speak], Mallory],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        def speak(line: socket.socket) -> None:
            for _ in range(200):
                line.recv(16)
                time.sleep(0.02)

        update = tmp_path / "update"
        with update.open("wb") as file:
            file.truncate(64 << 20)
        with Transport(mallory(speak).url, login=lambda *_: "token") as transport:
            monkeypatch.setattr(transport_module, "_SLOWEST", 1 << 30)
            began = time.monotonic()
            with pytest.raises(ServerUnreachable):
                transport.request("PUT", "assignments/1/update", file=update, patience=0.0)
            assert time.monotonic() - began < 4

    def test_that_is_slow_and_honest_is_fine(
        self, mallory: Callable[[Speak], Mallory], tmp_path: Path
    ) -> None:
        content = b"w" * 40
        digest = hashlib.sha256(content).hexdigest()

        def speak(line: socket.socket) -> None:
            line.sendall(HEAD + b"Content-Length: 40\r\n\r\n")
            for byte in content:
                line.sendall(bytes([byte]))
                time.sleep(0.002)

        with Transport(mallory(speak).url, login=lambda *_: "token") as transport:
            found = transport.download(digest, 40, BlobCache(tmp_path))
        assert found.read_bytes() == content

    def test_in_a_round_costs_that_round(
        self, alice: Participant, server: FakeServer, data: Data
    ) -> None:
        def away(request: httpx.Request) -> None:
            if "blobs/" in request.url.path:
                time.sleep(0.05)
                raise httpx.ReadTimeout("too slow", request=request)

        def next_round(event: Event) -> None:
            if event.kind == "failed":
                server.before.clear()
            if event.kind == "waiting":
                server.open_round()

        server.before.append(away)
        server.open_round()
        summary = alice.participate(data, rounds=1, trainer=FakeTrainer(), on_event=next_round)
        assert (summary.rounds, summary.failures) == (1, 1)
        assert [reason for _, reason, _ in server.failures] == ["too_slow"]


FLOOD = """
import resource, sys
from client_sdk.errors import ServerDistrusted
from client_sdk.transport import Transport
with Transport(sys.argv[1], login=lambda *_: "token") as transport:
    transport.get("small", patience=5)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for kind in sys.argv[2:]:
        try:
            transport.get(kind, patience=0)
        except ServerDistrusted:
            print(kind, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def flood(line: socket.socket, kind: str) -> None:
    """What is endless, or small on the way and large in memory."""
    head, body, times = HEAD + b"Connection: close\r\n", b"{}", 1
    if kind == "gzip":
        head += b"Content-Encoding: gzip\r\n"
        body = gzip.compress(gzip.compress(b" " * (200 << 20), 1), 1)
    if kind == "nested":
        body = b"[" * 900_000
    if kind == "numbers":
        body = b"[" + b"1e9," * 3_900_000 + b"1]"
    if kind == "lists":
        body = b"[" + b"[]," * 5_000_000 + b"[]]"
    if kind == "endless":
        body, times = bytes(1 << 20), 10_000
    line.sendall(head + b"Content-Length: %d\r\n\r\n" % (len(body) * times))
    for _ in range(times):
        line.sendall(body)


class TestAFlood:
    @pytest.mark.skipif(sys.platform != "linux", reason="counts memory as Linux does")
    def test_of_json_is_refused_in_bounded_memory(
        self, mallory: Callable[[Speak], Mallory]
    ) -> None:
        kinds = ["gzip", "nested", "numbers", "lists", "endless"]
        turns = iter(["small", *kinds])
        url = mallory(lambda line: flood(line, next(turns))).url
        done = subprocess.run(
            [sys.executable, "-c", FLOOD, url, *kinds],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        grown = {line.split()[0]: int(line.split()[1]) for line in done.stdout.splitlines()}
        assert list(grown) == kinds, done.stderr
        assert grown["gzip"] < 10 << 10  # kilobytes
        assert max(grown.values()) < 64 << 10

    def test_of_numbers_that_are_none_is_refused(self, server: FakeServer) -> None:
        for text in (b'{"wait": NaN}', b'{"wait": -Infinity}', b'{"wait": ' + b"9" * 5000 + b"}"):
            mock = httpx.MockTransport(lambda _, text=text: httpx.Response(200, content=text))
            with Transport("https://fed.example.org", transport=mock) as transport:
                with pytest.raises(ServerDistrusted):
                    transport.get("", authenticated=False)

    def test_of_a_blob_fills_no_disk(
        self, alice: Participant, server: FakeServer, data: Data
    ) -> None:
        """It says ten gigabytes, and its own manifest agrees; the cache's limit is ours."""
        server.open_round()
        alice.cache.limit = 100
        told: list[Event] = []
        alice.participate(
            data,
            until=lambda: bool(server.failures),
            trainer=FakeTrainer(),
            on_event=told.append,
        )
        assert [reason for _, reason, _ in server.failures] == ["integrity"]
        assert not any("blobs/" in line for line in server.requests)


def test_a_model_too_large_for_this_machine_is_refused_before_it_is_fetched(
    alice: Participant, server: FakeServer, data: Data
) -> None:
    huge = [
        wire.WeightSpec("0000.dense.kernel", 0, "dense", (1 << 20, 1 << 20), "F32", "federated")
    ]
    weights = [weight.to_json() for weight in huge]
    server.before.append(changed(server, "models/digits", ["weights"], weights))
    server.open_round()
    alice.participate(data, until=lambda: bool(server.failures), trainer=FakeTrainer())
    assert [reason for _, reason, _ in server.failures] == ["training_refused"]
    assert not any("blobs/" in line for line in server.requests)


ODD_SLUGS = ["../../etc", "/etc/passwd", "..", "a/b", "a\\b", "a\0b", "a\nb", "", "a" * 300, "é"]


class TestAName:
    @pytest.mark.parametrize("slug", ODD_SLUGS)
    def test_that_could_lead_out_of_a_folder_is_refused(
        self, alice: Participant, server: FakeServer, slug: str
    ) -> None:
        with pytest.raises(ServerDistrusted):
            check_slug(slug)
        server.open_round()
        server.before.append(changed(server, "check-in", ["assignment", "model"], slug))
        with pytest.raises(ServerDistrusted):
            alice.check_in()

    @pytest.mark.parametrize("digest", ["../" * 10 + "a" * 34, "A" * 64, "a" * 63, "", "a" * 65])
    def test_of_a_blob_that_is_no_digest_is_refused(
        self, alice: Participant, server: FakeServer, digest: str
    ) -> None:
        server.open_round()
        path = ["assignment", "version", "weights", "sha256"]
        server.before.append(changed(server, "check-in", path, digest))
        with pytest.raises(ServerDistrusted):
            alice.check_in()

    @pytest.mark.parametrize("number", [-1, 10**30, "../1", 1.5, True, None, [1]])
    def test_of_an_assignment_that_is_no_number_is_refused(
        self, alice: Participant, server: FakeServer, number: Any
    ) -> None:
        server.open_round()
        server.before.append(changed(server, "check-in", ["assignment", "id"], number))
        with pytest.raises(ServerDistrusted):
            alice.check_in()

    def test_of_another_model_in_the_description_is_refused(
        self, alice: Participant, server: FakeServer
    ) -> None:
        server.open_round()
        assignment = alice.check_in()
        assert isinstance(assignment, Assignment)
        server.before.append(changed(server, "models/digits", ["slug"], "../local"))
        with pytest.raises(IntegrityError):
            alice.download(assignment)


def changed(server: FakeServer, door: str, path: list[Any], value: Any) -> Any:
    """Let one value in the answers of a door be another."""

    def change(request: httpx.Request) -> httpx.Response | None:
        if not request.url.path.endswith(door):
            return None
        document = server._route(request, request.url.path.removeprefix("/api/v1/")).json()
        inner = document
        for name in path[:-1]:
            inner = inner[name]
        inner[path[-1]] = value
        return httpx.Response(200, content=json.dumps(document))

    return change


class TestWords:
    @pytest.mark.parametrize("word", ["\ud800", "\x1b[2J", "\u202e", "\0"])
    def test_that_are_none_stop_nobody_and_reach_no_terminal(
        self, alice: Participant, server: FakeServer, data: Data, word: str
    ) -> None:
        problem = {"code": f"odd{word}", "detail": f"Expected {word}."}

        def refuse(request: httpx.Request) -> httpx.Response | None:
            if request.method == "PUT":
                return httpx.Response(422, content=json.dumps(problem))
            return None

        told: list[str] = []
        server.before.append(refuse)
        server.open_round()
        alice.participate(
            data,
            until=lambda: bool(server.failures),
            trainer=FakeTrainer(),
            on_event=lambda event: told.append(str(event.data.get("detail", ""))),
        )
        assert not any(word in text for text in told)
        assert word not in "".join(entry.code + entry.reason for entry in alice.log())


class TestWaiting:
    @pytest.mark.parametrize("seconds", [-5, 0, 1e300, 10**18])
    def test_for_as_long_as_it_says_has_bounds(
        self,
        alice: Participant,
        server: FakeServer,
        data: Data,
        naps: list[float],
        seconds: float,
    ) -> None:
        server.retry_after = seconds
        summary = None
        with suppress(ServerDistrusted):  # -5 is no number of seconds
            summary = alice.participate(data, trainer=FakeTrainer(), until=lambda: len(naps) >= 3)
        assert all(0.5 <= nap <= 300 for nap in naps)
        assert summary is None or len(naps) >= 3


class TestARedirect:
    @pytest.mark.parametrize("door", ["check-in", "models/digits", "blobs/", "/update", "tokens"])
    def test_is_followed_at_no_door_and_no_secret_goes_there(
        self, alice: Participant, server: FakeServer, data: Data, door: str
    ) -> None:
        hosts: set[str] = set()

        def redirect(request: httpx.Request) -> httpx.Response | None:
            hosts.add(request.url.host)
            if door in request.url.path:
                return httpx.Response(307, headers={"Location": "https://mallory.example/"})
            return None

        server.before.append(redirect)
        server.open_round()
        with suppress(RedirectRefused):  # at the first answer there is nobody to wait for
            alice.participate(data, until=lambda: bool(server.failures), trainer=FakeTrainer())
        assert hosts == {"fake.invalid"}
        assert server.updates == []


def test_no_cookie_of_a_server_is_kept_or_shown() -> None:
    shown: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        shown.append(request.headers.get("Cookie", ""))
        return httpx.Response(200, json={}, headers=[("Set-Cookie", f"c{len(shown)}=x; Path=/")])

    transport = Transport("https://fed.example.org", transport=httpx.MockTransport(answer))
    for _ in range(3):
        transport.get("", authenticated=False)
    assert shown == ["", "", ""]


@pytest.mark.parametrize(
    "told", [{}, [], None, {"challenge": 1}, {"challenge": "c", "token": "a\r\nb"}]
)
def test_odd_words_at_the_login_are_not_trusted(alice: Participant, told: Any) -> None:
    odd = httpx.MockTransport(lambda _: httpx.Response(200, json=told))
    with pytest.raises(ServerDistrusted, match=r"Expected `(challenge|token)`"):
        Participant.load("alice", transport=odd).log_in()


def test_odd_words_at_the_enrolment_are_not_trusted_and_no_key_is_lost() -> None:
    odd = httpx.MockTransport(lambda _: httpx.Response(200, json=[]))
    with pytest.raises(ServerDistrusted, match="`participant`"):
        Participant.enrol("https://fed.example.org", "CODE", profile="alice", transport=odd)
    assert (Profile.folder_of("alice") / "key.pem").exists()


def test_nothing_is_written_outside_the_cache_and_the_profile(
    alice: Participant, server: FakeServer, data: Data, home: Path, tmp_path: Path
) -> None:
    """Every answer of every door in turn is odd; the folders around stay as they were."""
    (tmp_path / "precious").write_text("alice's own")
    before = {path for path in tmp_path.rglob("*") if home not in path.parents}
    doors: dict[str, list[list[Any]]] = {
        "check-in": [["assignment", "model"], ["assignment", "version", "weights", "sha256"]],
        "models/digits": [["slug"], ["weights", 0, "name"], ["architecture_digest"]],
    }
    for door, paths in doors.items():
        for path in paths:
            server.before[:] = [changed(server, door, path, "../../../precious")]
            server.open_round()
            fresh = Participant(alice.profile, transport=server.transport, sleep=alice.sleep)
            with suppress(ServerDistrusted):
                fresh.participate(data, idle=0.05, trainer=FakeTrainer())
    assert server.updates == []
    assert {path for path in tmp_path.rglob("*") if home not in path.parents} == before
    assert (tmp_path / "precious").read_text() == "alice's own"
    kept = {path.name for path in alice.profile.folder.iterdir()}
    assert kept <= {
        "profile.json", "key.pem", "lock", "outbox", "cache", "ledger.jsonl", "today.json",
        "limits.json", "local", "shelf.json",
    }  # fmt: skip
