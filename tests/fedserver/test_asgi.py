"""The ASGI application under a real server."""

import gc
from collections.abc import Iterator

import httpx
import pytest
from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def kept_connections(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Connections are kept for a minute, as in production, and nobody collects garbage."""
    monkeypatch.setitem(connections["default"].settings_dict, "CONN_MAX_AGE", 60)
    gc.disable()
    yield
    gc.enable()


def open_connections() -> int:
    # By type(), for `isinstance` asks a weak proxy what it stands for, which may be gone.
    wrappers = [one for one in gc.get_objects() if issubclass(type(one), BaseDatabaseWrapper)]
    return sum(one.connection is not None for one in wrappers)


def test_a_request_leaves_no_connection_to_the_database(
    server: str, kept_connections: None
) -> None:
    before = open_connections()
    for _ in range(10):
        assert httpx.get(f"{server}/healthz").status_code == 200
    assert open_connections() <= before
