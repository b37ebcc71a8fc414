"""The runs' pages: what alice, bob and victor see there, and what they may do."""

import csv
import html
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from io import StringIO
from typing import Any, ClassVar

import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from accounts.models import PersonalToken
from frontend import run_form, runs, strategies
from frontend.templatetags import pictures
from journal.models import Event
from models_app.models import Model, ModelVersion
from rounds import aggregation, capabilities, lifecycle, selectors
from rounds.models import Round, Run
from tests.rounds.aggregation.test_options import Tuned
from tests.rounds.conftest import Enrolled
from tests.rounds.updates import all_check_in, carry, upload

pytestmark = pytest.mark.django_db

Enrol = Callable[..., Enrolled]
SignedIn = Callable[[User], Client]


@pytest.fixture
def signed_in() -> SignedIn:
    """`signed_in(bob)`: a browser without JavaScript before which bob sits."""

    def sign_in(user: User) -> Client:
        client = Client()
        client.force_login(user)
        return client

    return sign_in


@pytest.fixture
def lived(tiny_model: Model, enrolled: Enrol) -> Run:
    """Round 1 was published by charlie and dora with an accuracy of 0.8; round 2 trains."""
    charlie, dora = enrolled("charlie"), enrolled("dora")
    run = lifecycle.create_run(tiny_model, name="autumn", rounds_planned=3, actor="bob")
    first = lifecycle.start_run(run.pk, actor="bob")
    all_check_in(charlie, dora)
    upload(charlie)
    upload(dora)
    carry(first)
    made = ModelVersion.objects.filter(model=tiny_model, number=2)
    made.update(metrics={"accuracy": 0.8, "loss": 0.6})
    all_check_in(charlie, dora)
    run.refresh_from_db()
    return run


def text_of(client: Client, address: str) -> str:
    answer = client.get(address)
    assert answer.status_code == 200, answer.content.decode()
    return answer.content.decode()


# --- The list ---------------------------------------------------------------------------------


def test_an_empty_list_says_what_to_do(signed_in: SignedIn, bob: User, victor: User) -> None:
    assert (
        text_of(signed_in(bob), "/runs/").count("New run") == 2
    )  # above the list, and in its place
    seen = text_of(signed_in(victor), "/runs/")
    assert "No run yet" in seen
    assert "An operator can create one" in seen
    assert "/runs/new/" not in seen


def test_the_list_tells_runs_apart_and_where_they_are(
    signed_in: SignedIn, victor: User, lived: Run
) -> None:
    again = lifecycle.create_run(lived.model, name="autumn", actor="bob")
    seen = text_of(signed_in(victor), "/runs/")
    assert f"run {lived.pk}<" in seen
    assert f"run {again.pk}<" in seen
    assert seen.index(f"/runs/{again.pk}/") < seen.index(f"/runs/{lived.pk}/"), "newest first"
    assert "1 of 3" in seen
    assert f'href="/rounds/{lived.rounds.get(number=2).pk}/"' in seen
    assert "80.0 %" in seen


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ("state=draft", ["winter"]),
        ("state=running", ["autumn"]),
        ("model=tiny", ["winter", "autumn"]),
        ("model=other", []),
        ("state=no-such", ["winter", "autumn"]),
    ],
)
def test_the_list_is_narrowed_by_state_and_model(
    signed_in: SignedIn, victor: User, lived: Run, query: str, names: list[str]
) -> None:
    lifecycle.create_run(lived.model, name="winter", actor="bob")
    answer = signed_in(victor).get(f"/runs/?{query}")
    assert [run.name for run, _ in answer.context["rows"]] == names
    assert ("No such run" in answer.content.decode()) == (not names)


def test_many_runs_come_in_pages(signed_in: SignedIn, victor: User, tiny_model: Model) -> None:
    for _ in range(runs.PER_PAGE + 1):
        lifecycle.create_run(tiny_model, actor="bob")
    client = signed_in(victor)
    assert "1 to 25 of 26 runs" in text_of(client, "/runs/")
    older = client.get("/runs/").context["others"]["after"]
    assert len(client.get(f"/runs/{older}").context["rows"]) == 1


