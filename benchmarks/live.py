"""How soon a browser hears of an event: from the commit to the receipt, by many sockets at once.

    python -m benchmarks.live [--sockets 200,1000] [--seconds 10] [--quick] [--json FILE]

Real web process, real Valkey, a database of their own. All sockets look at one round, each with a
session of its own; they are in two other processes of this machine, which takes its processors from
the server: what they need to receive counts as the server's. Events enter through the journal, as
they do in rounds:

- `steady`: ten lines a second, one by one;
- `training`: the same, while a hundred participants report their progress four times a second
  each: twice a second is told (latencies are those of the lines);
- `burst`: two hundred lines as fast as they can be committed.

`CPU` is the web process' processor time for one event at one socket, `busy` its share of one
processor, `MB` by how much a socket let its anonymous memory grow. Then the web process is killed,
as `kill -9` does, twenty lines are written while it is away, and all sockets come back at once:
it is told when the last one knows everything, after the kill and after the first one's return, and
what the new process has spent until then. Pages in browsers wait at random, and spread this.
Of every socket it is checked that it has heard every line once and in order.
"""

import argparse
import asyncio
import json
import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from benchmarks import server

ROUND = 7
PARTICIPANTS = 100
PROCESSES = 2


@dataclass
class Row:
    """One line of the table."""

    sockets: int
    name: str
    events: int
    frames: float = 0.0
    p50: float = 0.0
    p95: float = 0.0
    p99: float = 0.0
    longest: float = 0.0
    microseconds: float = 0.0
    busy: float = 0.0


@dataclass
class Storm:
    """All sockets of a killed server come back."""

    sockets: int
    megabytes: float
    connected: float = 0.0  # seconds for the first connection of all, one burst
    away: float = 0.0  # seconds from the kill until all know all
    back: float = 0.0  # of them, those after the first one's return
    processor_seconds: float = 0.0


@dataclass
class Report:
    """Everything that was measured."""

    before: dict[str, Any] = field(default_factory=server.load)
    rows: list[Row] = field(default_factory=list)
    storms: list[Storm] = field(default_factory=list)
    after: dict[str, Any] = field(default_factory=dict)


def main() -> None:
    options = parse()
    report = Report()
    with server.running(only=("valkey", "web")) as it:
        for sockets in options.sockets:
            measure(it, sockets, options.seconds, report)
    report.after = server.load()
    show(report)
    if options.json:
        options.json.write_text(json.dumps(asdict(report), indent=2) + "\n")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="From an event's commit to its receipt.")
    counts = "how many sockets, one after the other (200,1000)"
    parser.add_argument("--sockets", type=_counts, default=[200, 1000], help=counts)
    parser.add_argument("--seconds", type=float, default=10, help="of each pace (%(default)s)")
    parser.add_argument("--quick", action="store_true", help="50 sockets, three seconds")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all numbers there")
    options = parser.parse_args()
    if options.quick:
        options.sockets, options.seconds = [50], 3.0
    return options


def _counts(text: str) -> list[int]:
    return [int(count) for count in text.split(",")]


def show(report: Report) -> None:
    head = f"{'p50':>6} {'p95':>6} {'p99':>6} {'max':>6} {'CPU':>8} {'busy':>6} {'frames':>8}"
    print(f"{'sockets':>7} {'pace':<9} {'lines':>6} {head}")
    for row in report.rows:
        print(
            f"{row.sockets:>7} {row.name:<9} {row.events:>6} {row.p50:>6.0f} {row.p95:>6.0f}"
            f" {row.p99:>6.0f} {row.longest:>6.0f} {row.microseconds:>5.0f} µs"
            f" {row.busy:>5.0%} {row.frames:>8.0f}"
        )
    for storm in report.storms:
        each = 1000 * storm.megabytes / storm.sockets
        print(
            f"{storm.sockets} sockets: {each:.0f} kB each; connected after {storm.connected:.1f} s,"
            f" and {storm.away:.1f} s after a kill: {storm.back:.1f} s after the first one"
            f" ({storm.processor_seconds:.1f} s of CPU)"
        )
    busy = [when["load"][0] for when in (report.before, report.after)]
    print(f"ms; {os.cpu_count()} processors, load {busy[0]} before, {busy[1]} after")


# --- What is measured ---------------------------------------------------------------------------


def measure(it: server.Server, sockets: int, seconds: float, report: Report) -> None:
    """All paces for so many sockets, then the storm."""
    web = psutil.Process(it.pid("web"))
    first, cookies = head(), sessions(sockets)
    memory, began = server.anonymous_memory(web.pid), time.monotonic()
    with audience(it.url, cookies, first) as there:
        connected = time.monotonic() - began
        grown = server.anonymous_memory(web.pid) - memory
        for name, pace in PACES.items():
            report.rows.append(turn(name, web, there, pace, seconds))
        storm = Storm(sockets, grown, connected)
        report.storms.append(storm)
        lines = endure(it, there, storm)
        there.verify(first, lines)


