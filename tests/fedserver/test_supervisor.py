"""Programs are brought up, kept up and ended, whatever is killed."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from io import StringIO
from pathlib import Path

import psutil
import pytest

from fedserver import supervisor as house
from fedserver.supervisor import Child, Program, ProgramFailed, Restart, State, Supervisor
from tests.waiting import until


def ticking(supervisor: Supervisor, true: Callable[[], object]) -> None:
    def step() -> object:
        supervisor.tick()
        return true()

    until(step)


def sleeper(name: str, **options: object) -> Program:
    return Program(name, [sys.executable, "-c", "import time; time.sleep(600)"], **options)  # type: ignore[arg-type]


def script(name: str, text: str, **options: object) -> Program:
    return Program(name, [sys.executable, "-c", text], **options)  # type: ignore[arg-type]


def kill(child: Child) -> None:
    assert child.pid
    os.kill(child.pid, signal.SIGKILL)
    until(child.has_ended)


def is_alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def supervisor(tmp_path: Path, said: list[str]) -> Iterator[Supervisor]:
    supervisor = Supervisor(logs=tmp_path / "logs", say=said.append, warn=said.append)
    yield supervisor
    supervisor.stop()


def test_a_program_waits_for_the_gate_before_it(supervisor: Supervisor, tmp_path: Path) -> None:
    bell = tmp_path / "bell"
    gate = supervisor.add(sleeper("gate", gate=True, ready=bell.exists))
    guest = supervisor.add(sleeper("guest"))
    for _ in range(5):
        supervisor.tick()
    assert gate.state is State.STARTING
    assert guest.pid is None
    bell.touch()
    ticking(supervisor, lambda: guest.state is State.READY)


def test_a_killed_program_is_started_again_with_a_growing_pause(
    supervisor: Supervisor, said: list[str]
) -> None:
    child = supervisor.add(sleeper("web"))
    supervisor.start()
    for _ in range(2):
        kill(child)
        supervisor.tick()
        ticking(supervisor, lambda: child.pid)
    assert "web was ended by SIGKILL; starts again in 0.5 s" in said[1]
    assert "web was ended by SIGKILL; starts again in 1 s" in said[3]


def test_a_program_that_never_comes_up_is_given_up_with_the_end_of_its_log(
    supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(house, "PAUSE", 0.01)
    supervisor.add(script("web", "raise SystemExit('no such port')", ready=lambda: False))
    with pytest.raises(ProgramFailed, match=r"web ended with status 1(.|\n)*no such port"):
        supervisor.start()


def test_a_program_that_is_not_ready_in_time_is_started_again(supervisor: Supervisor) -> None:
    child = supervisor.add(sleeper("web", ready=lambda: False, ready_within=0.1))
    ticking(supervisor, lambda: child.pid)
    first = child.pid
    ticking(supervisor, lambda: child.pid not in (None, first))


def test_a_program_that_is_done_is_left_alone(supervisor: Supervisor, said: list[str]) -> None:
    child = supervisor.add(script("alice", "pass", restart=Restart.ON_FAILURE))
    ticking(supervisor, lambda: child.state is State.ENDED)
    assert said == ["alice is up", "alice has ended"]


def test_programs_end_before_what_they_need(supervisor: Supervisor, tmp_path: Path) -> None:
    order = tmp_path / "order"
    farewell = (
        "import signal, sys, time\n"
        "def end(*_):\n"
        "    open({path!r}, 'a').write({name!r} + ' ')\n"
        "    sys.exit()\n"
        "signal.signal(signal.SIGTERM, end)\n"
        "open({path!r} + {name!r}, 'w').close()\n"
        "time.sleep(600)"
    )
    for name in ("valkey", "web", "beat"):
        flag = Path(f"{order}{name}")
        text = farewell.format(path=str(order), name=name)
        supervisor.add(script(name, text, ready=flag.exists, gate=True))
    supervisor.start()
    supervisor.stop()
    assert order.read_text() == "beat web valkey "


def test_a_program_deaf_to_sigterm_is_killed_after_its_grace(supervisor: Supervisor) -> None:
    deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('.');"
    child = supervisor.add(script("deaf", deaf + "time.sleep(600)", grace=0.3))
    supervisor.start()
    pid = child.pid
    assert pid
    until(lambda: child.log.read_text() == ".\n")
    supervisor.stop()
    assert not is_alive(pid)


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_the_children_of_a_program_end_with_it(
    supervisor: Supervisor, tmp_path: Path, end: str
) -> None:
    family = (
        "import pathlib, subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        f"pathlib.Path({str(tmp_path / 'pid')!r}).write_text(str(child.pid))\n"
        "time.sleep(600)"
    )
    program = script("steps", family, ready=lambda: (tmp_path / "pid").exists())
    child = supervisor.add(program)
    supervisor.start()
    until(lambda: (tmp_path / "pid").read_text())
    grandchild = int((tmp_path / "pid").read_text())
    if end == "stop":
        supervisor.stop()
    else:
        kill(child)
        supervisor.tick()
    until(lambda: not is_alive(grandchild))


@pytest.mark.skipif(sys.platform != "linux", reason="the leash is Linux's")
def test_nobody_outlives_a_supervisor_that_is_killed(tmp_path: Path) -> None:
    text = (
        "import pathlib, sys\n"
        "from fedserver.supervisor import Program, Supervisor\n"
        "from pathlib import Path\n"
        "sleep = [sys.executable, '-c', 'import time; time.sleep(600)']\n"
        f"home = Path({str(tmp_path)!r})\n"
        "supervisor = Supervisor([Program(n, sleep) for n in 'ab'], logs=home)\n"
        "supervisor.start()\n"
        "print(*[child.pid for child in supervisor.children.values()], flush=True)\n"
        "supervisor.run()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", text], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        pids = [int(word) for word in process.stdout.readline().split()]
        assert all(map(is_alive, pids))
        process.kill()
    until(lambda: not any(map(is_alive, pids)))


def test_a_signal_ends_the_run_and_is_ours_only_meanwhile(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with Supervisor([sleeper("web")], logs=tmp_path) as supervisor:
        supervisor.start()
        pid = supervisor.children["web"].pid
        assert pid
        os.kill(os.getpid(), signal.SIGTERM)
        supervisor.run()
    assert not is_alive(pid)
    assert signal.getsignal(signal.SIGTERM) is before


def test_lines_are_echoed_after_their_programs_name(tmp_path: Path) -> None:
    out = StringIO()
    supervisor = Supervisor(logs=tmp_path, echo=out)
    supervisor.add(script("web", "print('hello')", restart=Restart.NEVER))
    supervisor.add(script("steps", "print('good evening')", restart=Restart.NEVER))
    ticking(supervisor, lambda: all(c.state is State.ENDED for c in supervisor.children.values()))
    assert sorted(out.getvalue().splitlines()) == ["steps | good evening", "web   | hello"]


def test_a_log_that_grew_large_is_moved_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(house, "LOG_BYTES", 10)
    (tmp_path / "web.log").write_text("x" * 10)
    (tmp_path / "web.log.1").write_text("older")
    supervisor = Supervisor([script("web", "print('new')", restart=Restart.NEVER)], logs=tmp_path)
    ticking(supervisor, lambda: supervisor.children["web"].state is State.ENDED)
    assert (tmp_path / "web.log.2").read_text() == "older"
    assert (tmp_path / "web.log.1").read_text().startswith("x" * 10)
