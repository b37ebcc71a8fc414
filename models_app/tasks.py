"""Celery's doors to the registry, on the queue of the workers that have Keras."""

from celery import shared_task
from kombu.exceptions import OperationalError

from models_app import registry, trying
from models_app.errors import TryUnanswered

MEASURING_SECONDS = 600  # after which a worker that comes does it no more


@shared_task
def measure(version_id: int) -> None:
    """Measure a version again."""
    registry.measure(version_id)


@shared_task
def answer(trial: str, model_id: int) -> None:
    """Answer somebody's try with the version that the model serves."""
    trying.answer(trial, model_id)


def ring(trial: str, model_id: int) -> None:
    """Ask a worker to answer a try, as long as somebody waits for it.

    Raises:
        TryUnanswered: The broker is away.
    """
    try:
        answer.apply_async((trial, model_id), expires=trying.PATIENCE)
    except OperationalError as error:
        detail = f"Expected a broker. Received: {type(error).__name__}"
        raise TryUnanswered(detail, taken=False) from error


def ring_measure(version_id: int) -> None:
    """Ask a worker to measure a version, after commit; whoever wants it asks again if it is lost.

    Raises:
        TryUnanswered: The broker is away.
    """
    try:
        measure.apply_async((version_id,), expires=MEASURING_SECONDS)
    except OperationalError as error:
        raise TryUnanswered(f"Expected a broker. Received: {type(error).__name__}") from error
