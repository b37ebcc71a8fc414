"""fedclient in processes of its own: in pipes, in a terminal, in a shell, under signals."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from client_sdk import cli
from client_sdk.testing import FakeServer
from tests.waiting import until

BIN = Path(sys.executable).parent
DOCS = Path(__file__).parents[2] / "docs"
# Bob's program: fedclient, with a trainer that needs no Keras and takes its time.
TRAINS = """
import sys, time, types
from importlib.machinery import ModuleSpec

# It is imported ahead of a round: seconds, for nothing.
sys.modules["keras"] = types.ModuleType("keras")
sys.modules["keras"].__spec__ = ModuleSpec("keras", None)
from client_sdk import cli, training
from client_sdk.testing import FakeTrainer

class Slow(FakeTrainer):
    def train(self, weights, data, hyperparameters, seed, on_epoch=None, **options):
        def told(*epoch):
            on_epoch(*epoch)
            time.sleep({seconds})
        return super().train(weights, data, hyperparameters, seed, told)

training.Trainer = lambda *_, **__: Slow()
sys.exit(cli.main())
"""

Fedclient = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def server() -> FakeServer:
    return FakeServer()


@pytest.fixture(scope="module")
def url(server: FakeServer) -> Iterator[str]:
    with server.serve() as url:
        yield url


@pytest.fixture
def fedclient() -> Fedclient:
    def run(*words: object, **options: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [BIN / "fedclient", *map(str, words)],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            **options,  # type: ignore[call-overload]
        )

    return run


@pytest.fixture
def npz(tmp_path: Path) -> Path:
    np.savez(tmp_path / "data.npz", x=np.zeros((10, 3)), y=np.zeros(10))
    return tmp_path / "data.npz"


def training(seconds: float, *words: object) -> list[str]:
    return [sys.executable, "-c", TRAINS.format(seconds=seconds), "train", *map(str, words)]


class Screen:
    """A program in a terminal: what it draws, and somebody who types."""

    def __init__(self, words: list[str], **environment: str) -> None:
        self.drawn = b""
        self.pid, self.terminal = pty.fork()
        if self.pid == 0:
            os.environ.update({"TERM": "xterm", "COLUMNS": "100", "LINES": "30"} | environment)
            os.execvp(words[0], words)  # noqa: S606 - the words are our own

    def type(self, text: str) -> None:
        os.write(self.terminal, text.encode())

    def until(self, said: str, seconds: float = 30.0) -> None:
        ends = time.monotonic() + seconds
        while said not in self.text:
            left = ends - time.monotonic()
            assert left > 0, f"Expected {said!r} on the screen. Received: {self.text!r}"
            if select.select([self.terminal], [], [], min(left, 0.5))[0]:
                self._read()

    def end(self) -> int:
        while self._read():
            pass
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def _read(self) -> bool:
        try:
            piece = os.read(self.terminal, 65536)
        except OSError:  # Linux says so when nobody has the other end any more
            return False
        self.drawn += piece
        return bool(piece)

    @property
    def text(self) -> str:
        return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", self.drawn.decode("utf-8", "replace"))


def test_help_comes_before_anything_heavy_is_loaded() -> None:
    code = """
import sys
from client_sdk import cli
try:
    cli.main(["train", "--help"])
except SystemExit:
    pass
print(sorted({"numpy", "httpx", "rich", "shtab", "cryptography", "keras"} & set(sys.modules)))
"""
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "--watch" in told.stdout
    assert told.stdout.endswith("[]\n")


BASE = """
import importlib.util, json, sys
for name in ("keras", "tensorflow", "PIL", "starlette", "uvicorn", "anywidget", "pandas"):
    sys.modules[name] = None
