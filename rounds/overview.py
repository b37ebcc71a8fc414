"""The reads of the first page: what is going on, and the rows that need somebody.

Each is one query, however much there is; what may be many is cut where a page would end.
"""

from datetime import datetime, timedelta
from typing import Any, NamedTuple

from django.db.models import Count, Exists, F, OuterRef, Q, QuerySet, Subquery, Window
from django.db.models.fields.json import KT
from django.db.models.functions import Coalesce, RowNumber

from models_app.models import ModelVersion
from rounds import selectors
from rounds.models import Assignment, CheckIn, JoinCode, Participant, Round, Run

LATELY = timedelta(days=1)  # what went wrong longer ago is history
FAILED_LATELY = timedelta(days=7)  # a run that failed stays in mind longer
UNHEARD = timedelta(seconds=60)  # a round that waited so long for a worker waits in vain
MOST = 20  # rows of one kind on the page
SOME = 3  # names in a sentence
TREND = 30  # versions in a small picture


# --- What is going on -------------------------------------------------------------------------


def active_runs() -> QuerySet[Run]:
    """Runs that are under way, the oldest first: there is one for a model at most."""
    states = (Run.State.RUNNING, Run.State.PAUSED)
    return selectors.runs().filter(state__in=states).order_by("id")


def drafts() -> QuerySet[Run]:
    """Runs that wait to be started, the newest first."""
    return selectors.runs().filter(state=Run.State.DRAFT)[:MOST]


def active_rounds() -> dict[int, Any]:
    """The active round of each run, by the run's id, with its counts as `selectors.rounds` has."""
    there = CheckIn.objects.filter(
        round=OuterRef("pk"), participant__state=Participant.State.ACTIVE
    )
    counted = there.order_by().values("round").annotate(count=Count("pk")).values("count")
    found = selectors.rounds().filter(phase__in=Round.ACTIVE)
    found = found.annotate(there_count=Coalesce(Subquery(counted), 0))
    return {round_.run_id: round_ for round_ in found}


class Measured(NamedTuple):
    """A version that was served, and how good it was."""

    number: int
    accuracy: float | None
    loss: float | None


def trends() -> dict[int, list[Measured]]:
    """By model, its last versions that were served, in their order."""
    served = ModelVersion.objects.filter(
        stage__in=(ModelVersion.Stage.PUBLISHED, ModelVersion.Stage.ARCHIVED)
    )
    newest = Window(RowNumber(), partition_by="model", order_by=F("number").desc())
    rows = (
        served.annotate(place=newest)
        .filter(place__lte=TREND)
        .order_by("model", "number")
        .values_list("model", "number", KT("metrics__accuracy"), KT("metrics__loss"))
    )
    told: dict[int, list[Measured]] = {}
    for model, number, *metrics in rows:
        told.setdefault(model, []).append(Measured(number, *map(_number, metrics)))
    return told


def _number(value: Any) -> float | None:
    return None if value is None else float(value)


# --- What needs somebody ----------------------------------------------------------------------


def failed_runs(now: datetime) -> QuerySet[Run]:
    """Runs that gave up lately and that no later run of their model has replaced."""
    later = Run.objects.filter(model=OuterRef("model"), pk__gt=OuterRef("pk"))
    replaced = Exists(later.exclude(state=Run.State.DRAFT))
    found = selectors.runs().filter(~replaced, state=Run.State.FAILED)
    return found.filter(ended_at__gte=now - FAILED_LATELY)[:MOST]


def failed_rounds(now: datetime) -> QuerySet[Round]:
    """Rounds that failed lately, the last one first; of runs that ended well, or go on."""
    states = (Run.State.RUNNING, Run.State.PAUSED, Run.State.COMPLETED)
    found = Round.objects.filter(phase=Round.Phase.FAILED, ended_at__gte=now - LATELY)
    found = found.filter(run__state__in=states)
    return found.select_related("run").defer("diagnostics").order_by("-ended_at")[:MOST]


def failing() -> QuerySet[Assignment]:
    """Of each round under way some that failed or were rejected, and not by a decision."""
    states = (Assignment.State.FAILED, Assignment.State.REJECTED)
    found = Assignment.objects.filter(round__phase__in=Round.ACTIVE, state__in=states)
    return _some_of_each_round(found.exclude(code__startswith="participant_"))


def quarantined(now: datetime) -> QuerySet[Assignment]:
    """Of each round some whose updates were set aside lately."""
    found = Assignment.objects.filter(state=Assignment.State.QUARANTINED)
    return _some_of_each_round(found.filter(ended_at__gte=now - LATELY))


def _some_of_each_round(found: QuerySet[Assignment]) -> QuerySet[Assignment]:
    """The last few of each round, with how many there are of them in all."""
    last_first = (F("ended_at").desc(), F("pk").desc())
    found = found.annotate(
        total=Window(Count("*"), partition_by="round"),
        place=Window(RowNumber(), partition_by="round", order_by=last_first),
    ).filter(place__lte=SOME)
    found = found.select_related("participant", "round__run").defer("detail", "round__diagnostics")
    return found.order_by("-round", "place")[:MOST]


def unseen(now: datetime) -> QuerySet[Participant]:
    """Active participants that were not seen lately, with how many there are of them in all."""
    seen = Coalesce("last_seen_at", "enrolled_at")
    found = Participant.objects.filter(state=Participant.State.ACTIVE)
    found = found.annotate(seen=seen).filter(seen__lt=now - LATELY)
    return found.annotate(total=Window(Count("*"))).order_by("name")[:SOME]


def expiring_join_codes(now: datetime) -> QuerySet[JoinCode]:
    """Join codes with places left that expire soon, or have just expired."""
    found = JoinCode.objects.filter(withdrawn_at=None, uses__lt=F("max_uses"))
    near = (now - LATELY, now + LATELY)
    return found.filter(expires_at__range=near).order_by("expires_at")[:MOST]


def waiting_rounds(now: datetime) -> QuerySet[Round]:
    """Rounds that a worker should have taken long ago."""
    free = Q(lease="") | Q(lease_expires_at__lt=now)
    long_ago = now - UNHEARD
    waiting = Q(phase=Round.Phase.AGGREGATING, aggregating_at__lt=long_ago)
    waiting |= Q(phase=Round.Phase.EVALUATING, evaluating_at__lt=long_ago)
    return Round.objects.filter(free & waiting).select_related("run").defer("diagnostics")


def undecided_versions() -> QuerySet[ModelVersion]:
    """Candidates that no round will decide about: people have to."""
    found = ModelVersion.objects.filter(stage=ModelVersion.Stage.CANDIDATE)
    found = found.exclude(made_by__phase__in=Round.ACTIVE).select_related("model")
    light = ("number", "created_at", "model__slug")
    return found.order_by("-created_at").only(*light)[:MOST]


class FirstSteps(NamedTuple):
    """How far a new server has come."""

    join_code: bool
    participant: bool
    run: bool
    published: bool


def first_steps() -> FirstSteps | None:
    """Which of the first steps are done; None once a round was published."""
    if Round.objects.filter(phase=Round.Phase.PUBLISHED).exists():
        return None
    participant = Participant.objects.exists()
    return FirstSteps(
        join_code=participant or JoinCode.objects.exists(),
        participant=participant,
        run=Run.objects.exists(),
        published=False,
    )
