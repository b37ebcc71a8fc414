"""One whole round by itself: participants that train nothing, on the real server over HTTP.

    python -m benchmarks.round [--participants 8] [--rounds 8] [--no-flower] [--quick] [--json FILE]

Web, workers, beat and Valkey run under the supervisor in a home of their own; the participants are
the SDK's own, each with its profile, in threads of two processes, and their trainer answers at
once. From the second round on, medians of:

- `round`: a round's opening to its publication, by the server's clock;
- `cycle`: one publication to the next, which is what a federation waits for;
- `select`, `train`, `fold`, `judge`: the phases of which a round consists;
- `overhead`: the last update received to the new version offered;
- `asked`: the last receipt in the hand of a participant to the first place in the next round in
  the hand of one, by the participants' clocks.

`tiny` has nine weights and no evaluation set; `digits` is the demo's network, measured after each
round on 360 held-out images in the evaluation worker. Flower's SuperLink does the same with as many
SuperNodes in the same run (`flower_round.py`).
"""

import argparse
import json
import multiprocessing
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from multiprocessing.queues import Queue
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks import flower_round, server

if TYPE_CHECKING:
    from client_sdk.participation import Event
    from rounds.models import Round, Run

PROCESSES = 2
COLUMNS = ("round", "cycle", "select", "train", "fold", "judge", "overhead", "asked")
TARGETS = {"round": 1.0, "overhead": 0.3}

Moment = tuple[float, int, str]  # seconds since the epoch, id of the round, kind of event


def main() -> None:
    options = parse()
    report: dict[str, Any] = {"participants": options.participants, "before": server.load()}
    with server.running() as it:
        with participants(it.url, options.participants) as moments:
            report["tiny"] = measure(tiny(), options, moments)
            if not options.no_keras:
                report["digits"] = measure(digits(), options, moments)
    if not options.no_flower:
        report["flower"] = flower_round.measure(options.participants, rounds=2)
    report["after"] = server.load()
    show(report)
    if options.json:
        options.json.write_text(json.dumps(report, indent=2) + "\n")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="What a round costs by itself.")
    parser.add_argument("--participants", type=int, default=8, metavar="N")
    parser.add_argument("--rounds", type=int, default=8, help="that count; one more warms up")
    parser.add_argument("--no-flower", action="store_true", help="leave the peer out")
    parser.add_argument("--no-keras", action="store_true", help="leave the evaluated model out")
    parser.add_argument("--quick", action="store_true", help="three rounds of the tiny model")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all numbers there")
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.no_flower, options.no_keras = 3, True, True
    return options


# --- Models -------------------------------------------------------------------------------------


def tiny() -> str:
    """Registers nine weights; returns the slug."""
    tensors = {"kernel": np.ones((2, 3), np.float32), "bias": np.zeros(3, np.float32)}
    return server.register("tiny", tensors).slug


def digits() -> str:
    """Registers the demo's network with its evaluation set; returns the slug."""
    from django.conf import settings

    folder = settings.FEDSERVER_HOME / "model"
    folder.mkdir()
    command = [sys.executable, "-m", "fedserver.demo_model", "digits", "0", str(folder)]
    subprocess.run(command, check=True)
    return "digits"


# --- Participants -------------------------------------------------------------------------------


class Idle:
    """A trainer without any training: every value changes by the same little."""

    def train(
        self,
        weights: Mapping[str, np.ndarray],
        data: object,
        hyperparameters: object,
        seed: int,
        on_epoch: object = None,
    ) -> SimpleNamespace:
        deltas = {name: np.full_like(value, 1e-6) for name, value in weights.items()}
        return SimpleNamespace(deltas=deltas, samples=100, metrics={}, local={})


@contextmanager
def participants(url: str, count: int) -> Iterator["Queue[Moment]"]:
    """Lets participants enrol and ask for work; gives the queue of what they live through."""
    context = multiprocessing.get_context("spawn")
    moments: Queue[Moment] = context.Queue()
    codes = [server.join_code() for _ in range(count)]
    processes = [
        context.Process(target=take_part, args=(url, codes[part::PROCESSES], moments), daemon=True)
        for part in range(min(PROCESSES, count))
    ]
    for process in processes:
        process.start()
    try:
        yield moments
    finally:
        for process in processes:
            process.terminate()
            process.join()


