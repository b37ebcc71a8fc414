"""Every read of the room: named here, so that doors and pages ask the same questions."""

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any

from django.db.models import Count, Max, Q, QuerySet, Sum

from models_app import selectors as registry
from rounds import clock, history
from rounds.models import Assignment, JoinCode, Participant, Round, Run

Place = Assignment.State
_HEAVY = ("architecture", "weights_manifest")  # of a model: megabytes, and no list shows them
ONLINE_WITHIN = timedelta(seconds=60)  # since it was last seen


def _light(rows: QuerySet[Any], path: str) -> QuerySet[Any]:
    """Rows with the model at `path`, but for its heavy columns."""
    return rows.select_related(path).defer(*(f"{path}__{name}" for name in _HEAVY))


def may_download(participant: Participant, sha256: str) -> bool:
    """Whether a blob belongs to a version of a model that the participant may see.

    Only versions' weights are ever given out: not updates, not evaluation sets.
    """
    slug = participant.model.slug if participant.model else None
    return registry.is_version_blob(sha256, slug)


def runs() -> QuerySet[Run]:
    """Runs, newest first, with how many of their rounds were published."""
    return (
        _light(Run.objects.select_related("created_by"), "model")
        .annotate(published=Count("rounds", filter=Q(rounds__phase=Round.Phase.PUBLISHED)))
        .order_by("-id")
    )


def rounds() -> QuerySet[Round]:
    """Rounds, newest first, with the counts of their assignments."""
    states = {state: Count("assignments", filter=Q(assignments__state=state)) for state in Place}
    return (
        _light(Round.objects.select_related("base", "version"), "run__model")
        .annotate(
            invited_count=Count("assignments"),
            **{f"{state}_count": count for state, count in states.items() if state != "invited"},
            samples=Sum(
                "assignments__update__samples", filter=Q(assignments__state=Place.ACCEPTED)
            ),
            last_update_at=Max("assignments__uploaded_at"),
        )
        .order_by("-id")
    )


def assignments() -> QuerySet[Assignment]:
    """Assignments with what people want to see of them, newest first."""
    return Assignment.objects.select_related("participant", "round__run", "update").order_by("-id")


def participants() -> QuerySet[Participant]:
    """Participants by name, with how often they took part."""
    return (
        _light(Participant.objects.select_related("join_code"), "model")
        .annotate(
            invited_count=Count("assignments"),
            accepted_count=Count("assignments", filter=Q(assignments__state=Place.ACCEPTED)),
        )
        .order_by("name", "id")
    )


def online_since() -> datetime:
    """Who was seen at this moment or later is online."""
    return clock.now() - ONLINE_WITHIN


def online() -> QuerySet[Participant]:
    """Active participants that are online."""
    active = Participant.objects.filter(state=Participant.State.ACTIVE)
    return active.filter(last_seen_at__gte=online_since())


def open_round_ids(participant: Participant) -> list[int]:
    """Ids of the rounds that wait for updates, or for who comes, and may wait for this one."""
    waiting = Round.objects.filter(phase__in=Round.OPEN)
    if participant.model_id is not None:
        waiting = waiting.filter(run__model=participant.model_id)
    return list(waiting.order_by("pk").values_list("pk", flat=True))


def join_codes() -> QuerySet[JoinCode]:
    """Join codes, newest first."""
    return _light(JoinCode.objects.select_related("created_by"), "model").order_by("-id")


def run_report(run: Run) -> list[dict[str, Any]]:
    """What became of each round of a run, in order.

    Returns:
        For each round its number, state, version, accepted and rejected updates, samples,
        accuracy and loss on the held-out set, seconds, and overhead_seconds: the time from the
        last update to the new version being offered.
    """
    found = rounds().filter(run=run).order_by("number")
    return [round_line(one) for one in found]


def round_line(one: Any) -> dict[str, Any]:
    """One round of `rounds()` in the words of `run_report`."""
    metrics = one.version.metrics if one.version else {}
    published = one.phase == Round.Phase.PUBLISHED
    overhead = seconds = None
    if one.ended_at:
        seconds = (one.ended_at - one.opened_at).total_seconds()
    if published and one.last_update_at:
        overhead = (one.ended_at - one.last_update_at).total_seconds()
    return {
        "number": one.number,
        "state": one.phase,
        "version": one.version.number if one.version else None,
        "accepted": one.accepted_count,
        "rejected": one.rejected_count + one.quarantined_count,
        "samples": one.samples or 0,
        "accuracy": metrics.get("accuracy"),
        "loss": metrics.get("loss"),
        "seconds": seconds,
        "overhead_seconds": overhead,
    }


# --- What became of runs, in numbers ----------------------------------------------------------


def run_history(run: Run) -> dict[str, Any]:
    """A run's rounds in order, with all that can be drawn of them; see `history.of_run`."""
    return run_histories([run])[0]


def run_histories(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """The histories of several runs, in their order, by two queries whatever their number."""
    rounds = (
        Round.objects.filter(run__in=runs)
        .select_related("base", "version")
        .defer("diagnostics", "base__reason", "version__reason")
        .order_by("number")
    )
    by_run: dict[int, list[Round]] = {run.pk: [] for run in runs}
    for round_ in rounds:
        by_run[round_.run_id].append(round_)
    parts: dict[int, list[history.Part]] = {run.pk: [] for run in runs}
    for run_id, part in _parts(runs):
        parts[run_id].append(part)
    return [history.of_run(run, by_run[run.pk], parts[run.pk]) for run in runs]


def _parts(runs: Sequence[Run]) -> Iterator[tuple[int, history.Part]]:
    rows = Assignment.objects.filter(round__run__in=runs).values_list(
        "round__run",
        "round",
        "state",
        "training_at",
        "uploaded_at",
        "participant__name",
        "participant__uuid",
        "update__samples",
        "update__bytes",
        "update__metrics",
    )
    for run, round_, state, training_at, uploaded_at, name, uuid, *update in rows.iterator():
        began = training_at is not None or uploaded_at is not None
        yield run, history.Part(round_, state, began, name, str(uuid), *update)


def run_accuracies(runs: Sequence[Run]) -> dict[int, list[float]]:
    """The held-out accuracy of each published round of each run, in order: for small pictures."""
    published = Round.objects.filter(run__in=runs, phase=Round.Phase.PUBLISHED).order_by("number")
    told: dict[int, list[float]] = {run.pk: [] for run in runs}
    for run, metrics in published.values_list("run", "version__metrics"):
        if (accuracy := history.numbers(metrics).get("accuracy")) is not None:
            told[run].append(accuracy)
    return told


def active_round_ids(run_id: int) -> list[int]:
    """Ids of a run's active rounds, of which there is one at most: whom to ring for."""
    active = Round.objects.filter(run=run_id, phase__in=Round.ACTIVE)
    return list(active.values_list("pk", flat=True))
