"""A federated evaluation, from open to summary: participants measure a version on data that they
keep for that, and tell numbers.

    open_for    a round asks about its candidate, after the server's own measurement
    request     an operator asks about any version
      ask       a participant checks in, and is given a place
      report    it tells what it measured, once
      fail      it cannot
    step        ended by enough reports or by the deadline: the summary, or that there is none
    cancel      an operator, or the end of the round

Of fewer than `minimum` reports nothing is told: not by a document, not by a line of the journal,
not to the gate. The summary's means enter the version's metrics as `federated_…`.

Like a round's, every move is one conditional UPDATE and one line of the journal. Nobody holds a
lease while people are waited for. Locks: the round, then the evaluation, then the version.
"""

import math
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.db.models import Count, F, Q, QuerySet

from journal import events
from journal.events import Journal
from models_app import registry
from models_app.evaluation import FEDERATED, named_federated
from models_app.models import ModelVersion
from rounds import clock, evaluation_summary, rules
from rounds.amounts import span
from rounds.errors import (
    EvaluationClosed,
    EvaluationNotFound,
    EvaluationOpen,
    IllegalMove,
    ReportConflict,
)
from rounds.evaluation_summary import Report, Told
from rounds.models import EvaluationReport, FederatedEvaluation, Participant, Round, Run
from rounds.moves import NO_LEASE, lock_round

State = FederatedEvaluation.State

SPARE = 1.3  # asks this many times the goal, for some will not answer
PLACE_KEPT = timedelta(seconds=120)  # for one that was asked, before another is


# --- It opens ---------------------------------------------------------------------------------


def is_due(round_: Round) -> bool:
    """Whether a round has to ask participants about its candidate, and has not yet."""
    asked = FederatedEvaluation.objects.filter(round=round_).exists()
    return round_.run.evaluators > 0 and round_.version_id is not None and not asked


def open_for(round_: Round, journal: Journal, **told: Any) -> FederatedEvaluation:
    """Ask participants about a round's candidate; its own deadline comes after theirs.

    Args:
        round_: Locked, evaluating; whoever held it lets it go.
        journal: Of the transaction.
        **told: What the server has measured itself, for those who follow the round.
    """
    run, now = round_.run, clock.now()
    assert round_.version is not None
    deadline = now + timedelta(seconds=run.evaluation_seconds)
    round_.deadline = deadline + timedelta(seconds=settings.TASK_SECONDS)
    Round.objects.filter(pk=round_.pk).update(deadline=round_.deadline, **NO_LEASE)
    opened = FederatedEvaluation.objects.create(
        version=round_.version,
        round=round_,
        goal=run.evaluators,
        minimum=run.evaluators_min,
        deadline=deadline,
        opened_at=now,
    )
    _tell(opened, journal, "opened", round_deadline=round_.deadline.isoformat(), **told)
    return opened


def request(
    version: ModelVersion,
    *,
    goal: int = 10,
    minimum: int = 3,
    seconds: int = 300,
    actor: str = "",
    reason: str = "",
) -> FederatedEvaluation:
    """Ask participants about a version, whatever its stage.

    Args:
        version: Which.
        goal: Reports that end it.
        minimum: Fewest reports of which anything is shown, from 2.
        seconds: How long to wait for them.
        actor: Who asks, for the journal.
        reason: Why.

    Raises:
        RulesInvalid: A number makes no sense; its `field` says which.
        EvaluationOpen: An operator has asked about this version, and answers are waited for.
    """
    rules.whole("minimum", minimum, 2, 1_000_000)
    rules.whole("goal", goal, minimum, 1_000_000)
    rules.whole("seconds", seconds, *rules.EVALUATION_SECONDS)
    with events.transaction() as journal:
        ModelVersion.objects.select_for_update(no_key=True).get(pk=version.pk)
        asked = FederatedEvaluation.objects.filter(version=version, state=State.OPEN, round=None)
        if asked.exists():
            raise EvaluationOpen(f"Expected no open evaluation of {version}. Received: another one")
        now = clock.now()
        opened = FederatedEvaluation.objects.create(
            version=version,
            goal=goal,
            minimum=minimum,
            deadline=now + timedelta(seconds=seconds),
            created_by=actor,
            opened_at=now,
        )
        _tell(opened, journal, "opened", actor=actor, reason=reason)
    return opened


