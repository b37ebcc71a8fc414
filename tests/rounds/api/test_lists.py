"""Lists: pages, filters, order, and that a longer list asks the database no more often."""

from collections.abc import Callable
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.test.utils import CaptureQueriesContext
from rest_framework.test import APIClient

from journal import events
from models_app.models import Model
from rounds import enrolment, lifecycle
from tests.rounds.api.conftest import Client, Scene
from tests.rounds.conftest import Enrolled

pytestmark = pytest.mark.django_db

Enrol = Callable[..., Enrolled]


@pytest.fixture
def operator(client_of: Client, bob: User) -> APIClient:
    return client_of(bob)


def names(client: APIClient, path: str, field: str = "name") -> list[Any]:
    answer = client.get(f"/api/v1/{path}")
    assert answer.status_code == 200, answer.content
    return [row[field] for row in answer.json()["results"]]


def test_a_list_comes_in_pages(operator: APIClient, tiny_model: Model) -> None:
    for number in range(5):
        lifecycle.create_run(tiny_model, name=f"run {number}")
    first = operator.get("/api/v1/runs?page_size=2").json()
    assert first["count"] == 5
    assert [run["name"] for run in first["results"]] == ["run 4", "run 3"]
    assert first["previous"] is None
    second = operator.get(first["next"]).json()
    assert [run["name"] for run in second["results"]] == ["run 2", "run 1"]


def test_runs_are_narrowed_and_ordered(operator: APIClient, scene: Scene, bob: User) -> None:
    lifecycle.create_run(scene.model, name="winter", user=bob)
    lifecycle.create_run(scene.model, name="spring")
    assert names(operator, "runs?state=running") == ["autumn"]
    assert names(operator, "runs?state=running&state=draft") == ["spring", "winter", "autumn"]
    assert names(operator, "runs?name=WIN") == ["winter"]
    assert names(operator, "runs?created_by=bob") == ["winter"]
    assert names(operator, "runs?model=tiny&ordering=name") == ["autumn", "spring", "winter"]
    assert names(operator, "runs?model=other") == []


def test_rounds_and_assignments_are_narrowed(operator: APIClient, scene: Scene) -> None:
    assert names(operator, "rounds?phase=published", "number") == [1]
    assert names(operator, f"rounds?run={scene.run.pk}&ordering=number", "number") == [1, 2]
    assert names(operator, "rounds?run=999", "number") == []
    assert names(operator, "rounds?model=tiny&number=2", "number") == [2]
    assignments = f"rounds/{scene.first.pk}/assignments"
    assert names(operator, f"{assignments}?participant={scene.charlie.participant.uuid}") == [
        "charlie"
    ]
    assert names(operator, f"{assignments}?state=late") == []


def test_participants_and_join_codes_are_narrowed(operator: APIClient, scene: Scene) -> None:
    enrolment.suspend(scene.dora.participant)
    assert names(operator, "participants") == ["charlie", "dora"]
    assert names(operator, "participants?state=suspended") == ["dora"]
    assert names(operator, "participants?name=CHAR") == ["charlie"]
    assert names(operator, "participants?seen_since=2001-01-01T00:00:00Z&model=tiny") == []
    assert names(operator, f"participants?join_code={scene.charlie.participant.join_code_id}") == [
        "charlie"
    ]
    enrolment.withdraw_join_code(scene.code)
    assert names(operator, "join-codes?withdrawn=true", "label") == ["for emil"]
    assert names(operator, "join-codes?withdrawn=false", "label") == ["dora", "charlie"]
    assert names(operator, "join-codes?label=emil&model=tiny", "label") == ["for emil"]


@pytest.mark.parametrize(
    "query",
    [
        "runs?state=flying",
        "rounds?phase=flying",
        "rounds?run=one",
        "participants?seen_since=yesterday",
        "events?kind=round.exploded",
        "events?after=-1",
        "events?limit=100000",
        "events?after=99999999999999999999",
        "events?actor=bob",
    ],
)
def test_a_filter_that_makes_no_sense_is_refused(query: str, operator: APIClient) -> None:
    refused = operator.get(f"/api/v1/{query}")
    assert refused.status_code == 400
    assert refused.json()["field"] in query


