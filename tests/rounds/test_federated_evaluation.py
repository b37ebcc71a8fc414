"""Participants evaluate: a step of a round, or because an operator asked; nothing of too few."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.db.models import F

from journal.models import Event
from models_app import registry
from models_app.evaluation import Evaluation
from models_app.models import Model
from rounds import clock, federated_evaluation, leases, lifecycle
from rounds.errors import (
    EvaluationClosed,
    EvaluationNotFound,
    EvaluationOpen,
    IllegalMove,
    ReportConflict,
    ReportInvalid,
    RulesInvalid,
)
from rounds.models import EvaluationReport, FederatedEvaluation, Round, Run
from rounds.round_state import round_state
from tests.rounds.conftest import Enrolled
from tests.rounds.updates import all_check_in, carry, upload

pytestmark = pytest.mark.django_db

Enrol = Callable[..., Enrolled]
RULES: dict[str, Any] = {
    "rounds_planned": 1,
    "evaluators": 3,
    "evaluators_min": 2,
    "gate_metric": "",
}


def trained(model: Model, *everyone: Enrolled, **rules: Any) -> Round:
    """A round whose candidate waits for participants to evaluate it."""
    round_ = lifecycle.start_run(lifecycle.create_run(model, **RULES | rules).pk)
    all_check_in(*everyone)
    for one in everyone:
        upload(one)
    return carry(round_)


def come(one: Enrolled, **options: Any) -> Any:
    return lifecycle.check_in(one.participant, evaluates=True, **options)


def measure(one: Enrolled, accuracy: float, samples: int = 10, **more: Any) -> EvaluationReport:
    place = come(one)
    assert isinstance(place, EvaluationReport), place
    return federated_evaluation.report(
        one.participant,
        place.evaluation_id,
        samples=samples,
        metrics={"accuracy": accuracy, "loss": 1 - accuracy},
        **more,
    )


def let_the_deadline_pass() -> None:
    back = timedelta(seconds=301)
    FederatedEvaluation.objects.update(
        deadline=F("deadline") - back, opened_at=F("opened_at") - back
    )


def kinds(**subjects: int) -> list[str]:
    found = Event.objects.filter(**subjects).order_by("id").values_list("kind", flat=True)
    return [kind for kind in found if kind.startswith(("round.", "evaluation."))]


def metrics_of(round_: Round) -> dict[str, float]:
    round_.refresh_from_db()
    assert round_.version is not None
    return round_.version.metrics


class TestInARound:
    def test_a_candidate_that_the_server_finds_worse_fails_for_that(
        self, tiny_model: Model, enrolled: Enrol
    ) -> None:
        """Nobody is asked about it then, so that their metric cannot be known."""
        everyone = enrolled("charlie"), enrolled("dora")
        rules = {"gate_metric": "accuracy", "best_metric": "federated_accuracy"}
        round_ = lifecycle.start_run(lifecycle.create_run(tiny_model, **RULES | rules).pk)
        all_check_in(*everyone)
        for one in everyone:
            upload(one)
        while round_.phase != "evaluating":
            lifecycle.step(round_.pk)
            round_.refresh_from_db()
        with leases.hold(round_.pk, "evaluating") as lease:
            worse = Evaluation({"accuracy": 0.31})
            lifecycle._publish(round_.pk, str(lease), {"accuracy": 0.95}, worse)
        round_.refresh_from_db()
        assert (round_.phase, round_.code) == ("failed", "gate")
        assert "worse than the base version's 0.9500. Received: 0.3100" in round_.reason

    def test_a_worker_that_is_called_twice_judges_by_what_they_told_meanwhile(
        self, tiny_model: Model, enrolled: Enrol
    ) -> None:
        everyone = enrolled("charlie"), enrolled("dora")
        round_ = trained(tiny_model, *everyone, evaluators=2, best_metric="federated_accuracy")
        for one in everyone:
            measure(one, 0.9)
        lifecycle.evaluate(round_.pk)  # before anything else has ended their evaluation
        round_.refresh_from_db()
        assert (round_.phase, round_.reason) == ("published", "")
        assert metrics_of(round_)["federated_accuracy"] == pytest.approx(0.9)

    def test_who_was_asked_by_an_operator_meanwhile_does_not_judge_for_the_round(
        self, tiny_model: Model, enrolled: Enrol
    ) -> None:
        trains = enrolled("charlie"), enrolled("dora")
        rules = {"evaluators": 4, "evaluators_min": 4, "best_metric": "federated_accuracy"}
        round_ = trained(tiny_model, *trains, **rules)
        assert round_.version is not None
        asked = federated_evaluation.request(round_.version, goal=2, minimum=2)
        for one in (enrolled("emil"), enrolled("frida")):
            federated_evaluation._place(asked.pk, one.participant)
            federated_evaluation.report(
                one.participant, asked.pk, samples=5, metrics={"accuracy": 0.2}
            )
        assert federated_evaluation.step(asked.pk)
        let_the_deadline_pass()
        assert carry(round_).code == "gate"
        assert "Only 0 of at least 4 participants evaluated it" in round_.reason

    def test_a_later_evaluation_takes_no_other_metric_away(
        self, tiny_model: Model, enrolled: Enrol
    ) -> None:
        everyone = enrolled("charlie"), enrolled("dora")
        round_ = trained(tiny_model, *everyone, evaluators=2)
        for one in everyone:
            measure(one, 0.9)
        carry(round_)
        assert round_.version is not None
        asked = federated_evaluation.request(round_.version, goal=2, minimum=2)
        for one in everyone:
            federated_evaluation._place(asked.pk, one.participant)
            federated_evaluation.report(one.participant, asked.pk, samples=5, metrics={"loss": 0.2})
        assert federated_evaluation.step(asked.pk)
        told = metrics_of(round_)
        assert told["federated_accuracy"] == pytest.approx(0.9)
        assert told["federated_loss"] == pytest.approx(0.2)

    def test_it_waits_for_participants_and_publishes_with_their_means(
        self, tiny_model: Model, enrolled: Enrol
    ) -> None:
        everyone = enrolled("charlie"), enrolled("dora"), enrolled("emil")
        round_ = trained(tiny_model, *everyone)
        assert round_.phase == "evaluating"
        assert (round_.lease, round_.attempts) == ("", 0)  # nobody holds it meanwhile
        asked = FederatedEvaluation.objects.get()
        assert round_.deadline is not None
        assert round_.deadline > asked.deadline

        for one, accuracy, samples in zip(everyone, (0.9, 0.5, 0.8), (10, 30, 60), strict=True):
            assert not lifecycle.step(round_.pk)
            measure(one, accuracy, samples)
        carry(round_)

        assert round_.phase == "published"
        assert metrics_of(round_)["federated_accuracy"] == pytest.approx(0.72)
        asked.refresh_from_db()
        assert (asked.state, asked.summary["participants"]) == ("done", 3)
        assert kinds(round=round_.pk)[-7:] == [
            "round.evaluating",
            "evaluation.opened",
            *["evaluation.reported"] * 3,
            "evaluation.done",
            "round.published",
        ]
        assert Run.objects.get().state == "completed"

    def test_it_goes_on_at_the_deadline_with_enough(
        self, tiny_model: Model, enrolled: Enrol
    ) -> None:
        charlie, dora = enrolled("charlie"), enrolled("dora")
        round_ = trained(tiny_model, charlie, dora)
        measure(charlie, 0.5)
        measure(dora, 0.7)
        assert carry(round_).phase == "evaluating"
        let_the_deadline_pass()
        assert carry(round_).phase == "published"
        assert metrics_of(round_)["federated_accuracy"] == pytest.approx(0.6)

    def test_too_few_leave_no_trace_of_what_they_measured(
        self, tiny_model: Model, enrolled: Enrol
    ) -> None:
        charlie, dora = enrolled("charlie"), enrolled("dora")
        round_ = trained(tiny_model, charlie, dora)
        measure(charlie, 0.123456)
        let_the_deadline_pass()
        assert carry(round_).phase == "published"
        assert metrics_of(round_) == {}
        asked = FederatedEvaluation.objects.get()
        assert (asked.state, asked.summary) == ("failed", {})
        assert asked.reason == ("Only 1 of at least 2 participants evaluated it within 5 minutes.")
        assert "123456" not in "".join(str(line.data) for line in Event.objects.all())

    def test_a_gate_that_names_what_nobody_measured_refuses(
        self, tiny_model: Model, enrolled: Enrol
    ) -> None:
        everyone = enrolled("charlie"), enrolled("dora")
        round_ = trained(tiny_model, *everyone, gate_metric="federated_accuracy")
        measure(everyone[0], 0.9)
        let_the_deadline_pass()
        carry(round_)
        assert (round_.phase, round_.code) == ("failed", "gate")
        assert round_.reason == (
            "Expected federated_accuracy, by which its gate compares. Received: none. Only 1 of "
            "at least 2 participants evaluated it within 5 minutes."
        )

    def test_the_gate_compares_with_what_participants_measured_of_the_base(
        self, tiny_model: Model, enrolled: Enrol
    ) -> None:
        everyone = enrolled("charlie"), enrolled("dora")
        registry.record_federated(registry.served(tiny_model.pk), {"accuracy": 0.9})
        rules = {"gate_metric": "federated_accuracy", "gate_tolerance": 0.1, "evaluators": 2}
        round_ = trained(tiny_model, *everyone, **rules)
        for one in everyone:
            measure(one, 0.5)
        carry(round_)
        assert (round_.phase, round_.code) == ("failed", "gate")
        assert "federated_accuracy" in round_.reason

    def test_nobody_is_asked_about_what_the_server_refuses_already(
        self, tiny_model: Model, enrolled: Enrol, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        found = {"accuracy": 0.9}, Evaluation({"accuracy": 0.1})
        monkeypatch.setattr(lifecycle, "_measure", lambda round_: found)
        everyone = enrolled("charlie"), enrolled("dora")
        round_ = trained(tiny_model, *everyone, gate_metric="accuracy")
        assert (round_.phase, round_.code) == ("failed", "gate")
        assert not FederatedEvaluation.objects.exists()

    def test_a_run_stops_by_what_participants_measured(
        self, tiny_model: Model, enrolled: Enrol
    ) -> None:
        everyone = enrolled("charlie"), enrolled("dora")
        until = {"until_metric": "federated_accuracy", "until_value": 0.8, "rounds_planned": 5}
        round_ = trained(tiny_model, *everyone, **until, evaluators=2)
        for one in everyone:
            measure(one, 0.85)
        carry(round_)
        assert Run.objects.get().state == "completed"

    def test_a_worker_that_comes_too_early_does_not_publish(
        self, tiny_model: Model, enrolled: Enrol
    ) -> None:
        round_ = trained(tiny_model, enrolled("charlie"), enrolled("dora"))
        for _ in range(leases.MAX_ATTEMPTS + 1):
            assert not lifecycle.evaluate(round_.pk)
        round_.refresh_from_db()
        assert (round_.phase, round_.lease, round_.attempts) == ("evaluating", "", 0)

    def test_it_ends_with_its_round(self, tiny_model: Model, enrolled: Enrol) -> None:
        charlie, dora = enrolled("charlie"), enrolled("dora")
        round_ = trained(tiny_model, charlie, dora)
        place = come(charlie)
        lifecycle.cancel_round(round_.pk, actor="bob", reason="the data were wrong")
        assert FederatedEvaluation.objects.get().state == "cancelled"
        with pytest.raises(EvaluationClosed):
            federated_evaluation.report(
                charlie.participant, place.evaluation_id, samples=1, metrics={"loss": 1.0}
            )

    def test_an_operator_may_go_on_without(self, tiny_model: Model, enrolled: Enrol) -> None:
        round_ = trained(tiny_model, enrolled("charlie"), enrolled("dora"))
        federated_evaluation.cancel(FederatedEvaluation.objects.get().pk, actor="bob")
        assert carry(round_).phase == "published"
        with pytest.raises(IllegalMove):
            federated_evaluation.cancel(FederatedEvaluation.objects.get().pk)


class TestOnRequest:
    def test_of_any_version(self, tiny_model: Model, enrolled: Enrol) -> None:
        served = registry.served(tiny_model.pk)
        registry.record_metrics(served, Evaluation({"accuracy": 0.6}))
        asked = federated_evaluation.request(served, goal=2, minimum=2, actor="bob")
        with pytest.raises(EvaluationOpen):
            federated_evaluation.request(served, goal=2, minimum=2)
        assert federated_evaluation.due() == []
        for name, accuracy in (("charlie", 0.5), ("dora", 0.7)):
            measure(enrolled(name), accuracy)
        assert federated_evaluation.due() == [asked.pk]
        assert federated_evaluation.step(asked.pk)
        assert not federated_evaluation.step(asked.pk)
        served.refresh_from_db()
        assert served.metrics["accuracy"] == 0.6
        assert served.metrics["federated_accuracy"] == pytest.approx(0.6)
        # What the server measures anew leaves it where it is.
        registry.record_metrics(served, Evaluation({"accuracy": 0.65}))
        assert served.metrics["federated_accuracy"] == pytest.approx(0.6)

    @pytest.mark.parametrize(
        ("numbers", "field"),
        [
            ({"minimum": 1}, "minimum"),
            ({"goal": 2, "minimum": 3}, "goal"),
            ({"seconds": 1}, "seconds"),
            ({"goal": 10**7}, "goal"),
        ],
    )
    def test_with_numbers_that_make_sense(
        self, tiny_model: Model, numbers: dict[str, Any], field: str
    ) -> None:
        with pytest.raises(RulesInvalid) as refused:
            federated_evaluation.request(registry.served(tiny_model.pk), **numbers)
        assert refused.value.field == field


class TestWhoIsAsked:
    @pytest.fixture
    def asked(self, tiny_model: Model) -> FederatedEvaluation:
        return federated_evaluation.request(registry.served(tiny_model.pk), goal=2, minimum=2)

    def test_only_who_evaluates_and_each_once(
        self, asked: FederatedEvaluation, enrolled: Enrol
    ) -> None:
        charlie = enrolled("charlie")
        assert isinstance(lifecycle.check_in(charlie.participant), lifecycle.Wait)
        assert come(charlie) == come(charlie)
        measure(charlie, 0.5)
        assert isinstance(come(charlie), lifecycle.Wait)

    def test_only_for_models_that_it_has_data_for(
        self, asked: FederatedEvaluation, tiny_model: Model, enrolled: Enrol
    ) -> None:
        assert isinstance(come(enrolled("charlie"), models=["other"]), lifecycle.Wait)
        assert isinstance(come(enrolled("dora"), models=["tiny"]), EvaluationReport)

    def test_a_few_more_than_needed_and_no_others(
        self, asked: FederatedEvaluation, enrolled: Enrol
    ) -> None:
        told = [come(enrolled(name)) for name in ("charlie", "dora", "emil", "frida")]
        assert [isinstance(one, EvaluationReport) for one in told] == [True, True, True, False]
        # One of them is not heard of any more: another is asked in its place.
        silent = clock.now() - federated_evaluation.PLACE_KEPT
        EvaluationReport.objects.filter(pk=told[0].pk).update(asked_at=silent)
        assert isinstance(come(enrolled("gerd")), EvaluationReport)

    def test_who_gives_up_is_not_asked_again(
        self, asked: FederatedEvaluation, enrolled: Enrol
    ) -> None:
        charlie = enrolled("charlie")
        come(charlie)
        for _ in range(2):
            federated_evaluation.fail(charlie.participant, asked.pk, code="limit_cohort_at_least")
        assert isinstance(come(charlie), lifecycle.Wait)
        with pytest.raises(EvaluationClosed):
            federated_evaluation.report(
                charlie.participant, asked.pk, samples=1, metrics={"loss": 1.0}
            )

    def test_who_was_not_asked_knows_of_none(
        self, asked: FederatedEvaluation, enrolled: Enrol
    ) -> None:
        told = {"samples": 1, "metrics": {"loss": 1.0}}
        with pytest.raises(EvaluationNotFound):
            federated_evaluation.report(enrolled("charlie").participant, asked.pk, **told)

    def test_the_same_report_again_is_answered_the_same_and_another_one_conflicts(
        self, asked: FederatedEvaluation, enrolled: Enrol
    ) -> None:
        charlie = enrolled("charlie")
        first = measure(charlie, 0.5)
        told = {"samples": 10, "metrics": {"accuracy": 0.5, "loss": 0.5}}
        let_the_deadline_pass()  # who has not heard the answer may ask for it later too
        again = federated_evaluation.report(charlie.participant, asked.pk, **told)
        assert again.reported_at == first.reported_at
        with pytest.raises(ReportConflict):
            federated_evaluation.report(charlie.participant, asked.pk, **told | {"samples": 11})
        assert Event.objects.filter(kind="evaluation.reported").count() == 1

    def test_late_and_wrong_reports_are_refused(
        self, asked: FederatedEvaluation, enrolled: Enrol
    ) -> None:
        charlie = enrolled("charlie")
        come(charlie)
        told = {"samples": 10, "metrics": {"loss": 0.5}}
        with pytest.raises(ReportInvalid) as refused:
            federated_evaluation.report(charlie.participant, asked.pk, **told, classes=[[1, 1]])
        assert refused.value.field == "classes"  # the model has three
        let_the_deadline_pass()
        with pytest.raises(EvaluationClosed):
            federated_evaluation.report(charlie.participant, asked.pk, **told)


class TestWhatIsShown:
    def test_the_round_s_document_counts_reports_and_tells_nothing_of_too_few(
        self, tiny_model: Model, enrolled: Enrol
    ) -> None:
        charlie, dora = enrolled("charlie"), enrolled("dora")
        round_ = trained(tiny_model, charlie, dora)
        measure(charlie, 0.123456)
        told = round_state(round_.pk)["evaluation"]
        assert (told["state"], told["reports"], told["goal"], told["minimum"]) == ("open", 1, 3, 2)
        assert told["summary"] is None
        assert "123456" not in str(round_state(round_.pk))
        measure(dora, 0.7)
        let_the_deadline_pass()
        carry(round_)
        told = round_state(round_.pk)["evaluation"]
        assert (told["state"], told["summary"]["participants"]) == ("done", 2)

    def test_the_journal_tells_nothing_of_too_few(self, tiny_model: Model, enrolled: Enrol) -> None:
        charlie, dora = enrolled("charlie"), enrolled("dora")
        trained(tiny_model, charlie, dora)
        measure(charlie, 0.123456, samples=4321)
        line = Event.objects.get(kind="evaluation.reported")
        assert line.participant == charlie.participant.pk
        assert line.data.keys() == {"evaluation", "version_number", "name", "reports", "goal"}