def test_the_list_draws_accuracies_from_the_first_to_the_last() -> None:
    assert pictures.sparkline([0.5], "accuracy") == "", "one value is no line"
    small = pictures.sparkline([0.5, 0.7, 0.9], "accuracy")
    assert 'points="4.0,28.0 60.0,16.0 116.0,4.0"' in small
    assert 'aria-label="accuracy"' in small


# --- One run ----------------------------------------------------------------------------------


def test_a_run_tells_where_it_stands(signed_in: SignedIn, victor: User, lived: Run) -> None:
    seen = text_of(signed_in(victor), f"/runs/{lived.pk}/")
    assert "1 of 3 rounds published" in seen
    assert "Round 2" in seen
    assert 'data-state="training"' in seen
    assert 'href="/models/tiny/"' in seen
    assert "Each participant trains 1 epoch over its own data" in seen
    assert 'class="button" data-dialog' not in seen, "victor may not press anything"


def test_a_run_that_compares_its_versions_says_which_is_best(
    signed_in: SignedIn, victor: User, lived: Run
) -> None:
    address = f"/runs/{lived.pk}/"
    assert 'class="best"' not in text_of(signed_in(victor), address)
    rules = {"best_metric": "accuracy", "patience": 5}
    Run.objects.filter(pk=lived.pk).update(**rules)
    seen = text_of(signed_in(victor), address)
    assert "of round 1, accuracy 80.0 %." in seen
    assert 'version 2</a> <span class="best">best</span>' in seen
    assert "without a better version" not in seen, "it is the newest one"
    assert selectors.run_history(Run.objects.get())["best"] == {
        "metric": "accuracy",
        "value": 0.8,
        "round": 1,
        "version": 2,
    }
    assert '<span class="best">best of its run</span>' in text_of(
        signed_in(victor), "/models/tiny/"
    )
    worse = ModelVersion.objects.create(
        model=lived.model, number=3, origin="round", metrics={"accuracy": 0.7}, weights_bytes=1
    )
    Round.objects.filter(run=lived, number=2).update(phase="published", version=worse)
    seen = text_of(signed_in(victor), address)
    assert "1 of 5 rounds without a better version: then the run ends." in seen
    Run.objects.filter(pk=lived.pk).update(
        state="completed", reason="5 rounds in a row were no better."
    )
    assert "<strong>Why it ended:</strong> 5 rounds in a row" in text_of(signed_in(victor), address)


def test_a_run_and_its_rounds_tell_of_their_strategy(
    signed_in: SignedIn, victor: User, lived: Run
) -> None:
    Run.objects.filter(pk=lived.pk).update(strategy="krum", strategy_options={"attackers": 2})
    for address in (f"/runs/{lived.pk}/", f"/rounds/{lived.rounds.get(number=1).pk}/"):
        seen = " ".join(text_of(signed_in(victor), address).split())
        assert '<a href="/strategies/#krum">Krum</a>' in seen
        assert "Attackers to bear" in seen
        assert html.escape(aggregation.strategy("krum").about) in seen


def test_the_pictures_get_the_history(signed_in: SignedIn, victor: User, lived: Run) -> None:
    seen = text_of(signed_in(victor), f"/runs/{lived.pk}/")
    begin = seen.index(">", seen.index('<script id="run-histories"')) + 1
    told = json.loads(seen[begin : seen.index("</script>", begin)])
    assert told == {"runs": [selectors.run_history(lived)]}
    assert seen.count("<fs-drawing") == 5


def test_runs_are_compared_by_the_address(
    signed_in: SignedIn, victor: User, alice: User, lived: Run
) -> None:
    lifecycle.stop_run(lived.pk, actor="alice")
    other = lifecycle.create_run(lived.model, name="winter", actor="bob")
    lifecycle.start_run(other.pk, actor="bob")
    address = f"/runs/{lived.pk}/?compare={other.pk}&compare={lived.pk}&compare=x&compare=999"
    answer = signed_in(victor).get(address)
    assert [one["id"] for one in answer.context["pictures"]["runs"]] == [lived.pk, other.pk]
    assert f'value="{other.pk}" checked' in answer.content.decode()


