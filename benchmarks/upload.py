"""Upload and download of 100 MB beside a bare socket, and what they cost the web process.

    python -m benchmarks.upload [--megabytes 100] [--repeats 5] [--quick] [--json FILE]

The server is the real one, in a home of its own. All senders are alike: one socket, `sendfile`. All
receivers are processes of their own on this machine, take turns, and count by their best turn.

Upload, from the first byte sent to the answer:

- `write`: pieces of a megabyte go from a bare socket to a file, and fsync;
- `hash`: they are hashed (SHA-256) and go nowhere;
- `hash, write`: they are hashed, then written, one after the other;
- `hash | write`: a second thread hashes and writes one piece while the next one comes;
- `fedserver`: a PUT of an update: authenticated, hashed and written as it comes, parsed, proved
  finite, measured, fsynced, moved into the store, committed, acknowledged;
- `fedserver, 4`: four participants at once, the bytes of all in the seconds of the slowest.

Download, from the request to the last byte: `read, send` reads pieces of a megabyte and sends them,
`fedserver` answers the GET of a version's weights.

`CPU` is the receiver's (or server's) processor time for 100 MB, which a busy machine does not
change, and `MB` by how much its anonymous memory had grown at its height.
"""

import argparse
import hashlib
import json
import multiprocessing
import os
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil

from benchmarks import server

if TYPE_CHECKING:
    from rounds.models import Assignment

PIECE = 1 << 20
TOGETHER = 4


@dataclass
class Row:
    """One line of the table."""

    name: str
    megabytes: float
    seconds: float = float("inf")
    processor_seconds: float = float("inf")
    growth: float = 0.0

    @property
    def speed(self) -> float:
        return self.megabytes / self.seconds

    def to_json(self) -> dict[str, Any]:
        return {**vars(self), "megabytes_per_second": self.speed}


def main() -> None:
    options = parse()
    before = server.load()
    with server.running() as it:
        uploads, downloads = measure(it, options.megabytes, options.repeats)
    report: dict[str, Any] = {
        "before": before,
        "after": server.load(),
        "upload": [row.to_json() for row in uploads],
        "download": [row.to_json() for row in downloads],
    }
    show("upload", uploads)
    show("download", downloads)
    busy = [report[when]["load"][0] for when in ("before", "after")]
    print(f"{os.cpu_count()} processors, load {busy[0]} before, {busy[1]} after")
    if options.json:
        options.json.write_text(json.dumps(report, indent=2) + "\n")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Upload and download beside a bare socket.")
    parser.add_argument("--megabytes", type=int, default=100, help="of weights (%(default)s)")
    parser.add_argument("--repeats", type=int, default=5, help="turns of each (%(default)s)")
    parser.add_argument("--quick", action="store_true", help="two turns of 20 MB")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all numbers there")
    options = parser.parse_args()
    if options.quick:
        options.megabytes, options.repeats = 20, 2
    return options


def show(what: str, rows: list[Row]) -> None:
    ours = next(row for row in rows if row.name == "fedserver")
    print(f"{what:<14} {'MB/s':>7} {'fedserver is':>13} {'CPU':>8} {'MB':>6}")
    for row in rows:
        cpu = 100_000 * row.processor_seconds / row.megabytes
        ratio = ours.speed / row.speed
        print(f"{row.name:<14} {row.speed:>7.0f} {ratio:>12.2f}x {cpu:>5.0f} ms {row.growth:>6.1f}")


# --- What is measured ---------------------------------------------------------------------------


