"""What left alice's machine: listed before it leaves, true after a kill, hers alone to read."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from dataclasses import asdict
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from client_sdk.errors import ServerRefused
from client_sdk.ledger import KINDS, Entry, Ledger
from client_sdk.participant import Participant
from client_sdk.participation import Event
from client_sdk.receipts import Receipt
from client_sdk.testing import FakeServer, FakeTrainer

Data = tuple[np.ndarray, np.ndarray]


def updates(alice: Participant) -> list[Entry]:
    return [entry for entry in alice.log() if entry.kind == "update"]


class TestTheLedger:
    def test_lists_an_update_with_all_that_left(
        self, alice: Participant, server: FakeServer, data: Data
    ) -> None:
        server.open_round()
        alice.participate(data, rounds=1, trainer=FakeTrainer())
        [entry], [sent] = updates(alice), server.updates
        assert (entry.model, entry.run, entry.round, entry.number) == ("digits", 1, 1, 1)
        assert (entry.assignment, entry.version) == (1, 1)
        assert entry.bytes == len(sent.body)
        assert entry.sha256 == sent.manifest.digest
        assert entry.tensors == ("0000.dense.kernel", "0001.dense.bias")
        assert (entry.samples, entry.metrics) == (10, {"loss": 0.5})
        assert entry.state == "uploaded"
        assert entry.times == 1

    def test_lists_everything_else_that_leaves(
        self, alice: Participant, server: FakeServer, data: Data
    ) -> None:
        server.open_round()
        alice.participate(data, rounds=1, trainer=FakeTrainer())
        alice.rotate_key()
        server.open_round({"0001.dense.bias": np.array([0, np.nan])})
        alice.participate(data, until=lambda: bool(server.failures), trainer=FakeTrainer())
        log = alice.log()
        kinds = {entry.kind for entry in log}
        assert kinds <= set(KINDS)
        assert {"enrolment", "versions", "update", "key", "failure"} <= kinds
        [joined] = [entry for entry in log if entry.kind == "enrolment"]
        assert "alice" in joined.detail
        [failed] = [entry for entry in log if entry.kind == "failure"]
        assert (failed.code, failed.model, failed.assignment) == ("integrity", "digits", 2)

    def test_folds_reports_of_one_training_into_one_entry(self, alice: Participant) -> None:
        for epoch in (1, 2):
            alice.ledger.note(
                "progress", assignment=7, detail=f"epoch {epoch}", metrics={"loss": 1 / epoch}
            )
        [entry] = [entry for entry in alice.log() if entry.kind == "progress"]
        assert (entry.times, entry.detail, entry.metrics) == (2, "epoch 2", {"loss": 0.5})

    def test_is_readable_by_its_owner_alone(self, alice: Participant) -> None:
        alice.ledger.path.chmod(0o644)
        alice.ledger.note("key")
        assert alice.ledger.path.stat().st_mode & 0o777 == 0o600

    def test_can_be_read_as_lines_of_json(self, alice: Participant) -> None:
        for line in alice.ledger.path.read_text("utf-8").splitlines():
            assert {"at", "kind"} <= json.loads(line).keys()

    def test_holds_no_secret(self, alice: Participant, server: FakeServer, data: Data) -> None:
        server.open_round()
        alice.participate(data, rounds=1, trainer=FakeTrainer())
        text = alice.ledger.path.read_text("utf-8")
        assert not any(secret in text for secret in [*server._tokens, *server._used_codes])

    def test_says_that_an_update_was_refused_and_why(
        self, alice: Participant, server: FakeServer, data: Data
    ) -> None:
        def refuse(request: httpx.Request) -> httpx.Response | None:
            if request.method == "PUT":
                problem = {"code": "outsized", "detail": "Too \x1b[31mlarge."}
                return httpx.Response(422, json=problem)
            return None

        server.before.append(refuse)
        server.open_round()
        alice.participate(data, until=lambda: bool(server.failures), trainer=FakeTrainer())
        [entry] = updates(alice)
        assert (entry.state, entry.code) == ("refused", "outsized")
        assert "\x1b" not in entry.reason

    def test_is_told_to_the_caller_before_the_update_leaves(
        self, alice: Participant, server: FakeServer, data: Data
    ) -> None:
        told: list[tuple[dict[str, Any], int]] = []

        def look(event: Event) -> None:
            if event.kind == "sending":
                told.append((dict(event.data), len(server.updates)))

        server.open_round()
        alice.participate(data, rounds=1, trainer=FakeTrainer(), on_event=look)
        [(listed, updates_then)] = told
        assert updates_then == 0
        [entry] = updates(alice)
        listed.pop("at"), listed.pop("state")
        assert listed == {
            name: value for name, value in entry.to_json().items() if name not in ("at", "state")
        } | {"tensors": entry.tensors}

    def test_is_asdict_of_what_json_takes(self, alice: Participant) -> None:
        for entry in alice.log():
            json.dumps(asdict(entry), default=str)


class TestAKill:
    def test_at_the_first_byte_leaves_the_update_listed(self) -> None:
        """The process dies as the server gets the update: it left, so it is listed."""
        server = FakeServer()
        with server.serve() as url:
            alice = Participant.enrol(url, server.join_code(), name="alice", profile="alice")
            server.open_round()

            def kill(request: httpx.Request) -> None:
                if request.method == "PUT":
                    os.kill(process.pid, signal.SIGKILL)

            server.before.append(kill)
            process = subprocess.Popen([sys.executable, "-c", LIFE])
            assert process.wait(60) == -signal.SIGKILL
            [entry] = updates(alice)
            assert (entry.state, entry.assignment, entry.samples) == ("sending", 1, 10)
            assert alice.today.count() == 1
            server.before.clear()
            # The next life asks what became of it, whether or not it is sent again.
            server.publish()
            told: list[Event] = []
            alice.participate(
                (np.zeros((10, 3)), np.zeros(10)),
                trainer=FakeTrainer(),
                on_event=told.append,
                until=lambda: any(event.kind == "receipt" for event in told),
            )
            alice.close()
        [entry] = updates(alice)
        assert entry.state == "accepted"

    def test_in_the_middle_of_a_line_costs_that_line_alone(self, alice: Participant) -> None:
        whole = alice.ledger.path.read_bytes()
        alice.ledger.path.write_bytes(whole + b'{"at": "2026-01-01T00:0')
        alice.ledger.note("key", detail="new")
        assert [entry.kind for entry in alice.log()] == ["enrolment", "key"]

    @pytest.mark.parametrize(
        "line",
        [
            "[]",
            "5",
            "[" * 100_000,
            '{"at": "2026-01-01T00:00:00", "kind": "update", "assignment": 1}',
            '{"at": "2026-01-01T00:00:00+00:00", "kind": "update", "assignment": [1]}',
            '{"at": "2026-01-01T00:00:00+00:00", "kind": "update", "times": "many"}',
        ],
    )
    def test_or_a_line_of_something_else_costs_that_line_alone(
        self, alice: Participant, server: FakeServer, data: Data, line: str
    ) -> None:
        with alice.ledger.path.open("a") as file:
            file.write(f"{line}\n")
        server.open_round()
        alice.participate(data, rounds=1, trainer=FakeTrainer())
        assert {entry.kind for entry in alice.log()} >= {"enrolment", "update"}


LIFE = """
import numpy as np
from client_sdk import Participant
from client_sdk.testing import FakeTrainer
data = np.zeros((10, 3)), np.zeros(10)
Participant.load("alice").participate(data, rounds=1, trainer=FakeTrainer(step=0.1))
"""


class TestItsLength:
    def test_is_bounded_and_the_newest_stay(self, tmp_path: Path) -> None:
        ledger = Ledger(tmp_path, limit=20_000)
        for number in range(300):
            ledger.note("update", assignment=number, state="sending", tensors=("kernel",) * 10)
            assert ledger.path.stat().st_size <= 20_000
        kept = [entry.assignment for entry in ledger.entries()]
        assert kept == list(range(300 - len(kept), 300))
        assert len(kept) > 20
        assert ledger.path.stat().st_mode & 0o777 == 0o600

    def test_is_bounded_for_a_model_of_a_million_tensors(self, tmp_path: Path) -> None:
        ledger = Ledger(tmp_path)
        ledger.note("update", assignment=1, tensors=tuple(["name" * 250] * 1000))
        assert ledger.path.stat().st_size < 120_000
        assert ledger.entries()[0].tensors[-1] == "…"

    def test_does_not_lift_the_limit_of_rounds_a_day(self, alice: Participant) -> None:
        alice.today.add(1)
        alice.ledger.limit = 2000
        for number in range(100):
            alice.ledger.note("update", assignment=number, state="sending")
        assert alice.today.count() == 1

    def test_is_kept_by_threads_and_processes_together(self, tmp_path: Path) -> None:
        ledgers = [Ledger(tmp_path, limit=30_000) for _ in range(4)]  # each as its own process

        def write(ledger: Ledger) -> None:
            for _ in range(100):
                ledger.note("key", detail="x" * 50, durable=False)

        threads = [threading.Thread(target=write, args=(ledger,)) for ledger in ledgers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        lines = (tmp_path / "ledger.jsonl").read_bytes().splitlines()
        assert all(json.loads(line)["kind"] == "key" for line in lines)
        assert 100 < len(lines) < 400


class TestAVerdict:
    def judged(
        self, alice: Participant, server: FakeServer, data: Data, **options: Any
    ) -> tuple[list[Receipt], list[Receipt]]:
        """The receipts of the summary and those of the events, of one round."""
        told: list[Receipt] = []

        def note(event: Event) -> None:
            if event.kind == "receipt":
                told.append(event.data["receipt"])

        summary = alice.participate(data, rounds=1, trainer=FakeTrainer(), on_event=note, **options)
        return summary.receipts, told

    def test_is_not_waited_for_by_default(
        self, alice: Participant, server: FakeServer, data: Data
    ) -> None:
        server.open_round()
        [receipt], told = self.judged(alice, server, data)
        assert not told
        assert receipt == Receipt(1, 1, 1, "digits", 1, 10, receipt.bytes, assignment=1)
        assert receipt.state == "uploaded"

    def test_tells_which_version_came_of_it(
        self, alice: Participant, server: FakeServer, data: Data, naps: list[float]
    ) -> None:
        server.open_round()

        def publish(seconds: float) -> None:
            server.publish()

        alice.sleep = publish
        [receipt], told = self.judged(alice, server, data, verdicts=10)
        assert told == [receipt]
        assert (receipt.state, receipt.published, receipt.final) == ("accepted", 2, True)
        [entry] = updates(alice)
        assert (entry.state, entry.published, entry.times) == ("accepted", 2, 1)

    def test_tells_why_not(self, alice: Participant, server: FakeServer, data: Data) -> None:
        server.open_round()
        alice.sleep = lambda seconds: server.judge(
            1, "quarantined", "norm_too_large", "Its norm is above the limit."
        )
        [receipt], told = self.judged(alice, server, data, verdicts=10)
        assert told == [receipt]
        assert (receipt.state, receipt.code) == ("quarantined", "norm_too_large")
        assert receipt.reason == "Its norm is above the limit."
        [entry] = updates(alice)
        assert (entry.state, entry.code) == ("quarantined", "norm_too_large")

    def test_that_does_not_come_is_waited_for_no_longer_than_asked(
        self, alice: Participant, server: FakeServer, data: Data, naps: list[float]
    ) -> None:
        server.open_round()
        [receipt], told = self.judged(alice, server, data, verdicts=0.1)
        assert receipt.state == "uploaded"
        assert not told

    def test_comes_with_the_next_check_in_and_is_in_the_summary(
        self, alice: Participant, server: FakeServer, data: Data
    ) -> None:
        kinds: list[str] = []

        def go_on(event: Event) -> None:
            kinds.append(event.kind)
            if event.kind == "waiting":
                server.publish()
                server.open_round()

        server.open_round()
        summary = alice.participate(data, rounds=2, trainer=FakeTrainer(), on_event=go_on)
        assert [receipt.state for receipt in summary.receipts] == ["accepted", "uploaded"]
        assert kinds.index("receipt") < kinds.index("assigned", kinds.index("uploaded"))

    def test_of_an_update_that_the_server_does_not_know_is_not_asked_for_ever(
        self, alice: Participant, server: FakeServer, data: Data
    ) -> None:
        server.open_round()
        alice.participate(data, rounds=1, trainer=FakeTrainer())
        server._places.clear()
        server.close_round()
        alice.participate(data, trainer=FakeTrainer(), idle=0.02)
        [entry] = updates(alice)
        assert entry.state == "unknown"
        assert alice.ledger.open_updates() == []

    def test_is_asked_for_again_until_the_version_is_known(
        self, alice: Participant, server: FakeServer, data: Data
    ) -> None:
        server.open_round()
        alice.participate(data, rounds=1, trainer=FakeTrainer())
        [sent] = server.updates
        server.judge(sent.assignment, "accepted")  # and she stops before the round is published
        alice.participate(data, trainer=FakeTrainer(), idle=0.02)
        number = server.publish()
        alice.participate(data, trainer=FakeTrainer(), idle=0.02)
        [entry] = updates(alice)
        assert (entry.state, entry.published) == ("accepted", number)

    def test_in_odd_words_is_none(self) -> None:
        receipt = Receipt(1, 1, 1, "digits", 1, 10, 100)
        for odd in ({}, {"state": 7}, {"published": "two"}, {"published": True, "phase": []}):
            assert receipt.after(odd) == receipt
        assert receipt.after({"state": "late", "reason": "\x1b[2Jgone"}).reason == " [2Jgone"


def test_a_server_that_refuses_the_version_says_so_in_a_sentence(server: FakeServer) -> None:
    from client_sdk.errors import VersionRefused

    server.oldest_sdk = (99, 0)
    with pytest.raises(VersionRefused, match=r"Expected an SDK from version 99\.0") as refused:
        Participant.enrol(
            server.url, server.join_code(), profile="alice", transport=server.transport
        )
    assert isinstance(refused.value, ServerRefused)
