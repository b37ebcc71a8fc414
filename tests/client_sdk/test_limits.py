"""What alice allows, whatever a server says: her limits are checked here, before what leaves."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import httpx
import numpy as np
import pytest

from client_sdk.errors import Declined, LimitReached, ProfileInvalid
from client_sdk.ledger import Today
from client_sdk.limits import Limits
from client_sdk.participant import Participant
from client_sdk.participation import Event
from client_sdk.protocol import Assignment
from client_sdk.testing import FakeServer, FakeTrainer

Data = tuple[np.ndarray, np.ndarray]

EVENING = datetime(2026, 3, 28, 23, 0).astimezone()


class Told:
    """The events, and an end when there were so many of a kind."""

    def __init__(self, end_at: str = "", times: int = 1) -> None:
        self.events: list[Event] = []
        self._end_at, self._times = end_at, times

    def __call__(self, event: Event) -> None:
        self.events.append(event)

    def over(self) -> bool:
        return self.kinds().count(self._end_at) >= self._times

    def kinds(self) -> list[str]:
        return [event.kind for event in self.events]

    def one(self, kind: str) -> Event:
        [event] = [event for event in self.events if event.kind == kind]
        return event


def take_part(
    alice: Participant, data: Any, end_at: str, times: int = 1, **options: Any
) -> tuple[Told, FakeTrainer]:
    """Alice takes part until she was told something so many times."""
    told, trainer = Told(end_at, times), FakeTrainer()
    ours: dict[str, Any] = {"trainer": trainer, "on_event": told, "until": told.over}
    alice.participate(data, **ours | options)
    return told, trainer


class TestLimits:
    def test_are_none_at_first_but_that_there_are_data(self, alice: Participant) -> None:
        assert alice.limits == Limits()
        assert alice.limits.to_json() == {
            "samples_at_least": 1,
            "rounds_per_day": None,
            "cohort_at_least": None,
            "seconds_per_round": None,
            "models": None,
            "share_metrics": True,
        }

    def test_are_kept_in_the_profile_for_its_owner_alone(self, alice: Participant) -> None:
        mine = Limits(20, 5, 10, 60.5, ("digits",), share_metrics=False)
        alice.limits = mine
        assert Participant.load("alice").limits == mine
        assert (alice.profile.folder / "limits.json").stat().st_mode & 0o777 == 0o600

    @pytest.mark.parametrize(
        "content",
        ["", "[]", '{"rounds_per_week": 1}', '{"rounds_per_day": -1}', '{"models": 5}', "\0"],
    )
    def test_that_cannot_be_read_are_not_taken_for_none(
        self, alice: Participant, server: FakeServer, data: Data, content: str
    ) -> None:
        (alice.profile.folder / "limits.json").write_text(content)
        server.open_round()
        with pytest.raises(ProfileInvalid, match="limits"):
            alice.participate(data, rounds=1, trainer=FakeTrainer())
        assert not any("check-in" in line for line in server.requests)

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("samples_at_least", 0),
            ("samples_at_least", True),
            ("samples_at_least", 1.5),
            ("rounds_per_day", -1),
            ("cohort_at_least", 0),
            ("seconds_per_round", 0),
            ("seconds_per_round", float("nan")),
            ("models", "digits"),
            ("models", ["../digits"]),
            ("models", ["digits@not-a-digest"]),
            ("models", ["digits"] * 101),
            ("share_metrics", "no"),
        ],
    )
    def test_are_sensible(self, name: str, value: Any) -> None:
        with pytest.raises(ValueError, match=f"`{name}`.*Received: "):
            Limits(**{name: value})

    def test_set_while_alice_takes_part_hold_from_the_next_round_on(
        self, alice: Participant, server: FakeServer, data: Data
    ) -> None:
        server.open_round()

        def forbid(event: Event) -> None:
            if event.kind == "uploaded":
                alice.limits = Limits(models=())

        told = Told()
        take_part(alice, data, "", until=None, idle=0.3, on_event=Both(forbid, told))
        assert "limited" in told.kinds()
        assert len(server.updates) == 1

    def test_set_while_the_server_is_asked_hold_for_its_answer(
        self, alice: Participant, server: FakeServer, data: Data
    ) -> None:
        def set_them(request: httpx.Request) -> None:
            if request.url.path.endswith("check-in"):
                alice.limits = Limits(cohort_at_least=3)

        server.open_round()
        server.before.append(set_them)
        told = Told()
        take_part(alice, data, "", until=None, idle=0.3, on_event=told)
        assert "declined" in told.kinds()
        assert server.updates == []

    def test_of_the_call_may_be_made_of_those_of_the_profile_anew_each_round(
        self, alice: Participant, server: FakeServer, data: Data
    ) -> None:
        def with_many(kept: Limits) -> Limits:
            return replace(kept, samples_at_least=2)

        def forbid(event: Event) -> None:
            if event.kind == "uploaded":
                alice.limits = Limits(models=())

        server.open_round()
        told = Told()
        options: dict[str, Any] = {"limits": with_many, "on_event": Both(forbid, told)}
        take_part(alice, data, "", until=None, idle=0.3, **options)
        assert "limited" in told.kinds()
        assert len(server.updates) == 1

    def test_of_the_call_replace_those_of_the_profile(
        self, alice: Participant, server: FakeServer, data: Data
    ) -> None:
        alice.limits = Limits(samples_at_least=1000)
        server.open_round()
        assert alice.participate(data, rounds=1, limits=Limits(), trainer=FakeTrainer()).rounds == 1


class Both:
    def __init__(self, *listeners: Callable[[Event], object]) -> None:
        self._listeners = listeners

    def __call__(self, event: Event) -> None:
        for listener in self._listeners:
            listener(event)


class TestModels:
    def test_that_are_not_allowed_are_not_even_asked_for(
        self, alice: Participant, server: FakeServer, data: Data
    ) -> None:
        server.add_model("faces")
        server.open_round(model="faces")
        server.open_round(model="digits")
        alice.limits = Limits(models=("digits",))
        take_part(alice, data, "waiting")
        assert [update.assignment for update in server.updates] == [1]
        assert server._places[1].document["model"] == "digits"

    def test_of_a_server_that_does_not_listen_are_given_back(
        self, alice: Participant, server: FakeServer, data: Data
    ) -> None:
        deaf(server)
        server.add_model("faces")
        server.open_round(model="faces")
        alice.limits = Limits(models=("digits",))
        told, trainer = take_part(alice, data, "declined")
        assert told.one("declined").data["limit"] == "models"
        assert server.withdrawals == [(1, "limit_models")]
        assert not trainer.calls
        assert not any("models/" in line or "blobs/" in line for line in server.requests)

    def test_that_the_caller_did_not_want_are_given_back_as_well(
        self, alice: Participant, server: FakeServer, data: Data
    ) -> None:
        deaf(server)
        server.open_round()
        take_part(alice, data, "declined", model="faces")
        assert server.withdrawals == [(1, "limit_models")]

    def test_may_be_pinned_to_an_architecture(
        self, alice: Participant, server: FakeServer, data: Data
    ) -> None:
        digest = server._document["architecture_digest"]
        alice.limits = Limits(models=(f"digits@{digest[:8]}",))
        server.open_round()
        assert alice.participate(data, rounds=1, trainer=FakeTrainer()).rounds == 1
        alice.limits = Limits(models=(f"digits@{'0' * 64}",))
        server.open_round()
        told, _ = take_part(alice, data, "declined")
        assert told.one("declined").data["limit"] == "models"

    def test_none_allowed_is_nothing_to_ask_for(
        self, alice: Participant, server: FakeServer, data: Data, naps: list[float]
    ) -> None:
        server.open_round()
        alice.limits = Limits(models=("faces",))
        take_part(alice, data, "limited", model="digits")
        assert naps == [300.0]
        assert not any("check-in" in line for line in server.requests)


def deaf(server: FakeServer) -> None:
    """Let the server give out what nobody asked for."""

    def forget(request: httpx.Request) -> None:
        if request.url.path.endswith("check-in"):
            request._content = b'{"wait": 0}'

    server.before.append(forget)


class TestTheCohort:
    @pytest.mark.parametrize("quorum", [None, 1, 9])
    def test_too_small_or_unknown_is_refused_before_anything_is_fetched(
        self, alice: Participant, server: FakeServer, data: Data, quorum: int | None
    ) -> None:
        server.quorum = quorum
        alice.limits = Limits(cohort_at_least=10)
        server.open_round()
        told, trainer = take_part(alice, data, "declined")
        assert server.withdrawals == [(1, "limit_cohort_at_least")]
        assert told.one("declined").data["limit"] == "cohort_at_least"
        assert not trainer.calls
        assert not any("blobs/" in line for line in server.requests)

    def test_large_enough_is_not(self, alice: Participant, server: FakeServer, data: Data) -> None:
        server.quorum = 10
        alice.limits = Limits(cohort_at_least=10)
        server.open_round()
        assert alice.participate(data, rounds=1, trainer=FakeTrainer()).rounds == 1


class TestSamples:
    def test_too_few_are_not_trained_with_and_not_told(
        self, alice: Participant, server: FakeServer, data: Data
    ) -> None:
        bodies: list[bytes] = []

        def read(request: httpx.Request) -> None:
            if "assignments/" in request.url.path:
                bodies.append(request.content + request.url.query)

        server.before.append(read)
        alice.limits = Limits(samples_at_least=11)
        server.open_round()
        told, trainer = take_part(alice, data, "declined")
        assert server.withdrawals == [(1, "limit_samples_at_least")]
        assert "Received: 10" in told.one("declined").data["detail"]
        assert not trainer.calls
        assert bodies
        assert not any(b"10" in body for body in bodies)

    def test_that_a_trainer_left_out_count_as_well(
        self, alice: Participant, server: FakeServer, data: Data
    ) -> None:
        class Picky(FakeTrainer):
            def train(self, weights: Any, data: Data, *args: Any, **options: Any) -> Any:
                return super().train(weights, (data[0][:3], data[1][:3]), *args, **options)

        alice.limits = Limits(samples_at_least=10)
        server.open_round()
        take_part(alice, data, "declined", trainer=Picky())
        assert server.updates == []
        assert server.withdrawals == [(1, "limit_samples_at_least")]

    def test_of_an_update_that_was_trained_before_the_limit_was_set_count_too(
        self, alice: Participant, server: FakeServer
    ) -> None:
        server.open_round()
        parcel = trained(alice)
        alice.limits = Limits(samples_at_least=100)
        with pytest.raises(LimitReached):
            alice.upload(parcel)
        assert server.updates == []
        assert [entry.kind for entry in alice.log()] == ["enrolment", "versions"]


def trained(alice: Participant, metrics: dict[str, float] | None = None) -> Any:
    """An update in alice's outbox, of ten samples."""
    assignment = alice.check_in()
    assert isinstance(assignment, Assignment)
    _, weights = alice.download(assignment)
    result = FakeTrainer().train(weights, (np.zeros((10, 3)), np.zeros(10)), {}, 7)
    return alice.outbox.put(assignment, result.deltas, result.local, 10, metrics or {})


