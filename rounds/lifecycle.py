"""The life of a round, read from top to bottom.

    create_run → start_run        a run opens its first round
      check_in                    participants come; the round selects its cohort, or an
                                  asynchronous one lets them train while it has room
      report · fail · withdraw    they train, and say how it goes
      (intake.settle)             they upload; an update is counted once
      close_round                 target, deadline or an operator; verdicts on the updates; an
                                  asynchronous round lets those who still train go on
      aggregate                   a worker folds the updates into a candidate version
      evaluate                    a worker measures it, and participants do where the run asks
                                  for it (`federated_evaluation`); the gate; published and served
    and the run opens its next round by itself, until it is done (`_go_on`, `stopping.py`); an
    asynchronous one hands those who still train, and the updates that came since it closed, on.

    pause_run · resume_run · stop_run · cancel_round    what operators may do meanwhile
    step · due                                          what keeps everything going

Every move is a conditional UPDATE and a line of the journal, in one transaction: `moves.py` holds
the table of the legal ones. `step` does what a round's phase asks for and says whether
there is more; it may run twice and in two places. Aggregation and evaluation run outside the
transaction under a lease (`leases.py`): their result enters only if the lease still names them.
"""

import logging
import math
import statistics
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import numpy as np
from django.conf import settings
from django.db import IntegrityError
from django.db.models import Count, Max, OuterRef, Q, QuerySet, Subquery
from django.db.models.functions import Coalesce

from client_sdk import wire
from journal import events
from journal.events import Journal
from models_app import blobs, registry
from models_app.errors import NonFinite, StaleBase, WrongStage
from models_app.evaluation import Evaluation, by_the_server
from models_app.models import Model, ModelVersion
from rounds import (
    aggregation,
    capabilities,
    clock,
    eligibility,
    federated_evaluation,
    leases,
    rules,
    selection,
    stopping,
)
from rounds.amounts import span
from rounds.errors import AssignmentNotFound, IllegalMove, ModelBusy, RoundClosed
from rounds.models import (
    Assignment,
    CheckIn,
    EvaluationReport,
    Participant,
    Round,
    Run,
)
from rounds.moves import (
    NO_LEASE,
    carry_assignments,
    illegal,
    lock_place,
    lock_round,
    lock_run,
    move_assignments,
    move_round,
    move_run,
    progress,
    subjects,
)

logger = logging.getLogger(__name__)

Phase, RunState, Place = Round.Phase, Run.State, Assignment.State

LOST_AFTER = timedelta(seconds=120)  # without a word; less than that is late
SEEN_EVERY = timedelta(seconds=15)  # how exact a participant's last_seen_at is
NAME_LENGTH = Run._meta.get_field("name").max_length


# --- A run begins -----------------------------------------------------------------------------


def create_run(model: Model, *, actor: str = "", user: Any = None, **settings_: Any) -> Run:
    """A new run, a draft until it is started.

    Args:
        model: What it trains.
        actor: Who asks, for the journal.
        user: The Django user who asks, if one does.
        **settings_: Fields of `Run` that differ from their defaults.

    Raises:
        RulesInvalid: A rule makes no sense; nothing was written.
    """
    run = Run(model=model, created_by=user, **settings_)
    run.name = run.name or f"{model.slug} with {run.strategy}"[:NAME_LENGTH]
    rules.check(run)
    with events.transaction() as journal:
        run.save()
        journal.record(
            "run.created",
            actor=actor,
            run=run.pk,
            model=model.pk,
            name=run.name,
            strategy=run.strategy,
        )
    return run


def start_run(run_id: int, *, actor: str = "", reason: str = "") -> Round:
    """Draft to running, with its first round open.

    Raises:
        IllegalMove: It is no draft.
        ModelBusy: Another run of the model is running or paused.
    """
    try:
        with events.transaction() as journal:
            run = lock_run(run_id)
            move_run(run, RunState.RUNNING, journal, "run.started", actor, reason, only_draft=True)
            return _open_round(run, journal)
    except IntegrityError as error:
        raise ModelBusy(
            f"Expected no other running or paused run of this model. Received: run {run_id}"
        ) from error


def _open_round(run: Run, journal: Journal) -> Round:
    """Open a locked run's next round. An asynchronous one trains at once, with who still did."""
    base = registry.served(run.model_id)
    number = 1 + (run.rounds.aggregate(last=Max("number"))["last"] or 0)
    now = clock.now()
    opened = Round.objects.create(
        run=run,
        number=number,
        base=base,
        seed=selection.derive_seed(run.seed, number),
        quorum=run.quorum,
        target=run.buffer_size or run.target or run.cohort_goal,
        opened_at=now,
        deadline=now + timedelta(seconds=run.selecting_seconds),
    )
    Run.objects.filter(pk=run.pk).update(next_round_at=None)
    journal.record(
        "round.opened",
        at=now,
        run=run.pk,
        round=opened.pk,
        model=run.model_id,
        number=number,
        base=base.number,
        target=opened.target,
        quorum=opened.quorum,
        deadline=opened.deadline.isoformat() if opened.deadline else None,
    )
    if run.kind == Run.Kind.ASYNCHRONOUS:
        carry_assignments(_unfinished(run), opened, journal)
        _start_training(opened, journal)
    return opened


def _unfinished(run: Run) -> QuerySet[Assignment]:
    """Who still trains though its round is published, and whose update waits for a verdict."""
    unjudged = Assignment.objects.filter(state__in=Assignment.UNJUDGED)
    return unjudged.filter(round__run=run, round__phase=Phase.PUBLISHED)


# --- Selecting --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Wait:
    """There is nothing to train now: why, and in how many seconds to ask again."""

    reason: str
    detail: str
    retry_after: float
    run: int | None = None


def check_in(
    participant: Participant, models: Sequence[str] | None = None, *, evaluates: bool = False
) -> Assignment | EvaluationReport | Wait:
    """A participant is there and asks what to do.

    Args:
        participant: Active.
        models: Slugs of the models that it has data for; None for any.
        evaluates: Whether it keeps data to evaluate versions with.

    Returns:
        Its open assignment (the same one again, if it had one); what there is to evaluate while
        there is nothing to train; or why and how long to wait.
    """
    _seen(participant)
    if mine := _open_assignment(participant, models):
        return mine
    active = _active_rounds_for(participant, models)
    inviting = [one for one in active if _invites(one) and _is_able(participant, one.run)]
    for found in inviting:
        if not _takes_who_comes(found.run):
            _be_there(found, participant)
        elif _come_first(found, participant):
            break  # a place at a time: another run's would stand idle meanwhile
    if inviting:  # and gone on, perhaps, because we came
        if mine := _open_assignment(participant, models):
            return mine
        active = _active_rounds_for(participant, models)
    if evaluates and (place := federated_evaluation.ask(participant, models)):
        return place
    return _why_wait(participant, active)


