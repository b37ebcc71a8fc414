"""The state of one round as a document: what the cockpit starts from, and folds events into.

`client_sdk/drawings/round_state.js` does in the browser what the verbs do here: it takes this
document and the events after its cursor, and has the document that would be read now. So each
value here either never changes, or is told by an event (`journal.events.KINDS`).
"""

import math
import statistics
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from django.db.models import QuerySet

from journal import events
from journal.models import Event
from rounds import clock, lifecycle, moves, selectors
from rounds.models import Assignment, Round, Run

FEED = 200  # events in the document, the latest ones
Document = dict[str, Any]


def round_state(round_id: int) -> Document:
    """A round, its assignments and its latest events, as they are now.

    The cursor is taken before anything else is read, so that no event is missed; an event that
    the rows tell of already changes nothing when it comes again.

    Args:
        round_id: Of the round.

    Returns:
        What JSON takes, times in ISO 8601. It has `cursor`, the greatest event id that it surely
        contains, and `now`, the server's time.

    Raises:
        Round.DoesNotExist: No such round.
    """
    cursor = events.head()
    round_ = _rounds().get(pk=round_id)
    neighbours = _neighbours(round_)
    following = neighbours.get(round_.number + 1)
    assignments = [moves.document(row) for row in _rows(round_)]
    return {
        "cursor": cursor,
        "now": clock.now().isoformat(),
        "model": {"id": round_.run.model_id, "slug": round_.run.model.slug},
        "run": _run(round_.run, neighbours, round_.number),
        "round": _round(round_),
        "selecting": _selecting(round_),
        "worker": _worker(round_),
        "assignments": assignments,
        "counts": dict.fromkeys(Assignment.State.values, 0) | _counts(assignments),
        "norms": _norms(assignments, round_),
        "evaluation": _evaluation(round_),
        "events": [events.as_json(line) for line in _feed(round_, following, cursor)],
    }


def _rounds() -> QuerySet[Round]:
    heavy = ("architecture", "weights_manifest")
    found = Round.objects.select_related("run__model", "base", "version")
    return found.defer(*(f"run__model__{name}" for name in heavy))


def _neighbours(round_: Round) -> dict[int, Document]:
    """The rounds before and after it in its run, by number."""
    numbers = (round_.number - 1, round_.number + 1)
    near = Round.objects.filter(run=round_.run_id, number__in=numbers).order_by()
    return {number: {"id": pk, "number": number} for pk, number in near.values_list("id", "number")}


def _run(run: Run, neighbours: dict[int, Document], number: int) -> Document:
    return {
        "id": run.pk,
        "name": run.name,
        "state": run.state,
        "reason": run.reason,
        "kind": run.kind,
        "strategy": run.strategy,
        "strategy_options": run.strategy_options,
        "concurrency": run.concurrency,
        "selection": run.selection,
        "rounds_planned": run.rounds_planned,
        "quarantine_factor": run.quarantine_factor,
        "fewest": run.fewest,
        "failures": run.failures,
        "retries": run.retries,
        "evaluators": run.evaluators,
        "next_round_at": _iso(run.next_round_at),
        "previous": neighbours.get(number - 1),
        "next": neighbours.get(number + 1),
    }


def _round(round_: Round) -> Document:
    version = round_.version
    return {
        "id": round_.pk,
        "number": round_.number,
        "phase": round_.phase,
        "code": round_.code,
        "reason": round_.reason,
        # What is compared: the base counts as measured once the version is.
        "base": {
            "id": round_.base_id,
            "number": round_.base.number,
            "metrics": round_.base.metrics if version and version.metrics else {},
        },
        "version": version
        and {"id": version.pk, "number": version.number, "metrics": version.metrics},
        "quorum": round_.quorum,
        "target": round_.target,
        "deadline": _iso(round_.deadline),
        "diagnostics": round_.diagnostics,
        "opened_at": _iso(round_.opened_at),
        "training_at": _iso(round_.training_at),
        "aggregating_at": _iso(round_.aggregating_at),
        "evaluating_at": _iso(round_.evaluating_at),
        "ended_at": _iso(round_.ended_at),
    }


def _selecting(round_: Round) -> Document | None:
    if round_.phase != Round.Phase.SELECTING:
        return None
    checked_in, wanted = lifecycle.gathering(round_)
    return {"checked_in": checked_in, "wanted": wanted}


def _worker(round_: Round) -> Document:
    """Who aggregates or evaluates it: nobody yet, or somebody until the lease runs out."""
    return {"attempts": round_.attempts, "expires_at": _iso(round_.lease_expires_at)}


def _rows(round_: Round) -> Iterable[Assignment]:
    rows = round_.assignments.select_related("participant", "update", "base", "invited_in")
    return rows.order_by("id").only(
        *("state", "code", "reason", "refusals", "activity", "activities", "fraction"),
        *("epoch", "epochs", "metrics", "round_id", "staleness"),
        *("base__number", "invited_in__number"),
        *("invited_at", "training_at", "uploaded_at", "ended_at", "last_seen_at"),
        *("participant__uuid", "participant__name"),
        *("update__samples", "update__bytes", "update__norm", "update__metrics"),
    )


def _counts(assignments: Sequence[Document]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for one in assignments:
        counts[one["state"]] = counts.get(one["state"], 0) + 1
    return counts


def _norms(assignments: Sequence[Document], round_: Round) -> Document:
    """The median of the updates' norms, and what an update must not exceed; None: no limit.

    What has come since the round closed is judged by the next one.
    """
    judged = round_.phase not in Round.OPEN
    norms = [
        one["update"]["norm"]
        for one in assignments
        if one["update"] and not (judged and one["state"] == Assignment.State.UPLOADED)
    ]
    limit = lifecycle.norm_limit(norms, round_.run.quarantine_factor)
    return {
        "median": statistics.median(norms) if norms else None,
        "limit": limit if math.isfinite(limit) else None,
    }


def _evaluation(round_: Round) -> Document | None:
    """How far participants are who evaluate its candidate, and what they found when enough did."""
    found = selectors.evaluations().filter(round=round_).first()
    return evaluation_state(found) if found else None


def evaluation_state(one: Any) -> Document:
    """An evaluation of `selectors.evaluations`, as pages draw it."""
    return {
        "id": one.pk,
        "state": one.state,
        "reason": one.reason,
        "goal": one.goal,
        "minimum": one.minimum,
        "reports": one.report_count,
        "deadline": _iso(one.deadline),
        "summary": one.summary or None,
        "opened_at": _iso(one.opened_at),
        "ended_at": _iso(one.ended_at),
    }


def _feed(round_: Round, following: Document | None, cursor: int) -> list[Event]:
    """The latest lines about it, oldest first: its own, and its run's while it was the last one."""
    until = Event.objects.filter(id__lte=cursor).order_by("-id")
    own = until.filter(round=round_.pk)
    around = [round_.pk, following["id"] if following else None]
    opened = dict(
        until.filter(kind="round.opened", round__in=around).values_list("round", "id").order_by()
    )
    first = opened.get(round_.pk, cursor + 1)
    last = opened.get(following["id"], cursor) if following else cursor
    of_run = until.filter(run=round_.run_id, round=None, id__gte=first, id__lte=last)
    lines = [*own[:FEED], *of_run.filter(kind__startswith="run.")[:FEED]]
    return sorted(lines, key=lambda line: line.pk)[-FEED:]


def _iso(moment: datetime | None) -> str | None:
    return moment.isoformat() if moment else None
