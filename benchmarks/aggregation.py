"""Strategies against merely reading the same bytes, and against Flower's.

    python -m benchmarks.aggregation [--quick] [--json FILE]

Updates of a real CNN (McMahan et al. 2017, 1.7 M weights) or of ResNet-50 (25.6 M) lie in
memory-mapped files, their pages in the page cache. In one run, in turns, and best of several:

- `read`: a kernel that reads each byte of fresh maps once and does nothing else with it, on as
  many threads as the fold;
- `fedserver`: the strategy on fresh maps, from contributions to delta and diagnostics, into the
  array that a worker keeps from round to round;
- `flower`: `aggregate_train` of the newest Flower's strategy, in its own process and environment,
  on the same numbers, split into the model's tensors, held in memory as Flower's server holds them.

A fifth of the participants may be attackers (of Bulyan's, as many as it withstands).

Memory is the greatest growth of anonymous memory (Linux: RssAnon) during the first fold of a new
process, with the delta and with what loading the kernels takes, and during its second fold. It is
also measured for 200 updates, for which nothing is timed.
"""

import argparse
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import flower
from benchmarks.machine import processor
from rounds.aggregation import Contribution, build

Rows = list[NDArray[np.float32]]

CNN = [800, 32, 51_200, 64, 1_605_632, 512, 5_120, 10]


def resnet50() -> list[int]:
    """Sizes of the trainable tensors of ResNet-50 (He et al. 2016, table 1)."""
    sizes, channels = [7 * 7 * 3 * 64, 64, 64], 64
    for width, blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
        for block in range(blocks):
            for inputs, kernel, outputs in (
                (channels, 1, width),
                (width, 3, width),
                (width, 1, 4 * width),
                *([(channels, 1, 4 * width)] if block == 0 else []),
            ):
                sizes += [inputs * kernel**2 * outputs, outputs, outputs]
            channels = 4 * width
    return [*sizes, 2048 * 1000, 1000]


MODELS = {"cnn": CNN, "resnet50": resnet50()}

SELECTING = ("krum", "multi_krum", "bulyan")
STRATEGIES = ("fedavg", "median", "trimmed_mean", "geometric_median", *SELECTING)


@dataclass
class Case:
    """One line of the table; seconds are the best of all repeats."""

    strategy: str
    model: str
    weights: int
    updates: int
    threads: int
    seconds: dict[str, float] = field(default_factory=dict)
    memory: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def attackers(self) -> int:
        """A fifth, or as many as the strategy withstands."""
        most = (self.updates - 3) // 4 if self.strategy == "bulyan" else (self.updates - 3) // 2
        return min(self.updates // 5, most)

    @property
    def options(self) -> dict[str, int]:
        return {"attackers": self.attackers} if self.strategy in SELECTING else {}

    @property
    def flower_options(self) -> dict[str, int] | None:
        """What Flower's strategy is told for the same; None where it has none."""
        told = {"num_malicious_nodes": self.attackers} if self.strategy in SELECTING else {}
        if self.strategy == "multi_krum":
            told["num_nodes_to_select"] = self.updates - self.attackers - 2
        return None if self.strategy == "geometric_median" else told

    @property
    def gigabytes(self) -> float:
        return self.weights * self.updates * 4 / 1e9

    def milliseconds(self, what: str) -> float | None:
        return 1e3 * self.seconds[what] if what in self.seconds else None

    def ratio(self, peer: str) -> float | None:
        """How many times as fast as the peer we are."""
        return self.seconds[peer] / self.seconds["fedserver"] if peer in self.seconds else None

    def to_json(self) -> dict[str, Any]:
        return {
            "strategy": self.strategy,
            "updates": self.updates,
            "weights": self.weights,
            "seconds": self.seconds.get("fedserver"),
            "read_seconds": self.seconds.get("read"),
            "flower_seconds": self.seconds.get("flower"),
            "times": self.ratio("flower"),
            "of_reading": self.ratio("read"),
            "extra_memory_mb": self.memory.get("next_fold"),
            "first_memory_mb": self.memory.get("first_fold"),
            "flower_memory_mb": self.memory.get("flower"),
            "notes": self.notes,
        }


def main() -> None:
    options = parse()
    folder = Path(tempfile.mkdtemp(prefix="fedserver-benchmark-", dir=options.dir))
    try:
        cases = list(measure_all(options, folder))
    finally:
        shutil.rmtree(folder)
    peer = {} if options.no_flower else {"flwr": flower.version()}
    software = {name: version(name) for name in ("numpy", "numba")} | peer
    report = {
        "command": "python -m benchmarks.aggregation",
        "arguments": sys.argv[1:],
        "page_cache": "warm",
        "processors": os.cpu_count(),
        "threads": options.threads,
        "load": os.getloadavg()[0],
        "rows": [case.to_json() for case in cases],
        "software": software,
        "processor": processor(),
    }
    show(cases, report)
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Strategies against reading, and against Flower.")
    parser.add_argument("--strategies", nargs="+", choices=STRATEGIES, default=STRATEGIES)
    parser.add_argument("--models", nargs="+", choices=sorted(MODELS), default=["cnn"])
    parser.add_argument("--updates", nargs="+", type=int, default=[10, 50], metavar="N")
    parser.add_argument("--repeats", type=int, default=15, help="most turns for each case (15)")
    parser.add_argument("--seconds", type=float, default=8.0, help="no turn begins after them (8)")
    parser.add_argument("--most", type=int, default=200, help="updates for memory alone (200)")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="one per processor")
    parser.add_argument("--quick", action="store_true", help="10 updates of the small model")
    parser.add_argument("--no-flower", action="store_true", help="leave the peer out")
    parser.add_argument("--dir", type=Path, help="where the updates' files go for the time")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all numbers there")
    options = parser.parse_args()
    if options.quick:
        options.models, options.updates, options.most = ["cnn"], [10], 10
    return options


