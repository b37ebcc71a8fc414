"""When a run is done: its rounds, the value it was to reach, or no better version for a while."""

from collections.abc import Callable
from typing import Any

import pytest

from journal.models import Event
from models_app.evaluation import Evaluation
from models_app.models import Model, ModelVersion
from rounds import leases, lifecycle
from rounds.models import Round, Run
from tests.rounds.conftest import Enrolled
from tests.rounds.test_lifecycle import started
from tests.rounds.updates import all_check_in, served_weights, upload

pytestmark = pytest.mark.django_db

Enrol = Callable[..., Enrolled]


@pytest.fixture
def play(tiny_model: Model, enrolled: Enrol) -> Callable[..., Run]:
    """Play a run whose versions turn out as they are told to."""
    everyone = enrolled("charlie"), enrolled("dora")

    def measured(round_: Round, metrics: dict[str, float]) -> None:
        while round_.phase != "evaluating":
            assert lifecycle.step(round_.pk)
            round_.refresh_from_db()
        with leases.hold(round_.pk, "evaluating") as lease:
            lifecycle._publish(round_.pk, str(lease), {}, Evaluation(metrics))

    def play(values: list[float], metric: str = "accuracy", **rules: Any) -> Run:
        round_ = started(tiny_model, gate_metric="", **{"rounds_planned": 50} | rules)
        for value in values:
            round_ = Round.objects.filter(run=round_.run_id).latest("number")
            all_check_in(*everyone)
            for one in everyone:
                upload(one)
            measured(round_, {metric: value})
        return Run.objects.get(pk=round_.run_id)

    return play


def line() -> Event:
    return Event.objects.filter(kind="run.completed").get()


def test_all_rounds_are_published(play: Callable[..., Run]) -> None:
    run = play([0.1, 0.2], rounds_planned=2)
    assert (run.state, run.reason) == ("completed", "All 2 rounds are published.")
    assert (line().reason, line().data) == (run.reason, {"rounds": 2, "because": "rounds"})


def test_the_value_is_reached(play: Callable[..., Run]) -> None:
    run = play([0.5, 0.91], until_metric="accuracy", until_value=0.9)
    assert run.state == "completed"
    assert run.reason == "accuracy reached 0.91; the run was to end at 0.9."
    assert line().data == {"rounds": 2, "because": "until"}


def test_all_rounds_are_published_and_the_value_is_not_reached(play: Callable[..., Run]) -> None:
    rules = {"until_metric": "accuracy", "until_value": 0.9, "rounds_planned": 2}
    assert play([0.5, 0.81], **rules).reason == (
        "All 2 rounds are published; accuracy is 0.81 and was to reach 0.9."
    )
    assert play([0.5, 0.81], metric="loss", **rules).reason == (
        "All 2 rounds are published; accuracy was not measured and was to reach 0.9."
    )


def test_a_best_version_that_nobody_measured_is_none(play: Callable[..., Run]) -> None:
    rules = {"best_metric": "accuracy", "keep_best": True, "rounds_planned": 2}
    assert play([0.5, 0.4], metric="loss", **rules).reason == (
        "All 2 rounds are published. None of its versions has accuracy: the last one stays."
    )


def test_patience_ends_a_run_that_gets_no_better(play: Callable[..., Run]) -> None:
    run = play([0.6, 0.8, 0.79], best_metric="accuracy", patience=2)
    assert run.state == "running"
    run = Run.objects.get()
    lifecycle.stop_run(run.pk)
    run = play([0.6, 0.8, 0.79, 0.8], best_metric="accuracy", patience=2)
    assert run.state == "completed"
    assert run.reason == "accuracy was no better for 2 rounds in a row."
    assert line().data == {"rounds": 4, "because": "patience"}
    assert not run.rounds.filter(phase__in=Round.ACTIVE).exists()


def test_of_a_loss_less_is_better_and_a_little_is_not_enough(play: Callable[..., Run]) -> None:
    rules = {"best_metric": "loss", "patience": 2, "patience_delta": 0.05}
    run = play([1.0, 0.9, 0.88, 0.87], metric="loss", **rules)
    assert run.state == "completed"
    assert run.reason == "loss was no better by more than 0.05 for 2 rounds in a row."


def test_a_run_whose_metric_is_never_measured_does_not_end_for_lack_of_patience(
    play: Callable[..., Run],
) -> None:
    run = play([0.5, 0.5, 0.5], metric="loss", best_metric="accuracy", patience=1)
    assert run.state == "running"


def test_the_best_version_is_served_again_at_the_end(
    tiny_model: Model, play: Callable[..., Run]
) -> None:
    run = play([0.6, 0.8, 0.7], best_metric="accuracy", keep_best=True, rounds_planned=3)
    assert run.state == "completed"
    assert run.reason == (
        "All 3 rounds are published. Its best version, 3, with accuracy 0.8, is served again as 5."
    )
    served = Model.objects.get(pk=tiny_model.pk).served
    assert served is not None
    assert (served.number, served.origin, served.metrics) == (5, "rollback", {"accuracy": 0.8})
    assert served.parent == ModelVersion.objects.get(number=3)
    assert served_weights(tiny_model)[0] == 3.0
    rolled_back = Event.objects.filter(kind="version.rolled_back").get()
    assert rolled_back.data == {"number": 5, "to": 3}
    assert "The best version of tiny with fedavg" in rolled_back.reason


@pytest.mark.parametrize("values", [[0.6, 0.8], [0.8, 0.6, 0.8]])
def test_a_last_version_that_is_as_good_stays(
    tiny_model: Model, play: Callable[..., Run], values: list[float]
) -> None:
    run = play(values, best_metric="accuracy", keep_best=True, rounds_planned=len(values))
    assert run.reason == f"All {len(values)} rounds are published."
    served = Model.objects.get(pk=tiny_model.pk).served
    assert served is not None
    assert served.origin == "round"


def test_patience_and_the_best_version_go_together(play: Callable[..., Run]) -> None:
    run = play([0.8, 0.7], best_metric="accuracy", keep_best=True, patience=1)
    assert run.reason == (
        "accuracy was no better for one round. "
        "Its best version, 2, with accuracy 0.8, is served again as 4."
    )


def test_who_stops_a_run_decides_himself_what_is_served(
    tiny_model: Model, play: Callable[..., Run]
) -> None:
    run = play([0.8, 0.6], best_metric="accuracy", keep_best=True)
    lifecycle.stop_run(run.pk, actor="bob", reason="enough")
    served = Model.objects.get(pk=tiny_model.pk).served
    assert served is not None
    assert served.number == 3
    run.refresh_from_db()
    assert (run.state, run.reason) == ("stopped", "enough")
