"""What runs and rounds make of models: how much each is trained, and which round made a version."""

from typing import NamedTuple

from django.db.models import Count, QuerySet

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
