"""A run's history: what became of its rounds, in numbers counted by hand."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User

from accounts.models import PersonalToken
from models_app.models import Model, ModelVersion
from rounds import history, lifecycle, selectors
from rounds.history import Part
from rounds.models import Assignment, Round, Run, Update
from tests.rounds.api.conftest import bearing
from tests.rounds.conftest import Enrolled
from tests.rounds.updates import all_check_in, carry, upload

Enrol = Callable[..., Enrolled]


def part(name: str, samples: int = 10, **metrics: Any) -> Part:
    return Part(1, "accepted", True, name, f"uuid of {name}", samples, 100, metrics)


# --- How far participants lie apart -----------------------------------------------------------


def test_a_mean_is_weighted_by_samples() -> None:
    told = history.spreads([part("charlie", 100, loss=0.0), part("dora", 900, loss=1.0)])
    assert told["loss"]["mean"] == 0.9


def test_quartiles_count_each_participant_once() -> None:
    names = ("charlie", "dora", "emil", "fritz", "greta")
    told = history.spreads([part(name, loss=float(index)) for index, name in enumerate(names)])
    spread = told["loss"]
    assert [spread[name] for name in ("min", "q1", "median", "q3", "max")] == [0, 1, 2, 3, 4]
    assert spread["count"] == 5


def test_the_worst_has_the_greatest_loss_and_the_least_accuracy() -> None:
    told = history.spreads(
        [part("charlie", loss=2.0, accuracy=0.9), part("dora", loss=1.0, accuracy=0.4)]
    )
    assert told["loss"]["worst"] == 2.0
    assert told["loss"]["worst_participant"] == {"uuid": "uuid of charlie", "name": "charlie"}
    assert told["accuracy"]["worst"] == 0.4
    assert told["accuracy"]["worst_participant"]["name"] == "dora"


def test_who_sends_no_such_metric_is_left_out_of_it() -> None:
    told = history.spreads([part("charlie", loss=1.0), part("dora", accuracy=0.5), part("emil")])
    assert told["loss"]["count"] == told["accuracy"]["count"] == 1


def test_what_is_no_finite_number_is_no_metric() -> None:
    metrics = {"loss": 1, "accuracy": float("nan"), "name": "x", "classes": [1], "good": True}
    assert history.numbers(metrics) == {"loss": 1.0}
    assert history.numbers(None) == {}


# --- How long phases took ---------------------------------------------------------------------


def round_with(**seconds: float) -> Round:
    """A round, not saved, whose phases began that many seconds after it was opened."""
    opened = datetime(2026, 11, 22, tzinfo=UTC)
    marks = {f"{name}_at": opened + timedelta(seconds=value) for name, value in seconds.items()}
    return Round(opened_at=opened, **marks)


def test_each_phase_lasts_until_the_next_one() -> None:
    told = history.seconds(round_with(training=10, aggregating=70, evaluating=71.5, ended=75))
    assert told == {
        "selecting": 10.0,
        "training": 60.0,
        "aggregating": 1.5,
        "evaluating": 3.5,
        "total": 75.0,
    }


def test_a_phase_that_is_not_over_has_no_length_yet() -> None:
    told = history.seconds(round_with(training=10))
    assert (told["selecting"], told["training"], told["total"]) == (10.0, None, None)


def test_a_round_that_failed_ends_its_last_phase() -> None:
    told = history.seconds(round_with(training=10, ended=40))
    assert (told["training"], told["aggregating"], told["total"]) == (30.0, None, 40.0)


def test_who_comes_first_may_fill_a_round_while_it_selects() -> None:
    told = history.seconds(round_with(aggregating=20, evaluating=21, ended=22))
    assert (told["selecting"], told["training"], told["aggregating"]) == (20.0, None, 1.0)


# --- A run as it was lived --------------------------------------------------------------------


@pytest.fixture
def lived(tiny_model: Model, enrolled: Enrol) -> Run:
    """Round 1 was published by charlie (10 samples) and dora (30); in round 2 charlie trains."""
    charlie, dora = enrolled("charlie"), enrolled("dora")
    run = lifecycle.create_run(tiny_model, name="autumn", rounds_planned=3, actor="bob")
    first = lifecycle.start_run(run.pk, actor="bob")
    all_check_in(charlie, dora)
    upload(charlie, samples=10)
    upload(dora, samples=30)
    carry(first)
    for name, metrics in (
        ("charlie", {"loss": 2.0, "accuracy": 0.5}),
        ("dora", {"loss": 1.0, "accuracy": 0.9}),
    ):
        mine = Update.objects.filter(assignment__participant__name=name)
        mine.update(metrics=metrics)
    first.refresh_from_db()
    assert first.version is not None
    ModelVersion.objects.filter(pk=first.version.pk).update(metrics={"accuracy": 0.8, "loss": 0.6})
    asked = all_check_in(charlie, dora)
    lifecycle.report(charlie.participant, asked[0].pk, activity="downloading", fraction=0.5)
    run.refresh_from_db()
    return run


@pytest.mark.django_db
def test_a_history_tells_of_each_round(lived: Run) -> None:
    told = selectors.run_history(lived)
    assert (told["name"], told["model"], told["published"]) == ("autumn", "tiny", 1)
    assert told["start"] == {"version": 1, "accuracy": None, "loss": None, "metrics": {}}
    first, second = told["rounds"]
    assert (first["number"], first["phase"], first["base"], first["version"]) == (
        1,
        "published",
        1,
        2,
    )
    assert (first["accuracy"], first["loss"], first["samples"]) == (0.8, 0.6, 40)
    loss = first["participants"]["loss"]
    assert (loss["mean"], loss["min"], loss["max"], loss["worst"]) == (1.25, 1.0, 2.0, 2.0)
    assert loss["worst_participant"]["name"] == "charlie"
    assert first["participants"]["accuracy"]["mean"] == pytest.approx(0.8)
    assert first["participants"]["accuracy"]["worst"] == 0.5
    assert first["counts"]["invited"] == first["counts"]["accepted"] == 2
    assert (second["phase"], second["version"], second["participants"]) == ("training", None, {})
    assert second["counts"]["invited"] == 2
    assert second["counts"]["training"] == 1


@pytest.mark.django_db
def test_bytes_received_are_counted_and_bytes_sent_are_estimated(lived: Run) -> None:
    first, second = selectors.run_history(lived)["rounds"]
    assert first["bytes_received"] == sum(Update.objects.values_list("bytes", flat=True)) > 0
    base = Round.objects.get(pk=first["id"]).base
    assert first["bytes_sent_estimate"] == 2 * base.weights_bytes
    assert second["bytes_sent_estimate"] == base.weights_bytes, "dora has not begun"


@pytest.mark.django_db
def test_an_update_that_was_not_accepted_is_no_part_of_the_means(lived: Run) -> None:
    Assignment.objects.filter(round__number=1, participant__name="charlie").update(
        state="quarantined"
    )
    first = selectors.run_history(lived)["rounds"][0]
    assert first["participants"]["loss"]["count"] == 1
    assert (first["samples"], first["counts"]["quarantined"]) == (30, 1)
    assert first["bytes_received"] == sum(Update.objects.values_list("bytes", flat=True))


@pytest.mark.django_db
def test_a_run_that_was_not_started_has_an_empty_history(tiny_model: Model) -> None:
    told = selectors.run_history(lifecycle.create_run(tiny_model, actor="bob"))
    assert (told["rounds"], told["start"], told["published"]) == ([], None, 0)


@pytest.mark.django_db
def test_histories_cost_two_queries_however_many_rounds_and_runs(
    lived: Run, django_assert_num_queries: Any
) -> None:
    run = Run.objects.select_related("model").get(pk=lived.pk)
    with django_assert_num_queries(2):
        assert len(selectors.run_history(run)["rounds"]) == 2
    lifecycle.stop_run(lived.pk, actor="bob")
    other = lifecycle.create_run(lived.model, actor="bob")
    lifecycle.start_run(other.pk, actor="bob")
    both = list(Run.objects.select_related("model").order_by("id"))
    with django_assert_num_queries(2):
        assert [len(one["rounds"]) for one in selectors.run_histories(both)] == [2, 1]
    with django_assert_num_queries(1):
        assert selectors.run_accuracies(both) == {lived.pk: [0.8], other.pk: []}


@pytest.mark.django_db
def test_a_round_that_has_ended_is_counted_once(lived: Run, django_assert_num_queries: Any) -> None:
    before = selectors.run_history(lived)
    with django_assert_num_queries(2) as captured:
        assert selectors.run_history(lived) == before
    first, second = (line["id"] for line in before["rounds"])
    assert f"IN ({second})" in captured[1]["sql"], f"and not {first}"
    ModelVersion.objects.filter(number=2).update(metrics={"accuracy": 0.7})
    assert selectors.run_history(lived)["rounds"][0]["accuracy"] == 0.7, "measured again"


@pytest.mark.django_db
def test_rounds_that_were_counted_stay_true_when_there_is_no_room_for_more(
    lived: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = selectors.run_history(lived)
    lifecycle.stop_run(lived.pk, actor="bob")
    other = lifecycle.create_run(lived.model, actor="bob")
    lifecycle.cancel_round(lifecycle.start_run(other.pk, actor="bob").pk, actor="bob")
    monkeypatch.setattr(history, "MOST_KEPT", len(history._kept))
    both = list(Run.objects.select_related("model").order_by("-id"))
    assert selectors.run_histories(both)[1]["rounds"][0] == before["rounds"][0]
    assert selectors.run_history(lived)["rounds"][0] == before["rounds"][0]


@pytest.mark.django_db
def test_victor_reads_a_history_by_the_api(victor: User, lived: Run) -> None:
    client = bearing(PersonalToken.objects.issue(victor, "notebook")[1])
    answer = client.get(f"/api/v1/runs/{lived.pk}/history")
    assert answer.status_code == 200
    assert answer.json() == selectors.run_history(lived)
    assert client.get("/api/v1/runs/999/history").status_code == 404