# --- Participants -----------------------------------------------------------------------------


def ask(participant: Participant, models: Sequence[str] | None = None) -> EvaluationReport | None:
    """A participant that evaluates is there: its place in an open evaluation, if one has room.

    Args:
        participant: Active.
        models: Slugs of the models that it has data for; None for any.

    Returns:
        Its place, the same one again until it has answered; None if it is not needed.
    """
    open_ = FederatedEvaluation.objects.filter(state=State.OPEN, deadline__gt=clock.now())
    if participant.model_id is not None:
        open_ = open_.filter(version__model=participant.model_id)
    if models is not None:
        open_ = open_.filter(version__model__slug__in=models)
    for pk in open_.order_by("id").values_list("pk", flat=True):
        if (place := _place(pk, participant)) is not None:
            return _places().get(pk=place)
    return None


def _place(evaluation_id: int, participant: Participant) -> int | None:
    mine = EvaluationReport.objects.filter(evaluation=evaluation_id, participant=participant)
    with events.transaction():
        evaluation = _locked(evaluation_id)
        found = mine.first()
        if evaluation.state != State.OPEN or (found and (found.code or found.reported_at)):
            return None
        now = clock.now()
        if found is not None:
            mine.update(asked_at=now)
            return found.pk
        others = evaluation.reports.filter(code="")
        here = others.exclude(reported_at=None).count()
        at_it = others.filter(reported_at=None, asked_at__gt=now - PLACE_KEPT).count()
        if here >= evaluation.goal or here + at_it >= math.ceil(evaluation.goal * SPARE):
            return None
        made = EvaluationReport.objects.create(
            evaluation=evaluation, participant=participant, asked_at=now
        )
        return made.pk


def _places() -> QuerySet[EvaluationReport]:
    """Places with what they are about, but for a model's architecture: that may be large."""
    found = EvaluationReport.objects.select_related("evaluation__version__model")
    heavy = ("architecture", "weights_manifest")
    return found.defer(
        "evaluation__version__confusion", *(f"evaluation__version__model__{name}" for name in heavy)
    )


def own_place(participant: Participant, evaluation_id: int) -> EvaluationReport:
    """A participant's place in an evaluation; others' do not exist for it.

    Raises:
        EvaluationNotFound: It was not asked.
    """
    found = _places().filter(evaluation=evaluation_id, participant=participant).first()
    if found is None:
        raise EvaluationNotFound(
            f"Expected an evaluation that you were asked for. Received: {evaluation_id}"
        )
    return found


def report(
    participant: Participant, evaluation_id: int, *, samples: Any, metrics: Any, classes: Any = None
) -> EvaluationReport:
    """A participant tells what it measured. The same report again is answered the same.

    Args:
        participant: Who.
        evaluation_id: In which.
        samples: As `evaluation_summary.read` takes it, and so are `metrics` and `classes`.
        metrics: Means by name.
        classes: `[examples, recognised]` for each class, or None.

    Raises:
        EvaluationNotFound: It was not asked.
        ReportInvalid: It makes no sense.
        ReportConflict: It has told something else before.
        EvaluationClosed: It comes too late, or after it gave up.
    """
    mine = own_place(participant, evaluation_id)
    labels = len(mine.evaluation.version.model.labels)
    told = evaluation_summary.read(samples, metrics, classes, labels=labels)
    with events.transaction() as journal:
        evaluation = _locked(evaluation_id)
        mine.refresh_from_db(fields=("samples", "metrics", "classes", "code", "reported_at"))
        if mine.reported_at is not None:
            if _told(mine) == told:
                return mine
            raise ReportConflict(
                f"Expected the report again that came at {mine.reported_at.isoformat()}. "
                "Received: another one"
            )
        now = clock.now()
        if evaluation.state != State.OPEN or evaluation.deadline <= now or mine.code:
            raise _closed(evaluation, mine)
        mine.samples, mine.metrics, mine.classes = told.samples, told.metrics, told.classes
        mine.reported_at = now
        mine.save(update_fields=("samples", "metrics", "classes", "reported_at"))
        _tell(
            evaluation,
            journal,
            "reported",
            at=now,
            participant=participant.pk,
            name=participant.name,
            reports=_reported(evaluation).count(),
            goal=evaluation.goal,
        )
    return mine


