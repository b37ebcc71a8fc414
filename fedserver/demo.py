"""A whole federated training on one machine: what `manage.py demo` does, in order.

    prepare      the database, an owner, the model, everybody's share of the images
    start        the server's programs
    gather       each participant enrols with a join code of its own and asks for work
    train        a run, watched until its last version is published

Participants are processes of their own, each with a home of its own in which its images lie; the
server is told weights, sample counts and metrics.
"""

import math
import secrets
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from django.conf import settings
from django.contrib.auth.models import User

from fedserver import demo_data, demo_model, stack
from fedserver.demo_screen import Place, Screen
from fedserver.supervisor import Child, Program, Restart, State, Supervisor
from models_app import selectors as registry
from rounds import clock, enrolment, lifecycle, selectors
from rounds.models import Participant, Round, Run
from simulation import datasets
from simulation.datasets import Dataset
from simulation.partitions import partition

OWNER = "owner"
NAMES = ("alice", "bob", "charlie", "dora", "emil", "frida", "gustav", "hanna", "ivan", "jana")
PACE = 0.2  # seconds between two looks
# Small models on few processors: more threads would only get in each other's way.
ONE_THREAD = {"TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "1"}
ENDED = (Run.State.COMPLETED, Run.State.STOPPED, Run.State.FAILED)


class DemoFailed(Exception):
    """The demo came to no good end; the text says why."""


class Interrupted(Exception):
    """A signal asked for the end."""


@dataclass(frozen=True)
class Plan:
    """What is asked of the demo; `manage.py demo --help` explains."""

    participants: int
    rounds: int
    dataset: str
    partition: str
    seed: int


class Demo:
    """One demo, in the home of the settings.

    Args:
        plan: what is asked for.
        door: where the server listens.
        supervisor: entered, with no programs yet.
        screen: what is told to whom.
    """

    def __init__(
        self, plan: Plan, door: stack.Door, supervisor: Supervisor, screen: Screen
    ) -> None:
        self.plan = plan
        self._door = door
        self._supervisor = supervisor
        self._screen = screen
        self._home: Path = settings.FEDSERVER_HOME

    def train(self) -> dict[str, Any]:
        """Everything up to the last published version.

        Returns:
            What `--json` writes.

        Raises:
            DemoFailed: the run did not complete, or a program could not be brought up.
            Interrupted: a signal asked for the end.
        """
        password = self._prepare()
        model = self._register_model()
        dataset = datasets.load(self.plan.dataset, self.plan.seed)
        shares = self._share_out(dataset)
        self._start()
        self._screen.say(f"The server is at {self._door.url}/")
        self._screen.say(f"Sign in there as {OWNER} with the password {password}", "bold")
        self._gather(shares)
        self._screen.say("Waiting for the model and for everybody to enrol …", "dim")
        self._until(lambda: self._is_registered(model) and self._everybody_is_there())
        run = self._run(dataset)
        self._watch(run)
        return self._result(run, dataset)

    # --- prepare ---

    def _prepare(self) -> str:
        """Makes the database and an owner, whose password is returned."""
        stack.prepare()
        password = secrets.token_urlsafe(9)
        User.objects.create_superuser(OWNER, password=password)
        return password

    def _register_model(self) -> Child:
        """Starts who registers the model. It takes the longest, so it is the first."""
        folder = self._home / "model"
        folder.mkdir()
        words = [self.plan.dataset, str(self.plan.seed), str(folder)]
        command = [sys.executable, "-m", "fedserver.demo_model", *words]
        program = Program("model", command, stack.environment(), restart=Restart.NEVER)
        child = self._supervisor.add(program)
        self._supervisor.tick()
        return child

    def _share_out(self, dataset: Dataset) -> dict[str, Path]:
        """Lays each participant's images into its own home; returns the files by name."""
        plan = self.plan
        shares = partition(dataset.y_train, plan.participants, plan.partition, plan.seed)
        files = {}
        for number, share in enumerate(shares):
            name = NAMES[number] if number < len(NAMES) else f"participant-{number + 1}"
            files[name] = self._home / "participants" / name / "images.npz"
            files[name].parent.mkdir(parents=True, mode=0o700)
            np.savez(files[name], x=dataset.x_train[share], y=dataset.y_train[share])
        self._screen.say(_shared_out(dataset, plan.partition, [len(share) for share in shares]))
        return files

    # --- start ---

    def _start(self) -> None:
        """Starts the server and waits until it answers."""
        for program in stack.programs(self._door):
            self._supervisor.add(program)
        self._until(self._door_is_open)

    def _door_is_open(self) -> bool:
        return self._supervisor.children["web"].state is State.READY

    # --- gather ---

    def _gather(self, files: dict[str, Path]) -> None:
        """Lets each participant enrol, and sees to it that it then asks for work."""
        enrolling = {name: self._enrol(name, file) for name, file in files.items()}
        while enrolling:
            self._until(lambda: any(one.state is State.ENDED for one in enrolling.values()))
            for name in [name for name, one in enrolling.items() if one.state is State.ENDED]:
                child = enrolling.pop(name)
                if child.status:
                    raise DemoFailed(f"{name} could not enrol:\n{child.last_words()}")
                self._join_in(name, files[name])

    def _enrol(self, name: str, file: Path) -> Child:
        _, code = enrolment.make_join_code(label=name, actor=OWNER)
        words = ["join", self._door.url, code, "--name", name]
        return self._client(f"{name}-join", words, file.parent, Restart.NEVER)

    def _join_in(self, name: str, file: Path) -> Child:
        return self._client(name, ["train", "--data", str(file)], file.parent, Restart.ON_FAILURE)

    def _client(self, name: str, words: list[str], home: Path, restart: Restart) -> Child:
        environment = ONE_THREAD | {
            "PYTHONPATH": stack.environment()["PYTHONPATH"],
            "FEDCLIENT_HOME": str(home),
            "TF_CPP_MIN_LOG_LEVEL": "2",
        }
        command = [sys.executable, "-m", "client_sdk", *words]
        return self._supervisor.add(Program(name, command, environment, restart=restart, grace=3))

    def _is_registered(self, model: Child) -> bool:
        """Whether the model is there; who registers it takes seconds more to end."""
        if model.status:
            raise DemoFailed(f"The model could not be registered:\n{model.last_words()}")
        return registry.models().exists()

    def _everybody_is_there(self) -> bool:
        return Participant.objects.count() == self.plan.participants

    # --- train ---

    def _run(self, dataset: Dataset) -> Run:
        """A run that waits for everybody, and can do without a few."""
        everybody = self.plan.participants
        run = lifecycle.create_run(
            registry.model(demo_model.slug(dataset.name)),
            actor=OWNER,
            name="demo",
            hyperparameters=demo_data.hyperparameters(dataset),
            seed=self.plan.seed,
            rounds_planned=self.plan.rounds,
            cohort_goal=everybody,
            cohort_min=math.ceil(everybody / 2),
            over_selection=1.0,
            quorum=math.ceil(everybody / 2),
        )
        lifecycle.start_run(run.pk, actor=OWNER)
        return run

    def _watch(self, run: Run) -> None:
        with self._screen:
            self._until(lambda: self._look(run))
        if run.state != Run.State.COMPLETED:
            raise DemoFailed(f"The run {run.state}: {run.reason}")

    def _look(self, run: Run) -> bool:
        """Shows how the run stands; whether it has ended."""
        run.refresh_from_db()
        current = Round.objects.filter(run=run, phase__in=Round.ACTIVE).first()
        seconds = (clock.now() - current.opened_at).total_seconds() if current else None
        self._screen.show(selectors.run_report(run), _places(current), seconds)
        return run.state in ENDED

    def _result(self, run: Run, dataset: Dataset) -> dict[str, Any]:
        slug = run.model.slug
        first, served = registry.version(slug, 1), registry.version(slug, "published")
        return {
            "model": slug,
            "dataset": dataset.name,
            "participants": self.plan.participants,
            "initial_accuracy": first.metrics.get("accuracy"),
            "final_accuracy": served.metrics.get("accuracy"),
            "published_version": served.number,
            "rounds": selectors.run_report(run),
        }

    def _until(self, true: Callable[[], bool]) -> None:
        """Looks after the programs until something is true."""
        while not true():
            if self._supervisor.stopping:
                raise Interrupted
            self._supervisor.tick()
            time.sleep(PACE)


def _shared_out(dataset: Dataset, how: str, counts: list[int]) -> str:
    least, most = min(counts), max(counts)
    each = f"{least:,}" if least == most else f"{least:,} to {most:,}"
    parties = "1 participant" if len(counts) == 1 else f"{len(counts)} participants"
    return (
        f"{sum(counts):,} images of {dataset.name} are shared out ({how}) to {parties},"
        f" {each} each; {len(dataset.y_test):,} others are kept for the server to evaluate on."
    )


def _places(current: Round | None) -> list[Place]:
    if current is None:
        return []
    found = selectors.assignments().filter(round=current).order_by("participant_id")
    return [
        Place(one.participant.name, one.state, one.activity, one.epoch, one.epochs) for one in found
    ]
