"""`manage.py demo`: a whole federated training on this machine, before your eyes."""

import fcntl
import json
import os
import shutil
import sys
from argparse import ArgumentParser, ArgumentTypeError
from pathlib import Path
from typing import IO, Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from django.db import DatabaseError
from rich.console import Console

from fedserver import stack
from fedserver.supervisor import ProgramFailed, Supervisor
from fedserver.valkey import BrokerMissing

LOCK = "FEDSERVER_DEMO_LOCK"
GREATEST_SEED = 10**9  # TensorFlow's are of 32 bits, and the layers' count on from it
# The demo is the embedded stack, whatever else this shell has been set up for.
FOREIGN = (
    "BLOBS_ENDPOINT",
    "BLOBS_URL",
    "DATABASE_URL",
    "FEDSERVER_ALLOWED_HOSTS",
    "FEDSERVER_HTTPS",
    "FEDSERVER_PROXIES",
    "FEDSERVER_SECRET_KEY",
    "REDIS_URL",
)


class Command(BaseCommand):
    help = "Train a shared image classifier over several participants on this machine."
    requires_system_checks = ()

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--participants", type=_positive, default=5, metavar="N")
        parser.add_argument("--rounds", type=_positive, default=5, metavar="N")
        parser.add_argument(
            "--dataset", default="digits", help="digits, cifar10 or the path of an .npz file"
        )
        parser.add_argument("--partition", default="iid", help="iid, dirichlet:ALPHA or shards:K")
        parser.add_argument("--seed", type=_seed, default=0, help="decides whatever is drawn")
        parser.add_argument("--exit", action="store_true", help="leave when it is done")
        parser.add_argument("--json", type=_target, metavar="FILE", help="write the results there")

    def handle(self, *args: Any, **options: Any) -> None:
        if LOCK not in os.environ:
            try:
                _begin_anew_in_a_fresh_home()
            except OSError as error:
                raise CommandError(str(error)) from error
        from fedserver.demo import DemoFailed, Interrupted

        os.set_inheritable(int(os.environ.pop(LOCK)), False)
        try:
            self._demo(options)
        except Interrupted:
            raise CommandError("ended before it was done", returncode=130) from None
        except (
            DemoFailed,
            BrokerMissing,
            ProgramFailed,
            OSError,
            DatabaseError,
            ValueError,
        ) as error:
            raise CommandError(str(error)) from error

    def _demo(self, options: dict[str, Any]) -> None:
        from fedserver.demo import Demo, Plan
        from fedserver.demo_screen import Screen

        plan = Plan(**{name: options[name] for name in Plan.__annotations__})
        screen = Screen(Console())
        door = stack.Door.open("127.0.0.1", 0)
        logs = settings.FEDSERVER_HOME / "logs"
        with Supervisor(logs=logs, warn=screen.warn) as supervisor:
            result = Demo(plan, door, supervisor, screen).train()
            if options["json"]:
                options["json"].write_text(json.dumps(result, indent=2) + "\n")
            screen.say(_summary(result), "bold green")
            if not options["exit"]:
                screen.say(f"Serving at {door.url}/ until Ctrl-C (logs: {logs})")
                supervisor.run()
            screen.say("Ending …", "dim")


def _begin_anew_in_a_fresh_home() -> None:
    """Becomes the same command in an empty home, whose lock it keeps.

    The settings have been read by now and name another home, so that only a new start helps.
    """
    home, lock = _fresh_home(settings.FEDSERVER_HOME / "demo")
    os.set_inheritable(lock.fileno(), True)
    environment = {name: value for name, value in os.environ.items() if name not in FOREIGN}
    environment |= {
        "FEDSERVER_HOME": str(home),
        # Everybody comes from one address, and all at once.
        "FEDSERVER_ENROL_RATE": "100000/min",
        "FEDSERVER_TOKENS_RATE": "100000/min",
        LOCK: str(lock.fileno()),
    }
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)  # noqa: S606


def _fresh_home(wished: Path) -> tuple[Path, IO[str]]:
    """An empty folder that no other demo uses, and its lock: `demo`, else `demo-2`, …"""
    wished.parent.mkdir(parents=True, exist_ok=True)
    for number in range(1, 100):
        home = wished if number == 1 else wished.with_name(f"{wished.name}-{number}")
        lock = home.with_name(f"{home.name}.lock").open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            continue
        shutil.rmtree(home, ignore_errors=True)
        home.mkdir(mode=0o700)
        return home, lock
    raise CommandError(f"Expected fewer than 99 demos at once. Received: {wished.parent}")


def _summary(result: dict[str, Any]) -> str:
    seconds = sum(line["seconds"] or 0 for line in result["rounds"])
    text = f"Version {result['published_version']} is published after {seconds:.1f} s of rounds"
    if result["final_accuracy"] is None:
        return f"{text}."
    before, after = result["initial_accuracy"], result["final_accuracy"]
    return f"{text}: accuracy on the held-out images went from {before:.3f} to {after:.3f}."


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise ArgumentTypeError(f"Expected a whole number from 1. Received: {text}")
    return int(text)


def _seed(text: str) -> int:
    if not text.isdecimal() or int(text) > GREATEST_SEED:
        expected = f"a whole number from 0 to {GREATEST_SEED}"
        raise ArgumentTypeError(f"Expected {expected}. Received: {text}")
    return int(text)


def _target(text: str) -> Path:
    """A file that can be written: to learn it after the training would lose the results."""
    path = Path(text)
    writable = os.access(path if path.exists() else path.parent, os.W_OK)
    if path.is_dir() or not path.parent.is_dir() or not writable:
        raise ArgumentTypeError(f"Expected a file that can be written. Received: {text}")
    return path
