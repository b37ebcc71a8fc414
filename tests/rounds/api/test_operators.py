"""What operators do through the API, and what the journal says of it."""

from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest
from django.contrib.auth.models import User
from rest_framework.test import APIClient

from client_sdk import wire
from client_sdk.keys import Key
from journal.models import Event
from models_app.models import Model
from rounds import enrolment, lifecycle, selectors
from rounds.errors import JoinCodeInvalid
from rounds.models import JoinCode, Run
from tests.rounds.api.conftest import Client, Scene
from tests.rounds.conftest import Enrolled
from tests.rounds.updates import all_check_in, upload

pytestmark = pytest.mark.django_db


@pytest.fixture
def operator(client_of: Client, bob: User) -> APIClient:
    return client_of(bob)


def post(client: APIClient, path: str, body: dict[str, Any] | None = None) -> Any:
    return client.post(f"/api/v1/{path}", body or {}, format="json")


# --- Runs -------------------------------------------------------------------------------------


def test_bob_creates_a_run_with_rules_of_his_own(operator: APIClient, tiny_model: Model) -> None:
    rules = {
        "name": "winter",
        "hyperparameters": {"epochs": 3, "learning_rate": 1, "optimizer": "adam"},
        "rounds_planned": 7,
        "selection": "random",
        "fraction": 0.5,
        "cohort_goal": 4,
        "until_metric": "accuracy",
        "until_value": 0.9,
    }
    answer = post(operator, "runs", {"model": "tiny", **rules})
    assert answer.status_code == 201
    told = answer.json()
    assert {name: told[name] for name in rules if name != "hyperparameters"} == {
        name: value for name, value in rules.items() if name != "hyperparameters"
    }
    assert told["hyperparameters"] == {
        "epochs": 3,
        "batch_size": 32,
        "learning_rate": 1.0,
        "optimizer": "adam",
        "momentum": 0.0,
        "max_steps": None,
    }
    assert (told["state"], told["model"], told["created_by"]) == ("draft", "tiny", "bob")
    line = Event.objects.get(kind="run.created")
    assert (line.run, line.actor) == (told["id"], "bob")


def test_a_run_needs_a_model_and_nothing_else(operator: APIClient, tiny_model: Model) -> None:
    told = post(operator, "runs", {"model": "tiny"}).json()
    assert told["name"] == "tiny with fedavg"
    assert told["rounds_planned"] == 10


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "model"),
        ({"model": "unknown"}, "model"),
        ({"model": "tiny", "epochs": 3}, "epochs"),
        ({"model": "tiny", "state": "running"}, "state"),
        ({"model": "tiny", "hyperparameters": {"epoch": 3}}, "hyperparameters.epoch"),
        ({"model": "tiny", "hyperparameters": {"epochs": 0}}, "hyperparameters.epochs"),
        ({"model": "tiny", "hyperparameters": {"epochs": True}}, "hyperparameters.epochs"),
        ({"model": "tiny", "hyperparameters": [1]}, "hyperparameters.non_field_errors"),
        ({"model": "tiny", "strategy": "fedmagic"}, "strategy"),
        ({"model": "tiny", "strategy_options": {"beta": 1}}, "strategy_options.beta"),
        ({"model": "tiny", "strategy_options": None}, "strategy_options"),
        ({"model": "tiny", "rounds_planned": 0}, "rounds_planned"),
        ({"model": "tiny", "rounds_planned": "many"}, "rounds_planned"),
        ({"model": "tiny", "fraction": "NaN"}, "fraction"),
        ({"model": "tiny", "fraction": 1.5}, "fraction"),
        ({"model": "tiny", "selection": "first_come"}, "cohort_goal"),
        ({"model": "tiny", "quorum": 5, "target": 3}, "target"),
        ({"model": "tiny", "until_metric": "accuracy"}, "until_value"),
        ({"model": "tiny", "patience": 2}, "best_metric"),
        ({"model": "tiny", "kind": "asynchronous"}, "kind"),
        ({"model": "tiny", "strategy": "fedbuff"}, "kind"),
        ({"model": "tiny", "strategy": "fedbuff", "kind": "asynchronous"}, "concurrency"),
        ({"model": "tiny", "buffer_size": 2}, "buffer_size"),
        ({"model": "tiny", "gate_metric": "federated_accuracy"}, "evaluators"),
        ({"model": "tiny", "evaluators": 2}, "evaluators"),
        (
            {"model": "tiny", "strategy": "fedprox", "strategy_options": {"mu": 10**400}},
            "strategy_options.mu",
        ),
        (
            {"model": "tiny", "hyperparameters": {"learning_rate": 10**400}},
            "hyperparameters.learning_rate",
        ),
    ],
)
def test_a_rule_that_makes_no_sense_is_refused_at_its_field(
    body: dict[str, Any], field: str, operator: APIClient, tiny_model: Model
) -> None:
    refused = post(operator, "runs", body)
    assert refused.status_code == 400
    assert refused.headers["Content-Type"] == "application/problem+json"
    assert refused.json()["field"] == field
    assert not Run.objects.exists()


