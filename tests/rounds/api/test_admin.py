"""The admin: every page opens, viewers only look, and actions are verbs."""

import html
import re
from typing import Any

import pytest
from django.apps import apps
from django.contrib import admin
from django.contrib.auth.models import User
from django.db import connection
from django.db.models import Model as Row
from django.test import Client, RequestFactory
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from accounts.models import PersonalToken
from accounts.roles import Role
from journal.models import Event
from models_app import registry
from models_app.models import Model
from rounds import clock, lifecycle
from rounds.models import (
    EvaluationReport,
    FederatedEvaluation,
    JoinCode,
    Participant,
    Round,
    Run,
)
from tests.rounds.api.conftest import Scene
from tests.rounds.api.test_operators import enrol
from tests.rounds.conftest import person, tiny_package
from tests.rounds.updates import upload

pytestmark = pytest.mark.django_db

ROOMS = ("accounts", "journal", "models_app", "rounds")
OURS = [model for model in admin.site._registry if model._meta.app_label in ROOMS]
EVERY = pytest.mark.parametrize("model", OURS, ids=lambda model: model._meta.label_lower)


def page(model: type[Row], name: str, *args: Any) -> str:
    return reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_{name}", args=args)


def signed_in(user: User) -> Client:
    browser = Client()
    browser.force_login(user)
    return browser


@pytest.fixture
def owner(alice: User) -> Client:
    PersonalToken.objects.issue(alice, "notebook")
    return signed_in(alice)


@pytest.fixture
def operator(bob: User) -> Client:
    return signed_in(bob)


@pytest.fixture
def viewer(victor: User) -> Client:
    PersonalToken.objects.issue(victor, "notebook")
    return signed_in(victor)


@pytest.fixture
def scene(scene: Scene) -> Scene:
    """The scene, and charlie was asked to measure the first version."""
    asked = FederatedEvaluation.objects.create(
        version=scene.first.base, goal=2, minimum=2, deadline=clock.now()
    )
    EvaluationReport.objects.create(
        evaluation=asked, participant=scene.charlie.participant, metrics={"loss": 0.12345}
    )
    return scene


def ask(browser: Client, verb: str, *rows: Row) -> Any:
    """Choose an action for rows of a list; the page that asks whether it is meant."""
    form = {"action": verb, "_selected_action": [row.pk for row in rows]}
    return browser.post(page(type(rows[0]), "changelist"), form, follow=True)


def act(browser: Client, verb: str, *rows: Row, reason: str = "") -> list[str]:
    """Take an action on rows of one list; what the admin then says."""
    asked = ask(browser, verb, *rows)
    answer = browser.post(here(asked), {"reason": reason}, follow=True)
    if answer.status_code == 409:
        return list(answer.context["form"].non_field_errors())
    return said(answer)


def here(answer: Any) -> str:
    """The address of the page that an answer is."""
    return str(answer.request["PATH_INFO"] + "?" + answer.request["QUERY_STRING"])


def said(answer: Any) -> list[str]:
    assert answer.redirect_chain, re.findall(r"errorlist.*", answer.content.decode())
    return [str(message) for message in answer.context["messages"]]


# --- Pages ------------------------------------------------------------------------------------


def test_every_row_of_the_rooms_has_a_page() -> None:
    rows = {model for room in ("journal", "rounds") for model in apps.get_app_config(room).models}
    assert rows <= {model._meta.model_name for model in OURS}


@EVERY
def test_alice_opens_every_page(model: type[Row], owner: Client, scene: Scene) -> None:
    assert owner.get(page(model, "changelist")).status_code == 200
    searched = owner.get(page(model, "changelist"), {"q": "charlie"})
    assert searched.status_code == 200
    row = model._default_manager.first()
    assert row is not None, "the scene has one of each"
    assert owner.get(page(model, "change", row.pk)).status_code == 200
    request = RequestFactory().get("/")
    request.user = User.objects.get(username="alice")
    may_add = admin.site._registry[model].has_add_permission(request)
    assert owner.get(page(model, "add")).status_code == (200 if may_add else 403)


@EVERY
def test_a_viewer_looks_and_does_nothing(model: type[Row], viewer: Client, scene: Scene) -> None:
    answer = viewer.get(page(model, "changelist"))
    if model is JoinCode:
        assert answer.status_code == 403
        return
    assert answer.status_code == 200
    shown = answer.context["cl"].model_admin.get_actions(answer.wsgi_request)
    assert set(shown) == ({"delete"} if model is PersonalToken else set())  # one's own
    if model is not PersonalToken:
        assert viewer.get(page(model, "add")).status_code == 403
    row = model._default_manager.last()
    assert row is not None
    assert viewer.get(page(model, "change", row.pk)).status_code == 200
    assert viewer.post(page(model, "change", row.pk), {"name": "x"}).status_code == 403


