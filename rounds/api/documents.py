"""What participants are told, as JSON."""

from importlib.metadata import version as version_of
from typing import Any

from models_app.models import ModelVersion
from rounds import clock
from rounds.lifecycle import Wait
from rounds.models import Assignment, EvaluationReport, Round

SERVER_VERSION = version_of("fedserver")


def assignment(one: Assignment) -> dict[str, Any]:
    """An assignment with all that its participant needs to do it, and what became of it.

    Its round publishes with at least `quorum` accepted updates and waits for `cohort` of them,
    where that is known; `published` is the number of the version that came of it.
    """
    round_, run, model = one.round, one.round.run, one.round.run.model
    left = (round_.deadline - clock.now()).total_seconds() if round_.deadline else None
    made = round_.version if round_.phase == Round.Phase.PUBLISHED else None
    return {
        "id": one.pk,
        "state": one.state,
        "code": one.code,
        "reason": one.reason,
        "run": run.pk,
        "round": round_.pk,
        "phase": round_.phase,
        "number": round_.number,
        "rounds": run.rounds_planned,
        "quorum": round_.quorum,
        "cohort": round_.target,
        "published": made.number if made else None,
        "model": model.slug,
        "architecture_digest": model.architecture_digest,
        "version": version(round_.base),
        "hyperparameters": run.hyperparameters,
        "seed": one.seed,
        "encoding": "float32",
        "deadline": round_.deadline.isoformat() if round_.deadline else None,
        "seconds_left": max(0.0, left) if left is not None else None,
    }


def version(one: ModelVersion) -> dict[str, Any]:
    """A version's number, and the blobs that it is made of."""
    fixed = {"sha256": one.fixed, "bytes": one.fixed_bytes} if one.fixed else None
    weights = {"sha256": one.weights, "bytes": one.weights_bytes}
    return {"number": one.number, "weights": weights, "fixed": fixed}


def evaluation(place: EvaluationReport) -> dict[str, Any]:
    """An evaluation with all that a participant needs to take part in it.

    Nothing is shown of fewer than `minimum` reports.
    """
    asked = place.evaluation
    model = asked.version.model
    left = (asked.deadline - clock.now()).total_seconds()
    return {
        "id": asked.pk,
        "model": model.slug,
        "architecture_digest": model.architecture_digest,
        "version": version(asked.version),
        "goal": asked.goal,
        "minimum": asked.minimum,
        "deadline": asked.deadline.isoformat(),
        "seconds_left": max(0.0, left),
    }


def answer(told: Assignment | EvaluationReport | Wait) -> dict[str, Any]:
    """What a check-in is answered: what to do, or when to come back."""
    if isinstance(told, Assignment):
        return {"action": "train", "assignment": assignment(told)}
    if isinstance(told, EvaluationReport):
        return {"action": "evaluate", "evaluation": evaluation(told)}
    return {
        "action": "wait",
        "reason": told.reason,
        "detail": told.detail,
        "retry_after": told.retry_after,
        "run": told.run,
    }
