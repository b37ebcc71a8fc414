"""Each strategy beside independent implementations, on the same updates.

    python -m benchmarks.learning.exactness [--no-flower] [--json FILE]

Three rounds of 24, 23 and 24 participants with 20,011 weights are folded by each strategy, which
may remember the rounds before. The references are the papers' formulas in float64 (`formulas.py`),
SciPy's `trim_mean`, and the newest Flower's strategies, in float32, in an environment of their own.
An error is the L2 norm of the difference over that of the reference, of the worst of the rounds.

Where Flower's strategy is another than its paper's, the smallest case that shows it is folded by
both, beside the number that a calculation by hand gives. Takes a few seconds.
"""

import argparse
import json
import subprocess
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import flower
from benchmarks.learning import formulas
from benchmarks.learning.formulas import Formula, Round
from benchmarks.machine import processor
from rounds.aggregation import Contribution, Setting, build, names

STORED = Path(__file__).parent / "results" / "exactness.json"
TOLERANCE = 1e-6
SEED = 5
ATTACKERS = 5
WEIGHTS = 20_011
COUNTS = (24, 23, 24)
RATE = 0.05
POPULATION = 40

Steps = list[NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Play:
    """A strategy, its paper's formula, and Flower's strategy, if it has one.

    Args:
        strategy: one of `aggregation.names()`.
        formula: made anew for each play.
        options: of our strategy.
        flower: the class in `flwr.serverapp.strategy`.
        flower_options: of that.
        note: where Flower's is another than the paper's, what is different.
    """

    strategy: str
    formula: Formula
    options: Mapping[str, Any] = field(default_factory=dict)
    flower: str = ""
    flower_options: Mapping[str, Any] = field(default_factory=dict)
    note: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """One comparison.

    Args:
        strategy: ours.
        reference: what it was compared with.
        updates: the most that a round had.
        weights: of each.
        relative_error: of the worst round.
        agrees: whether that is at most 1e-6.
        note: why not.
    """

    strategy: str
    reference: str
    updates: int
    weights: int
    relative_error: float
    agrees: bool
    note: str = ""


@dataclass(frozen=True, slots=True)
class Case:
    """The smallest case in which Flower's strategy is another than its paper's.

    Args:
        strategy: ours.
        title: what the case shows, a sentence.
        by_hand: the calculation by the paper.
        expected: what it gives.
        ours: what we give.
        flower: what Flower gives.
    """

    strategy: str
    title: str
    by_hand: str
    expected: float
    ours: float = float("nan")
    flower: float = float("nan")


NO_CORRECTION = "Flower lets v begin at 0, where algorithm 2 wants at least τ²"
ADAM = (
    f"{NO_CORRECTION}, and multiplies η by √(1 - β₂^(t+1)) / (1 - β₁^(t+1)), which the paper does "
    "not and Adam does with t in place of t + 1"
)
BULYAN = (
    "Flower takes the n - 2f lowest of the scores that all updates have together, where the paper "
    "picks one by one, with new scores among those left; and its median of an even count is none "
    "of the values"
)
MULTI_KRUM = "Flower weighs the selected by samples, the paper by heads"


def plays() -> list[Play]:
    """Returns a play for each strategy of the package, with options that are not their defaults."""
    opt = {"server_learning_rate": 0.02, "beta_1": 0.8, "tau": 1e-3}
    theirs = {"eta": 0.02, "beta_1": 0.8, "beta_2": 0.95, "tau": 1e-3}
    robust = {"attackers": ATTACKERS}
    malicious = {"num_malicious_nodes": ATTACKERS}
    return [
        Play("fedavg", formulas.mean, flower="FedAvg"),
        Play("fedprox", formulas.mean, {"mu": 0.1}, "FedProx", {"proximal_mu": 0.1}),
        Play("fedbn", formulas.mean),
        Play(
            "fedavgm",
            formulas.momentum(rate=0.7, beta=0.9),
            {"server_learning_rate": 0.7, "server_momentum": 0.9},
            "FedAvgM",
            {"server_learning_rate": 0.7, "server_momentum": 0.9},
        ),
        Play(
            "fedadagrad",
            formulas.adaptive("adagrad", rate=0.02, beta_1=0.0, beta_2=0.0, tau=1e-3),
            {"server_learning_rate": 0.02, "beta_1": 0.0, "tau": 1e-3},
            "FedAdagrad",
            {"eta": 0.02, "tau": 1e-3},
            NO_CORRECTION,
        ),
        Play(
            "fedadam",
            formulas.adaptive("adam", rate=0.02, beta_1=0.8, beta_2=0.95, tau=1e-3),
            {**opt, "beta_2": 0.95},
            "FedAdam",
            theirs,
            ADAM,
        ),
        Play(
            "fedyogi",
            formulas.adaptive("yogi", rate=0.02, beta_1=0.8, beta_2=0.95, tau=1e-3),
            {**opt, "beta_2": 0.95},
            "FedYogi",
            theirs,
            NO_CORRECTION,
        ),
        Play("scaffold", formulas.scaffold(rate=0.9), {"server_learning_rate": 0.9}),
        Play("fednova", formulas.nova),
        Play("feddyn", formulas.dynamic(alpha=0.1), {"alpha": 0.1}),
        Play(
            "qfedavg",
            formulas.fair(q=0.7),
            {"q": 0.7},
            "QFedAvg",
            {"client_learning_rate": RATE, "q": 0.7},
        ),
        Play("median", formulas.median, flower="FedMedian"),
        Play(
            "trimmed_mean",
            formulas.trimmed(trim=0.2),
            {"trim": 0.2},
            "FedTrimmedAvg",
            {"beta": 0.2},
        ),
        Play(
            "geometric_median",
            formulas.weiszfeld(smoothing=1e-6, steps=4),
            {"smoothing": 1e-6, "iterations": 4, "tolerance": 0.0},
        ),
        Play("krum", formulas.krum(attackers=ATTACKERS), robust, "Krum", malicious),
        Play(
            "multi_krum",
            formulas.krum(attackers=ATTACKERS, keep=12),
            {**robust, "keep": 12},
            "MultiKrum",
            {**malicious, "num_nodes_to_select": 12},
            MULTI_KRUM,
        ),
        Play("bulyan", formulas.bulyan(attackers=ATTACKERS), robust, "Bulyan", malicious, BULYAN),
        Play("norm_clipping", formulas.norm_clipping(limit=2.5), {"clip_norm": 2.5}),
        Play(
            "adaptive_clipping",
            formulas.adaptive_clipping(limit=2.5, quantile=0.3, rate=0.4),
            {"clip_norm": 2.5, "quantile": 0.3, "clip_learning_rate": 0.4},
        ),
        Play(
            "fedbuff",
            formulas.buffered(rate=0.8, exponent=0.5),
            {"server_learning_rate": 0.8, "staleness_exponent": 0.5},
        ),
    ]


def cohorts(weights: int = WEIGHTS) -> list[Round]:
    """Makes rounds whose updates are like those of training: mostly alike, of unequal length."""
    random = np.random.default_rng(SEED)
    made = []
    for count in COUNTS:
        shared = random.standard_normal(weights)
        own = random.standard_normal((count, weights)) * random.uniform(0.5, 2.0, (count, 1))
        updates = (0.01 * (shared + own)).astype(np.float32)
        made.append(
            Round(
                updates=updates.astype(np.float64),
                samples=random.integers(20, 600, count).astype(np.float64),
                steps=random.integers(1, 60, count).astype(np.float64),
                losses=random.uniform(0.1, 3.0, count),
                ages=random.integers(0, 5, count).astype(np.float64),
                rate=RATE,
                population=POPULATION,
            )
        )
    return made


def ours(strategy: str, options: Mapping[str, Any], given: Sequence[Round]) -> Steps:
    """Folds the rounds by our strategy, each with the state that the one before has left."""
    one = build(strategy, options)
    state, steps = one.init(np.zeros(given[0].updates.shape[1], np.float32)), []
    for cohort in given:
        setting = Setting({"learning_rate": cohort.rate}, population=cohort.population)
        contributions = [
            Contribution(
                values=cohort.updates[key].astype(np.float32),
                samples=int(cohort.samples[key]),
                key=key,
                staleness=int(cohort.ages[key]),
                reports={"steps": cohort.steps[key], "initial_loss": cohort.losses[key]},
            )
            for key in range(len(cohort.updates))
        ]
        result = one.apply(state, contributions, setting=setting)
        state = result.state
        steps.append(result.delta)
    return steps


def by_flower(
    asked: Sequence[tuple[str, Mapping[str, Any], Sequence[Round], float]],
) -> list[Steps]:
    """Folds rounds by Flower's strategies, in its own environment.

    Args:
        asked: class, options, rounds, and the value of all base weights.

    Returns:
        The steps of each.
    """
    arrays: dict[str, NDArray[Any]] = {}
    orders = []
    for number, (kind, options, given, base) in enumerate(asked):
        labels = [f"{number}.{index}" for index in range(len(given))]
        for label, cohort in zip(labels, given, strict=True):
            arrays[f"{label}.updates"] = cohort.updates.astype(np.float32)
            arrays[f"{label}.samples"], arrays[f"{label}.losses"] = cohort.samples, cohort.losses
            arrays[f"{label}.base"] = np.full(cohort.updates.shape[1], base, np.float32)
        orders.append({"name": "x", "class": kind, "options": options, "rounds": labels})
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "given.npz", Path(folder) / "steps.npz"
        np.savez(source, **arrays)  # type: ignore[arg-type]
        script = Path(__file__).with_name("flower_exactness.py")
        command = [flower.program(), str(script), str(source), json.dumps(orders), str(target)]
        subprocess.run(command, check=True)
        found = np.load(target)
        return [[found[f"x.{label}"] for label in order["rounds"]] for order in orders]


def error(steps: Steps, reference: Steps) -> float:
    """The L2 norm of the difference over that of the reference, of the worst round."""
    return max(
        float(np.linalg.norm(one.astype(np.float64) - other) / np.linalg.norm(other.astype("f8")))
        for one, other in zip(steps, reference, strict=True)
    )


def compare(given: Sequence[Round], *, with_flower: bool = True) -> list[Row]:
    """Folds the same rounds by all that there is, for each strategy."""
    rows, asked = [], []
    most, weights = max(len(one.updates) for one in given), given[0].updates.shape[1]

    def row(play: Play, reference: str, steps: Steps, other: Steps, note: str = "") -> Row:
        far = error(steps, other)
        return Row(play.strategy, reference, most, weights, far, far <= TOLERANCE, note)

    for play in plays():
        steps = ours(play.strategy, play.options, given)
        formula = [play.formula(one) for one in given]
        rows.append(row(play, "the paper's formula in float64", steps, formula))
        if play.strategy == "trimmed_mean":
            other = [trim_mean(one.updates, play.options["trim"]) for one in given]
            rows.append(row(play, f"SciPy {version('scipy')}, trim_mean", steps, other))
        if play.flower and with_flower:
            asked.append((play, steps))
    theirs = by_flower([(one.flower, one.flower_options, given, 0.0) for one, _ in asked])
    for (play, steps), other in zip(asked, theirs, strict=True):
        reference = f"Flower {flower.version()}, {play.flower}"
        rows.append(row(play, reference, steps, other, play.note))
    if with_flower:
        rows += [*undone(given, most, weights)]
    return sorted(rows, key=lambda one: names().index(one.strategy))


def undone(given: Sequence[Round], most: int, weights: int) -> Iterable[Row]:
    """Compares with Flower where what is different is undone: the rest must be the same."""
    alike = [
        Round(one.updates, np.ones(len(one.updates)), one.steps, one.losses, one.ages, RATE, 40)
        for one in given
    ]
    (play,) = (one for one in plays() if one.strategy == "multi_krum")
    (other,) = by_flower([(play.flower, play.flower_options, alike, 0.0)])
    far = error(ours("multi_krum", play.options, alike), other)
    name = f"Flower {flower.version()}, MultiKrum, with equal samples"
    yield Row("multi_krum", name, most, weights, far, far <= TOLERANCE)
    for strategy in ("fedadagrad", "fedadam", "fedyogi"):
        (play,) = (one for one in plays() if one.strategy == strategy)
        (other,) = by_flower([(play.flower, play.flower_options, given[:1], 0.0)])
        options = dict(play.options)
        if strategy == "fedadam":
            options["server_learning_rate"] *= (1 - 0.95**2) ** 0.5 / (1 - 0.8**2)
        one = build(strategy, options)
        zeros = {"m": np.zeros(weights), "v": np.zeros(weights)}
        contributions = [
            Contribution(update.astype(np.float32), int(samples), key)
            for key, (update, samples) in enumerate(
                zip(given[0].updates, given[0].samples, strict=True)
            )
        ]
        far = error([one.apply(zeros, contributions).delta], other)
        name = f"Flower {flower.version()}, {play.flower}, first round, with its v and its rate"
        yield Row(strategy, name, most, weights, far, far <= TOLERANCE)


def trim_mean(rows: NDArray[np.float64], trim: float) -> NDArray[np.float64]:
    from scipy.stats import trim_mean

    return np.asarray(trim_mean(rows, trim))


def cases(*, with_flower: bool = True) -> list[Case]:
    """Folds the smallest cases in which Flower's strategy is another than its paper's."""
    tau, adam = 1e-3, {"beta_1": 0.9, "beta_2": 0.99, "tau": 1e-3}
    told: list[tuple[Case, dict[str, Any], str, dict[str, Any], Round, float]] = [
        (
            Case(
                "fedadagrad",
                "The first step of one weight that moved by τ = 0.001, with η = 1",
                "v = τ² + τ², so τ / (√2 τ + τ) = 1 / (√2 + 1); with v from 0: τ / (τ + τ) = 1/2",
                expected=1 / (2**0.5 + 1),
            ),
            {"server_learning_rate": 1.0, "tau": tau},
            "FedAdagrad",
            {"eta": 1.0, "tau": tau},
            few([tau]),
            0.0,
        ),
        (
            Case(
                "fedadam",
                "The first step of one weight that moved by 1, with η = 1, τ = 0.001",
                "m = 0.1, v = 0.99 τ² + 0.01 = 0.01000099, so 0.1 / (0.1000049 + 0.001); with v "
                "from 0 and η √(1 - 0.99²) / (1 - 0.9²) = 0.742: 0.742 · 0.1 / (0.1 + 0.001)",
                expected=0.1 / ((0.99 * tau**2 + 0.01) ** 0.5 + tau),
            ),
            {"server_learning_rate": 1.0, **adam},
            "FedAdam",
            {"eta": 1.0, **adam},
            few([1.0]),
            0.0,
        ),
        (
            Case(
                "fedyogi",
                "The first step of one weight that moved by 0.002, with η = 1, τ = 0.001",
                "m = 0.0002, v = τ² + 0.01 · 0.002² = 1.04e-6, so 0.0002 / (0.0010198 + 0.001); "
                "with v from 0: v = 4e-8, so 0.0002 / (0.0002 + 0.001) = 1/6",
                expected=0.0002 / (1.04e-6**0.5 + tau),
            ),
            {"server_learning_rate": 1.0, **adam},
            "FedYogi",
            {"eta": 1.0, **adam},
            few([0.002]),
            0.0,
        ),
        (
            Case(
                "trimmed_mean",
                "29 % of 100 values, of which 29 are 1 and 71 are 0",
                "29 are cut at each end and all that is left is 0; in binary, 0.29 · 100 is "
                "28.999999999999996, of which 28 are cut: 1/44 (SciPy does the same)",
                expected=0.0,
            ),
            {"trim": 0.29},
            "FedTrimmedAvg",
            {"beta": 0.29},
            few([1.0] * 29 + [0.0] * 71),
            0.0,
        ),
        (
            Case(
                "krum",
                "Three models of one weight, 3000, 3001 and 3001, f = 0: updates 0, 1 and 1",
                "scores are 1, 0 and 0: the second. In float32 ‖a‖² + ‖b‖² = 9000000 + 9006001 is "
                "rounded to 18006000 = 2ab, all scores are 0, and Flower takes the first",
                expected=1.0,
            ),
            {"attackers": 0},
            "Krum",
            {"num_malicious_nodes": 0},
            few([0.0, 1.0, 1.0]),
            3000.0,
        ),
        (
            Case(
                "multi_krum",
                "Updates 0, 1 and 100 with 1, 3 and 1 samples, f = 0, of which 2 are kept",
                "scores are 1, 1 and 99²: 1/m Σ = (0 + 1) / 2; by samples it is 3/4",
                expected=0.5,
            ),
            {"attackers": 0, "keep": 2},
            "MultiKrum",
            {"num_malicious_nodes": 0, "num_nodes_to_select": 2},
            few([0.0, 1.0, 100.0], samples=[1, 3, 1]),
            0.0,
        ),
        (
            Case(
                "bulyan",
                "Updates 0, 3, 4, 8, 12, 14 and 24, f = 1",
                "Krum picks 8 (93, of four neighbours), of those left 4 (81, of three), 12 (85, of "
                "two), 0 (9, as 3 has) and 14 (100, as 24 has): the median of these is 8, and 4, 8 "
                "and 12 are closest to it. The five lowest of the first scores are 0, 3, 4, 8 and "
                "12, whose median is 4: (0 + 3 + 4) / 3 or (3 + 4 + 8) / 3",
                expected=8.0,
            ),
            {"attackers": 1},
            "Bulyan",
            {"num_malicious_nodes": 1},
            few([0.0, 3.0, 4.0, 8.0, 12.0, 14.0, 24.0]),
            0.0,
        ),
    ]
    found = [float(ours(case.strategy, options, [one])[0][0]) for case, options, *_, one, _ in told]
    theirs = [float("nan")] * len(told)
    if with_flower:
        asked = [(kind, options, [one], base) for _, _, kind, options, one, base in told]
        theirs = [float(steps[0][0]) for steps in by_flower(asked)]
    return [
        Case(case.strategy, case.title, case.by_hand, case.expected, mine, other)
        for (case, *_), mine, other in zip(told, found, theirs, strict=True)
    ]


def few(updates: Sequence[float], samples: Sequence[int] | None = None) -> Round:
    """One round of participants with one weight each."""
    ones = np.ones(len(updates))
    counts = np.array(samples or ones, np.float64)
    return Round(np.array(updates)[:, None], counts, ones, ones, 0 * ones, RATE, len(updates))


def show(rows: Sequence[Row], found: Sequence[Case]) -> None:
    for row in rows:
        mark = " " if row.agrees else "*"
        print(f"{row.strategy:<17} {row.relative_error:8.1e} {mark} {row.reference}")
    for case in found:
        print(f"\n{case.strategy}: {case.title}\n  {case.by_hand}")
        print(f"  expected {case.expected:.6g}, ours {case.ours:.6g}, Flower {case.flower:.6g}")


def main() -> None:
    parser = argparse.ArgumentParser(description="Strategies beside independent implementations.")
    parser.add_argument("--no-flower", action="store_true", help="leave the peer out")
    parser.add_argument("--json", type=Path, default=STORED, metavar="FILE", help="(stored result)")
    options = parser.parse_args()
    with_flower = not options.no_flower
    rows, found = compare(cohorts(), with_flower=with_flower), cases(with_flower=with_flower)
    show(rows, found)
    software = {name: version(name) for name in ("numpy", "scipy", "numba")}
    report = {
        "command": "python -m benchmarks.learning.exactness",
        "seed": SEED,
        "tolerance": TOLERANCE,
        "rows": [asdict(row) for row in rows],
        "cases": [asdict(case) for case in found],
        "software": software | ({"flwr": flower.version()} if with_flower else {}),
        "processor": processor(),
    }
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