def test_a_viewer_cannot_act_by_a_forged_form(viewer: Client, scene: Scene) -> None:
    viewer.post(page(Run, "changelist"), {"action": "stop", "_selected_action": [scene.run.pk]})
    address = f"{page(Run, 'decide', 'stop')}?row={scene.run.pk}"
    assert viewer.get(address).status_code == 403
    assert viewer.post(address, {"reason": "for fun"}).status_code == 403
    scene.run.refresh_from_db()
    assert scene.run.state == "running"


# --- Decisions --------------------------------------------------------------------------------


def test_an_action_asks_first_and_changes_nothing(operator: Client, scene: Scene) -> None:
    asked = ask(operator, "stop", scene.run)
    shown = asked.content.decode()
    assert "what participants are training now is lost" in " ".join(shown.split())
    assert page(Run, "change", scene.run.pk) in shown
    scene.run.refresh_from_db()
    assert scene.run.state == "running"


@pytest.mark.parametrize(
    ("verb", "subject"), [("stop", "run"), ("cancel", "second"), ("revoke", "participant")]
)
def test_what_ends_something_needs_a_reason(
    verb: str, subject: str, operator: Client, scene: Scene
) -> None:
    row = scene.dora.participant if subject == "participant" else getattr(scene, subject)
    lines = Event.objects.count()
    answer = operator.post(here(ask(operator, verb, row)), {"reason": "  "})
    assert answer.context["form"].errors == {"reason": ["This field is required."]}
    assert Event.objects.count() == lines


def test_what_a_verb_refuses_is_said_for_each_row(operator: Client, scene: Scene) -> None:
    draft = lifecycle.create_run(scene.model, name="winter")
    asked = ask(operator, "pause", scene.run, draft)
    assert asked.content.decode().count("will be refused, as it stands") == 1
    answer = operator.post(here(asked), {"reason": "lunch"}, follow=True)
    assert said(answer) == [
        "autumn is paused.",
        "winter: Expected a run that may become paused. Received: draft",
    ]


def test_where_all_is_refused_the_reason_is_kept(operator: Client, scene: Scene) -> None:
    answer = operator.post(here(ask(operator, "start", scene.run)), {"reason": "once more"})
    assert answer.status_code == 409
    assert "Received: running" in answer.content.decode()
    assert "once more" in answer.content.decode()


def test_a_decision_from_a_list_leads_back_to_it_as_it_was(operator: Client, scene: Scene) -> None:
    form = {"action": "pause", "_selected_action": [scene.run.pk]}
    narrowed = page(Run, "changelist") + "?state__exact=running&q=aut"
    asked = operator.post(narrowed, form, follow=True)
    answer = operator.post(here(asked), {"reason": ""})
    assert answer["Location"] == narrowed


def test_a_page_offers_what_can_be_decided_now(operator: Client, scene: Scene) -> None:
    shown = operator.get(page(Run, "change", scene.run.pk))
    offered = {decision.label: address for decision, address in shown.context["decisions"]}
    assert set(offered) == {"Pause", "Stop"}
    answer = operator.post(offered["Pause"], {"reason": ""})
    assert answer["Location"] == page(Run, "change", scene.run.pk)
    shown = operator.get(answer["Location"])
    assert [one.label for one, _ in shown.context["decisions"]] == ["Resume", "Stop"]


def test_a_viewer_is_offered_nothing(viewer: Client, scene: Scene) -> None:
    for row in (scene.run, scene.second, scene.dora.participant):
        shown = viewer.get(page(type(row), "change", row.pk))
        assert shown.context["decisions"] == []
        assert "/decide/" not in shown.content.decode()


@pytest.mark.parametrize("rows", ["", "?row=", "?row=x", "?row=999999"])
def test_a_decision_about_nothing_is_not_found(rows: str, operator: Client, scene: Scene) -> None:
    assert operator.get(page(Run, "decide", "stop") + rows).status_code == 404
    assert operator.get(page(Run, "decide", "explode") + f"?row={scene.run.pk}").status_code == 404


