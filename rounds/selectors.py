"""Every read of the room: named here, so that doors and pages ask the same questions."""

import re
import statistics
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

from django.db.models import (
    Case,
    Count,
    F,
    FloatField,
    Max,
    OuterRef,
    Prefetch,
    Q,
    QuerySet,
    Subquery,
    Sum,
    Value,
    When,
)
from django.db.models.functions import Cast, Coalesce, NullIf

from models_app import selectors as registry
from models_app.models import ModelVersion
from rounds import attendance, capabilities, clock, eligibility, history, lifecycle, preview
from rounds.errors import ParticipantNotFound
from rounds.models import (
    Assignment,
    FederatedEvaluation,
    JoinCode,
    Participant,
    Round,
    Run,
    Update,
)

Place = Assignment.State
_HEAVY = ("architecture", "weights_manifest")  # of a model: megabytes, and no list shows them
ONLINE_WITHIN = timedelta(seconds=60)  # since it was last seen
MOST_NAMED = 10_000  # ids in one query: SQLite takes no more than 32,766


def _light(rows: QuerySet[Any], path: str) -> QuerySet[Any]:
    """Rows with the model at `path`, but for its heavy columns."""
    return rows.select_related(path).defer(*(f"{path}__{name}" for name in _HEAVY))


def may_download(participant: Participant, sha256: str) -> bool:
    """Whether a blob belongs to a version of a model that the participant may see.

    Only versions' weights are ever given out: not updates, not evaluation sets. A strategy's state
    is, for as long as it has an assignment that has to be done with it.
    """
    slug = participant.model.slug if participant.model else None
    return registry.is_version_blob(sha256, slug) or _is_control(participant, sha256)


def _is_control(participant: Participant, sha256: str) -> bool:
    mine = Assignment.objects.filter(participant=participant, state__in=Assignment.OPEN)
    return any(
        capabilities.CONTROL_VARIATES in eligibility.requirements(one.round.run)
        and lifecycle.state_before(one.round) == sha256
        for one in mine.select_related("round__run", "round__base")
    )


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
        .defer("base__confusion", "version__confusion")
        .annotate(
            invited_count=Count("assignments"),
            unused_count=Count("assignments", filter=_unused("assignments__")),
            **{f"{state}_count": count for state, count in states.items() if state != "invited"},
            samples=Sum(
                "assignments__update__samples", filter=Q(assignments__state=Place.ACCEPTED)
            ),
            last_update_at=Max("assignments__uploaded_at"),
        )
        .order_by("-id")
    )


def _unused(of: str) -> Q:
    """Updates that were not needed in the end: nothing was wrong with them."""
    codes = (*attendance.VOID_CODES, attendance.ROUND_FAILED)
    return Q(**{f"{of}state": Place.REJECTED, f"{of}code__in": codes})


def assignments() -> QuerySet[Assignment]:
    """Assignments with what people want to see of them, newest first."""
    related = ("participant", "round__run", "update", "base", "invited_in")
    return Assignment.objects.select_related(*related).order_by("-id")


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


def open_round_ids(participant: Participant) -> list[int]:
    """Ids of the rounds that wait for updates, or for who comes, and may wait for this one."""
    waiting = Round.objects.filter(phase__in=Round.OPEN)
    if participant.model_id is not None:
        waiting = waiting.filter(run__model=participant.model_id)
    return list(waiting.order_by("pk").values_list("pk", flat=True))


def join_codes() -> QuerySet[JoinCode]:
    """Join codes, newest first."""
    return _light(JoinCode.objects.select_related("created_by"), "model").order_by("-id")


def evaluations() -> QuerySet[FederatedEvaluation]:
    """Federated evaluations, newest first, with how many participants have reported."""
    reported = Count("reports", filter=Q(reports__reported_at__isnull=False))
    rows = FederatedEvaluation.objects.select_related("version", "round")
    return (
        _light(rows, "version__model")
        .defer("version__confusion", "version__reason")
        .annotate(report_count=reported)
        .order_by("-id")
    )


def evaluations_of(version: ModelVersion) -> QuerySet[FederatedEvaluation]:
    """Those of a version, and of others with the same weights: such as it was rolled back to."""
    same = {"version__weights": version.weights, "version__fixed": version.fixed}
    return evaluations().filter(version__model=version.model_id, **same)