found = importlib.util.find_spec
importlib.util.find_spec = lambda name, *more: (
    None if sys.modules.get(name, found) is None else found(name, *more)
)
from client_sdk import cli
print(json.dumps([cli.main(words) for words in json.loads(sys.argv[1])]))
"""


def test_the_base_install_has_every_command_that_needs_no_more(
    server: FakeServer, url: str, npz: Path
) -> None:
    """Without what the extra `client` brings, as if it were not there."""
    expected: dict[tuple[str, ...], int] = {
        ("join", url, server.join_code()): cli.OK,
        ("status",): cli.OK,
        ("log",): cli.OK,
        ("limits",): cli.OK,
        ("test",): cli.MISSING,
        ("train", "--data", str(npz)): cli.MISSING,
        ("photos", "--no-browser"): cli.MISSING,
        ("predict", "cat.jpg"): cli.FAILED,  # this server serves no version yet
        ("rotate-key",): cli.OK,
        ("leave", "--yes"): cli.OK,
    }
    told = subprocess.run(
        [sys.executable, "-c", BASE, json.dumps(list(expected))],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    codes = json.loads(told.stdout.splitlines()[-1])
    assert dict(zip(expected, codes, strict=True)) == expected
    assert "Traceback" not in told.stderr
    assert (told.stdout + told.stderr).count("pip install 'fedserver[client]'") == 3


def test_who_reads_half_of_it_and_goes_is_not_complained_at(fedclient: Fedclient) -> None:
    told = subprocess.run(
        ["bash", "-o", "pipefail", "-c", f"{BIN}/fedclient completion bash | true"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert told.stderr == ""
    assert told.returncode in (0, 141)


def test_what_is_wrong_with_an_image_is_said_once_and_libraries_do_not_chatter(
    tmp_path: Path,
) -> None:
    code = """
import logging, os, sys
from client_sdk import cli
from client_sdk.cli import taking_part

def train(options, out):
    for _ in range(3):
        logging.getLogger("client_sdk").warning("skipped %s", "torn.jpg")
    os.write(2, b"I0000 00:00:1795386754.321785    6719 port.cc:153] oneDNN operations are on.\\n")
    os.write(2, b"E0000 00:00:1795386754.321785    6719 port.cc:153] no memory\\n")
    return 0

