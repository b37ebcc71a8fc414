"""Alice, her profile's folder, and the server that she talks to."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from client_sdk.participant import Participant
from client_sdk.testing import FakeServer

Join = Callable[..., Participant]

if os.environ.get("KERAS_BACKEND") == "jax":
    # Tests compile often and compute little.
    os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "jax: one of the keras tests that `KERAS_BACKEND=jax` repeats in `make test`"
    )


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Nobody's real profiles are touched."""
    monkeypatch.setenv("FEDCLIENT_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def server() -> FakeServer:
    return FakeServer()


@pytest.fixture
def naps() -> list[float]:
    """What the participants slept, in seconds; nobody really does."""
    return []


@pytest.fixture
def join(server: FakeServer, naps: list[float]) -> Join:
    def joined(name: str) -> Participant:
        code = server.join_code()
        with Participant.enrol(
            server.url, code, name=name, profile=name, transport=server.transport
        ) as enrolled:
            return Participant(enrolled.profile, transport=server.transport, sleep=naps.append)

    return joined


@pytest.fixture
def alice(join: Join) -> Iterator[Participant]:
    with join("alice") as participant:
        yield participant


@pytest.fixture
def data() -> tuple[np.ndarray, np.ndarray]:
    return np.zeros((10, 3), dtype=np.float32), np.arange(10) % 2
