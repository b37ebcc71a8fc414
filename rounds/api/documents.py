"""What participants are told, as JSON."""

from importlib.metadata import version as version_of
from typing import Any

from models_app import blobs
from models_app.models import ModelVersion
from rounds import capabilities, clock, eligibility, lifecycle
from rounds.lifecycle import Wait
from rounds.models import Assignment, EvaluationReport, Round

SERVER_VERSION = version_of("fedserver")


def assignment(one: Assignment) -> dict[str, Any]:
    """An assignment with all that its participant needs to do it, and what became of it.

    Its round publishes with at least `quorum` accepted updates and waits for `cohort` of them,
    where that is known; `published` is the number of the version that came of it. An asynchronous
    run hands it on from round to round: `round` and `number` are those that it was invited in and
    never change, `phase`, `quorum`, `cohort` and `published` those of the round it is in now.
    """
    round_, run, model = one.round, one.round.run, one.round.run.model
    deadline, invited_in = lifecycle.deadline(one), one.invited_in
    left = (deadline - clock.now()).total_seconds() if deadline else None
    required = eligibility.requirements(run)
    # What still trains, or waits in a pause, is for a later version than its round has made.
    judged = one.state not in Assignment.UNJUDGED
    made = round_.version if judged and round_.phase == Round.Phase.PUBLISHED else None
    return {
        "id": one.pk,
        "state": one.state,
        "code": one.code,
        "reason": one.reason,
        "run": run.pk,
        "round": invited_in.pk,
        "phase": round_.phase,
        "number": invited_in.number,
        "rounds": run.rounds_planned,
        "quorum": round_.quorum,
        "cohort": round_.target,
        "published": made.number if made else None,
        "model": model.slug,
        "architecture_digest": model.architecture_digest,
        "version": version(one.base),
        "staleness": one.staleness,
        "requires": {name: dict(numbers) for name, numbers in required.items()},
        "control": _control(one) if capabilities.CONTROL_VARIATES in required else None,
        "hyperparameters": run.hyperparameters,
        "seed": one.seed,
        "encoding": "float32",
        "deadline": deadline.isoformat() if deadline else None,
        "seconds_left": max(0.0, left) if left is not None else None,
    }


def _control(one: Assignment) -> dict[str, Any] | None:
    """The strategy's state, for who has to correct by it."""
    stored = lifecycle.state_before(one.round)
    return {"sha256": stored, "bytes": blobs.path(stored).stat().st_size} if stored else None


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
