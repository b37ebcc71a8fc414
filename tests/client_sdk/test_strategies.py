"""What strategies ask of a participant: what she says she can do, what she tells, what she keeps.

Every value that `FakeTrainer` trains moves by 0.5 in two steps of 0.1. So with SCAFFOLD, and the
server's control variate at c, her own goes from c_i to c_i - c - 2.5 with each update that counts.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from client_sdk import drift, wire
from client_sdk.errors import LimitReached
from client_sdk.events import Event
from client_sdk.limits import Limits
from client_sdk.outbox import Outbox
from client_sdk.own import KEPT_FOR, OwnState
from client_sdk.participant import Participant
from client_sdk.testing import WEIGHTS, FakeResult, FakeServer, FakeTrainer
from tests.client_sdk.conftest import Join

Data = tuple[np.ndarray, np.ndarray]

SIZE = sum(spec.size for spec in wire.tensors_of(WEIGHTS, wire.FEDERATED))
SCAFFOLD: dict[str, dict[str, float]] = {"control_variates": {}, "report_steps": {}}
FEDDYN = {"dynamic_regularization": {"alpha": 0.1}}
LOSS: dict[str, dict[str, float]] = {"report_initial_loss": {}, "report_steps": {}}


@pytest.fixture
def trainer() -> FakeTrainer:
    return FakeTrainer(step=0.5)


def take_part(
    alice: Participant, data: Data, trainer: Any, rounds: int = 1, **options: Any
) -> list[Event]:
    told: list[Event] = []
    alice.participate(data, rounds=rounds, trainer=trainer, on_event=told.append, **options)
    return told


def came_to_nothing(
    alice: Participant, data: Data, trainer: Any, server: FakeServer, **options: Any
) -> None:
    """She takes part until one more assignment was given up or given back."""
    before = len(server.failures) + len(server.withdrawals)
    alice.participate(
        data,
        trainer=trainer,
        until=lambda: len(server.failures) + len(server.withdrawals) > before,
        **options,
    )


def began_with(trainer: FakeTrainer) -> float:
    """The control variate, or FedDyn's vector, that the last training began with."""
    own = trainer.asked[-1]["own"]
    if not own:
        return 0.0
    [values] = own.values()
    assert len(np.unique(values)) == 1
    return float(values[0])


class TestWhatSheCanDo:
    def test_is_told_as_she_enrols_and_when_she_takes_part(
        self, server: FakeServer, alice: Participant, data: Data, trainer: FakeTrainer
    ) -> None:
        assert server.capabilities("alice") == tuple(drift.CAPABILITIES)
        server.open_round()
        trainer.capabilities = ["report_steps", "telepathy"]
        take_part(alice, data, trainer)
        assert server.capabilities("alice") == ("report_steps",)
        assert "capabilities report_steps" in alice.log()[1].detail

    def test_is_nothing_with_a_trainer_that_does_not_say(
        self, server: FakeServer, alice: Participant, data: Data
    ) -> None:
        class Plain:
            train = FakeTrainer().train

        server.requires = LOSS
        server.open_round()
        heard: list[Event] = []
        alice.participate(data, trainer=Plain(), on_event=heard.append, until=lambda: bool(heard))
        assert [event.data["reason"] for event in heard] == ["sdk_lacks"]
        server.requires = {}
        server.open_round()
        take_part(alice, data, Plain())
        assert server.updates[-1].manifest.reports == {}
        assert "capabilities none" in alice.log()[1].detail

    @pytest.mark.parametrize(
        "asked", [{"telepathy": {}}, {"proximal": {}}, {"proximal": {"mu": -1.0}}]
    )
    def test_is_all_that_she_does_and_the_server_is_told_so(
        self,
        server: FakeServer,
        alice: Participant,
        data: Data,
        trainer: FakeTrainer,
        asked: dict[str, dict[str, float]],
    ) -> None:
        server.open_round()
        alice.check_in()
        server._places[1].document["requires"] = asked
        told: list[Event] = []
        came_to_nothing(alice, data, trainer, server, on_event=told.append)
        [failed] = [event for event in told if event.kind == "failed"]
        assert failed.data["reason"] == "capability_missing"
        assert [(number, reason) for number, reason, _ in server.failures] == [
            (1, "capability_missing")
        ]
        assert "Received: " in server.failures[0][2]
        assert trainer.calls == []

    def test_is_not_enough_where_the_trainer_does_not_keep_its_word(
        self, server: FakeServer, alice: Participant, data: Data
    ) -> None:
        class Forgetful(FakeTrainer):
            def train(self, *arguments: Any, **options: Any) -> FakeResult:
                return FakeTrainer(step=0.5).train(*arguments)

        for asked in (LOSS, SCAFFOLD):
            server.requires = asked
            server.open_round()
            came_to_nothing(alice, data, Forgetful(), server)
        assert [reason for _, reason, _ in server.failures] == ["training_failed"] * 2
        assert server.updates == []


