"""The examples in the SDK's docstrings run, against a server in memory instead of the network."""

from __future__ import annotations

import doctest
import importlib
from collections.abc import Iterator

import httpx
import numpy as np
import pytest

from client_sdk.participant import Participant
from client_sdk.protocol import Assignment
from client_sdk.testing import FakeServer, FakeTrainer

MODULES = (
    "backoff",
    "cache",
    "cli.output",
    "cli.times",
    "keys",
    "ledger",
    "limits",
    "memory",
    "outbox",
    "participant",
    "profile",
    "progress",
    "testing",
    "transport",
    "wire",
)


def examples() -> Iterator[doctest.DocTest]:
    for name in MODULES:
        module = importlib.import_module(f"client_sdk.{name}")
        finder = doctest.DocTestFinder(exclude_empty=True)
        yield from (test for test in finder.find(module) if test.examples)


@pytest.mark.parametrize("example", list(examples()), ids=lambda example: example.name)
def test_example(
    example: doctest.DocTest, server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def carry(_: httpx.HTTPTransport, request: httpx.Request) -> httpx.Response:
        return server.transport.handle_request(request)

    monkeypatch.setattr(httpx.HTTPTransport, "handle_request", carry)
    monkeypatch.setattr("client_sdk.training.Trainer", lambda _: FakeTrainer())
    monkeypatch.setattr(Participant, "wake", lambda _: None)
    server._codes.add("K7QF-2M9D")
    server.serve_version()
    alice = Participant.enrol("https://fed.example.org", server.join_code(), name="alice")
    server.open_round()
    assignment = alice.check_in()
    assert isinstance(assignment, Assignment)
    names = {
        "np": np,
        "alice": alice,
        "assignment": assignment,
        "outbox": alice.outbox,
        "ledger": alice.ledger,
        "deltas": {},
        "profile": alice.profile,
        "sha256": "ab" * 32,
        "length": 7,
        "images": np.zeros((10, 3)),
        "labels": np.zeros(10),
        "x": np.zeros((10, 3)),
        "y": np.zeros(10),
    }
    example.globs |= names
    result = doctest.DocTestRunner(verbose=False).run(example)
    assert result.attempted
    assert result.failed == 0


def test_every_public_class_has_one() -> None:
    shown = {example.name.split(".")[2] for example in examples()}
    assert {"Participant", "FakeServer", "Transport", "Profile", "Key", "BlobCache", "Outbox"} <= (
        shown
    )
    assert {"UpdateManifest", "InputSpec"} <= shown
