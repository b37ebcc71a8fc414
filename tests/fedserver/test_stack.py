"""What holds a server together on one machine."""

import os
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from fedserver import stack
from fedserver.settings import FEDSERVER_HOME


def test_a_home_serves_one_server_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "up.lock"
    with (
        stack.lock(path),
        pytest.raises(stack.HomeInUse, match=f"used by process {os.getpid()}"),
        stack.lock(path),
    ):
        pass
    with stack.lock(path):
        pass


def test_a_home_is_free_again_after_its_server_was_killed(tmp_path: Path) -> None:
    path = tmp_path / "up.lock"
    text = (
        "import pathlib, time\n"
        "from fedserver import stack\n"
        f"with stack.lock(pathlib.Path({str(path)!r})):\n"
        "    print('locked', flush=True)\n"
        "    time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", text], stdout=subprocess.PIPE) as process:
        assert process.stdout
        process.stdout.readline()
        with pytest.raises(stack.HomeInUse, match=f"process {process.pid}"), stack.lock(path):
            pass
        process.kill()
    with stack.lock(path):
        pass


def test_port_0_takes_a_free_port() -> None:
    door = stack.Door.open("127.0.0.1", 0)
    with door.listener:
        assert door.port > 0
        assert door.url == f"http://127.0.0.1:{door.port}"
        with pytest.raises(OSError, match="in use"):
            stack.Door.open("127.0.0.1", door.port)


@pytest.mark.parametrize(
    ("host", "url"), [("0.0.0.0", "http://127.0.0.1:"), ("::1", "http://[::1]:")]
)
def test_the_address_is_one_that_a_browser_here_can_open(host: str, url: str) -> None:
    if ":" in host and not socket.has_ipv6:
        pytest.skip("no IPv6 here")
    try:
        door = stack.Door.open(host, 0)
    except OSError:
        pytest.skip(f"{host} is not to be had here")
    with door.listener:
        assert door.url == f"{url}{door.port}"


def test_a_door_behind_which_nobody_serves_does_not_answer() -> None:
    door = stack.Door.open("127.0.0.1", 0)
    with door.listener:
        assert not door.answers()


def test_a_given_broker_is_used_and_an_embedded_one_started_only_without(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    door = stack.Door.open("127.0.0.1", 0)
    with door.listener:
        monkeypatch.setenv("REDIS_URL", "redis://localhost:6379/0")
        names = [program.name for program in stack.programs(door, web=2)]
        assert names == ["steps", "evaluation", "beat", "web-1", "web-2"]
        monkeypatch.delenv("REDIS_URL")
        first, *others = stack.programs(door)
        assert first.name == "valkey"
        assert all(other.environment["REDIS_URL"].startswith("unix://") for other in others)


def test_the_secret_key_is_made_once_and_kept_private() -> None:
    key = FEDSERVER_HOME / "secret_key"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert len(key.read_text()) >= 50