class TestWhatSheTells:
    def test_is_what_the_strategy_asks_for_and_no_more(
        self, server: FakeServer, alice: Participant, data: Data, trainer: FakeTrainer
    ) -> None:
        server.open_round()
        take_part(alice, data, trainer)
        server.requires = {"report_steps": {}}
        server.open_round()
        take_part(alice, data, trainer)
        server.requires = {**LOSS, "proximal": {"mu": 0.1}}
        server.open_round()
        told = take_part(alice, data, trainer)
        assert [update.manifest.reports for update in server.updates] == [
            {},
            {"steps": 2.0},
            {"steps": 2.0, "initial_loss": 1.0},
        ]
        [listed] = [event for event in told if event.kind == "sending"]
        assert listed.data["reports"] == {"steps": 2.0, "initial_loss": 1.0}
        updates = [entry for entry in alice.log() if entry.kind == "update"]
        assert [entry.reports for entry in updates] == [u.manifest.reports for u in server.updates]

    def test_is_the_count_of_steps_also_where_metrics_may_not_leave(
        self, server: FakeServer, alice: Participant, data: Data, trainer: FakeTrainer
    ) -> None:
        alice.limits = Limits(share_metrics=False)
        server.requires = SCAFFOLD
        server.open_round()
        take_part(alice, data, trainer)
        assert server.updates[0].manifest.reports == {"steps": 2.0}
        assert server.updates[0].manifest.metrics == {}

    def test_is_no_loss_where_metrics_may_not_leave(
        self, server: FakeServer, alice: Participant, data: Data, trainer: FakeTrainer
    ) -> None:
        alice.limits = Limits(share_metrics=False)
        server.requires = LOSS
        server.open_round()
        told: list[Event] = []
        came_to_nothing(alice, data, trainer, server, on_event=told.append)
        assert server.withdrawals == [(1, "limit_share_metrics")]
        assert trainer.calls == []
        assert server.updates == []
        [declined] = [event for event in told if event.kind == "declined"]
        assert declined.data["limit"] == "share_metrics"

    def test_is_no_loss_that_was_measured_before_metrics_were_switched_off(
        self, server: FakeServer, alice: Participant, data: Data, trainer: FakeTrainer
    ) -> None:
        server.requires = LOSS
        server.open_round()
        parcel = trained(alice, data)
        assert parcel.manifest.reports["initial_loss"] == 1.0
        alice.limits = Limits(share_metrics=False)
        with pytest.raises(LimitReached, match="share_metrics"):
            alice.upload(parcel)
        came_to_nothing(alice, data, trainer, server)
        assert server.withdrawals == [(1, "limit_share_metrics")]
        assert server.updates == []


def trained(alice: Participant, data: Data) -> Any:
    """An update in her outbox, as a process that was killed has left it."""
    assignment: Any = alice.check_in(capabilities=list(drift.CAPABILITIES))
    _, weights = alice.download(assignment)
    result = FakeTrainer().train(weights, data, {}, 7, requires=assignment.requires)
    return alice.outbox.put(
        assignment, result.deltas, result.local, 10, result.metrics, result.reports
    )