def _seen(participant: Participant) -> None:
    now = clock.now()
    if participant.last_seen_at is None or participant.last_seen_at < now - SEEN_EVERY:
        Participant.objects.filter(pk=participant.pk).update(last_seen_at=now)


def _open_assignment(participant: Participant, models: Sequence[str] | None) -> Assignment | None:
    open_ = Assignment.objects.filter(
        participant=participant, state__in=Assignment.OPEN, round__phase__in=Round.ACTIVE
    )
    if models is not None:
        open_ = open_.filter(round__run__model__slug__in=models)
    # Most who ask have none: that is answered without reading any of what belongs to one.
    first = open_.order_by("id").values_list("pk", flat=True).first()
    return None if first is None else _assignments().get(pk=first)


def _assignments() -> QuerySet[Assignment]:
    """Assignments with what they are about, but for a model's architecture: that may be large."""
    found = Assignment.objects.select_related("round__run__model", "base", "invited_in")
    return found.defer("round__run__model__architecture")


def _active_rounds_for(participant: Participant, models: Sequence[str] | None) -> list[Round]:
    rounds = Round.objects.select_related("run").filter(phase__in=Round.ACTIVE)
    if participant.model_id is not None:
        rounds = rounds.filter(run__model=participant.model_id)
    if models is not None:
        rounds = rounds.filter(run__model__slug__in=models)
    return list(rounds.order_by("id"))


def _invites(round_: Round) -> bool:
    """Whether a round looks for participants: an asynchronous one does until its buffer is full."""
    asynchronous = round_.run.kind == Run.Kind.ASYNCHRONOUS
    return round_.phase == (Phase.TRAINING if asynchronous else Phase.SELECTING)


def _is_able(participant: Participant, run: Run) -> bool:
    return not eligibility.lacking(run, participant)


def _takes_who_comes(run: Run) -> bool:
    first_come = run.selection == Run.Selection.FIRST_COME
    return first_come or run.kind == Run.Kind.ASYNCHRONOUS


def _come_first(round_: Round, participant: Participant) -> bool:
    """First come, first served: invited at once, while there is room; whether it was."""
    if not _has_room(round_, participant):
        return False  # most who come find none: they are told so without a lock
    with events.transaction() as journal:
        round_ = lock_round(round_.pk)
        if not _invites(round_) or not _has_room(round_, participant):
            return False
        if not eligibility.eligible(round_.run).filter(pk=participant.pk).exists():
            return False  # suspended since it asked
        _invite(round_, [participant.pk], journal)
        if round_.phase == Phase.SELECTING and round_.assignments.count() >= _room(round_.run):
            _start_training(round_, journal)
        return True


def _has_room(round_: Round, participant: Participant) -> bool:
    """Whether there is a place for a participant, which has one in a round at most."""
    if round_.assignments.filter(participant=participant).exists():
        return False
    places = round_.run.concurrency
    return places is None or _working(round_) < places


def _working(round_: Round) -> int:
    return round_.assignments.filter(state__in=Assignment.OPEN).count()


def tell_of_room(round_: Round) -> None:
    """Let those who wait know that an asynchronous round has a place again."""
    if round_.run.kind == Run.Kind.ASYNCHRONOUS and round_.phase == Phase.TRAINING:
        told = {"run": round_.run_id, "round": round_.pk, "model": round_.run.model_id}
        events.hint("round.has_room", **told, number=round_.number)


def _room(run: Run) -> int:
    return selection.room(run.cohort_goal, run.over_selection)


def _be_there(round_: Round, participant: Participant) -> None:
    """Checked in, to be chosen from when enough are there."""
    _, is_new = CheckIn.objects.get_or_create(round=round_, participant=participant)
    there, wanted = gathering(round_)
    if is_new:
        events.hint(
            "round.checked_in",
            run=round_.run_id,
            round=round_.pk,
            number=round_.number,
            checked_in=there,
            wanted=wanted,
        )
    if there >= wanted:
        _select(round_.pk)


def _there(round_: Round) -> QuerySet[CheckIn]:
    return round_.check_ins.filter(participant__in=eligibility.eligible(round_.run))


def gathering(round_: Round) -> tuple[int, int]:
    """How many have come to a selecting round, and how many it waits for."""
    run = round_.run
    if run.selection == Run.Selection.FIRST_COME:
        return round_.assignments.count(), _room(run)
    wanted = selection.wanted(
        run.selection,
        eligible=max(eligibility.eligible(run).count(), run.fewest),
        goal=run.cohort_goal,
        fraction=run.fraction,
    )
    return _there(round_).count(), max(wanted, run.fewest)


def _enough_are_there(round_: Round) -> bool:
    there, wanted = gathering(round_)
    return there >= wanted


def _select(round_id: int) -> bool:
    """Choose the cohort out of those who are there, and let it train."""
    with events.transaction() as journal:
        round_ = lock_round(round_id)
        if round_.phase != Phase.SELECTING:
            return False
        there = _there(round_).values_list("participant", flat=True)
        chosen = rules.choose(round_.run, there, round_.seed)
        _invite(round_, chosen, journal)
        return _start_training(round_, journal)


def _invite(round_: Round, participants: Sequence[int], journal: Journal) -> None:
    now = clock.now()
    known = Participant.objects.in_bulk(participants)
    # By name and not by id: who enrolled first must not change what a run with a seed gives.
    invited = Assignment.objects.bulk_create(
        Assignment(
            round=round_,
            participant_id=one,
            base_id=round_.base_id,
            invited_in=round_,
            seed=selection.derive_seed(round_.seed, known[one].name),
            invited_at=now,
        )
        for one in participants
    )
    for one in invited:
        who = known[one.participant_id]
        journal.record(
            "assignment.invited",
            at=now,
            **subjects(one, round_),
            name=who.name,
            uuid=str(who.uuid),
        )


def _start_training(round_: Round, journal: Journal) -> bool:
    now, run = clock.now(), round_.run
    invited = round_.assignments.count()
    target = rules.target(run, invited)
    return move_round(
        round_,
        Phase.TRAINING,
        journal,
        changes={
            "target": target,
            "training_at": now,
            "deadline": now + timedelta(seconds=run.training_seconds),
        },
        invited=invited,
        target=target,
    )