def take_part(url: str, codes: Sequence[str], moments: "Queue[Moment]") -> None:
    """A process of participants: a thread for each."""
    from client_sdk import Participant

    def live(code: str) -> None:
        def tell(event: "Event") -> None:
            round_ = event.assignment.round if event.assignment else 0
            moments.put((time.time(), round_, event.kind))

        with Participant.enrol(url, code, profile=code) as participant:
            participant.participate((np.zeros(1), np.zeros(1)), trainer=Idle(), on_event=tell)

    threads = [threading.Thread(target=live, args=(code,)) for code in codes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


# --- Measuring ----------------------------------------------------------------------------------


def measure(slug: str, options: argparse.Namespace, moments: "Queue[Moment]") -> dict[str, Any]:
    """Runs one round more than counts; returns medians, and all values, in seconds."""
    run = server.start_run(slug, participants=options.participants, rounds=options.rounds + 1)
    server.wait_for(run)
    values = columns(run, drained(moments))
    return {
        "median": {name: statistics.median(values[name][1:]) for name in COLUMNS},
        "first": {name: values[name][0] for name in COLUMNS},
        "rounds": values,
    }


def drained(moments: "Queue[Moment]") -> list[Moment]:
    time.sleep(0.3)  # for the last receipts
    found = []
    while not moments.empty():
        found.append(moments.get())
    return found


def columns(run: "Run", moments: Sequence[Moment]) -> dict[str, list[float]]:
    """Each round's seconds by what they were spent on."""
    rounds = list(run.rounds.order_by("number"))
    ends = [one.ended_at.timestamp() for one in rounds if one.ended_at]
    received = [_last_update(one) for one in rounds]
    found: dict[str, list[float]] = {name: [] for name in COLUMNS}
    for one in rounds:
        times = (one.opened_at, one.training_at, one.aggregating_at, one.evaluating_at)
        stamps = [time.timestamp() for time in (*times, one.ended_at) if time]
        for name, begin, end in zip(
            ("select", "train", "fold", "judge"), stamps, stamps[1:], strict=False
        ):
            found[name].append(end - begin)
        found["round"].append(stamps[-1] - stamps[0])
    found["overhead"] = [end - last for end, last in zip(ends, received, strict=True)]
    found["cycle"] = [0.0, *(after - before for before, after in pairwise(ends))]
    found["asked"] = [0.0, *_asked([one.pk for one in rounds], moments)]
    return found


def _last_update(one: "Round") -> float:
    last = one.assignments.order_by("update__received_at").last()
    assert last
    return float(last.update.received_at.timestamp())


def _asked(ids: Sequence[int], moments: Sequence[Moment]) -> Iterator[float]:
    def at(round_: int, kind: str) -> list[float]:
        return [when for when, *what in moments if what == [round_, kind]]

    for before, after in pairwise(ids):
        yield min(at(after, "assigned")) - max(at(before, "uploaded"))


def show(report: Mapping[str, Any]) -> None:
    count = report["participants"]
    print(f"Seconds of a round with {count} participants that train nothing; medians")
    print(f"{'':<15}" + "".join(f"{name:>9}" for name in COLUMNS))
    for name in ("tiny", "digits"):
        if name in report:
            for line, values in (("", report[name]["median"]), (", first", report[name]["first"])):
                print(f"{name + line:<15}" + "".join(f"{values[one]:>9.3f}" for one in COLUMNS))
    print(f"{'target':<15}" + "".join(f"{TARGETS.get(one, '-'):>9}" for one in COLUMNS))
    if peer := report.get("flower"):
        seconds = peer["seconds_per_round"]
        ratio = seconds / report["tiny"]["median"]["cycle"]
        print(f"Flower {peer['flower']}: {seconds:.1f} s a round, {ratio:.0f} times our cycle")
    before, after = report["before"]["load"], report["after"]["load"]
    print(f"{report['after']['processors']} processors, load {before[0]} before, {after[0]} after")


if __name__ == "__main__":
    main()
