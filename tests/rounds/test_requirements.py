"""What a strategy asks for beyond FedAvg: who can is selected, who cannot is told so."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from client_sdk import wire
from models_app import blobs, registry
from models_app.evaluation import Evaluation
from models_app.models import Model, ModelVersion
from rounds import capabilities, eligibility, enrolment, leases, lifecycle, preview, selectors
from rounds.api import documents
from rounds.errors import UpdateInvalid
from rounds.models import Assignment, Participant, Round, Run, Update
from tests.rounds import doubles
from tests.rounds.conftest import Enrolled, tiny_package
from tests.rounds.test_lifecycle import started
from tests.rounds.updates import admitted, all_check_in, carry, send, update_bytes

pytestmark = pytest.mark.django_db

Enrol = Callable[..., Enrolled]
CAN = ["control_variates", "proximal", "report_steps"]


@pytest.fixture(autouse=True)
def _doubles(monkeypatch: pytest.MonkeyPatch) -> None:
    doubles.add(monkeypatch)


@pytest.fixture
def able(enrolled: Enrol) -> Enrol:
    """A factory of participants whose SDK can do all that is asked for."""

    def enrol(name: str, can: Any = CAN) -> Enrolled:
        one = enrolled(name)
        enrolment.note_sdk(one.participant, {"version": "0.5.0", "capabilities": can})
        one.participant.refresh_from_db()
        return one

    return enrol


def uploads(one: Enrolled, value: float = 1.0, **reports: float) -> Assignment:
    mine = lifecycle.check_in(one.participant)
    assert isinstance(mine, Assignment)
    body = update_bytes(mine.round.run.model, value)
    send(one, mine, body, samples=320, reports=reports or {"steps": 4})
    return mine


def a_round(model: Model, *everyone: Enrolled, value: float = 1.0) -> Round:
    """The open round of the model's run, carried to its end by everyone."""
    all_check_in(*everyone)
    for one in everyone:
        uploads(one, value)
    round_ = Round.objects.filter(run__model=model).latest("id")
    return carry(round_)


def control_of(digest: str) -> float:
    spec = [wire.TensorSpec("control", (9,))]
    return float(wire.open_tensors(blobs.path(digest), spec)["control"][0])


# --- Who is selected --------------------------------------------------------------------------


def test_who_cannot_do_what_the_strategy_asks_is_told_so_and_not_waited_for(
    tiny_model: Model, enrolled: Enrol, able: Enrol
) -> None:
    charlie, dora = able("charlie"), able("dora")
    old, older = enrolled("emil"), able("frida", ["report_steps"])
    round_ = started(tiny_model, strategy="remembering")
    told = lifecycle.check_in(old.participant)
    assert isinstance(told, lifecycle.Wait)
    assert (told.reason, told.run) == ("sdk_lacks", round_.run_id)
    assert "remembering" in told.detail
    assert "control_variates, report_steps" in told.detail
    assert "pip install --upgrade" in told.detail
    partly = lifecycle.check_in(older.participant)
    assert isinstance(partly, lifecycle.Wait)
    assert "(control_variates)" in partly.detail
    assert lifecycle.gathering(round_) == (0, 2)
    mine, _ = all_check_in(charlie, dora)
    assert isinstance(mine, Assignment)  # all who can are here
    assert round_.assignments.count() == 2


def test_who_upgrades_is_selected_at_its_next_check_in(tiny_model: Model, enrolled: Enrol) -> None:
    charlie = enrolled("charlie")
    started(tiny_model, strategy="remembering", selection="first_come", cohort_goal=3)
    assert isinstance(lifecycle.check_in(charlie.participant), lifecycle.Wait)
    enrolment.note_sdk(charlie.participant, {"capabilities": CAN})
    fresh = Participant.objects.get(pk=charlie.participant.pk)
    assert isinstance(lifecycle.check_in(fresh), Assignment)


