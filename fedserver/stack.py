"""What one server consists of on one machine, for `manage.py up` and `manage.py demo`."""

import fcntl
import http.client
import os
import secrets
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from django.conf import settings
from django.contrib.auth import get_user_model
from django.core.management import call_command

from fedserver import valkey
from fedserver.supervisor import Program
from fedserver.web import BACKLOG

OWNER = "owner"


class HomeInUse(Exception):
    """Another server, or demo, already runs on this home."""


@contextmanager
def lock(path: Path) -> Iterator[None]:
    """Holds a lock file for as long as the block, or this process, lasts.

    Raises:
        HomeInUse: another process holds it; the text says which.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise HomeInUse(
                f"Expected a home that no other server uses (set FEDSERVER_HOME to another"
                f" folder, or end that server). Received: {path.parent}, used by process"
                f" {file.read().strip() or 'unknown'}"
            ) from None
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield


@dataclass(frozen=True)
class Door:
    """The listening socket of the web processes.

    It is opened here and inherited by them: a free port stays ours, several processes accept from
    it, and who connects while one is being restarted waits a moment instead of being refused.
    """

    listener: socket.socket
    host: str

    @classmethod
    def open(cls, host: str, port: int) -> "Door":
        """Listens; port 0 takes a free one.

        Raises:
            OSError: the address is taken or not this machine's.
        """
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return cls(socket.create_server((host, port), family=family, backlog=BACKLOG), host)

    @property
    def port(self) -> int:
        return int(self.listener.getsockname()[1])

    @property
    def url(self) -> str:
        """Where a browser on this machine finds the server."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)  # noqa: S104
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"

    def answers(self) -> bool:
        """Whether a web process says that it is well."""
        address = self.url.removeprefix("http://")
        connection = http.client.HTTPConnection(address, timeout=1)
        try:
            connection.request("GET", "/healthz", headers={"Host": _own_name()})
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()


def prepare() -> None:
    """Brings the home and the database up to date; what is written from now on is private."""
    os.umask(0o077)
    call_command("migrate", interactive=False, verbosity=0)


def first_owner() -> tuple[str, Path] | None:
    """An owner, where there are no people yet; the password lies in a private file of the home.

    The file goes when the password has been changed, or the owner is gone.

    Returns:
        The owner's name, and the file; None when nobody needs to be told of them any more.
    """
    note: Path = settings.FIRST_OWNER
    people = get_user_model().objects
    if not people.exists():
        password = secrets.token_urlsafe(9)
        note.write_text(f"{OWNER}\n{password}\n")
        people.create_superuser(OWNER, password=password)
    if not note.exists():
        return None
    name, _, password = note.read_text().strip().partition("\n")
    owner = people.filter(username=name).first()
    if owner is None or not owner.check_password(password):
        note.unlink()
        return None
    return name, note


def programs(door: Door, *, web: int = 1, workers: int = 2) -> list[Program]:
    """The server's programs in the order of their start.

    Args:
        door: where the web processes listen.
        web: number of web processes.
        workers: number of processes that fold updates.
    """
    shared = environment()
    broker = [] if _broker_given() else [valkey.program(settings.FEDSERVER_HOME)]
    names = ["web"] if web == 1 else [f"web-{number}" for number in range(1, web + 1)]
    return [
        *broker,
        # Kernels are loaded once, before the processes fork that fold.
        _celery("steps", shared, "--include", "rounds.aggregation.warm", *_prefork(workers)),
        # One process, which keeps its Keras models warm from one evaluation to the next.
        _celery("evaluation", shared, "--pool", "solo", "--include", "models_app.keras_bridge"),
        Program("beat", [*_python("celery"), "-A", "fedserver.celery", "beat"], shared),
        *(_web(name, door, shared) for name in names),
    ]


def environment() -> dict[str, str]:
    """What all of the server's processes are told beside this one's own variables."""
    home = settings.FEDSERVER_HOME
    # The path on which they find this very code, wherever they are started.
    path = os.pathsep.join(filter(None, [str(settings.BASE_DIR), os.environ.get("PYTHONPATH")]))
    told = {"FEDSERVER_HOME": str(home), "PYTHONPATH": path}
    return told if _broker_given() else told | {"REDIS_URL": valkey.url(home)}


def _broker_given() -> bool:
    return bool(os.environ.get("REDIS_URL"))


def _web(name: str, door: Door, environment: dict[str, str]) -> Program:
    descriptor = door.listener.fileno()
    command = [*_python("fedserver.web"), "--fd", str(descriptor)]
    return Program(
        name, command, environment, ready=door.answers, gate=True, descriptors=(descriptor,)
    )


def _celery(queue: str, environment: dict[str, str], *options: str) -> Program:
    command = [*_python("celery"), "-A", "fedserver.celery", "worker", "--queues", queue]
    command += ["--hostname", f"{queue}@%h", "--loglevel", "INFO"]
    command += ["--without-gossip", "--without-mingle", "--without-heartbeat", *options]
    return Program(queue, command, environment)


def _prefork(processes: int) -> list[str]:
    return ["--pool", "prefork", "--concurrency", str(processes)]


def _python(module: str) -> list[str]:
    return [sys.executable, "-m", module]


def _own_name() -> str:
    """A host name that the settings allow, for asking after our own health."""
    names = [name.lstrip(".") for name in settings.ALLOWED_HOSTS if name != "*"]
    return names[0] if names else "localhost"
