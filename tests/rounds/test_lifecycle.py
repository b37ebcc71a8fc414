"""The life of a round, told by those who live it."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import numpy as np
import pytest

from journal.models import Event
from models_app import registry
from models_app.evaluation import Evaluation
from models_app.models import Model, ModelVersion
from rounds import clock, enrolment, leases, lifecycle, selectors, stopping
from rounds.errors import IllegalMove, ModelBusy, RoundClosed, RulesInvalid
from rounds.models import Assignment, Round, Run
from tests.rounds.conftest import Enrolled
from tests.rounds.updates import all_check_in, carry, send, served_weights, update_bytes, upload

pytestmark = pytest.mark.django_db

Enrol = Callable[..., Enrolled]
KERNEL = np.array([1, 2, 3, 4, 5, 6, 0, 0, 0], dtype=np.float32)


def started(model: Model, **rules: Any) -> Round:
    return lifecycle.start_run(lifecycle.create_run(model, actor="bob", **rules).pk, actor="bob")


def let_the_deadline_pass(round_: Round) -> None:
    Round.objects.filter(pk=round_.pk).update(deadline=clock.now() - timedelta(seconds=1))


def everyone_uploads(*everyone: Enrolled, value: float = 1.0) -> None:
    all_check_in(*everyone)
    for one in everyone:
        upload(one, value=value)


def state_of(one: Enrolled) -> str:
    return Assignment.objects.filter(participant=one.participant).latest("id").state


def kinds(**subjects: int) -> list[str]:
    return list(Event.objects.filter(**subjects).order_by("id").values_list("kind", flat=True))


def test_a_round_from_open_to_published(tiny_model: Model, enrolled: Enrol) -> None:
    charlie, dora, emil = enrolled("charlie"), enrolled("dora"), enrolled("emil")
    round_ = started(tiny_model, rounds_planned=1)
    assert round_.phase == "selecting"

    first = lifecycle.check_in(charlie.participant)
    assert isinstance(first, lifecycle.Wait)
    assert first.reason == "selecting"
    lifecycle.check_in(dora.participant)
    assert isinstance(lifecycle.check_in(emil.participant), Assignment)

    upload(charlie, value=1.0, samples=100)
    upload(dora, value=2.0, samples=200)
    assert not lifecycle.step(round_.pk)  # the target of three is not reached
    upload(emil, value=3.0, samples=300)
    carry(round_)

    assert round_.phase == "published"
    # (100 * 1 + 200 * 2 + 300 * 3) / 600 = 7 / 3
    np.testing.assert_array_equal(served_weights(tiny_model), KERNEL + np.float32(7 / 3))
    assert round_.version is not None
    assert (round_.version.number, round_.version.origin) == (2, "round")
    assert round_.version.parent == round_.base
    assert Run.objects.get().state == "completed"
    assert kinds(round=round_.pk)[:3] == [
        "round.opened",
        "assignment.invited",
        "assignment.invited",
    ]
    assert [kind for kind in kinds(round=round_.pk) if kind.startswith("round.")] == [
        "round.opened",
        "round.training",
        "round.aggregating",
        "round.evaluating",
        "round.published",
    ]


def test_a_run_opens_its_next_round_by_itself_from_the_new_version(
    tiny_model: Model, enrolled: Enrol
) -> None:
    everyone = enrolled("charlie"), enrolled("dora")
    round_ = started(tiny_model, rounds_planned=2)
    all_check_in(*everyone)
    for one in everyone:
        upload(one, value=1.0)
    first = carry(round_)

    second = Round.objects.get(number=2)
    assert second.base == first.version
    all_check_in(*everyone)
    for one in everyone:
        upload(one, value=0.5)
    carry(second)
    np.testing.assert_array_equal(served_weights(tiny_model), KERNEL + np.float32(1.5))
    assert [line["version"] for line in selectors.run_report(second.run)] == [2, 3]


def test_a_run_stops_early_once_its_metric_is_reached() -> None:
    run = Run(until_metric="accuracy", until_value=0.9)
    assert stopping.is_reached(run, {"accuracy": 0.9})
    assert not stopping.is_reached(run, {"accuracy": 0.89})
    run = Run(until_metric="loss", until_value=0.1)
    assert stopping.is_reached(run, {"loss": 0.05})
    assert not stopping.is_reached(run, {"accuracy": 1.0})


def test_who_comes_first_trains_at_once_and_uploads_count_already(
    tiny_model: Model, enrolled: Enrol
) -> None:
    charlie, dora, emil = enrolled("charlie"), enrolled("dora"), enrolled("emil")
    round_ = started(
        tiny_model, selection="first_come", cohort_goal=2, over_selection=1.0, rounds_planned=1
    )
    assert isinstance(lifecycle.check_in(charlie.participant), Assignment)
    upload(charlie)
    round_.refresh_from_db()
    assert round_.phase == "selecting"
    assert isinstance(lifecycle.check_in(dora.participant), Assignment)
    round_.refresh_from_db()
    assert round_.phase == "training"
    answer = lifecycle.check_in(emil.participant)
    assert isinstance(answer, lifecycle.Wait)
    assert answer.reason == "not_selected"
    upload(dora)
    assert carry(round_).phase == "published"


def test_the_smallest_fraction_waits_for_everyone_and_does_not_overflow(
    tiny_model: Model, enrolled: Enrol
) -> None:
    charlie, dora = enrolled("charlie"), enrolled("dora")
    started(tiny_model, selection="random", fraction=5e-324, cohort_goal=2)
    assert isinstance(lifecycle.check_in(charlie.participant), lifecycle.Wait)
    assert isinstance(lifecycle.check_in(dora.participant), Assignment)


def test_who_was_suspended_since_it_asked_does_not_come_first(
    tiny_model: Model, enrolled: Enrol
) -> None:
    charlie = enrolled("charlie")
    started(tiny_model, selection="first_come", cohort_goal=2)
    enrolment.suspend(charlie.participant, actor="bob")
    assert isinstance(lifecycle.check_in(charlie.participant), lifecycle.Wait)
    assert not Assignment.objects.exists()


def test_over_selection_invites_more_and_the_slowest_is_late(
    tiny_model: Model, enrolled: Enrol
) -> None:
    charlie, dora, emil = enrolled("charlie"), enrolled("dora"), enrolled("emil")
    round_ = started(tiny_model, selection="first_come", cohort_goal=2, over_selection=1.5)
    for one in (charlie, dora, emil):
        assert isinstance(lifecycle.check_in(one.participant), Assignment)
    mine = Assignment.objects.get(participant=emil.participant)
    lifecycle.report(emil.participant, mine.pk, activity="training", fraction=0.1)
    upload(charlie)
    upload(dora)
    carry(round_)
    assert state_of(emil) == "late"
    with pytest.raises(RoundClosed, match="late in a round that is published"):
        send(emil, mine, update_bytes(tiny_model, 1.0))


def test_a_random_round_takes_a_fraction_and_the_same_seed_takes_the_same(
    tiny_model: Model, enrolled: Enrol
) -> None:
    everyone = [enrolled(f"participant {number}") for number in range(10)]
    round_ = started(tiny_model, selection="random", fraction=0.4, over_selection=1.0, seed=7)
    all_check_in(*everyone)
    round_.refresh_from_db()
    assert round_.phase == "training"
    assert round_.target == 4
    chosen = list(round_.assignments.values_list("participant", flat=True))
    assert len(chosen) == 4

    lifecycle.stop_run(round_.run_id)
    again = started(tiny_model, selection="random", fraction=0.4, over_selection=1.0, seed=7)
    all_check_in(*everyone)
    assert list(again.assignments.values_list("participant", flat=True)) == chosen


def test_a_round_selects_with_those_who_came_when_the_time_is_over(
    tiny_model: Model, enrolled: Enrol
) -> None:
    charlie, dora, _ = enrolled("charlie"), enrolled("dora"), enrolled("emil")
    round_ = started(tiny_model)
    all_check_in(charlie, dora)
    assert not lifecycle.step(round_.pk)
    let_the_deadline_pass(round_)
    carry(round_)
    assert round_.phase == "training"
    assert (state_of(charlie), state_of(dora), round_.target) == ("invited", "invited", 2)


def test_a_round_without_enough_participants_fails_and_is_tried_again_later(
    tiny_model: Model, enrolled: Enrol
) -> None:
    charlie = enrolled("charlie")
    round_ = started(tiny_model, retries=1, retry_seconds=5)
    lifecycle.check_in(charlie.participant)
    let_the_deadline_pass(round_)
    carry(round_)
    assert (round_.phase, round_.code) == ("failed", "not_enough_participants")
    assert "Only 1 of at least 2" in round_.reason

    run = Run.objects.get()
    assert (run.state, run.failures) == ("running", 1)
    assert lifecycle.due() == ([], [])  # it backs off
    Run.objects.update(next_round_at=clock.now())
    assert lifecycle.due() == ([], [run.pk])
    assert lifecycle.advance(run.pk)
    assert not lifecycle.advance(run.pk)

    second = Round.objects.get(number=2)
    let_the_deadline_pass(second)
    carry(second)
    run.refresh_from_db()
    assert run.state == "failed"
    assert "2 rounds failed in a row" in run.reason


def test_a_round_does_not_train_with_fewer_than_its_quorum(
    tiny_model: Model, enrolled: Enrol
) -> None:
    everyone = [enrolled(name) for name in ("charlie", "dora")]
    round_ = started(tiny_model, cohort_min=1, quorum=3)
    all_check_in(*everyone)
    assert carry(round_).phase == "selecting"  # a third may enrol yet
    everyone.append(enrolled("emil"))
    all_check_in(*everyone)
    assert carry(round_).phase == "training"


def test_back_off_doubles_with_each_failure(tiny_model: Model) -> None:
    round_ = started(tiny_model, retries=5, retry_seconds=10)
    pauses = []
    for _ in range(3):
        round_ = Round.objects.latest("number")
        let_the_deadline_pass(round_)
        carry(round_)
        pauses.append(Event.objects.filter(kind="run.retrying").latest("id").data["seconds"])
        Run.objects.update(next_round_at=clock.now())
        lifecycle.advance(round_.run_id)
    assert pauses == [10, 20, 40]


def test_the_deadline_publishes_with_quorum_and_without_one_it_fails(
    tiny_model: Model, enrolled: Enrol
) -> None:
    charlie, dora, emil = enrolled("charlie"), enrolled("dora"), enrolled("emil")
    round_ = started(tiny_model, quorum=2)
    all_check_in(charlie, dora, emil)
    upload(charlie)
    upload(dora)
    assert not lifecycle.step(round_.pk)
    let_the_deadline_pass(round_)
    assert carry(round_).phase == "published"
    assert state_of(emil) == "lost"  # not a word came from it

    second = Round.objects.get(number=2)
    all_check_in(charlie, dora, emil)
    upload(charlie)
    let_the_deadline_pass(second)
    carry(second)
    assert (second.phase, second.code) == ("failed", "quorum_not_met")
    assert state_of(charlie) == "rejected"
    assert served_weights(tiny_model)[0] == 2.0  # round 1's version is still served


def test_a_round_that_can_no_longer_reach_quorum_fails_at_once(
    tiny_model: Model, enrolled: Enrol
) -> None:
    charlie, dora = enrolled("charlie"), enrolled("dora")
    round_ = started(tiny_model)
    mine, _ = all_check_in(charlie, dora)
    lifecycle.fail(charlie.participant, mine.pk, code="out_of_memory", reason="Out of memory")
    carry(round_)
    assert (round_.phase, round_.code) == ("failed", "quorum_not_met")
    assert Assignment.objects.get(pk=mine.pk).code == "out_of_memory"


def test_when_nobody_trains_any_more_the_round_does_not_wait(
    tiny_model: Model, enrolled: Enrol
) -> None:
    charlie, dora, emil = enrolled("charlie"), enrolled("dora"), enrolled("emil")
    round_ = started(tiny_model)
    *_, mine = all_check_in(charlie, dora, emil)
    upload(charlie)
    upload(dora)
    lifecycle.withdraw(emil.participant, mine.pk)
    lifecycle.withdraw(emil.participant, mine.pk)  # told twice: no error
    assert carry(round_).phase == "published"


def test_an_outsized_update_is_quarantined_and_the_others_count(
    tiny_model: Model, enrolled: Enrol
) -> None:
    everyone = [enrolled(name) for name in ("charlie", "dora", "emil", "mallory")]
    round_ = started(tiny_model, quarantine_factor=3.0, quorum=3)
    all_check_in(*everyone)
    for one, value in zip(everyone, (1.0, 1.0, 1.0, 100.0), strict=True):
        upload(one, value=value)
    carry(round_)
    # Norms are 3, 3, 3 and 300: the median is 3, the limit 9.
    assert state_of(everyone[3]) == "quarantined"
    mallory = Assignment.objects.get(participant=everyone[3].participant)
    assert "Its norm is 300, and at most 9 (3 times" in mallory.reason
    np.testing.assert_array_equal(served_weights(tiny_model), KERNEL + 1)


@pytest.mark.parametrize(
    ("norms", "factor", "limit"),
    [
        ([1.0, 2.0, 3.0], 2.0, 4.0),
        ([1.0, 2.0, 3.0, 4.0], 2.0, 5.0),
        ([1.0, 100.0], 2.0, float("inf")),  # of two, who is right?
        ([0.0, 0.0, 5.0], 2.0, float("inf")),
        ([1.0, 2.0, 3.0], 0.0, float("inf")),
    ],
)
def test_the_norm_limit(norms: list[float], factor: float, limit: float) -> None:
    assert lifecycle.norm_limit(norms, factor) == limit


@pytest.mark.parametrize(
    ("metric", "before", "measured", "passes"),
    [
        ("accuracy", {"accuracy": 0.9}, {"accuracy": 0.71}, True),
        ("accuracy", {"accuracy": 0.9}, {"accuracy": 0.69}, False),
        ("loss", {"loss": 0.5}, {"loss": 0.69}, True),
        ("loss", {"loss": 0.5}, {"loss": 0.71}, False),
        ("accuracy", {}, {"accuracy": 0.1}, True),
        ("", {"accuracy": 0.9}, {"accuracy": 0.1}, True),
        ("accuracy", {}, {"loss": float("nan")}, False),
    ],
)
def test_the_gate(
    metric: str, before: dict[str, float], measured: dict[str, float], passes: bool
) -> None:
    refusal = lifecycle.gate(metric, 0.2, before, measured)
    assert bool(refusal) != passes


def test_a_version_that_fails_the_gate_is_rejected_and_the_old_one_stays_served(
    tiny_model: Model, enrolled: Enrol
) -> None:
    everyone = enrolled("charlie"), enrolled("dora")
    round_ = started(tiny_model)
    everyone_uploads(*everyone)
    assert lifecycle.step(round_.pk)  # closed
    assert lifecycle.step(round_.pk)  # aggregated
    with leases.hold(round_.pk, "evaluating") as lease:
        assert lease is not None
        lifecycle._publish(round_.pk, lease, {"accuracy": 0.9}, Evaluation({"accuracy": 0.1}))
    round_.refresh_from_db()
    assert (round_.phase, round_.code) == ("failed", "gate")
    assert ModelVersion.objects.get(number=2).stage == "rejected"
    np.testing.assert_array_equal(served_weights(tiny_model), KERNEL)


def evaluating(model: Model, enrolled: Enrol, **rules: Any) -> Round:
    """A round whose version waits for its evaluation."""
    round_ = started(model, **rules)
    everyone_uploads(enrolled("charlie"), enrolled("dora"))
    assert lifecycle.step(round_.pk)  # closed
    assert lifecycle.step(round_.pk)  # aggregated
    round_.refresh_from_db()
    assert round_.phase == "evaluating"
    return round_


def candidate_of(round_: Round) -> ModelVersion:
    assert round_.version is not None
    return round_.version


def test_a_version_that_an_operator_published_by_hand_does_not_hold_its_round(
    tiny_model: Model, enrolled: Enrol
) -> None:
    round_ = evaluating(tiny_model, enrolled)
    registry.publish(candidate_of(round_), actor="bob", reason="no worker evaluates it")
    lifecycle.stop_run(round_.run_id, actor="bob")
    round_.refresh_from_db()
    assert (round_.phase, round_.run.state) == ("cancelled", "stopped")
    assert candidate_of(round_).stage == "published"  # bob's decision stands


def test_a_round_whose_version_was_published_by_hand_and_replaced_fails(
    tiny_model: Model, enrolled: Enrol
) -> None:
    round_ = evaluating(tiny_model, enrolled)
    registry.publish(candidate_of(round_), actor="bob")
    registry.roll_back(tiny_model, ModelVersion.objects.get(pk=round_.base.pk), actor="bob")
    assert carry(round_).phase == "failed"
    assert round_.code == "base_replaced"
    np.testing.assert_array_equal(served_weights(tiny_model), KERNEL)


def test_a_round_whose_version_was_rejected_by_hand_fails_at_once(
    tiny_model: Model, enrolled: Enrol
) -> None:
    round_ = evaluating(tiny_model, enrolled)
    registry.reject(candidate_of(round_), actor="bob", reason="charlie's data were wrong")
    assert carry(round_).phase == "failed"
    assert (round_.code, round_.attempts) == ("version_rejected", 0)
    np.testing.assert_array_equal(served_weights(tiny_model), KERNEL)


def test_a_round_does_not_overwrite_a_roll_back_that_came_meanwhile(
    tiny_model: Model, enrolled: Enrol
) -> None:
    everyone = enrolled("charlie"), enrolled("dora")
    first = started(tiny_model)
    everyone_uploads(*everyone)
    carry(first)
    second = Round.objects.get(number=2)
    all_check_in(*everyone)
    registry.roll_back(tiny_model, first.base, actor="alice", reason="it got worse")
    everyone_uploads(*everyone)
    carry(second)
    assert (second.phase, second.code) == ("failed", "base_replaced")
    np.testing.assert_array_equal(served_weights(tiny_model), KERNEL)


def test_numbers_that_overflow_fail_the_round_and_reach_nobody(
    tiny_model: Model, enrolled: Enrol
) -> None:
    everyone = enrolled("charlie"), enrolled("dora")
    largest = float(np.finfo(np.float32).max)
    first = started(tiny_model)
    everyone_uploads(*everyone, value=largest)
    assert carry(first).phase == "published"
    second = Round.objects.get(number=2)
    everyone_uploads(*everyone, value=largest)
    carry(second)
    assert (second.phase, second.code) == ("failed", "aggregation_failed")
    assert np.isfinite(served_weights(tiny_model)).all()


def test_an_operator_pauses_resumes_and_stops(tiny_model: Model, enrolled: Enrol) -> None:
    everyone = enrolled("charlie"), enrolled("dora")
    round_ = started(tiny_model)
    lifecycle.pause_run(round_.run_id, actor="bob", reason="lunch")
    everyone_uploads(*everyone)
    assert carry(round_).phase == "published"  # the current round finishes
    assert not Round.objects.filter(number=2).exists()
    assert lifecycle.due() == ([], [])

    lifecycle.resume_run(round_.run_id, actor="bob")
    second = Round.objects.get(number=2)
    all_check_in(*everyone)
    lifecycle.stop_run(round_.run_id, actor="bob", reason="enough")
    second.refresh_from_db()
    assert (second.phase, second.run.state) == ("cancelled", "stopped")
    line = Event.objects.get(kind="run.stopped")
    assert (line.actor, line.reason) == ("bob", "enough")
    for verb in (lifecycle.pause_run, lifecycle.resume_run, lifecycle.stop_run):
        with pytest.raises(IllegalMove, match="stopped"):
            verb(round_.run_id, actor="bob")


def test_an_operator_closes_a_round_now_but_not_without_quorum(
    tiny_model: Model, enrolled: Enrol
) -> None:
    charlie, dora, emil = enrolled("charlie"), enrolled("dora"), enrolled("emil")
    round_ = started(tiny_model)
    all_check_in(charlie, dora, emil)
    upload(charlie)
    with pytest.raises(IllegalMove, match=r"at least 2 updates\. Received: 1"):
        lifecycle.close_round(round_.pk, actor="bob")
    upload(dora)
    assert lifecycle.close_round(round_.pk, actor="bob", reason="it is late")
    assert carry(round_).phase == "published"


def test_a_cancelled_round_gives_way_to_the_next(tiny_model: Model, enrolled: Enrol) -> None:
    charlie, dora = enrolled("charlie"), enrolled("dora")
    round_ = started(tiny_model)
    all_check_in(charlie, dora)
    upload(charlie)
    lifecycle.cancel_round(round_.pk, actor="bob", reason="wrong settings")
    assert (state_of(charlie), state_of(dora)) == ("rejected", "late")
    assert Round.objects.get(number=2).phase == "selecting"
    with pytest.raises(IllegalMove):
        lifecycle.cancel_round(round_.pk, actor="bob")


def test_a_participants_seed_does_not_depend_on_who_enrolled_first(
    tiny_model: Model, enrolled: Enrol
) -> None:
    def seeds(*everyone: Enrolled) -> dict[str, int]:
        round_ = started(tiny_model, seed=7)
        all_check_in(*everyone)
        found = dict(round_.assignments.values_list("participant__name", "seed"))
        lifecycle.stop_run(round_.run_id)
        for one in everyone:
            enrolment.revoke(one.participant)
        return found

    first = seeds(enrolled("charlie"), enrolled("dora"))
    again = seeds(enrolled("dora"), enrolled("charlie"))
    assert first == again
    assert first["charlie"] != first["dora"]


def test_one_model_has_one_active_run(tiny_model: Model) -> None:
    started(tiny_model)
    other = lifecycle.create_run(tiny_model)
    with pytest.raises(ModelBusy):
        lifecycle.start_run(other.pk)
    other.refresh_from_db()
    assert other.state == "draft"


def test_a_participant_that_was_killed_gets_the_same_assignment_again(
    tiny_model: Model, enrolled: Enrol
) -> None:
    charlie, dora = enrolled("charlie"), enrolled("dora")
    started(tiny_model)
    mine, _ = all_check_in(charlie, dora)
    assert lifecycle.check_in(charlie.participant) == mine


def test_a_suspended_participant_loses_its_place_and_is_not_waited_for(
    tiny_model: Model, enrolled: Enrol
) -> None:
    charlie, dora, emil = enrolled("charlie"), enrolled("dora"), enrolled("emil")
    round_ = started(tiny_model)
    all_check_in(charlie, dora, emil)
    enrolment.suspend(emil.participant, actor="bob", reason="strange updates")
    assert state_of(emil) == "failed"
    upload(charlie)
    upload(dora)
    assert carry(round_).phase == "published"
    second = Round.objects.get(number=2)
    all_check_in(charlie, dora)
    second.refresh_from_db()
    assert second.phase == "training"


def test_a_participant_with_data_for_another_model_is_not_given_its_old_place(
    tiny_model: Model, enrolled: Enrol
) -> None:
    charlie, dora = enrolled("charlie"), enrolled("dora")
    started(tiny_model)
    mine, _ = all_check_in(charlie, dora)
    assert isinstance(lifecycle.check_in(charlie.participant, ["another"]), lifecycle.Wait)
    assert lifecycle.check_in(charlie.participant, ["tiny"]) == mine


def test_a_participant_without_data_for_the_model_is_not_asked(
    tiny_model: Model, enrolled: Enrol
) -> None:
    charlie = enrolled("charlie")
    started(tiny_model)
    answer = lifecycle.check_in(charlie.participant, models=["another"])
    assert isinstance(answer, lifecycle.Wait)
    assert answer.reason == "no_open_round"


def test_a_killed_workers_lease_runs_out_and_another_takes_over(
    tiny_model: Model, enrolled: Enrol
) -> None:
    everyone = enrolled("charlie"), enrolled("dora")
    round_ = started(tiny_model)
    everyone_uploads(*everyone)
    lifecycle.step(round_.pk)
    Round.objects.filter(pk=round_.pk).update(
        lease="a killed worker's", lease_expires_at=clock.now() + timedelta(seconds=60), attempts=1
    )
    assert not lifecycle.aggregate(round_.pk)  # held
    assert lifecycle.due() == ([], [])
    Round.objects.filter(pk=round_.pk).update(lease_expires_at=clock.now() - timedelta(seconds=1))
    assert lifecycle.due() == ([round_.pk], [])
    assert carry(round_).phase == "published"


def test_a_worker_that_overslept_is_fenced_off(
    tiny_model: Model, enrolled: Enrol, monkeypatch: pytest.MonkeyPatch
) -> None:
    everyone = enrolled("charlie"), enrolled("dora")
    round_ = started(tiny_model)
    everyone_uploads(*everyone)
    lifecycle.step(round_.pk)
    fold = lifecycle._fold

    def sleepy_fold(held: Round, setting: Any) -> Any:
        Round.objects.filter(pk=held.pk).update(lease="another worker's")
        return fold(held, setting)

    monkeypatch.setattr(lifecycle, "_fold", sleepy_fold)
    assert not lifecycle.aggregate(round_.pk)
    round_.refresh_from_db()
    assert (round_.phase, round_.version) == ("aggregating", None)
    assert ModelVersion.objects.count() == 1


def test_a_round_whose_workers_all_die_fails_in_the_end(
    tiny_model: Model, enrolled: Enrol, monkeypatch: pytest.MonkeyPatch
) -> None:
    everyone = enrolled("charlie"), enrolled("dora")
    round_ = started(tiny_model)
    everyone_uploads(*everyone)
    lifecycle.step(round_.pk)

    def broken_fold(*_: Any) -> Any:
        raise OSError("the disk is gone")

    monkeypatch.setattr(lifecycle, "_fold", broken_fold)
    for _ in range(leases.MAX_ATTEMPTS):
        with pytest.raises(OSError, match="the disk is gone"):
            lifecycle.step(round_.pk)
    carry(round_)
    assert (round_.phase, round_.code) == ("failed", "aggregating_failed")
    assert "tried 5 times: OSError: the disk is gone" in round_.reason


def test_a_round_that_no_worker_evaluates_fails_in_the_end(
    tiny_model: Model, enrolled: Enrol
) -> None:
    """Its model has an evaluation set, and no worker with Keras runs."""
    Model.objects.filter(pk=tiny_model.pk).update(evaluation_set="0" * 64)
    round_ = started(tiny_model)
    everyone_uploads(enrolled("charlie"), enrolled("dora"))
    assert carry(round_).phase == "evaluating"
    assert lifecycle.needs_keras(round_.pk)
    let_the_deadline_pass(round_)
    carry(round_)
    assert (round_.phase, round_.code) == ("failed", "evaluating_timed_out")
    assert "does one run?" in round_.reason
    assert ModelVersion.objects.get(number=2).stage == "rejected"


def test_a_lease_is_not_renewed_past_the_deadline_and_a_hung_worker_is_given_up(
    tiny_model: Model, enrolled: Enrol, settings: Any
) -> None:
    round_ = started(tiny_model)
    everyone_uploads(enrolled("charlie"), enrolled("dora"))
    lifecycle.step(round_.pk)
    with leases.hold(round_.pk, "aggregating") as lease:
        assert lease is not None
        let_the_deadline_pass(round_)
        assert not lifecycle.step(round_.pk)  # still held
        Round.objects.filter(pk=round_.pk).update(
            lease_expires_at=clock.now() - timedelta(seconds=1)
        )
        carry(round_)
    assert (round_.phase, round_.code) == ("failed", "aggregating_timed_out")


def test_a_step_is_harmless_when_it_comes_twice(tiny_model: Model, enrolled: Enrol) -> None:
    everyone = enrolled("charlie"), enrolled("dora")
    round_ = started(tiny_model, rounds_planned=1)
    everyone_uploads(*everyone)
    carry(round_)
    lines = Event.objects.count()
    for verb in (lifecycle.step, lifecycle.aggregate, lifecycle.evaluate, lifecycle.close_round):
        assert not verb(round_.pk)
    assert Event.objects.count() == lines


@pytest.mark.parametrize(
    ("rules", "field"),
    [
        ({"rounds_planned": 0}, "rounds_planned"),
        ({"strategy": "magic"}, "strategy"),
        ({"strategy_options": {"magic": 1}}, "strategy_options.magic"),
        ({"selection": "nobody"}, "selection"),
        ({"selection": "first_come"}, "cohort_goal"),
        ({"fraction": 0.0}, "fraction"),
        ({"over_selection": 0.9}, "over_selection"),
        ({"cohort_goal": 1, "cohort_min": 2}, "cohort_goal"),
        ({"cohort_goal": 5, "quorum": 6}, "quorum"),
        ({"target": 1, "quorum": 2}, "target"),
        ({"cohort_goal": 10, "target": 14}, "target"),
        ({"training_seconds": 0}, "training_seconds"),
        ({"until_metric": "accuracy"}, "until_value"),
        ({"hyperparameters": {"epochs": 0}}, "hyperparameters.epochs"),
        ({"hyperparameters": {"epochs": True}}, "hyperparameters.epochs"),
        ({"hyperparameters": {"learning_rate": float("nan")}}, "hyperparameters.learning_rate"),
        ({"hyperparameters": {"optimizer": "magic"}}, "hyperparameters.optimizer"),
        ({"hyperparameters": {"magic": 1}}, "hyperparameters"),
    ],
)
def test_rules_that_make_no_sense_are_refused_with_their_field(
    tiny_model: Model, rules: dict[str, Any], field: str
) -> None:
    with pytest.raises(RulesInvalid, match="Received: ") as caught:
        lifecycle.create_run(tiny_model, **rules)
    assert caught.value.field == field
    assert not Run.objects.exists()