def test_who_cannot_train_one_run_waits_for_the_other(tiny_model: Model, enrolled: Enrol) -> None:
    charlie = enrolled("charlie")
    enrolled("dora")
    second = registry.create_model("second", tiny_package(), labels=["a", "b", "c"])
    plain = started(tiny_model)
    started(second, strategy="remembering")
    told = lifecycle.check_in(charlie.participant)
    assert isinstance(told, lifecycle.Wait)
    assert (told.reason, told.run) == ("selecting", plain.run_id)


def test_a_name_within_another_name_is_not_taken_for_it(tiny_model: Model, able: Enrol) -> None:
    able("charlie", ["report_steps_too", "control_variates"])
    able("dora", ["report", "control_variates"])
    emil = able("emil")
    run = lifecycle.create_run(tiny_model, strategy="remembering")
    assert [one.name for one in eligibility.eligible(run)] == ["emil"]
    assert eligibility.lacking(run, emil.participant) == []
    assert capabilities.column([]) == ","


def test_the_preview_counts_those_only_who_can(
    tiny_model: Model, enrolled: Enrol, able: Enrol
) -> None:
    able("charlie")
    enrolled("dora")
    run = Run(model=tiny_model, strategy="remembering")
    facts = selectors.facts_for_preview(run)
    assert facts.enrolled == 1
    assert list(facts.unable) == ["dora"]
    assert preview.cohort(run, facts.enrolled).waits_for == 2  # the fewest it can train with
    assert selectors.facts_for_preview(Run(model=tiny_model)).enrolled == 2


# --- What is handed out -----------------------------------------------------------------------


def test_an_assignment_says_what_its_strategy_asks_and_gives_the_control_of_its_base(
    tiny_model: Model, able: Enrol
) -> None:
    everyone = able("charlie"), able("dora")
    started(tiny_model, strategy="remembering")
    first = documents.assignment(all_check_in(*everyone)[0])
    assert first["requires"] == {"control_variates": {}, "report_steps": {}}
    assert first["control"] is None  # nobody has trained yet: zeros
    round_ = a_round(tiny_model, *everyone)
    second = documents.assignment(all_check_in(*everyone)[0])
    assert round_.version is not None
    state = round_.version.strategy_state
    size = blobs.path(state).stat().st_size
    assert second["control"] == {"sha256": state, "bytes": size}
    assert control_of(state) == 8.0  # four steps of each
    assert selectors.may_download(everyone[0].participant, state)


def test_a_run_that_asks_for_nothing_says_so(tiny_model: Model, enrolled: Enrol) -> None:
    started(tiny_model)
    told = documents.assignment(all_check_in(enrolled("charlie"), enrolled("dora"))[0])
    assert (told["requires"], told["control"], told["staleness"]) == ({}, None, 0)


def test_a_strategys_state_is_for_those_who_train_with_it_now(
    tiny_model: Model, enrolled: Enrol, able: Enrol
) -> None:
    everyone, emil = (able("charlie"), able("dora")), enrolled("emil")
    started(tiny_model, strategy="remembering", rounds_planned=2)
    round_ = a_round(tiny_model, *everyone)
    assert round_.version is not None
    state = round_.version.strategy_state
    all_check_in(*everyone)
    assert selectors.may_download(everyone[0].participant, state)
    assert not selectors.may_download(emil.participant, state)
    for one in everyone:
        uploads(one)
    carry(Round.objects.get(number=2))
    assert not selectors.may_download(everyone[0].participant, state)


# --- What is reported -------------------------------------------------------------------------


def test_an_update_without_what_the_strategy_needs_is_refused_by_name(
    tiny_model: Model, able: Enrol
) -> None:
    charlie, dora = able("charlie"), able("dora")
    started(tiny_model, strategy="remembering")
    mine, _ = all_check_in(charlie, dora)
    body = update_bytes(tiny_model, 1.0)
    with pytest.raises(UpdateInvalid) as caught:
        admitted(charlie, mine, body)
    assert (caught.value.field, caught.value.extra["reason"]) == ("reports.steps", "report_missing")
    assert "remembering needs it. Received: []" in caught.value.detail
    send(charlie, mine, body, reports={"steps": 1, "initial_loss": 0.5})
    assert Update.objects.get().reports == {"steps": 1.0}  # what was asked for, and no more


