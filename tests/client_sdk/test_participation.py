"""Taking part: what alice does from her first check-in to her last receipt, and what may happen."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from client_sdk import wire
from client_sdk.errors import (
    IntegrityError,
    LoginRefused,
    ParticipantRevoked,
    ProfileInUse,
    RoundClosed,
    ServerDistrusted,
    TrainingFailed,
    VersionRefused,
)
from client_sdk.limits import Limits
from client_sdk.participant import Participant
from client_sdk.participation import KINDS, Event
from client_sdk.protocol import Assignment, Wait
from client_sdk.testing import WEIGHTS, FakeServer, FakeTrainer
from client_sdk.wake import News

Data = tuple[np.ndarray, np.ndarray]


def assigned(participant: Participant) -> Assignment:
    answer = participant.check_in()
    assert isinstance(answer, Assignment)
    return answer


class TestARound:
    def test_goes_from_check_in_to_receipt(
        self, alice: Participant, server: FakeServer, data: Data
    ) -> None:
        server.open_round({"0000.dense.kernel": np.ones((3, 2))})
        kinds: list[str] = []
        trainer = FakeTrainer(step=0.5)
        summary = alice.participate(
            data, rounds=1, trainer=trainer, on_event=lambda event: kinds.append(event.kind)
        )
        assert (summary.rounds, summary.samples, summary.ended) == (1, 10, "rounds")
        assert summary.metrics == {"loss": 0.5}
        assert kinds == [
            "assigned",
            "downloading",
            "downloaded",
            "training",
            "epoch",
            "epoch",
            "sending",
            "uploading",
            "uploaded",
        ]
        np.testing.assert_array_equal(trainer.calls[0]["0000.dense.kernel"], 1)
        [update] = server.updates
        assert update.manifest.samples == 10
        np.testing.assert_array_equal(update.deltas["0001.dense.bias"], [0.5, 0.5])

    def test_sends_only_federated_weights(
        self, alice: Participant, server: FakeServer, data: Data
    ) -> None:
        server.open_round()
        alice.participate(data, rounds=1, trainer=FakeTrainer())
        assert list(server.updates[0].deltas) == ["0000.dense.kernel", "0001.dense.bias"]

    def test_leaves_the_outbox_empty(
        self, alice: Participant, server: FakeServer, data: Data
    ) -> None:
        server.open_round()
        alice.participate(data, rounds=1, trainer=FakeTrainer())
        assert list(alice.outbox.folder.iterdir()) == []

    def test_follows_round(self, alice: Participant, server: FakeServer, data: Data) -> None:
        server.open_round()

        def open_next(event: Event) -> None:
            if event.kind == "waiting":
                server.open_round()

        summary = alice.participate(data, rounds=3, trainer=FakeTrainer(), on_event=open_next)
        assert [update.manifest.round for update in server.updates] == [1, 2, 3]
        assert summary.samples == 30

    def test_fetches_nothing_twice(
        self, alice: Participant, server: FakeServer, data: Data
    ) -> None:
        for bias in (0, 1):
            server.open_round({"0001.dense.bias": np.full(2, bias)})
            alice.participate(data, rounds=1, trainer=FakeTrainer())
        fetched = [line for line in server.requests if "blobs/" in line or "models/" in line]
        # The model and the fixed weights once, the weights of each version once.
        assert len(fetched) == len(set(fetched)) == 4

    def test_keeps_local_weights_here_from_round_to_round(
        self, alice: Participant, server: FakeServer, data: Data
    ) -> None:
        trainer = FakeTrainer()
        for _ in range(3):
            server.open_round({"0002.norm.gamma": np.full(2, 5.0)})
            alice.participate(data, rounds=1, trainer=trainer)
        gammas = [call["0002.norm.gamma"][0] for call in trainer.calls]
        assert gammas == [5, 6, 7]

    def test_of_another_model_is_not_taken(
        self, alice: Participant, server: FakeServer, data: Data
    ) -> None:
        server.open_round()
        soon = datetime.now(UTC) + timedelta(seconds=0.05)
        summary = alice.participate(data, model="faces", until=soon, trainer=FakeTrainer())
        assert (summary.rounds, summary.ended) == (0, "until")

    def test_ends_when_the_caller_says_so(
        self, alice: Participant, server: FakeServer, data: Data
    ) -> None:
        server.open_round()
        summary = alice.participate(data, until=lambda: bool(server.updates), trainer=FakeTrainer())
        assert (summary.rounds, summary.ended) == (1, "until")

    def test_needs_a_time_zone_to_end_at_a_time(self, alice: Participant, data: Data) -> None:
        with pytest.raises(ValueError, match="time zone"):
            alice.participate(data, until=datetime(2030, 1, 1), trainer=FakeTrainer())  # noqa: DTZ001

    def test_tells_the_server_of_its_epochs(
        self, alice: Participant, server: FakeServer, data: Data
    ) -> None:
        server.open_round()

        def wait_for_the_report(event: Event) -> None:
            until = time.monotonic() + 5
            while event.kind == "epoch" and time.monotonic() < until:
                if any(report.get("epoch") == event.data["epoch"] for _, report in server.progress):
                    return
                time.sleep(0.01)

        alice.participate(data, rounds=1, trainer=FakeTrainer(), on_event=wait_for_the_report)
        epochs = [report for _, report in server.progress if "epoch" in report]
        assert [report["fraction"] for report in epochs] == [0.5, 1.0]
        assert epochs[0]["metrics"] == {"loss": 1.0}

    def test_tells_the_server_that_it_uploads(
        self, alice: Participant, server: FakeServer, data: Data
    ) -> None:
        server.open_round()

        def wait_for_the_report(event: Event) -> None:
            until = time.monotonic() + 5
            while event.kind == "uploading" and time.monotonic() < until:
                if any(report["activity"] == "uploading" for _, report in server.progress):
                    return
                time.sleep(0.01)

        alice.participate(data, rounds=1, trainer=FakeTrainer(), on_event=wait_for_the_report)
        assert server.progress[-1][1] == {"activity": "uploading", "fraction": 0.0}

    def test_has_only_events_that_are_documented(
        self, alice: Participant, server: FakeServer, data: Data
    ) -> None:
        server.open_round()
        kinds: set[str] = set()
        alice.participate(
            data, rounds=1, trainer=FakeTrainer(), on_event=lambda event: kinds.add(event.kind)
        )
        assert kinds <= set(KINDS)


class TestWhenTheServerIsAway:
    def test_alice_waits_and_goes_on(
        self, alice: Participant, server: FakeServer, data: Data, naps: list[float]
    ) -> None:
        server.open_round()
        server.away(6)
        kinds: list[str] = []
        summary = alice.participate(
            data,
            rounds=1,
            trainer=FakeTrainer(),
            on_event=lambda event: kinds.append(event.kind),
        )
        assert summary.rounds == 1
        assert kinds.count("offline") == 6
        assert len(naps) == 6

    @pytest.mark.parametrize("place", ["models/", "blobs/", "/update", "tokens", "check-in"])
    def test_at_any_step_she_gets_there(
        self, alice: Participant, server: FakeServer, data: Data, place: str
    ) -> None:
        server.open_round()
        left = [3]

        def cut(request: httpx.Request) -> httpx.Response | None:
            if place in request.url.path and left[0]:
                left[0] -= 1
                raise httpx.ReadError("Connection reset", request=request)
            return None

        server.before.append(cut)
        assert alice.participate(data, rounds=1, trainer=FakeTrainer()).rounds == 1
        assert left == [0]
        assert len(server.updates) == 1

    def test_a_receipt_that_got_lost_is_asked_again_and_counts_once(
        self, alice: Participant, server: FakeServer, data: Data
    ) -> None:
        server.open_round()
        lost: list[str] = []

        def lose_the_answer(request: httpx.Request) -> httpx.Response | None:
            if request.method == "PUT" and not lost:
                lost.append(request.url.path)
                server.handle(request)
                raise httpx.ReadTimeout("timed out", request=request)
            return None

        server.before.append(lose_the_answer)
        assert alice.participate(data, rounds=1, trainer=FakeTrainer()).rounds == 1
        assert len(server.updates) == 1

    def test_training_goes_on_when_only_reports_fail(
        self, alice: Participant, server: FakeServer, data: Data
    ) -> None:
        server.open_round()

        def refuse(request: httpx.Request) -> httpx.Response | None:
            if request.url.path.endswith("/progress"):
                raise httpx.ConnectError("Connection refused", request=request)
            return None

        server.before.append(refuse)
        summary = alice.participate(
            data, rounds=1, trainer=FakeTrainer(), on_event=lambda event: time.sleep(0.15)
        )
        assert summary.rounds == 1

    def test_the_end_comes_at_its_time_all_the_same(
        self, alice: Participant, server: FakeServer, data: Data
    ) -> None:
        server.away(10**6)
        soon = datetime.now(UTC) + timedelta(seconds=0.2)
        assert alice.participate(data, until=soon, trainer=FakeTrainer()).ended == "until"


class TestWhenSomethingIsWrong:
    @pytest.fixture
    def lie(self, server: FakeServer) -> Callable[[Callable[[bytes], bytes]], None]:
        """Let the server serve other bytes under each digest."""

        def lie(change: Callable[[bytes], bytes]) -> None:
            server.blobs = {digest: change(blob) for digest, blob in server.blobs.items()}

        return lie

    @pytest.mark.parametrize(
        "change",
        [
            lambda blob: blob[:-1] + bytes([blob[-1] ^ 1]),
            lambda blob: blob + b"\0",
            lambda blob: bytes(10**6),
        ],
        ids=["flipped bit", "one byte more", "a megabyte"],
    )
    def test_blobs_that_are_not_what_was_announced_are_refused(
        self,
        alice: Participant,
        server: FakeServer,
        lie: Callable[[Callable[[bytes], bytes]], None],
        change: Callable[[bytes], bytes],
    ) -> None:
        server.open_round()
        lie(change)
        with pytest.raises(IntegrityError, match="Received: "):
            alice.download(assigned(alice))
        assert list(alice.cache.folder.iterdir()) == []

    def test_weights_of_other_shapes_are_refused_by_the_manifest(
        self, alice: Participant, server: FakeServer
    ) -> None:
        server.open_round({"0000.dense.kernel": np.zeros((2, 3))})
        with pytest.raises(IntegrityError, match="shape"):
            alice.download(assigned(alice))

    def test_weights_that_are_not_finite_are_refused(
        self, alice: Participant, server: FakeServer
    ) -> None:
        server.open_round({"0001.dense.bias": np.array([0, np.nan])})
        with pytest.raises(IntegrityError, match="finite"):
            alice.download(assigned(alice))

    def test_a_blob_too_large_for_its_model_is_refused_before_it_is_fetched(
        self, alice: Participant, server: FakeServer
    ) -> None:
        server.open_round({"0000.dense.kernel": np.zeros(10**4)})
        with pytest.raises(IntegrityError, match="at most"):
            alice.download(assigned(alice))
        assert not any("blobs/" in line for line in server.requests)

    def test_another_architecture_than_announced_is_refused(
        self, alice: Participant, server: FakeServer
    ) -> None:
        server.open_round()
        assignment = assigned(alice)
        server._document["architecture"]["config"]["name"] = "backdoor"
        with pytest.raises(IntegrityError, match="architecture"):
            alice.download(assignment)

    def test_the_server_hears_of_it_and_alice_takes_the_next_round(
        self, alice: Participant, server: FakeServer, data: Data
    ) -> None:
        server.open_round({"0001.dense.bias": np.array([0, np.nan])})

        def next_round(event: Event) -> None:
            if event.kind == "waiting":
                server.open_round()

        summary = alice.participate(data, rounds=1, trainer=FakeTrainer(), on_event=next_round)
        assert (summary.rounds, summary.failures) == (1, 1)
        [(_, reason, _)] = server.failures
        assert reason == "integrity"

    def test_an_encoding_that_she_does_not_speak_is_declined(
        self, alice: Participant, server: FakeServer, data: Data
    ) -> None:
        server.encoding = "int4"
        server.open_round()
        alice.participate(data, until=lambda: bool(server.failures), trainer=FakeTrainer())
        assert [reason for _, reason, _ in server.failures] == ["unsupported_encoding"]

    def test_three_failures_in_a_row_are_enough(
        self, alice: Participant, server: FakeServer, data: Data
    ) -> None:
        server.open_round()
        with pytest.raises(TrainingFailed, match="non_finite"):
            alice.participate(
                data,
                trainer=FakeTrainer(step=np.nan),
                on_event=lambda event: server.open_round() if event.kind == "waiting" else None,
            )
        assert [reason for _, reason, _ in server.failures] == ["non_finite"] * 3
        assert server.updates == []

    def test_what_the_trainer_says_about_the_data_stays_here(
        self, alice: Participant, server: FakeServer, data: Data
    ) -> None:
        class Quoting(FakeTrainer):
            def train(self, *_: Any, **__: Any) -> Any:
                raise RuntimeError("cannot use patient Smith, born 1970")

        server.open_round()
        told: list[Event] = []
        alice.participate(
            data,
            until=lambda: bool(server.failures),
            trainer=Quoting(),
            on_event=told.append,
        )
        [(_, reason, detail)] = server.failures
        assert (reason, detail) == ("training_failed", "RuntimeError")
        assert any("Smith" in str(event.data.get("detail")) for event in told)

    def test_what_the_callers_own_callback_raises_reaches_the_caller(
        self, alice: Participant, server: FakeServer, data: Data
    ) -> None:
        def stumble(event: Event) -> None:
            if event.kind == "epoch":
                raise KeyError("a mistake of the caller's")

        server.open_round()
        with pytest.raises(KeyError, match="mistake"):
            alice.participate(data, trainer=FakeTrainer(), on_event=stumble)

    def test_a_round_that_closes_in_training_stops_it(
        self, alice: Participant, server: FakeServer, data: Data
    ) -> None:
        server.open_round()
        kinds: list[str] = []

        def close(event: Event) -> None:
            kinds.append(event.kind)
            if event.kind == "training":
                server.close_round()
            if event.kind == "epoch":
                time.sleep(0.01)

        summary = alice.participate(
            data,
            until=lambda: "closed" in kinds,
            trainer=FakeTrainer(epochs=10**4),
            on_event=close,
        )
        assert summary.rounds == summary.failures == 0
        assert kinds.count("epoch") < 500

    def test_an_upload_that_comes_too_late_is_forgotten(
        self, alice: Participant, server: FakeServer, data: Data
    ) -> None:
        server.open_round()
        kinds: list[str] = []

        def close(event: Event) -> None:
            kinds.append(event.kind)
            if event.kind == "uploading":
                server.close_round()

        alice.participate(
            data, until=lambda: "closed" in kinds, trainer=FakeTrainer(), on_event=close
        )
        assert server.updates == []
        assert list(alice.outbox.folder.iterdir()) == []

    def test_suspended_alice_waits_until_she_may_go_on(
        self, alice: Participant, server: FakeServer, data: Data
    ) -> None:
        server.open_round()
        me = alice.profile.participant
        server.suspend(me)

        def reinstate(event: Event) -> None:
            if event.kind == "suspended":
                server.suspend(me, "active")

        summary = alice.participate(data, rounds=1, trainer=FakeTrainer(), on_event=reinstate)
        assert summary.rounds == 1

    def test_suspended_after_training_she_keeps_her_update(
        self, alice: Participant, server: FakeServer, data: Data
    ) -> None:
        server.open_round()
        me, kinds = alice.profile.participant, []

        def suspend(event: Event) -> None:
            kinds.append(event.kind)
            if event.kind == "uploading" and "suspended" not in kinds:
                server.suspend(me)
            if event.kind == "suspended":
                server.suspend(me, "active")

        trainer = FakeTrainer()
        alice.participate(data, rounds=1, trainer=trainer, on_event=suspend)
        assert len(trainer.calls) == 1
        assert "resumed" in kinds

    def test_revoked_alice_stops(self, alice: Participant, server: FakeServer, data: Data) -> None:
        server.suspend(alice.profile.participant, "revoked")
        with pytest.raises(ParticipantRevoked):
            alice.participate(data, trainer=FakeTrainer())

    def test_a_server_that_does_not_know_her_is_no_reason_to_wait(
        self, alice: Participant, server: FakeServer, data: Data
    ) -> None:
        server._participants.clear()
        with pytest.raises(LoginRefused):
            alice.participate(data, trainer=FakeTrainer())

    def test_two_processes_do_not_share_a_profile(
        self, alice: Participant, server: FakeServer, data: Data
    ) -> None:
        with alice.profile.locked(), pytest.raises(ProfileInUse):
            alice.participate(data, trainer=FakeTrainer())


class TestAFullDisk:
    def test_costs_rounds_and_tells_nothing_that_it_cannot_list(
        self, alice: Participant, server: FakeServer, data: Data, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(*_: object, **__: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        class Unlucky(FakeTrainer):
            def train(self, *_: Any, **__: Any) -> Any:
                monkeypatch.setattr(alice.ledger, "note", full)
                full()

        server.open_round()
        with pytest.raises(TrainingFailed, match="No space left"):
            alice.participate(data, rounds=1, trainer=Unlucky())
        assert server.failures == []


class TestAnInterruption:
    def test_gives_the_assignment_back(
        self, alice: Participant, server: FakeServer, data: Data
    ) -> None:
        def press_control_c(event: Event) -> None:
            if event.kind == "epoch":
                raise KeyboardInterrupt

        server.open_round()
        summary = alice.participate(data, trainer=FakeTrainer(), on_event=press_control_c)
        assert summary.ended == "interrupted"
        assert server.state(1) == "withdrawn"

    def test_by_sigterm_is_the_same(
        self, alice: Participant, server: FakeServer, data: Data
    ) -> None:
        def terminate(event: Event) -> None:
            if event.kind == "epoch":
                os.kill(os.getpid(), signal.SIGTERM)

        before = signal.getsignal(signal.SIGTERM)
        server.open_round()
        summary = alice.participate(data, trainer=FakeTrainer(), on_event=terminate)
        assert summary.ended == "interrupted"
        assert server.state(1) == "withdrawn"
        assert signal.getsignal(signal.SIGTERM) == before

    def test_works_in_a_thread_that_gets_no_signals(
        self, alice: Participant, server: FakeServer, data: Data
    ) -> None:
        server.open_round()
        thread = threading.Thread(
            target=alice.participate, args=(data,), kwargs={"rounds": 1, "trainer": FakeTrainer()}
        )
        thread.start()
        thread.join(10)
        assert len(server.updates) == 1

    def test_with_the_server_away_keeps_what_was_trained(
        self, alice: Participant, server: FakeServer, data: Data
    ) -> None:
        def vanish(event: Event) -> None:
            if event.kind == "uploading":
                server.away(10**6)
                raise KeyboardInterrupt

        server.open_round()
        alice.participate(data, trainer=FakeTrainer(), on_event=vanish)
        assert [path.name for path in alice.outbox.folder.iterdir()] == ["1"]


LIFE = """
import os, signal, sys
import numpy as np
from client_sdk import Participant
from client_sdk.testing import FakeTrainer