def test_too_many_rows_at_once_are_refused(
    operator: Client, scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("accounts.admin.MOST_ROWS", 1)
    people = [scene.charlie.participant, scene.dora.participant]
    (told,) = said(ask(operator, "suspend", *people))
    assert told == "Expected at most 1 rows at once. Received: more."


# --- Ways -------------------------------------------------------------------------------------


@EVERY
def test_every_way_to_what_belongs_to_a_row_leads_there(
    model: type[Row], owner: Client, scene: Scene
) -> None:
    row = model._default_manager.first()
    assert row is not None
    shown = owner.get(page(model, "change", row.pk))
    links = [re.search(r'href="([^"]+)"', link) for link in shown.context["related"]]
    for link in links:
        assert link is not None
        answer = owner.get(html.unescape(link[1]))
        assert answer.status_code == 200, link[1]
        assert answer.request["QUERY_STRING"], "a refused lookup loses it"


def test_the_lists_do_not_ask_for_each_row(owner: Client, scene: Scene, enrolled: Any) -> None:
    def asked() -> dict[str, int]:
        counts = {}
        tables: list[type[Row]] = [*OURS, User]
        for model in tables:
            with CaptureQueriesContext(connection) as captured:
                owner.get(page(model, "changelist"))
            counts[model.__name__] = len(captured)
        return counts

    owner.get(page(Run, "changelist"))
    before = asked()
    for number in range(3):
        enrolled(f"one more {number}", model=scene.model)
        lifecycle.create_run(scene.model, name=f"run {number}")
        lifecycle.cancel_round(scene.run.rounds.latest("number").pk)
        PersonalToken.objects.issue(person(f"person {number}", Role.OPERATOR), "notebook")
        registry.import_version(scene.model.pk, tiny_package())
        registry.create_model(f"model-{number}", tiny_package())
    assert asked() == before


def test_a_line_of_the_journal_leads_to_what_it_speaks_of(owner: Client, scene: Scene) -> None:
    line = Event.objects.filter(kind="assignment.accepted").first()
    assert line is not None
    shown = owner.get(page(Event, "change", line.pk)).content.decode()
    for row in ("run", "round", "assignment", "participant"):
        assert reverse(f"admin:rounds_{row}_change", args=[getattr(line, row)]) in shown


# --- Runs and rounds --------------------------------------------------------------------------


def new_run(model: Model, **changed: Any) -> dict[str, Any]:
    """The form of a new run as the browser shows it, with some fields changed."""
    fields = dict.fromkeys(("until_metric", "until_value", "cohort_goal", "target"), "")
    defaults = {
        field.name: field.default
        for field in Run._meta.fields
        if isinstance(field.default, (int, float, str))
    }
    form = defaults | fields | {"strategy_options": "{}", "hyperparameters": "{}"}
    return form | {"model": model.pk, "name": "winter"} | changed


def test_bob_creates_a_run_by_its_form(operator: Client, tiny_model: Model) -> None:
    form = new_run(tiny_model, hyperparameters='{"epochs": 4}', cohort_min=3, quorum=3)
    said(operator.post(page(Run, "add"), form, follow=True))
    run = Run.objects.get()
    assert (run.name, run.state, run.cohort_min) == ("winter", "draft", 3)
    assert run.hyperparameters["epochs"] == 4
    assert run.created_by is not None
    assert run.created_by.username == "bob"
    assert Event.objects.get(kind="run.created").actor == "bob"


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"hyperparameters": '{"epochs": 0}'}, "hyperparameters"),
        ({"hyperparameters": "[1]"}, "hyperparameters"),
        ({"strategy_options": '"x"'}, "strategy_options"),
        ({"strategy": "fedmagic"}, "strategy"),
        ({"selection": "first_come"}, "cohort_goal"),
        ({"quorum": 5, "target": 3}, "target"),
        ({"fraction": 0}, "fraction"),
        ({"kind": "asynchronous"}, "kind"),
        ({"patience": 3}, "best_metric"),
        ({"strategy": "krum"}, "quorum"),
    ],
)
def test_a_rule_that_makes_no_sense_is_told_at_its_field(
    changed: dict[str, Any], field: str, operator: Client, tiny_model: Model
) -> None:
    answer = operator.post(page(Run, "add"), new_run(tiny_model, **changed))
    assert answer.status_code == 200
    assert list(answer.context["adminform"].form.errors) == [field]
    assert not Run.objects.exists()


def test_bob_leads_a_run_by_actions(operator: Client, tiny_model: Model) -> None:
    run = lifecycle.create_run(tiny_model, name="winter")
    assert act(operator, "start", run) == ["winter is running."]
    assert act(operator, "pause", run, reason="lunch") == ["winter is paused."]
    assert act(operator, "resume", run) == ["winter is running again."]
    assert act(operator, "stop", run, reason="spring") == ["winter is stopped."]
    (refused,) = act(operator, "start", run)
    assert refused == "winter: Expected a run that may become running. Received: stopped"
    line = Event.objects.get(kind="run.paused")
    assert (line.actor, line.reason) == ("bob", "lunch")


