"""Who may do what: every address of the API, asked by everyone."""

import re
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import transaction
from drf_spectacular.generators import SchemaGenerator
from rest_framework.test import APIClient

from rounds import enrolment
from rounds.api.schema import DOORS
from tests.rounds.api.conftest import Client, Scene
from tests.rounds.conftest import Enrolled

pytestmark = [pytest.mark.django_db, pytest.mark.alike]

ROLES = ("anonymous", "participant", "viewer", "operator", "owner")
Row = tuple[str, str, dict[str, Any], tuple[int, ...]]


def all_get(status: int) -> tuple[int, ...]:
    return (status,) * 5


def participants_get(status: int) -> tuple[int, ...]:
    return (401, status, 403, 403, 403)


def known_get(status: int) -> tuple[int, ...]:
    return (401, status, status, status, status)


def viewers_get(status: int) -> tuple[int, ...]:
    return (401, 403, status, status, status)


def operators_get(status: int) -> tuple[int, ...]:
    return (401, 403, 403, status, status)


NOTHING: dict[str, Any] = {}
PROGRESS = {"activity": "training", "fraction": 0.5}
REPORT = {"samples": 3, "metrics": {"loss": 0.5}}

# Method, address, body; then what an anonymous visitor, a participant, a viewer, an operator and
# an owner get. Charlie's assignment is the one asked for; the run is running, its round trains.
TABLE: list[Row] = [
    ("get", "/api/v1/", NOTHING, all_get(200)),
    ("post", "/api/v1/enrol", NOTHING, all_get(400)),
    ("post", "/api/v1/challenges", NOTHING, all_get(400)),
    ("post", "/api/v1/tokens", NOTHING, all_get(400)),
    ("get", "/api/v1/participants/me", NOTHING, participants_get(200)),
    ("delete", "/api/v1/participants/me", NOTHING, participants_get(204)),
    ("post", "/api/v1/participants/me/rotate", NOTHING, participants_get(400)),
    ("get", "/api/v1/assignments/{id}", NOTHING, participants_get(200)),
    ("delete", "/api/v1/assignments/{id}", NOTHING, participants_get(204)),
    ("post", "/api/v1/assignments/{id}/progress", PROGRESS, participants_get(200)),
    ("post", "/api/v1/assignments/{id}/failure", {"reason": "tired"}, participants_get(200)),
    ("post", "/api/v1/evaluations/{id}/report", REPORT, participants_get(404)),
    ("post", "/api/v1/evaluations/{id}/failure", {"reason": "tired"}, participants_get(404)),
    ("get", "/api/v1/runs", NOTHING, viewers_get(200)),
    ("post", "/api/v1/runs", {"model": "tiny"}, operators_get(201)),
    ("get", "/api/v1/runs/{id}", NOTHING, viewers_get(200)),
    ("get", "/api/v1/runs/{id}/report", NOTHING, viewers_get(200)),
    ("get", "/api/v1/runs/{id}/history", NOTHING, viewers_get(200)),
    ("post", "/api/v1/runs/{id}/start", NOTHING, operators_get(409)),
    ("post", "/api/v1/runs/{id}/pause", NOTHING, operators_get(200)),
    ("post", "/api/v1/runs/{id}/resume", NOTHING, operators_get(409)),
    ("post", "/api/v1/runs/{id}/stop", NOTHING, operators_get(200)),
    ("get", "/api/v1/rounds", NOTHING, viewers_get(200)),
    ("get", "/api/v1/rounds/{id}", NOTHING, viewers_get(200)),
    ("get", "/api/v1/rounds/{id}/state", NOTHING, viewers_get(200)),
    ("get", "/api/v1/rounds/{round_id}/assignments", NOTHING, viewers_get(200)),
    ("get", "/api/v1/rounds/{round_id}/assignments/{id}", NOTHING, viewers_get(200)),
    ("post", "/api/v1/rounds/{id}/close", NOTHING, operators_get(409)),
    ("post", "/api/v1/rounds/{id}/cancel", NOTHING, operators_get(200)),
    ("get", "/api/v1/participants", NOTHING, viewers_get(200)),
    ("get", "/api/v1/participants/{uuid}", NOTHING, viewers_get(200)),
    ("post", "/api/v1/participants/{uuid}/suspend", NOTHING, operators_get(200)),
    ("post", "/api/v1/participants/{uuid}/reinstate", NOTHING, operators_get(409)),
    ("post", "/api/v1/participants/{uuid}/revoke", NOTHING, operators_get(200)),
    ("get", "/api/v1/join-codes", NOTHING, operators_get(200)),
    ("post", "/api/v1/join-codes", NOTHING, operators_get(201)),
    ("get", "/api/v1/join-codes/{id}", NOTHING, operators_get(200)),
    ("post", "/api/v1/join-codes/{id}/withdraw", NOTHING, operators_get(200)),
    ("get", "/api/v1/events", NOTHING, viewers_get(200)),
]
# The registry's are told of in its own tests, and versions' evaluations in `test_evaluations.py`.
ELSEWHERE = "/api/v1/models"


