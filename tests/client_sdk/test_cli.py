"""fedclient, as a person types it."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from client_sdk import cli, profile
from client_sdk.profile import Profile
from client_sdk.testing import FakeServer, FakeTrainer


@pytest.fixture
def url(server: FakeServer) -> Iterator[str]:
    with server.serve() as url:
        yield url


@pytest.fixture(autouse=True)
def no_keras(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("client_sdk.training.Trainer", lambda _: FakeTrainer())


@pytest.fixture(autouse=True)
def no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "_PATIENCE", 0.0)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "data.npz"
    np.savez(path, x=np.zeros((10, 3)), y=np.zeros(10))
    return path


def test_alice_joins_trains_and_leaves(
    server: FakeServer, url: str, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["join", url, server.join_code(), "--name", "alice"]) == cli.OK
    assert cli.main(["status"]) == cli.OK
    server.open_round()
    assert cli.main(["train", "--data", str(data), "--rounds", "1"]) == cli.OK
    assert cli.main(["leave"]) == cli.OK
    told = capsys.readouterr()
    assert "Enrolled as alice" in told.out
    assert "epoch 2/2  loss 0.5000" in told.out
    assert "1 update from 10 samples." in told.out
    assert told.err == ""
    assert len(server.updates) == 1
    assert profile.names() == []


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["status"], cli.NO_PROFILE, "a profile that has joined"),
        (["leave", "--profile", "bob"], cli.NO_PROFILE, "bob"),
        (["join", "http://fed.example.org", "CODE"], cli.USAGE, "https"),
        (["join", "http://127.0.0.1:9", "CODE"], cli.UNREACHABLE, "refused"),
        (["train", "--data", "nothing.npz"], cli.BAD_DATA, "No such file"),
    ],
)
def test_what_goes_wrong_is_said_in_a_line(
    arguments: list[str], code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(arguments) == code
    told = capsys.readouterr()
    assert said in told.err
    assert "Traceback" not in told.err


def test_a_wrong_code_is_refused(
    server: FakeServer, url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["join", url, "guessed"]) == cli.REFUSED
    assert "join code" in capsys.readouterr().err


def test_status_says_when_we_are_no_longer_accepted(
    server: FakeServer, url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    cli.main(["join", url, server.join_code()])
    assert cli.main(["status"]) == cli.OK
    assert "accepted     yes" in capsys.readouterr().out
    server.suspend(Profile.load().participant)
    assert cli.main(["status"]) == cli.REFUSED


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 no archive", b"x,y\n1,2\n"])
def test_data_of_another_kind_are_refused(
    tmp_path: Path, content: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "data.npz"
    path.write_bytes(content)
    assert cli.main(["train", "--data", str(path)]) == cli.BAD_DATA
    assert "Received: " in capsys.readouterr().err


def test_data_that_are_a_pickle_are_not_opened(tmp_path: Path) -> None:
    path = tmp_path / "data.npz"
    np.savez(path, x=np.array([object()]), y=np.zeros(1))
    assert cli.main(["train", "--data", str(path)]) == cli.BAD_DATA


def test_data_under_other_names_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.savez(tmp_path / "data.npz", images=np.zeros(1))
    assert cli.main(["train", "--data", str(tmp_path / "data.npz")]) == cli.BAD_DATA
    told = capsys.readouterr().err
    assert "arrays x and y" in told
    assert "Received: images" in told


def test_whom_the_server_has_revoked_may_leave_and_join_again(
    server: FakeServer, url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    cli.main(["join", url, server.join_code()])
    server.suspend(Profile.load().participant, "revoked")
    assert cli.main(["status"]) == cli.REFUSED
    assert cli.main(["leave"]) == cli.OK
    assert cli.main(["join", url, server.join_code()]) == cli.OK


USAGE = [[], ["dance"], ["train"], ["train", "--rounds", "0"], ["train", "--rounds", "many"]]


@pytest.mark.parametrize("arguments", USAGE)
def test_wrong_usage_is_explained(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    assert caught.value.code == cli.USAGE
    assert "_count" not in capsys.readouterr().err


def test_every_exit_code_is_documented() -> None:
    documented = {int(code) for code in re.findall(r"^ *(\d+)  ", cli._EXIT_CODES, re.MULTILINE)}
    assert documented == {*range(8), cli.INTERRUPTED}


def test_runs_as_a_module() -> None:
    told = subprocess.run(
        [sys.executable, "-m", "client_sdk", "--help"], capture_output=True, text=True, check=True
    )
    assert "exit codes:" in told.stdout
