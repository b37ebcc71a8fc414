"""The embedded broker."""

from pathlib import Path

import pytest
import redis

from fedserver import valkey
from fedserver.supervisor import Supervisor


def test_the_socket_lies_in_the_home(tmp_path: Path) -> None:
    assert valkey.socket_path(tmp_path) == tmp_path / "valkey.sock"


def test_a_home_with_a_long_path_gets_a_short_socket_of_its_own(tmp_path: Path) -> None:
    homes = [tmp_path / ("long" * 30) / name for name in ("alice", "bob")]
    paths = [valkey.socket_path(home) for home in homes]
    assert paths[0] != paths[1]
    assert all(len(str(path)) <= valkey.SOCKET_PATH_BYTES for path in paths)
    assert paths[0] == valkey.socket_path(homes[0])


def test_what_was_written_is_there_after_a_kill(tmp_path: Path) -> None:
    home = tmp_path / ("long" * 30)
    home.mkdir()
    supervisor = Supervisor([valkey.program(home)], logs=home / "logs")
    try:
        supervisor.start()
        client = redis.Redis.from_url(valkey.url(home))
        client.rpush("queue", "a task")
        # Appended to the file by the next second at the latest, as Valkey promises.
        client.execute_command("WAITAOF", 1, 0, 2000)
        child = supervisor.children["valkey"]
        assert child.process
        child.process.kill()
        while not child.has_ended():
            pass
        child.was_ready = False
        supervisor.start()
        assert client.lrange("queue", 0, -1) == [b"a task"]
    finally:
        supervisor.stop()
        socket = valkey.socket_path(home)
        socket.unlink(missing_ok=True)
        socket.parent.rmdir()


def test_a_socket_folder_that_others_can_enter_is_refused(tmp_path: Path) -> None:
    home = tmp_path / ("long" * 30)
    folder = valkey.socket_path(home).parent
    folder.mkdir()
    folder.chmod(0o777)
    try:
        with pytest.raises(valkey.BrokerMissing, match="must be this user's alone"):
            valkey.program(home)
    finally:
        folder.rmdir()


def test_a_valkey_from_the_path_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    binary = tmp_path / "redis-server"
    binary.touch(mode=0o755)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert valkey.binary() == binary
    binary.unlink()
    with pytest.raises(valkey.BrokerMissing, match="set REDIS_URL"):
        valkey.binary()


def test_the_fixture_gives_an_empty_server(valkey: str) -> None:
    assert redis.Redis.from_url(valkey).dbsize() == 0
