"""The legal moves of rounds, runs and assignments, and the only functions that make them.

A move is a conditional UPDATE and a line of the journal, in the caller's transaction. Locks are
taken in one order: run, round, assignments; of two rounds of a run the earlier one first. No lock
is one on a row's key, for rows that name it (an assignment its round, a run its model) are checked
only when they are committed, after the journal's lock is taken: they must not have to wait then.
"""

from datetime import datetime
from typing import Any

from django.db.models import QuerySet

from journal.events import Journal
from rounds import clock
from rounds.errors import IllegalMove
from rounds.models import Assignment, Round, Run

Phase, RunState, Place = Round.Phase, Run.State, Assignment.State

ROUND_MOVES: dict[str, tuple[str, ...]] = {
    Phase.SELECTING: (Phase.TRAINING, Phase.AGGREGATING, Phase.FAILED, Phase.CANCELLED),
    Phase.TRAINING: (Phase.AGGREGATING, Phase.FAILED, Phase.CANCELLED),
    Phase.AGGREGATING: (Phase.EVALUATING, Phase.FAILED, Phase.CANCELLED),
    Phase.EVALUATING: (Phase.PUBLISHED, Phase.FAILED, Phase.CANCELLED),
    Phase.PUBLISHED: (),
    Phase.FAILED: (),
    Phase.CANCELLED: (),
}
RUN_MOVES: dict[str, tuple[str, ...]] = {
    RunState.DRAFT: (RunState.RUNNING, RunState.STOPPED),
    RunState.RUNNING: (RunState.PAUSED, RunState.COMPLETED, RunState.STOPPED, RunState.FAILED),
    RunState.PAUSED: (RunState.RUNNING, RunState.COMPLETED, RunState.STOPPED, RunState.FAILED),
    RunState.COMPLETED: (),
    RunState.STOPPED: (),
    RunState.FAILED: (),
}
_ENDED = (Place.FAILED, Place.WITHDRAWN, Place.REJECTED, Place.LATE, Place.LOST)
ASSIGNMENT_MOVES: dict[str, tuple[str, ...]] = {
    Place.INVITED: (Place.TRAINING, Place.UPLOADED, *_ENDED),
    Place.TRAINING: (Place.UPLOADED, *_ENDED),
    Place.UPLOADED: (Place.ACCEPTED, Place.QUARANTINED, Place.REJECTED),
    **dict.fromkeys((Place.ACCEPTED, Place.QUARANTINED, *_ENDED), ()),
}


# The column that says when a round came into a phase, or an assignment into a state.
ROUND_TIMES: dict[str, str] = {
    Phase.TRAINING: "training_at",
    Phase.AGGREGATING: "aggregating_at",
    Phase.EVALUATING: "evaluating_at",
    **dict.fromkeys((Phase.PUBLISHED, Phase.FAILED, Phase.CANCELLED), "ended_at"),
}
# What a round looks like when no worker holds it.
NO_LEASE = {"lease": "", "lease_expires_at": None, "attempts": 0}


def lock_run(run_id: int) -> Run:
    return Run.objects.select_for_update(no_key=True).get(pk=run_id)


def lock_round(round_id: int) -> Round:
    """The round, locked after its run: the one order in which locks are taken."""
    run = Run.objects.select_for_update(no_key=True, of=("self",)).get(rounds=round_id)
    round_ = Round.objects.select_for_update(no_key=True).get(pk=round_id)
    round_.run = run
    return round_


def lock_place(assignment_id: int) -> Round:
    """The round that an assignment is in, locked: until then it may be handed on to the next."""
    while True:
        found = Round.objects.select_for_update(no_key=True, of=("self",))
        round_ = found.get(assignments=assignment_id)
        if Assignment.objects.filter(pk=assignment_id, round=round_.pk).exists():
            return round_


def move_round(
    round_: Round,
    to: str,
    journal: Journal,
    *,
    actor: str = "",
    reason: str = "",
    changes: dict[str, Any],
    **data: Any,
) -> bool:
    """One legal move of a round: conditional UPDATE, then its line. False: someone was faster.

    The line has the row's own time and its new deadline: who reads the journal alone knows them.
    """
    if to not in ROUND_MOVES[round_.phase]:
        raise illegal(f"a round that may become {to}", round_.phase)
    moved = Round.objects.filter(pk=round_.pk, phase=round_.phase).update(phase=to, **changes)
    if moved:
        round_.phase = to
        if changes.get("deadline"):
            data["deadline"] = changes["deadline"].isoformat()
        journal.record(
            f"round.{to}",
            actor=actor,
            reason=reason,
            at=changes[ROUND_TIMES[to]],
            run=round_.run_id,
            round=round_.pk,
            model=round_.run.model_id,
            number=round_.number,
            **data,
        )
    return bool(moved)


