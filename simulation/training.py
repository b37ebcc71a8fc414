"""One process that trains whatever virtual participant it is told to.

The compiled model is built once in each process; of a participant there is nothing but the places
of its examples in arrays that all processes map.
"""

import os
import threading
import time
from collections.abc import Mapping
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from client_sdk import wire
from simulation.partitions import Indices, partition
from simulation.plan import Plan

# Small models: several processes of one thread each do more than one process of several threads,
# and one thread adds up in one order.
ONE_THREAD = {"TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "1"}


@dataclass(frozen=True, slots=True)
class Recipe:
    """All that a process needs to train anybody.

    Args:
        plan: of the simulation.
        home: its folder, in which the examples lie.
        document: of the model, as participants are told it.
    """

    plan: Plan
    home: Path
    document: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Job:
    """One participant's training in one round.

    Args:
        participant: its place among all of them, from 0.
        weights, fixed: files of the base version; `fixed` is None where it has none.
        seed: of the assignment.
        target: the file that the update is written to.
    """

    participant: int
    weights: Path
    fixed: Path | None
    seed: int
    target: Path


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a job.

    Args:
        digest, bytes: of the file; empty and 0 where the training failed.
        samples: examples trained on.
        metrics: of the last epoch.
        failure: why there is no update, in a sentence.
        cpu_seconds: processor time that it took.
    """

    digest: str = ""
    bytes: int = 0
    samples: int = 0
    metrics: Mapping[str, float] = field(default_factory=dict)
    failure: str = ""
    cpu_seconds: float = 0.0


class Workshop:
    """Trains participants, one after another."""

    def __init__(self, recipe: Recipe) -> None:
        from client_sdk.training import Trainer

        plan = recipe.plan
        self._plan = plan
        self._x, self._y = examples(recipe.home)
        self._shares = shares(plan, self._y)
        self._trainer = Trainer(recipe.document)
        self._weights = wire.read_weights(recipe.document["weights"])
        self._base: tuple[tuple[Path, Path | None], dict[str, np.ndarray]] | None = None

    def train(self, job: Job) -> Outcome:
        """Train one participant from its base version and write its update."""
        from client_sdk.training import TrainingDiverged

        began = time.process_time()
        share = self._shares[job.participant]
        try:
            result = self._trainer.train(
                self._base_of(job),
                (self._x[share], self._y[share]),
                self._plan.hyperparameters,
                job.seed,
            )
        except TrainingDiverged as error:
            return Outcome(failure=str(error), cpu_seconds=time.process_time() - began)
        digest, length = wire.dump(job.target, result.deltas)
        return Outcome(
            digest=digest,
            bytes=length,
            samples=result.samples,
            metrics=result.metrics,
            cpu_seconds=time.process_time() - began,
        )

    def _base_of(self, job: Job) -> dict[str, np.ndarray]:
        key = (job.weights, job.fixed)
        if self._base is None or self._base[0] != key:
            federated = wire.tensors_of(self._weights, wire.FEDERATED)
            tensors = dict(wire.open_tensors(job.weights, federated))
            if job.fixed is not None:
                rest = wire.tensors_of(self._weights, wire.LOCAL, wire.FROZEN)
                tensors |= wire.open_tensors(job.fixed, rest)
            self._base = (key, tensors)
        return self._base[1]


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


def shares(plan: Plan, y: np.ndarray) -> list[Indices]:
    """Which examples each participant holds."""
    return partition(y, plan.participants, plan.partition, plan.seed)


# --- One process or several ---------------------------------------------------------------------

_workshop: Workshop | None = None


def pool(recipe: Recipe, workers: int) -> Executor:
    """Where jobs are done: in this process for one worker, else in processes of their own."""
    if workers == 1:
        return _Here(recipe)
    return ProcessPoolExecutor(
        workers, get_context("spawn"), initializer=_begin, initargs=(recipe, os.getpid())
    )


def work(job: Job) -> Outcome:
    """Do a job in a process that `pool` has begun."""
    assert _workshop is not None
    return _workshop.train(job)


def _begin(recipe: Recipe, parent: int) -> None:
    global _workshop
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    _workshop = Workshop(recipe)


def _end_with(parent: int) -> None:
    """Nobody is left behind by a simulation that was killed."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


class _Here(Executor):
    """Does each job at once, in this process."""

    def __init__(self, recipe: Recipe) -> None:
        global _workshop
        _workshop = Workshop(recipe)

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        done: Future[Any] = Future()
        done.set_result(fn(*args, **kwargs))
        return done
