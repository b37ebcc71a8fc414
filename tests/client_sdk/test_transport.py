"""The way to the server, over real sockets and with a clock that does not make us wait."""

from __future__ import annotations

import email.utils
import hashlib
import json
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from client_sdk.cache import BlobCache
from client_sdk.errors import (
    AddressRefused,
    CertificateRefused,
    EnrolmentRefused,
    IntegrityError,
    LoginRefused,
    RedirectRefused,
    RoundClosed,
    ServerDistrusted,
    ServerRefused,
    ServerUnreachable,
    UpdateRefused,
)
from client_sdk.transport import Transport, check_address

Answer = Callable[[BaseHTTPRequestHandler], None]


def reply(handler: BaseHTTPRequestHandler, status: int, body: Any = None, **headers: str) -> None:
    content = body if isinstance(body, bytes) else json.dumps(body or {}).encode()
    handler.send_response(status)
    headers.setdefault("Content_Length", str(len(content)))
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    handler.wfile.write(content)


class Listener:
    """A real server on this machine that does what the test says, and remembers."""

    def __init__(self) -> None:
        self.answers: list[Answer] = []
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        self.bodies: list[bytes] = []
        listener = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self) -> None:
                listener.requests.append((self.command, self.path, dict(self.headers.items())))
                answer = (
                    listener.answers.pop(0) if len(listener.answers) > 1 else (listener.answers[0])
                )
                answer(self)

            do_GET = do_POST = do_PUT = answer  # noqa: N815

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()


@pytest.fixture
def listener() -> Iterator[Listener]:
    listener = Listener()
    yield listener
    listener.server.shutdown()
    listener.server.server_close()


@pytest.fixture
def transport(listener: Listener, naps: list[float]) -> Iterator[Transport]:
    with Transport(listener.url, login=lambda *_: "token", sleep=naps.append) as transport:
        yield transport


@pytest.fixture
def cache(tmp_path: Path) -> BlobCache:
    return BlobCache(tmp_path / "blobs")


class TestAnAddress:
    @pytest.mark.parametrize(
        "url",
        [
            "https://fed.example.org",
            "https://fed.example.org:8443/hub/",
            "http://localhost:8000",
            "http://demo.localhost",
            "http://127.0.0.1:8000",
            "http://[::1]:8000",
        ],
    )
    def test_is_https_or_on_this_machine(self, url: str) -> None:
        assert check_address(url) == url.rstrip("/")

    @pytest.mark.parametrize(
        "url",
        [
            "http://fed.example.org",
            "http://192.168.1.5:8000",
            "http://127.0.0.1.example.org",
            "http://localhost.example.org",
            "ftp://localhost",
            "file:///etc/passwd",
            "fed.example.org",
            "https://",
            "",
            "https://alice:secret@fed.example.org",
            "https://fed.example.org/?token=secret",
        ],
    )
    def test_of_another_kind_is_refused(self, url: str) -> None:
        with pytest.raises(AddressRefused, match="Received: ") as caught:
            Transport(url)
        assert "secret" not in str(caught.value)