class TestWhatSheKeeps:
    @pytest.fixture(autouse=True)
    def scaffold(self, server: FakeServer) -> None:
        server.requires = SCAFFOLD

    def test_moves_forward_with_each_update_that_comes_into_a_version(
        self, server: FakeServer, alice: Participant, data: Data, trainer: FakeTrainer
    ) -> None:
        found = []
        for control in (None, np.full(SIZE, 0.25), np.full(SIZE, -1.0)):
            server.control = control
            server.open_round()
            take_part(alice, data, trainer)
            found.append(began_with(trainer))
            given = trainer.asked[-1]["control"]
            assert (None if given is None else given.tolist()) == (
                None if control is None else control.tolist()
            )
            server.publish()
        assert found == pytest.approx([0.0, -2.5, -2.5 - 0.25 - 2.5])

    def test_of_feddyn_moves_by_its_alpha(
        self, server: FakeServer, alice: Participant, data: Data, trainer: FakeTrainer
    ) -> None:
        server.requires = FEDDYN
        found = []
        for _ in range(3):
            server.open_round()
            take_part(alice, data, trainer)
            found.append(began_with(trainer))
            server.publish()
        assert found == pytest.approx([0.0, -0.05, -0.1])

    @pytest.mark.parametrize("verdict", ["rejected", "quarantined", "late", "lost", "failed"])
    def test_stays_where_it_was_when_an_update_did_not_count(
        self,
        server: FakeServer,
        alice: Participant,
        data: Data,
        trainer: FakeTrainer,
        verdict: str,
    ) -> None:
        server.open_round()
        take_part(alice, data, trainer)
        server.publish()
        server.open_round()
        take_part(alice, data, trainer)
        assert began_with(trainer) == pytest.approx(-2.5)
        server.judge(2, verdict)
        server.publish()
        server.open_round()
        take_part(alice, data, trainer)
        assert began_with(trainer) == pytest.approx(-2.5)

    def test_stays_where_it_was_when_the_round_came_to_nothing(
        self, server: FakeServer, alice: Participant, data: Data, trainer: FakeTrainer
    ) -> None:
        server.open_round()
        take_part(alice, data, trainer)
        server.fail()
        server.open_round()
        take_part(alice, data, trainer)
        assert began_with(trainer) == 0.0

    def test_is_asked_for_first_where_no_verdict_was_heard(
        self, server: FakeServer, join: Join, data: Data, trainer: FakeTrainer
    ) -> None:
        with join("bob") as bob:
            server.open_round()
            take_part(bob, data, trainer)
            bob.ledger.note("update", assignment=1, state="rejected")  # she would not ask again
            server.publish()
            server.open_round()
            take_part(bob, data, trainer)
        assert began_with(trainer) == pytest.approx(-2.5)
        asked = server.requests.index("GET assignments/1")
        assert "PUT assignments/2/update" in server.requests[asked:]

    def test_is_not_moved_by_a_server_that_has_forgotten(
        self, server: FakeServer, alice: Participant, data: Data, trainer: FakeTrainer
    ) -> None:
        server.open_round()
        take_part(alice, data, trainer)
        server.close_round()
        del server._places[1]
        server.open_round()
        take_part(alice, data, trainer)
        assert began_with(trainer) == 0.0
        assert OwnState(alice.profile.folder / "own").undecided(1) == [2]

    def test_is_her_own_alone_to_read_and_gone_when_she_leaves(
        self, server: FakeServer, alice: Participant, data: Data, trainer: FakeTrainer
    ) -> None:
        server.open_round()
        take_part(alice, data, trainer)
        server.publish()
        server.open_round()
        take_part(alice, data, trainer)
        folder = alice.profile.folder / "own" / "1"
        assert sorted(path.name for path in folder.iterdir()) == ["2", "kept"]
        for path in folder.iterdir():
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        alice.leave()
        assert not folder.exists()

    def test_never_leaves(
        self, server: FakeServer, alice: Participant, data: Data, trainer: FakeTrainer
    ) -> None:
        sent: list[bytes] = []

        def listen(request: httpx.Request) -> None:
            sent.append(request.content)

        server.before.append(listen)
        for _ in range(3):
            server.control = np.full(SIZE, 0.125)
            server.open_round()
            take_part(alice, data, trainer)
            server.publish()
        kept = np.full(SIZE, began_with(trainer), np.float32).tobytes()
        assert not any(kept[:16] in body for body in sent)

    @pytest.mark.parametrize(
        "wrong",
        [np.zeros(SIZE + 1), np.array([np.nan] * SIZE), np.zeros((1, SIZE))],
        ids=["longer", "NaN", "another shape"],
    )
    def test_is_not_mixed_with_control_variates_that_are_none(
        self,
        server: FakeServer,
        alice: Participant,
        data: Data,
        trainer: FakeTrainer,
        wrong: np.ndarray,
    ) -> None:
        server.control = wrong
        server.open_round()
        came_to_nothing(alice, data, trainer, server)
        assert [reason for _, reason, _ in server.failures] == ["integrity"]
        assert trainer.calls == []


class Killed(BaseException):
    """What `kill -9` is to a process."""


