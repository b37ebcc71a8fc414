"""A whole server and its participants, every one a process that may be killed."""

import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from django.conf import settings as django_settings
from django.db import connection

from accounts.models import PersonalToken
from accounts.roles import Role
from client_sdk import Participant
from fedserver import stack
from fedserver.supervisor import Program, State, Supervisor
from journal.models import Event
from models_app import registry
from rounds import enrolment
from rounds.models import Run
from tests.participant import package
from tests.rounds.conftest import person

NAMES = ("alice", "bob", "charlie")
FORKED = "a process that steps has forked"
PATIENCE = 120.0  # seconds for one run, on a machine that others use too
RULES = {
    "seed": 7,
    "hyperparameters": {"epochs": 2, "learning_rate": 0.1},
    # Everyone in every round: so a version has one value only.
    "cohort_goal": len(NAMES),
    "cohort_min": len(NAMES),
    "quorum": len(NAMES),
}
# A killed worker's lease runs out soon, and the beat comes often: tests are impatient.
HURRY = {"FEDSERVER_LEASE_SECONDS": "2", "FEDSERVER_SWEEP_SECONDS": "0.5"}


@dataclass(frozen=True)
class Blow:
    """Something bad, done at a moment of a run.

    Args:
        kind: of the line in the run's journal after which it is done.
        number: the how manieth line of this kind.
        strike: does it, and says whether there was anything to hit; else it is tried again.
        delay: seconds in between, so that it hits in the midst of what the line began.
    """

    kind: str
    number: int
    strike: Callable[[], bool]
    delay: float = 0.0


@dataclass
class Federation:
    """A server of its own in a home of its own, with participants that take part all the time."""

    supervisor: Supervisor
    operator: httpx.Client
    home: Path
    warnings: list[str] = field(default_factory=list)

    def train(self, slug: str, rounds: int, blows: Sequence[Blow] = ()) -> Run:
        """A run of a new model from its first round to its end, under blows."""
        registry.create_model(slug, package())
        told = self._post("runs", {"model": slug, "rounds_planned": rounds, **RULES})
        run = Run.objects.get(pk=told["id"])
        self._post(f"runs/{run.pk}/start", {})
        left, began = list(blows), time.monotonic()
        while run.state in (Run.State.DRAFT, Run.State.RUNNING):
            if time.monotonic() - began > PATIENCE:
                raise AssertionError(f"Expected an end. Received: {run.state}, {left} to come")
            self._go_on()
            left = self._strike(run, left)
            run.refresh_from_db()
        assert not left, f"Expected all blows before the end. Received: {left} left"
        return run

    def _strike(self, run: Run, blows: list[Blow]) -> list[Blow]:
        """Strike what is due; what is left."""
        if not blows:
            return []
        lines = Counter(Event.objects.filter(run=run.pk).values_list("kind", flat=True))
        due = [blow for blow in blows if lines[blow.kind] >= blow.number]
        for blow in due:
            time.sleep(blow.delay)
            if blow.strike():
                blows.remove(blow)
        return blows

    def kill(self, name: str) -> bool:
        """`kill -9` for a program, or for a process that the worker of steps has forked.

        Returns:
            False if it is dead already, or not yet at work.
        """
        child = self.supervisor.children["steps" if name == FORKED else name]
        forked = psutil.Process(child.pid).children() if child.pid else []
        if child.state is not State.READY or (child.program.name == "steps" and not forked):
            return False
        if name == FORKED:
            forked[0].kill()
        else:
            child.signal(signal.SIGKILL)
        return True

    def crash(self) -> bool:
        """`kill -9` for the whole server at once, as when its machine loses power.

        Returns:
            False if a part of it is not up, or dead already.
        """
        server = [child for name, child in self.supervisor.children.items() if name not in NAMES]
        if any(child.state is not State.READY for child in server):
            return False
        for child in server:
            child.deaths = 0  # a machine that was switched on again knows of none
            child.signal(signal.SIGKILL)
        return True

    def until(self, true: Callable[[], bool], seconds: float = PATIENCE) -> None:
        """Go on until something has come to pass."""
        ends = time.monotonic() + seconds
        while not true():
            assert time.monotonic() < ends, f"Expected it in {seconds:g} s. Received: nothing"
            self._go_on()

    def until_ready(self) -> None:
        """Wait until everything runs again."""
        while any(child.state is not State.READY for child in self.supervisor.children.values()):
            self._go_on()

    def told(self, kind: str) -> list[int]:
        """The assignments of which the participants told an event, as often as they did."""
        lines = [
            line.split()
            for name in NAMES
            for line in self.supervisor.children[name].log.read_text().splitlines()
        ]
        return [int(line[1]) for line in lines if line[0] == kind]

    def acknowledged(self) -> list[int]:
        """The assignments whose update the participants hold a receipt for."""
        return self.told("uploaded")

    def story(self) -> str:
        """The journal and the end of each log, for whoever has to find out why."""
        lines = [
            f"{line.at:%M:%S.%f} {line.kind} run={line.run} round={line.round}"
            f" assignment={line.assignment} {line.actor} {line.reason} {line.data}"
            for line in Event.objects.order_by("id")
        ]
        logs = [
            f"--- {name} ({child.state.value})\n{child.last_words(25)}"
            for name, child in self.supervisor.children.items()
        ]
        return "\n".join([*lines, "--- supervisor", *self.warnings, *logs])

    def _post(self, path: str, body: dict[str, Any]) -> Any:
        response = self.operator.post(path, json=body)
        assert response.is_success, response.text
        return response.json()

    def _go_on(self) -> None:
        self.supervisor.tick()
        time.sleep(0.01)


