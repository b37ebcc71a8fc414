"""What every test may ask for."""

import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import redis
from django.conf import settings
from django.db import connections
from whitenoise.middleware import WhiteNoiseMiddleware

from fedserver.supervisor import Supervisor
from fedserver.valkey import program
from tests.serving import serving

_numbers = itertools.count(1)


@pytest.fixture(scope="session", autouse=True)
def static_files_are_looked_for_once() -> Iterator[None]:
    """Each test client has middleware of its own, and WhiteNoise's lists all files when it is made:
    most of the time of what such a client asks."""
    found: dict[str, Any] = {}
    look = WhiteNoiseMiddleware.add_files_from_finders

    def look_once(self: WhiteNoiseMiddleware) -> None:
        if not found:
            look(self)
            found.update(self.files)
        self.files.update(found)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(WhiteNoiseMiddleware, "add_files_from_finders", look_once)
        yield


@pytest.fixture(scope="session")
def django_db_modify_db_settings(django_db_modify_db_settings_parallel_suffix: None) -> None:
    """On SQLite the test database is a file: threads and processes see the same one."""
    database = connections["default"].settings_dict
    if database["ENGINE"].endswith("sqlite3"):
        database["TEST"]["NAME"] = str(settings.FEDSERVER_HOME / "test.sqlite3")


@pytest.fixture
def database_url(tmp_path: Path) -> str:
    """The `DATABASE_URL` of a new, empty database, for a server that a test starts itself."""
    url = os.environ["DATABASE_URL"]
    if url.startswith("sqlite"):
        return f"sqlite:///{tmp_path / 'db.sqlite3'}"
    name = f"scratch_{os.getpid()}_{next(_numbers)}"
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"')
    return url.replace("///postgres?", f"///{name}?")


@pytest.fixture(scope="session")
def valkey_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """One embedded Valkey for the whole test run, at the address that the settings name."""
    home = settings.FEDSERVER_HOME
    supervisor = Supervisor([program(home)], logs=tmp_path_factory.mktemp("logs"))
    supervisor.start()
    try:
        yield os.environ["REDIS_URL"]
    finally:
        supervisor.stop()


@pytest.fixture
def valkey(valkey_server: str) -> str:
    """The `REDIS_URL` of a real, empty Valkey, the one that the settings name."""
    redis.Redis.from_url(valkey_server).flushall()
    return valkey_server


@pytest.fixture
def server(transactional_db: None, valkey: str) -> Iterator[str]:
    """The address of the real ASGI server, on the test's own database, in a thread."""
    with serving() as port:
        yield f"http://127.0.0.1:{port}"