class TestRoundsADay:
    @pytest.fixture
    def clock(self, alice: Participant) -> list[datetime]:
        clock = [EVENING]
        alice.now = lambda: clock[0]
        return clock

    @pytest.fixture(autouse=True)
    def always_a_round(self, server: FakeServer) -> None:
        """A server that has another round whenever somebody asks."""

        def open_another(request: httpx.Request) -> None:
            if request.url.path.endswith("check-in"):
                server.open_round()

        server.before.append(open_another)

    def test_are_no_more_than_allowed_and_then_she_rests_until_midnight(
        self,
        alice: Participant,
        server: FakeServer,
        data: Data,
        clock: list[datetime],
        naps: list[float],
    ) -> None:
        alice.limits = Limits(rounds_per_day=2)
        told, _ = take_part(alice, data, "limited")
        assert len(server.updates) == 2
        assert told.one("limited").data["seconds"] == 3600
        assert naps == [30.0]  # there are verdicts to ask for
        server.judge(1, "rejected")
        server.judge(2, "rejected")
        asked = len(server.requests)
        told, _ = take_part(alice, data, "limited", 5)
        assert told.kinds().count("receipt") == 2
        assert naps[-1] == 300.0  # and in between she looks whether the limit was changed
        assert not any("check-in" in line for line in server.requests[asked:])

    def test_begin_anew_on_the_next_day(
        self, alice: Participant, server: FakeServer, data: Data, clock: list[datetime]
    ) -> None:
        alice.limits = Limits(rounds_per_day=2)
        take_part(alice, data, "limited")
        clock[0] += timedelta(hours=1)
        take_part(alice, data, "limited")
        assert len(server.updates) == 4

    def test_survive_a_restart(
        self, alice: Participant, server: FakeServer, data: Data, clock: list[datetime]
    ) -> None:
        alice.limits = Limits(rounds_per_day=2)
        take_part(alice, data, "uploaded")
        again = Participant(alice.profile, transport=server.transport, sleep=alice.sleep)
        again.now = alice.now
        take_part(again, data, "limited")
        assert len(server.updates) == 2

    def test_none_at_all_is_a_limit_too(
        self, alice: Participant, server: FakeServer, data: Data
    ) -> None:
        alice.limits = Limits(rounds_per_day=0)
        take_part(alice, data, "limited")
        assert server.updates == []

    def test_are_counted_before_they_leave(
        self, alice: Participant, server: FakeServer, data: Data, clock: list[datetime]
    ) -> None:
        """Killed as the first byte leaves: the count knows of it."""
        counted: list[int] = []

        def look(request: httpx.Request) -> None:
            if request.method == "PUT":
                counted.append(Today(alice.profile.folder, alice.now).count())

        server.before.append(look)
        take_part(alice, data, "uploaded", 2)
        assert counted == [1, 2]

    def test_let_the_update_go_that_was_counted_and_has_no_receipt(
        self, alice: Participant, server: FakeServer, data: Data, clock: list[datetime]
    ) -> None:
        server.before.clear()
        server.open_round()
        parcel = trained(alice)
        alice.today.add(parcel.manifest.assignment)  # and then she was killed
        alice.limits = Limits(rounds_per_day=1)
        told, trainer = take_part(alice, data, "uploaded")
        assert "resumed" in told.kinds()
        assert not trainer.calls
        assert alice.today.count() == 1

    def test_hold_for_another_assignment_than_the_one_that_waits_in_the_outbox(
        self, alice: Participant, server: FakeServer, data: Data, clock: list[datetime]
    ) -> None:
        """A server that gives a new place each time gets one update a day all the same."""
        server.before.clear()
        server.open_round()
        alice.today.add(trained(alice).manifest.assignment)
        server.open_round()
        alice.limits = Limits(rounds_per_day=1)
        _, trainer = take_part(alice, data, "limited")
        assert server.withdrawals == [(2, "limit_rounds_per_day")]
        assert not trainer.calls
        assert server.updates == []

    def test_that_are_tried_again_on_the_next_day_count_for_both(
        self, alice: Participant, server: FakeServer, data: Data, clock: list[datetime]
    ) -> None:
        alice.limits = Limits(rounds_per_day=1)

        def midnight(request: httpx.Request) -> None:
            if request.method == "PUT" and clock[0] == EVENING:
                clock[0] += timedelta(hours=2)
                raise httpx.ConnectError("refused", request=request)

        server.before.append(midnight)
        take_part(alice, data, "limited")
        assert len(server.updates) == 1
        assert Today(alice.profile.folder, lambda: clock[0]).count() == 1
        alice.now = lambda: clock[0]
        take_part(alice, data, "limited")
        assert len(server.updates) == 1

    def test_are_not_forgotten_when_the_clock_is_set_back(
        self, alice: Participant, server: FakeServer, data: Data, clock: list[datetime]
    ) -> None:
        alice.limits = Limits(rounds_per_day=1)
        take_part(alice, data, "limited")
        clock[0] -= timedelta(days=3)
        take_part(alice, data, "limited")
        assert len(server.updates) == 1
        clock[0] += timedelta(days=4)
        take_part(alice, data, "limited")
        assert len(server.updates) == 2

    def test_that_leave_while_the_clock_is_wrong_count_on_the_day_that_it_was(
        self, alice: Participant, server: FakeServer, data: Data, clock: list[datetime]
    ) -> None:
        alice.limits = Limits(rounds_per_day=2)
        take_part(alice, data, "uploaded")
        clock[0] -= timedelta(days=3)  # a machine that keeps no time starts anew
        take_part(alice, data, "limited")
        clock[0] += timedelta(days=3)
        take_part(alice, data, "limited")
        assert len(server.updates) == 2

    def test_are_not_counted_anew_when_their_file_is_damaged(
        self, alice: Participant, data: Data, clock: list[datetime]
    ) -> None:
        alice.limits = Limits(rounds_per_day=1)
        (alice.profile.folder / "today.json").write_text("{}")
        with pytest.raises(ProfileInvalid, match="today"):
            alice.participate(data, trainer=FakeTrainer())

    def test_are_held_where_summer_time_begins(
        self, alice: Participant, server: FakeServer, monkeypatch: pytest.MonkeyPatch, data: Data
    ) -> None:
        monkeypatch.setenv("TZ", "Europe/Berlin")
        time.tzset()
        try:
            noon = datetime(2026, 3, 29, 1, 0).astimezone()
            alice.now = lambda: noon
            alice.limits = Limits(rounds_per_day=0)
            told, _ = take_part(alice, data, "limited")
            assert told.one("limited").data["seconds"] == 22 * 3600  # that day has 23 hours
        finally:
            monkeypatch.undo()
            time.tzset()