def _finish_selecting(round_: Round) -> bool:
    """What `step` does for a selecting round: select, time out, or nothing yet."""
    run, late = round_.run, _is_past(round_)
    if run.selection == Run.Selection.FIRST_COME:
        if counts(round_)[0] >= (round_.target or math.inf):
            return close_round(round_.pk, reason="target reached")
        if not late:
            return False
        there = round_.assignments.count()
    else:
        if _enough_are_there(round_):
            return _select(round_.pk)
        there = _there(round_).count()
        if late and there >= run.fewest:
            return _select(round_.pk)
    if not late:
        return False
    with events.transaction() as journal:
        round_ = lock_round(round_.pk)
        if round_.phase != Phase.SELECTING:
            return False
        if there >= run.fewest:
            return _start_training(round_, journal)
        return _fail_round(
            round_,
            journal,
            "not_enough_participants",
            f"Only {there} of at least {run.fewest} participants checked in within "
            f"{run.selecting_seconds} s.",
        )


def _why_wait(participant: Participant, active: Sequence[Round]) -> Wait:
    if not active:
        return Wait("no_open_round", "No round is open; wait for a run to be started.", 10.0)
    able = [one for one in active if _is_able(participant, one.run)]
    if not able:
        return _sdk_lacks(participant, active[-1].run)
    found = able[-1]
    if found.phase == Phase.SELECTING:
        return Wait("selecting", "The round is waiting for more participants.", 2.0, found.run_id)
    if found.assignments.filter(participant=participant).exists():
        detail = "Your part of this round is done; wait for the next one."
        return Wait("round_in_progress", detail, 3.0, found.run_id)
    if found.run.kind == Run.Kind.ASYNCHRONOUS and _invites(found):
        detail = "As many train as this run lets train at a time; wait until one has finished."
        return Wait("no_place", detail, 3.0, found.run_id)
    if found.run.kind == Run.Kind.ASYNCHRONOUS:
        detail = "A version is being made; the next round lets in who comes."
        return Wait("round_in_progress", detail, 3.0, found.run_id)
    return Wait("not_selected", "This round trains without you.", 5.0, found.run_id)


def _sdk_lacks(participant: Participant, run: Run) -> Wait:
    lacks = eligibility.lacking(run, participant)
    detail = (
        f"The run's strategy, {run.strategy}, asks for what this software cannot do: a participant "
        f"that {capabilities.in_words(lacks)} ({', '.join(lacks)}). "
        f"Upgrade it: {capabilities.UPGRADE}"
    )
    return Wait("sdk_lacks", detail, 60.0, run.pk)


# --- Training ---------------------------------------------------------------------------------


def deadline(assignment: Assignment) -> datetime | None:
    """Until when its update is waited for; in an asynchronous run each has its own time."""
    run = assignment.round.run
    if run.kind == Run.Kind.ASYNCHRONOUS:
        return assignment.invited_at + timedelta(seconds=run.training_seconds)
    return assignment.round.deadline


def report(
    participant: Participant,
    assignment_id: int,
    *,
    activity: str,
    fraction: float,
    epoch: int | None = None,
    epochs: int | None = None,
    metrics: dict[str, float] | None = None,
) -> Assignment:
    """A participant says how far it is.

    It is a state, not an event: the row keeps the latest, the live view hears of it, and only the
    first report (the assignment trains now) enters the journal.

    Raises:
        AssignmentNotFound: No assignment of this participant.
        RoundClosed: It no longer counts; the participant may stop training.
    """
    mine = own_assignment(participant, assignment_id)
    now = clock.now()
    told = {"activity": activity, "fraction": fraction, "epoch": epoch, "epochs": epochs}
    told = {name: value for name, value in told.items() if value is not None}
    if metrics:
        told["metrics"] = metrics
    if activity == mine.activity == Assignment.Activity.UPLOADING:
        told["fraction"] = max(fraction, mine.fraction)  # we have counted the bytes ourselves
    if activity not in mine.activities:
        told["activities"] = mine.activities | {activity: now.isoformat()}
    open_ = Assignment.objects.filter(
        pk=mine.pk, state__in=Assignment.OPEN, round__phase__in=Round.ACTIVE
    )
    if not open_.update(**told, last_seen_at=now):
        raise closed(mine)
    _seen(participant)
    if mine.state == Place.INVITED:
        with events.transaction() as journal:
            move_assignments(
                Assignment.objects.filter(pk=mine.pk, state=Place.INVITED),
                Place.TRAINING,
                journal,
                training_at=now,
            )
    mine.refresh_from_db(fields=["state", "fraction", "epoch", "epochs", "metrics", "activities"])
    latest = progress(mine) | {"activity": activity}
    del latest["last_seen_at"]  # it is when this is said
    who = subjects(mine, mine.round)
    events.hint("assignment.progress", at=now, **who, name=participant.name, **latest)
    return mine


def fail(
    participant: Participant, assignment_id: int, *, code: str, reason: str, detail: str = ""
) -> Assignment:
    """A participant says that it cannot do this assignment.

    One whose own limits forbid it, with a code of `DECLINES`, has not failed: it withdraws.

    Raises:
        AssignmentNotFound: No assignment of this participant.
        RoundClosed: It had ended already.
    """
    if code in DECLINES:
        return withdraw(participant, assignment_id, code=code, detail=detail)
    return _give_up(participant, assignment_id, Place.FAILED, code, reason, detail)


WITHDRAWN = "withdrawn"
# Why a participant gives an assignment back, in words for operators. It keeps its place in the
# round, as everyone who has withdrawn: so the round does not invite it again.
DECLINES = {
    WITHDRAWN: "The participant withdrew.",
    "declined": "The participant declined.",
    "limit_cohort_at_least": "The round's quorum is smaller than the cohort that it asks for.",
    "limit_models": "Its own limits do not let it train this model.",
    "limit_rounds_per_day": "It has taken part as often in a day as its own limits let it.",
    "limit_samples_at_least": "It has fewer examples than its own limits ask for.",
    "limit_share_metrics": "Its own limits let no loss leave, and the strategy asks for one.",
    "limit_seconds_per_round": "The round takes longer than its own limits give it.",
}


