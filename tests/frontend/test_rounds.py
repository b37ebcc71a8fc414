"""The round's cockpit as Django draws it: who gets what, at which cost, and what may be decided."""

import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client

from journal.models import Event
from models_app.models import Model
from rounds import lifecycle
from rounds.models import Round
from tests.rounds.conftest import Enrolled
from tests.rounds.test_lifecycle import started
from tests.rounds.updates import all_check_in, upload

pytestmark = pytest.mark.django_db

Enrol = Callable[..., Enrolled]


def signed_in(user: User | None) -> Client:
    client = Client()
    if user is not None:
        client.force_login(user)
    return client


@pytest.fixture
def training(tiny_model: Model, enrolled: Enrol) -> Round:
    """Charlie has uploaded and dora is at it; the quorum is two."""
    charlie, dora = enrolled("charlie"), enrolled("dora")
    round_ = started(tiny_model, name="autumn")
    all_check_in(charlie, dora)
    upload(charlie)
    round_.refresh_from_db()
    return round_


def document(html: str, name: str) -> Any:
    """The JSON of a script of the page."""
    found = re.search(rf'<script id="{name}" type="application/json">(.*?)</script>', html)
    assert found, name
    return json.loads(found[1])


def test_the_page_has_the_round_and_where_everything_is(training: Round, victor: User) -> None:
    response = signed_in(victor).get(f"/rounds/{training.pk}/")
    html = response.content.decode()
    state = document(html, "round-state")
    assert state["round"]["phase"] == "training"
    assert [one["participant"]["name"] for one in state["assignments"]] == ["charlie", "dora"]
    assert state["cursor"] == Event.objects.latest("id").pk
    links = document(html, "round-setting")["links"]
    assert links["participant"] == "/participants/{uuid}/"
    assert links["version"] == "/models/tiny/versions/{number}/"
    assert links["round"] == "/rounds/{id}/"
    assert links["assignment"] == f"/api/v1/rounds/{training.pk}/assignments/{{id}}"
    assert links["state"] == f"/api/v1/rounds/{training.pk}/state"
    assert "autumn" in html


def test_viewers_see_no_button_and_operators_do(
    training: Round, victor: User, bob: User, alice: User
) -> None:
    address = f"/rounds/{training.pk}/"
    assert "/close/" not in signed_in(victor).get(address).content.decode()
    assert "/cancel/" not in signed_in(victor).get(address).content.decode()
    for person in (bob, alice):
        html = signed_in(person).get(address).content.decode()
        assert f"{address}close/" in html
        assert f"{address}cancel/" in html


def test_who_is_not_signed_in_is_sent_to_sign_in(training: Round) -> None:
    response = signed_in(None).get(f"/rounds/{training.pk}/")
    assert response.status_code == 302
    assert "/sign-in/" in response["Location"]


def test_a_round_that_is_not_there_is_not_found(bob: User) -> None:
    assert signed_in(bob).get("/rounds/404/").status_code == 404
    assert signed_in(bob).get("/rounds/404/close/").status_code == 404


def test_a_verb_that_is_not_there_is_not_found(training: Round, bob: User) -> None:
    assert signed_in(bob).get(f"/rounds/{training.pk}/explode/").status_code == 404


def test_viewers_are_refused_all_the_same(training: Round, victor: User) -> None:
    for verb in ("close", "cancel"):
        response = signed_in(victor).post(
            f"/rounds/{training.pk}/{verb}/", {"reason": "because I can"}
        )
        assert response.status_code == 403
    training.refresh_from_db()
    assert training.phase == "training"


def test_bob_cancels_a_round_with_a_reason_and_the_journal_has_it(
    training: Round, bob: User
) -> None:
    address = f"/rounds/{training.pk}/cancel/"
    client = signed_in(bob)
    assert "abandoned" in client.get(address).content.decode()
    assert client.post(address, {"reason": ""}).status_code == 200  # the reason is asked for
    training.refresh_from_db()
    assert training.phase == "training"
    response = client.post(address, {"reason": "the data were wrong"})
    assert response["Location"] == f"/rounds/{training.pk}/"
    training.refresh_from_db()
    assert training.phase == "cancelled"
    line = Event.objects.get(kind="round.cancelled")
    assert (line.actor, line.reason) == ("bob", "the data were wrong")


def test_what_the_server_refuses_is_said_in_the_form(training: Round, bob: User) -> None:
    response = signed_in(bob).post(f"/rounds/{training.pk}/close/", {"reason": ""})
    assert response.status_code == 409
    assert "at least 2 updates" in response.content.decode()
    training.refresh_from_db()
    assert training.phase == "training"


def test_bob_closes_a_round_that_has_its_quorum(
    tiny_model: Model, enrolled: Enrol, bob: User
) -> None:
    everyone = [enrolled(name) for name in ("charlie", "dora", "emil")]
    round_ = started(tiny_model)
    all_check_in(*everyone)
    for one in everyone[:2]:
        upload(one)
    response = signed_in(bob).post(f"/rounds/{round_.pk}/close/", {"reason": "good enough"})
    assert response.status_code == 302
    line = Event.objects.get(kind="round.aggregating")
    assert (line.actor, line.reason) == ("bob", "good enough")


def test_rounds_lead_to_the_ones_before_and_after(training: Round, victor: User) -> None:
    lifecycle.cancel_round(training.pk, actor="bob", reason="again")
    second = Round.objects.get(number=2)
    client = signed_in(victor)
    assert f'href="/rounds/{second.pk}/"' in client.get(f"/rounds/{training.pk}/").content.decode()
    assert f'href="/rounds/{training.pk}/"' in client.get(f"/rounds/{second.pk}/").content.decode()


@pytest.mark.parametrize("people", [3, 30])
def test_the_page_costs_the_same_queries_however_many_take_part(
    tiny_model: Model,
    enrolled: Enrol,
    victor: User,
    people: int,
    django_assert_num_queries: Any,
) -> None:
    everyone = [enrolled(f"participant {number}") for number in range(people)]
    round_ = started(tiny_model)
    all_check_in(*everyone)
    upload(everyone[0])
    client = signed_in(victor)
    with django_assert_num_queries(13):  # session, user, roles twice, and the document's nine
        assert client.get(f"/rounds/{round_.pk}/").status_code == 200


def test_names_are_text_and_never_markup(tiny_model: Model, enrolled: Enrol, victor: User) -> None:
    nasty = "</script><script>alert(1)</script>"
    everyone = [enrolled(nasty), enrolled("dora")]
    round_ = started(tiny_model, name=nasty)
    all_check_in(*everyone)
    html = signed_in(victor).get(f"/rounds/{round_.pk}/").content.decode()
    assert "<script>alert" not in html
    assert document(html, "round-state")["assignments"][0]["participant"]["name"] == nasty
