"""Puts the tables of the stored results into docs/learning.md, and draws its pictures.

    python -m benchmarks.learning.report

The page's sentences are written by hand. Between `<!-- NAME -->` and `<!-- /NAME -->` stands what
this module makes of the files in results/; everything else is left as it is.
"""

from __future__ import annotations

import json
import math
import re
import statistics
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.learning import experiments, pictures, stored
from benchmarks.learning.experiments import ATTACKS, ROBUST, SKEWED, Cell
from benchmarks.learning.pictures import Line, Panel
from benchmarks.learning.stored import Result
from simulation.speeds import factors

ROOT = Path(__file__).parent.parent.parent
PAGE = ROOT / "docs" / "learning.md"
PICTURES = ROOT / "docs" / "learning"
MISSING = "not run"


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(str(one) for one in line)} |" for line in lines)


def percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


# --- The paper's table --------------------------------------------------------------------------

TITLES = {
    "2nn-iid": "2NN to 97 %, IID",
    "2nn-shards": "2NN to 97 %, two shards each",
    "cnn-iid": "CNN to 99 %, IID",
    "cnn-shards": "CNN to 99 %, two shards each",
}


def mcmahan() -> str:
    return table(
        ("cell", "paper", "here, by seed", "learning rate", "processor s a round", "holds"),
        [_mcmahan_row(cell) for cell in experiments.MCMAHAN],
    )


def _mcmahan_row(cell: Cell) -> Sequence[object]:
    found = stored.results_of(cell)
    if not found:
        return (TITLES[cell.name], cell.paper, MISSING, "", "", "")
    here = "; ".join(f"{one.seed}: {reached(one)}" for one in found)
    rate = found[0].settings["learning_rate"]
    costs = [one.cpu_seconds_per_round for one in found if one.cpu_seconds_per_round]
    cost = f"{statistics.median(costs):.1f}" if costs else "-"
    return (TITLES[cell.name], cell.paper, here, rate, cost, _holds(cell, found))


def _holds(cell: Cell, found: Sequence[Result]) -> str:
    """Whether it took no more rounds than in the paper."""
    held = sum((one.rounds_to_target or math.inf) <= (cell.paper or 0) for one in found)
    if held < len(found) and not all(one.complete for one in found):
        verdict = "open"
    elif 0 < held < len(found):
        verdict = f"with {held} of {len(found)} seeds"
    else:
        verdict = "yes" if held else "no"
    missing = len(cell.seeds) - len(found)
    return f"{verdict}; {missing} seeds are missing" if missing else verdict


def reached(one: Result) -> str:
    """The round in which the target was reached, or how far it came."""
    if one.rounds_to_target is not None:
        return str(one.rounds_to_target)
    how = "stopped" if not one.complete else "not"
    return f"{how} after {one.rounds}, best {100 * one.best():.2f} %"


def grid() -> str:
    """Every learning rate that was tried, where there was a choice."""
    rows = [
        (TITLES[cell.name], rate, one.seed, reached(one))
        for cell in experiments.MCMAHAN
        if len(cell.grid) > 1
        for rate in cell.grid
        if (one := stored.result(cell.job(rate, cell.seeds[0])))
    ]
    return table(("cell", "learning rate", "seed", "rounds to the target"), rows)


def draw_mcmahan() -> None:
    panels = [
        Panel(
            TITLES[cell.name],
            "round",
            "test accuracy",
            [Line(f"seed {one.seed}", one.curve["round"], one.curve["accuracy"]) for one in found],
            target=0.97 if cell.name.startswith("2nn") else 0.99,
            bottom=0.8,
        )
        for cell in experiments.MCMAHAN
        if (found := stored.results_of(cell))
    ]
    pictures.draw(PICTURES / "mcmahan.svg", panels)


def plain() -> str:
    found = _file("plain.json")
    if found is None:
        return MISSING
    return table(
        ("CNN, ten participants, 3,000 steps", "processor s a round", "of the simulator"),
        [
            (name, f"{seconds:.1f}", f"{found['times'][name]:.2f}")
            for name, seconds in found["cpu_seconds_per_round"].items()
        ],
    )


# --- Attackers ----------------------------------------------------------------------------------

COLUMNS = {"none": "no attack", "sign_flip": "sign flip", "scaled": "scaled", SKEWED: "two shards"}


def robustness() -> str:
    head = ("strategy", *(f"{name}, %" for name in COLUMNS.values()), "most lost to an attack")
    return table(head, [_robustness_row(strategy) for strategy in ROBUST])


