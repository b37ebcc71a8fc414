"""Buffered asynchronous runs: who comes trains, and nobody is waited for but the buffer."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import numpy as np
import pytest

from journal.models import Event
from models_app import registry
from models_app.models import Model
from rounds import clock, enrolment, intake, lifecycle, selectors, tidying
from rounds.api import documents
from rounds.errors import RoundClosed, UpdateInvalid
from rounds.models import Assignment, Participant, Round, Run, Update
from rounds.round_state import round_state
from tests.rounds import doubles
from tests.rounds.conftest import Enrolled, tiny_package
from tests.rounds.test_lifecycle import KERNEL, let_the_deadline_pass
from tests.rounds.updates import admitted, carry, send, served_weights, update_bytes

pytestmark = pytest.mark.django_db

Enrol = Callable[..., Enrolled]


@pytest.fixture(autouse=True)
def _doubles(monkeypatch: pytest.MonkeyPatch) -> None:
    doubles.add(monkeypatch)


def buffered(model: Model, **rules: Any) -> Round:
    """The first round of a run in which three train at a time, and two updates make a version."""
    settings = {"concurrency": 3, "buffer_size": 2, "quorum": 1, "rounds_planned": 5} | rules
    run = lifecycle.create_run(model, kind="asynchronous", strategy="buffered", **settings)
    return lifecycle.start_run(run.pk, actor="bob")


def comes(one: Enrolled) -> Assignment:
    """Its assignment, which it gets at once."""
    told = lifecycle.check_in(one.participant)
    assert isinstance(told, Assignment), told
    return told


def waits(one: Enrolled) -> lifecycle.Wait:
    told = lifecycle.check_in(one.participant)
    assert isinstance(told, lifecycle.Wait), told
    return told


def sends(one: Enrolled, assignment: Assignment, value: float = 1.0) -> dict[str, Any]:
    mine = Assignment.objects.get(pk=assignment.pk)
    return send(one, mine, update_bytes(mine.round.run.model, value))


def now(assignment: Assignment) -> Assignment:
    return Assignment.objects.select_related("round", "base").get(pk=assignment.pk)


def test_who_comes_trains_at_once_while_there_is_room(tiny_model: Model, enrolled: Enrol) -> None:
    charlie, dora, emil, frida = map(enrolled, ("charlie", "dora", "emil", "frida"))
    round_ = buffered(tiny_model)
    assert (round_.phase, round_.number) == ("training", 1)
    round_.refresh_from_db()
    assert round_.target == 2
    mine = comes(charlie)
    assert comes(charlie) == mine  # the same one again
    comes(dora)
    comes(emil)
    told = waits(frida)
    assert (told.reason, told.run) == ("no_place", round_.run_id)
    sends(charlie, mine)  # its place is free now
    assert comes(frida).round_id == round_.pk
    assert waits(charlie).reason == "round_in_progress"  # once in a round


def test_the_buffer_makes_a_version_and_who_still_trains_goes_on_in_the_next_round(
    tiny_model: Model, enrolled: Enrol
) -> None:
    charlie, dora, emil = map(enrolled, ("charlie", "dora", "emil"))
    first = buffered(tiny_model)
    fast, faster, slow = comes(charlie), comes(dora), comes(emil)
    lifecycle.report(emil.participant, slow.pk, activity="training", fraction=0.3)
    sends(charlie, fast, 1.0)
    sends(dora, faster, 3.0)
    carry(first)
    assert first.phase == "published"
    np.testing.assert_array_equal(served_weights(tiny_model), KERNEL + np.float32(2))

    second = Round.objects.get(number=2)
    assert (second.phase, second.base) == ("training", first.version)
    slow = now(slow)
    assert (slow.state, slow.round, slow.base) == ("training", second, first.base)
    assert slow.invited_in_id == first.pk
    assert comes(emil) == slow
    # charlie trains from version 2, and emil's update is one version behind: it counts for half.
    sends(charlie, comes(charlie), 2.0)
    sends(emil, slow, 4.0)
    carry(second)
    np.testing.assert_array_equal(served_weights(tiny_model), KERNEL + np.float32(2 + 2))
    assert now(slow).staleness == 1
    assert now(slow).state == "accepted"
    assert first.assignments.count() == 2


def test_an_update_that_comes_while_the_buffer_is_folded_counts_in_the_next_version(
    tiny_model: Model, enrolled: Enrol
) -> None:
    charlie, dora, emil = map(enrolled, ("charlie", "dora", "emil"))
    first = buffered(tiny_model)
    fast, faster, slow = comes(charlie), comes(dora), comes(emil)
    sends(charlie, fast)
    sends(dora, faster)
    assert lifecycle.step(first.pk)
    first.refresh_from_db()
    assert first.phase == "aggregating"
    receipt = sends(emil, slow, 8.0)
    assert now(slow).round_id == first.pk
    carry(first)
    assert now(slow).round == Round.objects.get(number=2)
    assert now(slow).state == "uploaded"
    np.testing.assert_array_equal(served_weights(tiny_model), KERNEL + np.float32(1))
    assert sends(emil, slow, 8.0) == receipt  # told again: the same receipt

    second = now(slow).round
    sends(charlie, comes(charlie), 2.0)
    carry(second)
    np.testing.assert_array_equal(served_weights(tiny_model), KERNEL + np.float32(1 + (2 + 4) / 2))
    told = documents.assignment(lifecycle.own_assignment(emil.participant, slow.pk))
    assert (told["state"], told["published"], told["staleness"]) == ("accepted", 3, 1)
    assert Update.objects.count() == 4


def test_the_manifest_names_the_round_it_was_invited_in_and_its_own_base(
    tiny_model: Model, enrolled: Enrol
) -> None:
    charlie, dora, emil = map(enrolled, ("charlie", "dora", "emil"))
    first = buffered(tiny_model)
    slow = comes(emil)
    before = documents.assignment(lifecycle.own_assignment(emil.participant, slow.pk))
    for one in (charlie, dora):
        sends(one, comes(one))
    carry(first)
    after = documents.assignment(lifecycle.own_assignment(emil.participant, slow.pk))
    changing = {"seconds_left", "cohort", "quorum", "phase"}
    assert {name for name in before if before[name] != after[name]} <= changing
    assert (after["round"], after["number"], after["version"]["number"]) == (first.pk, 1, 1)
    assert selectors.may_download(emil.participant, after["version"]["weights"]["sha256"])
    assert after["deadline"] == (slow.invited_at + timedelta(hours=1)).isoformat()
    mine = now(slow)
    assert admitted(emil, mine, update_bytes(tiny_model, 1.0)).receipt is None
    mine.invited_in_id = mine.round_id  # what it must not say
    with pytest.raises(UpdateInvalid) as caught:
        admitted(emil, mine, update_bytes(tiny_model, 1.0))
    assert caught.value.field == "round"


def test_of_two_runs_who_comes_takes_a_place_in_one_at_a_time(
    tiny_model: Model, enrolled: Enrol
) -> None:
    charlie = enrolled("charlie")
    second = registry.create_model("second", tiny_package(), labels=["a", "b", "c"])
    rounds = buffered(tiny_model), buffered(second)
    mine = comes(charlie)
    assert [one.assignments.count() for one in rounds] == [1, 0]
    sends(charlie, mine)
    assert comes(charlie).round == rounds[1]


def test_who_is_not_heard_of_any_more_makes_room(tiny_model: Model, enrolled: Enrol) -> None:
    charlie, dora = enrolled("charlie"), enrolled("dora")
    round_ = buffered(tiny_model, concurrency=1)
    mine = comes(charlie)
    assert waits(dora).reason == "no_place"
    long_ago = clock.now() - timedelta(minutes=3)
    Assignment.objects.update(invited_at=long_ago)
    assert not lifecycle.step(round_.pk)
    assert waits(dora).reason == "no_place"  # charlie itself was seen
    Participant.objects.filter(pk=charlie.participant.pk).update(last_seen_at=long_ago)
    lifecycle.step(round_.pk)
    assert (now(mine).state, now(mine).code) == ("lost", "not_heard_of")
    comes(dora)


def test_who_takes_too_long_makes_room_however_often_it_reports(
    tiny_model: Model, enrolled: Enrol
) -> None:
    charlie, dora = enrolled("charlie"), enrolled("dora")
    round_ = buffered(tiny_model, concurrency=1, training_seconds=60)
    mine = comes(charlie)
    Assignment.objects.update(invited_at=clock.now() - timedelta(seconds=61))
    lifecycle.report(charlie.participant, mine.pk, activity="training", fraction=0.1)
    lifecycle.step(round_.pk)
    assert (now(mine).state, now(mine).code) == ("late", "too_slow")
    assert now(mine).reason == "It trained for longer than 1 minute."
    comes(dora)
    with pytest.raises(RoundClosed):
        sends(charlie, mine)


def test_a_round_waits_for_who_may_still_come_until_its_deadline(
    tiny_model: Model, enrolled: Enrol
) -> None:
    charlie, dora = enrolled("charlie"), enrolled("dora")
    round_ = buffered(tiny_model, buffer_size=3)
    sends(charlie, comes(charlie))
    assert carry(round_).phase == "training"  # dora may come
    let_the_deadline_pass(round_)
    assert carry(round_).phase == "published"
    second = Round.objects.get(number=2)
    assert carry(second).phase == "training"  # nobody is here yet: that is no failure
    for one in (charlie, dora):
        sends(one, comes(one))
    assert carry(second).phase == "published"  # two of three, and nobody else is enrolled


def test_without_a_quorum_at_the_deadline_the_round_fails_and_ends_who_trained(
    tiny_model: Model, enrolled: Enrol
) -> None:
    charlie = enrolled("charlie")
    round_ = buffered(tiny_model)
    mine = comes(charlie)
    let_the_deadline_pass(round_)
    assert carry(round_).phase == "failed"
    assert (now(mine).state, now(mine).code) == ("late", "round_failed")


def test_a_round_without_a_quorum_counts_against_nobody_who_still_trains(
    tiny_model: Model, enrolled: Enrol
) -> None:
    """Each has a time of its own: whoever came a second before is not late."""
    round_ = buffered(tiny_model)
    mine = comes(enrolled("charlie"))
    let_the_deadline_pass(round_)
    assert carry(round_).code == "buffer_not_filled"
    assert now(mine).state == "late"
    told = selectors.attendances([mine.participant])[mine.participant.pk]
    assert (told.void, told.ended) == (1, 0)


def test_who_comes_while_a_version_is_made_is_told_to_wait_for_the_next_round(
    tiny_model: Model, enrolled: Enrol
) -> None:
    charlie, dora = enrolled("charlie"), enrolled("dora")
    round_ = buffered(tiny_model, buffer_size=1)
    sends(charlie, comes(charlie))
    lifecycle.step(round_.pk)
    assert waits(dora).reason == "round_in_progress"


def test_a_bad_upload_is_told_of_the_round_that_its_assignment_is_in_by_then(
    tiny_model: Model, enrolled: Enrol
) -> None:
    charlie, emil = enrolled("charlie"), enrolled("emil")
    first = buffered(tiny_model, buffer_size=1)
    slow = comes(emil)
    body = update_bytes(tiny_model, 1.0)
    admission = admitted(emil, now(slow), body)
    sends(charlie, comes(charlie))
    carry(first)
    landing = intake.Landing(len(body))
    landing.write(body[:-1] + b"\x01")
    with pytest.raises(UpdateInvalid):
        intake.settle(admission, landing)
    landing.close()
    line = Event.objects.filter(kind="assignment.refused").get()
    assert line.round == now(slow).round_id != first.pk


def one_late_one_slow(model: Model, enrolled: Enrol, **rules: Any) -> tuple[Assignment, Assignment]:
    """While emil's update is folded charlie's has come, and dora still trains."""
    charlie, dora, emil = map(enrolled, ("charlie", "dora", "emil"))
    round_ = buffered(model, buffer_size=1, **rules)
    late, slow, fast = comes(charlie), comes(dora), comes(emil)
    sends(emil, fast, 1.0)
    lifecycle.step(round_.pk)
    sends(charlie, late, 4.0)
    return late, slow


def test_after_the_last_round_what_is_unfinished_ends_and_counts_against_nobody(
    tiny_model: Model, enrolled: Enrol
) -> None:
    late, slow = one_late_one_slow(tiny_model, enrolled, rounds_planned=1)
    assert carry(now(late).round).phase == "published"
    assert (now(late).state, now(late).code) == ("rejected", "run_completed")
    assert (now(slow).state, now(slow).code) == ("late", "run_completed")
    told = selectors.attendances([late.participant, slow.participant])
    assert [one.void for one in told.values()] == [1, 1]
    assert Round.objects.count() == 1
    [line] = selectors.run_history(Run.objects.get())["rounds"]
    assert (line["counts"]["rejected"], line["counts"]["late"]) == (1, 1)
    assert line["void"] == {"rejected": 1, "late": 1}
    [reported] = selectors.run_report(Run.objects.get())
    assert (reported["accepted"], reported["rejected"]) == (1, 0)


def test_in_a_pause_updates_wait_and_who_trains_goes_home(
    tiny_model: Model, enrolled: Enrol
) -> None:
    late, slow = one_late_one_slow(tiny_model, enrolled)
    first = now(late).round
    lifecycle.pause_run(first.run_id, actor="bob")
    assert carry(first).phase == "published"
    assert (now(late).state, now(late).round) == ("uploaded", first)
    assert documents.assignment(now(late))["published"] is None  # version 2 came without it
    assert (now(slow).state, now(slow).code) == ("late", "run_paused")
    assert selectors.attendances([slow.participant])[slow.participant.pk].void == 1
    # However long the pause is, its bytes are kept; emil's are not.
    Round.objects.update(ended_at=clock.now() - timedelta(days=30))
    assert tidying.forget_updates(7) == 1
    lifecycle.resume_run(first.run_id, actor="bob")
    second = now(late).round
    assert second.number == 2
    lifecycle.step(second.pk)
    assert (now(late).state, documents.assignment(now(late))["published"]) == ("accepted", None)
    assert carry(second).phase == "published"
    assert (now(late).state, now(late).staleness) == ("accepted", 1)
    assert documents.assignment(now(late))["published"] == 3
    np.testing.assert_array_equal(served_weights(tiny_model), KERNEL + np.float32(1 + 2))


def test_a_run_that_is_stopped_in_a_pause_ends_the_updates_that_waited(
    tiny_model: Model, enrolled: Enrol
) -> None:
    late, _ = one_late_one_slow(tiny_model, enrolled)
    first = now(late).round
    lifecycle.pause_run(first.run_id, actor="bob")
    carry(first)
    [line] = selectors.run_history(first.run)["rounds"]
    assert line["counts"]["uploaded"] == 1
    lifecycle.stop_run(first.run_id, actor="bob")
    assert (now(late).state, now(late).code) == ("rejected", "run_stopped")
    [line] = selectors.run_history(first.run)["rounds"]
    assert (line["counts"]["uploaded"], line["counts"]["rejected"]) == (0, 1)
    assert selectors.attendances([late.participant])[late.participant.pk].void == 1


def test_stopping_and_cancelling_leave_nobody_behind(tiny_model: Model, enrolled: Enrol) -> None:
    charlie, dora, emil = map(enrolled, ("charlie", "dora", "emil"))
    first = buffered(tiny_model, buffer_size=1)
    slow = comes(emil)
    sends(charlie, comes(charlie))
    carry(first)
    second = now(slow).round
    lifecycle.cancel_round(second.pk, actor="bob")
    assert (now(slow).state, now(slow).code) == ("late", "round_cancelled")
    third = Round.objects.get(number=3)
    mine = comes(dora)
    assert mine.round == third
    lifecycle.stop_run(third.run_id, actor="bob")
    assert now(mine).state == "late"
    assert waits(dora).reason == "no_open_round"


def test_who_is_suspended_in_a_round_that_is_folded_loses_its_place(
    tiny_model: Model, enrolled: Enrol
) -> None:
    charlie, dora = enrolled("charlie"), enrolled("dora")
    first = buffered(tiny_model, buffer_size=1)
    slow = comes(dora)
    sends(charlie, comes(charlie))
    lifecycle.step(first.pk)
    enrolment.suspend(dora.participant, actor="bob")
    assert (now(slow).state, now(slow).code) == ("failed", "participant_suspended")
    carry(first)
    assert now(slow).round_id == first.pk  # it is over, and stays where it was


def test_the_hand_over_is_told_to_both_rounds(tiny_model: Model, enrolled: Enrol) -> None:
    charlie, dora, emil = map(enrolled, ("charlie", "dora", "emil"))
    first = buffered(tiny_model, buffer_size=1, name="autumn")
    slow, late = comes(dora), comes(emil)
    sends(charlie, comes(charlie))
    lifecycle.step(first.pk)
    sends(emil, late, 2.0)
    assert round_state(first.pk)["norms"]["median"] == 3.0  # of what was judged
    carry(first)
    second = Round.objects.get(number=2)
    lines = list(Event.objects.filter(kind="assignment.carried").order_by("id"))
    assert [(one.assignment, one.round) for one in lines] == [
        (slow.pk, second.pk),
        (late.pk, second.pk),
    ]
    state = round_state(second.pk)
    assert [one.data["place"] for one in lines] == state["assignments"]
    assert all(one.data["before"] == first.pk for one in lines)
    assert state["run"]["kind"] == "asynchronous"
    assert state["run"]["concurrency"] == 3
    [told] = [one for one in state["assignments"] if one["id"] == late.pk]
    assert (told["base"], told["invited_in"], told["state"]) == (1, 1, "uploaded")
    assert [one["participant"]["name"] for one in round_state(first.pk)["assignments"]] == [
        "charlie"
    ]
    carry(second)
    accepted = Event.objects.filter(kind="assignment.accepted", assignment=late.pk).get()
    assert accepted.data["staleness"] == 1


def test_the_history_says_how_old_the_updates_of_each_round_were(
    tiny_model: Model, enrolled: Enrol
) -> None:
    charlie, dora, emil = map(enrolled, ("charlie", "dora", "emil"))
    first = buffered(tiny_model)
    slow = comes(emil)
    for one in (charlie, dora):
        sends(one, comes(one))
    carry(first)
    second = Round.objects.get(number=2)
    sends(charlie, comes(charlie))
    sends(emil, slow)
    carry(second)
    lines = selectors.run_history(Run.objects.get())["rounds"]
    assert lines[0]["staleness"] == {"mean": 0.0, "max": 0}
    assert lines[1]["staleness"] == {"mean": 0.5, "max": 1}


def test_an_upload_counts_for_the_round_in_which_its_assignment_is_by_then(
    tiny_model: Model, enrolled: Enrol
) -> None:
    charlie, dora, emil = map(enrolled, ("charlie", "dora", "emil"))
    first = buffered(tiny_model)
    slow = comes(emil)
    body = update_bytes(tiny_model, 1.0)
    admission = admitted(emil, now(slow), body)  # its bytes take their time
    for one in (charlie, dora):
        sends(one, comes(one))
    carry(first)
    second = Round.objects.get(number=2)
    landing = intake.Landing(len(body))
    landing.write(body)
    assert intake.settle(admission, landing)["state"] == "uploaded"
    landing.close()
    line = Event.objects.filter(kind="assignment.uploaded").latest("id")
    assert line.round == second.pk == now(slow).round_id
    assert admission.assignment.round_id == second.pk  # the one to be rung for
    assert intake.wants_step(admission.assignment)  # nobody else is at it