def test_bob_leads_a_run_through_its_states(operator: APIClient, tiny_model: Model) -> None:
    run = post(operator, "runs", {"model": "tiny"}).json()["id"]
    states = [
        post(operator, f"runs/{run}/{verb}", {"reason": f"let us {verb}"}).json()["state"]
        for verb in ("start", "pause", "resume", "stop")
    ]
    assert states == ["running", "paused", "running", "stopped"]
    led = ("run.started", "run.paused", "run.resumed", "run.stopped")
    lines = Event.objects.filter(kind__in=led).values_list("kind", "actor", "reason")
    assert list(lines) == [
        ("run.started", "bob", "let us start"),
        ("run.paused", "bob", "let us pause"),
        ("run.resumed", "bob", "let us resume"),
        ("run.stopped", "bob", "let us stop"),
    ]


def test_a_second_run_of_the_model_has_to_wait(operator: APIClient, scene: Scene) -> None:
    other = post(operator, "runs", {"model": "tiny"}).json()["id"]
    refused = post(operator, f"runs/{other}/start")
    assert refused.status_code == 409
    assert refused.json()["code"] == "model_busy"


def test_the_report_tells_of_each_round(operator: APIClient, scene: Scene) -> None:
    first, second = operator.get(f"/api/v1/runs/{scene.run.pk}/report").json()
    assert first["seconds"] >= first["overhead_seconds"] >= 0
    told = {name: first[name] for name in ("number", "state", "version", "accepted", "samples")}
    assert told == {
        "number": 1,
        "state": "published",
        "version": 2,
        "accepted": 2,
        "samples": 30,
    }
    assert (second["number"], second["state"], second["version"]) == (2, "training", None)


def test_a_run_says_how_many_rounds_it_has_published(operator: APIClient, scene: Scene) -> None:
    assert operator.get(f"/api/v1/runs/{scene.run.pk}").json()["published"] == 1


# --- Rounds -----------------------------------------------------------------------------------


def test_a_round_shows_its_cohort(operator: APIClient, scene: Scene) -> None:
    told = operator.get(f"/api/v1/rounds/{scene.first.pk}").json()
    assert (told["model"], told["base"], told["version"]) == ("tiny", 1, 2)
    assert {state: count for state, count in told["cohort"].items() if count} == {
        "invited": 2,
        "accepted": 2,
    }
    open_one = operator.get(f"/api/v1/rounds/{scene.second.pk}").json()
    assert (open_one["version"], open_one["metrics"], open_one["samples"]) == (None, {}, None)


def test_bob_closes_a_round_that_has_a_quorum(
    operator: APIClient, scene: Scene, enrolled: Any
) -> None:
    early = post(operator, f"rounds/{scene.second.pk}/close")
    assert early.json()["code"] == "illegal_move"
    upload(scene.charlie)
    upload(scene.dora)
    closed = post(operator, f"rounds/{scene.second.pk}/close", {"reason": "dinner"})
    assert closed.status_code == 200
    assert closed.json()["phase"] == "aggregating"
    line = Event.objects.get(kind="round.aggregating", round=scene.second.pk)
    assert (line.actor, line.reason) == ("bob", "dinner")


