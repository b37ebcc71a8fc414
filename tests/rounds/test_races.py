"""Everyone at once: on real threads and real processes, on a database that all of them share."""

import multiprocessing
import os
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import httpx
import pytest
from django.db import DatabaseError, connection, connections, transaction

from client_sdk import wire
from client_sdk.keys import Key
from journal.models import Event
from models_app import registry
from models_app.models import Model, ModelVersion
from rounds import enrolment, federated_evaluation, intake, lifecycle
from rounds.errors import JoinCodeInvalid, ReportConflict, RoundClosed, UpdateConflict
from rounds.models import Assignment, FederatedEvaluation, Participant, Round, Run, Update
from tests.races import at_once
from tests.rounds.conftest import Enrolled, tiny_package
from tests.rounds.updates import (
    admitted,
    all_check_in,
    manifest_of,
    served_weights,
    update_bytes,
    upload,
)

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.timeout(120)]

Enrol = Callable[..., Enrolled]


def ready_to_aggregate(model: Model, *everyone: Enrolled, **rules: Any) -> Round:
    round_ = lifecycle.start_run(lifecycle.create_run(model, rounds_planned=1, **rules).pk)
    all_check_in(*everyone)
    for one in everyone:
        upload(one)
    assert lifecycle.step(round_.pk)
    return round_


def exactly_one_result(model: Model, round_: Round) -> None:
    round_.refresh_from_db()
    assert round_.phase == "published"
    assert set(ModelVersion.objects.values_list("number", flat=True)) == {1, 2}
    assert Event.objects.filter(kind="round.published").count() == 1
    assert served_weights(model)[0] == 2.0  # counted once: 1 + 1


def test_eight_threads_aggregate_one_round_and_there_is_one_result(
    tiny_model: Model, enrolled: Enrol
) -> None:
    round_ = ready_to_aggregate(tiny_model, enrolled("charlie"), enrolled("dora"))

    def work() -> None:
        while lifecycle.step(round_.pk):
            pass

    errors = [result for result in at_once(*[work] * 8) if result is not None]
    assert not errors
    work()
    exactly_one_result(tiny_model, round_)


def _step_in_a_process(round_id: int) -> None:
    connections.close_all()
    while lifecycle.step(round_id):
        pass
    connections.close_all()
    os._exit(0)