class TestPatience:
    def test_outlasts_errors_and_broken_connections(
        self, listener: Listener, transport: Transport, naps: list[float]
    ) -> None:
        listener.answers = [
            lambda handler: reply(handler, 503),
            lambda handler: handler.connection.shutdown(socket.SHUT_RDWR),
            lambda handler: reply(handler, 502, b"<html>"),
            lambda handler: reply(handler, 200, {"well": True}),
        ]
        assert transport.get("") == {"well": True}
        assert len(naps) == 3

    def test_outlasts_a_server_that_restarts(self, naps: list[float]) -> None:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        started: list[ThreadingHTTPServer] = []

        def sleep(seconds: float) -> None:
            naps.append(seconds)
            if len(naps) == 3:
                started.append(ThreadingHTTPServer(("127.0.0.1", port), Well))
                threading.Thread(target=started[0].serve_forever, args=(0.02,)).start()

        with Transport(f"http://127.0.0.1:{port}", sleep=sleep) as transport:
            assert transport.get("", authenticated=False) == {"well": True}
        started[0].shutdown()
        started[0].server_close()

    def test_waits_longer_each_time_but_never_in_step_with_others(
        self, listener: Listener, naps: list[float]
    ) -> None:
        listener.answers = [lambda handler: reply(handler, 503)] * 12
        listener.answers.append(lambda handler: reply(handler, 200))
        with Transport(listener.url, sleep=naps.append) as transport:
            transport.get("", authenticated=False)
        longest = [min(30.0, 0.5 * 2**number) for number in range(12)]
        assert all(limit / 2 <= nap <= limit for nap, limit in zip(naps, longest, strict=True))
        assert len({nap / limit for nap, limit in zip(naps, longest, strict=True)}) == 12

    @pytest.mark.parametrize(
        ("asked", "least", "most"),
        [
            ("7", 7, 8.75),
            ("2.5", 2.5, 3.2),
            ("86400", 600, 750),
            ("soon", 0.25, 0.5),
            ("-5", 0.25, 0.5),
        ],
    )
    def test_waits_as_long_as_the_server_asks_within_reason(
        self,
        listener: Listener,
        transport: Transport,
        naps: list[float],
        asked: str,
        least: float,
        most: float,
    ) -> None:
        listener.answers = [
            lambda handler: reply(handler, 429, Retry_After=asked),
            lambda handler: reply(handler, 200),
        ]
        transport.get("")
        assert least <= naps[0] <= most

    def test_understands_a_date(
        self, listener: Listener, transport: Transport, naps: list[float]
    ) -> None:
        date = email.utils.formatdate(time.time() + 20, usegmt=True)
        listener.answers = [
            lambda handler: reply(handler, 503, Retry_After=date),
            lambda handler: reply(handler, 200),
        ]
        transport.get("")
        assert 15 < naps[0] <= 25

    def test_ends_when_the_caller_has_no_more(
        self, listener: Listener, transport: Transport, naps: list[float]
    ) -> None:
        listener.answers = [lambda handler: reply(handler, 503, {"detail": "Migrating."})]
        with pytest.raises(ServerUnreachable, match=r"Received: 503 Migrating\."):
            transport.get("", patience=0)
        assert naps == []

    def test_does_not_outlast_a_certificate_that_cannot_be_trusted(self, tmp_path: Path) -> None:
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1",
             "-subj", "/CN=localhost", "-keyout", "key.pem", "-out", "cert.pem"],
            cwd=tmp_path, check=True, capture_output=True,
        )  # fmt: skip
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
        server = ThreadingHTTPServer(("127.0.0.1", 0), Well)
        server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        with (
            Transport(f"https://localhost:{server.server_port}") as transport,
            pytest.raises(CertificateRefused),
        ):
            transport.get("", authenticated=False)
        server.shutdown()
        server.server_close()