def finals(experiment: str, name: str) -> dict[int, float]:
    """The last accuracies of the cell of this name, by seed."""
    found = {one.seed: one.final_accuracy for one in _of(experiment, name)}
    return {seed: value for seed, value in found.items() if value is not None}


def spread(values: Iterable[float]) -> str:
    """A mean in per cent, and between which values it lies."""
    known = list(values)
    if len(known) < 2:
        return percent(known[0] if known else None)
    return f"{percent(statistics.mean(known))} ({percent(min(known))} to {percent(max(known))})"


def _robustness_row(strategy: str) -> Sequence[object]:
    found = {name: finals("robustness", f"{strategy}-{name}") for name in COLUMNS}
    losses = [
        calm - found[name][seed]
        for name in ATTACKS
        if name != "none"
        for seed, calm in found["none"].items()
        if seed in found[name]
    ]
    lost = f"{max(0.0, 100 * max(losses)):.1f} points" if losses else "-"
    return (strategy, *(spread(one.values()) for one in found.values()), lost)


def draw_robustness() -> None:
    panels = []
    for attack, title in COLUMNS.items():
        lines = [
            Line(strategy, found.curve["round"], found.curve["accuracy"])
            for strategy in ROBUST
            for found in _of("robustness", f"{strategy}-{attack}")[:1]
        ]
        if lines:
            panels.append(Panel(title, "round", "test accuracy", lines))
    pictures.draw(PICTURES / "robustness.svg", panels)


def _of(experiment: str, name: str) -> list[Result]:
    cells = [one for one in experiments.EXPERIMENTS[experiment] if one.name == name]
    return [one for cell in cells for one in stored.results_of(cell)]


# --- Label skew ---------------------------------------------------------------------------------


def skew() -> str:
    rows = []
    for cell in experiments.LABEL_SKEW:
        found = stored.results_of(cell)
        column = _judged(cell)
        if not found or column not in found[0].curve:
            rows.append((cell.name, cell.options.partition("--model ")[2][:3], MISSING, "", ""))
            continue
        model, rounds = found[0].settings["model"], found[0].rounds
        tails = [statistics.mean(one.curve[column][-5:]) for one in found]
        bests = [one.best(column) for one in found]
        rows.append((cell.name, model, spread(tails), spread(bests), rounds))
    head = ("strategy", "model", "mean of the last five rounds, %", "best, %", "rounds")
    return table(head, rows)


def _judged(cell: Cell) -> str:
    return "federated_accuracy" if cell.name in experiments.NORMALIZED else "accuracy"


def draw_skew() -> None:
    panels = []
    for title, names in (
        ("2NN, on the server's test images", experiments.SKEW),
        ("batch normalization, on participants' own images", experiments.NORMALIZED),
    ):
        lines = [
            Line(name, found.curve["round"], found.curve[_judged(cell)])
            for cell in experiments.LABEL_SKEW
            for found in stored.results_of(cell)[:1]
            if (name := cell.name) in names and _judged(cell) in found.curve
        ]
        if lines:
            panels.append(Panel(title, "round", "accuracy", lines, bottom=0.6))
    pictures.draw(PICTURES / "skew.svg", panels)


# --- Stragglers ---------------------------------------------------------------------------------


def fedbuff() -> str:
    slow = _clocks("fedavg")
    rows = []
    for cell in experiments.FEDBUFF:
        clocks = _clocks(cell.name)
        here = "; ".join(f"{seed}: {clock:.1f}" for seed, clock in clocks.items()) or MISSING
        ratios = [slow[seed] / clock for seed, clock in clocks.items() if seed in slow]
        times = f"{statistics.mean(ratios):.2f}" if ratios else "-"
        rounds = "; ".join(str(one.rounds_to_target) for one in stored.results_of(cell))
        rows.append((cell.name, here, rounds, times))
    head = ("run", "virtual seconds to the target, by seed", "versions", "times as fast")
    return table(head, rows)


def speeds() -> str:
    """How much slower than the median the slowest participant is, by seed."""
    found = {one.seed: one.settings for one in _of("fedbuff", "fedavg")}
    if not found:
        return MISSING
    times = {
        seed: factors(asked["participants"], asked["stragglers"], seed)
        for seed, asked in found.items()
    }
    told = "; ".join(f"{seed}: {max(one) / np.median(one):.1f}" for seed, one in times.items())
    return f"How many times as long as the median the slowest takes, by seed: {told}."


def _clocks(name: str) -> dict[int, float]:
    """Virtual seconds to the target by seed, of those that reached it."""
    return {
        one.seed: one.clock_to_target
        for one in _of("fedbuff", name)
        if one.clock_to_target is not None
    }


