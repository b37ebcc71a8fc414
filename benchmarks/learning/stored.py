"""What simulations showed, one small file each: the only thing that the page is made from."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.learning.experiments import Cell, Job

FOLDER = Path(__file__).parent / "results"


@dataclass(frozen=True, slots=True)
class Result:
    """One simulation.

    Args:
        experiment, cell: whose it is.
        seed: what decided whatever was drawn.
        command: what was run, without the paths of its home and of its result.
        settings: the simulator's own account of what it was asked.
        software: versions by name.
        processor: what it ran on.
        commit: the commit of the code that ran; with "+" where files had changed since.
        ended: "target" (reached), "rounds" (all of them done), or "stopped" before either.
        rounds: how many were published.
        rounds_to_target: the first that was as good as the target; None if none was.
        clock_to_target: virtual seconds until then; None without a virtual clock.
        final_accuracy: of the last published version, on the server's test images.
        cpu_seconds_per_round: processor time of all threads, start of the process not counted.
        curve: columns of equal length: `round`, `accuracy`, and what else the simulator measured.
    """

    experiment: str
    cell: str
    seed: int
    command: str
    settings: dict[str, Any]
    software: dict[str, str]
    processor: str
    commit: str
    ended: str
    rounds: int
    rounds_to_target: int | None
    clock_to_target: float | None
    final_accuracy: float | None
    cpu_seconds_per_round: float | None
    curve: dict[str, list[Any]] = field(default_factory=dict)

    @property
    def path(self) -> Path:
        return path_of(self.experiment, self.cell, self.seed)

    def save(self) -> None:
        """Write it, one column of the curve a line."""
        document = asdict(self)
        curve = document.pop("curve")
        text = json.dumps(document, indent=2, ensure_ascii=False)
        columns = ",\n".join(f'    "{name}": {json.dumps(curve[name])}' for name in curve)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(f'{text[:-2]},\n  "curve": {{\n{columns}\n  }}\n}}\n')

    @property
    def complete(self) -> bool:
        return self.ended != "stopped"

    def best(self, column: str = "accuracy") -> float:
        """The highest value of a column of the curve."""
        return max(value for value in self.curve[column] if value is not None)


def path_of(experiment: str, cell: str, seed: int) -> Path:
    return FOLDER / experiment / f"{cell}-seed{seed}.json"


def load(path: Path) -> Result:
    return Result(**json.loads(path.read_text()))


def result(job: Job) -> Result | None:
    """What is stored of a simulation; None if nothing is."""
    path = path_of(job.experiment, job.name, job.seed)
    return load(path) if path.is_file() else None


def chosen(cell: Cell) -> float | None:
    """The learning rate of a cell's grid that reached the target soonest with its first seed.

    Where none did, the one with the best accuracy. Rates that are not done are left out; None
    while none is.
    """
    found = {rate: result(cell.job(rate, cell.seeds[0])) for rate in cell.grid}
    done = {rate: one for rate, one in found.items() if one is not None and one.complete}
    return min(done, key=lambda rate: _merit(done[rate]), default=None)


def _merit(one: Result) -> tuple[float, float]:
    return (one.rounds_to_target or float("inf"), -one.best())


def due(cells: Iterable[Cell]) -> list[Job]:
    """Simulations that remain to be run, in order; those of a grid before what it decides."""
    jobs = [job for cell in cells for job in jobs_of(cell)]
    return [job for job in jobs if not ((one := result(job)) and one.complete)]


def jobs_of(cell: Cell) -> list[Job]:
    """What is run for a cell, as far as that is decided yet."""
    rate = chosen(cell)
    tried = [cell.job(each, cell.seeds[0]) for each in cell.grid]
    return tried + ([] if rate is None else [cell.job(rate, seed) for seed in cell.seeds[1:]])


def results_of(cell: Cell) -> list[Result]:
    """What is stored of a cell at its learning rate, by seed.

    While the grid is being tried: the best of what there is.
    """
    rates = [chosen(cell)] if chosen(cell) is not None else list(cell.grid)
    found = [one for rate in rates for seed in cell.seeds if (one := result(cell.job(rate, seed)))]
    if chosen(cell) is None and found:
        return [min(found, key=_merit)]
    return found
