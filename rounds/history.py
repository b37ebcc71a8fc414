"""What became of a run's rounds, as numbers: functions of rows that `selectors` has read."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import numpy as np

from rounds import attendance, rules, stopping
from rounds.models import Assignment, Round, Run

Place = Assignment.State
_PHASES = ("selecting", "training", "aggregating", "evaluating")
_QUARTILES = ("min", "q1", "median", "q3", "max")


class Part(NamedTuple):
    """One participant's part of a round: its assignment, and its update if it sent one."""

    round: int
    state: str
    began: bool
    name: str
    uuid: str
    samples: int | None
    bytes: int | None
    metrics: Mapping[str, Any] | None
    staleness: int = 0
    code: str = ""


class Tally(NamedTuple):
    """What the parts of a round come to."""

    participants: dict[str, dict[str, Any]]
    counts: dict[str, int]
    void: dict[str, int]
    samples: int
    received: int
    began: int
    staleness: dict[str, float]


# Of rounds that have ended and whose parts have, too: these do not change any more, and are many.
_kept: dict[tuple[int, datetime], Tally] = {}
MOST_KEPT = 4096


def kept(round_: Round) -> Tally | None:
    """What the parts of a round came to, if all has ended and this process has counted them."""
    return _kept.get((round_.pk, round_.ended_at)) if round_.ended_at else None


def tally(round_: Round, parts: Sequence[Part]) -> Tally:
    """Counts the parts of a round, once if it has ended.

    Of a round of a paused asynchronous run updates may wait to be handed on: that is not the end.
    """
    accepted = [part for part in parts if part.state == Place.ACCEPTED]
    told = Tally(
        participants=spreads(accepted),
        counts=counts(parts),
        void=void(parts, round_.code),
        samples=sum(part.samples or 0 for part in accepted),
        received=sum(part.bytes or 0 for part in parts),
        began=sum(part.began for part in parts),
        staleness=_staleness([part.staleness for part in accepted]),
    )
    if round_.ended_at and not any(part.state in Assignment.UNJUDGED for part in parts):
        if len(_kept) >= MOST_KEPT:
            _kept.clear()
        _kept[round_.pk, round_.ended_at] = told
    return told


def of_run(run: Run, rounds: Sequence[Round], tallies: Mapping[int, Tally]) -> dict[str, Any]:
    """A run's history, ready for JSON.

    Args:
        run: With its model.
        rounds: All of them in order, with base and version.
        tallies: What everybody's parts of each round come to, by its id.

    Returns:
        The run, the version that it started from, its best one and how many published rounds were
        no better since, and a line for each round.
    """
    return {
        "id": run.pk,
        "name": run.name,
        "model": run.model.slug,
        "strategy": run.strategy,
        "state": run.state,
        "rounds_planned": run.rounds_planned,
        "published": sum(one.phase == Round.Phase.PUBLISHED for one in rounds),
        "start": _held_out(rounds[0].base) if rounds else None,
        **_best(run, rounds),
        "rounds": [of_round(one, tallies[one.pk]) for one in rounds],
    }


def _best(run: Run, rounds: Sequence[Round]) -> dict[str, Any]:
    """The best version so far by the metric that the run's are compared by, and how long ago."""
    if not run.best_metric:
        return {"best": None, "waited": None}
    published = [
        (one.number, one.version)
        for one in rounds
        if one.phase == Round.Phase.PUBLISHED and one.version
    ]
    values = [numbers(version.metrics).get(run.best_metric) for _, version in published]
    standing = stopping.standing(values, run.best_metric, run.patience_delta)
    if standing.best is None:
        return {"best": None, "waited": standing.waited}
    round_, version = published[standing.best]
    best = {
        "metric": run.best_metric,
        "value": values[standing.best],
        "round": round_,
        "version": version.number,
    }
    return {"best": best, "waited": standing.waited}


def _held_out(version: Any) -> dict[str, Any]:
    metrics = numbers(version.metrics) if version else {}
    return {
        "version": version.number if version else None,
        "accuracy": metrics.get("accuracy"),
        "loss": metrics.get("loss"),
        "metrics": metrics,
    }