def turn(name: str, web: psutil.Process, there: "Audience", pace: Any, seconds: float) -> Row:
    """One pace: what the sockets heard of it, and what it cost."""
    there.settle()
    there.frames()
    before, began = spent(web), time.monotonic()
    committed = pace(seconds)
    there.wait_for(max(committed))
    took, cost = time.monotonic() - began, spent(web) - before
    frames = there.frames()
    delays = np.array(
        [
            1000 * (at - committed[pk])
            for heard in frames
            for at, events, _ in heard
            for pk in events
            if pk in committed
        ]
    )
    assert len(delays) == there.sockets * len(committed), "a socket has not heard everything"
    hints = sum(told for heard in frames for _, _, told in heard)
    return Row(
        there.sockets,
        name,
        len(committed),
        sum(map(len, frames)) / there.sockets,
        *np.percentile(delays, (50, 95, 99, 100)),
        1e6 * cost / (len(delays) + hints),
        cost / took,
    )


def spent(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def steady(seconds: float) -> dict[int, float]:
    """Ten lines a second."""
    began, committed = time.monotonic(), {}
    for number in range(int(10 * seconds)):
        time.sleep(max(0.0, began + number / 10 - time.monotonic()))
        committed[write()] = time.monotonic()
    return committed


def training(seconds: float) -> dict[int, float]:
    """Ten lines a second, and between two of them the reports of forty participants."""
    from journal import events

    began, committed = time.monotonic(), {}
    for number in range(int(10 * seconds)):
        time.sleep(max(0.0, began + number / 10 - time.monotonic()))
        committed[write()] = time.monotonic()
        for place in range(40):
            one = (number * 40 + place) % PARTICIPANTS
            told = {"activity": "training", "fraction": number / 100, "epoch": number, "epochs": 9}
            told |= {"name": f"participant-{one}", "metrics": {"loss": 0.123456 * one}}
            events.hint("assignment.progress", round=ROUND, run=1, assignment=10**6 + one, **told)
    return committed


def burst(seconds: float) -> dict[int, float]:
    """Two hundred lines as fast as they can be committed."""
    committed = {}
    for _ in range(200):
        committed[write()] = time.monotonic()
    return committed


PACES = {"steady": steady, "training": training, "burst": burst}


def write() -> int:
    """A line as a round writes them; its id."""
    from journal import events

    with events.transaction() as journal:
        journal.record(
            "assignment.uploaded",
            run=1,
            round=ROUND,
            assignment=12,
            participant=3,
            name="participant-3",
            samples=600,
            bytes=120_000,
            norm=0.734,
            metrics={"loss": 0.2345, "accuracy": 0.9123},
        )
    return journal.lines[0].pk


def head() -> int:
    from journal import events

    return events.head()


def endure(it: server.Server, there: "Audience", storm: Storm) -> int:
    """Kill the web process, write, and wait until everybody knows; the greatest id then."""
    there.settle()
    there.frames()
    child = it.supervisor.children["web"]
    old, killed = child.pid, time.monotonic()
    child.signal(signal.SIGKILL)
    last = [write() for _ in range(20)][-1]
    while child.pid == old or not child.is_ready():
        it.supervisor.tick()
        time.sleep(0.01)
    there.wait_for(last)
    frames = there.frames()
    first = min(at for heard in frames for at, _, _ in heard if at > killed)
    knew = max(at for heard in frames for at, lines, _ in heard if last in lines)
    storm.away, storm.back = knew - killed, knew - first
    storm.processor_seconds = spent(psutil.Process(it.pid("web")))
    return last


def sessions(count: int) -> list[str]:
    """Cookies of so many people, each signed in once."""
    from importlib import import_module

    from django.conf import settings
    from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY
    from django.contrib.auth.models import User
    from django.db import transaction

    store = import_module(settings.SESSION_ENGINE).SessionStore
    found = []
    with transaction.atomic():
        for number in range(count):
            user = User.objects.create(username=f"viewer-{count}-{number}")
            session = store()
            session[SESSION_KEY] = str(user.pk)
            session[BACKEND_SESSION_KEY] = settings.AUTHENTICATION_BACKENDS[0]
            session[HASH_SESSION_KEY] = user.get_session_auth_hash()
            session.create()
            found.append(f"{settings.SESSION_COOKIE_NAME}={session.session_key}")
    return found


# --- Those who listen: processes of their own ---------------------------------------------------

Heard = tuple[float, list[int], int]  # when, the ids of lines, how many hints


@dataclass
class Audience:
    """All sockets, in their processes."""

    sockets: int
    pipes: list[Connection]
    _lines: list[list[int]] = field(default_factory=list)

    def ask(self, *words: Any) -> list[Any]:
        for pipe in self.pipes:
            pipe.send(words)
        answers = []
        for pipe in self.pipes:
            assert pipe.poll(120), "Expected an answer of the sockets within two minutes"
            answers.append(pipe.recv())
        return answers

    def wait_for(self, pk: int) -> None:
        """Until every socket has heard of everything up to this line."""
        self.ask("wait", pk)

    def settle(self) -> None:
        """Lets what a measurement has left behind pass."""
        time.sleep(1.0)

    def frames(self) -> list[list[Heard]]:
        """What each socket has received since it was asked last."""
        found = [frames for answer in self.ask("frames") for frames in answer]
        self._lines = self._lines or [[] for _ in found]
        for lines, frames in zip(self._lines, found, strict=True):
            lines += [pk for _, events, _ in frames for pk in events]
        return found

    def verify(self, first: int, last: int) -> None:
        """That every socket has heard every line once and in order."""
        self.frames()
        for lines in self._lines:
            assert lines == list(range(first + 1, last + 1)), "a line was missed, or came twice"


@contextmanager
def audience(url: str, cookies: list[str], after: int) -> Iterator[Audience]:
    """Sockets that are connected, and have caught up."""
    context = multiprocessing.get_context("spawn")
    pipes, processes = [], []
    for number in range(PROCESSES):
        ours, theirs = context.Pipe()
        mine = (url, cookies[number::PROCESSES], after, theirs)
        process = context.Process(target=listen, args=mine, daemon=True)
        process.start()
        pipes.append(ours)
        processes.append(process)
    try:
        there = Audience(len(cookies), pipes)
        there.ask("start")
        there.wait_for(after)
        yield there
    finally:
        for process in processes:
            process.terminate()
            process.join()


def listen(url: str, cookies: list[str], after: int, pipe: Connection) -> None:
    """One process of listeners; it does what comes through the pipe."""
    with suppress(EOFError, KeyboardInterrupt):
        asyncio.run(Listeners(url, cookies, after).obey(pipe))


class Socket:
    """One page, as far as the network is concerned."""

    def __init__(self, url: str, cookie: str, after: int) -> None:
        self._url, self._cookie = url, cookie
        self.cursor, self.live = after, False
        self.received: list[tuple[float, str]] = []

    async def follow(self) -> None:
        from websockets.exceptions import WebSocketException

        while True:
            with suppress(OSError, WebSocketException):
                await self._once()
            self.live = False
            await asyncio.sleep(0.05)

    async def _once(self) -> None:
        from websockets.asyncio.client import connect

        address = self._url.replace("http", "ws") + "/ws/live/"
        headers = {"Cookie": self._cookie}
        async with connect(
            address,
            additional_headers=headers,
            origin=self._url,  # type: ignore[arg-type]
            compression=None,
            open_timeout=120,
            proxy=None,
        ) as socket:
            await socket.send(json.dumps({"after": self.cursor, "round": ROUND}))
            async for frame in socket:
                assert isinstance(frame, str)
                self.received.append((time.monotonic(), frame))
                self.cursor = int(frame[frame.rindex(":") + 1 : -1])
                self.live = True

    def frames(self) -> list[Heard]:
        """What has come since the last time. It is looked into only now."""
        received, self.received = self.received, []
        found = []
        for at, frame in received:
            ids = [event["id"] for event in json.loads(frame)["events"]]
            lines = [pk for pk in ids if pk is not None]
            found.append((at, lines, len(ids) - len(lines)))
        return found


class Listeners:
    """The sockets of one process."""

    def __init__(self, url: str, cookies: list[str], after: int) -> None:
        self._sockets = [Socket(url, cookie, after) for cookie in cookies]
        self._tasks: list[asyncio.Task[None]] = []

    async def obey(self, pipe: Connection) -> None:
        while True:
            word, *more = await asyncio.to_thread(pipe.recv)
            pipe.send(await getattr(self, word)(*more))

    async def start(self) -> None:
        self._tasks = [asyncio.create_task(one.follow()) for one in self._sockets]

    async def wait(self, pk: int) -> None:
        while not all(one.live and one.cursor >= pk for one in self._sockets):  # noqa: ASYNC110
            await asyncio.sleep(0.02)

    async def frames(self) -> list[list[Heard]]:
        return [one.frames() for one in self._sockets]


if __name__ == "__main__":
    main()
