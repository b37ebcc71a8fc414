"""Alice at the real server, in this process or as one of her own."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings as django_settings
from django.db import connection

from client_sdk import Participant
from models_app import registry
from models_app.models import Model
from rounds import enrolment, lifecycle
from rounds.models import Round
from tests.participant import Trainer, data_of, package

ALONE = {"cohort_goal": 1, "cohort_min": 1, "quorum": 1, "over_selection": 1.0}


@pytest.fixture
def model(transactional_db: None) -> Model:
    return registry.create_model("plain", package())


@pytest.fixture
def alice(model: Model, server: str, home: Path) -> Iterator[Participant]:
    """Enrolled at the real server, in this process or as one of her own: see `live`."""
    _, code = enrolment.make_join_code(label="alice")
    with Participant.enrol(server, code, name="alice", profile="alice") as participant:
        yield participant


@pytest.fixture
def everyone(
    model: Model, server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[dict[str, Participant]]:
    """Alice, bob, charlie and dora, enrolled at the real server."""
    monkeypatch.setenv("FEDCLIENT_HOME", str(tmp_path))
    with ExitStack() as stack:
        found = {}
        for name in ("alice", "bob", "charlie", "dora"):
            _, code = enrolment.make_join_code(label=name)
            one = Participant.enrol(server, code, name=name, profile=name)
            found[name] = stack.enter_context(one)
        yield found


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FEDCLIENT_HOME", str(tmp_path / "alice"))
    return tmp_path / "alice"


def start(model: Model, **rules: Any) -> Round:
    run = lifecycle.create_run(model, **{"rounds_planned": 1, **ALONE, **rules})
    return lifecycle.start_run(run.pk)


def live(until: str = "", name: str = "alice") -> "subprocess.CompletedProcess[str]":
    """Alice, or another, as a process of its own, killed at a moment, or done after one round."""
    return subprocess.run(
        [sys.executable, "-m", "tests.participant", name, until, "1"],
        cwd=django_settings.BASE_DIR,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def told(process: "subprocess.CompletedProcess[str]") -> list[str]:
    return [line.split()[0] for line in process.stdout.splitlines()]


def take_part(alice: Participant, **options: Any) -> Any:
    return alice.participate(data_of("alice"), trainer=Trainer(), wait=1, **options)


@contextmanager
def workers(count: int = 2) -> Iterator[None]:
    """Threads that step whatever is due, as the beat and Celery's workers do."""
    over = threading.Event()

    def work() -> None:
        while not over.wait(0.05):
            rounds, runs = lifecycle.due()
            for run in runs:
                lifecycle.advance(run)
            for round_ in rounds:
                while lifecycle.step(round_):
                    pass
        connection.close()

    threads = [threading.Thread(target=work) for _ in range(count)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join(30)
