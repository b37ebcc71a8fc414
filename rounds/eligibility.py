"""Who may train a run: whom it counts on, and why somebody is not among them."""

from django.db.models import Q, QuerySet

from rounds import capabilities
from rounds.aggregation import Requirements
from rounds.models import Participant, Run


def requirements(run: Run) -> Requirements:
    """What the run's strategy asks of its participants beyond FedAvg."""
    return capabilities.required(run.strategy, run.strategy_options)


def enrolled(model_id: int) -> QuerySet[Participant]:
    """Active participants that may train a model."""
    return Participant.objects.filter(
        Q(model=None) | Q(model=model_id), state=Participant.State.ACTIVE
    )


def eligible(run: Run) -> QuerySet[Participant]:
    """Of those the ones whose software can do what the run's strategy asks for."""
    found = enrolled(run.model_id)
    for name in requirements(run):
        found = found.filter(capabilities__contains=capabilities.column([name]))
    return found


def lacking(run: Run, participant: Participant) -> list[str]:
    """What the run's strategy asks for and a participant's software cannot do."""
    return capabilities.lacking(requirements(run), participant.sdk)