def _killed(point: Callable[..., Any], *, after: bool) -> Callable[..., Any]:
    """The function, in a process that is killed before or after its third call."""
    calls: list[int] = []

    def run(*arguments: Any, **options: Any) -> Any:
        calls.append(1)
        if len(calls) == 3 and not after:
            raise Killed
        found = point(*arguments, **options)
        if len(calls) == 3 and after:
            raise Killed
        return found

    return run


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (OwnState, "find"),
        (OwnState, "put"),
        (Outbox, "put"),
        (Participant, "upload"),
        (OwnState, "settle"),
        (os, "replace"),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_whenever_she_is_killed_she_keeps_what_the_counted_updates_left(
    server: FakeServer,
    alice: Participant,
    data: Data,
    monkeypatch: pytest.MonkeyPatch,
    owner: Any,
    name: str,
    after: bool,
) -> None:
    server.requires = SCAFFOLD
    trainer, kept, killed = FakeTrainer(step=0.5), 0.0, 0
    monkeypatch.setattr(owner, name, _killed(getattr(owner, name), after=after))
    mine = alice
    for number in range(5):
        server.control = np.full(SIZE, 0.25 * number)
        server.open_round()
        sent = len(server.updates)
        while len(server.updates) == sent or server.state(number + 1) == "training":
            try:
                take_part(mine, data, trainer)
            except Killed:
                killed += 1
                mine = Participant(
                    alice.profile, transport=server.transport, sleep=lambda seconds: None
                )
        assert began_with(trainer) == pytest.approx(kept)
        if number == 3:
            server.judge(4, "rejected")
        else:
            kept += -0.25 * number - 2.5
        server.publish()
    assert killed == 1


# --- The folder ---------------------------------------------------------------------------------


@pytest.fixture
def own(tmp_path: Path) -> OwnState:
    return OwnState(tmp_path / "own")


def values(value: float) -> dict[str, np.ndarray]:
    return {"control_variates": np.full(3, value, np.float32)}


def kept(own: OwnState, run: int = 1) -> float | None:
    found = own.find(run, ["control_variates"], 3)
    return float(found["control_variates"][0]) if found else None


def test_a_verdict_that_comes_late_does_not_lead_back(own: OwnState) -> None:
    own.put(1, 7, values(1.0))
    own.put(1, 9, values(2.0))
    own.settle(9, counted=True)
    own.settle(7, counted=True)
    assert kept(own) == 2.0
    assert own.undecided(1) == []


def test_verdicts_are_of_one_run_and_may_be_heard_twice(own: OwnState) -> None:
    own.put(1, 7, values(1.0))
    own.put(2, 8, values(2.0))
    for _ in range(2):
        own.settle(8, counted=True)
        own.settle(99, counted=True)
    assert (kept(own, 1), kept(own, 2)) == (None, 2.0)
    assert own.undecided(1) == [7]
    own.settle(7, counted=False)
    assert own.undecided(1) == []


def test_what_is_of_another_model_or_damaged_is_as_nothing(own: OwnState) -> None:
    own.put(1, 7, values(1.0))
    own.settle(7, counted=True)
    assert own.find(1, ["control_variates"], 4) == {}
    assert own.find(1, ["dynamic_regularization"], 3) == {}
    (own.folder / "1" / "kept").write_bytes(b"rotten")
    assert kept(own) is None


def test_what_is_not_finite_is_not_kept(own: OwnState) -> None:
    with pytest.raises(ValueError, match="finite"):
        own.put(1, 7, values(np.nan))


def test_old_runs_and_too_many_are_forgotten_but_for_the_one_in_use(tmp_path: Path) -> None:
    own = OwnState(tmp_path / "own", limit=300)
    for run in (1, 2, 3):
        own.put(run, run, values(run))
        own.settle(run, counted=True)
        os.utime(own.folder / str(run), (time.time() - 100 + run,) * 2)
    own.put(4, 4, values(4))  # each takes 140 bytes
    assert sorted(path.name for path in own.folder.iterdir()) == ["2", "3", "4"]
    long_ago = time.time() - KEPT_FOR - 1
    os.utime(own.folder / "4", (long_ago, long_ago))
    (own.folder / "4" / "4.123-456.new").write_bytes(b"a write that was killed")
    own.put(4, 5, values(5))
    assert sorted(path.name for path in (own.folder / "4").iterdir()) == ["4", "5"]
    os.utime(own.folder / "4", (long_ago, long_ago))
    own.put(5, 6, values(6))
    assert not (own.folder / "4").exists()