class TestSeconds:
    def test_end_a_training_in_the_middle(
        self, alice: Participant, server: FakeServer, data: Data
    ) -> None:
        class Slow(FakeTrainer):
            def train(self, *args: Any, check: Any = None, **options: Any) -> Any:
                for _ in range(500):
                    time.sleep(0.01)
                    check()
                raise AssertionError

        alice.limits = Limits(seconds_per_round=0.05)
        server.open_round()
        take_part(alice, data, "declined", trainer=Slow())
        assert server.withdrawals == [(1, "limit_seconds_per_round")]
        assert server.updates == []

    def test_end_it_after_an_epoch_where_the_trainer_knows_no_better(
        self, alice: Participant, server: FakeServer, data: Data
    ) -> None:
        alice.limits = Limits(seconds_per_round=0.05)
        server.open_round()
        told = Told("declined")
        take_part(
            alice,
            data,
            "declined",
            trainer=FakeTrainer(epochs=10**4),
            on_event=Both(told, lambda event: time.sleep(0.01)),
            until=told.over,
        )
        assert server.withdrawals == [(1, "limit_seconds_per_round")]

    def test_are_told_to_a_trainer_that_can_end_earlier_with_what_it_has(
        self, alice: Participant, server: FakeServer, data: Data
    ) -> None:
        budgets: list[float] = []

        class Punctual(FakeTrainer):
            def train(self, *args: Any, seconds: float | None = None, **options: Any) -> Any:
                budgets.append(seconds or 0)
                return super().train(*args, **options)

        alice.limits = Limits(seconds_per_round=100)
        server.open_round()
        alice.participate(data, rounds=1, trainer=Punctual())
        assert 70 < budgets[0] <= 80

    def test_let_nothing_leave_when_they_are_over(
        self, alice: Participant, server: FakeServer, data: Data
    ) -> None:
        def dawdle(event: Event) -> None:
            if event.kind == "sending":
                time.sleep(0.1)

        alice.limits = Limits(seconds_per_round=0.08)
        server.open_round()
        told = Told("declined")
        take_part(alice, data, "declined", on_event=Both(told, dawdle), until=told.over)
        assert server.updates == []
        assert "uploading" not in told.kinds()
        assert server.withdrawals == [(1, "limit_seconds_per_round")]

    def test_hold_while_the_server_is_away_in_the_middle(
        self, alice: Participant, server: FakeServer, data: Data
    ) -> None:
        def refuse(request: httpx.Request) -> None:
            if "blobs/" in request.url.path:
                time.sleep(0.02)
                raise httpx.ConnectError("refused", request=request)

        server.before.append(refuse)
        alice.limits = Limits(seconds_per_round=0.6)
        server.open_round()
        take_part(alice, data, "declined")
        assert server.withdrawals == [(1, "limit_seconds_per_round")]