def withdraw(
    participant: Participant,
    assignment_id: int,
    *,
    code: str = WITHDRAWN,
    reason: str = "",
    detail: str = "",
) -> Assignment:
    """A participant leaves this round; raises as `fail` does.

    Args:
        participant: Who.
        assignment_id: Its place.
        code: Why, for programs; one of `DECLINES` or one of its own.
        reason: Why, for people; the code's own sentence when empty.
        detail: What the participant tells of it.
    """
    reason = reason or DECLINES.get(code) or f"The participant withdrew: {code}."
    return _give_up(participant, assignment_id, Place.WITHDRAWN, code, reason, detail)


def _give_up(
    participant: Participant, assignment_id: int, to: str, code: str, reason: str, detail: str
) -> Assignment:
    mine = own_assignment(participant, assignment_id)
    if mine.state == to:
        return mine  # told again: the first answer was lost
    with events.transaction() as journal:
        round_ = lock_place(mine.pk)
        moved = move_assignments(
            Assignment.objects.filter(pk=mine.pk, state__in=Assignment.OPEN),
            to,
            journal,
            actor=participant.name,
            code=code,
            reason=reason,
            detail=detail,
        )
        if not moved:
            raise closed(mine)
        tell_of_room(round_)
    mine.refresh_from_db()
    return mine


def dismiss(participant: Participant, journal: Journal, *, code: str, reason: str) -> None:
    """End a participant's open assignments, because it was suspended, revoked, or has left.

    Rounds are locked, so that one that selects it at this moment is waited for.
    """
    active = Round.objects.filter(phase__in=Round.ACTIVE).order_by("run")
    rounds = [lock_round(pk) for pk in active.values_list("pk", flat=True)]
    mine = Assignment.objects.filter(participant=participant, state__in=Assignment.OPEN)
    places = set(mine.values_list("round", flat=True))
    move_assignments(mine, Place.FAILED, journal, code=code, reason=reason)
    for round_ in rounds:
        if round_.pk in places:
            tell_of_room(round_)


def reject(assignments: QuerySet[Assignment], journal: Journal, code: str, reason: str) -> int:
    """End assignments whose uploads were not valid, time and again."""
    return move_assignments(assignments, Place.REJECTED, journal, code=code, reason=reason)


def own_assignment(participant: Participant, assignment_id: int) -> Assignment:
    """One of the participant's own; others' do not exist for it.

    Raises:
        AssignmentNotFound: No such assignment of this participant.
    """
    try:
        return _assignments().get(pk=assignment_id, participant=participant)
    except Assignment.DoesNotExist:
        detail = f"Expected one of your own assignments. Received: {assignment_id}"
        raise AssignmentNotFound(detail) from None


def closed(assignment: Assignment) -> RoundClosed:
    """The error that says why an assignment takes nothing more."""
    current = Assignment.objects.select_related("round").get(pk=assignment.pk)
    return RoundClosed(
        f"Expected an open assignment of an open round. Received: assignment {current.pk} "
        f"{current.state} in a round that is {current.round.phase}",
        state=current.state,
        phase=current.round.phase,
    )


def _finish_training(round_: Round) -> bool:
    """What `step` does for a training round: close, fail, or nothing yet."""
    if round_.run.kind == Run.Kind.ASYNCHRONOUS:
        _free_places(round_)
    uploaded, working = counts(round_)
    if uploaded >= (round_.target or 0):
        return close_round(round_.pk, reason="target reached")
    if working == 0 and uploaded >= round_.quorum and not _may_come(round_):
        return close_round(round_.pk, reason="nobody is training any more")
    if _is_past(round_) and uploaded >= round_.quorum:
        return close_round(round_.pk, reason="deadline reached")
    if _is_past(round_) or (uploaded + working < round_.quorum and not _may_come(round_)):
        return _quorum_not_met(round_.pk)
    return False


def _may_come(round_: Round) -> bool:
    """Whether somebody who has no place in a training round may still get one."""
    if not _invites(round_):
        return False
    return eligibility.eligible(round_.run).exclude(assignments__round=round_).exists()


def _free_places(round_: Round) -> None:
    """Take the places of those that are not heard of any more, or that take too long."""
    now, run = clock.now(), round_.run
    working = round_.assignments.filter(state__in=Assignment.OPEN)
    long_ago, too_long = now - LOST_AFTER, now - timedelta(seconds=run.training_seconds)
    silent = working.alias(heard=Coalesce("last_seen_at", "invited_at")).filter(
        Q(participant__last_seen_at=None) | Q(participant__last_seen_at__lt=long_ago),
        heard__lt=long_ago,
    )
    slow = working.filter(invited_at__lt=too_long)
    if not (silent.exists() or slow.exists()):
        return
    with events.transaction() as journal:
        lost = "Nothing was heard of it any more; others train in its place."
        move_assignments(silent, Place.LOST, journal, code="not_heard_of", reason=lost)
        late = f"It trained for longer than {span(run.training_seconds)}."
        move_assignments(slow, Place.LATE, journal, code="too_slow", reason=late)
        tell_of_room(round_)


def counts(round_: Round) -> tuple[int, int]:
    """How many have uploaded, and how many are still at it."""
    states = list(round_.assignments.values_list("state", flat=True))
    return states.count(Place.UPLOADED), sum(state in Assignment.OPEN for state in states)


def _quorum_not_met(round_id: int) -> bool:
    with events.transaction() as journal:
        round_ = lock_round(round_id)
        uploaded, working = counts(round_)
        possible = uploaded + working >= round_.quorum or _may_come(round_)
        still_possible = possible and not _is_past(round_)
        if round_.phase != Phase.TRAINING or uploaded >= round_.quorum or still_possible:
            return False  # an upload was faster than we
        return _fail_round(
            round_,
            journal,
            _too_few(round_.run),
            f"Only {uploaded} of at least {round_.quorum} updates came.",
        )


def _too_few(run: Run) -> str:
    """Why a round fails for want of updates. In an asynchronous run that says nothing of who still
    trains: each has its own time."""
    return "quorum_not_met" if run.kind == Run.Kind.SYNCHRONOUS else "buffer_not_filled"


def _is_past(round_: Round) -> bool:
    return round_.deadline is not None and round_.deadline <= clock.now()


# --- Closing ----------------------------------------------------------------------------------