def run_report(run: Run) -> list[dict[str, Any]]:
    """What became of each round of a run, in order.

    Returns:
        For each round its number, state, version, accepted and rejected updates (without those
        that were not needed in the end), samples, accuracy and loss on the held-out set, seconds,
        and overhead_seconds: the time from the last update to the new version being offered.
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
        "rejected": one.rejected_count + one.quarantined_count - one.unused_count,
        "samples": one.samples or 0,
        "accuracy": metrics.get("accuracy"),
        "loss": metrics.get("loss"),
        "seconds": seconds,
        "overhead_seconds": overhead,
    }


# --- Participants, as people look at them -----------------------------------------------------

# A round that failed or was cancelled says nothing of those who had a place in it, but for who
# was still training when too few had come in; nor does an asynchronous run that has ended. The same
# of one assignment: `attendance.outcome`.
_VOID = Q(state__in=(Place.LATE, Place.REJECTED)) & (
    Q(code__in=attendance.VOID_CODES)
    | Q(code=attendance.ROUND_FAILED) & ~Q(state=Place.LATE, round__code=attendance.TOO_FEW)
)
_ENDED = Q(state__in=attendance.ENDED) & ~_VOID
_SAMPLES = Sum("update__samples", filter=Q(state=Place.ACCEPTED))


def _each(number: Any) -> Subquery:
    """A number of each participant's assignments, for a list to be ordered by."""
    mine = Assignment.objects.filter(participant=OuterRef("pk")).order_by()
    return Subquery(mine.values("participant").annotate(number=number).values("number"))


PARTICIPANT_ORDERS: dict[str, tuple[Any, ...]] = {
    "name": (),
    "seen": (F("last_seen_at").desc(nulls_last=True),),
    "new": (F("enrolled_at").desc(),),
    "rounds": (Coalesce(_each(Count("pk")), 0).desc(),),
    "unreliable": (
        _each(
            Cast(Count("pk", filter=_ENDED & Q(state=Place.ACCEPTED)), FloatField())
            / NullIf(Count("pk", filter=_ENDED), Value(0))
        ).asc(nulls_last=True),
    ),
    "samples": (Coalesce(_each(_SAMPLES), 0).desc(),),
}


def online_since() -> datetime:
    """Who was seen at this moment or later is online."""
    return clock.now() - ONLINE_WITHIN


def _is_online() -> Q:
    return Q(state=Participant.State.ACTIVE, last_seen_at__gte=online_since())


def online() -> QuerySet[Participant]:
    """Active participants that are online."""
    return Participant.objects.filter(_is_online())


def participant_counts() -> dict[str, int]:
    """How many there are in all, in each state, and online."""
    states = {str(one): Count("pk", filter=Q(state=one)) for one in Participant.State}
    return Participant.objects.aggregate(
        all=Count("pk"), online=Count("pk", filter=_is_online()), **states
    )


def find_participants(
    *,
    search: str = "",
    state: str = "",
    online: bool | None = None,
    model: str | None = None,
    join_code: int | None = None,
    order: str = "name",
) -> QuerySet[Participant]:
    """Participants to be listed, with `is_online`; what is left out does not narrow.

    Args:
        search: A part of the name, or how the id begins.
        state: Of the participant.
        online: Whether it is.
        model: Slug of the model that it is bound to; "" for those bound to none.
        join_code: The id of the code that it came with.
        order: One of `PARTICIPANT_ORDERS`.
    """
    is_online = Case(When(_is_online(), then=True), default=False)
    found = _light(Participant.objects.annotate(is_online=is_online), "model")
    if search:
        found = found.filter(Q(name__icontains=search) | _id_begins(search))
    if state:
        found = found.filter(state=state)
    if online is not None:
        found = found.filter(is_online=online)
    if model is not None:
        found = found.filter(model__slug=model) if model else found.filter(model=None)
    if join_code is not None:
        found = found.filter(join_code=join_code)
    return found.order_by(*PARTICIPANT_ORDERS[order], "name", "id")


