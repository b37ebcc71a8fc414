"""Keeps the processes of one server alive, and ends them all when it ends.

A program's life: it waits for the gates before it, starts, is ready, and when it dies it is
started again after a pause that doubles up to half a minute. `tick` does what is due and never
waits, so that a caller with work of its own (`manage.py demo`) calls it in between; `run` does
nothing else until a signal comes.

Each program leads a process group, so that a killed Celery worker takes its children along, and
is leashed to this process (`leash.py`), so that `kill -9` here leaves nobody behind. Because the
leash is held by the thread that started the program, one thread must start them all and live on.

Output goes straight to `logs/NAME.log`, not through this process: nobody waits for the supervisor
to read, and last words are kept even when it is gone.
"""

import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from types import FrameType
from typing import Any, Protocol, Self

LEASH = Path(__file__).with_name("leash.py")
LOG_BYTES = 10 * 2**20
LOGS_KEPT = 3
PAUSE, LONGEST_PAUSE = 0.5, 30.0
HEALTHY_AFTER = 30.0  # seconds of life after which earlier deaths are forgiven
FIRST_TRIES = 4  # deaths in a row of a program that was never ready


class ProgramFailed(Exception):
    """A program could not be brought up; the text holds the end of its log."""


class Restart(Enum):
    """Which ends of a program are answered by starting it again."""

    ALWAYS = "always"
    ON_FAILURE = "on failure"
    NEVER = "never"


class SupportsWrite(Protocol):
    """As much of a text file as lines are echoed to."""

    def write(self, text: str, /) -> object: ...
    def flush(self) -> object: ...


@dataclass(frozen=True)
class Program:
    """What to run and how to treat it.

    Args:
        name: its name in messages and of its log.
        command: the words of the command.
        environment: variables beside those of this process.
        ready: answers whether it serves by now; None, when it is ready as soon as it runs.
        ready_within: seconds after which a start that is not ready counts as failed.
        gate: the programs after it need it: they start when it is ready, and end before it does.
        restart: which of its ends are answered by a new start.
        grace: seconds between SIGTERM and SIGKILL.
        descriptors: open file descriptors that it inherits (a listening socket).
    """

    name: str
    command: Sequence[str | Path]
    environment: Mapping[str, str] = field(default_factory=dict)
    ready: Callable[[], bool] | None = None
    ready_within: float = 60.0
    gate: bool = False
    restart: Restart = Restart.ALWAYS
    grace: float = 10.0
    descriptors: tuple[int, ...] = ()


class State(Enum):
    WAITING = "waiting"
    STARTING = "starting"
    READY = "ready"
    ENDED = "ended"


class Child:
    """One program with the process that runs it now, if any."""

    def __init__(self, program: Program, log: Path) -> None:
        self.program = program
        self.log = log
        self.state = State.WAITING
        self.process: subprocess.Popen[bytes] | None = None
        self.due = 0.0  # not started before
        self.deaths = 0  # in a row
        self.was_ready = False
        self.status: int | None = None  # of its last end; negative for a signal
        self._started = 0.0

    @property
    def pid(self) -> int | None:
        return self.process.pid if self.process else None

    def start(self) -> None:
        leash = [sys.executable, "-I", "-S", str(LEASH), "SIGKILL"]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*leash, *map(str, self.program.command)],
                env={**os.environ, "PYTHONUNBUFFERED": "1", **self.program.environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                pass_fds=self.program.descriptors,
                start_new_session=True,
            )
        self._started = time.monotonic()
        self.state = State.STARTING

    def is_ready(self) -> bool:
        return self.program.ready is None or self.program.ready()

    def overslept(self) -> bool:
        return time.monotonic() - self._started > self.program.ready_within

    def has_ended(self) -> bool:
        """Whether the process ended, without reaping it: its group can still be signalled."""
        if self.process is None:
            return True
        if not hasattr(os, "waitid"):  # macOS before Python 3.13
            return self.process.poll() is not None
        options = os.WEXITED | os.WNOHANG | os.WNOWAIT
        return os.waitid(os.P_PID, self.process.pid, options) is not None

    def reap(self) -> int:
        """Ends what is left of the process group and returns the leader's exit status."""
        assert self.process is not None
        self.signal(signal.SIGKILL, group=True)
        self.status = status = self.process.wait()
        if time.monotonic() - self._started > HEALTHY_AFTER:
            self.deaths = 0
        self.process = None
        return status

    def signal(self, number: signal.Signals, *, group: bool = False) -> None:
        if self.process is None:
            return
        # It may have gone; a Mac answers EPERM for a group of zombies.
        with suppress(ProcessLookupError, PermissionError):
            (os.killpg if group else os.kill)(self.process.pid, number)

    def pause(self) -> float:
        """Counts a death and schedules the next start; returns the seconds until then."""
        self.deaths += 1
        pause = min(PAUSE * 2 ** (self.deaths - 1), LONGEST_PAUSE)
        self.due = time.monotonic() + pause
        self.state = State.WAITING
        return pause

    def last_words(self, lines: int = 12) -> str:
        with self.log.open("rb") as log:
            log.seek(max(0, self.log.stat().st_size - 8192))
            text = log.read().decode(errors="replace")
        return "\n".join(text.splitlines()[-lines:])