def measure_all(options: argparse.Namespace, folder: Path) -> Iterator[Case]:
    for model in options.models:
        counts = sorted({*options.updates, options.most})
        paths = write_updates(folder, model, counts[-1])
        for strategy in options.strategies:
            for updates in counts:
                case = Case(strategy, model, sum(MODELS[model]), updates, options.threads)
                case.memory = in_new_process(extra_memory, case, paths[:updates])
                if updates in options.updates:
                    measure(case, paths[:updates], options)
                yield case
        for path in paths:
            path.unlink()


def write_updates(folder: Path, model: str, count: int) -> list[Path]:
    """Writes `count` updates, each the same noise at another scale and shifted along."""
    noise = np.random.default_rng(7).standard_normal(sum(MODELS[model]), np.float32)
    paths = [folder / f"{model}.{number}" for number in range(count)]
    for number, path in enumerate(paths):
        (np.roll(noise, 33_331 * number) * np.float32(1 + 0.01 * number)).tofile(path)
    return paths


def measure(case: Case, paths: list[Path], options: argparse.Namespace) -> None:
    """Takes turns, so that what else the machine does is everyone's trouble alike."""
    strategy = build(case.strategy, case.options, threads=case.threads)
    kept = np.zeros(case.weights, np.float32)
    turns: dict[str, Callable[[], float]] = {
        "read": lambda: timed(paths, lambda rows: read(rows, case.threads)),
        "fedserver": lambda: timed(
            paths, lambda rows: strategy.apply({}, contributions(rows, case), out=kept)
        ),
    }
    for turn in turns.values():
        turn()
    norm = float(np.linalg.norm(kept))
    with flower_server(case, paths, norm, wanted=not options.no_flower) as flower_turn:
        if flower_turn:
            turns["flower"] = flower_turn
        started = time.perf_counter()
        for number in range(options.repeats):
            if number > 1 and time.perf_counter() - started > options.seconds:
                break
            for name, turn in turns.items():
                case.seconds[name] = min(turn(), case.seconds.get(name, float("inf")))


def mapped(paths: Sequence[Path]) -> Rows:
    return [np.memmap(path, np.float32, mode="r") for path in paths]


def contributions(rows: Rows, case: Case) -> list[Contribution]:
    """As many samples for each as Flower's side has it."""
    more = int(case.strategy == "fedavg")
    return [Contribution(row, samples=1 + more * key, key=key) for key, row in enumerate(rows)]


def timed(paths: Sequence[Path], work: Callable[[Rows], object]) -> float:
    """Times work on fresh maps, as a worker gets them: no page is mapped yet."""
    rows = mapped(paths)
    started = time.perf_counter()
    result = work(rows)
    seconds = time.perf_counter() - started
    del result  # giving memory back is not part of the work
    return seconds


def read(rows: Rows, threads: int) -> None:
    from benchmarks.reading import touch_all
    from rounds.aggregation.walk import over_blocks

    over_blocks(touch_all, rows, np.zeros(1, np.uint32), threads=threads)