def test_more_steps_than_the_samples_give_are_refused(tiny_model: Model, able: Enrol) -> None:
    charlie, dora = able("charlie"), able("dora")
    # Three epochs of 20 samples in batches of 8: three batches each, nine steps.
    asked = {"epochs": 3, "batch_size": 8}
    started(tiny_model, strategy="remembering", hyperparameters=asked)
    mine, _ = all_check_in(charlie, dora)
    body = update_bytes(tiny_model, 1.0)
    with pytest.raises(
        UpdateInvalid, match=r"steps up to 9 .* 20 samples .* Received: 10"
    ) as caught:
        send(charlie, mine, body, samples=20, reports={"steps": 10})
    assert (caught.value.field, caught.value.extra["reason"]) == ("reports.steps", "too_many_steps")
    send(charlie, mine, body, samples=20, reports={"steps": 9})
    assert Update.objects.get().reports == {"steps": 9.0}


def test_a_limit_of_steps_is_one_for_what_is_reported_too(tiny_model: Model, able: Enrol) -> None:
    charlie, dora = able("charlie"), able("dora")
    asked = {"epochs": 3, "batch_size": 8, "max_steps": 4}
    started(tiny_model, strategy="remembering", hyperparameters=asked)
    mine, _ = all_check_in(charlie, dora)
    with pytest.raises(UpdateInvalid, match=r"steps up to 4 "):
        send(charlie, mine, update_bytes(tiny_model, 1.0), samples=20, reports={"steps": 5})


def test_reports_that_nobody_asked_for_are_not_kept(tiny_model: Model, enrolled: Enrol) -> None:
    charlie, dora = enrolled("charlie"), enrolled("dora")
    started(tiny_model)
    mine, _ = all_check_in(charlie, dora)
    send(charlie, mine, update_bytes(tiny_model, 1.0), reports={"steps": 7})
    assert Update.objects.get().reports == {}


# --- The strategy's state ---------------------------------------------------------------------


def test_after_a_failed_round_the_state_is_that_of_the_base(tiny_model: Model, able: Enrol) -> None:
    everyone = able("charlie"), able("dora")
    started(tiny_model, strategy="remembering", retries=5)
    first = a_round(tiny_model, *everyone)
    assert first.version is not None
    assert control_of(first.version.strategy_state) == 8.0

    all_check_in(*everyone)
    for one in everyone:
        uploads(one)
    second = Round.objects.get(number=2)
    while second.phase != "evaluating":
        lifecycle.step(second.pk)
        second.refresh_from_db()
    assert second.version is not None
    assert control_of(second.version.strategy_state) == 16.0
    with leases.hold(second.pk, "evaluating") as lease:
        worse = Evaluation({"accuracy": 0.1})
        lifecycle._publish(second.pk, str(lease), {"accuracy": 0.9}, worse)
    second.refresh_from_db()
    assert (second.phase, second.code) == ("failed", "gate")

    Run.objects.update(next_round_at=None)
    lifecycle.advance(second.run_id)
    third = a_round(tiny_model, *everyone)
    assert third.phase == "published"
    assert third.version is not None
    assert control_of(third.version.strategy_state) == 16.0  # on 8, and not on the rejected 16


def two_rounds_and_a_pause(
    model: Model, *everyone: Enrolled, strategy: str
) -> tuple[Run, ModelVersion, ModelVersion]:
    """The run, and the versions that it has made."""
    run = started(model, strategy=strategy).run
    first = a_round(model, *everyone).version
    lifecycle.pause_run(run.pk, actor="bob")
    second = a_round(model, *everyone).version
    assert first is not None
    assert second is not None
    first.refresh_from_db()  # it is served no more
    return run, first, second