def close_round(round_id: int, *, actor: str = "", reason: str = "") -> bool:
    """End the training with the updates that are here, and judge them.

    An update whose norm is above the run's multiple of the cohort's median is quarantined, the
    others are accepted; who has not uploaded is late, or lost if it has not been heard of. In an
    asynchronous run it trains on, and its update counts in a later round.

    Returns:
        True if there is more to do; False if the round was closed already.

    Raises:
        IllegalMove: An operator closes a round that has no quorum, or is not open.
    """
    with events.transaction() as journal:
        round_ = lock_round(round_id)
        uploaded, _ = counts(round_)
        if round_.phase not in Round.OPEN or uploaded < round_.quorum:
            if not actor:
                return False
            raise IllegalMove(
                f"Expected an open round with at least {round_.quorum} updates. "
                f"Received: {uploaded} updates, {round_.phase}"
            )
        now = clock.now()
        accepted = _judge(round_, journal)
        if round_.run.kind == Run.Kind.SYNCHRONOUS:
            _dismiss_late(round_, journal)
        if accepted < round_.quorum:
            return _fail_round(
                round_,
                journal,
                _too_few(round_.run),
                f"Only {accepted} of at least {round_.quorum} updates were not quarantined.",
            )
        return move_round(
            round_,
            Phase.AGGREGATING,
            journal,
            actor=actor,
            reason=reason,
            changes={"aggregating_at": now, "deadline": now + _work_time()},
            accepted=accepted,
        )


def _judge(round_: Round, journal: Journal) -> int:
    """Accept or quarantine what was uploaded; how many were accepted."""
    uploaded = round_.assignments.filter(state=Place.UPLOADED)
    _note_staleness(uploaded, round_)
    norms = dict(uploaded.values_list("pk", "update__norm"))
    limit = norm_limit(list(norms.values()), round_.run.quarantine_factor)
    outsized = [pk for pk, norm in norms.items() if norm > limit]
    for pk in outsized:
        move_assignments(
            uploaded.filter(pk=pk),
            Place.QUARANTINED,
            journal,
            code="norm_outsized",
            reason=f"Its norm is {norms[pk]:.4g}, and at most {limit:.4g} "
            f"({round_.run.quarantine_factor:g} times the cohort's median) is trusted.",
            data={"norm": norms[pk], "limit": limit},
        )
    return move_assignments(uploaded, Place.ACCEPTED, journal)


def _note_staleness(uploaded: QuerySet[Assignment], round_: Round) -> None:
    """How many versions the run has published since the base that each update was trained from."""
    since = Round.objects.filter(
        run=round_.run_id, phase=Phase.PUBLISHED, pk__gte=OuterRef("invited_in")
    )
    counted = since.order_by().values("run").annotate(count=Count("pk")).values("count")
    old = uploaded.exclude(invited_in=round_.pk)
    old.update(staleness=Coalesce(Subquery(counted), 0))


def norm_limit(norms: Sequence[float], factor: float) -> float:
    """The greatest norm that is trusted: a multiple of the median.

    Args:
        norms: Of all updates of a round.
        factor: The multiple; 0 trusts everything.

    Returns:
        Infinity where a median says nothing: fewer than three updates, or a median of zero.
    """
    if factor == 0 or len(norms) < 3:
        return math.inf
    return factor * statistics.median(norms) or math.inf


def _dismiss_late(round_: Round, journal: Journal) -> None:
    waiting = round_.assignments.filter(state__in=Assignment.OPEN)
    silent = Q(last_seen_at=None) | Q(last_seen_at__lt=clock.now() - LOST_AFTER)
    move_assignments(
        waiting.filter(silent),
        Place.LOST,
        journal,
        code="not_heard_of",
        reason="Nothing was heard of it before the round closed.",
    )
    move_assignments(
        waiting,
        Place.LATE,
        journal,
        code="round_closed",
        reason="It was still training when the round closed.",
    )


def _work_time() -> timedelta:
    return timedelta(seconds=settings.TASK_SECONDS)


# --- Aggregating ------------------------------------------------------------------------------


def aggregate(round_id: int) -> bool:
    """Fold the accepted updates into a candidate version. For workers.

    Returns:
        True if there is more to do; False if another worker holds the round.
    """
    with leases.hold(round_id, Phase.AGGREGATING) as lease:
        if lease is None:
            return _give_up_if_hopeless(round_id)
        round_ = Round.objects.select_related("run__model", "base").get(pk=round_id)
        began = clock.now()
        try:
            setting = _setting(round_.run)
            weights, state, diagnostics = _fold(round_, setting)
        except ValueError as error:  # the numbers are at fault: it would end so each time
            return _fail_held(round_id, lease, "aggregation_failed", str(error))
        with events.transaction() as journal:
            round_ = lock_round(round_id)
            if round_.phase != Phase.AGGREGATING or round_.lease != lease:
                return False  # overslept: what we made is nobody's
            candidate = registry.add_candidate(
                round_.run.model_id,
                parent=round_.base,
                weights=weights,
                strategy_state=state,
                reason=f"Round {round_.number} of {round_.run}",
            )
            now = clock.now()
            return move_round(
                round_,
                Phase.EVALUATING,
                journal,
                changes={
                    "version": candidate,
                    "evaluating_at": now,
                    "deadline": now + _work_time(),
                    "diagnostics": diagnostics,
                    "population": setting.population,
                    **NO_LEASE,
                },
                version=candidate.pk,
                version_number=candidate.number,
                diagnostics=diagnostics,
                seconds=(now - began).total_seconds(),
            )


def _setting(run: Run) -> aggregation.Setting:
    """The run as its strategy knows it now. Its population never falls: who has left has left a
    part of what the strategy knows."""
    last = _last_published(run)
    before = last.population if last else 0
    population = max(eligibility.eligible(run).count(), before)
    return rules.setting(run, population=population, population_before=before or None)


def _last_published(run: Run) -> Round | None:
    published = run.rounds.filter(phase=Phase.PUBLISHED).order_by("-number")
    return published.select_related("version").first()


def _fold(round_: Round, setting: aggregation.Setting) -> tuple[blobs.Blob, str, dict[str, Any]]:
    """The new federated weights as a blob, the strategy's state, and its diagnostics.

    These have `shares` too, by participant, where the strategy says whose updates counted for how
    much. The order is that of participants, so that it does not depend on who came first.
    """
    specs = round_.run.model.federated
    base = wire.open_flat(blobs.path(round_.base.weights), specs)
    accepted = round_.assignments.filter(state=Place.ACCEPTED).order_by("participant_id")
    contributions = [
        aggregation.Contribution(
            values=wire.open_flat(blobs.path(one.update.digest), specs),
            samples=one.update.samples,
            key=one.participant_id,
            staleness=one.staleness,
            reports=one.update.reports,
        )
        for one in accepted.select_related("update")
    ]
    strategy = aggregation.build(round_.run.strategy, round_.run.strategy_options)
    state = _strategy_state(round_, strategy.init(base))
    result = strategy.apply(state, contributions, setting=setting, out=_kept_array(base.size))
    new = result.delta
    aggregation.apply_delta(base, result.delta, out=new)
    stored_state = _store(result.state).sha256 if result.state else ""
    shares = {str(key): share for key, share in result.shares.items()}
    diagnostics = dict(result.diagnostics) | ({"shares": shares} if shares else {})
    return _store(wire.split(new, specs)), stored_state, diagnostics