def die(event):
    print(event.kind, flush=True)
    if event.kind == sys.argv[1]:
        os.kill(os.getpid(), signal.SIGKILL)

data = np.zeros((10, 3)), np.zeros(10)
Participant.load("alice").participate(data, rounds=1, trainer=FakeTrainer(step=0.1), on_event=die)
"""


def live(until: str) -> subprocess.CompletedProcess[str]:
    """Alice as a process of her own, killed at an event or not at all."""
    return subprocess.run(
        [sys.executable, "-c", LIFE, until], capture_output=True, text=True, timeout=60, check=False
    )


class TestKilledAlice:
    @pytest.mark.parametrize(
        "moment", ["assigned", "downloading", "training", "epoch", "sending", "uploaded"]
    )
    def test_goes_on_where_she_was(self, moment: str) -> None:
        server = FakeServer()
        with server.serve() as url:
            Participant.enrol(url, server.join_code(), name="alice", profile="alice").close()
            server.open_round()
            assert live(moment).returncode == -signal.SIGKILL
            if moment == "uploaded":
                assert len(server.updates) == 1
                server.open_round()
            second = live("")
            assert second.returncode == 0, second.stderr
        assert [update.assignment for update in server.updates] == (
            [1, 2] if moment == "uploaded" else [1]
        )

    def test_sends_what_she_trained_bit_by_bit_and_does_not_train_again(self) -> None:
        server = FakeServer()
        with server.serve() as url:
            alice = Participant.enrol(url, server.join_code(), name="alice", profile="alice")
            server.open_round()
            live("uploading")
            trained = (alice.outbox.folder / "1" / "update").read_bytes()
            second = live("")
            alice.close()
        assert second.stdout.split() == ["assigned", "resumed", "sending", "uploading", "uploaded"]
        assert server.updates[0].body == trained

    def test_does_not_send_an_update_that_rotted_on_her_disk(
        self, alice: Participant, server: FakeServer, data: Data
    ) -> None:
        server.open_round()
        assignment = assigned(alice)
        specs = wire.tensors_of(WEIGHTS, wire.FEDERATED)
        deltas = {spec.name: np.ones(spec.shape, np.float32) for spec in specs}
        parcel = alice.outbox.put(assignment, deltas, {}, 10, {})
        assert alice.outbox.find(assignment) == parcel
        parcel.update.write_bytes(parcel.update.read_bytes()[:-1] + b"\1")
        assert alice.outbox.find(assignment) is None
        alice.participate(data, rounds=1, trainer=FakeTrainer(step=0.5))
        assert server.updates[0].deltas["0001.dense.bias"][0] == 0.5

    def test_does_not_send_what_was_trained_for_another_base(
        self, alice: Participant, server: FakeServer
    ) -> None:
        server.open_round()
        assignment = assigned(alice)
        alice.outbox.put(assignment, {}, {}, 10, {})
        moved = Assignment.from_json(
            server._places[1].document
            | {
                "version": {
                    "number": 9,
                    "weights": {"sha256": "ab" * 32, "bytes": 5},
                    "fixed": None,
                }
            }
        )
        assert alice.outbox.find(assignment) is not None
        assert alice.outbox.find(moved) is None


class TestThePieces:
    def test_of_an_exchange_can_be_used_one_by_one(
        self, alice: Participant, server: FakeServer, data: Data
    ) -> None:
        server.open_round()
        assignment = assigned(alice)
        _, weights = alice.download(assignment)
        assert list(weights) == [weight.name for weight in WEIGHTS]
        result = FakeTrainer().train(weights, data, {}, 7)
        parcel = alice.outbox.put(
            assignment, result.deltas, result.local, result.samples, result.metrics
        )
        receipt = alice.upload(parcel)
        assert receipt["digest"] == parcel.manifest.digest
        assert alice.upload(parcel) == receipt

    def test_say_when_there_is_nothing_to_do(self, alice: Participant) -> None:
        answer = alice.check_in()
        assert isinstance(answer, Wait)
        assert answer.reason == "no_open_round"

    def test_give_the_same_assignment_until_it_is_done(
        self, alice: Participant, server: FakeServer
    ) -> None:
        server.open_round()
        assert assigned(alice).id == assigned(alice).id

    def test_give_an_assignment_back(self, alice: Participant, server: FakeServer) -> None:
        server.open_round()
        assignment = assigned(alice)
        alice.withdraw(assignment.id)
        assert isinstance(alice.check_in(), Wait)
        with pytest.raises(RoundClosed):
            alice.report_progress(assignment.id, {"activity": "training", "fraction": 0.5})

    def test_introduce_the_sdk_once(self, alice: Participant, server: FakeServer) -> None:
        bodies: list[dict[str, Any]] = []
        server.before.append(
            lambda request: (
                bodies.append(json.loads(request.content))
                if request.url.path.endswith("check-in")
                else None
            )
        )
        alice.check_in()
        alice.check_in()
        assert ["sdk" in body for body in bodies] == [True, False]


class TestTheImport:
    def test_of_the_package_brings_neither_django_nor_keras(self) -> None:
        told = subprocess.run(
            [sys.executable, "-c", "import client_sdk.testing, sys; print(*sys.modules)"],
            capture_output=True,
            text=True,
            check=True,
        )
        assert not {"django", "keras", "tensorflow"} & set(told.stdout.split())

    def test_of_the_wire_brings_no_http_client(self) -> None:
        told = subprocess.run(
            [sys.executable, "-c", "import client_sdk.wire, sys; print(*sys.modules)"],
            capture_output=True,
            text=True,
            check=True,
        )
        assert not {"httpx", "cryptography", "platformdirs"} & set(told.stdout.split())

    def test_offers_the_public_names(self) -> None:
        import client_sdk

        for name in client_sdk.__all__:
            assert getattr(client_sdk, name).__doc__
        with pytest.raises(AttributeError):
            _ = client_sdk.nothing


def test_the_profile_folder_holds_no_data(
    alice: Participant, server: FakeServer, home: Path
) -> None:
    server.open_round()
    secret = np.full((10, 3), 1234.5, dtype=np.float32)
    alice.participate((secret, np.zeros(10)), rounds=1, trainer=FakeTrainer())
    for path in home.rglob("*"):
        assert path.is_dir() or secret[0].tobytes() not in path.read_bytes()


class TestAStop:
    def test_from_another_thread_gives_the_assignment_back(
        self, alice: Participant, server: FakeServer, data: Data
    ) -> None:
        stop = threading.Event()

        def press_stop(event: Event) -> None:
            if event.kind == "epoch":
                threading.Thread(target=stop.set).start()
                stop.wait(5)

        server.open_round()
        summary = alice.participate(data, trainer=FakeTrainer(), on_event=press_stop, stop=stop)
        assert summary.ended == "stopped"
        assert server.state(1) == "withdrawn"
        assert server.updates == []

    def test_ends_a_pause_at_once(self, alice: Participant, server: FakeServer, data: Data) -> None:
        stop = threading.Event()
        alice.sleep = time.sleep
        server.retry_after = 100.0
        threading.Timer(0.2, stop.set).start()
        began = time.monotonic()
        assert alice.participate(data, trainer=FakeTrainer(), stop=stop).ended == "stopped"
        assert time.monotonic() - began < 10

    def test_ends_the_wait_for_a_server_that_is_away(
        self, alice: Participant, server: FakeServer, data: Data
    ) -> None:
        stop = threading.Event()
        alice.sleep = time.sleep
        server.away(10**6)
        threading.Timer(0.2, stop.set).start()
        assert alice.participate(data, trainer=FakeTrainer(), stop=stop).ended == "stopped"

    def test_that_was_pressed_before_begins_nothing(
        self, alice: Participant, server: FakeServer, data: Data
    ) -> None:
        stop = threading.Event()
        stop.set()
        server.open_round()
        asked = len(server.requests)
        assert alice.participate(data, trainer=FakeTrainer(), stop=stop).ended == "stopped"
        assert len(server.requests) == asked

    def test_works_where_no_signals_come(
        self, alice: Participant, server: FakeServer, data: Data
    ) -> None:
        stop, ended = threading.Event(), []
        thread = threading.Thread(
            target=lambda: ended.append(
                alice.participate(data, trainer=FakeTrainer(), stop=stop).ended
            )
        )
        thread.start()
        stop.set()
        thread.join(10)
        assert ended == ["stopped"]

    def test_leaves_alice_as_she_was(
        self, alice: Participant, server: FakeServer, data: Data
    ) -> None:
        before = (alice.on_wait, alice.pause)
        alice.participate(data, trainer=FakeTrainer(), until=lambda: True)
        assert (alice.on_wait, alice.pause) == before


class TestIdleness:
    def test_ends_when_there_was_nothing_to_do_for_so_long(
        self, alice: Participant, server: FakeServer, data: Data
    ) -> None:
        assert alice.participate(data, trainer=FakeTrainer(), idle=0.05).ended == "idle"

    def test_begins_after_the_last_round(
        self, alice: Participant, server: FakeServer, data: Data
    ) -> None:
        server.open_round()
        summary = alice.participate(data, trainer=FakeTrainer(), idle=0.05)
        assert (summary.rounds, summary.ended) == (1, "idle")


class TestTheData:
    def test_may_be_asked_for_each_round_anew(
        self, alice: Participant, server: FakeServer, data: Data
    ) -> None:
        sizes = iter([3, 5])

        def now() -> Data:
            size = next(sizes)
            return data[0][:size], data[1][:size]

        def next_round(event: Event) -> None:
            if event.kind == "waiting":
                server.open_round()

        server.open_round()
        alice.participate(now, rounds=2, trainer=FakeTrainer(), on_event=next_round)
        assert [update.manifest.samples for update in server.updates] == [3, 5]

    def test_that_cannot_be_read_are_a_failure_and_not_the_end(
        self, alice: Participant, server: FakeServer, data: Data
    ) -> None:
        asked: list[int] = []

        def now() -> Data:
            asked.append(1)
            if len(asked) == 1:
                raise PermissionError("/home/alice/secret.npz")
            return data

        def next_round(event: Event) -> None:
            if event.kind == "waiting":
                server.open_round()

        server.open_round()
        summary = alice.participate(now, rounds=1, trainer=FakeTrainer(), on_event=next_round)
        assert (summary.rounds, summary.failures) == (1, 1)
        assert server.failures == [(1, "local_trouble", "PermissionError")]

    def test_may_be_a_folder_of_images_by_class(
        self, alice: Participant, server: FakeServer, tmp_path: Path
    ) -> None:
        image = pytest.importorskip("PIL.Image")
        document = {
            "labels": ["cat", "dog"],
            "input_spec": {"shape": [4, 4, 3], "dtype": "float32", "scale": 1.0, "offset": 0.0},
        }
        server.add_model("pets", document=document)
        for label, count in (("cat", 2), ("dog", 1)):
            (tmp_path / label).mkdir()
            for number in range(count):
                image.new("RGB", (8, 8)).save(tmp_path / label / f"{number}.png")
        server.open_round(model="pets")
        alice.participate(tmp_path, rounds=1, trainer=FakeTrainer())
        assert server.updates[0].manifest.samples == 3


class TestTheProgress:
    def test_is_shown_beside_the_callers_own_and_closed_at_the_end(
        self, alice: Participant, server: FakeServer, data: Data
    ) -> None:
        class Bar:
            def __init__(self) -> None:
                self.kinds: list[str] = []
                self.closed = False

            def __call__(self, event: Event) -> None:
                self.kinds.append(event.kind)

            def close(self) -> None:
                self.closed = True

        server.open_round()
        kinds: list[str] = []
        bar = Bar()
        alice.participate(
            data,
            rounds=1,
            trainer=FakeTrainer(),
            progress=bar,
            on_event=lambda event: kinds.append(event.kind),
        )
        assert bar.kinds == kinds
        assert bar.closed

    def test_that_stumbles_stops_nothing(
        self, alice: Participant, server: FakeServer, data: Data
    ) -> None:
        def stumble(event: Event) -> None:
            raise ZeroDivisionError

        server.open_round()
        assert (
            alice.participate(data, rounds=1, trainer=FakeTrainer(), progress=stumble).rounds == 1
        )

    def test_tells_the_server_of_each_activity_at_once(
        self, alice: Participant, server: FakeServer, data: Data
    ) -> None:
        """A round of milliseconds shows what it fetched and trained, in this order."""

        def wait_for_the_report(event: Event) -> None:
            activity = {"downloading": "downloading", "training": "training"}.get(event.kind)
            until = time.monotonic() + 5
            while activity and time.monotonic() < until:
                if any(report["activity"] == activity for _, report in server.progress):
                    return
                time.sleep(0.002)

        server.open_round()
        began = time.monotonic()
        alice.participate(data, rounds=1, trainer=FakeTrainer(), on_event=wait_for_the_report)
        assert time.monotonic() - began < 5
        told = [report["activity"] for _, report in server.progress]
        assert told[:2] == ["downloading", "training"]


class Line:
    """In the place of a WebSocket: what the server pushes, when the test says so."""

    def __init__(self, *kinds: str) -> None:
        self.connected = True
        self.waits: list[float] = []
        self.closed = False
        self._kinds = list(kinds)

    def wait(self, seconds: float) -> bool:
        self.waits.append(seconds)
        if not self._kinds:
            time.sleep(min(seconds, 0.1))
        return bool(self._kinds)

    def news(self) -> list[News]:
        return [News(self._kinds.pop(0))] if self._kinds else []

    def close(self) -> None:
        self.closed = True


class TestAPush:
    def participate(
        self,
        alice: Participant,
        server: FakeServer,
        data: Data,
        line: Line,
        monkeypatch: pytest.MonkeyPatch,
        **options: Any,
    ) -> list[float]:
        """Alice takes part with a push; the seconds that her check-ins waited at the server."""
        held: list[float] = []

        def note(request: httpx.Request) -> None:
            if request.url.path.endswith("check-in"):
                held.append(json.loads(request.content)["wait"])

        server.before.append(note)
        monkeypatch.setattr(alice, "wake", lambda: line)
        alice.participate(data, trainer=FakeTrainer(), **options)
        return held

    def test_wakes_alice_and_no_check_in_waits_at_the_server(
        self,
        alice: Participant,
        server: FakeServer,
        data: Data,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        line = Line("round.opened")

        def open_round(event: Event) -> None:
            if event.kind == "waiting" and event.data["seconds"]:
                server.open_round()

        held = self.participate(
            alice, server, data, line, monkeypatch, rounds=1, on_event=open_round
        )
        assert held == [0.0, 0.0, 0.0]
        assert len(line.waits) == 1
        assert 29 < line.waits[0] <= 30
        assert line.closed
        assert len(server.updates) == 1

    def test_that_is_lost_leaves_the_long_poll(
        self,
        alice: Participant,
        server: FakeServer,
        data: Data,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        line = Line()
        line.connected = False
        held = self.participate(
            alice, server, data, line, monkeypatch, until=lambda: len(held_by(server)) > 2, wait=7
        )
        assert held[:3] == [0.0, 7.0, 7.0]
        assert not line.waits

    def test_of_a_verdict_asks_for_it_and_not_for_work(
        self,
        alice: Participant,
        server: FakeServer,
        data: Data,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr("client_sdk.receipts._PACE", 0.05)
        line, told = Line("assignment.accepted"), list[str]()

        def publish(event: Event) -> None:
            told.append(event.kind)
            if event.kind == "waiting" and event.data["seconds"]:
                alice_asked.append(len(held_by(server)))
                server.publish()

        alice_asked: list[int] = []
        server.open_round()
        self.participate(
            alice,
            server,
            data,
            line,
            monkeypatch,
            on_event=publish,
            idle=0.4,
        )
        assert "receipt" in told
        assert len(held_by(server)) == alice_asked[0]

    def test_a_thousand_times_a_second_is_not_followed_as_often(
        self,
        alice: Participant,
        server: FakeServer,
        data: Data,
        monkeypatch: pytest.MonkeyPatch,
        naps: list[float],
    ) -> None:
        line = Line(*["round.opened"] * 20)
        self.participate(
            alice, server, data, line, monkeypatch, until=lambda: len(held_by(server)) >= 20
        )
        assert len(naps) >= 15
        assert all(0 < nap <= 0.2 for nap in naps)


def held_by(server: FakeServer) -> list[str]:
    return [line for line in server.requests if "check-in" in line]


def test_a_verdict_is_told_while_alices_own_limit_lets_her_rest(
    alice: Participant, server: FakeServer, data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("client_sdk.receipts._PACE", 0.05)
    line, told = Line("assignment.accepted", "round.opened"), list[str]()

    def publish(event: Event) -> None:
        told.append(event.kind)
        if event.kind == "limited" and "receipt" not in told and told.count("limited") == 1:
            server.publish()

    monkeypatch.setattr(alice, "wake", lambda: line)
    server.open_round()
    alice.participate(
        data, trainer=FakeTrainer(), limits=Limits(rounds_per_day=1), on_event=publish, idle=0.5
    )
    assert "receipt" in told
    assert len(held_by(server)) == 1


class TestAServerThatIsNotItself:
    """A hotel's page, a proxy that is broken: trouble on the way, and no reason to give up."""

    def test_for_a_while_is_waited_for(
        self, alice: Participant, server: FakeServer, data: Data, naps: list[float]
    ) -> None:
        pages = iter(
            [
                httpx.Response(302, headers={"Location": "https://hotel.example/login"}),
                httpx.Response(200, content=b"<html>Welcome</html>"),
                httpx.Response(200, json={"action": "train", "assignment": {"id": -1}}),
                httpx.Response(404, content=b"<html>not here</html>"),
            ]
        )

        def stand_between(request: httpx.Request) -> httpx.Response | None:
            if request.url.path.endswith("check-in") and len(held_by(server)) > 1:
                return next(pages, None)
            return None

        told: list[str] = []

        def open_at_last(event: Event) -> None:
            if event.kind == "waiting":
                told.append(event.data["reason"])
                if told.count("distrusted") == 4:
                    server.open_round()

        server.before.append(stand_between)
        summary = alice.participate(data, rounds=1, trainer=FakeTrainer(), on_event=open_at_last)
        assert summary.rounds == 1
        assert told.count("distrusted") == 4
        assert naps[:4] == [2.0, 4.0, 8.0, 16.0]

    def test_from_the_first_answer_on_is_not(
        self, alice: Participant, server: FakeServer, data: Data
    ) -> None:
        server.before.append(lambda request: httpx.Response(200, content=b"<html>"))
        with pytest.raises(ServerDistrusted):
            alice.participate(data, trainer=FakeTrainer())

    def test_and_no_longer_knows_this_version_says_so(
        self, alice: Participant, server: FakeServer, data: Data
    ) -> None:
        server.oldest_sdk = (99, 0)
        with pytest.raises(VersionRefused, match="from version 99"):
            alice.participate(data, trainer=FakeTrainer())