taking_part.train = train
sys.exit(cli.main())
"""
    words = [sys.executable, "-c", code, "train", "--data", "x"]
    told = subprocess.run(words, capture_output=True, text=True, check=True)
    assert sorted(told.stderr.splitlines()) == [
        "E0000 00:00:1795386754.321785    6719 port.cc:153] no memory",
        "skipped torn.jpg",
    ]
    told = subprocess.run([*words, "--verbose"], capture_output=True, text=True, check=True)
    assert told.stderr.count("skipped torn.jpg") == 3
    assert "oneDNN" in told.stderr


def test_sigterm_gives_back_what_is_under_way(server: FakeServer, url: str, npz: Path) -> None:
    subprocess.run([BIN / "fedclient", "join", url, server.join_code()], check=True)
    server.open_round()
    done = len(server.progress)
    process = subprocess.Popen(
        training(0.3, "--data", npz, "--json"), stdout=subprocess.PIPE, text=True
    )
    until(lambda: len(server.progress) > done)
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=30)
    told = [json.loads(line) for line in out.splitlines()]
    assert process.returncode == 130
    assert (told[-1]["event"], told[-1]["ended"], told[-1]["exit_code"]) == (
        "ended",
        "interrupted",
        130,
    )
    assert server.state(told[-2]["assignment"]["id"] if told[-2].get("assignment") else 1) in (
        "withdrawn",
        "failed",
    )


def test_a_terminal_shows_bars_and_ctrl_c_ends_it(server: FakeServer, url: str, npz: Path) -> None:
    subprocess.run([BIN / "fedclient", "join", url, server.join_code()], check=True)
    server.open_round()
    screen = Screen(training(0.3, "--data", npz))
    screen.until("━")
    screen.until("epoch 2/2  loss 0.5000")
    screen.until("update sent, 10 samples")
    screen.until("waiting:")
    screen.type("\x03")
    assert screen.end() == 130
    assert "Traceback" not in screen.text
    assert "1 update from 10 samples." in screen.text
    # The cursor is hidden while bars move, and there again at the end.
    assert screen.drawn.rindex(b"\x1b[?25h") > screen.drawn.rindex(b"\x1b[?25l")


def test_leaving_asks_in_a_terminal(server: FakeServer, url: str, fedclient: Fedclient) -> None:
    fedclient("join", url, server.join_code())
    screen = Screen([str(BIN / "fedclient"), "leave"])
    screen.until("Leave? [y/N]")
    screen.type("\n")
    assert screen.end() == 1
    assert "Nothing was changed." in screen.text


def test_bash_completes(fedclient: Fedclient, tmp_path: Path, server: FakeServer, url: str) -> None:
    fedclient("join", url, server.join_code(), "--profile", "radiology")
    (tmp_path / "images").mkdir()
    script = tmp_path / "fedclient.bash"
    script.write_text(fedclient("completion", "bash").stdout)
    screen = Screen(
        ["bash", "--norc", "--noprofile", "-i"],
        PATH=f"{BIN}:{os.environ['PATH']}",
        PS1="$ ",
        INPUTRC="/dev/null",
        HISTFILE="",
    )
    screen.type(f"cd {tmp_path}; source {script}; echo re''ady\n")
    screen.until("ready")
    for typed, completed in (
        ("fedclient tra\t", "fedclient train "),
        ("--wat\t", "--watch "),
        ("--data ima\t", "--data images"),
        ("\x15fedclient status --profile rad\t", "--profile radiology"),
        ("\x15fedclient limits cl\t", "fedclient limits clear"),
        ("\x15fedclient completion z\t", "fedclient completion zsh"),
    ):
        screen.type(typed)
        screen.until(completed)
    screen.type("\x15exit\n")
    screen.end()


@pytest.mark.parametrize("shell", ["zsh", "tcsh", "fish"])
def test_other_shells_can_read_their_script(
    shell: str, fedclient: Fedclient, tmp_path: Path
) -> None:
    script = tmp_path / f"fedclient.{shell}"
    script.write_text(fedclient("completion", shell).stdout)
    assert "rotate-key" in script.read_text()
    if shell == "zsh":  # names of profiles are asked for when they are wanted, not at each start
        assert not re.search(r"[^\\]\$\(fedclient", script.read_text())
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    if shell == "fish":
        asked = f"source {script}; complete -C 'fedclient tra'"
        told = subprocess.run([shell, "-c", asked], capture_output=True, text=True, check=True)
        assert told.stdout.startswith("train")
    # tcsh has no way to read without running; its script only defines.
    words = [shell, "-f", str(script)] if shell == "tcsh" else [shell, "-n", str(script)]
    told = subprocess.run(words, capture_output=True, text=True, check=False, timeout=30)
    assert (told.returncode, told.stderr) == (0, "")


def test_the_sample_unit_is_one_that_systemd_takes(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd is not installed")
    unit = tmp_path / "fedclient.service"
    text = (DOCS / "fedclient.service").read_text()
    unit.write_text(text.replace("/opt/fedclient/bin/fedclient", str(BIN / "fedclient")))
    told = subprocess.run(
        ["systemd-analyze", "verify", unit], capture_output=True, text=True, check=False
    )
    assert (told.returncode, told.stderr) == (0, "")


def test_the_sample_unit_starts_a_command_that_there_is() -> None:
    text = (DOCS / "fedclient.service").read_text()
    found = re.search(r"^ExecStart=\S+/fedclient (.*)$", text, re.MULTILINE)
    assert found is not None
    assert cli.parser().parse_args(found[1].split()).watch
    prevented = re.search(r"^RestartPreventExitStatus=(.*)$", text, re.MULTILINE)
    assert prevented is not None
    # What a person must mend first; what time mends, as a profile that is in use, is tried again.
    codes = {cli.USAGE, cli.REFUSED, cli.MISSING, cli.VERSIONS}
    assert {int(code) for code in prevented[1].split()} == codes
    assert re.search(rf"^SuccessExitStatus={cli.INTERRUPTED}$", text, re.MULTILINE)
