"""The state of a round as one document, and the events that a page folds into it."""

from collections.abc import Callable
from typing import Any

import pytest

from journal import events
from journal.models import Event
from models_app import registry
from models_app.evaluation import Evaluation
from models_app.models import Model
from rounds import clock, intake, leases, lifecycle
from rounds.models import Assignment, Round
from rounds.round_state import round_state
from tests.rounds.conftest import Enrolled
from tests.rounds.test_lifecycle import let_the_deadline_pass, started
from tests.rounds.updates import admitted, all_check_in, carry, send, update_bytes, upload

pytestmark = pytest.mark.django_db

Enrol = Callable[..., Enrolled]


def place(state: dict[str, Any], name: str) -> dict[str, Any]:
    """A participant's assignment in the document."""
    [found] = [one for one in state["assignments"] if one["participant"]["name"] == name]
    return dict(found)


def line(kind: str) -> Event:
    return Event.objects.filter(kind=kind).latest("id")


def training(model: Model, *everyone: Enrolled, **rules: Any) -> Round:
    round_ = started(model, **rules)
    all_check_in(*everyone)
    round_.refresh_from_db()
    return round_


def test_a_round_that_selects_says_how_many_have_come(tiny_model: Model, enrolled: Enrol) -> None:
    charlie, *_ = enrolled("charlie"), enrolled("dora"), enrolled("emil")
    round_ = started(tiny_model)
    lifecycle.check_in(charlie.participant)
    lifecycle.check_in(charlie.participant)  # again: it is still the same one
    state = round_state(round_.pk)
    assert state["selecting"] == {"checked_in": 1, "wanted": 3}
    assert state["assignments"] == []
    assert state["round"]["phase"] == "selecting"


def test_a_round_that_takes_who_comes_first_counts_the_invited(
    tiny_model: Model, enrolled: Enrol
) -> None:
    charlie, dora, emil = enrolled("charlie"), enrolled("dora"), enrolled("emil")
    round_ = started(tiny_model, selection="first_come", cohort_goal=2, over_selection=1.0)
    lifecycle.check_in(charlie.participant)
    assert round_state(round_.pk)["selecting"] == {"checked_in": 1, "wanted": 2}
    lifecycle.check_in(dora.participant)
    lifecycle.check_in(emil.participant)
    state = round_state(round_.pk)
    assert state["selecting"] is None
    assert state["counts"]["invited"] == 2


def test_the_document_says_what_everybody_does(tiny_model: Model, enrolled: Enrol) -> None:
    charlie, dora = enrolled("charlie"), enrolled("dora")
    round_ = training(tiny_model, charlie, dora)
    mine = round_.assignments.get(participant=charlie.participant)
    for activity, fraction in (("downloading", 0.0), ("training", 0.2), ("training", 0.4)):
        lifecycle.report(
            charlie.participant,
            mine.pk,
            activity=activity,
            fraction=fraction,
            epoch=2 if fraction else None,
            epochs=5 if fraction else None,
            metrics={"loss": 1.5} if fraction else None,
        )
    state = round_state(round_.pk)
    found = place(state, "charlie")
    assert (found["state"], found["activity"], found["fraction"]) == ("training", "training", 0.4)
    assert (found["epoch"], found["epochs"], found["metrics"]) == (2, 5, {"loss": 1.5})
    assert found["participant"]["uuid"] == str(charlie.participant.uuid)
    assert found["activities"].keys() == {"downloading", "training"}
    assert found["activities"]["downloading"] < found["activities"]["training"]
    assert place(state, "dora")["state"] == "invited"
    assert state["counts"]["training"] == state["counts"]["invited"] == 1


def test_an_upload_began_when_it_was_admitted_if_nobody_reported_it(
    tiny_model: Model, enrolled: Enrol
) -> None:
    charlie, dora = enrolled("charlie"), enrolled("dora")
    round_ = training(tiny_model, charlie, dora)
    upload(charlie)
    found = place(round_state(round_.pk), "charlie")
    assert found["activities"]["uploading"] <= found["uploaded_at"]
    assert found["fraction"] == 1.0


