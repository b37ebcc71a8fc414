"""Who never reads is dropped after a while, and until then costs nobody anything."""

import asyncio
import json
import socket
import time
from urllib.parse import urlsplit

import pytest
from asgiref.sync import sync_to_async
from websockets.client import ClientProtocol
from websockets.uri import parse_uri

from fedserver.sockets import LiveSocket
from journal import events
from journal.hub import Hub
from tests.journal.test_live import cookie, page, shown

__all__ = ["cookie"]

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.timeout(60)]
LINES, LONG = 100, "because " * 500  # more than all buffers on the way hold


def write() -> None:
    with events.transaction() as journal:
        for _ in range(LINES):
            journal.record("run.paused", run=1, reason=LONG)


def page_that_never_reads(server: str, cookie: str) -> socket.socket:
    """A page that says what it shows, and takes no more than the handshake."""
    parts = urlsplit(server)
    peer = socket.socket()
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    peer.connect((parts.hostname, parts.port))
    protocol = ClientProtocol(parse_uri(f"ws://{parts.netloc}/ws/live/"), origin=server)  # type: ignore[arg-type]
    request = protocol.connect()
    request.headers["Cookie"] = cookie
    protocol.send_request(request)
    peer.sendall(b"".join(protocol.data_to_send()))
    protocol.receive_data(peer.recv(2048))
    protocol.send_text(b'{"after": 0}')
    peer.sendall(b"".join(protocol.data_to_send()))
    return peer


def mailboxes() -> int:
    return sum(len(those) for hub in Hub._hubs.values() for those in hub._mailboxes.values())


async def test_who_never_reads_is_dropped_and_the_others_hear_everything(
    server: str, cookie: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LiveSocket, "stuck_seconds", 2.0)
    before = mailboxes()
    stuck = await asyncio.to_thread(page_that_never_reads, server, cookie)
    async with page(server, cookie) as quick:
        await quick.send(json.dumps({"after": 0}))
        began = time.monotonic()
        for _ in range(10):
            await sync_to_async(write)()
            assert len(await shown(quick, LINES)) == LINES
        assert time.monotonic() - began < 30
        while mailboxes() - before > 1:
            assert time.monotonic() - began < 30, "Expected an end of the one that never reads"
            await asyncio.sleep(0.1)
    stuck.settimeout(10)
    taken = await asyncio.to_thread(drain, stuck)
    assert taken < 10 * LINES * len(LONG) / 2


def drain(peer: socket.socket) -> int:
    """How many bytes were on their way when the server hung up."""
    taken = 0
    try:
        while piece := peer.recv(65536):
            taken += len(piece)
    except ConnectionResetError:
        pass
    return taken
