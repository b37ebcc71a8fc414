"""Runs what is missing of the experiments, each simulation in a process of its own.

    python -m benchmarks.learning [EXPERIMENT[/CELL] …] [--jobs N] [--workers N] [--nice]
                                  [--until-time HH:MM] [--scratch FOLDER] [--list]

Each simulation has a home in the scratch folder and goes on there when this was ended, by
whatever. What was reached is stored when a simulation ends, and also when it is stopped.
`FEDSERVER_DATA` names the folder of `mnist.npz`.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import datetime, timedelta
from itertools import chain
from pathlib import Path
from typing import Any

from benchmarks import machine
from benchmarks.learning import experiments, stored
from benchmarks.learning.experiments import Job

ROOT = Path(__file__).parent.parent.parent
COSTS = ("wall_seconds", "cpu_seconds", "bytes", "phase")  # of a round: no part of a curve
KEPT = ("round", "accuracy")
PATIENCE = 60  # seconds that a stopped simulation has for storing where it is


def start(job: Job, scratch: Path, workers: int, *, nice: bool) -> subprocess.Popen[bytes]:
    """Start or continue a simulation; the number of its workers changes nothing in its result."""
    home = home_of(job, scratch)
    home.mkdir(parents=True, exist_ok=True)
    command = [
        *(["nice", "-n", "19"] if nice else []),
        *[sys.executable, "manage.py", "simulate", *shlex.split(job.options)],
        *["--workers", str(workers), "--home", str(home / "home")],
        *["--json", str(home / "result.json")],
    ]
    with (home / "log").open("ab") as log:
        return subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)


def home_of(job: Job, scratch: Path) -> Path:
    return scratch / job.experiment / f"{job.name}-seed{job.seed}"


def store(job: Job, scratch: Path) -> stored.Result | None:
    """Keep what a simulation wrote; None if it wrote nothing."""
    path = home_of(job, scratch) / "result.json"
    if not path.is_file():
        return None
    found = result(job, json.loads(path.read_text()))
    found.save()
    return found


def result(job: Job, document: dict[str, Any]) -> stored.Result:
    """A simulator's result as it is kept here."""
    curve = columns(document["curve"])
    reached = document["rounds_to_target"]
    costs = [row["cpu_seconds"] for row in document["curve"] if row.get("cpu_seconds")]
    return stored.Result(
        experiment=job.experiment,
        cell=job.name,
        seed=job.seed,
        command=f"python manage.py simulate {job.options}",
        settings=document["settings"],
        software=document["versions"],
        processor=f"{machine.processor()}, {os.cpu_count()} cores",
        commit=commit(),
        ended="target" if reached else "rounds" if document["state"] == "completed" else "stopped",
        rounds=document["rounds"],
        rounds_to_target=reached,
        clock_to_target=document["virtual_seconds_to_target"],
        final_accuracy=document["final_accuracy"],
        cpu_seconds_per_round=round(statistics.median(costs), 3) if costs else None,
        curve=curve,
    )


def columns(curve: list[dict[str, Any]]) -> dict[str, list[Any]]:
    """Rows as columns, rounded to what a picture can show, without columns that tell nothing."""
    names = [name for name in dict.fromkeys(chain.from_iterable(curve)) if name not in COSTS]
    found = {name: [_rounded(row.get(name)) for row in curve] for name in names}
    return {name: values for name, values in found.items() if name in KEPT or _tells(values)}


def _tells(values: list[Any]) -> bool:
    """Whether a column changes from round to round."""
    return len(set(values[1:])) > 1


def _rounded(value: Any) -> Any:
    return round(value, 4) if isinstance(value, float) else value


def commit() -> str:
    """The commit of this checkout, with "+" where the code that runs has changed since."""

    def git(*words: str) -> str:
        command = ["git", *words]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout

    changed = git("status", "--porcelain", "--", "simulation", "rounds", "client_sdk").strip()
    return git("rev-parse", "--short", "HEAD").strip() + ("+" if changed else "")


def run(
    cells: list[experiments.Cell],
    jobs: int,
    workers: int,
    scratch: Path,
    end: float,
    *,
    nice: bool,
) -> int:
    """Run what is due, `jobs` at a time, until all is done or the time has come.

    Returns:
        How many simulations failed.
    """
    running: dict[Job, subprocess.Popen[bytes]] = {}
    failed: set[Job] = set()
    try:
        while time.time() < end:
            for job in [job for job, process in running.items() if process.poll() is not None]:
                if running.pop(job).returncode != 0:
                    failed.add(job)
                say(job, store(job, scratch), failed=job in failed)
            waiting = [
                job for job in stored.due(cells) if job not in running | dict.fromkeys(failed)
            ]
            for job in waiting[: jobs - len(running)]:
                running[job] = start(job, scratch, workers, nice=nice)
            if not running:
                break
            time.sleep(1)
    finally:
        for process in running.values():
            process.send_signal(signal.SIGINT)
        for job, process in running.items():
            try:
                process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
            say(job, store(job, scratch), failed=False)
    return len(failed)


def say(job: Job, found: stored.Result | None, *, failed: bool) -> None:
    what = f"{job.experiment}/{job.name} seed {job.seed}"
    if found is None or failed:
        print(f"{what}: nothing came of it; its log lies in the scratch folder", flush=True)
    else:
        to = found.rounds_to_target or "-"
        print(
            f"{what}: {found.ended} after {found.rounds} rounds,"
            f" accuracy {found.final_accuracy}, target at {to}",
            flush=True,
        )


def moment(text: str) -> float:
    """The next time that a clock shows HH:MM, in seconds since the epoch."""
    asked = datetime.strptime(text, "%H:%M")  # noqa: DTZ007
    now = datetime.now()  # noqa: DTZ005
    at = now.replace(hour=asked.hour, minute=asked.minute, second=0, microsecond=0)
    return (at if at > now else at + timedelta(days=1)).timestamp()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="EXPERIMENT[/CELL]")
    parser.add_argument("--jobs", type=int, default=1, metavar="N")
    parser.add_argument(
        "--workers", type=int, default=1, metavar="N", help="processes that train in each"
    )
    parser.add_argument("--nice", action="store_true", help="give way to everything else")
    parser.add_argument("--until-time", type=moment, default=float("inf"), metavar="HH:MM")
    scratch = Path(tempfile.gettempdir()) / "fedserver-learning"
    parser.add_argument("--scratch", type=Path, default=scratch, metavar="FOLDER")
    parser.add_argument("--list", action="store_true", help="only say what is due")
    arguments = parser.parse_args()
    try:
        cells = experiments.cells(arguments.names)
    except ValueError as error:
        parser.error(str(error))
    if arguments.list:
        for cell in cells:
            for job in stored.due([cell]):
                print(f"{cell.experiment}/{cell.name}: {job.options}")
        return
    # Of a background shell signals may come ignored, and simulations would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    try:
        failed = run(
            cells,
            arguments.jobs,
            arguments.workers,
            arguments.scratch,
            arguments.until_time,
            nice=arguments.nice,
        )
    except KeyboardInterrupt:
        sys.exit("stopped; the same command goes on")
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