@pytest.mark.parametrize(
    ("state", "verbs"),
    [
        ("draft", ["start", "stop"]),
        ("running", ["pause", "stop"]),
        ("paused", ["resume", "stop"]),
        ("completed", []),
    ],
)
def test_bob_sees_the_buttons_that_are_possible_now(
    signed_in: SignedIn, bob: User, tiny_model: Model, state: str, verbs: list[str]
) -> None:
    run = lifecycle.create_run(tiny_model, actor="bob")
    Run.objects.filter(pk=run.pk).update(state=state)
    answer = signed_in(bob).get(f"/runs/{run.pk}/")
    assert list(answer.context["decisions"]) == verbs
    for verb in ("start", "pause", "resume", "stop"):
        shown = f'href="/runs/{run.pk}/{verb}/"' in answer.content.decode()
        assert shown == (verb in verbs)


def test_bob_starts_pauses_resumes_and_stops_with_a_reason(
    signed_in: SignedIn, bob: User, tiny_model: Model
) -> None:
    run = lifecycle.create_run(tiny_model, name="autumn", actor="bob")
    client = signed_in(bob)
    for verb, state in (
        ("start", "running"),
        ("pause", "paused"),
        ("resume", "running"),
        ("stop", "stopped"),
    ):
        address = f"/runs/{run.pk}/{verb}/"
        assert f"autumn (run {run.pk})" in text_of(client, address)
        answer = client.post(address, {"reason": f"to {verb}"})
        assert (answer.status_code, answer["Location"]) == (302, f"/runs/{run.pk}/")
        run.refresh_from_db()
        assert run.state == state
    told = Event.objects.filter(run=run.pk, kind="run.stopped").get()
    assert (told.actor, told.reason) == ("bob", "to stop")


def test_updates_that_were_not_needed_are_told_apart_from_rejected_ones(
    signed_in: SignedIn, victor: User, lived: Run
) -> None:
    second = lived.rounds.get(number=2)
    lifecycle.cancel_round(second.pk, actor="bob")
    text = text_of(signed_in(victor), f"/runs/{lived.pk}/")
    assert "accepted updates; 2 not used" in text


def test_what_is_not_possible_any_more_is_said_and_changes_nothing(
    signed_in: SignedIn, bob: User, tiny_model: Model
) -> None:
    run = lifecycle.create_run(tiny_model, actor="bob")
    answer = signed_in(bob).post(f"/runs/{run.pk}/pause/", {"reason": ""})
    assert answer.status_code == 409
    assert "Expected a run that may become paused" in answer.content.decode()
    run.refresh_from_db()
    assert run.state == "draft"


def test_victor_decides_nothing(signed_in: SignedIn, victor: User, tiny_model: Model) -> None:
    run = lifecycle.create_run(tiny_model, actor="bob")
    client = signed_in(victor)
    for address in (f"/runs/{run.pk}/start/", "/runs/new/", "/runs/new/preview/"):
        assert client.get(address).status_code == 403
        assert client.post(address).status_code == 403
    run.refresh_from_db()
    assert run.state == "draft"


@pytest.mark.parametrize(
    "address",
    ["/runs/99/", "/runs/99/start/", "/runs/99/history.csv", "/runs/99999999999999999999/"],
)
def test_a_run_that_is_not_there(signed_in: SignedIn, bob: User, address: str) -> None:
    assert signed_in(bob).get(address).status_code == 404


def test_a_verb_or_a_kind_of_file_that_is_not_there(
    signed_in: SignedIn, bob: User, tiny_model: Model
) -> None:
    run = lifecycle.create_run(tiny_model, actor="bob")
    for address in (f"/runs/{run.pk}/explode/", f"/runs/{run.pk}/history.exe"):
        assert signed_in(bob).get(address).status_code == 404


def test_a_failed_round_says_why_and_what_to_do(
    signed_in: SignedIn, victor: User, tiny_model: Model, enrolled: Enrol
) -> None:
    charlie, dora = enrolled("charlie"), enrolled("dora")
    run = lifecycle.create_run(tiny_model, retries=0, actor="bob")
    round_ = lifecycle.start_run(run.pk, actor="bob")
    for one, told in zip((charlie, dora), all_check_in(charlie, dora), strict=True):
        lifecycle.fail(one.participant, told.pk, code="no_data", reason="The disk is away.")
    carry(round_)
    seen = text_of(signed_in(victor), f"/runs/{run.pk}/")
    assert "The run failed." in seen
    assert "Only 0 of at least 2 updates came." in seen
    assert "Look in the round why updates are missing" in seen
    assert f'href="/rounds/{round_.pk}/"' in seen