def test_two_processes_aggregate_one_round_and_there_is_one_result(
    tiny_model: Model, enrolled: Enrol
) -> None:
    round_ = ready_to_aggregate(tiny_model, enrolled("charlie"), enrolled("dora"))
    connections.close_all()  # a connection must not be shared across a fork
    fork = multiprocessing.get_context("fork")
    workers = [fork.Process(target=_step_in_a_process, args=(round_.pk,)) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    while lifecycle.step(round_.pk):
        pass
    exactly_one_result(tiny_model, round_)


def test_fifty_identical_uploads_at_once_are_one_update(
    server: str, tiny_model: Model, enrolled: Enrol
) -> None:
    charlie, dora = enrolled("charlie"), enrolled("dora")
    lifecycle.start_run(lifecycle.create_run(tiny_model).pk)
    mine, _ = all_check_in(charlie, dora)
    body = update_bytes(tiny_model, 1.0)
    manifest = wire.UpdateManifest(**manifest_of(mine, body)).to_bytes()
    headers = {
        "Authorization": f"Bearer {charlie.token}",
        "Content-Type": "application/octet-stream",
        "Fedserver-Manifest": wire.b64(manifest),
        "Fedserver-Signature": charlie.key.sign(wire.update_message(manifest)),
    }

    def put() -> tuple[int, str]:
        url = f"{server}/api/v1/assignments/{mine.pk}/update"
        response = httpx.put(url, content=body, headers=headers, timeout=60)
        return response.status_code, response.text

    answers = at_once(*[put] * 50)
    assert set(answers) == {answers[0]}  # the same receipt, fifty times
    assert answers[0][0] == 200
    assert Update.objects.count() == 1
    assert Event.objects.filter(kind="assignment.uploaded").count() == 1


def test_of_two_different_updates_at_once_one_counts(tiny_model: Model, enrolled: Enrol) -> None:
    charlie, dora = enrolled("charlie"), enrolled("dora")
    lifecycle.start_run(lifecycle.create_run(tiny_model).pk)
    mine, _ = all_check_in(charlie, dora)

    def put(value: float) -> dict[str, Any]:
        body = update_bytes(tiny_model, value)
        admission = admitted(charlie, mine, body)
        landing = intake.Landing(len(body))
        landing.write(body)
        return intake.settle(admission, landing)

    results = at_once(*[partial(put, value) for value in (1.0, 2.0, 3.0, 4.0)])
    receipts = [result for result in results if isinstance(result, dict)]
    conflicts = [result for result in results if isinstance(result, UpdateConflict)]
    assert (len(receipts), len(conflicts)) == (1, 3)
    assert Update.objects.get().digest == receipts[0]["digest"]


@pytest.mark.parametrize("attempt", range(12))
def test_an_upload_against_the_closing_is_counted_or_refused_and_never_half(
    tiny_model: Model, enrolled: Enrol, attempt: int
) -> None:
    charlie, dora, emil = enrolled("charlie"), enrolled("dora"), enrolled("emil")
    run = lifecycle.create_run(tiny_model, rounds_planned=1, quorum=2, target=3)
    round_ = lifecycle.start_run(run.pk)
    all_check_in(charlie, dora, emil)
    upload(charlie)
    upload(dora)
    results = at_once(
        lambda: upload(emil, value=4.0),
        lambda: lifecycle.close_round(round_.pk, actor="bob", reason="now"),
    )
    while lifecycle.step(round_.pk):
        pass
    round_.refresh_from_db()
    assert round_.phase == "published"
    emils = Assignment.objects.get(participant=emil.participant)
    if isinstance(results[0], dict):  # acknowledged, and so it counts: (1 + 1 + 4) / 3
        assert emils.state == "accepted"
        assert served_weights(tiny_model)[0] == 3.0
    else:
        assert isinstance(results[0], RoundClosed | AssertionError)  # or it found no assignment
        assert emils.state in ("late", "lost")
        assert served_weights(tiny_model)[0] == 2.0
    assert results[1] is True


def test_first_come_first_served_never_invites_more_than_there_is_room_for(
    tiny_model: Model, enrolled: Enrol
) -> None:
    everyone = [enrolled(f"participant {number}") for number in range(12)]
    run = lifecycle.create_run(
        tiny_model, selection="first_come", cohort_goal=4, over_selection=1.25
    )
    round_ = lifecycle.start_run(run.pk)
    results = at_once(*[partial(lifecycle.check_in, one.participant) for one in everyone])
    invited = [result for result in results if isinstance(result, Assignment)]
    assert len(invited) == round_.assignments.count() == 5
    round_.refresh_from_db()
    assert round_.phase == "training"


def test_everybody_checks_in_at_once_and_the_round_selects_once(
    tiny_model: Model, enrolled: Enrol
) -> None:
    everyone = [enrolled(f"participant {number}") for number in range(8)]
    round_ = lifecycle.start_run(lifecycle.create_run(tiny_model).pk)
    results = at_once(*[partial(lifecycle.check_in, one.participant) for one in everyone])
    assert not [result for result in results if isinstance(result, Exception)]
    round_.refresh_from_db()
    assert (round_.phase, round_.target) == ("training", 8)
    assert round_.assignments.count() == 8


def test_a_join_code_for_three_admits_three_of_ten(db: None) -> None:
    _, code = enrolment.make_join_code(max_uses=3)

    def enrol(name: str) -> Participant:
        key = Key.generate()
        signature = key.sign(wire.enrol_message(code, name, key.public))
        return enrolment.enrol(code=code, name=name, public_key=key.public, signature=signature)[0]

    results = at_once(*[partial(enrol, f"p{number}") for number in range(10)])
    assert sum(isinstance(result, Participant) for result in results) == 3
    assert sum(isinstance(result, JoinCodeInvalid) for result in results) == 7
    assert Participant.objects.count() == 3


def test_two_runs_of_one_model_are_started_at_once_and_one_runs(tiny_model: Model) -> None:
    runs = [lifecycle.create_run(tiny_model) for _ in range(4)]
    at_once(*[partial(lifecycle.start_run, run.pk) for run in runs])
    assert Run.objects.filter(state="running").count() == 1
    assert Round.objects.count() == 1


def test_stopping_against_publishing_leaves_one_consistent_end(
    tiny_model: Model, enrolled: Enrol
) -> None:
    round_ = ready_to_aggregate(tiny_model, enrolled("charlie"), enrolled("dora"))

    def work() -> None:
        while lifecycle.step(round_.pk):
            pass

    results = at_once(work, lambda: lifecycle.stop_run(round_.run_id, actor="bob"))
    work()
    round_.refresh_from_db()
    served = tiny_model.served
    assert served is not None
    if round_.phase == "published":
        assert served.number == 2
    else:
        assert round_.phase == "cancelled"
        assert served.number == 1
        assert isinstance(results[1], Run)
    assert not ModelVersion.objects.filter(stage="candidate").exists()


def test_runs_are_created_while_versions_are_published_and_nobody_is_a_victim(
    tiny_model: Model,
) -> None:
    """PostgreSQL looks for the model that a run names when all locks are taken, at its commit."""
    second = registry.import_version(tiny_model.pk, tiny_package())
    registry.publish(second)

    def roll_back() -> None:
        for _ in range(15):
            archived = ModelVersion.objects.filter(stage="archived").latest("id")
            registry.roll_back(tiny_model, archived)

    def create() -> None:
        for _ in range(30):
            lifecycle.create_run(tiny_model)

    assert at_once(roll_back, create, create) == [None, None, None]


def test_a_participant_that_is_suspended_while_its_update_is_counted_did_not_fail(
    tiny_model: Model, enrolled: Enrol
) -> None:
    charlie, dora = enrolled("charlie"), enrolled("dora")
    lifecycle.start_run(lifecycle.create_run(tiny_model).pk)
    mine, _ = all_check_in(charlie, dora)
    counted = threading.Event()

    def count() -> None:
        with transaction.atomic():  # what `intake.settle` does, at a walk
            Round.objects.select_for_update().get(pk=mine.round_id)
            Assignment.objects.filter(pk=mine.pk).update(state="uploaded")
            counted.set()
            time.sleep(0.3)

    def suspend() -> None:
        counted.wait()
        enrolment.suspend(charlie.participant, actor="bob")

    assert at_once(count, suspend) == [None, None]
    mine.refresh_from_db()
    assert mine.state == "uploaded"
    assert not Event.objects.filter(kind="assignment.failed").exists()


def test_a_participant_that_is_suspended_while_a_round_selects_it_has_no_place(
    tiny_model: Model, enrolled: Enrol, monkeypatch: pytest.MonkeyPatch
) -> None:
    charlie, dora = enrolled("charlie"), enrolled("dora")
    lifecycle.start_run(lifecycle.create_run(tiny_model).pk)
    lifecycle.check_in(charlie.participant)
    selecting, invite = threading.Event(), lifecycle._invite

    def slow_invite(*told: Any) -> None:
        selecting.set()
        time.sleep(0.3)
        invite(*told)

    def suspend() -> None:
        selecting.wait()
        enrolment.suspend(charlie.participant, actor="bob")

    monkeypatch.setattr(lifecycle, "_invite", slow_invite)
    told = at_once(partial(lifecycle.check_in, dora.participant), suspend)
    assert not [one for one in told if isinstance(one, Exception)]
    assert Assignment.objects.get(participant=charlie.participant).state == "failed"


def test_the_journals_ids_become_visible_in_their_own_order(tiny_model: Model) -> None:
    """A reader with a cursor misses nothing, whoever commits when."""
    done = threading.Event()
    seen: list[int] = []

    def read() -> None:
        while not done.is_set():
            after = seen[-1] if seen else 0
            seen.extend(
                Event.objects.filter(id__gt=after).order_by("id").values_list("id", flat=True)
            )
        connection.close()

    def write() -> None:
        for _ in range(20):
            lifecycle.create_run(tiny_model)

    reader = threading.Thread(target=read)
    reader.start()
    at_once(*[write] * 4)
    done.set()
    reader.join()
    known = set(Event.objects.values_list("id", flat=True))
    missed = {one for one in known if seen and one <= seen[-1]} - set(seen)
    assert not missed


# --- Federated evaluations --------------------------------------------------------------------


def asked_of(model: Model, *everyone: Enrolled, goal: int) -> FederatedEvaluation:
    """An evaluation in which all of them have their places."""
    served = registry.served(model.pk)
    asked = federated_evaluation.request(served, goal=goal, minimum=2)
    for one in everyone:
        assert federated_evaluation.ask(one.participant) is not None
    return asked


def test_reports_that_come_at_once_are_all_counted_and_summed_once(
    tiny_model: Model, enrolled: Enrol
) -> None:
    everyone = [enrolled(name) for name in ("charlie", "dora", "emil", "frida")]
    asked = asked_of(tiny_model, *everyone, goal=4)

    def report(one: Enrolled, value: float) -> None:
        told = {"samples": 10, "metrics": {"loss": value}}
        federated_evaluation.report(one.participant, asked.pk, **told)
        federated_evaluation.step(asked.pk)

    work = [partial(report, one, float(place)) for place, one in enumerate(everyone)]
    errors = [result for result in at_once(*work) if result is not None]
    assert not errors
    asked.refresh_from_db()
    assert (asked.state, asked.summary["participants"]) == ("done", 4)
    assert asked.summary["metrics"]["loss"]["mean"] == 1.5
    for kind, count in (("evaluation.reported", 4), ("evaluation.done", 1)):
        assert Event.objects.filter(kind=kind).count() == count


def test_of_two_reports_of_one_participant_at_once_one_counts(
    tiny_model: Model, enrolled: Enrol
) -> None:
    charlie, dora = enrolled("charlie"), enrolled("dora")
    asked = asked_of(tiny_model, charlie, dora, goal=2)

    def report(value: float) -> Any:
        told = {"samples": 10, "metrics": {"loss": value}}
        return federated_evaluation.report(charlie.participant, asked.pk, **told)

    results = at_once(*[partial(report, value) for value in (0.25, 0.25, 0.75, 0.75)])
    refused = [one for one in results if isinstance(one, ReportConflict)]
    assert len(refused) == 2
    assert Event.objects.filter(kind="evaluation.reported").count() == 1


def test_a_cancelled_round_and_the_last_report_do_not_lock_each_other_out(
    tiny_model: Model, enrolled: Enrol
) -> None:
    charlie, dora = enrolled("charlie"), enrolled("dora")
    rules = {"evaluators": 2, "evaluators_min": 2, "gate_metric": ""}
    round_ = ready_to_aggregate(tiny_model, charlie, dora, **rules)
    while lifecycle.step(round_.pk):
        pass
    asked = FederatedEvaluation.objects.get()
    for one in (charlie, dora):
        place = federated_evaluation.ask(one.participant)
        assert place is not None
        told = {"samples": 10, "metrics": {"loss": 0.5}}
        federated_evaluation.report(one.participant, asked.pk, **told)

    def carry() -> None:
        while lifecycle.step(round_.pk):
            pass

    results = at_once(carry, lambda: lifecycle.cancel_round(round_.pk), carry)
    assert not [one for one in results if isinstance(one, DatabaseError)]
    asked.refresh_from_db()
    round_.refresh_from_db()
    assert (round_.phase, asked.state) in {
        ("published", "done"),
        ("cancelled", "done"),
        ("cancelled", "cancelled"),
    }