def test_bob_closes_and_cancels_rounds_by_actions(operator: Client, scene: Scene) -> None:
    (early,) = act(operator, "close", scene.second)
    assert "Expected an open round with at least 2 updates. Received: 0 updates" in early
    upload(scene.charlie)
    upload(scene.dora)
    assert act(operator, "close", scene.second) == ["autumn round 2 is closed."]
    assert act(operator, "cancel", scene.second, reason="bad data") == [
        "autumn round 2 is cancelled."
    ]
    assert Round.objects.latest("id").number == 3


def test_the_page_of_a_run_reports_its_rounds(viewer: Client, scene: Scene) -> None:
    shown = viewer.get(page(Run, "change", scene.run.pk)).content.decode()
    assert "<td>1</td><td>published</td><td>2</td><td>2</td>" in shown
    assert "<td>2</td><td>training</td><td>-</td>" in shown


def test_the_page_of_a_round_says_what_its_strategy_told(viewer: Client, scene: Scene) -> None:
    shown = viewer.get(page(Round, "change", scene.first.pk)).content.decode()
    assert "<th>delta norm</th>" in shown


def test_what_a_single_participant_measured_is_shown_to_nobody(owner: Client, scene: Scene) -> None:
    told = EvaluationReport.objects.get()
    for address in (
        page(EvaluationReport, "change", told.pk),
        page(EvaluationReport, "changelist"),
    ):
        assert "0.12345" not in owner.get(address).content.decode()


def test_the_list_of_participants_says_what_they_can_do(viewer: Client, scene: Scene) -> None:
    charlie = scene.charlie.participant
    charlie.sdk = {"version": "0.1.0", "capabilities": ["report_steps", "proximal"]}
    charlie.save()
    shown = viewer.get(page(Participant, "changelist")).content.decode()
    assert "proximal, report steps" in shown
    assert "0.1.0" in shown


# --- Participants and join codes --------------------------------------------------------------


def test_bob_suspends_reinstates_and_revokes_by_actions(operator: Client, scene: Scene) -> None:
    charlie, dora = scene.charlie.participant, scene.dora.participant
    assert act(operator, "suspend", charlie, dora) == [
        "charlie is suspended.",
        "dora is suspended.",
    ]
    assert act(operator, "reinstate", dora) == ["dora is active again."]
    assert act(operator, "revoke", charlie, reason="its key leaked") == ["charlie is revoked."]
    (refused,) = act(operator, "reinstate", charlie)
    assert "Received: revoked" in refused
    states = Participant.objects.order_by("name").values_list("state", flat=True)
    assert list(states) == ["revoked", "active"]


@pytest.fixture
def told_command(operator: Client) -> list[str]:
    """The command that the admin shows for a new join code, as words."""
    form = {"label": "emil", "model": "", "max_uses": 2, "expires_at_0": "", "expires_at_1": ""}
    messages = said(operator.post(page(JoinCode, "add"), form, follow=True))
    told = re.search(r"<code>(.*)</code>", messages[0])
    assert told is not None
    return told[1].split()


def test_the_admin_shows_a_new_join_code_once(told_command: list[str], operator: Client) -> None:
    assert told_command[:3] == ["fedclient", "join", "http://testserver"]
    code = JoinCode.objects.get()
    assert (code.label, code.max_uses, code.created_by.username) == ("emil", 2, "bob")  # type: ignore[union-attr]
    for address in (page(JoinCode, "changelist"), page(JoinCode, "change", code.pk)):
        assert told_command[3] not in operator.get(address).content.decode()


def test_emil_enrols_with_the_code_of_the_admin(told_command: list[str], operator: Client) -> None:
    enrol(told_command[3], "emil")
    assert Participant.objects.get(name="emil").join_code == JoinCode.objects.get()
    assert act(operator, "withdraw", JoinCode.objects.get()) == ["emil is withdrawn."]


def test_a_join_code_of_the_past_is_refused_at_its_field(operator: Client) -> None:
    form = {"label": "", "max_uses": 1, "expires_at_0": "2001-01-01", "expires_at_1": "00:00"}
    answer = operator.post(page(JoinCode, "add"), form)
    assert list(answer.context["adminform"].form.errors) == ["expires_at"]
    assert not JoinCode.objects.exists()
