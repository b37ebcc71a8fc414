"""fedclient against the real server: what an administrator types, from the code to leaving."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from django.conf import settings as django_settings

from models_app.models import Model
from rounds import enrolment
from rounds.models import Assignment, Participant, Round
from tests.end_to_end.conftest import start
from tests.participant import SHAPE
from tests.rounds.updates import carry
from tests.waiting import until

pytestmark = [pytest.mark.timeout(120), pytest.mark.alike]

# fedclient as it is installed, but for a trainer that needs no Keras.
FEDCLIENT = """
import sys, types
from importlib.machinery import ModuleSpec

sys.modules["keras"] = types.ModuleType("keras")
sys.modules["keras"].__spec__ = ModuleSpec("keras", None)
from client_sdk import cli, training
from tests.participant import Trainer

training.Trainer = lambda *_, **__: Trainer()
sys.exit(cli.main())
"""

Fedclient = Callable[..., Any]


def command(*words: object) -> list[str]:
    return [sys.executable, "-c", FEDCLIENT, *map(str, words), "--json"]


@pytest.fixture
def fedclient(home: Path) -> Fedclient:
    """Type a command; answers with what it says to programs."""

    def typed(*words: object, exit_code: int = 0) -> Any:
        told = subprocess.run(
            command(*words),
            cwd=django_settings.BASE_DIR,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert told.returncode == exit_code, told.stdout + told.stderr
        return json.loads(told.stdout)

    return typed


@pytest.fixture
def npz(tmp_path: Path) -> Path:
    np.savez(tmp_path / "data.npz", x=np.zeros((5, SHAPE[0])), y=np.zeros(5))
    return tmp_path / "data.npz"


def test_from_the_code_to_leaving(
    model: Model, server: str, fedclient: Fedclient, npz: Path
) -> None:
    _, code = enrolment.make_join_code(label="alice")
    states = {check["name"]: check["state"] for check in fedclient("test", server)["checks"]}
    assert "failed" not in states.values()
    fedclient("join", server, code, "--name", "alice")

    told = fedclient("test")
    assert {check["state"] for check in told["checks"]} == {"ok"}, told
    assert told["checks"][-1]["name"] == "push"

    round_ = start(model)
    with subprocess.Popen(
        command("train", "--data", npz, "--rounds", 1),
        cwd=django_settings.BASE_DIR,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        until(lambda: Assignment.objects.filter(state=Assignment.State.UPLOADED).exists())
        assert carry(round_).phase == Round.Phase.PUBLISHED
        out, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    events = [json.loads(line) for line in out.splitlines()]
    receipt = next(event["receipt"] for event in events if event["event"] == "receipt")
    assert (receipt["state"], receipt["version"], receipt["published"]) == ("accepted", 1, 2)

    update = next(one for one in fedclient("log")["entries"] if one["kind"] == "update")
    assert (update["samples"], update["state"], update["published"]) == (5, "accepted", 2)
    assert fedclient("rotate-key")["rotated"] is True
    assert fedclient("status")["accepted"] is True

    enrolment.suspend(Participant.objects.get())
    refused = fedclient("status", exit_code=3)
    assert refused["error"]["kind"] == "participant_suspended"
    enrolment.reinstate(Participant.objects.get())
    assert fedclient("leave", "--yes")["server_told"] is True
    assert fedclient("profiles")["profiles"] == []
