"""One simulation from beginning to end, or from where it was to its end."""

import time
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from rounds.models import Round
from simulation import federation, plot, results, training
from simulation.engine import ENDED, Engine, Hands
from simulation.plan import Plan

_EVERY = 5.0  # seconds between two results of a simulation that goes on


def simulate(
    plan: Plan,
    home: Path,
    *,
    data: Path | None = None,
    hands: Hands | None = None,
    json_file: Path | None = None,
    picture: Path | None = None,
    console: Console | None = None,
) -> dict[str, Any]:
    """Carry a simulation to its end; one that has ended answers from what is stored.

    Args:
        plan: what is asked for.
        home: its folder; the database and the blobs of the settings are its own.
        data: the folder of mnist and cifar10.
        hands: finds those who train; None for this process alone.
        json_file: where the results are written, now and then while it goes on.
        picture: where the curve is drawn.
        console: where progress is shown.

    Returns:
        What `json_file` gets.
    """
    console = console or Console(stderr=True)
    run = federation.found(plan, home, data)
    engine = Engine(plan, home, run, hands or partial(training.pool, workers=1))
    curve = results.Curve(run, home)
    written = time.monotonic()

    def write() -> dict[str, Any]:
        nonlocal written
        found = results.document(plan, run, curve.lines(engine.virtual_seconds()))
        if json_file:
            results.write(json_file, found)
        written = time.monotonic()
        return found

    try:
        if run.state not in ENDED:
            with _Bar(plan, console) as bar:

                def tell(round_: Round) -> None:
                    bar.tell(round_)
                    if json_file and time.monotonic() - written > _EVERY:
                        write()

                bar.at(run.rounds.filter(phase=Round.Phase.PUBLISHED).count())
                engine.rounds(tell)
    finally:
        engine.close()
        found = write()
        if picture:
            plot.draw(found, picture)
    console.print(_summary(found), soft_wrap=True)
    return found


class _Bar:
    """A progress bar; without a terminal, a line for each tenth of the rounds."""

    def __init__(self, plan: Plan, console: Console) -> None:
        self._plan, self._console = plan, console
        columns = (
            TextColumn("round"),
            MofNCompleteColumn(),
            BarColumn(),
            TextColumn("{task.description}"),
            TimeRemainingColumn(),
        )
        self._progress = Progress(*columns, console=console, disable=not console.is_terminal)
        self._task = self._progress.add_task("", total=plan.rounds)
        self._line = max(1, plan.rounds // 10)

    def __enter__(self) -> "_Bar":
        self._progress.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._progress.stop()

    def at(self, rounds: int) -> None:
        self._progress.update(self._task, completed=rounds)

    def tell(self, round_: Round) -> None:
        words = _words(round_)
        advanced = round_.phase == Round.Phase.PUBLISHED
        self._progress.update(self._task, advance=int(advanced), description=words)
        if not self._console.is_terminal and (round_.number % self._line == 0 or not advanced):
            self._console.print(f"round {round_.number}: {words}", soft_wrap=True)


def _words(round_: Round) -> str:
    if round_.version is None:
        return f"{round_.phase}: {round_.reason}"
    return "  ".join(f"{name} {value:.4f}" for name, value in round_.version.metrics.items())


def _summary(found: dict[str, Any]) -> str:
    told = f"{found['state']} after {found['rounds']} rounds"
    if found["final_accuracy"] is not None:
        told += f": accuracy {found['final_accuracy']:.4f}"
    if found["rounds_to_target"]:
        told += f"; target reached in round {found['rounds_to_target']}"
    elif found["settings"]["until"]:
        told += "; target not reached"
    return f"{told}; {found['cpu_seconds']:.1f} s of processor time"