class TestMetrics:
    def test_that_are_not_shared_leave_nowhere(
        self, alice: Participant, server: FakeServer, data: Data
    ) -> None:
        alice.limits = Limits(share_metrics=False)
        server.open_round()
        told = Told("uploaded")

        def wait_for_the_report(event: Event) -> None:
            until = time.monotonic() + 5
            while event.kind == "epoch" and time.monotonic() < until:
                if any(report.get("epoch") == event.data["epoch"] for _, report in server.progress):
                    return
                time.sleep(0.01)

        summary = alice.participate(
            data, rounds=1, trainer=FakeTrainer(), on_event=Both(told, wait_for_the_report)
        )
        assert server.updates[0].manifest.metrics == {}
        assert server.progress
        assert not any("metrics" in report for _, report in server.progress)
        assert summary.metrics == {"loss": 0.5}  # alice sees them
        assert "metrics" not in told.one("sending").data

    def test_of_an_update_that_was_trained_before_do_not_leave_either(
        self, alice: Participant, server: FakeServer, data: Data
    ) -> None:
        server.open_round()
        trained(alice, {"loss": 0.25})
        alice.limits = Limits(share_metrics=False)
        told, _ = take_part(alice, data, "uploaded")
        assert "resumed" in told.kinds()
        assert server.updates[0].manifest.metrics == {}