def test_a_draft_says_what_keeps_it_from_working(
    signed_in: SignedIn, bob: User, tiny_model: Model, lived: Run
) -> None:
    draft = lifecycle.create_run(tiny_model, name="winter", actor="bob")
    seen = text_of(signed_in(bob), f"/runs/{draft.pk}/")
    assert f"autumn (run {lived.pk}) trains this model now" in seen
    assert "trains this model now" not in text_of(signed_in(bob), f"/runs/{lived.pk}/")


def test_every_rule_is_in_the_table(tiny_model: Model) -> None:
    run = lifecycle.create_run(tiny_model, selecting_seconds=90, cohort_goal=4, actor="bob")
    told = {label: value for _, rows in runs.rules_of(run) for label, value in rows}
    assert len(told) == len(run_form.defaults())
    assert (told["Wait at most"], told["Wait for"], told["Epochs"]) == ("1 min 30 s", 4, 1)
    assert told["Who is chosen"] == "everyone who checks in"


def test_a_run_from_before_a_rule_was_known_shows_its_default(tiny_model: Model) -> None:
    run = lifecycle.create_run(tiny_model, actor="bob")
    del run.hyperparameters["momentum"]
    told = {label: value for _, rows in runs.rules_of(run) for label, value in rows}
    assert told["Momentum"] == 0.0


def test_the_table_ends_somewhere(
    signed_in: SignedIn, victor: User, lived: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "MOST_LINES", 1)
    seen = text_of(signed_in(victor), f"/runs/{lived.pk}/")
    assert "And 1 older round: all are in the CSV and JSON files." in seen


def test_the_live_part_is_drawn_alone_and_has_no_form(
    signed_in: SignedIn, bob: User, lived: Run
) -> None:
    last = Event.objects.latest("id").pk
    answer = signed_in(bob).get(f"/runs/{lived.pk}/", headers={"Fedserver-Live": str(last)})
    seen = answer.content.decode()
    assert answer.status_code == 200
    assert "Round 2" in seen
    assert "<html" not in seen
    assert "<form" not in seen


# --- Queries ----------------------------------------------------------------------------------


def test_pages_cost_the_same_however_much_there_is(
    signed_in: SignedIn, bob: User, tiny_model: Model, enrolled: Enrol
) -> None:
    client = signed_in(bob)

    def queries(address: str) -> int:
        with CaptureQueriesContext(connection) as captured:
            text_of(client, address)
        return len(captured)

    people = [enrolled("charlie"), enrolled("dora")]
    run = lifecycle.create_run(tiny_model, rounds_planned=9, actor="bob")
    lifecycle.start_run(run.pk, actor="bob")
    before = {address: queries(address) for address in (f"/runs/{run.pk}/", "/runs/")}
    for number in (1, 2, 3):
        all_check_in(*people)
        for one in people:
            upload(one)
        carry(run.rounds.get(number=number))
    lifecycle.create_run(tiny_model, actor="bob")
    assert {address: queries(address) for address in before} == before
    assert before == {f"/runs/{run.pk}/": 14, "/runs/": 10}


# --- A history to keep ------------------------------------------------------------------------


def test_a_history_as_a_table(signed_in: SignedIn, victor: User, lived: Run) -> None:
    Round.objects.filter(run=lived, number=1).update(reason="=1+1")
    answer = signed_in(victor).get(f"/runs/{lived.pk}/history.csv")
    assert answer["Content-Type"] == "text/csv; charset=utf-8"
    assert f'filename="run-{lived.pk}-history.csv"' in answer["Content-Disposition"]
    first, second = csv.DictReader(StringIO(answer.content.decode()))
    assert (first["number"], first["phase"], first["accuracy"]) == ("1", "published", "0.8")
    assert (first["counts_accepted"], first["participants_loss_mean"]) == ("2", "0.5")
    assert first["reason"] == "'=1+1", "no spreadsheet runs it"
    assert (second["phase"], second["version"], second["seconds_training"]) == ("training", "", "")


def test_a_history_as_json_is_the_apis(signed_in: SignedIn, victor: User, lived: Run) -> None:
    answer = signed_in(victor).get(f"/runs/{lived.pk}/history.json")
    assert answer.json() == selectors.run_history(lived)


