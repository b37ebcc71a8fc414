"""Being woken by servers of every kind, good and hostile, over real sockets of this machine."""

from __future__ import annotations

import json
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from websockets.datastructures import Headers
from websockets.http11 import Request, Response
from websockets.sync.server import ServerConnection, serve

from client_sdk import wake as wakes
from client_sdk.errors import LoginRefused
from client_sdk.transport import Transport
from client_sdk.wake import CONNECTED, REFUSED, News, Wake

pytestmark = pytest.mark.timeout(30)

Answer = Callable[[ServerConnection], None]
OPENED = json.dumps({"news": [{"kind": "round.opened", "round": 7}]})


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wakes, "_FIRST_PAUSE", 0.01)


@contextmanager
def server(answer: Answer, status: int = 101, port: int = 0, **headers: str) -> Iterator[str]:
    """A server that speaks WebSocket as told; its address for HTTP."""

    def refuse(_: ServerConnection, __: Request) -> Response | None:
        return None if status == 101 else Response(status, "No", Headers(headers), b"")

    with serve(answer, "127.0.0.1", port, process_request=refuse, compression=None) as it:
        thread = threading.Thread(target=it.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{it.socket.getsockname()[1]}"


@contextmanager
def waiting(url: str, tokens: list[str] | None = None) -> Iterator[Wake]:
    """Somebody who waits to be woken, with one token after the other."""
    left = iter(tokens or ["t1", "t2", "t3"])
    transport = Transport(url, login=lambda *_: next(left))
    with transport, Wake(transport) as wake:
        yield wake


def stay(line: ServerConnection) -> None:
    """Say nothing until the other side goes."""
    for _ in line:
        pass


def kinds(wake: Wake) -> list[str]:
    return [one.kind for one in wake.news()]


class TestAWake:
    def test_is_told_that_it_is_connected_and_what_the_server_says(self) -> None:
        def tell(line: ServerConnection) -> None:
            line.send(OPENED)
            stay(line)

        with server(tell) as url, waiting(url) as wake:
            heard: list[News] = []
            while len(heard) < 2:
                assert wake.wait(5)
                heard += wake.news()
            assert heard == [News(CONNECTED), News("round.opened", 7)]
            assert wake.connected
            assert not wake.wait(0.01)
            assert wake.news() == []

    def test_shows_its_token_below_the_servers_prefix(self) -> None:
        asked: list[tuple[str, str]] = []

        def look(line: ServerConnection) -> None:
            assert line.request is not None
            asked.append((line.request.path, line.request.headers["Authorization"]))
            stay(line)

        with server(look) as url, waiting(f"{url}/fed/") as wake:
            assert wake.wait(5)
            while not asked:
                time.sleep(0.01)
        assert asked == [("/fed/ws/participant/", "Bearer t1")]

    def test_comes_back_when_the_connection_is_lost_and_says_so(self) -> None:
        lines: list[ServerConnection] = []

        def once(line: ServerConnection) -> None:
            lines.append(line)
            if len(lines) > 1:
                stay(line)
            time.sleep(0.1)

        with server(once) as url, waiting(url) as wake:
            assert wake.wait(5)
            assert not wake.wait(5)  # lost, long before the time has passed
            assert wake.wait(5)
            assert kinds(wake) == [CONNECTED, CONNECTED]

    def test_finds_a_server_that_was_away(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
        with waiting(f"http://127.0.0.1:{port}") as wake:
            assert not wake.wait(0.05)
            with server(stay, port=port):
                assert wake.wait(5)
                assert wake.connected

    def test_gets_a_new_token_when_the_server_says_that_it_has_ended(self) -> None:
        shown: list[str] = []

        def end_the_first(line: ServerConnection) -> None:
            assert line.request is not None
            shown.append(line.request.headers["Authorization"])
            if len(shown) == 1:
                line.close(4401, "token_expired")
            stay(line)

        with server(end_the_first) as url, waiting(url) as wake:
            while len(shown) < 2:
                wake.wait(1)
        assert shown == ["Bearer t1", "Bearer t2"]

    def test_says_that_it_is_refused_and_then_leaves_the_server_alone(self) -> None:
        came: list[ServerConnection] = []

        def refuse(line: ServerConnection) -> None:
            came.append(line)
            line.close(4403, "participant_suspended")

        with server(refuse) as url, waiting(url) as wake:
            heard: list[str] = []
            while REFUSED not in heard:
                wake.wait(5)
                heard += kinds(wake)
            assert not wake.wait(0.3)
            assert not wake.connected
        assert len(came) == 1

    def test_that_gets_no_token_leaves_the_server_alone(self) -> None:
        asked: list[float] = []

        def refuse(*_: object) -> str:
            asked.append(time.monotonic())
            raise LoginRefused(401, "signature_invalid", "No.")

        with Transport("http://127.0.0.1:9", login=refuse) as transport, Wake(transport) as wake:
            assert not wake.wait(0.3)
        assert len(asked) == 1

    def test_is_closed_at_once_wherever_it_is(self) -> None:
        with server(stay) as url, waiting(url) as wake:
            wake.wait(5)
            began = time.monotonic()
            wake.close()
            assert time.monotonic() - began < 1
            assert not wake.connected
            assert not wake.wait(5)

    def test_is_ended_by_another_thread_while_somebody_waits(self) -> None:
        with server(stay) as url, waiting(url) as wake:
            wake.wait(5)
            threading.Timer(0.05, wake.close).start()
            began = time.monotonic()
            assert not wake.wait(10)
            assert time.monotonic() - began < 5

    def test_lets_somebody_go_on_who_is_needed_elsewhere(self) -> None:
        with server(stay) as url, waiting(url) as wake:
            wake.wait(5)
            threading.Timer(0.05, wake.wake).start()
            assert wake.wait(10)
            assert kinds(wake) == [CONNECTED]

    @pytest.mark.parametrize("status", [401, 403, 404, 426, 500, 503])
    def test_is_not_connected_where_it_is_answered_otherwise(self, status: int) -> None:
        with server(stay, status) as url, waiting(url, ["t"] * 1000) as wake:
            assert not wake.wait(0.1)
            assert not wake.connected


class TestAHostileServer:
    @pytest.mark.parametrize("status", [301, 302, 307, 308])
    def test_does_not_send_anybody_elsewhere(self, status: int) -> None:
        came: list[str] = []

        def note(line: ServerConnection) -> None:
            came.append(str(line.request))

        with (
            server(note) as other,
            server(stay, status, Location=f"{other.replace('http', 'ws')}/") as url,
            waiting(url) as wake,
        ):
            assert not wake.wait(0.2)
        assert came == []

    @pytest.mark.parametrize(
        "said",
        [
            "",
            "nonsense",
            "[]",
            '{"news": 7}',
            '{"news": [7]}',
            '{"news": [{}]}',
            '{"news": [{"kind": 7}]}',
            '{"news": [{"kind": "round.opened", "round": "7"}]}',
            "[" * 5000,
            b"\xff\xfe",
            "x" * (wakes._MESSAGE_LIMIT + 1),
        ],
    )
    def test_that_talks_nonsense_is_not_heard_again_soon(self, said: str | bytes) -> None:
        came: list[ServerConnection] = []

        def talk(line: ServerConnection) -> None:
            came.append(line)
            line.send(said)
            stay(line)

        with server(talk) as url, waiting(url) as wake:
            while wake.wait(5):
                pass
            assert set(kinds(wake)) == {CONNECTED}
            assert not wake.connected
        assert len(came) == 1

    def test_that_floods_is_cut_off_and_not_heard_again_soon(self) -> None:
        came: list[ServerConnection] = []

        def flood(line: ServerConnection) -> None:
            came.append(line)
            while True:
                line.send(OPENED)

        with server(flood) as url, waiting(url) as wake:
            while wake.wait(1):
                pass
            assert len(wake.news()) <= 64
            assert not wake.connected
        assert len(came) == 1

    @pytest.mark.parametrize("frame", [b"\x89\x00", b"\x01\x00"], ids=["pings", "pieces"])
    def test_that_floods_with_empty_frames_is_cut_off(self, frame: bytes) -> None:
        came: list[ServerConnection] = []

        def flood(line: ServerConnection) -> None:
            came.append(line)
            if frame[0] == 1:
                line.socket.sendall(frame)
            while True:
                line.socket.sendall((b"\x00\x00" if frame[0] == 1 else frame) * 10_000)

        with server(flood) as url, waiting(url) as wake:
            while wake.wait(1):
                pass
            assert set(kinds(wake)) == {CONNECTED}
        assert len(came) == 1

    def test_that_closes_each_time_is_asked_ever_more_rarely(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(wakes, "_FIRST_PAUSE", 0.05)
        came: list[float] = []
        with server(lambda _: came.append(0)) as url, waiting(url, ["t"] * 99):
            time.sleep(0.7)
        assert 2 <= len(came) <= 6

    def test_that_never_answers_is_given_up(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(wakes, "_OPENING", 0.1)
        with socket.create_server(("127.0.0.1", 0)) as silent:
            port = silent.getsockname()[1]
            with waiting(f"http://127.0.0.1:{port}") as wake:
                assert not wake.wait(0.4)
                # It has hung up on the first connection, and come again.
                first, _ = silent.accept()
                silent.settimeout(5)
                second, _ = silent.accept()
            first.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            first.close()
            second.close()

    def test_of_another_machine_is_asked_by_tls_alone(self) -> None:
        with Transport("https://fed.example.org/x") as transport:
            wake = Wake(transport)
            wake.close()
        assert wake._url == "wss://fed.example.org/x/ws/participant/"
