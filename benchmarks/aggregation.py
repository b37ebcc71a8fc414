"""FedAvg against merely reading the same bytes, and against Flower.

    python -m benchmarks.aggregation [--quick] [--json FILE]

Updates of a real CNN (McMahan et al. 2017, 1.7 M weights) and of ResNet-50 (25.6 M) lie in
memory-mapped files, their pages in the page cache. In one run, in turns, and best of several:

- `read`: a kernel that reads each byte of fresh maps once and does nothing else with it, on as
  many threads as the fold;
- `fedserver`: FedAvg on fresh maps, from contributions to delta and diagnostics, into the array
  that a worker keeps from round to round;
- `flower`: `aggregate_arrayrecords` of the newest Flower, in its own process and environment, on
  the same numbers, split into the model's tensors, held in memory as Flower's server holds them.

Memory is the greatest growth of anonymous memory (Linux: RssAnon) during the first fold of a new
process, with the delta and with what loading the kernels takes, and during its second fold.
"""

import argparse
import json
import multiprocessing
import os
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import flower
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


@dataclass
class Case:
    """One line of the table; seconds are the best of all repeats."""

    model: str
    weights: int
    updates: int
    threads: int
    seconds: dict[str, float] = field(default_factory=dict)
    memory: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def gigabytes(self) -> float:
        return self.weights * self.updates * 4 / 1e9

    def speed(self, what: str) -> float | None:
        return self.gigabytes / self.seconds[what] if what in self.seconds else None

    def ratio(self, peer: str) -> float | None:
        """How many times as fast as the peer we are."""
        return self.seconds[peer] / self.seconds["fedserver"] if peer in self.seconds else None

    def to_json(self) -> dict[str, Any]:
        return {
            **asdict(self),
            "gigabytes": self.gigabytes,
            "ratio_to_read": self.ratio("read"),
            "ratio_to_flower": self.ratio("flower"),
        }


def main() -> None:
    options = parse()
    folder = Path(tempfile.mkdtemp(prefix="fedserver-benchmark-", dir=options.dir))
    try:
        cases = list(measure_all(options, folder))
    finally:
        shutil.rmtree(folder)
    report = {
        "page_cache": "warm",
        "processors": os.cpu_count(),
        "flower": None if options.no_flower else flower.version(),
        "cases": [case.to_json() for case in cases],
    }
    show(cases, report)
    if options.json:
        options.json.write_text(json.dumps(report, indent=2) + "\n")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="FedAvg against reading, and against Flower.")
    parser.add_argument("--models", nargs="+", choices=sorted(MODELS), default=list(MODELS))
    parser.add_argument("--updates", nargs="+", type=int, default=[10, 50], metavar="N")
    parser.add_argument("--repeats", type=int, default=15, help="turns for each case (15)")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="one per processor")
    parser.add_argument("--quick", action="store_true", help="10 updates of the small model")
    parser.add_argument("--no-flower", action="store_true", help="leave the peer out")
    parser.add_argument("--dir", type=Path, help="where the updates' files go for the time")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all numbers there")
    options = parser.parse_args()
    if options.quick:
        options.models, options.updates = ["cnn"], [10]
    return options


def measure_all(options: argparse.Namespace, folder: Path) -> Iterator[Case]:
    for model in options.models:
        paths = write_updates(folder, model, max(options.updates))
        for updates in options.updates:
            case = Case(model, sum(MODELS[model]), updates, options.threads)
            measure(case, paths[:updates], options.repeats, with_flower=not options.no_flower)
            yield case
        for path in paths:
            path.unlink()


def write_updates(folder: Path, model: str, count: int) -> list[Path]:
    """Writes `count` different updates, each the same noise at another scale and offset."""
    noise = np.random.default_rng(7).standard_normal(sum(MODELS[model]), np.float32)
    paths = [folder / f"{model}.{number}" for number in range(count)]
    for number, path in enumerate(paths, start=1):
        (noise / number + np.float32(1e-3)).tofile(path)
    return paths


def measure(case: Case, paths: list[Path], repeats: int, *, with_flower: bool) -> None:
    """Takes turns, so that what else the machine does is everyone's trouble alike."""
    strategy, kept = build("fedavg", threads=case.threads), np.zeros(case.weights, np.float32)
    case.memory = in_new_process(extra_memory, paths, case.threads)
    turns: dict[str, Callable[[], float]] = {
        "read": lambda: timed(paths, lambda rows: read(rows, case.threads)),
        "fedserver": lambda: timed(
            paths, lambda rows: strategy.apply({}, contributions(rows), out=kept)
        ),
    }
    norm = strategy.apply({}, contributions(mapped(paths))).diagnostics["delta_norm"]
    with flower_server(case, paths, norm, wanted=with_flower) as flower_turn:
        if flower_turn:
            turns["flower"] = flower_turn
        for turn in turns.values():
            turn()
        for _ in range(repeats):
            for name, turn in turns.items():
                case.seconds[name] = min(turn(), case.seconds.get(name, float("inf")))


def mapped(paths: Sequence[Path]) -> Rows:
    return [np.memmap(path, np.float32, mode="r") for path in paths]


def contributions(rows: Rows) -> list[Contribution]:
    return [Contribution(row, samples=key, key=key) for key, row in enumerate(rows, start=1)]


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
    if not wanted or not fits(case):
        yield None
        return
    script = Path(__file__).with_name("flower_aggregation.py")
    command = [flower.program(), str(script), json.dumps(MODELS[case.model]), *map(str, paths)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdin
        assert process.stdout
        questions, answers = process.stdin, process.stdout

        def turn() -> float:
            questions.write("\n")
            questions.flush()
            answer = json.loads(answers.readline())
            assert np.isclose(answer["norm"], norm, rtol=1e-3), (answer, norm)
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
    """Flower holds all updates in memory, and half as much again while it loads one."""
    needed = case.gigabytes + 4 * case.weights * 6 / 1e9 + 0.5
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


def extra_memory(paths: Sequence[Path], threads: int) -> dict[str, float]:
    """Folds twice; returns how many MB of anonymous memory each fold took at its height."""
    if not Path("/proc/self/status").exists():
        return {}
    strategy, rows = build("fedavg", threads=threads), mapped(paths)
    before = anonymous_memory()
    first = peak_during(lambda: strategy.apply({}, contributions(rows)))
    loaded = anonymous_memory()
    second = peak_during(lambda: strategy.apply({}, contributions(rows)))
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
    peer = f"Flower {report['flower']}" if report["flower"] else "Flower"
    print(f"FedAvg, GB/s of updates; page cache warm, best turn; {peer} in its own process")
    print(
        f"{'model':<9} {'weights':>10} {'updates':>7} {'threads':>7} {'read':>7} {'fedserver':>9}"
        f" {'flower':>7} {'/ read':>7} {'/ flower':>8} {'extra MB, first and next':>25}"
    )
    for case in cases:
        memory = " and ".join(f"{value:.0f}" for value in case.memory.values()) or "not measured"
        print(
            f"{case.model:<9} {case.weights:>10,} {case.updates:>7} {case.threads:>7}"
            f" {number(case.speed('read')):>7} {number(case.speed('fedserver')):>9}"
            f" {number(case.speed('flower')):>7} {number(case.ratio('read')):>7}"
            f" {number(case.ratio('flower')):>8} {memory:>25}"
        )
        for note in case.notes:
            print(f"          {note}")


def number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


if __name__ == "__main__":
    main()