@pytest.fixture
def federation(
    transactional_db: None,
    tmp_path: Path,
    settings: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Federation]:
    """A running server on the test's database, to which alice, bob and charlie have come."""
    settings.FEDSERVER_HOME = home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("FEDCLIENT_HOME", str(tmp_path / "participants"))
    monkeypatch.setenv("DATABASE_URL", _test_database())
    monkeypatch.setenv("FEDSERVER_CONN_MAX_AGE", "60")  # as in production
    monkeypatch.delenv("REDIS_URL")  # a Valkey of its own
    for name, value in HURRY.items():
        monkeypatch.setenv(name, value)
    door = stack.Door.open("127.0.0.1", 0)
    warnings: list[str] = []
    # The base version needs no measuring and no model an evaluation set: nothing loads Keras.
    programs = [one for one in stack.programs(door) if one.name != "evaluation"]
    supervisor = Supervisor(programs, logs=home / "logs", warn=warnings.append)
    token = PersonalToken.objects.issue(person("bob", Role.OPERATOR), "test")[1]
    headers = {"Authorization": f"Bearer {token}"}
    with (
        door.listener,
        httpx.Client(base_url=f"{door.url}/api/v1", headers=headers, timeout=30) as operator,
    ):
        try:
            supervisor.start()
            _enrol(door.url)
            for name in NAMES:
                supervisor.add(_participant(name))
            yield Federation(supervisor, operator, home, warnings)
        finally:
            supervisor.stop()


def _test_database() -> str:
    """The `DATABASE_URL` of the database that this test's own connection is on."""
    name = connection.settings_dict["NAME"]
    if connection.vendor == "sqlite":
        return f"sqlite:///{name}"
    return os.environ["DATABASE_URL"].replace("///postgres?", f"///{name}?")


def _enrol(url: str) -> None:
    for name in NAMES:
        _, code = enrolment.make_join_code(label=name)
        Participant.enrol(url, code, name=name, profile=name).close()


def _participant(name: str) -> Program:
    root = str(django_settings.BASE_DIR)
    command = [sys.executable, "-m", "tests.participant", name]
    return Program(name, command, {"PYTHONPATH": root}, grace=3)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A failure here comes with the journal and the ends of the logs."""
    report = yield
    federation = getattr(item, "funcargs", {}).get("federation")
    if report.when == "call" and report.failed and federation is not None:
        report.sections.append(("what happened", federation.story()))
    return report
