"""The experiments as data: each cell, what it asks of the simulator, and what the paper says."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

MNIST = "--dataset mnist"


@dataclass(frozen=True, slots=True)
class Job:
    """One simulation: a cell with a learning rate and a seed."""

    experiment: str
    name: str
    options: str
    seed: int


@dataclass(frozen=True, slots=True)
class Cell:
    """One line of a table.

    Args:
        experiment: the table.
        name: the line, and the first part of its files' names.
        options: what `manage.py simulate` is asked, but for learning rate and seed.
        grid: learning rates; several are tried with the first seed, and the best one is used for
            the other seeds.
        seeds: of the simulations.
        paper: rounds to the target in the paper; None where there is no such number.
    """

    experiment: str
    name: str
    options: str
    grid: tuple[float, ...]
    seeds: tuple[int, ...] = (1,)
    paper: int | None = None

    def job(self, rate: float | None, seed: int) -> Job:
        name = self.name if len(self.grid) == 1 else f"{self.name}-lr{rate}"
        options = f"{self.options} --learning-rate {rate} --seed {seed}"
        return Job(self.experiment, name, options, seed)


# --- The table of McMahan et al. 2017: rounds to the target -------------------------------------

_HUNDRED = f"{MNIST} --participants 100 --fraction 0.1 --batch 10"
_2NN = f"{_HUNDRED} --model 2nn --epochs 1 --until accuracy=0.97"
_CNN = f"{_HUNDRED} --model cnn --epochs 5 --until accuracy=0.99"
_IID, _SHARDS = "--partition iid", "--partition shards:2"

MCMAHAN = (
    Cell("mcmahan", "2nn-iid", f"{_2NN} {_IID} --rounds 150", (0.05, 0.1, 0.215), (1, 2, 3), 87),
    Cell("mcmahan", "2nn-shards", f"{_2NN} {_SHARDS} --rounds 664", (0.05, 0.1), (1, 2, 3), 664),
    Cell(
        "mcmahan", "cnn-iid", f"{_CNN} {_IID} --rounds 30", (0.1, 0.15, 0.215, 0.3), (1, 2, 3), 20
    ),
    Cell("mcmahan", "cnn-shards", f"{_CNN} {_SHARDS} --rounds 350", (0.1,), (1,), 229),
)

# --- A fifth of twenty participants attacks -----------------------------------------------------

_TWENTY = f"{MNIST} --model 2nn --participants 20 --fraction 1 --epochs 1 --batch 50 --rounds 12"
ROBUST = {
    "fedavg": "--strategy fedavg",
    "median": "--strategy median",
    "trimmed_mean": "--strategy trimmed_mean --set trim=0.2 --quorum 11",
    "multi_krum": "--strategy multi_krum --set attackers=4 --quorum 11",
    "geometric_median": "--strategy geometric_median",
    "fedavg-quarantine": "--strategy fedavg --quarantine 5",
}
ATTACKS = {
    "none": "",
    "sign_flip": "--attack sign_flip:0.2",
    "scaled": "--attack scaled:0.2",
}
SKEWED = "none-shards"

ROBUSTNESS = tuple(
    Cell(
        "robustness",
        f"{strategy}-{attack}",
        f"{_TWENTY} {_IID} {options} {asked}".strip(),
        (0.1,),
        (1, 2, 3),
    )
    for attack, asked in ATTACKS.items()
    for strategy, options in ROBUST.items()
) + tuple(
    Cell("robustness", f"{strategy}-{SKEWED}", f"{_TWENTY} {_SHARDS} {options}", (0.1,), (1, 2, 3))
    for strategy, options in ROBUST.items()
    if "quarantine" not in strategy
)

# --- Label skew ---------------------------------------------------------------------------------

_SKEW = f"{MNIST} --participants 20 --fraction 0.5 --epochs 2 --batch 50 --partition dirichlet:0.1"
_NORMALIZED = (
    f"{MNIST} --participants 20 --fraction 0.5 --epochs 1 --batch 50 --partition dirichlet:0.1"
    " --model bn --rounds 12 --evaluators 20 --held-out 0.2"
)
SKEW = {
    "fedavg": "--strategy fedavg",
    "fedprox": "--strategy fedprox --set mu=0.01",
    "scaffold": "--strategy scaffold",
    "fedadam": "--strategy fedadam --set server_learning_rate=0.01",
}
NORMALIZED = {"fedavg-bn": "--strategy fedavg", "fedbn": "--strategy fedbn"}

LABEL_SKEW = tuple(
    Cell("skew", name, f"{_SKEW} --model 2nn --rounds 40 {options}", (0.1,), (1, 2, 3))
    for name, options in SKEW.items()
) + tuple(
    Cell("skew", name, f"{_NORMALIZED} {options}", (0.1,), (1, 2, 3))
    for name, options in NORMALIZED.items()
)

# --- Stragglers ---------------------------------------------------------------------------------

_SLOW = (
    f"{_HUNDRED} --model 2nn --epochs 1 --until accuracy=0.95 {_IID} --stragglers lognormal:0.92"
)
FEDBUFF = (
    Cell("fedbuff", "fedavg", f"{_SLOW} --rounds 200", (0.1,), (1, 2, 3)),
    Cell(
        "fedbuff",
        "fedavg-over-selected",
        f"{_SLOW} --rounds 200 --over-selection 1.3",
        (0.1,),
        (1, 2, 3),
    ),
    Cell(
        "fedbuff",
        "fedbuff",
        f"{_SLOW} --rounds 400 --strategy fedbuff --concurrency 10 --buffer 5",
        (0.1,),
        (1, 2, 3),
    ),
)

EXPERIMENTS: dict[str, tuple[Cell, ...]] = {
    "mcmahan": MCMAHAN,
    "robustness": ROBUSTNESS,
    "skew": LABEL_SKEW,
    "fedbuff": FEDBUFF,
}


def cells(names: Iterable[str] = ()) -> list[Cell]:
    """The cells of the named experiments, or of those cells themselves; all if none is named.

    Args:
        names: experiments, or cells as "experiment/cell".

    Raises:
        ValueError: for a name that is neither.
    """
    known = {
        f"{cell.experiment}/{cell.name}": cell for each in EXPERIMENTS.values() for cell in each
    }
    found: list[Cell] = []
    for name in names or EXPERIMENTS:
        if name in EXPERIMENTS:
            found += EXPERIMENTS[name]
        elif name in known:
            found.append(known[name])
        else:
            of_it = [cell for cell in known if cell.startswith(f"{name.partition('/')[0]}/")]
            expected = ", ".join(of_it or EXPERIMENTS)
            raise ValueError(f"Expected one of {expected}. Received: {name!r}")
    return found