def move_run(
    run: Run,
    to: str,
    journal: Journal,
    kind: str,
    actor: str,
    reason: str,
    *,
    only_draft: bool = False,
) -> Run:
    legal = to in RUN_MOVES[run.state] and (run.state == RunState.DRAFT or not only_draft)
    now = clock.now()
    times = {"started_at": now} if only_draft else {}
    if to == RunState.STOPPED:
        times = {"ended_at": now}
    moved = legal and Run.objects.filter(pk=run.pk, state=run.state).update(
        state=to, reason=reason, **times
    )
    if not moved:
        raise illegal(f"a run that may become {to}", run.state)
    run.refresh_from_db()
    journal.record(kind, actor=actor, reason=reason, run=run.pk, model=run.model_id)
    return run


def move_assignments(
    assignments: QuerySet[Assignment],
    to: str,
    journal: Journal,
    *,
    actor: str = "",
    data: dict[str, Any] | None = None,
    **changes: Any,
) -> int:
    """Move all that the query finds and that may move so; how many did."""
    legal = [state for state, ways in ASSIGNMENT_MOVES.items() if to in ways]
    # Locked, so that the journal tells of those only that are moved in fact.
    found = list(
        assignments.filter(state__in=legal)
        .select_for_update(no_key=True, of=("self",))
        .select_related("participant", "round")
        .order_by("participant_id")
    )
    if to not in (Place.TRAINING, Place.UPLOADED):
        changes["ended_at"] = clock.now()
    at = changes.get("ended_at") or changes["training_at"]
    moved = Assignment.objects.filter(pk__in=[one.pk for one in found], state__in=legal).update(
        state=to, **changes
    )
    data = (data or {}) | ({"code": changes["code"]} if "code" in changes else {})
    for one in found:
        # It may have been reported since a reader of the journal last heard of it.
        last: dict[str, Any] = {}
        if one.state in Assignment.OPEN:
            last = {"progress": progress(one)}
        elif one.staleness:
            last = {"staleness": one.staleness}
        journal.record(
            f"assignment.{to}",
            actor=actor,
            reason=changes.get("reason", ""),
            at=at,
            **subjects(one, one.round),
            name=one.participant.name,
            **data,
            **last,
        )
    return moved


def carry_assignments(assignments: QuerySet[Assignment], to: Round, journal: Journal) -> int:
    """Hand all that the query finds on to the next round, by one UPDATE; how many there were.

    Each line of it tells the whole, for the next round's page has never heard of them.
    """
    found = list(
        assignments.select_for_update(no_key=True, of=("self",))
        .select_related("participant", "update", "base", "invited_in")
        .order_by("participant_id")  # as all who lock several
    )
    moved = Assignment.objects.filter(pk__in=[one.pk for one in found]).update(round=to)
    for one in sorted(found, key=lambda one: one.pk):
        journal.record(
            "assignment.carried",
            **subjects(one, to),
            name=one.participant.name,
            before=one.round_id,
            place=document(one),
        )
    return moved


def document(one: Assignment) -> dict[str, Any]:
    """An assignment as the state of its round shows it, ready for JSON.

    Args:
        one: With its participant, update, base, and the round that it was invited in.
    """
    who, update = one.participant, getattr(one, "update", None)
    times = ("invited_at", "training_at", "uploaded_at", "ended_at")
    return {
        "id": one.pk,
        "participant": {"id": who.pk, "uuid": str(who.uuid), "name": who.name},
        "state": one.state,
        "code": one.code,
        "reason": one.reason,
        "refusals": one.refusals,
        "base": one.base.number,
        "invited_in": one.invited_in.number,
        "staleness": one.staleness,
        **progress(one),
        "update": update
        and {
            "samples": update.samples,
            "bytes": update.bytes,
            "norm": update.norm,
            "metrics": update.metrics,
        },
        **{name: _iso(getattr(one, name)) for name in times},
    }


def _iso(moment: datetime | None) -> str | None:
    return moment.isoformat() if moment else None


def progress(assignment: Assignment) -> dict[str, Any]:
    """How far an assignment is, whole: who hears of the latest needs to have heard of no other."""
    return {
        "activity": assignment.activity,
        "fraction": assignment.fraction,
        "epoch": assignment.epoch,
        "epochs": assignment.epochs,
        "metrics": assignment.metrics,
        "activities": assignment.activities,
        "last_seen_at": _iso(assignment.last_seen_at),
    }


def subjects(assignment: Assignment, round_: Round) -> dict[str, Any]:
    return {
        "run": round_.run_id,
        "round": round_.pk,
        "assignment": assignment.pk,
        "participant": assignment.participant_id,
    }


def illegal(expected: str, received: str) -> IllegalMove:
    return IllegalMove(f"Expected {expected}. Received: {received}")