def fail(
    participant: Participant, evaluation_id: int, *, code: str, reason: str = ""
) -> EvaluationReport:
    """A participant cannot measure it, or its own limits forbid it. It is not asked again.

    Raises:
        EvaluationNotFound: It was not asked.
        EvaluationClosed: It has reported, or the evaluation has ended.
    """
    mine = own_place(participant, evaluation_id)
    if mine.code == code:
        return mine  # told again: the first answer was lost
    open_ = EvaluationReport.objects.filter(
        pk=mine.pk, code="", reported_at=None, evaluation__state=State.OPEN
    )
    if not open_.update(code=code, reason=reason):
        raise _closed(FederatedEvaluation.objects.get(pk=evaluation_id), mine)
    mine.code, mine.reason = code, reason
    return mine


def _closed(evaluation: FederatedEvaluation, mine: EvaluationReport) -> EvaluationClosed:
    state = f"{evaluation.state}, and yours {'given up' if mine.code else 'open'}"
    if mine.reported_at is not None:
        state = f"{evaluation.state}, and yours reported"
    return EvaluationClosed(
        f"Expected an open evaluation, before its deadline. Received: one that is {state}",
        state=evaluation.state,
    )


def _told(one: EvaluationReport) -> Told:
    return Told(one.samples or 0, one.metrics, one.classes)


def _reported(evaluation: FederatedEvaluation) -> QuerySet[EvaluationReport]:
    return evaluation.reports.exclude(reported_at=None)


# --- It ends ----------------------------------------------------------------------------------


def awaited(round_: Round) -> bool:
    """Whether a round waits for participants to evaluate; one that need not any more goes on.

    Safe to ask twice and in two places. The round's deadline is read again.
    """
    found = FederatedEvaluation.objects.filter(round=round_, state=State.OPEN).first()
    if found is None:
        return False
    ended = step(found.pk)
    round_.refresh_from_db(fields=("deadline", "phase"))
    return not ended and FederatedEvaluation.objects.filter(pk=found.pk, state=State.OPEN).exists()


def step(evaluation_id: int) -> bool:
    """End an evaluation for which enough reports came, or whose time is over.

    Returns:
        True if it ended now.
    """
    with events.transaction() as journal:
        evaluation = _locked_with_round(evaluation_id)
        now = clock.now()
        count = _reported(evaluation).count()
        waits = count < evaluation.goal and evaluation.deadline > now
        if evaluation.state != State.OPEN or waits:
            return False
        summary = _summary(evaluation)
        if not summary:
            reason = (
                f"Only {count} of at least {evaluation.minimum} participants evaluated it within "
                f"{span((evaluation.deadline - evaluation.opened_at).total_seconds())}."
            )
            least = evaluation.minimum
            return _end(
                evaluation, journal, State.FAILED, now, reason=reason, reports=count, minimum=least
            )
        registry.record_federated(evaluation.version, evaluation_summary.means(summary))
        evaluation.summary = summary
        told = {"summary": summary, "metrics": evaluation.version.metrics}
        if evaluation.round is not None:
            told["base_metrics"] = evaluation.round.base.metrics
        return _end(evaluation, journal, State.DONE, now, reports=count, facts=told)


def _summary(evaluation: FederatedEvaluation) -> dict[str, Any]:
    reports = [
        Report(str(one.participant.uuid), one.participant.name, _told(one))
        for one in _reported(evaluation).select_related("participant")
    ]
    labels = evaluation.version.model.labels
    return evaluation_summary.summarise(reports, minimum=evaluation.minimum, labels=labels)


def cancel(evaluation_id: int, *, actor: str = "", reason: str = "") -> FederatedEvaluation:
    """End an evaluation without a summary; a round that waited for it goes on without.

    Raises:
        IllegalMove: It has ended.
    """
    with events.transaction() as journal:
        evaluation = _locked_with_round(evaluation_id)
        if evaluation.state != State.OPEN:
            raise IllegalMove(f"Expected an open evaluation. Received: {evaluation.state}")
        reason = reason or "An operator cancelled it."
        _end(evaluation, journal, State.CANCELLED, clock.now(), actor=actor, reason=reason)
    return evaluation


