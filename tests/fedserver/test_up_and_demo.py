"""The two commands that start everything, run as a person runs them."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil
import pytest

ROOT = Path(__file__).parent.parent.parent
RESULT = {
    "model",
    "dataset",
    "participants",
    "initial_accuracy",
    "final_accuracy",
    "published_version",
    "rounds",
}
ROUND = {
    "number",
    "state",
    "version",
    "accepted",
    "rejected",
    "samples",
    "accuracy",
    "loss",
    "seconds",
    "overhead_seconds",
}


@contextmanager
def manage(home: Path, *words: str, **environment: str) -> Iterator["subprocess.Popen[str]"]:
    """`manage.py …` as a process with its own home; killed at the end if it still runs."""
    told = os.environ | environment | {"FEDSERVER_HOME": str(home), "PYTHONUNBUFFERED": "1"}
    told.pop("REDIS_URL")
    process = subprocess.Popen(
        [sys.executable, ROOT / "manage.py", *words],
        env=told,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def line_with(process: "subprocess.Popen[str]", text: str) -> str:
    """Reads on until a line has the text; all that was read is in the message if none has."""
    read = []
    assert process.stdout
    for line in process.stdout:
        read.append(line)
        if text in line:
            return line
    raise AssertionError(f"Expected {text!r}. Received: {''.join(read)}")


def ends_with(process: "subprocess.Popen[str]", status: int) -> None:
    rest, _ = process.communicate(timeout=60)
    assert process.returncode == status, rest


def descendants(process: "subprocess.Popen[str]") -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


def still_alive(processes: list[psutil.Process]) -> list[psutil.Process]:
    """Who is left after a while. A zombie has ended: it waits for its parent only."""
    _, left = psutil.wait_procs(processes, timeout=15)
    return [one for one in left if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]


@pytest.mark.timeout(120)
def test_up_serves_and_ends_everything_with_ctrl_c(tmp_path: Path, database_url: str) -> None:
    with manage(tmp_path, "up", "--port", "0", DATABASE_URL=database_url) as server:
        url = line_with(server, "serves at").split()[3]
        assert httpx.get(f"{url}/healthz").json() == {"status": "ok"}
        started = descendants(server)
        assert len(started) >= 5  # valkey, web, two kinds of workers, beat
        with manage(tmp_path, "up", "--port", "0", DATABASE_URL=database_url) as second:
            assert f"used by process {server.pid}" in line_with(second, "Received")
            ends_with(second, 1)
        server.send_signal(signal.SIGINT)
        ends_with(server, 0)
        assert still_alive(started) == []
    assert not list(tmp_path.rglob("*.sock"))


@pytest.mark.alike
@pytest.mark.timeout(120)
def test_a_killed_web_process_is_replaced_and_nobody_outlives_a_killed_up(
    tmp_path: Path, database_url: str
) -> None:
    with manage(tmp_path, "up", "--port", "0", DATABASE_URL=database_url) as server:
        url = line_with(server, "serves at").split()[3]
        started = descendants(server)
        web = next(one for one in started if "fedserver.web" in one.cmdline())
        web.kill()
        # Nobody is refused meanwhile: the listening socket is the supervisor's.
        assert httpx.get(f"{url}/healthz", timeout=30).status_code == 200
        line_with(server, "web was ended by SIGKILL; starts again")
        started = descendants(server)
        server.kill()
        assert still_alive(started) == []


def test_a_taken_port_is_said_in_a_sentence(tmp_path: Path, database_url: str) -> None:
    words = ("up", "--host", "203.0.113.1")
    with manage(tmp_path, *words, DATABASE_URL=database_url) as server:
        assert "203.0.113.1:8000" in line_with(server, "Expected a free address")
        ends_with(server, 1)


def test_a_home_that_cannot_be_is_said_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with manage(tmp_path / "file", "up") as server:
        assert line_with(server, "FEDSERVER_HOME").startswith("manage.py: Expected a folder")
        ends_with(server, 1)


@pytest.mark.timeout(300)
def test_the_demo_trains_and_leaves_nothing_running(tmp_path: Path) -> None:
    file = tmp_path / "result.json"
    words = ("--participants", "3", "--rounds", "2", "--exit", "--json", str(file))
    began = time.monotonic()
    with manage(tmp_path, "demo", *words) as demo:
        assert "3 participants" in line_with(demo, "shared out")
        started = descendants(demo)
        line_with(demo, "Sign in there as owner")
        line_with(demo, "round 1  published")
        started += descendants(demo)
        line_with(demo, "Version 3 is published")
        ends_with(demo, 0)
        assert still_alive(started) == []
    told = json.loads(file.read_text())
    assert told.keys() == RESULT
    assert all(line.keys() == ROUND for line in told["rounds"])
    assert [line["accepted"] for line in told["rounds"]] == [3, 3]
    assert told["published_version"] == 3
    assert told["final_accuracy"] > 0.85 > told["initial_accuracy"]
    assert time.monotonic() - began < 240


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--participants", "0"], "Expected a whole number from 1"),
        (["--partition", "halves"], "Expected iid, dirichlet:ALPHA or shards:K"),
        (["--dataset", "none.npz"], "CommandError: Expected an .npz file"),
        (["--seed", "-1"], "Expected a whole number from 0"),
        (["--json", "/nowhere/result.json"], "Expected a file that can be written"),
    ],
)
def test_the_demo_refuses_what_it_cannot_do(
    tmp_path: Path, words: list[str], sentence: str
) -> None:
    with manage(tmp_path, "demo", *words) as demo:
        line_with(demo, sentence)
        demo.communicate(timeout=60)
        assert demo.returncode in (1, 2)
    assert not list(tmp_path.rglob("*.sock"))
