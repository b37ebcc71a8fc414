"""What participants are told and may say, at the doors that are not hot."""

from collections.abc import Callable
from typing import Any

import pytest

from client_sdk.keys import Key
from client_sdk.wire import enrol_message
from journal.models import Event
from models_app.models import Model
from rounds import enrolment, handshake, lifecycle
from rounds.models import Assignment, Participant, Round
from tests.rounds.api.conftest import Client, Scene
from tests.rounds.conftest import Enrolled
from tests.rounds.updates import all_check_in, carry, upload

pytestmark = pytest.mark.django_db

Enrol = Callable[..., Enrolled]
LIMIT = "limit_cohort_at_least"


# --- What nobody can read ------------------------------------------------------------------------


@pytest.mark.parametrize("door", ["enrol", "tokens"])
@pytest.mark.parametrize("levels", [101, 900, 3000, 30_000])
def test_an_endless_nest_from_whom_nobody_knows_is_no_mistake_of_ours(
    door: str, levels: int, client_of: Client
) -> None:
    nest = "[" * levels + "]" * levels
    for body in (nest, f'{{"name": {nest}}}', '{"name":' * levels + "1" + "}" * levels):
        answer = client_of().post(f"/api/v1/{door}", body, content_type="application/json")
        assert (answer.status_code, answer.json()["code"]) == (400, "parse_error")
        assert answer.headers["Content-Type"] == "application/problem+json"
        assert answer.json()["detail"].startswith("Expected JSON. Received: ")


def test_a_nest_that_can_be_read_is_told_what_is_wrong_with_it(client_of: Client) -> None:
    nest = "[" * 100 + "]" * 100
    answer = client_of().post("/api/v1/enrol", nest, content_type="application/json")
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid")


# --- An assignment, from its beginning to its verdict --------------------------------------------


def test_an_assignment_says_how_many_it_takes_to_publish(scene: Scene, client_of: Client) -> None:
    told = client_of(scene.charlie).get(f"/api/v1/assignments/{scene.assignment}").json()
    assert (told["quorum"], told["cohort"], told["published"]) == (2, 2, None)


def test_the_verdict_is_read_after_the_round_with_the_version_that_came_of_it(
    scene: Scene, client_of: Client
) -> None:
    mine, charlie = scene.assignment, client_of(scene.charlie)
    upload(scene.charlie)
    assert charlie.get(f"/api/v1/assignments/{mine}").json()["state"] == "uploaded"
    upload(scene.dora)
    carry(scene.second)
    told = charlie.get(f"/api/v1/assignments/{mine}").json()
    assert (told["state"], told["phase"], told["published"]) == ("accepted", "published", 3)


def test_of_a_round_that_fails_no_version_comes(scene: Scene, client_of: Client) -> None:
    mine = scene.assignment
    lifecycle.cancel_round(scene.second.pk, actor="bob", reason="The wrong data.")
    told = client_of(scene.charlie).get(f"/api/v1/assignments/{mine}").json()
    assert (told["state"], told["code"], told["published"]) == ("late", "round_cancelled", None)
    assert "The wrong data." in told["reason"]


# --- Given back ----------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["delete", "failure"])
def test_a_participants_own_limit_is_told_to_operators_and_is_no_failure(
    how: str, scene: Scene, client_of: Client, bob: Any
) -> None:
    path, charlie = f"/api/v1/assignments/{scene.assignment}", client_of(scene.charlie)
    if how == "delete":
        assert charlie.delete(f"{path}?reason={LIMIT}&detail=ours").status_code == 204
        assert charlie.delete(f"{path}?reason={LIMIT}").status_code == 204  # told twice
    else:
        answer = charlie.post(f"{path}/failure", {"reason": LIMIT, "detail": "ours"}, "json")
        assert answer.json()["state"] == "withdrawn"
    mine = Assignment.objects.get(pk=scene.assignment)
    assert (mine.state, mine.code, mine.detail) == ("withdrawn", LIMIT, "ours")
    assert mine.reason == "The round's quorum is smaller than the cohort that it asks for."
    line = Event.objects.get(kind="assignment.withdrawn")
    assert (line.data["code"], line.reason) == (LIMIT, mine.reason)
    rows = client_of(bob).get(f"/api/v1/rounds/{scene.second.pk}/assignments").json()["results"]
    assert [row["code"] for row in rows if row["id"] == mine.pk] == [LIMIT]