def test_bob_cancels_a_round_and_the_run_opens_the_next(operator: APIClient, scene: Scene) -> None:
    cancelled = post(operator, f"rounds/{scene.second.pk}/cancel", {"reason": "wrong data"})
    assert (cancelled.json()["phase"], cancelled.json()["reason"]) == ("cancelled", "wrong data")
    assert scene.run.rounds.latest("number").number == 3


def test_the_assignments_of_a_round_tell_what_each_one_did(
    operator: APIClient, scene: Scene
) -> None:
    page = operator.get(f"/api/v1/rounds/{scene.first.pk}/assignments").json()
    assert [(one["name"], one["state"]) for one in page["results"]] == [
        ("dora", "accepted"),
        ("charlie", "accepted"),
    ]
    assert [one["update"]["samples"] for one in page["results"]] == [20, 10]
    waiting = operator.get(f"/api/v1/rounds/{scene.second.pk}/assignments").json()
    assert [one["update"] for one in waiting["results"]] == [None, None]


# --- Participants and join codes --------------------------------------------------------------


def test_bob_suspends_reinstates_and_revokes_charlie(
    operator: APIClient, scene: Scene, client_of: Client
) -> None:
    path, charlie = f"participants/{scene.charlie.participant.uuid}", client_of(scene.charlie)
    assert post(operator, f"{path}/suspend", {"reason": "odd updates"}).json()["state"] == (
        "suspended"
    )
    assert charlie.get("/api/v1/participants/me").json()["code"] == "participant_suspended"
    assert post(operator, f"{path}/reinstate").json()["state"] == "active"
    assert charlie.get("/api/v1/participants/me").status_code == 200
    assert post(operator, f"{path}/revoke").json()["state"] == "revoked"
    assert charlie.get("/api/v1/participants/me").status_code == 401
    assert post(operator, f"{path}/reinstate").json()["code"] == "illegal_move"
    line = Event.objects.get(kind="participant.suspended")
    assert (line.actor, line.reason) == ("bob", "odd updates")


def enrol(code: str, name: str) -> None:
    key = Key.generate()
    message = wire.enrol_message(code, name, key.public)
    enrolment.enrol(code=code, name=name, public_key=key.public, signature=key.sign(message))


def test_a_join_code_is_told_once(operator: APIClient, tiny_model: Model) -> None:
    answer = post(operator, "join-codes", {"label": "emil", "model": "tiny", "max_uses": 2})
    told = answer.json()
    assert answer.headers["Cache-Control"] == "no-store"
    assert (told["label"], told["model"], told["max_uses"], told["uses"]) == ("emil", "tiny", 2, 0)
    assert told["created_by"] == "bob"
    enrol(told["code"], "emil")

    again = operator.get(f"/api/v1/join-codes/{told['id']}")
    assert again.json()["uses"] == 1
    assert told["code"] not in again.content.decode()
    assert JoinCode.objects.get().digest not in again.content.decode()


def test_nobody_enrols_with_a_code_that_was_withdrawn(operator: APIClient) -> None:
    told = post(operator, "join-codes").json()
    withdrawn = post(operator, f"join-codes/{told['id']}/withdraw", {"reason": "it leaked"})
    assert withdrawn.json()["withdrawn_at"] is not None
    with pytest.raises(JoinCodeInvalid):
        enrol(told["code"], "mallory")


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"max_uses": 0}, "max_uses"),
        ({"max_uses": -1}, "max_uses"),
        ({"max_uses": 10**30}, "max_uses"),
        ({"expires_at": "2001-01-01T00:00:00Z"}, "expires_at"),
        ({"expires_at": "soon"}, "expires_at"),
        ({"model": "unknown"}, "model"),
        ({"label": "x" * 101}, "label"),
        ({"code": "my-own-code"}, "code"),
    ],
)
def test_a_join_code_that_makes_no_sense_is_refused(
    body: dict[str, Any], field: str, operator: APIClient
) -> None:
    refused = post(operator, "join-codes", body)
    assert refused.status_code == 400
    assert refused.json()["field"] == field
    assert not JoinCode.objects.exists()


