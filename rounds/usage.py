"""What runs and rounds make of models: how much each is trained, and which round made a version."""

from itertools import groupby
from typing import NamedTuple

from django.db.models import Count, QuerySet

from rounds import history, stopping
from rounds.models import Assignment, Round, Run


class Usage(NamedTuple):
    """How much a model is trained.

    Args:
        runs: How many there are.
        active: The one that is running or paused, if one is.
        participants: How many ever had a place in a round.
    """

    runs: int = 0
    active: Run | None = None
    participants: int = 0


def of_models() -> dict[int, Usage]:
    """By the model's id, in three queries however many there are; models without runs are not
    there.
    """
    runs = dict(Run.objects.order_by().values_list("model").annotate(Count("pk")))
    people = Assignment.objects.order_by().values_list("round__run__model")
    parts = dict(people.annotate(Count("participant", distinct=True)))
    states = (Run.State.RUNNING, Run.State.PAUSED)
    active = {run.model_id: run for run in Run.objects.filter(state__in=states)}
    return {
        model: Usage(count, active.get(model), parts.get(model, 0)) for model, count in runs.items()
    }


def of_model(model_id: int) -> Usage:
    """How much one model is trained."""
    return of_models().get(model_id, Usage())


def makers(model_id: int) -> QuerySet[Round]:
    """The rounds that made a version of a model, whatever became of it."""
    rows = Round.objects.filter(version__model=model_id).select_related("run")
    return rows.only("number", "phase", "version_id", "run__name", "run_id")


def bests(model_id: int) -> set[int]:
    """Ids of versions of a model that are the best of their runs, where a run compares its own."""
    rows = Round.objects.filter(run__model=model_id, phase=Round.Phase.PUBLISHED)
    told = rows.exclude(run__best_metric="").order_by("run", "number")
    values = told.values_list("run", "run__best_metric", "version", "version__metrics")
    found = set()
    for (_, metric), made in groupby(values, key=lambda row: row[:2]):
        versions = [
            (version, history.numbers(metrics).get(metric)) for *_, version, metrics in made
        ]
        standing = stopping.standing([value for _, value in versions], metric)
        if standing.best is not None:
            found.add(versions[standing.best][0])
    return found