@pytest.mark.parametrize(
    "rules", [{"selection": "all"}, {"selection": "first_come", "cohort_goal": 4}]
)
def test_a_round_does_not_invite_again_who_declined(
    rules: dict[str, Any], tiny_model: Model, enrolled: Enrol
) -> None:
    everyone = charlie, dora, emil = enrolled("charlie"), enrolled("dora"), enrolled("emil")
    round_ = lifecycle.start_run(lifecycle.create_run(tiny_model, rounds_planned=1, **rules).pk)
    mine, *_ = all_check_in(*everyone)
    lifecycle.withdraw(charlie.participant, mine.pk, code=LIMIT)
    for _ in range(3):
        told = lifecycle.check_in(charlie.participant)
        assert isinstance(told, lifecycle.Wait)
    upload(dora)
    upload(emil)
    if rules["selection"] == "first_come":
        lifecycle.close_round(round_.pk, actor="bob")
    assert carry(round_).phase == Round.Phase.PUBLISHED
    assert round_.assignments.count() == 3


def test_a_reason_of_ones_own_is_kept_and_nonsense_refused(scene: Scene, client_of: Client) -> None:
    path, charlie = f"/api/v1/assignments/{scene.assignment}", client_of(scene.charlie)
    refused = charlie.delete(f"{path}?reason=Too%20Hot")
    assert (refused.status_code, refused.json()["field"]) == (400, "reason")
    assert charlie.delete(f"{path}?other=1").status_code == 400
    assert charlie.delete(f"{path}?reason=machine_too_hot").status_code == 204
    mine = Assignment.objects.get(pk=scene.assignment)
    assert mine.reason == "The participant withdrew: machine_too_hot."


# --- Versions ------------------------------------------------------------------------------------


def enrol(client: Any, sdk: dict[str, Any]) -> Any:
    _, code = enrolment.make_join_code(label="dave")
    key = Key.generate()
    body = {
        "code": code,
        "name": "dave",
        "public_key": key.public,
        "signature": key.sign(enrol_message(code, "dave", key.public)),
        "sdk": sdk,
    }
    return client.post("/api/v1/enrol", body, "json")


def test_the_server_says_which_versions_it_serves(client_of: Client, db: None) -> None:
    told = client_of().get("/api/v1/").json()
    assert told["wire"] == [1]
    assert told["sdk"] == {"oldest": handshake.OLDEST_SDK}


@pytest.mark.parametrize(
    "sdk",
    [
        {},
        {"version": "0.1.0", "wire": 1},
        {"version": "0.99.3.dev1", "wire": 1, "keras": "3.1", "backend": "jax"},
        {"version": "my own", "python": "3.12"},
        {"version": "0", "wire": 1},
        {"version": "0.5.0", "capabilities": ["proximal", "something_new"]},
    ],
)
def test_versions_that_fit_enrol(sdk: dict[str, Any], client_of: Client, db: None) -> None:
    assert enrol(client_of(), sdk).status_code == 201


def test_what_the_software_can_do_is_told_when_it_enrols(client_of: Client, db: None) -> None:
    sdk = {"version": "0.5.0", "capabilities": ["proximal"]}
    enrol(client_of(), sdk)
    assert Participant.objects.get().sdk == sdk
    assert Participant.objects.get().capabilities == ",proximal,"


@pytest.mark.parametrize("capabilities", ["proximal", ["no name"], ["a"] * 33, [1], {"a": 1}, None])
def test_capabilities_that_are_no_list_of_names_are_refused(
    capabilities: Any, client_of: Client, db: None
) -> None:
    assert enrol(client_of(), {"capabilities": capabilities}).status_code == 400
    assert not Participant.objects.exists()


@pytest.mark.parametrize(
    ("sdk", "words"),
    [
        ({"version": "0.0.9"}, "Upgrade it"),
        ({"version": "1.0.0"}, "upgrade the server"),
        ({"version": "0.1.0", "wire": 2}, "wire format"),
        ({"wire": "1" * 50}, "wire format"),
    ],
)
def test_versions_that_do_not_fit_are_refused_in_a_sentence_and_use_no_code(
    sdk: dict[str, Any], words: str, client_of: Client, db: None
) -> None:
    refused = enrol(client_of(), sdk)
    problem = refused.json()
    assert (refused.status_code, problem["code"]) == (403, "sdk_unsupported")
    assert (problem["wire"], problem["oldest"]) == ([1], handshake.OLDEST_SDK)
    assert words in problem["detail"]
    assert not Participant.objects.exists()