def test_after_a_roll_back_the_state_is_still_that_which_participants_keep_theirs_of(
    tiny_model: Model, able: Enrol
) -> None:
    """Theirs moved on with each update that counted, and nobody tells them of a roll-back."""
    everyone = able("charlie"), able("dora")
    run, first, second = two_rounds_and_a_pause(tiny_model, *everyone, strategy="remembering")
    assert control_of(second.strategy_state) == 16.0
    again = registry.roll_back(tiny_model, first, actor="bob")
    lifecycle.resume_run(run.pk, actor="bob")
    mine = all_check_in(*everyone)[0]
    told = documents.assignment(mine)
    assert told["control"]["sha256"] == second.strategy_state
    assert selectors.may_download(everyone[0].participant, second.strategy_state)
    assert not selectors.may_download(everyone[0].participant, first.strategy_state)
    third = a_round(tiny_model, *everyone)
    assert third.base == again
    assert third.version is not None
    assert control_of(third.version.strategy_state) == 24.0


def test_after_a_roll_back_momentum_is_that_of_the_version_that_is_served_again(
    tiny_model: Model, enrolled: Enrol
) -> None:
    everyone = enrolled("charlie"), enrolled("dora")
    run, first, second = two_rounds_and_a_pause(tiny_model, *everyone, strategy="fedavgm")
    again = registry.roll_back(tiny_model, first, actor="bob")
    second.refresh_from_db()
    registry.roll_back(tiny_model, second, actor="bob")
    registry.roll_back(tiny_model, type(again).objects.get(pk=again.pk), actor="bob")
    lifecycle.resume_run(run.pk, actor="bob")
    third = a_round(tiny_model, *everyone)
    assert third.version is not None
    assert third.version.strategy_state == second.strategy_state


def test_a_run_knows_of_everybody_that_could_ever_take_part(tiny_model: Model, able: Enrol) -> None:
    charlie, dora, emil = able("charlie"), able("dora"), able("emil")
    started(tiny_model, strategy="remembering", quorum=2, selection="all")
    first = a_round(tiny_model, charlie, dora, emil)
    enrolment.suspend(emil.participant, actor="bob", reason="holidays")
    second = a_round(tiny_model, charlie, dora)
    assert (first.population, second.population) == (3, 3)


def test_a_run_after_anothers_version_begins_afresh(tiny_model: Model, able: Enrol) -> None:
    everyone = able("charlie"), able("dora")
    started(tiny_model, strategy="remembering", rounds_planned=1)
    a_round(tiny_model, *everyone)
    started(tiny_model, strategy="remembering", rounds_planned=1)
    told = documents.assignment(all_check_in(*everyone)[0])
    assert told["control"] is None
    second = a_round(tiny_model, *everyone)
    assert second.version is not None
    assert control_of(second.version.strategy_state) == 8.0


def test_whose_updates_counted_for_how_much_stays_with_the_round(
    tiny_model: Model, enrolled: Enrol, monkeypatch: pytest.MonkeyPatch
) -> None:
    everyone = enrolled("charlie"), enrolled("dora")
    apply = lifecycle.aggregation.FedAvg.apply

    def with_shares(*given: Any, **named: Any) -> Any:
        result = apply(*given, **named)
        shares = {one.key: 0.5 for one in given[2]}
        return type(result)(result.state, result.delta, result.diagnostics, shares)

    monkeypatch.setattr(lifecycle.aggregation.FedAvg, "apply", with_shares)
    started(tiny_model, rounds_planned=1)
    all_check_in(*everyone)
    for one in everyone:
        uploads(one)
    round_ = carry(Round.objects.get())
    ids = {str(one.participant.pk) for one in everyone}
    assert round_.diagnostics["shares"] == dict.fromkeys(ids, 0.5)
    assert np.isfinite(round_.diagnostics["delta_norm"])