def test_a_draft_has_a_history_of_no_lines(tiny_model: Model) -> None:
    run = lifecycle.create_run(tiny_model, actor="bob")
    assert runs.as_csv(selectors.run_history(run)) == "number\r\n"


# --- The wizard -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 90),
        ("90 s", 90),
        ("5 min", 300),
        ("1 h 30 min", 5400),
        ("1.5h", 5400),
        ("2 days", 172_800),
    ],
)
def test_times_are_read_as_people_write_them(text: str, seconds: int) -> None:
    assert run_form.read_span(text) == seconds
    assert run_form.read_span(run_form.write_span(seconds)) == seconds


@pytest.mark.parametrize("text", ["soon", "5 parsecs", "min", "-5", "1 h and more", "9" * 400])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="Received"):
        run_form.read_span(text)


BUFFERED = {
    "strategy": "fedbuff",
    "kind": "asynchronous",
    "concurrency": "6",
    "buffer_size": "3",
}


def fields(**given: Any) -> dict[str, Any]:
    """What the form sends if nobody changes anything, but for what is given."""
    return run_form.as_sent({"model": "tiny"}) | given


def test_the_wizard_makes_a_draft_of_defaults(
    signed_in: SignedIn, bob: User, tiny_model: Model
) -> None:
    answer = signed_in(bob).post("/runs/new/", fields(create="1"))
    made = Run.objects.get()
    assert answer["Location"] == f"/runs/{made.pk}/"
    expected = lifecycle.create_run(tiny_model, actor="bob", user=bob)
    differ = {"id", "created_at"}
    for field in Run._meta.concrete_fields:
        if field.attname not in differ:
            assert getattr(made, field.attname) == getattr(expected, field.attname), field.attname
    told = Event.objects.filter(kind="run.created", run=made.pk).get()
    assert told.actor == "bob"


def test_the_wizard_starts_a_run_as_it_was_asked_to(
    signed_in: SignedIn, bob: User, tiny_model: Model
) -> None:
    given = fields(
        start="1",
        name="winter",
        rounds_planned="5",
        until_metric="accuracy",
        until_value="0.9",
        selection="random",
        fraction="0.5",
        cohort_goal="4",
        selecting_seconds="1 h 30 min",
        **{"hyperparameters.epochs": "3", "hyperparameters.optimizer": "adam"},
    )
    signed_in(bob).post("/runs/new/", given)
    made = Run.objects.get()
    assert (made.state, made.name, made.rounds_planned) == ("running", "winter", 5)
    assert (made.until_metric, made.until_value) == ("accuracy", 0.9)
    assert (made.selection, made.fraction, made.cohort_goal) == ("random", 0.5, 4)
    assert made.selecting_seconds == 5400
    assert made.hyperparameters["epochs"] == 3
    assert made.hyperparameters["optimizer"] == "adam"
    assert made.rounds.count() == 1


