"""What it costs to wait for work, and how soon it is known: the WebSocket beside the long poll.

    python -m benchmarks.wake [--participants 200] [--seconds 60] [--json FILE]

Real web process, real Valkey, a database of their own; the participants share one other process.
First nobody has anything to do: counted are the requests that reach the server and the processor
time of its web process. Then a round opens and takes everybody who comes, first come, first
served: measured is the time from its commit until each has its assignment in hand and could begin
to train. The long poll asks as the SDK does without a WebSocket, with `wait` 20; who is connected
is told, and then checks in, and once a minute besides.
"""

import argparse
import asyncio
import json
import logging
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
from websockets.asyncio.client import connect

from benchmarks import server

HELD = 20.0  # seconds that a long poll may be held
BESIDES = 60.0  # seconds between two check-ins of who is told


@dataclass
class Row:
    """One way to wait."""

    name: str
    requests_a_minute: float = 0.0
    busy: float = 0.0  # of one processor, while nobody has anything to do
    p50: float = 0.0  # milliseconds from the round's commit to the assignment
    p95: float = 0.0
    round_ms: float = 0.0  # the web process' processor time for letting all of them in


@dataclass
class Crowd:
    """Participants who wait for a round."""

    url: str
    tokens: list[str]
    pushed: bool
    requests: int = 0
    there: int = 0
    began: list[float] = field(default_factory=list)

    async def wait(self) -> None:
        """Until everybody has an assignment."""
        # Given up before the server does: a request must not meet its end.
        limits = httpx.Limits(keepalive_expiry=2.0)
        async with httpx.AsyncClient(timeout=90, limits=limits, trust_env=False) as http:
            live = self._told if self.pushed else self._asking
            await asyncio.gather(*(live(http, token) for token in self.tokens))

    async def _asking(self, http: httpx.AsyncClient, token: str) -> None:
        self.there += 1
        while not await self._check_in(http, token, HELD):
            pass

    async def _told(self, http: httpx.AsyncClient, token: str) -> None:
        headers = {"Authorization": f"Bearer {token}"}
        url = f"{self.url.replace('http', 'ws', 1)}/ws/participant/"
        async with connect(
            url, additional_headers=headers, compression=None, proxy=None, open_timeout=90
        ) as socket:
            self.there += 1
            while not await self._check_in(http, token, 0):
                try:
                    await asyncio.wait_for(socket.recv(), BESIDES)
                except TimeoutError:
                    continue

    async def _check_in(self, http: httpx.AsyncClient, token: str, wait: float) -> bool:
        self.requests += 1
        answer = await http.post(
            f"{self.url}/api/v1/check-in",
            json={"wait": wait},
            headers={"Authorization": f"Bearer {token}"},
        )
        if answer.raise_for_status().json()["action"] != "train":
            return False
        self.began.append(time.monotonic())
        return True


def open_round(slug: str, participants: int) -> float:
    """A round that takes so many as they come; when it was committed."""
    from models_app.models import Model
    from rounds import lifecycle

    rules: dict[str, Any] = {"selection": "first_come", "over_selection": 1.0}
    run = lifecycle.create_run(
        Model.objects.get(slug=slug), rounds_planned=1, cohort_goal=participants, **rules
    )
    lifecycle.start_run(run.pk)
    return time.monotonic()


async def measure(it: server.Server, crowd: Crowd, slug: str, seconds: float) -> Row:
    """How one crowd waits, and then begins."""
    web = psutil.Process(it.pid("web"))
    row = Row("WebSocket" if crowd.pushed else "long poll")
    waiting = asyncio.create_task(crowd.wait())
    while crowd.there < len(crowd.tokens):  # noqa: ASYNC110
        await asyncio.sleep(0.1)
    await asyncio.sleep(HELD)  # until their beginnings are forgotten
    requests, spent, began = crowd.requests, processor(web), time.monotonic()
    await asyncio.sleep(seconds)
    passed = time.monotonic() - began
    row.requests_a_minute = (crowd.requests - requests) * 60 / passed
    row.busy = (processor(web) - spent) / passed
    spent = processor(web)
    opened = await asyncio.to_thread(open_round, slug, len(crowd.tokens))
    await waiting
    row.round_ms = (processor(web) - spent) * 1e3
    latencies = (np.array(crowd.began) - opened) * 1e3
    row.p50, row.p95 = (float(np.percentile(latencies, share)) for share in (50, 95))
    return row


def processor(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def main() -> None:
    parser = argparse.ArgumentParser(description="What waiting for work costs, and how soon ends.")
    parser.add_argument("--participants", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=60.0, help="of waiting, each way")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with server.running(only=("valkey", "web")) as it:
        logging.getLogger("httpx").setLevel(logging.WARNING)  # its lines cost us processor time
        rows = []
        for pushed in (False, True):
            slug = "pushed" if pushed else "polled"
            server.register(slug, {"kernel": np.zeros((10, 10), np.float32)})
            tokens = [one.token for one in server.members(options.participants)]
            crowd = Crowd(it.url, tokens, pushed)
            rows.append(asyncio.run(measure(it, crowd, slug, options.seconds)))
            retire()
        told = server.load()
    print(
        f"{'':10} {'requests/min':>13} {'busy':>7} {'p50 ms':>8} {'p95 ms':>8} {'round CPU ms':>13}"
    )
    for row in rows:
        print(
            f"{row.name:10} {row.requests_a_minute:13.0f} {row.busy:7.2%} {row.p50:8.0f} "
            f"{row.p95:8.0f} {row.round_ms:13.0f}"
        )
    poll, push = rows
    print(
        f"waiting: {push.requests_a_minute / max(poll.requests_a_minute, 1):.2f} of the requests, "
        f"{push.busy / max(poll.busy, 1e-9):.2f} of the processor; {told}"
    )
    if options.json:
        document = {"rows": [asdict(row) for row in rows], **told}
        options.json.write_text(json.dumps(document, indent=2))


def retire() -> None:
    """End what was measured: the next crowd finds a server without a round."""
    from rounds import lifecycle
    from rounds.models import Run

    for run in Run.objects.filter(state=Run.State.RUNNING):
        lifecycle.stop_run(run.pk, actor="benchmark")


if __name__ == "__main__":
    main()