def of_round(round_: Round, told: Tally) -> dict[str, Any]:
    """One line of a run's history.

    Args:
        round_: With its base and its version, if it has made one.
        told: What everybody's parts of it come to.
    """
    return {
        "id": round_.pk,
        "number": round_.number,
        "phase": round_.phase,
        "code": round_.code,
        "reason": round_.reason,
        "base": round_.base.number,
        **_held_out(round_.version),
        "participants": told.participants,
        "staleness": told.staleness,
        "seconds": seconds(round_),
        "counts": told.counts,
        "void": told.void,
        "samples": told.samples,
        "bytes_received": told.received,
        "bytes_sent_estimate": round_.base.weights_bytes * told.began,
        "opened_at": round_.opened_at.isoformat(),
        "ended_at": round_.ended_at.isoformat() if round_.ended_at else None,
    }


def counts(parts: Sequence[Part]) -> dict[str, int]:
    """How many assignments there are in each state; `invited` is all of them, as all once were."""
    found = Counter(part.state for part in parts)
    return {str(state): found[state] for state in Place} | {"invited": len(parts)}


def void(parts: Sequence[Part], round_code: str) -> dict[str, int]:
    """Of the assignments in a state those that were not needed in the end, which is nobody's fault.

    Args:
        parts: Of one round.
        round_code: Why it failed.
    """
    found = (
        part.state
        for part in parts
        if attendance.outcome(part.state, part.code, round_code) == attendance.VOID
    )
    return dict(Counter(found))


def _staleness(found: Sequence[int]) -> dict[str, float]:
    """How many versions the accepted updates were behind; 0 wherever all trained from the base."""
    return {"mean": sum(found) / max(len(found), 1), "max": max(found, default=0)}


def seconds(round_: Round) -> dict[str, float | None]:
    """How long each phase took; None where it was not reached, or is not over."""
    marks = [round_.opened_at, round_.training_at, round_.aggregating_at, round_.evaluating_at]
    told: dict[str, float | None] = {}
    for index, phase in enumerate(_PHASES):
        ends = [at for at in (*marks[index + 1 :], round_.ended_at) if at is not None]
        began = marks[index]
        told[phase] = (ends[0] - began).total_seconds() if began and ends else None
    ended = round_.ended_at
    told["total"] = (ended - round_.opened_at).total_seconds() if ended else None
    return told


def spreads(accepted: Sequence[Part]) -> dict[str, dict[str, Any]]:
    """How far the participants' own metrics lie apart, by metric.

    Args:
        accepted: Parts with an update. A metric that some did not send is told of the others.
    """
    by_name: dict[str, list[tuple[float, Part]]] = {}
    for part in accepted:
        for name, value in numbers(part.metrics).items():
            by_name.setdefault(name, []).append((value, part))
    return {name: _spread(name, told) for name, told in sorted(by_name.items())}


def _spread(name: str, told: Sequence[tuple[float, Part]]) -> dict[str, Any]:
    values = np.array([value for value, _ in told])
    samples = np.array([part.samples or 0 for _, part in told], dtype=np.float64)
    pick = max if rules.smaller_is_better(name) else min
    # Of equals the first by name, whatever order the rows came in.
    worst, who = pick(sorted(told, key=lambda one: one[1].name), key=lambda one: one[0])
    quartiles = np.quantile(values, (0, 0.25, 0.5, 0.75, 1))
    return {
        "count": len(told),
        "mean": float(np.average(values, weights=samples if samples.any() else None)),
        **dict(zip(_QUARTILES, map(float, quartiles), strict=True)),
        "worst": worst,
        "worst_participant": {"uuid": who.uuid, "name": who.name},
    }


def numbers(metrics: Mapping[str, Any] | None) -> dict[str, float]:
    """The finite numbers among metrics, in order: what a curve can be drawn of."""
    return {
        name: float(value)
        for name, value in (metrics or {}).items()
        if type(value) in (int, float) and math.isfinite(value)
    }