def test_the_norms_limit_is_the_one_that_will_judge(tiny_model: Model, enrolled: Enrol) -> None:
    everyone = [enrolled(name) for name in ("charlie", "dora", "emil", "frida")]
    round_ = training(tiny_model, *everyone, target=5, quarantine_factor=3.0)
    for one in everyone[:3]:
        upload(one, value=1.0)
    norms = round_state(round_.pk)["norms"]
    assert norms == {"median": 3.0, "limit": 9.0}  # the root of nine ones; three times that
    upload(everyone[3], value=10.0)
    carry(round_)
    state = round_state(round_.pk)
    assert place(state, "frida")["state"] == "quarantined"
    assert place(state, "frida")["update"]["norm"] > state["norms"]["limit"]


def test_events_carry_the_times_that_the_rows_have(tiny_model: Model, enrolled: Enrol) -> None:
    everyone = enrolled("charlie"), enrolled("dora")
    round_ = training(tiny_model, *everyone, rounds_planned=1)
    for one in everyone:
        upload(one)
    carry(round_)
    for kind, moment in (
        ("round.opened", round_.opened_at),
        ("round.training", round_.training_at),
        ("round.aggregating", round_.aggregating_at),
        ("round.evaluating", round_.evaluating_at),
        ("round.published", round_.ended_at),
    ):
        assert line(kind).at == moment, kind
    assert line("assignment.accepted").at == round_.assignments.latest("id").ended_at
    assert line("assignment.uploaded").at == round_.assignments.latest("id").uploaded_at


def test_an_assignment_that_ends_says_how_far_it_was(tiny_model: Model, enrolled: Enrol) -> None:
    charlie, dora = enrolled("charlie"), enrolled("dora")
    round_ = training(tiny_model, charlie, dora)
    mine = round_.assignments.get(participant=charlie.participant)
    lifecycle.report(charlie.participant, mine.pk, activity="training", fraction=0.5, epoch=1)
    lifecycle.fail(charlie.participant, mine.pk, code="tired", reason="It fell asleep.")
    told = line("assignment.failed").data["progress"]
    found = place(round_state(round_.pk), "charlie")
    assert told == {name: found[name] for name in told}
    assert told["fraction"] == 0.5


def test_who_passes_the_gate_is_compared_with_what_it_started_from(
    tiny_model: Model, enrolled: Enrol
) -> None:
    everyone = enrolled("charlie"), enrolled("dora")
    round_ = training(tiny_model, *everyone)
    for one in everyone:
        upload(one)
    while round_.phase != "evaluating":
        lifecycle.step(round_.pk)
        round_.refresh_from_db()
    assert round_state(round_.pk)["round"]["version"]["number"] == 2
    registry.record_metrics(round_.base, Evaluation({"accuracy": 0.8}))
    with leases.hold(round_.pk, "evaluating") as lease:
        assert round_state(round_.pk)["worker"]["attempts"] == 1
        lifecycle._publish(round_.pk, str(lease), {"accuracy": 0.8}, Evaluation({"accuracy": 0.9}))
    state = round_state(round_.pk)
    assert state["round"]["version"]["metrics"] == {"accuracy": 0.9}
    assert state["round"]["base"]["metrics"] == {"accuracy": 0.8}
    assert state["run"]["next"] == {"id": Round.objects.latest("id").pk, "number": 2}
    assert state["worker"] == {"attempts": 0, "expires_at": None}


def test_a_worker_that_stumbles_is_in_the_journal(tiny_model: Model, enrolled: Enrol) -> None:
    everyone = enrolled("charlie"), enrolled("dora")
    round_ = training(tiny_model, *everyone)
    for one in everyone:
        upload(one)
    lifecycle.step(round_.pk)
    with pytest.raises(OSError, match="disk"), leases.hold(round_.pk, "aggregating"):
        raise OSError("the disk is full")
    stumbled = line("round.stumbled")
    assert stumbled.reason == "OSError: the disk is full"
    assert stumbled.data["attempts"] == 1
    state = round_state(round_.pk)
    assert state["worker"] == {"attempts": 1, "expires_at": None}
    assert state["round"]["reason"] == stumbled.reason