def cancel_of(round_: Round, reason: str) -> None:
    """The same, with the round that it belongs to, which is locked and ends."""
    found = FederatedEvaluation.objects.filter(round=round_, state=State.OPEN).first()
    if found is None:
        return
    with events.transaction() as journal:
        if (evaluation := _locked(found.pk)).state == State.OPEN:
            _end(evaluation, journal, State.CANCELLED, clock.now(), reason=reason)


def _end(
    evaluation: FederatedEvaluation,
    journal: Journal,
    to: str,
    now: datetime,
    *,
    actor: str = "",
    reason: str = "",
    facts: dict[str, Any] | None = None,
    **told: Any,
) -> bool:
    told |= facts or {}
    evaluation.state, evaluation.reason, evaluation.ended_at = to, reason, now
    evaluation.save(update_fields=("state", "reason", "ended_at", "summary"))
    waiting = Round.objects.filter(federated_evaluation=evaluation, phase=Round.Phase.EVALUATING)
    # What is left to do has as long as if there had been nobody to wait for.
    deadline = now + timedelta(seconds=settings.TASK_SECONDS)
    if waiting.update(deadline=deadline):
        told["round_deadline"] = deadline.isoformat()
    _tell(evaluation, journal, to, actor=actor, reason=reason, at=now, **told)
    return True


def due() -> list[int]:
    """Evaluations that operators asked for and that end now; a round looks after its own."""
    counted = FederatedEvaluation.objects.filter(state=State.OPEN, round=None).annotate(
        here=Count("reports", filter=Q(reports__reported_at__isnull=False))
    )
    over = Q(deadline__lte=clock.now()) | Q(here__gte=F("goal"))
    return list(counted.filter(over).order_by("pk").values_list("pk", flat=True))


def measured_in(round_: Round) -> dict[str, float] | None:
    """What the participants of a round's own evaluation measured, by the names that a version's
    metrics have; None where the round has had none. What others measured later is no part of it."""
    found = FederatedEvaluation.objects.filter(round=round_).first()
    if found is None:
        return None
    return named_federated(evaluation_summary.means(found.summary))


def refusal(run: Run, round_: Round, metrics: dict[str, Any]) -> str:
    """Why a candidate cannot be judged by what its run judges by, or an empty string.

    Args:
        run: Names metrics to judge by.
        round_: With its federated evaluation, if it has had one.
        metrics: All that was measured.
    """
    judges = {
        "its gate compares": run.gate_metric,
        "its run stops": run.until_metric,
        "versions of its run are compared": run.best_metric,
    }
    for rule, name in judges.items():
        if name.startswith(FEDERATED) and name not in metrics:
            evaluation = FederatedEvaluation.objects.filter(round=round_).first()
            why = (evaluation.reason if evaluation else "") or "Too few participants told it."
            return f"Expected {name}, by which {rule}. Received: none. {why}"
    return ""


# --- Common -----------------------------------------------------------------------------------


def _locked(evaluation_id: int) -> FederatedEvaluation:
    locked = FederatedEvaluation.objects.select_for_update(no_key=True, of=("self",))
    return locked.select_related("version__model").get(pk=evaluation_id)


def _locked_with_round(evaluation_id: int) -> FederatedEvaluation:
    """The evaluation, locked after its round if it has one."""
    evaluation = FederatedEvaluation.objects.only("round").get(pk=evaluation_id)
    if evaluation.round_id is not None:
        lock_round(evaluation.round_id)
    return _locked(evaluation_id)


def _tell(evaluation: FederatedEvaluation, journal: Journal, what: str, **told: Any) -> None:
    version, round_ = evaluation.version, evaluation.round
    subjects: dict[str, Any] = {"model": version.model_id, "version": version.pk}
    if round_ is not None:
        subjects |= {"round": round_.pk, "run": round_.run_id}
    if what == "opened":
        told |= {
            "goal": evaluation.goal,
            "minimum": evaluation.minimum,
            "deadline": evaluation.deadline.isoformat(),
        }
    journal.record(
        f"evaluation.{what}",
        **subjects,
        evaluation=evaluation.pk,
        version_number=version.number,
        **told,
    )