class Well(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        reply(self, 200, {"well": True})

    def log_message(self, *_: object) -> None:
        pass


class TestAnAnswer:
    def test_that_sends_us_elsewhere_is_refused_and_no_token_follows(
        self, listener: Listener, transport: Transport
    ) -> None:
        listener.answers = [
            lambda handler: reply(handler, 307, Location=f"{listener.url}/elsewhere")
        ]
        with pytest.raises(RedirectRefused):
            transport.post("check-in", {})
        assert len(listener.requests) == 1

    @pytest.mark.parametrize(
        ("status", "code", "expected"),
        [
            (403, "join_code_invalid", EnrolmentRefused),
            (409, "round_closed", RoundClosed),
            (404, "assignment_not_found", RoundClosed),
            (413, "too_large", UpdateRefused),
            (422, "non_finite", ServerRefused),
        ],
    )
    def test_that_is_a_problem_becomes_its_error(
        self,
        listener: Listener,
        transport: Transport,
        status: int,
        code: str,
        expected: type[ServerRefused],
    ) -> None:
        problem = {"title": "No", "status": status, "code": code, "detail": "Why.", "field": "x"}
        listener.answers = [lambda handler: reply(handler, status, problem)]
        with pytest.raises(expected, match="Why") as caught:
            transport.get("")
        error = caught.value
        assert (type(error), error.status, error.code, error.field) == (
            expected,
            status,
            code,
            "x",
        )

    def test_that_is_a_proxys_page_is_an_error_all_the_same(
        self, listener: Listener, transport: Transport
    ) -> None:
        listener.answers = [lambda handler: reply(handler, 404, b"<html>not here</html>")]
        with pytest.raises(ServerRefused) as caught:
            transport.get("")
        assert caught.value.code == "http_404"

    @pytest.mark.parametrize("body", [b"<html>", b"[" * 100_000, b"\xff\xfe"])
    def test_that_is_no_json_is_not_trusted(
        self, listener: Listener, transport: Transport, body: bytes
    ) -> None:
        listener.answers = [lambda handler: reply(handler, 200, body)]
        with pytest.raises(ServerDistrusted):
            transport.get("")


class TestAToken:
    def test_is_fetched_once_and_kept(self, listener: Listener) -> None:
        listener.answers = [lambda handler: reply(handler, 200)]
        logins: list[str] = []

        def login(*_: object) -> str:
            logins.append("")
            return f"token-{len(logins)}"

        with Transport(listener.url, login=login) as transport:
            transport.get("a")
            transport.get("b")
        sent = [headers["Authorization"] for _, _, headers in listener.requests]
        assert sent == ["Bearer token-1"] * 2

    def test_that_has_ended_is_renewed_and_the_request_repeated(self, listener: Listener) -> None:
        tokens = iter(["old", "new"])
        listener.answers = [
            lambda handler: reply(handler, 401, {"code": "token_expired"}),
            lambda handler: reply(handler, 200, {"well": True}),
        ]
        with Transport(listener.url, login=lambda *_: next(tokens)) as transport:
            assert transport.get("") == {"well": True}
        assert [headers["Authorization"] for _, _, headers in listener.requests] == [
            "Bearer old",
            "Bearer new",
        ]

    def test_is_renewed_once_only(self, listener: Listener, transport: Transport) -> None:
        listener.answers = [lambda handler: reply(handler, 401, {"code": "token_invalid"})]
        with pytest.raises(LoginRefused):
            transport.get("")
        assert len(listener.requests) == 2


CONTENT = bytes(range(256)) * 4000
DIGEST = hashlib.sha256(CONTENT).hexdigest()


def serve_ranges(handler: BaseHTTPRequestHandler, content: bytes = CONTENT) -> None:
    asked = handler.headers.get("Range")
    if not asked:
        return reply(handler, 200, content)
    start = int(asked.removeprefix("bytes=").rstrip("-"))
    content_range = f"bytes {start}-{len(content) - 1}/{len(content)}"
    return reply(handler, 206, content[start:], Content_Range=content_range)


def break_off(handler: BaseHTTPRequestHandler) -> None:
    reply(handler, 200, CONTENT[:700_000], Content_Length=str(len(CONTENT)))
    handler.connection.shutdown(socket.SHUT_RDWR)


class TestADownload:
    def test_is_checked_and_kept(
        self, listener: Listener, transport: Transport, cache: BlobCache
    ) -> None:
        listener.answers = [serve_ranges]
        path = transport.download(DIGEST, len(CONTENT), cache)
        assert path.read_bytes() == CONTENT
        assert transport.download(DIGEST, len(CONTENT), cache) == path
        assert len(listener.requests) == 1

    def test_goes_on_where_it_broke_off(
        self, listener: Listener, transport: Transport, cache: BlobCache
    ) -> None:
        listener.answers = [break_off, serve_ranges]
        assert transport.download(DIGEST, len(CONTENT), cache).read_bytes() == CONTENT
        [_, (_, _, headers)] = listener.requests
        have = int(headers["Range"].removeprefix("bytes=").rstrip("-"))
        assert 0 < have <= 700_000
        assert headers["If-Range"] == f'"{DIGEST}"'

    def test_goes_on_where_an_earlier_process_broke_off(
        self, listener: Listener, transport: Transport, cache: BlobCache
    ) -> None:
        cache.partial(DIGEST).write_bytes(CONTENT[:1000])
        listener.answers = [serve_ranges]
        transport.download(DIGEST, len(CONTENT), cache)
        assert listener.requests[0][2]["Range"] == "bytes=1000-"

    def test_begins_anew_where_the_server_knows_no_ranges(
        self, listener: Listener, transport: Transport, cache: BlobCache
    ) -> None:
        cache.partial(DIGEST).write_bytes(CONTENT[:1000])
        listener.answers = [lambda handler: reply(handler, 200, CONTENT)]
        assert transport.download(DIGEST, len(CONTENT), cache).read_bytes() == CONTENT

    def test_begins_anew_when_the_part_that_lay_here_was_rotten(
        self, listener: Listener, transport: Transport, cache: BlobCache
    ) -> None:
        cache.partial(DIGEST).write_bytes(b"rot" * 100)
        listener.answers = [serve_ranges]
        assert transport.download(DIGEST, len(CONTENT), cache).read_bytes() == CONTENT

    @pytest.mark.parametrize("length", [0, 1])
    def test_may_be_of_next_to_nothing(
        self, listener: Listener, transport: Transport, cache: BlobCache, length: int
    ) -> None:
        content = CONTENT[:length]
        listener.answers = [lambda handler: reply(handler, 200, content)]
        digest = hashlib.sha256(content).hexdigest()
        assert transport.download(digest, length, cache).read_bytes() == content

    def test_by_two_at_a_time_is_whole_for_both(
        self, listener: Listener, transport: Transport, cache: BlobCache
    ) -> None:
        begun, go_on = threading.Event(), threading.Event()

        def wait_in_the_middle(handler: BaseHTTPRequestHandler) -> None:
            handler.send_response(200)
            handler.send_header("Content-Length", str(len(CONTENT)))
            handler.end_headers()
            handler.wfile.write(CONTENT[:500_000])
            begun.set()
            go_on.wait(10)
            handler.wfile.write(CONTENT[500_000:])

        listener.answers = [wait_in_the_middle, serve_ranges]
        with ThreadPoolExecutor() as pool:
            first = pool.submit(transport.download, DIGEST, len(CONTENT), cache)
            assert begun.wait(10)
            same = BlobCache(cache.folder)
            assert transport.download(DIGEST, len(CONTENT), same).read_bytes() == CONTENT
            go_on.set()
            assert first.result(10).read_bytes() == CONTENT
        assert [path.name for path in cache.folder.iterdir()] == [DIGEST]

    def test_of_other_bytes_is_refused_and_not_kept(
        self, listener: Listener, transport: Transport, cache: BlobCache
    ) -> None:
        listener.answers = [lambda handler: serve_ranges(handler, bytes(len(CONTENT)))]
        with pytest.raises(IntegrityError, match="SHA-256"):
            transport.download(DIGEST, len(CONTENT), cache)
        assert list(cache.folder.iterdir()) == []

    def test_that_never_ends_is_cut_at_its_length(
        self, listener: Listener, transport: Transport, cache: BlobCache
    ) -> None:
        sent: list[int] = []

        def flood(handler: BaseHTTPRequestHandler) -> None:
            handler.send_response(200)
            handler.send_header("Connection", "close")
            handler.end_headers()
            with suppress(OSError):
                while len(sent) < 10**4:
                    sent.append(handler.wfile.write(bytes(1 << 16)))

        listener.answers = [flood]
        with pytest.raises(IntegrityError, match="Received: more"):
            transport.download(DIGEST, len(CONTENT), cache)
        assert sum(sent) < 100_000_000

    def test_of_another_range_than_asked_is_refused(
        self, listener: Listener, transport: Transport, cache: BlobCache
    ) -> None:
        cache.partial(DIGEST).write_bytes(CONTENT[:1000])
        listener.answers = [
            lambda handler: reply(
                handler, 206, CONTENT[:100], Content_Range=f"bytes 0-99/{len(CONTENT)}"
            )
        ]
        with pytest.raises(IntegrityError, match="bytes 1000-"):
            transport.download(DIGEST, len(CONTENT), cache)


class TestAnUpload:
    def test_streams_a_file_with_its_length_and_reads_it_anew_for_each_try(
        self, listener: Listener, transport: Transport, tmp_path: Path
    ) -> None:
        path = tmp_path / "update"
        path.write_bytes(CONTENT)
        received: list[bytes] = []

        def take(handler: BaseHTTPRequestHandler) -> None:
            received.append(handler.rfile.read(int(handler.headers["Content-Length"])))
            reply(handler, 503 if len(received) == 1 else 200)

        listener.answers = [take]
        transport.request("PUT", "assignments/1/update", file=path)
        assert received == [CONTENT] * 2
        headers = listener.requests[0][2]
        assert headers["Content-Type"] == "application/octet-stream"
        assert "Transfer-Encoding" not in headers

    def test_that_is_refused_before_it_is_read_says_why(
        self, listener: Listener, transport: Transport, tmp_path: Path
    ) -> None:
        path = tmp_path / "update"
        with path.open("wb") as file:
            file.truncate(50_000_000)

        def refuse(handler: BaseHTTPRequestHandler) -> None:
            reply(handler, 413, {"code": "too_large", "detail": "Too large."}, Connection="close")
            handler.wfile.flush()
            time.sleep(0.2)  # what was sent meanwhile is not read
            handler.close_connection = True

        listener.answers = [refuse]
        with pytest.raises(UpdateRefused):
            transport.request("PUT", "assignments/1/update", file=path, patience=5)


def test_secrets_do_not_reach_the_log(listener: Listener, caplog: pytest.LogCaptureFixture) -> None:
    listener.answers = [
        lambda handler: reply(handler, 503),
        lambda handler: reply(handler, 200),
    ]
    caplog.set_level("DEBUG", "client_sdk")
    with Transport(listener.url, login=lambda *_: "SECRET", sleep=lambda _: None) as transport:
        transport.get("")
    assert caplog.records
    assert "SECRET" not in caplog.text


def test_a_transport_can_be_put_in_its_place() -> None:
    mock = httpx.MockTransport(lambda request: httpx.Response(200, json={"path": request.url.path}))
    with Transport("https://fed.example.org/hub/", transport=mock) as transport:
        assert transport.get("", authenticated=False) == {"path": "/hub/api/v1/"}