def _kept_array(size: int) -> np.ndarray:
    """This thread's own array for a fold's result: its pages are touched once, not each round."""
    if getattr(_kept, "array", None) is None or _kept.array.size != size:
        _kept.array = np.empty(size, np.float32)
    array: np.ndarray = _kept.array
    return array


_kept = threading.local()


def _strategy_state(round_: Round, fresh: aggregation.State) -> aggregation.State:
    """The state that this same run has left, else the fresh one."""
    stored = state_before(round_)
    if not stored:
        return fresh
    specs = [wire.TensorSpec.of(name, array) for name, array in fresh.items()]
    return wire.open_tensors(blobs.path(stored), specs)


def state_before(round_: Round) -> str:
    """The blob of the strategy's state that a round goes on from; empty where it begins.

    It is what the run left with the base version. But where participants keep something of their
    own it is what the run left last, whatever is served by now: that is what theirs belong to.
    """
    if eligibility.requirements(round_.run).keys() & capabilities.KEPT:
        last = _last_published(round_.run)
        return last.version.strategy_state if last and last.version else ""
    return _state_left(round_.base, round_.run_id)


def _state_left(version: ModelVersion, run_id: int) -> str:
    """The blob of the strategy's state that a run left with a version; empty if it left none.

    A version that is served again by a roll-back is still the run's own that it was.
    """
    if not version.strategy_state:
        return ""
    while version.origin == ModelVersion.Origin.ROLLBACK and version.parent is not None:
        version = version.parent
    made = Round.objects.filter(version=version, run=run_id).exists()
    return version.strategy_state if made else ""


def _store(tensors: Any) -> blobs.Blob:
    path = blobs.new_spool_file()
    digest, _ = wire.dump(path, tensors)
    return blobs.put_file(path, sha256=digest)


# --- Evaluating and publishing ----------------------------------------------------------------


def needs_keras(round_id: int) -> bool:
    """Whether the round waits for a worker that can run its model."""
    return (
        Round.objects.filter(pk=round_id, phase=Phase.EVALUATING, federated_evaluation=None)
        .exclude(run__model__evaluation_set="")
        .exists()
    )


def evaluate(round_id: int) -> bool:
    """Measure the candidate on the model's held-out set; publish it if the gate lets it. For
    workers, and for those with Keras where the model has an evaluation set.

    Returns:
        True if there is more to do; False if another worker holds the round.
    """
    with leases.hold(round_id, Phase.EVALUATING) as lease:
        if lease is None:
            return _give_up_if_hopeless(round_id)
        round_ = Round.objects.select_related("run__model", "base", "version").get(pk=round_id)
        if federated_evaluation.awaited(round_):  # another worker has asked participants meanwhile
            Round.objects.filter(pk=round_id, lease=lease).update(**NO_LEASE)
            return False
        try:
            before, measured = _measure(round_)
        except NonFinite as error:
            return _fail_held(round_id, lease, "evaluation_failed", str(error))
        run = round_.run
        refused = gate(run.gate_metric, run.gate_tolerance, before, measured.metrics)
        if federated_evaluation.is_due(round_) and not refused:  # it need not trouble anybody then
            return _ask_participants(round_id, lease, before, measured)
        return _publish(round_id, lease, before, measured)


def _measure(round_: Round) -> tuple[dict[str, Any], Evaluation]:
    """The base version's metrics and how good the candidate is, on the model's held-out set."""
    version, base = round_.version, round_.base
    told = federated_evaluation.measured_in(round_)
    if version is not None and told is not None:  # all is measured, some of it a moment ago
        version.refresh_from_db(fields=("metrics", "confusion"))
        return base.metrics, Evaluation(by_the_server(version.metrics) | told, version.confusion)
    if version is None or not round_.run.model.evaluation_set:
        return base.metrics, Evaluation()
    from models_app import keras_bridge  # only here: TensorFlow is heavy

    before = base.metrics if by_the_server(base.metrics) else measure_base(round_.pk)
    return before, keras_bridge.evaluate(version)


def _ask_participants(round_id: int, lease: str, before: dict[str, Any], found: Evaluation) -> bool:
    """Write down what was measured, and wait for participants without holding the round."""
    with events.transaction() as journal:
        round_ = lock_round(round_id)
        if round_.phase != Phase.EVALUATING or round_.lease != lease or round_.version is None:
            return False
        if found.metrics:
            registry.record_metrics(round_.version, found)
        told = {"metrics": found.metrics, "base_metrics": before}
        federated_evaluation.open_for(round_, journal, **told)
    return False


def will_need_keras(round_id: int) -> bool:
    """Whether the round will be evaluated, and its participants still are at work."""
    return (
        Round.objects.filter(pk=round_id, phase__in=Round.OPEN)
        .exclude(run__model__evaluation_set="")
        .exists()
    )


def measure_base(round_id: int) -> dict[str, Any]:
    """Measure the version that a round starts from. For workers that have Keras.

    It is what the gate compares with; and done while the participants train, it leaves the model
    built and compiled for the candidate. Where both are so already, nothing is done.
    """
    from models_app import keras_bridge

    base = Round.objects.select_related("base__model").get(pk=round_id).base
    known = bool(by_the_server(base.metrics))
    if not known or not keras_bridge.is_warm(base.model):
        measured = keras_bridge.evaluate(base)
        if not known:
            registry.record_metrics(base, measured)
    metrics: dict[str, Any] = base.metrics
    return metrics