def test_the_feed_has_its_own_lines_and_its_runs_while_it_was_the_last(
    tiny_model: Model, enrolled: Enrol
) -> None:
    enrolled("charlie")
    first = started(tiny_model)
    run = first.run_id
    lifecycle.pause_run(run, actor="bob", reason="lunch")
    lifecycle.resume_run(run, actor="bob")
    lifecycle.cancel_round(first.pk, actor="bob", reason="again")
    lifecycle.pause_run(run, actor="bob")
    kinds = [one["kind"] for one in round_state(first.pk)["events"]]
    assert kinds == ["round.opened", "run.paused", "run.resumed", "round.cancelled"]
    second = Round.objects.get(number=2)
    kinds = [one["kind"] for one in round_state(second.pk)["events"]]
    assert kinds == ["round.opened", "run.paused"]
    assert round_state(second.pk)["run"]["previous"] == {"id": first.pk, "number": 1}


def test_the_cursor_is_taken_before_the_rows(
    tiny_model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    round_ = started(tiny_model)
    read = clock.now

    def meanwhile() -> Any:
        with events.transaction() as journal:
            journal.record("run.paused", run=round_.run_id)
        return read()

    before = Event.objects.latest("id").pk
    monkeypatch.setattr("rounds.round_state.clock.now", meanwhile)
    state = round_state(round_.pk)
    assert state["cursor"] == before
    assert all(one["id"] <= before for one in state["events"])


def test_what_a_round_failed_of_is_told_with_when_its_run_tries_again(
    tiny_model: Model, enrolled: Enrol
) -> None:
    charlie = enrolled("charlie")
    round_ = started(tiny_model)
    lifecycle.check_in(charlie.participant)
    let_the_deadline_pass(round_)
    lifecycle.step(round_.pk)
    state = round_state(round_.pk)
    assert (state["round"]["phase"], state["round"]["code"]) == (
        "failed",
        "not_enough_participants",
    )
    assert state["run"]["next_round_at"] == line("run.retrying").data["next_round_at"]
    assert line("run.retrying").model == tiny_model.pk


@pytest.mark.parametrize("people", [3, 30])
def test_the_document_costs_the_same_queries_however_many_take_part(
    tiny_model: Model, enrolled: Enrol, people: int, django_assert_num_queries: Any
) -> None:
    everyone = [enrolled(f"participant {number}") for number in range(people)]
    round_ = training(tiny_model, *everyone)
    for one in everyone[: people // 2]:
        upload(one)
    with django_assert_num_queries(9):
        state = round_state(round_.pk)
    assert len(state["assignments"]) == people


def test_an_upload_that_takes_long_tells_how_much_has_landed(
    tiny_model: Model, enrolled: Enrol
) -> None:
    charlie, dora = enrolled("charlie"), enrolled("dora")
    round_ = training(tiny_model, charlie, dora)
    mine = round_.assignments.get(participant=charlie.participant)
    body = update_bytes(tiny_model, 1.0)
    admission = admitted(charlie, mine, body)
    intake.tell(admission, len(body) // 2)
    found = place(round_state(round_.pk), "charlie")
    assert found["activity"] == "uploading"
    assert found["fraction"] == pytest.approx(0.5, abs=0.01)
    # The participant knows less of it than the server.
    lifecycle.report(charlie.participant, mine.pk, activity="uploading", fraction=0.0)
    assert place(round_state(round_.pk), "charlie")["fraction"] == found["fraction"]
    send(charlie, Assignment.objects.get(pk=mine.pk), body)
    assert place(round_state(round_.pk), "charlie")["fraction"] == 1.0