def draw_fedbuff() -> None:
    lines = [
        Line(cell.name, one.curve["virtual_seconds"], one.curve["accuracy"])
        for cell in experiments.FEDBUFF
        for one in stored.results_of(cell)
    ]
    panel = Panel(
        "to 95 % under stragglers", "virtual seconds", "test accuracy", lines, 0.95, bottom=0.7
    )
    pictures.draw(PICTURES / "fedbuff.svg", [panel], columns=1)


# --- Exactness and speed ------------------------------------------------------------------------


def exactness() -> str:
    found = _file("exactness.json")
    if found is None:
        return MISSING
    rows = [
        (
            row["strategy"],
            row["reference"],
            f"{row['relative_error']:.1e}",
            "yes" if row["agrees"] else f"no: {row['note']}",
        )
        for row in found["rows"]
    ]
    agrees = f"agrees to {found['tolerance']:.0e}"
    return table(("strategy", "beside", "largest relative difference", agrees), rows)


def cases() -> str:
    """The smallest cases in which Flower's strategy is another one than its paper's."""
    found = _file("exactness.json")
    if found is None:
        return MISSING
    rows = [
        (
            case["strategy"],
            case["title"],
            case["by_hand"],
            *(f"{case[name]:.5g}" for name in ("expected", "ours", "flower")),
        )
        for case in found["cases"]
    ]
    return table(("strategy", "case", "by hand", "expected", "here", "Flower"), rows)


def speed() -> str:
    found = _file("speed.json")
    if found is None:
        return MISSING
    names = ("read_seconds", "seconds", "flower_seconds")
    rows = [
        (
            row["strategy"],
            row["updates"],
            f"{row['weights'] / 1e6:.1f} M",
            *("-" if row[name] is None else f"{1e3 * row[name]:.0f}" for name in names),
            "-" if row["times"] is None else f"{row['times']:.1f}",
            f"{row['extra_memory_mb']:.0f}",
        )
        for row in found["rows"]
    ]
    times = ("reading, ms", "here, ms", "Flower, ms", "times as fast")
    return table(("strategy", "updates", "weights", *times, "extra memory, MB"), rows)


def _file(name: str) -> Any:
    path = stored.FOLDER / name
    return json.loads(path.read_text()) if path.is_file() else None


# --- Where from ---------------------------------------------------------------------------------


def provenance() -> str:
    """Versions, processor and commits of all stored results."""
    found = [stored.load(path) for path in sorted(stored.FOLDER.glob("*/*-seed*.json"))]
    software = sorted({f"{name} {one.software[name]}" for one in found for name in one.software})
    commits = sorted({one.commit for one in found})
    processors = sorted({one.processor for one in found})
    return (
        f"{len(found)} simulations; {', '.join(software)}; {'; '.join(processors)}, shared with "
        f"other work, so that seconds are processor seconds. Code: {', '.join(commits)}."
    )


def commands() -> str:
    """What was run for each cell with its first seed."""
    lines = []
    for cell in experiments.cells():
        rate = stored.chosen(cell)
        job = cell.job(cell.grid[0] if rate is None else rate, cell.seeds[0])
        lines.append(f"# {cell.experiment}/{cell.name}, seeds {', '.join(map(str, cell.seeds))}")
        lines.append(f"python manage.py simulate {job.options}")
    return "```sh\n" + "\n".join(lines) + "\n```"


BLOCKS: dict[str, Callable[[], str]] = {
    "mcmahan": mcmahan,
    "grid": grid,
    "plain": plain,
    "robustness": robustness,
    "skew": skew,
    "fedbuff": fedbuff,
    "speeds": speeds,
    "exactness": exactness,
    "cases": cases,
    "speed": speed,
    "provenance": provenance,
    "commands": commands,
}


def filled(page: str) -> str:
    """The page with each block made anew from the stored results."""
    for name, make in BLOCKS.items():
        block = f"<!-- {name} -->\n{make()}\n<!-- /{name} -->"
        pattern = rf"<!-- {name} -->\n.*?<!-- /{name} -->"
        page, count = re.subn(pattern, lambda _, text=block: text, page, flags=re.DOTALL)
        if count != 1:
            raise ValueError(f"Expected one block {name!r} in the page. Received: {count}")
    return page


def main() -> None:
    PAGE.write_text(filled(PAGE.read_text()))
    for draw in (draw_mcmahan, draw_robustness, draw_skew, draw_fedbuff):
        draw()


if __name__ == "__main__":
    main()