@pytest.mark.parametrize("number", ["1e400", "99999999999999999999999999", "1.5", "-3"])
def test_numbers_beyond_all_rows_find_nothing_or_are_refused(
    number: str, operator: APIClient, scene: Scene
) -> None:
    for query in (f"rounds?run={number}", f"rounds?number={number}", f"events?run={number}"):
        answer = operator.get(f"/api/v1/{query}")
        assert answer.status_code in (200, 400), query
        assert not answer.json().get("results", answer.json().get("events")), query


# --- Events -----------------------------------------------------------------------------------


def test_a_reader_follows_the_journal_by_its_cursor(operator: APIClient, scene: Scene) -> None:
    everything = operator.get("/api/v1/events?limit=1000").json()["events"]
    ids = [event["id"] for event in everything]
    assert ids == sorted(ids)

    followed: list[dict[str, Any]] = []
    after = 0
    while page := (answer := operator.get(f"/api/v1/events?after={after}&limit=7").json())[
        "events"
    ]:
        assert len(page) <= 7
        followed += page
        after = answer["next"]
        assert after == page[-1]["id"]
    assert followed == everything
    assert answer["next"] == after  # nothing new: the cursor stays

    with events.transaction() as journal:
        journal.record("run.paused", run=scene.run.pk, actor="bob", reason="lunch")
    (latest,) = operator.get(f"/api/v1/events?after={after}").json()["events"]
    told = {name: latest[name] for name in ("kind", "run", "actor", "reason", "data")}
    assert told == {
        "kind": "run.paused",
        "run": scene.run.pk,
        "actor": "bob",
        "reason": "lunch",
        "data": {},
    }


def test_events_are_narrowed_to_a_subject(operator: APIClient, scene: Scene) -> None:
    charlie = scene.charlie.participant.pk

    def kinds(query: str) -> list[str]:
        found = operator.get(f"/api/v1/events?{query}&limit=1000").json()["events"]
        return [event["kind"] for event in found]

    assert kinds(f"participant={charlie}") == [
        "participant.enrolled",
        "assignment.invited",
        "assignment.uploaded",
        "assignment.accepted",
        "assignment.invited",
    ]
    assert kinds(f"round={scene.first.pk}&kind=round.published") == ["round.published"]
    assert "run.started" in kinds(f"run={scene.run.pk}")
    assert "model.created" in kinds(f"model={scene.model.pk}")


# --- Questions to the database ----------------------------------------------------------------


def queries(client: APIClient, path: str) -> int:
    with CaptureQueriesContext(
        connection,
    ) as captured:
        assert client.get(f"/api/v1/{path}").status_code == 200
    return len(captured)


# Two of them know who asks: the token with its user, and the user's groups.
@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("runs", 4),
        ("rounds", 4),
        ("participants", 4),
        ("join-codes", 4),
        ("rounds/{first}/assignments", 5),
        ("runs/{run}/report", 4),
        ("events", 3),
    ],
)
def test_a_longer_list_asks_no_more_questions(
    path: str, expected: int, operator: APIClient, scene: Scene, enrolled: Enrol
) -> None:
    path = path.format(first=scene.first.pk, run=scene.run.pk)
    operator.get("/api/v1/runs")  # notes when the token was last used, at most once a minute
    assert queries(operator, path) == expected
    for number in range(3):
        enrolled(f"one more {number}", model=scene.model)
        lifecycle.create_run(scene.model, name=f"run {number}")
        lifecycle.cancel_round(scene.run.rounds.latest("number").pk)
    assert queries(operator, path) == expected


def test_a_list_leaves_the_architecture_where_it_is(operator: APIClient, scene: Scene) -> None:
    for path in ("runs", "rounds", "participants", "join-codes"):
        with CaptureQueriesContext(connection) as captured:
            operator.get(f"/api/v1/{path}")
        assert not any("weights_manifest" in query["sql"] for query in captured), path