@pytest.mark.parametrize(
    ("given", "field", "part"),
    [
        ({"model": ""}, "model", "required"),
        ({"model": "unknown"}, "model", "valid"),
        ({"rounds_planned": "0"}, "rounds_planned", "from 1"),
        ({"rounds_planned": "many"}, "rounds_planned", "whole number"),
        ({"selecting_seconds": "soon"}, "selecting_seconds", "Expected a time"),
        (
            {"selection": "first_come"},
            "cohort_goal",
            "for “first come, first served” has to know when to stop. Received: nothing",
        ),
        ({"quorum": "9", "cohort_goal": "4"}, "quorum", "no more than the goal of 4"),
        (
            {"until_metric": "accuracy"},
            "until_value",
            "Expected a value exactly when “End early by” is set. Received: nothing",
        ),
        ({"hyperparameters.epochs": "0"}, "hyperparameters.epochs", "from 1"),
        ({"hyperparameters.learning_rate": "nan"}, "hyperparameters.learning_rate", "number"),
        ({"fraction": "2", "selection": "random"}, "fraction", "above 0"),
        ({"strategy": "unknown"}, "strategy", "unknown"),
        ({"strategy": "krum", "options.krum.attackers": "1"}, "quorum", "at least 5"),
        ({"strategy": "fedprox", "options.fedprox.mu": "-1"}, "options.fedprox.mu", "from 0"),
        (
            {"strategy": "scaffold", "hyperparameters.optimizer": "adam"},
            "hyperparameters.optimizer",
            "sgd",
        ),
        (
            {"strategy": "fedbuff"},
            "kind",
            "Expected “buffered: nobody waits for the slowest”, for FedBuff folds",
        ),
        ({"kind": "asynchronous"}, "kind", "Expected “in rounds: each waits for its cohort”"),
        (
            {
                "strategy": "fedprox",
                "options.fedprox.mu": "20",
                "hyperparameters.learning_rate": "0.5",
            },
            "options.fedprox.mu",
            "Expected “Proximal term μ” below 2 / “Learning rate” = 4",
        ),
        ({"keep_best": "on"}, "best_metric", "for “Serve the best version at the end” compares"),
        (
            {"gate_metric": "federated_loss"},
            "evaluators",
            "participants that evaluate, for “Gate” is federated_loss",
        ),
        ({"strategy": "fedbuff", "kind": "asynchronous"}, "concurrency", "whole number"),
        (
            {**BUFFERED, "buffer_size": "3", "quorum": "4"},
            "quorum",
            "no more than the buffer size of 3",
        ),
        ({"patience": "3"}, "best_metric", "for “Give up after” compares versions"),
        ({"evaluators": "2"}, "evaluators", "at least the smallest cohort of 3"),
    ],
)
def test_what_makes_no_sense_is_said_at_its_field(
    signed_in: SignedIn,
    bob: User,
    tiny_model: Model,
    given: dict[str, Any],
    field: str,
    part: str,
) -> None:
    answer = signed_in(bob).post("/runs/new/", fields(start="1") | given)
    assert answer.status_code == 400
    assert list(answer.context["form"].errors) == [field]
    assert part in str(answer.context["form"].errors[field])
    assert not Run.objects.exists()


def test_a_run_that_cannot_start_is_not_made_either(
    signed_in: SignedIn, bob: User, tiny_model: Model
) -> None:
    lifecycle.start_run(lifecycle.create_run(tiny_model, actor="bob").pk, actor="bob")
    client = signed_in(bob)
    answer = client.post("/runs/new/", fields(start="1"))
    assert answer.status_code == 400
    assert "Expected no other running or paused run" in answer.content.decode()
    assert Run.objects.count() == 1
    assert client.post("/runs/new/", fields(create="1")).status_code == 302


def test_without_javascript_a_button_shows_what_it_will_do(
    signed_in: SignedIn, bob: User, tiny_model: Model
) -> None:
    seen = signed_in(bob).post("/runs/new/", fields(look="1", rounds_planned="7")).content.decode()
    assert "Up to 7 rounds" in seen
    assert "Nobody is enrolled and a round needs 2" in seen
    assert not Run.objects.exists()


def test_the_wizard_begins_with_a_model_or_with_another_run(
    signed_in: SignedIn, bob: User, tiny_model: Model
) -> None:
    client = signed_in(bob)
    assert "Up to 10 rounds" in text_of(client, "/runs/new/?model=tiny")
    lifecycle.create_run(
        tiny_model,
        name="winter",
        rounds_planned=4,
        training_seconds=120,
        hyperparameters={"epochs": 3},
        actor="bob",
    )
    answer = client.get(f"/runs/new/?like={Run.objects.get().pk}")
    form = answer.context["form"]
    assert (form["model"].value(), form["name"].value()) == ("tiny", "winter")
    assert form["hyperparameters.epochs"].value() == 3
    assert 'value="2 min"' in answer.content.decode()
    assert "Up to 4 rounds" in answer.content.decode()


@pytest.mark.parametrize("query", ["", "?model=unknown", "?like=99", "?like=x", "?version=2"])
def test_the_wizard_begins_empty_where_nothing_is_known(
    signed_in: SignedIn, bob: User, tiny_model: Model, query: str
) -> None:
    assert "Choose a model" in text_of(signed_in(bob), f"/runs/new/{query}")


def test_an_older_version_has_to_be_served_first(
    signed_in: SignedIn, bob: User, lived: Run
) -> None:
    seen = text_of(signed_in(bob), "/runs/new/?model=tiny&version=1")
    assert "which is version 2" in seen
    assert 'href="/models/tiny/versions/1/roll-back/?next=' in seen
    assert "roll back" not in text_of(signed_in(bob), "/runs/new/?model=tiny&version=2")
    assert signed_in(bob).get("/runs/new/?model=tiny&version=9").status_code == 404