# --- Problems ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        "runs/999999",
        "rounds/999999999999999999",
        "rounds/999999/assignments",
        f"participants/{UUID(int=7)}",
        "join-codes/999999",
        "runs?page=7",
    ],
)
def test_what_is_not_there_is_a_problem_document(path: str, operator: APIClient) -> None:
    problem = operator.get(f"/api/v1/{path}")
    assert problem.status_code == 404
    assert problem.headers["Content-Type"] == "application/problem+json"
    assert problem.json()["code"] == "not_found"


def test_every_refusal_is_a_problem_document(operator: APIClient, scene: Scene) -> None:
    anonymous = APIClient().get("/api/v1/runs")
    assert anonymous.headers["WWW-Authenticate"].startswith("Bearer")
    refusals = [
        (anonymous, 401, "not_authenticated"),
        (operator.delete(f"/api/v1/runs/{scene.run.pk}"), 405, "method_not_allowed"),
        (operator.post("/api/v1/runs", "{", content_type="application/json"), 400, "parse_error"),
        (
            operator.post("/api/v1/runs", "a", content_type="text/csv"),
            415,
            "unsupported_media_type",
        ),
        (post(operator, f"runs/{scene.run.pk}/start"), 409, "illegal_move"),
        (post(operator, f"runs/{scene.run.pk}/pause", {"resaon": "x"}), 400, "invalid"),
    ]
    for answer, status, code in refusals:
        problem = answer.json()
        assert (answer.status_code, problem["status"], problem["code"]) == (status, status, code)
        assert answer.headers["Content-Type"] == "application/problem+json"
        assert problem["type"] == f"urn:fedserver:problem:{code}"
        assert problem["title"]
        assert "{" not in problem["title"]
        assert problem["detail"]
    scene.run.refresh_from_db()
    assert scene.run.state == "running"


@pytest.mark.parametrize("body", ["null", "[]", '"x"', "3", '{"reason": 5, "reason": "x"}'])
def test_a_body_of_another_kind_breaks_nothing(
    body: str, operator: APIClient, scene: Scene
) -> None:
    path = f"/api/v1/runs/{scene.run.pk}/pause"
    answer = operator.post(path, body, content_type="application/json")
    assert answer.status_code in (200, 400)


def test_an_address_that_leads_nowhere_is_a_problem_document_below_the_api() -> None:
    problem = APIClient().get("/api/v1/nodes")
    assert problem.status_code == 404
    assert problem.headers["Content-Type"] == "application/problem+json"
    assert problem.json()["detail"].endswith("Received: /api/v1/nodes")
    assert APIClient().get("/nodes").headers["Content-Type"].startswith("text/html")


def test_a_mistake_of_ours_is_a_problem_document_that_says_little(
    client_of: Client, bob: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    def mistake() -> None:
        raise RuntimeError("a secret")

    monkeypatch.setattr(selectors, "runs", mistake)
    client = client_of(bob)
    client.raise_request_exception = False
    problem = client.get("/api/v1/runs")
    assert (problem.status_code, problem.json()["code"]) == (500, "server_error")
    assert problem.headers["Content-Type"] == "application/problem+json"
    assert b"secret" not in problem.content


# --- Whom a round need not wait for -----------------------------------------------------------


@pytest.mark.parametrize("how", ["suspend", "revoke", "leave"])
def test_a_round_that_waited_for_charlie_alone_goes_on_as_he_goes(
    operator: APIClient,
    client_of: Client,
    scene: Scene,
    enrolled: Callable[..., Enrolled],
    how: str,
    bell_at_once: None,
    django_capture_on_commit_callbacks: Any,
) -> None:
    run, everyone = scene.run, [scene.dora, enrolled("emil"), scene.charlie]
    lifecycle.cancel_round(scene.second.pk, reason="emil comes too")
    all_check_in(*everyone)
    for one in everyone[:2]:
        upload(one)
    third = run.rounds.get(number=3)
    assert third.phase == "training"

    with django_capture_on_commit_callbacks(execute=True):
        if how == "leave":
            assert client_of(scene.charlie).delete("/api/v1/participants/me").status_code == 204
        else:
            path = f"participants/{scene.charlie.participant.uuid}/{how}"
            assert post(operator, path).status_code == 200
    third.refresh_from_db()
    assert third.phase == "published"