def address(path: str, scene: Scene) -> str:
    """The address of a row's subject in the scene."""
    ids = {
        "assignments": scene.assignment,
        "runs": scene.run.pk,
        "rounds": scene.second.pk,
        "participants": scene.dora.participant.uuid,
        "join-codes": scene.code.pk,
        "evaluations": 1,  # of which nobody was asked
    }
    return re.sub(r"([a-z-]+)/\{\w+\}", lambda found: f"{found[1]}/{ids[found[1]]}", path)


@pytest.mark.parametrize(("method", "path", "body", "expected"), TABLE)
def test_each_role_gets_what_it_may(
    method: str,
    path: str,
    body: dict[str, Any],
    expected: tuple[int, ...],
    scene: Scene,
    client_of: Client,
    victor: User,
    bob: User,
    alice: User,
) -> None:
    url = address(path, scene)
    received = []
    for who in (None, scene.charlie, victor, bob, alice):
        client = client_of(who)
        with transaction.atomic():
            response = getattr(client, method)(url, body or None, format="json")
            transaction.set_rollback(True)
        received.append(response.status_code)
    assert dict(zip(ROLES, received, strict=True)) == dict(zip(ROLES, expected, strict=True))


def test_the_table_tells_of_every_address() -> None:
    paths = SchemaGenerator().get_schema(public=True)["paths"]
    served = {
        (method, path)
        for path, methods in paths.items()
        for method in methods
        if path not in DOORS and not path.startswith(ELSEWHERE)
    }
    assert {(method, path) for method, path, *_ in TABLE} == served


def test_another_participants_assignment_does_not_exist(scene: Scene, client_of: Client) -> None:
    dora = client_of(scene.dora)
    for method, path, body, _ in TABLE:
        if path.startswith("/api/v1/assignments"):
            response = getattr(dora, method)(address(path, scene), body or None, format="json")
            assert response.status_code == 404, (method, path)
            assert response.json()["code"] == "assignment_not_found"


def test_a_session_needs_the_token_against_forged_requests(scene: Scene, bob: User) -> None:
    browser = APIClient(enforce_csrf_checks=True)
    browser.force_login(bob)
    assert browser.get("/api/v1/runs").status_code == 200
    forged = browser.post(f"/api/v1/runs/{scene.run.pk}/stop", {}, format="json")
    assert forged.status_code == 403
    scene.run.refresh_from_db()
    assert scene.run.state == "running"


def test_who_is_no_longer_active_is_nobody(client_of: Client, bob: User) -> None:
    client = client_of(bob)
    assert client.get("/api/v1/runs").status_code == 200
    User.objects.filter(pk=bob.pk).update(is_active=False)
    refused = client.get("/api/v1/runs")
    assert refused.status_code == 401
    assert refused.json()["code"] == "token_invalid"


def test_a_suspended_participant_is_refused_at_once(scene: Scene, client_of: Client) -> None:
    charlie: Enrolled = scene.charlie
    enrolment.suspend(charlie.participant, actor="bob")
    refused = client_of(charlie).get("/api/v1/participants/me")
    assert refused.status_code == 403
    assert refused.json()["code"] == "participant_suspended"
