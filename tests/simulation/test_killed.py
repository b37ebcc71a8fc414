"""A simulation that is killed goes on as if nothing had been, and one that is done is not repeated.

Each is a process of its own, as `manage.py simulate` is.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.waiting import until

MANAGE = Path(__file__).parents[2] / "manage.py"
# SCAFFOLD, for its participants keep something; 2NN, for it builds fast.
SETTINGS = [
    *("--participants", "12", "--fraction", "0.5", "--rounds", "6"),
    *("--model", "2nn", "--strategy", "scaffold", "--partition", "shards:2"),
    *("--dropout", "0.2", "--stragglers", "lognormal:0.5", "--deadline", "0.3"),
]
# Buffers of which the gate refuses some, so that who trained meanwhile begins anew.
REFUSED = [
    *("--participants", "12", "--rounds", "6", "--model", "2nn", "--gate", "0"),
    *("--strategy", "fedbuff", "--concurrency", "5", "--buffer", "3"),
    *("--dropout", "0.2", "--stragglers", "lognormal:0.9"),
]


def start(home: Path, *more: str, settings: Sequence[str] = SETTINGS) -> subprocess.Popen[bytes]:
    command = [sys.executable, str(MANAGE), "simulate", *settings, "--home", str(home), *more]
    environment = os.environ | {"FEDSERVER_HOME": str(home.parent / "server")}
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE)


def finished(process: subprocess.Popen[bytes]) -> None:
    _, told = process.communicate(timeout=300)
    assert process.returncode == 0, told.decode()


def numbers(file: Path) -> dict[str, Any]:
    """What must be the same again: all but what was measured."""
    found: dict[str, Any] = json.loads(file.read_text())
    for line in found["curve"]:
        line.pop("wall_seconds", None)
        line.pop("cpu_seconds", None)
    return {name: found[name] for name in ("final_weights", "curve", "state", "virtual_seconds")}


def costs(home: Path) -> int:
    """How many rounds have ended."""
    file = home / "costs.jsonl"
    return len(file.read_text().splitlines()) if file.exists() else 0


@pytest.mark.parametrize("settings", [SETTINGS, REFUSED], ids=["in_rounds", "buffered"])
@pytest.mark.timeout(900)  # three starts of TensorFlow, on a machine that may be busy
def test_killed_in_the_middle_and_with_other_workers_it_comes_to_the_same_bytes(
    settings: Sequence[str], tmp_path: Path
) -> None:
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    process = start(killed, "--workers", "2", settings=settings)
    until(lambda: costs(killed) >= 2, 300)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    before = costs(killed)
    finished(start(killed, "--json", str(tmp_path / "killed.json"), settings=settings))
    finished(start(undisturbed, "--json", str(tmp_path / "undisturbed.json"), settings=settings))
    assert before < 6, "it was killed too late to show anything"
    found = numbers(tmp_path / "killed.json")
    assert found == numbers(tmp_path / "undisturbed.json")
    assert found["state"] == "completed"
    assert settings is SETTINGS or "failed" in [line.get("phase") for line in found["curve"]]

    ended = costs(killed)
    finished(start(killed, "--json", str(tmp_path / "again.json"), settings=settings))
    assert numbers(tmp_path / "again.json") == found
    assert costs(killed) == ended  # nothing was trained again


def test_a_home_belongs_to_the_settings_that_it_was_begun_with(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "plan.json").write_text(json.dumps({"seed": 7}))
    process = start(home)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 1
    assert b"Expected the settings that" in told
    assert b"Received: other dataset" not in told
    assert b"seed" in told