class TestAServerThatDoesNotStop:
    def test_giving_out_what_alice_does_not_want_does_not_keep_her_busy(
        self, alice: Participant, server: FakeServer, data: Data, naps: list[float]
    ) -> None:
        def open_another(request: httpx.Request) -> None:
            if request.url.path.endswith("check-in"):
                server.open_round()

        server.before.append(open_another)
        alice.limits = Limits(cohort_at_least=100)
        take_part(alice, data, "declined", 10)
        assert naps[:4] == [1.0, 2.0, 4.0, 8.0]
        assert naps[-1] == 60.0

    def test_saying_that_each_round_is_closed_does_not_either(
        self, alice: Participant, server: FakeServer, data: Data, naps: list[float]
    ) -> None:
        def close(request: httpx.Request) -> None:
            if request.url.path.endswith("check-in"):
                server.open_round()
            elif request.method == "PUT":
                server.close_round()

        server.before.append(close)
        take_part(alice, data, "closed", 5)
        assert naps == [1.0, 2.0, 4.0, 8.0]


class TestWhatTheCallerDeclines:
    @pytest.mark.parametrize("kind", ["assigned", "downloading", "sending"])
    def test_is_given_back_and_the_next_round_is_taken(
        self, alice: Participant, server: FakeServer, data: Data, kind: str
    ) -> None:
        def decline(event: Event) -> None:
            if event.kind == kind and event.assignment and event.assignment.id == 1:
                raise Declined("not on a Monday")
            if event.kind == "waiting":
                server.open_round()

        server.open_round()
        summary = alice.participate(data, rounds=1, trainer=FakeTrainer(), on_event=decline)
        assert (summary.declined, summary.rounds) == (1, 1)
        assert server.withdrawals == [(1, "declined")]
        assert [update.assignment for update in server.updates] == [2]

    def test_at_the_last_moment_with_another_error_ends_it_and_nothing_left(
        self, alice: Participant, server: FakeServer, data: Data
    ) -> None:
        def no(event: Event) -> None:
            if event.kind == "sending":
                raise RuntimeError("never")

        server.open_round()
        with pytest.raises(RuntimeError, match="never"):
            alice.participate(data, trainer=FakeTrainer(), on_event=no)
        assert server.updates == []
        assert not any(entry.kind == "update" for entry in alice.log())
        assert alice.today.count() == 0