def test_the_preview_answers_with_sentences_or_with_errors(
    signed_in: SignedIn, bob: User, tiny_model: Model, django_assert_num_queries: Any
) -> None:
    client = signed_in(bob)
    with django_assert_num_queries(9):
        told = client.get("/runs/new/preview/", fields(rounds_planned="7")).json()
    assert told["errors"] == {}
    assert "Up to 7 rounds" in told["html"]
    told = client.get("/runs/new/preview/", fields(quorum="0")).json()
    assert list(told["errors"]) == ["quorum"]
    assert "To be mended" in told["html"]


def test_what_does_not_count_is_not_held_against_anybody(tiny_model: Model) -> None:
    given = fields(
        cohort_goal="1",  # fewer than the quorum, if anybody were waited for
        selection="random",
        fraction="7",
        **{"options.fedprox.mu": "much"},
    )
    form = run_form.RunForm(given | BUFFERED)
    assert form.is_valid(), form.errors
    assert form.run is not None
    assert (form.run.kind, form.run.concurrency, form.run.buffer_size) == ("asynchronous", 6, 3)
    assert (form.run.cohort_goal, form.run.fraction, form.run.selection) == (None, 1.0, "all")
    assert form.run.strategy_options == {}
    back = run_form.RunForm(given | BUFFERED | {"kind": "synchronous", "strategy": "fedavg"})
    assert list(back.errors) == ["fraction"], "and it is checked again once it counts"
    form = run_form.RunForm(fields(concurrency="6", buffer_size="3"))
    assert form.is_valid(), form.errors
    assert form.run is not None
    assert (form.run.concurrency, form.run.buffer_size) == (None, None)


def test_a_buffered_run_is_made_by_the_form(
    signed_in: SignedIn, bob: User, tiny_model: Model
) -> None:
    client = signed_in(bob)
    answer = client.post("/runs/new/", fields(create="1", evaluators="4", **BUFFERED))
    assert answer.status_code == 302, answer.context["form"].errors
    made = Run.objects.get()
    assert (made.kind, made.concurrency, made.buffer_size) == ("asynchronous", 6, 3)
    assert (made.evaluators, made.evaluators_min, made.evaluation_seconds) == (4, 3, 300)
    form = client.get(f"/runs/new/?like={made.pk}").context["form"]
    assert (form["kind"].value(), form["concurrency"].value()) == ("asynchronous", 6)


def test_a_run_stops_by_rules_that_the_form_asks_for(
    signed_in: SignedIn, bob: User, tiny_model: Model
) -> None:
    rules = {"best_metric": "loss", "patience": "5", "patience_delta": "0.01", "keep_best": "on"}
    signed_in(bob).post("/runs/new/", fields(create="1", **rules))
    made = Run.objects.get()
    assert (made.best_metric, made.patience, made.patience_delta) == ("loss", 5, 0.01)
    assert made.keep_best


# --- Strategies -------------------------------------------------------------------------------


def test_every_strategy_is_offered_with_its_words_and_a_picture_of_its_own(
    signed_in: SignedIn, bob: User, tiny_model: Model
) -> None:
    seen = text_of(signed_in(bob), "/runs/new/?model=tiny")
    for name in aggregation.names():
        kind = aggregation.strategy(name)
        assert f'value="{name}"' in seen
        assert html.escape(kind.about) in seen
        assert f'<use href="#picture-{name}"/>' in seen
        assert f'<symbol id="picture-{name}"' in seen
        assert kind.family in strategies.FAMILIES
    assert set(strategies.FAMILIES) == set(aggregation.FAMILIES)
    assert set(strategies.DRAWN) == set(aggregation.names())


@dataclass(frozen=True)
class Plain(aggregation.Strategy):
    """Somebody's own strategy, of which nothing is said."""

    family: ClassVar[str] = "magic"


