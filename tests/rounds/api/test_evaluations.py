"""Federated evaluations through the API: who may ask, who is asked, and what nobody is shown."""

from collections.abc import Callable
from typing import Any

import pytest
from django.contrib.auth.models import User

from journal.models import Event
from models_app.models import Model
from rounds import federated_evaluation
from rounds.api import documents
from rounds.models import EvaluationReport, FederatedEvaluation
from tests.rounds.api.conftest import Client
from tests.rounds.conftest import Enrolled
from tests.rounds.test_federated_evaluation import come, let_the_deadline_pass

pytestmark = pytest.mark.django_db

PATH = "/api/v1/models/tiny/versions/1/evaluations"
TOLD = {"accuracy": 0.123456, "loss": 2.5}


@pytest.fixture
def charlie(enrolled: Callable[..., Enrolled]) -> Enrolled:
    return enrolled("charlie")


@pytest.fixture
def dora(enrolled: Callable[..., Enrolled]) -> Enrolled:
    return enrolled("dora")


def report(client: Any, evaluation: int, **told: Any) -> Any:
    body = {"samples": 10, "metrics": TOLD} | told
    return client.post(f"/api/v1/evaluations/{evaluation}/report", body, format="json")


def test_bob_asks_and_reads_what_enough_have_measured(
    tiny_model: Model, client_of: Client, bob: User, charlie: Enrolled, dora: Enrolled
) -> None:
    bobs = client_of(bob)
    body = {"goal": 2, "minimum": 2, "seconds": 60, "reason": "before the board meets"}
    answer = bobs.post(PATH, body, format="json")
    assert answer.status_code == 201, answer.content
    asked = answer.json()
    assert (asked["state"], asked["reports"], asked["summary"]) == ("open", 0, None)
    assert (asked["model"], asked["version"], asked["created_by"]) == ("tiny", 1, "bob")
    line = Event.objects.get(kind="evaluation.opened")
    assert (line.actor, line.reason) == ("bob", "before the board meets")
    assert bobs.post(PATH, body, format="json").json()["code"] == "evaluation_open"

    classes = [[4, 3], [3, 3], [3, 0]]
    for one in (charlie, dora):
        # Of one report nothing is told to anybody: not a number of it is in any document.
        for path in (PATH, f"{PATH}/{asked['id']}", "/api/v1/events", "/api/v1/models/tiny"):
            assert "123456" not in bobs.get(path).content.decode()
        told = documents.answer(come(one))
        assert told["action"] == "evaluate"
        assert told["evaluation"]["id"] == asked["id"]
        assert told["evaluation"]["minimum"] == 2
        receipt = report(client_of(one), asked["id"], classes=classes)
        assert receipt.status_code == 200, receipt.content
        assert receipt.json().keys() == {"evaluation", "samples", "reported_at"}
    federated_evaluation.step(asked["id"])

    [done] = bobs.get(PATH).json()["results"]
    assert done == bobs.get(f"{PATH}/{asked['id']}").json()
    assert (done["state"], done["reports"]) == ("done", 2)
    accuracy = done["summary"]["metrics"]["accuracy"]
    assert accuracy["mean"] == pytest.approx(0.123456)
    assert accuracy["worst_participant"]["name"] == "charlie"
    assert done["summary"]["classes"][0] == {
        "label": "a",
        "examples": 8,
        "recognised": 6,
        "participants": 2,
    }
    version = bobs.get("/api/v1/models/tiny/versions/1").json()
    assert version["metrics"]["federated_accuracy"] == pytest.approx(0.123456)


def test_of_too_few_nothing_is_told_even_at_the_end(
    tiny_model: Model, client_of: Client, bob: User, charlie: Enrolled
) -> None:
    bobs = client_of(bob)
    asked = bobs.post(PATH, {"goal": 2, "minimum": 2}, format="json").json()
    come(charlie)
    report(client_of(charlie), asked["id"])
    let_the_deadline_pass()
    federated_evaluation.step(asked["id"])
    told = bobs.get(f"{PATH}/{asked['id']}").json()
    assert (told["state"], told["summary"]) == ("failed", None)
    assert told["reason"].startswith("Only 1 of at least 2 participants")
    for path in (PATH, "/api/v1/events", "/api/v1/models/tiny/versions/1"):
        assert "123456" not in bobs.get(path).content.decode()


@pytest.mark.parametrize(
    ("told", "field"),
    [
        ({"samples": "10"}, "samples"),
        ({"metrics": {"loss": "0.5"}}, "metrics.loss"),
        ({"metrics": None}, "metrics"),
        ({"classes": [[1, 2], [0, 0], [0, 0]]}, "classes.0"),
        ({"weights": "AAAA"}, "weights"),
    ],
)
def test_what_is_no_report_is_a_problem_that_names_the_field(
    told: dict[str, Any], field: str, tiny_model: Model, client_of: Client, charlie: Enrolled
) -> None:
    federated_evaluation.request(tiny_model.served, goal=2, minimum=2)  # type: ignore[arg-type]
    place = come(charlie)
    refused = report(client_of(charlie), place.evaluation_id, **told)
    assert refused.status_code in (400, 422), refused.content
    assert refused.json()["field"] == field
    assert EvaluationReport.objects.get().reported_at is None


def test_who_may_ask_cancel_and_read(
    tiny_model: Model,
    client_of: Client,
    alice: User,
    bob: User,
    victor: User,
    charlie: Enrolled,
) -> None:
    body = {"goal": 2, "minimum": 2}
    codes = [client_of(who).post(PATH, body, format="json").status_code for who in (None, charlie)]
    assert codes == [401, 403]
    assert client_of(victor).post(PATH, body, format="json").status_code == 403
    assert client_of(alice).post(PATH, body, format="json").status_code == 201
    pk = FederatedEvaluation.objects.get().pk
    for who, code in ((None, 401), (charlie, 403), (victor, 200), (bob, 200)):
        assert client_of(who).get(PATH).status_code == code
    cancel = f"{PATH}/{pk}/cancel"
    assert client_of(victor).post(cancel, {}, format="json").status_code == 403
    told = client_of(bob).post(cancel, {"reason": "not now"}, format="json").json()
    assert (told["state"], told["reason"]) == ("cancelled", "not now")
    assert client_of(bob).post(cancel, {}, format="json").json()["code"] == "illegal_move"
    refused = client_of(bob).post(PATH, {"minimum": 1}, format="json")
    assert (refused.json()["code"], refused.json()["field"]) == ("rules_invalid", "minimum")
    assert client_of(bob).get("/api/v1/models/tiny/versions/9/evaluations").status_code == 404


def test_who_was_not_asked_gets_a_404(
    tiny_model: Model, client_of: Client, charlie: Enrolled, dora: Enrolled
) -> None:
    federated_evaluation.request(tiny_model.served, goal=2, minimum=2)  # type: ignore[arg-type]
    place = come(charlie)
    assert report(client_of(dora), place.evaluation_id).json()["code"] == "evaluation_not_found"
    gives_up = {"reason": "limit_cohort_at_least"}
    path = f"/api/v1/evaluations/{place.evaluation_id}/failure"
    assert client_of(charlie).post(path, gives_up, format="json").status_code == 204
    late = report(client_of(charlie), place.evaluation_id)
    assert (late.status_code, late.json()["code"]) == (409, "evaluation_closed")