def _publish(round_id: int, lease: str, before: dict[str, Any], found: Evaluation) -> bool:
    measured = found.metrics
    with events.transaction() as journal:
        round_ = lock_round(round_id)
        version, run = round_.version, round_.run
        if round_.phase != Phase.EVALUATING or round_.lease != lease or version is None:
            return False
        if measured and measured != version.metrics:
            registry.record_metrics(version, found)
        told: dict[str, Any] = {"metrics": measured, "base_metrics": before}
        # The gate first: where it refuses by what the server measured, nobody else was asked.
        refusal = gate(run.gate_metric, run.gate_tolerance, before, measured)
        if refusal := refusal or federated_evaluation.refusal(run, round_, measured):
            return _fail_round(round_, journal, "gate", refusal, **told)
        try:
            registry.publish(version, reason=version.reason, expected_served=round_.base)
        except StaleBase as error:
            return _fail_round(round_, journal, "base_replaced", str(error), **told)
        except WrongStage as error:
            return _fail_round(round_, journal, "version_rejected", str(error), **told)
        now = clock.now()
        moved = move_round(
            round_,
            Phase.PUBLISHED,
            journal,
            changes={"ended_at": now, "deadline": None, "reason": "", **NO_LEASE},
            version=version.pk,
            version_number=version.number,
            seconds=(now - round_.opened_at).total_seconds(),
            **told,
        )
        Run.objects.filter(pk=run.pk).update(failures=0)
        _go_on(round_, journal, measured)
        return moved


def gate(metric: str, tolerance: float, before: dict[str, Any], measured: dict[str, Any]) -> str:
    """Why a candidate must not be served, or an empty string.

    Args:
        metric: The one compared, `loss` or another; empty to compare none.
        tolerance: How much worse it may be, in the metric's own unit.
        before: The base version's metrics.
        measured: The candidate's.
    """
    for name, value in measured.items():
        if isinstance(value, float) and not math.isfinite(value):
            return f"Expected finite metrics. Received: {name} = {value}"
    if metric not in before or metric not in measured:
        return ""
    worse = before[metric] - measured[metric]
    worse = -worse if rules.smaller_is_better(metric) else worse
    if worse <= tolerance:
        return ""
    return (
        f"Expected {metric} no more than {tolerance:g} worse than the base version's "
        f"{before[metric]:.4f}. Received: {measured[metric]:.4f}"
    )


# --- The run goes on --------------------------------------------------------------------------


def _go_on(round_: Round, journal: Journal, metrics: dict[str, Any]) -> None:
    """After a published round: the next one, or the end."""
    run = round_.run
    run.refresh_from_db()
    if done := stopping.done(run, _values(run), metrics):
        _complete(run, journal, done)
    elif run.state == RunState.RUNNING:
        _open_round(run, journal)
        return
    # Of an asynchronous run some still train, and there is no round to hand them on to.
    ended: dict[str, Any] = {"code": f"run_{run.state}", "reason": f"The run is {run.state}."}
    if run.state != RunState.PAUSED:
        _end_assignments(_unfinished(run), journal, **ended)
        return
    # What has been acknowledged waits for the run to be resumed: it is to count.
    working = _unfinished(run).filter(state__in=Assignment.OPEN)
    move_assignments(working, Place.LATE, journal, **ended)


def _values(run: Run) -> list[float | None]:
    """The metric that a run's versions are compared by, of each version that it published."""
    published = run.rounds.filter(phase=Phase.PUBLISHED).order_by("number")
    found = published.values_list("version__metrics", flat=True)
    return [metrics.get(run.best_metric) for metrics in found]


def _complete(run: Run, journal: Journal, done: stopping.Done) -> None:
    """The end that a run was made for. Who stops a run decides himself what is served then."""
    reason = f"{done.reason} {_serve_best(run) if run.keep_best else ''}".strip()
    moved = Run.objects.filter(pk=run.pk, state__in=(RunState.RUNNING, RunState.PAUSED))
    now = clock.now()
    if moved.update(state=RunState.COMPLETED, reason=reason, ended_at=now):
        run.state = RunState.COMPLETED
        journal.record(
            "run.completed",
            reason=reason,
            at=now,
            run=run.pk,
            model=run.model_id,
            rounds=done.rounds,
            because=done.because,
        )


def _serve_best(run: Run) -> str:
    """Serve a run's best version again, if its last one is not as good; a sentence of it."""
    values = _values(run)
    best = stopping.standing(values, run.best_metric).best
    if best is None:
        return f"None of its versions has {run.best_metric}: the last one stays."
    if values[best] == values[-1]:
        return ""
    made = ModelVersion.objects.filter(made_by__run=run, made_by__phase=Phase.PUBLISHED)
    made = made.select_related("model").order_by("made_by__number")
    version, last = made[best], made[len(values) - 1]
    value = f"with {run.best_metric} {values[best]:.4g}"
    reason = f"The best version of {run}, {value}"
    try:
        again = registry.roll_back(version.model, version, reason=reason, expected_served=last)
    except (StaleBase, WrongStage) as error:  # somebody decided otherwise: that holds
        return f"Its best version, {version.number}, is not served again: {error.detail}"
    return f"Its best version, {version.number}, {value}, is served again as {again.number}."


def _fail_round(round_: Round, journal: Journal, code: str, reason: str, **measured: Any) -> bool:
    """End a round without a version; its run tries again, later and later, and then gives up."""
    told = f"The round failed: {reason}"
    _end_assignments(round_.assignments.all(), journal, code="round_failed", reason=told)
    _reject_candidate(round_, reason)
    changes = {"code": code, "reason": reason, "ended_at": clock.now(), "deadline": None}
    moved = move_round(
        round_,
        Phase.FAILED,
        journal,
        reason=reason,
        changes=changes | NO_LEASE,
        code=code,
        **measured,
    )
    run = round_.run
    failures = run.failures + 1
    if failures > run.retries:
        sentence = f"{failures} rounds failed in a row, the last one because: {reason}"
        if failures == 1:
            sentence = f"Its round failed, and none is tried again: {reason}"
        Run.objects.filter(pk=run.pk, state__in=(RunState.RUNNING, RunState.PAUSED)).update(
            state=RunState.FAILED, reason=sentence, failures=failures, ended_at=clock.now()
        )
        journal.record(
            "run.failed", run=run.pk, model=run.model_id, reason=sentence, failures=failures
        )
    else:
        pause = rules.back_off(run, failures)
        again = clock.now() + timedelta(seconds=pause)
        Run.objects.filter(pk=run.pk).update(failures=failures, next_round_at=again)
        journal.record(
            "run.retrying",
            run=run.pk,
            model=run.model_id,
            failures=failures,
            seconds=pause,
            next_round_at=again.isoformat(),
        )
    return moved


def _reject_candidate(round_: Round, reason: str) -> None:
    """Reject what the round has made, unless an operator decided about it already."""
    federated_evaluation.cancel_of(round_, reason)
    if round_.version is not None:
        with suppress(WrongStage):
            registry.reject(round_.version, reason=reason)