class Supervisor:
    """Starts programs in order, restarts what dies, stops all in reverse order.

    Args:
        programs: in the order of their start.
        logs: the folder for `NAME.log`; made if missing.
        say: told in a sentence what goes well.
        warn: told in a sentence what does not.
        echo: where the programs' lines are copied to as well, each after its program's name.

    Example:
        with Supervisor([valkey.program(home), web], logs=home / "logs") as supervisor:
            supervisor.start()
            supervisor.run()
    """

    def __init__(
        self,
        programs: Sequence[Program] = (),
        *,
        logs: Path,
        say: Callable[[str], None] = lambda sentence: None,
        warn: Callable[[str], None] = lambda sentence: None,
        echo: SupportsWrite | None = None,
    ) -> None:
        logs.mkdir(parents=True, exist_ok=True)
        self._logs = logs
        self._say = say
        self._warn = warn
        self._echo = Echo(echo) if echo else None
        self._signals = 0
        self._handlers: dict[signal.Signals, Any] = {}
        self._next_rotation = 0.0
        self.children: dict[str, Child] = {}
        for program in programs:
            self.add(program)

    def __enter__(self) -> Self:
        """From here on SIGINT, SIGTERM and SIGHUP set `stopping` instead of ending us."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            self._handlers[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(self, *failure: object) -> None:
        self.stop()
        while self._handlers:
            signal.signal(*self._handlers.popitem())

    def add(self, program: Program) -> Child:
        """Takes one more program in; the next `tick` starts it."""
        log = self._logs / f"{program.name}.log"
        child = self.children[program.name] = Child(program, log)
        if self._echo:
            self._echo.follow(program.name, log)
        return child

    @property
    def stopping(self) -> bool:
        """Whether a signal asked for the end."""
        return self._signals > 0

    def tick(self) -> None:
        """Does what is due for every program, without waiting.

        Raises:
            ProgramFailed: a program died again and again before it was ever ready.
        """
        for child in self.children.values():
            if child.state is State.ENDED:
                continue
            if child.process is not None and child.has_ended():
                self._bury(child)
            if child.state is State.WAITING and time.monotonic() >= child.due:
                child.start()
            if child.state is State.STARTING:
                self._look(child)
            if child.program.gate and child.state is not State.READY and not child.was_ready:
                break
        if self._echo:
            self._echo.copy()
        if time.monotonic() >= self._next_rotation:
            self._next_rotation = time.monotonic() + 60
            for child in self.children.values():
                _rotate(child.log)

    def start(self) -> None:
        """Ticks until every program is ready, or a signal asked for the end.

        Raises:
            ProgramFailed: a program could not be brought up.
        """
        while not self.stopping and not all(
            child.was_ready or child.state is State.ENDED for child in self.children.values()
        ):
            self.tick()
            time.sleep(0.05)

    def run(self, until: Callable[[], bool] = lambda: False) -> None:
        """Ticks until a signal asks for the end, or something is true."""
        while not self.stopping and not until():
            self.tick()
            time.sleep(0.2)

    def stop(self) -> None:
        """Ends all programs, the last first; a second signal meanwhile kills them.

        Those between two gates do not need each other and end together.
        """
        calm = self._signals
        together: list[Child] = []
        for child in reversed(self.children.values()):
            if child.program.gate:
                self._end(together, calm)
                self._end([child], calm)
                together = []
            else:
                together.append(child)
        self._end(together, calm)
        for child in self.children.values():
            child.state = State.ENDED
        if self._echo:
            self._echo.copy()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._signals += 1

    def _look(self, child: Child) -> None:
        """Decides whether a program that is starting is ready by now, or never will be."""
        if child.is_ready():
            child.state = State.READY
            child.was_ready = True
            self._say(f"{child.program.name} is up")
        elif child.overslept():
            self._end([child], self._signals)
            self._again(child, "was not ready in time")

    def _bury(self, child: Child) -> None:
        status = child.reap()
        name = child.program.name
        if child.program.restart is Restart.NEVER or (
            child.program.restart is Restart.ON_FAILURE and status == 0
        ):
            child.state = State.ENDED
            if status == 0:
                self._say(f"{name} has ended")
            else:
                self._warn(f"{name} {_how(status)} (see {child.log})")
            return
        self._again(child, _how(status))

    def _again(self, child: Child, how: str) -> None:
        pause = child.pause()
        name = child.program.name
        if not child.was_ready and child.deaths >= FIRST_TRIES:
            raise ProgramFailed(f"{name} {how}. The end of {child.log}:\n{child.last_words()}")
        self._warn(f"{name} {how}; starts again in {pause:g} s (see {child.log})")

    def _end(self, children: Sequence[Child], calm: int) -> None:
        """SIGTERM, a time of grace unless more signals than `calm` came, SIGKILL for the group."""
        running = [child for child in children if child.process is not None]
        for child in running:
            child.signal(signal.SIGTERM)
        began = time.monotonic()
        while running:
            waited = math.inf if self._signals > calm else time.monotonic() - began
            for child in [one for one in running if one.has_ended() or waited > one.program.grace]:
                child.reap()
                running.remove(child)
            time.sleep(0.02)


class Echo:
    """Copies what programs append to their logs, each line after the program's name."""

    def __init__(self, out: SupportsWrite) -> None:
        self._out = out
        self._places: dict[str, tuple[Path, int]] = {}

    def follow(self, name: str, log: Path) -> None:
        self._places[name] = (log, log.stat().st_size if log.exists() else 0)

    def copy(self) -> None:
        width = max(map(len, self._places), default=0)
        for name, (log, place) in self._places.items():
            for line in self._lines(name, log, place):
                self._out.write(f"{name:{width}} | {line}\n")
        self._out.flush()

    def _lines(self, name: str, log: Path, place: int) -> list[str]:
        if not log.exists():
            return []
        if log.stat().st_size < place:  # It was rotated.
            place = 0
        with log.open("rb") as file:
            file.seek(place)
            whole, newline, _ = file.read().rpartition(b"\n")
        self._places[name] = (log, place + len(whole) + len(newline))
        return whole.decode(errors="replace").splitlines()


def _how(status: int) -> str:
    if status >= 0:
        return f"ended with status {status}"
    return f"was ended by {signal.Signals(-status).name}"


def _rotate(log: Path) -> None:
    """Moves a log that has grown large to NAME.log.1, and older ones up."""
    if not log.exists() or log.stat().st_size < LOG_BYTES:
        return
    for number in range(LOGS_KEPT - 1, 0, -1):
        older = log.with_name(f"{log.name}.{number}")
        if older.exists():
            older.replace(log.with_name(f"{log.name}.{number + 1}"))
    # Its writer may still be there, so the file is copied and emptied, not renamed.
    shutil.copyfile(log, log.with_name(f"{log.name}.1"))
    os.truncate(log, 0)