def test_a_strategy_of_ones_own_is_offered_however_little_it_says(
    signed_in: SignedIn, bob: User, tiny_model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(aggregation._STRATEGIES, "plain", Plain)
    client = signed_in(bob)
    assert '<h3 id="title_plain">plain ' in text_of(client, "/strategies/")
    assert 'value="plain"' in text_of(client, "/runs/new/?model=tiny")
    told = client.get("/runs/new/preview/", fields(strategy="plain")).json()
    assert "plain makes a new version" in told["html"]


def test_what_strategies_ask_is_said_in_words(signed_in: SignedIn, victor: User) -> None:
    seen = text_of(signed_in(victor), "/strategies/")
    assert "Each participant tells how many steps it took." in seen
    assert 'href="https://arxiv.org/abs/1602.05629"' in seen
    for name in aggregation.names():
        asked = aggregation.build(name).requires
        assert set(asked) <= set(capabilities.WORDS), name
        assert f'id="{name}"' in seen


def test_who_cannot_do_what_a_strategy_asks_is_named(
    signed_in: SignedIn, bob: User, tiny_model: Model, enrolled: Enrol
) -> None:
    able = enrolled("charlie").participant
    enrolled("dora")
    able.sdk = {"capabilities": ["proximal"]}
    able.capabilities = capabilities.column(["proximal"])
    able.save()
    client = signed_in(bob)
    told = client.get("/runs/new/preview/", fields(strategy="fedprox")).json()
    assert told["unable"] == (
        "1 of the 2 enrolled participants can do what this strategy asks. dora cannot, until "
        "somebody runs pip install --upgrade 'fedserver[client]' there."
    )
    assert "1 participant is enrolled and able and a round needs 2" in told["html"]
    assert client.get("/runs/new/preview/", fields()).json()["unable"] == ""


def test_a_run_whose_strategy_is_gone_is_still_shown(
    signed_in: SignedIn, victor: User, lived: Run
) -> None:
    Run.objects.filter(pk=lived.pk).update(strategy="ours", strategy_options={"x": 1})
    seen = text_of(signed_in(victor), f"/runs/{lived.pk}/")
    assert "The strategy ours is not installed here any more." in seen
    text_of(signed_in(victor), f"/rounds/{lived.rounds.get(number=2).pk}/")


def test_what_is_to_be_mended_is_said_beside_the_form_and_led_to(
    signed_in: SignedIn, bob: User, tiny_model: Model
) -> None:
    told = signed_in(bob).get("/runs/new/preview/", fields(strategy="krum")).json()
    assert '<a href="#id_quorum">Quorum</a>: Expected' in told["html"]


def test_options_of_a_strategy_are_fields_of_their_own(
    signed_in: SignedIn, bob: User, tiny_model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(aggregation._STRATEGIES, "tuned", Tuned)
    client = signed_in(bob)
    seen = text_of(client, "/runs/new/?model=tiny")
    assert 'name="options.tuned.beta"' in seen
    assert "How much it remembers." in seen
    given = fields(create="1", strategy="tuned")
    client.post("/runs/new/", given | {"options.tuned.beta": "0.5", "options.tuned.trim": "2"})
    made = Run.objects.get()
    assert made.strategy_options == {"beta": 0.5, "trim": 2, "nesterov": False}
    told = client.get(f"/runs/new/?like={made.pk}").context["form"]
    assert told["options.tuned.beta"].value() == 0.5


# --- The same for programs --------------------------------------------------------------------


def test_only_what_is_no_default_is_shown_to_programs(tiny_model: Model) -> None:
    form = run_form.RunForm(fields(rounds_planned="3", **{"hyperparameters.epochs": "2"}))
    assert form.is_valid()
    assert form.request() == {
        "model": "tiny",
        "rounds_planned": 3,
        "hyperparameters": {"epochs": 2},
    }


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("how", ["curl", "python"])
def test_the_request_that_is_shown_makes_the_run(
    server: str, signed_in: SignedIn, bob: User, tiny_model: Model, how: str
) -> None:
    given = fields(name="it's “winter”; $HOME `ls`", rounds_planned="3", cohort_goal="4")
    context = signed_in(bob).post("/runs/new/", given | {"look": "1"}).context
    token = PersonalToken.objects.issue(bob, "notebook")[1]
    shown = context[how].replace("YOUR_TOKEN", token).replace("http://testserver", server)
    command = ["sh", "-c", shown] if how == "curl" else [sys.executable, "-c", shown]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    made = Run.objects.get()
    assert (made.name, made.rounds_planned, made.cohort_goal) == (given["name"], 3, 4)
    assert made.created_by == bob
    assert made.state == ("draft" if how == "curl" else "running")