def _fail_held(round_id: int, lease: str, code: str, reason: str) -> bool:
    """Fail a round that this worker holds, for a reason that would come again each time."""
    with events.transaction() as journal:
        round_ = lock_round(round_id)
        return round_.lease == lease and _fail_round(round_, journal, code, reason)


def _give_up_if_hopeless(round_id: int) -> bool:
    """Fail a round that was tried too often and that no worker holds now."""
    hopeless = Q(attempts__gte=leases.MAX_ATTEMPTS) & leases.free()
    with events.transaction() as journal:
        round_ = lock_round(round_id)
        if not Round.objects.filter(hopeless, pk=round_id, phase__in=Round.ACTIVE).exists():
            return False
        why = round_.reason or "every worker that tried was lost"
        reason = f"{round_.phase} was tried {round_.attempts} times: {why}"
        return _fail_round(round_, journal, f"{round_.phase}_failed", reason)


def _time_out(round_id: int) -> bool:
    """Fail a round that no worker has finished in time. A lease is not renewed so late."""
    with events.transaction() as journal:
        round_ = lock_round(round_id)
        working = round_.phase in (Phase.AGGREGATING, Phase.EVALUATING) and _is_past(round_)
        if not working or not Round.objects.filter(leases.free(), pk=round_id).exists():
            return False
        kind = "that evaluates " if needs_keras(round_id) else ""
        why = round_.reason or f"no worker {kind}came to an end; does one run?"
        reason = f"{round_.phase} took more than {settings.TASK_SECONDS} s: {why}"
        return _fail_round(round_, journal, f"{round_.phase}_timed_out", reason)


def _end_assignments(
    assignments: QuerySet[Assignment], journal: Journal, *, code: str, reason: str
) -> None:
    ended: dict[str, Any] = {"code": code, "reason": reason}
    working = assignments.filter(state__in=Assignment.OPEN)
    move_assignments(working, Place.LATE, journal, **ended)
    uploaded = assignments.filter(state=Place.UPLOADED)
    move_assignments(uploaded, Place.REJECTED, journal, **ended)


def advance(run_id: int) -> bool:
    """Open the next round of a running run that has none and is not backing off.

    Returns:
        True if a round was opened.
    """
    with events.transaction() as journal:
        run = lock_run(run_id)
        idle = not run.rounds.filter(phase__in=Round.ACTIVE).exists()
        waiting = run.next_round_at is not None and run.next_round_at > clock.now()
        if run.state != RunState.RUNNING or not idle or waiting:
            return False
        _open_round(run, journal)
        return True


# --- What operators may do --------------------------------------------------------------------


def pause_run(run_id: int, *, actor: str = "", reason: str = "") -> Run:
    """Let the current round finish, and open no other. Raises IllegalMove.

    What came to an asynchronous run since its round closed waits for the run to be resumed.
    """
    with events.transaction() as journal:
        run = lock_run(run_id)
        return move_run(run, RunState.PAUSED, journal, "run.paused", actor, reason)


def resume_run(run_id: int, *, actor: str = "", reason: str = "") -> Run:
    """Go on after a pause. Raises IllegalMove."""
    with events.transaction() as journal:
        run = lock_run(run_id)
        if run.state != RunState.PAUSED:
            raise illegal("a paused run", run.state)
        move_run(run, RunState.RUNNING, journal, "run.resumed", actor, reason)
        if not run.rounds.filter(phase__in=Round.ACTIVE).exists():
            _open_round(run, journal)
        return run


def stop_run(run_id: int, *, actor: str = "", reason: str = "") -> Run:
    """End a run at once; its round is cancelled. Raises IllegalMove."""
    with events.transaction() as journal:
        run = lock_run(run_id)
        move_run(run, RunState.STOPPED, journal, "run.stopped", actor, reason)
        for active in run.rounds.filter(phase__in=Round.ACTIVE):
            _cancel(lock_round(active.pk), journal, actor, reason or "The run was stopped.")
        told = {"code": "run_stopped", "reason": "The run is stopped."}
        _end_assignments(_unfinished(run), journal, **told)  # they waited since it was paused
        return run


def cancel_round(round_id: int, *, actor: str = "", reason: str = "") -> Round:
    """Abandon a round; a running run opens its next one at once. Raises IllegalMove."""
    with events.transaction() as journal:
        round_ = lock_round(round_id)
        if round_.phase not in Round.ACTIVE:
            raise illegal("an active round", round_.phase)
        _cancel(round_, journal, actor, reason or "An operator cancelled the round.")
        if round_.run.state == RunState.RUNNING:
            _open_round(round_.run, journal)
        return round_


def _cancel(round_: Round, journal: Journal, actor: str, reason: str) -> None:
    told = f"The round was cancelled: {reason}"
    _end_assignments(round_.assignments.all(), journal, code="round_cancelled", reason=told)
    _reject_candidate(round_, reason)
    changes = {"code": "cancelled", "reason": reason, "ended_at": clock.now(), "deadline": None}
    move_round(
        round_, Phase.CANCELLED, journal, actor=actor, reason=reason, changes=changes | NO_LEASE
    )


# --- What keeps everything going --------------------------------------------------------------


def step(round_id: int) -> bool:
    """Do what the round's phase asks for now.

    Returns:
        True if there is more to do here at once. Evaluation with Keras is left to a worker that
        has it: see `needs_keras`.
    """
    round_ = Round.objects.select_related("run").get(pk=round_id)
    if round_.phase == Phase.SELECTING:
        return _finish_selecting(round_)
    if round_.phase == Phase.TRAINING:
        return _finish_training(round_)
    if federated_evaluation.awaited(round_):
        return False
    if _is_past(round_):
        return _time_out(round_id)
    if round_.phase == Phase.AGGREGATING:
        return aggregate(round_id)
    if round_.phase == Phase.EVALUATING and not needs_keras(round_id):
        return evaluate(round_id)
    return False


def due() -> tuple[list[int], list[int]]:
    """What the beat has to look after.

    Returns:
        Ids of active rounds that no worker holds, and of running runs without an active round.
    """
    rounds = Round.objects.filter(leases.free(), phase__in=Round.ACTIVE)
    idle = Run.objects.filter(
        Q(next_round_at=None) | Q(next_round_at__lte=clock.now()), state=RunState.RUNNING
    ).exclude(rounds__phase__in=Round.ACTIVE)
    return list(rounds.values_list("pk", flat=True)), list(idle.values_list("pk", flat=True))