def _id_begins(text: str) -> Q:
    """Participants whose id begins so; none for what does not begin an id."""
    start = text.replace("-", "").lower()
    if not re.fullmatch("[0-9a-f]{4,32}", start):
        return Q(pk__in=())
    return Q(uuid__range=(UUID(start.ljust(32, "0")), UUID(start.ljust(32, "f"))))


def participant(uuid: UUID) -> Participant:
    """One participant, with `is_online`, its model and its join code.

    Raises:
        ParticipantNotFound: There is none.
    """
    rows = find_participants().select_related("model", "join_code__created_by")
    found = rows.filter(uuid=uuid).first()
    if found is None:
        raise ParticipantNotFound(f"Expected the id of a participant. Received: {uuid}")
    return found


def attendances(participants: Sequence[Participant]) -> dict[int, attendance.Attendance]:
    """What the rounds of each of these came to, by two queries whatever their number."""
    outcome = Case(When(_VOID, then=Value(attendance.VOID)), default=F("state"))
    rows = (
        Assignment.objects.filter(participant__in=participants)
        .order_by()
        .values("participant", "round__run__model", outcome=outcome)
        .annotate(count=Count("pk"), samples=_SAMPLES)
    )
    told: dict[int, list[Any]] = {one.pk: [] for one in participants}
    for row in rows:
        told[row["participant"]].append(row)
    totals = samples_by_model({row["round__run__model"] for row in rows})
    return {pk: _attendance(mine, totals) for pk, mine in told.items()}


def _attendance(rows: list[Any], totals: dict[int, int]) -> attendance.Attendance:
    counts: Counter[str] = Counter()
    for row in rows:
        counts[row["outcome"]] += row["count"]
    models = {row["round__run__model"] for row in rows}
    return attendance.Attendance(
        counts=counts,
        samples=sum(row["samples"] or 0 for row in rows),
        all_samples=sum(totals.get(model, 0) for model in models),
    )


def samples_by_model(models: Iterable[int]) -> dict[int, int]:
    """How many samples lie behind the accepted updates to each of these models."""
    accepted = Assignment.objects.filter(state=Place.ACCEPTED, round__run__model__in=models)
    rows = accepted.order_by().values_list("round__run__model").annotate(Sum("update__samples"))
    return {model: samples or 0 for model, samples in rows}


def rounds_of(participant: Participant) -> QuerySet[Assignment]:
    """A participant's assignments, newest first, with their rounds and updates.

    Each has `is_void`: it was not needed in the end, which is nobody's fault.
    """
    rows = Assignment.objects.annotate(is_void=Case(When(_VOID, then=True), default=False))
    mine = rows.filter(participant=participant).select_related("round__run", "update")
    heavy = ("round__diagnostics", "update__manifest", "update__signature")
    return mine.defer(*heavy).order_by("-id")


def median_norms(rounds: Iterable[int]) -> dict[int, float]:
    """The median norm of the updates of each of these rounds, of those that have any."""
    norms: dict[int, list[float]] = {}
    rows = Update.objects.filter(assignment__round__in=rounds)
    for round_, norm in rows.values_list("assignment__round", "norm").iterator():
        norms.setdefault(round_, []).append(norm)
    return {round_: statistics.median(found) for round_, found in norms.items()}


class Codes(NamedTuple):
    """The join codes that people are shown, and how many more there are."""

    shown: Sequence[JoinCode]
    more: int


def latest_join_codes(limit: int = 50) -> Codes:
    """Join codes with `state` and the `newest` three who enrolled; the open ones come first.

    Args:
        limit: How many at most.
    """
    newest = Participant.objects.only("uuid", "name", "join_code").order_by("-id")[:3]
    state = Case(
        When(withdrawn_at__isnull=False, then=Value("withdrawn")),
        When(uses__gte=F("max_uses"), then=Value("used up")),
        When(expires_at__lte=clock.now(), then=Value("expired")),
        default=Value("open"),
    )
    rows = (
        join_codes()
        .annotate(state=state, is_closed=Case(When(state="open", then=False), default=True))
        .prefetch_related(Prefetch("participants", queryset=newest, to_attr="newest"))
        .order_by("is_closed", "-id")
    )
    shown = list(rows[: limit + 1])
    more = JoinCode.objects.count() - limit if len(shown) > limit else 0
    return Codes(shown[:limit], more)


# --- What became of runs, in numbers ----------------------------------------------------------