def measure(it: server.Server, megabytes: int, repeats: int) -> tuple[list[Row], list[Row]]:
    """Takes turns, so that what else the machine does is everyone's trouble alike."""
    senders = Senders(it.url, megabytes * 1_000_000 // 4, count=repeats * (1 + TOGETHER))
    size, web = senders.update.stat().st_size / 1e6, it.pid("web")
    uploads = {name: Row(name, size) for name in RECEIVERS}
    ours, four = Row("fedserver", size), Row(f"fedserver, {TOGETHER}", TOGETHER * size)
    downloads = {name: Row(name, size) for name in DOWNLOADS}
    ours_down = Row("fedserver", size)
    with peers(senders.update) as found:
        for _ in range(repeats):
            for name, row in uploads.items():
                turn(row, found[name].pid, partial(send, found[name].address, b"", senders.update))
            turn(ours, web, senders.put)
            turn(four, web, senders.put_together)
            for name, row in downloads.items():
                fetch = partial(receive, found[name].address, b"?", senders.update)
                turn(row, found[name].pid, fetch)
            turn(ours_down, web, senders.get)
    return [*uploads.values(), ours, four], [*downloads.values(), ours_down]


def turn(row: Row, pid: int, work: Callable[[], object]) -> None:
    """Does the work once more; the best turn and the greatest growth count."""
    process = psutil.Process(pid)
    with server.growth(pid) as growth:
        before, began = process.cpu_times(), time.perf_counter()
        work()
        row.seconds = min(row.seconds, time.perf_counter() - began)
        after = process.cpu_times()
    spent = after.user + after.system - before.user - before.system
    row.processor_seconds = min(row.processor_seconds, spent)
    row.growth = max(row.growth, *growth, 0.0)


def send(address: tuple[str, int], head: bytes, body: Path) -> bytes:
    """Sends a head and a file; returns what is answered."""
    with socket.create_connection(address) as connection, body.open("rb") as file:
        connection.sendall(head)
        connection.sendfile(file)
        return connection.recv(PIECE)


def receive(address: tuple[str, int], head: bytes, body: Path) -> None:
    """Sends a request and receives at least as many bytes as the file has."""
    left, piece = body.stat().st_size, bytearray(PIECE)
    with socket.create_connection(address) as connection:
        connection.sendall(head)
        while left > 0:
            count = connection.recv_into(piece)
            assert count, f"Expected {left} more bytes. Received: none"
            left -= count


class Senders:
    """Participants with a place in one round each, and one update that serves them all.

    Args:
        url: of the server.
        weights: how many the model has, a multiple of 1000.
        count: how many uploads there will be; one more participant keeps the round open.
    """

    def __init__(self, url: str, weights: int, count: int) -> None:
        from django.conf import settings

        from client_sdk import wire

        host, port = url.removeprefix("http://").split(":")
        self.address = (host, int(port))
        values = np.random.default_rng(7).standard_normal((weights // 1000, 1000), np.float32)
        model = server.register("large", {"kernel": values})
        self.update = settings.FEDSERVER_HOME / "update"
        wire.dump(self.update, {model.federated[0].name: values})
        server.start_run("large", participants=count + 1, rounds=1)
        members = server.members(count + 1)
        places = server.invite(members)[:count]
        self._puts = [self._put(*pair) for pair in zip(members, places, strict=False)]
        self._get = (
            f"GET /api/v1/blobs/{places[0].round.base.weights} HTTP/1.1\r\n"
            f"Host: {host}\r\nAuthorization: Bearer {members[0].token}\r\n\r\n"
        ).encode()

    def _put(self, member: server.Member, place: "Assignment") -> bytes:
        manifest, signature = member.sign(place, self.update)
        return (
            f"PUT /api/v1/assignments/{place.pk}/update HTTP/1.1\r\n"
            f"Host: {self.address[0]}\r\nAuthorization: Bearer {member.token}\r\n"
            f"Content-Type: application/octet-stream\r\n"
            f"Content-Length: {self.update.stat().st_size}\r\n"
            f"Fedserver-Manifest: {manifest}\r\nFedserver-Signature: {signature}\r\n\r\n"
        ).encode()

    def put(self) -> None:
        """One participant sends the update."""
        answer = send(self.address, self._puts.pop(), self.update)
        assert answer.startswith(b"HTTP/1.1 200"), answer

    def put_together(self) -> None:
        """Some participants send it at once."""
        with ThreadPoolExecutor(TOGETHER) as pool:
            for call in [pool.submit(self.put) for _ in range(TOGETHER)]:
                call.result()

    def get(self) -> None:
        """One participant fetches the version that the round starts from."""
        receive(self.address, self._get, self.update)


# --- Peers: one process each, one connection after the other ------------------------------------

Sink = Callable[[socket.socket, int, Path], None]


def write(connection: socket.socket, size: int, path: Path) -> None:
    with path.open("wb", buffering=0) as file:
        for piece in pieces(connection, size):
            file.write(piece)
        os.fsync(file.fileno())


def hash_only(connection: socket.socket, size: int, path: Path) -> None:
    digest = hashlib.sha256()
    for piece in pieces(connection, size):
        digest.update(piece)


def hash_then_write(connection: socket.socket, size: int, path: Path) -> None:
    digest = hashlib.sha256()
    with path.open("wb", buffering=0) as file:
        for piece in pieces(connection, size):
            digest.update(piece)
            file.write(piece)
        os.fsync(file.fileno())


def hash_and_write_meanwhile(connection: socket.socket, size: int, path: Path) -> None:
    digest = hashlib.sha256()

    def keep(piece: memoryview) -> None:
        digest.update(piece)
        file.write(piece)

    with path.open("wb", buffering=0) as file, ThreadPoolExecutor(1) as pool:
        kept: Future[None] | None = None
        for piece in pieces(connection, size, buffers=2):
            if kept:
                kept.result()
            kept = pool.submit(keep, piece)
        if kept:
            kept.result()
        os.fsync(file.fileno())


def pieces(connection: socket.socket, size: int, buffers: int = 1) -> Iterator[memoryview]:
    """What comes, by megabytes; a piece is overwritten after as many more as there are buffers."""
    kept = [memoryview(bytearray(PIECE)) for _ in range(buffers)]
    for number, start in enumerate(range(0, size, PIECE)):
        piece = kept[number % buffers][: min(PIECE, size - start)]
        filled = 0
        while filled < len(piece):
            filled += connection.recv_into(piece[filled:])
        yield piece


def read_and_send(connection: socket.socket, size: int, path: Path) -> None:
    connection.recv(1)
    with path.open("rb", buffering=0) as file:
        while piece := file.read(PIECE):
            connection.sendall(piece)


DOWNLOADS = {"read, send": read_and_send}
RECEIVERS = {
    "write": write,
    "hash": hash_only,
    "hash, write": hash_then_write,
    "hash | write": hash_and_write_meanwhile,
}


@dataclass(frozen=True)
class Peer:
    """Where a peer listens, and its process."""

    address: tuple[str, int]
    pid: int


@contextmanager
def peers(update: Path) -> Iterator[dict[str, Peer]]:
    """Gives the peers by name."""
    context = multiprocessing.get_context("spawn")
    size, found, processes = update.stat().st_size, {}, []
    for number, (name, sink) in enumerate({**RECEIVERS, **DOWNLOADS}.items()):
        listener = socket.create_server(("127.0.0.1", 0))
        path = update if sink is read_and_send else update.with_name(f"peer-{number}")
        process = context.Process(target=serve, args=(listener, sink, size, path), daemon=True)
        process.start()
        assert process.pid
        found[name] = Peer(listener.getsockname(), process.pid)
        processes.append(process)
    try:
        yield found
    finally:
        for process in processes:
            process.terminate()
            process.join()


def serve(listener: socket.socket, sink: Sink, size: int, path: Path) -> None:
    while True:
        connection, _ = listener.accept()
        with connection:
            sink(connection, size, path)
            connection.sendall(b"there")
        if path.name.startswith("peer"):
            path.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
