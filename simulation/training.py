"""One process that trains and evaluates for whatever virtual participant it is told to.

The compiled model is built once in each process; of a participant there is nothing but the places
of its examples in arrays that all processes map, and what its strategy has it keep, in a file.
"""

import importlib
import json
import os
import signal
import threading
import time
from collections.abc import Mapping
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from client_sdk import drift, wire
from simulation import attacks
from simulation.partitions import Indices, partition
from simulation.plan import Plan

# Small models: several processes of one thread each do more than one process of several threads,
# and one thread adds up in one order.
ONE_THREAD = {"TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "1"}
_OWN, _LOCAL = "own.", "local."  # what a participant keeps, by the first part of its name


@dataclass(frozen=True, slots=True)
class Recipe:
    """All that a process needs to train anybody.

    Args:
        plan: of the simulation.
        home: its folder, in which the examples lie.
        document: of the model, as participants are told it.
        requires: what the strategy asks of participants.
    """

    plan: Plan
    home: Path
    document: Mapping[str, Any]
    requires: Mapping[str, Mapping[str, float]]

    @property
    def keeps(self) -> bool:
        """Whether participants keep something from round to round."""
        local = any(weight["role"] == wire.LOCAL for weight in self.document["weights"])
        return local or bool(drift.keeps(self.requires))

    def write(self) -> None:
        """Lay it into the home, for workers that are started by others."""
        parts = {"document": self.document, "requires": self.requires}
        draft = self.home / "recipe.json.new"
        draft.write_text(json.dumps({"plan": self.plan.as_json(), **parts}))
        draft.replace(self.home / "recipe.json")

    @classmethod
    def read(cls, home: Path) -> "Recipe":
        """What `write` has written."""
        found = json.loads((home / "recipe.json").read_text())
        return cls(Plan.from_json(found["plan"]), home, found["document"], found["requires"])


@dataclass(frozen=True, slots=True)
class Base:
    """The files of the version that a job begins with.

    Args:
        weights, fixed: its tensors; `fixed` is None where it has none.
        control: its strategy's state, None where nobody needs it.
    """

    weights: Path
    fixed: Path | None = None
    control: Path | None = None


@dataclass(frozen=True, slots=True)
class Job:
    """One participant's training in one round.

    Args:
        participant: its place among all of them, from 0.
        base: what it begins with.
        seed: of the assignment.
        target: the file that the update is written to.
        own: the file of what the participant keeps; None where that is nothing.
        kept: the file for what it keeps from now on; None where that is nothing.
    """

    participant: int
    base: Base
    seed: int
    target: Path
    own: Path | None = None
    kept: Path | None = None


@dataclass(frozen=True, slots=True)
class Judging:
    """One participant's evaluation of a version.

    Args:
        participant: its place among all of them, from 0.
        base: the version.
        own: the file of what the participant keeps; None where that is nothing.
    """

    participant: int
    base: Base
    own: Path | None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a job.

    Args:
        digest, bytes: of the file; empty and 0 where the training failed.
        samples: examples trained on.
        metrics: of the last epoch.
        reports: what the strategy asked for.
        failure: why there is no update, in a sentence.
        cpu_seconds: processor time that it took.
    """

    digest: str = ""
    bytes: int = 0
    samples: int = 0
    metrics: Mapping[str, float] = field(default_factory=dict)
    reports: Mapping[str, float] = field(default_factory=dict)
    failure: str = ""
    cpu_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a participant has measured on the examples that it keeps for that.

    Args:
        samples: how many these are.
        metrics: means over them.
        classes: for each class how many there are, and how many were recognised; None where the
            model's outputs are no classes.
        cpu_seconds: processor time that it took.
    """

    samples: int
    metrics: Mapping[str, float]
    classes: list[list[int]] | None
    cpu_seconds: float


class Workshop:
    """Trains participants, one after another."""

    def __init__(self, recipe: Recipe) -> None:
        import_tensorflow()
        from client_sdk.training import Trainer

        self._recipe, self._plan = recipe, recipe.plan
        self._x, self._y = examples(recipe.home)
        self._shares = shares(recipe.plan, self._y)
        self._attackers = attacks.attackers(
            recipe.plan.participants, recipe.plan.attackers, recipe.plan.seed
        )
        self._trainer = Trainer(recipe.document)
        self._weights = wire.read_weights(recipe.document["weights"])
        self._base: tuple[Base, dict[str, np.ndarray], np.ndarray | None] | None = None

    def train(self, job: Job) -> Outcome:
        """Train one participant from its base version and write its update."""
        from client_sdk.training import TrainingDiverged

        began = time.process_time()
        base, control = self._read(job.base)
        own, local = _kept(job.own)
        try:
            result = self._trainer.train(
                base | local,
                self._data(job.participant),
                self._plan.hyperparameters,
                job.seed,
                requires=self._recipe.requires,
                own=own,
                control=control,
            )
        except TrainingDiverged as error:
            return Outcome(failure=str(error), cpu_seconds=time.process_time() - began)
        if job.kept is not None:
            _keep(job.kept, result.own, result.local)
        digest, length = wire.dump(job.target, self._sent(job, result.deltas))
        return Outcome(
            digest=digest,
            bytes=length,
            samples=result.samples,
            metrics=result.metrics,
            reports=result.reports,
            cpu_seconds=time.process_time() - began,
        )

    def judge(self, job: Judging) -> Judgement:
        """Evaluate a version on the examples that a participant has held out."""
        began = time.process_time()
        weights = self._read(job.base)[0] | _kept(job.own)[1]
        places = self._shares[job.participant].held_out
        found = self._trainer.measure(weights, (self._x[places], self._y[places]))
        seconds = time.process_time() - began
        return Judgement(found.samples, found.metrics, found.classes, seconds)

    def _data(self, participant: int) -> tuple[np.ndarray, np.ndarray]:
        places = self._shares[participant].trained
        x, y = self._x[places], self._y[places]
        if participant in self._attackers and attacks.flips_labels(self._plan.attack):
            y = attacks.flipped(y, len(self._recipe.document["labels"]))
        return x, y

    def _sent(self, job: Job, deltas: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        if job.participant not in self._attackers:
            return deltas
        strength = self._plan.strength
        return attacks.disguised(self._plan.attack, deltas, strength=strength, seed=job.seed)

    def _read(self, base: Base) -> tuple[dict[str, np.ndarray], np.ndarray | None]:
        if self._base is None or self._base[0] != base:
            federated = wire.tensors_of(self._weights, wire.FEDERATED)
            tensors = dict(wire.open_tensors(base.weights, federated))
            if base.fixed is not None:
                rest = wire.tensors_of(self._weights, wire.LOCAL, wire.FROZEN)
                tensors |= wire.open_tensors(base.fixed, rest)
            control = None if base.control is None else load_file(base.control)["control"]
            self._base = (base, tensors, control)
        return self._base[1:]


def _kept(file: Path | None) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """A participant's vectors for its strategy, and its own values of the local tensors."""
    found = {} if file is None else load_file(file)
    own = {name.removeprefix(_OWN): found[name] for name in found if name.startswith(_OWN)}
    local = {name.removeprefix(_LOCAL): found[name] for name in found if name.startswith(_LOCAL)}
    return own, local


def _keep(file: Path, own: Mapping[str, np.ndarray], local: Mapping[str, np.ndarray]) -> None:
    tensors = {_OWN + name: values for name, values in own.items()}
    tensors |= {_LOCAL + name: values for name, values in local.items()}
    draft = file.with_suffix(f".{os.getpid()}")
    wire.dump(draft, tensors)
    draft.replace(file)


def import_tensorflow() -> None:
    """Import it for the first time: it tells of itself in lines that would tear a progress bar."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        importlib.import_module("models_app.keras_bridge")
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


# --- Examples -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Share:
    """A participant's examples: their places in the arrays of all.

    Args:
        trained: those that it trains on.
        held_out: those that it keeps to evaluate on.
    """

    trained: Indices
    held_out: Indices


def lay_out(home: Path, x: np.ndarray, y: np.ndarray) -> None:
    """Write the participants' examples where every process can map them."""
    for name, values in (("x", x), ("y", y)):
        draft = home / f"{name}.npy.new"
        with draft.open("wb") as file:
            np.save(file, values, allow_pickle=False)
        draft.replace(home / f"{name}.npy")


def examples(home: Path) -> tuple[np.ndarray, np.ndarray]:
    """The examples that `lay_out` wrote, mapped, and their labels."""
    x = np.load(home / "x.npy", mmap_mode="r", allow_pickle=False)
    return x, np.load(home / "y.npy", allow_pickle=False)


def shares(plan: Plan, y: np.ndarray) -> list[Share]:
    """Which examples each participant holds, of which it trains on one at least.

    Raises:
        ValueError: the labels cannot be shared out so.
    """
    random = np.random.default_rng([plan.seed, 1])
    found = []
    for share in partition(y, plan.participants, plan.partition, plan.seed):
        kept = min(round(plan.held_out * len(share)), len(share) - 1)
        if plan.evaluators and len(share) > 1:
            kept = max(kept, 1)
        order = random.permutation(share) if kept else share
        found.append(Share(np.sort(order[kept:]), np.sort(order[:kept])))
    return found


# --- One process or several ---------------------------------------------------------------------

_workshop: Workshop | None = None


def pool(recipe: Recipe, workers: int) -> Executor:
    """Where jobs are done: in this process for one worker, else in processes of their own."""
    if workers == 1:
        return Here(recipe)
    return ProcessPoolExecutor(
        workers, get_context("spawn"), initializer=_begin, initargs=(recipe, os.getpid())
    )


def work(job: Job) -> Outcome:
    """Do a job in a process that `pool` has begun."""
    assert _workshop is not None
    return _workshop.train(job)


def judge(job: Judging) -> Judgement:
    """Evaluate in a process that `pool` has begun."""
    assert _workshop is not None
    return _workshop.judge(job)


def _begin(recipe: Recipe, parent: int) -> None:
    global _workshop
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    _workshop = Workshop(recipe)


def _end_with(parent: int) -> None:
    """Nobody is left behind by a simulation that was killed."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


class Here(Executor):
    """Does each job in this process, when its result is asked for."""

    def __init__(self, recipe: Recipe) -> None:
        global _workshop
        _workshop = Workshop(recipe)

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        return _Later(fn, args, kwargs)


class _Later(Future[Any]):
    def __init__(self, fn: Any, args: Any, kwargs: Any) -> None:
        super().__init__()
        self._call = (fn, args, kwargs)

    def result(self, timeout: float | None = None) -> Any:
        if not self.done():
            fn, args, kwargs = self._call
            self.set_result(fn(*args, **kwargs))
        return super().result(timeout)