def run_history(run: Run) -> dict[str, Any]:
    """A run's rounds in order, with all that can be drawn of them; see `history.of_run`."""
    return run_histories([run])[0]


def run_histories(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """The histories of several runs, in their order, by two queries whatever their number.

    What participants sent is read of those rounds only that go on or were never counted here.
    """
    rounds = (
        Round.objects.filter(run__in=runs)
        .select_related("base", "version")
        .defer("diagnostics", "base__reason", "version__reason")
        .order_by("number")
    )
    by_run: dict[int, list[Round]] = {run.pk: [] for run in runs}
    for round_ in rounds:
        by_run[round_.run_id].append(round_)
    tallies = _tallies(list(rounds))
    return [history.of_run(run, by_run[run.pk], tallies) for run in runs]


def _tallies(rounds: Sequence[Round]) -> dict[int, history.Tally]:
    """What the parts of each round come to. What is kept is asked for once: it may go any time."""
    kept = {one.pk: history.kept(one) for one in rounds}
    parts: dict[int, list[history.Part]] = {pk: [] for pk, told in kept.items() if told is None}
    uncounted = list(parts)
    for start in range(0, len(uncounted), MOST_NAMED):
        for part in _parts(uncounted[start : start + MOST_NAMED]):
            parts[part.round].append(part)
    return {one.pk: kept[one.pk] or history.tally(one, parts[one.pk]) for one in rounds}


def _parts(rounds: Sequence[int]) -> Iterator[history.Part]:
    rows = Assignment.objects.filter(round__in=rounds).values_list(
        "round",
        "state",
        "training_at",
        "uploaded_at",
        "participant__name",
        "participant__uuid",
        "update__samples",
        "update__bytes",
        "update__metrics",
        "staleness",
        "code",
    )
    for round_, state, training_at, uploaded_at, name, uuid, *others in rows.iterator():
        began = training_at is not None or uploaded_at is not None
        yield history.Part(round_, state, began, name, str(uuid), *others)


def run_accuracies(runs: Sequence[Run]) -> dict[int, list[float]]:
    """The held-out accuracy of each published round of each run, in order: for small pictures."""
    published = Round.objects.filter(run__in=runs, phase=Round.Phase.PUBLISHED).order_by("number")
    told: dict[int, list[float]] = {run.pk: [] for run in runs}
    for run, metrics in published.values_list("run", "version__metrics"):
        if (accuracy := history.numbers(metrics).get("accuracy")) is not None:
            told[run].append(accuracy)
    return told


def runs_with_rounds() -> QuerySet[Run]:
    """Runs, newest first, each with its active rounds in `active`: there is one at most."""
    active = rounds().filter(phase__in=Round.ACTIVE)
    return runs().prefetch_related(Prefetch("rounds", queryset=active, to_attr="active"))


def facts_for_preview(run: Run) -> preview.Facts:
    """What a preview of a run has to know, by three queries; four if its strategy asks for more.

    Args:
        run: Whose rules hold together; it need not be saved.
    """
    model = run.model
    served = model.served
    busy = model.runs.filter(state__in=(Run.State.RUNNING, Run.State.PAUSED)).first()
    return preview.Facts(
        version=served.number if served else None,
        enrolled=eligibility.eligible(run).count(),
        unable=_unable(run),
        weights_bytes=served.weights_bytes if served else 0,
        fixed_bytes=served.fixed_bytes if served else 0,
        evaluation_samples=model.evaluation_samples,
        metrics=history.numbers(served.metrics) if served else {},
        busy=f"{busy.name} (run {busy.pk})" if busy else "",
    )


def _unable(run: Run) -> list[str]:
    """Names of who may train a run's model and cannot do what its strategy asks, in order."""
    if not eligibility.requirements(run):
        return []
    able = eligibility.eligible(run).values("pk")
    others = eligibility.enrolled(run.model_id).exclude(pk__in=able)
    return list(others.order_by("name").values_list("name", flat=True))


def active_round_ids(run_id: int) -> list[int]:
    """Ids of a run's active rounds, of which there is one at most: whom to ring for."""
    active = Round.objects.filter(run=run_id, phase__in=Round.ACTIVE)
    return list(active.values_list("pk", flat=True))