@contextmanager
def flower_server(
    case: Case, paths: Sequence[Path], norm: float, *, wanted: bool
) -> Iterator[Callable[[], float] | None]:
    """Gives a function that lets Flower aggregate once, or None where that is not possible."""
    options = case.flower_options
    if not wanted or options is None or not fits(case):
        yield None
        return
    script = Path(__file__).with_name("flower_aggregation.py")
    told = {"sizes": MODELS[case.model], "strategy": case.strategy, "options": options}
    command = [flower.program(), str(script), json.dumps(told), *map(str, paths)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdin
        assert process.stdout
        questions, answers = process.stdin, process.stdout

        def turn() -> float:
            questions.write("\n")
            questions.flush()
            answer = json.loads(answers.readline())
            case.memory["flower"] = answer["extra"]
            # Its Bulyan selects in another way: see benchmarks/learning/exactness.py.
            same = np.isclose(answer["norm"], norm, rtol=1e-3)
            assert same or case.strategy == "bulyan", (answer, norm)
            return float(answer["seconds"])

        try:
            if answers.readline().strip() == "ready":
                yield turn
            else:
                case.notes.append("Flower ended before it had loaded the updates")
                yield None
        finally:
            questions.close()
            process.terminate()


def fits(case: Case) -> bool:
    """Flower holds all updates in memory, and their largest tensors several times over."""
    copies = 1 if case.strategy == "fedavg" else 5
    needed = copies * case.gigabytes + 4 * case.weights * 6 / 1e9 + 0.5
    available = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9
    if Path("/proc/meminfo").exists():
        lines = Path("/proc/meminfo").read_text().splitlines()
        line = next(line for line in lines if line.startswith("MemAvailable"))
        # Our own files count as available, but are to stay in the page cache.
        available = int(line.split()[1]) * 1024 / 1e9 - case.gigabytes
    if needed > available:
        case.notes.append(
            f"Flower was not run: it needs {needed:.1f} GB of memory, {available:.1f} GB are free"
        )
    return needed <= available


def in_new_process(work: Callable[..., dict[str, float]], *args: object) -> dict[str, float]:
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(work, *args).result()


def extra_memory(case: Case, paths: Sequence[Path]) -> dict[str, float]:
    """Folds twice; returns how many MB of anonymous memory each fold took at its height."""
    if not Path("/proc/self/status").exists():
        return {}
    strategy, rows = build(case.strategy, case.options, threads=case.threads), mapped(paths)
    before = anonymous_memory()
    first = peak_during(lambda: strategy.apply({}, contributions(rows, case)))
    loaded = anonymous_memory()
    second = peak_during(lambda: strategy.apply({}, contributions(rows, case)))
    return {"first_fold": first - before, "next_fold": second - loaded}


def peak_during(work: Callable[[], object]) -> float:
    """Samples while work runs and once more while its result is alive, its own delta included."""
    done, peak = threading.Event(), 0.0

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.001):
            peak = max(peak, anonymous_memory())

    watcher = threading.Thread(target=watch)
    watcher.start()
    result = work()
    done.set()
    watcher.join()
    peak = max(peak, anonymous_memory())
    del result
    return peak


def anonymous_memory() -> float:
    """This process's anonymous memory in MB: mapped files do not count."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("RssAnon")).split()[1]) / 1e3


def show(cases: Sequence[Case], report: dict[str, Any]) -> None:
    peer = f"Flower {report['software'].get('flwr', '')}".strip()
    print(f"ms, best turn, and MB beside the updates; page cache warm; {peer} in its own process")
    print(
        f"{'strategy':<16} {'weights':>10} {'updates':>7} {'threads':>7} {'read':>7}"
        f" {'fedserver':>9} {'flower':>8} {'/ read':>7} {'/ flower':>8}"
        f" {'MB first':>8} {'next':>5} {'flower':>6}"
    )
    for case in cases:
        first, following, theirs = (
            number(case.memory.get(name), ".0f") for name in ("first_fold", "next_fold", "flower")
        )
        print(
            f"{case.strategy:<16} {case.weights:>10,} {case.updates:>7} {case.threads:>7}"
            f" {number(case.milliseconds('read')):>7}"
            f" {number(case.milliseconds('fedserver')):>9}"
            f" {number(case.milliseconds('flower'), '.0f'):>8}"
            f" {number(case.ratio('read'), '.2f'):>7} {number(case.ratio('flower')):>8}"
            f" {first:>8} {following:>5} {theirs:>6}"
        )
        for note in case.notes:
            print(f"          {note}")


def number(value: float | None, form: str = ".1f") -> str:
    return "-" if value is None else f"{value:{form}}"


if __name__ == "__main__":
    main()
