"""Celery's doors: an id in, one verb. Losing any of these messages costs seconds, never a round."""

import logging

from celery import shared_task
from django.conf import settings
from kombu.exceptions import OperationalError

from models_app import blobs
from rounds import enrolment, federated_evaluation, lifecycle, selectors, tidying
from rounds.models import FederatedEvaluation, Participant

logger = logging.getLogger(__name__)


@shared_task
def step(round_id: int) -> None:
    """Carry a round as far as it goes now."""
    while lifecycle.step(round_id):
        pass
    if lifecycle.needs_keras(round_id):
        evaluate.apply_async((round_id,), expires=10)  # the beat rings again: no queue grows
    elif lifecycle.will_need_keras(round_id):
        measure_base.apply_async((round_id,), expires=10)


@shared_task
def evaluate(round_id: int) -> None:
    """Measure and publish; on the queue of the workers that have Keras."""
    lifecycle.evaluate(round_id)


@shared_task
def measure_base(round_id: int) -> None:
    """Measure the version that a round starts from, and so warm up, while participants train."""
    lifecycle.measure_base(round_id)


@shared_task
def advance(run_id: int) -> None:
    """Open a run's next round, when its time has come."""
    if lifecycle.advance(run_id):
        ring_run(run_id)


@shared_task
def step_evaluation(evaluation_id: int) -> None:
    """End an evaluation that an operator asked for, if it is to end."""
    federated_evaluation.step(evaluation_id)


@shared_task
def sweep() -> None:
    """The beat: look after whatever is due, however its message was lost."""
    rounds, runs = lifecycle.due()
    for run_id in runs:
        advance.apply_async((run_id,), expires=10)
    for round_id in rounds:
        step.apply_async((round_id,), expires=10)
    for evaluation_id in federated_evaluation.due():
        step_evaluation.apply_async((evaluation_id,), expires=10)


@shared_task
def tidy() -> None:
    """Delete what nobody needs any more."""
    enrolment.tidy_tokens()
    blobs.sweep_spool()
    tidying.forget_updates(settings.KEEP_UPDATES_DAYS)
    tidying.delete_orphans()


def ring(round_id: int) -> None:
    """Ask for a step, after commit. If the broker is away, the beat will do it."""
    try:
        step.delay_on_commit(round_id)
    except OperationalError as error:
        logger.warning("Round %d waits for the beat: %s", round_id, error)


def ring_evaluation(evaluation: FederatedEvaluation) -> None:
    """Ask for the end of an evaluation, which a report may have been the last of, after commit."""
    if evaluation.round_id is not None:
        ring(evaluation.round_id)
        return
    try:
        step_evaluation.delay_on_commit(evaluation.pk)
    except OperationalError as error:
        logger.warning("Evaluation %d waits for the beat: %s", evaluation.pk, error)


def ring_run(run_id: int) -> None:
    """Ask for a step of a run's active round, if it has one."""
    for round_id in selectors.active_round_ids(run_id):
        ring(round_id)


def ring_rounds_of(participant: Participant) -> None:
    """Ask for a step of each round that may have waited for a participant which is gone now."""
    for round_id in selectors.open_round_ids(participant):
        ring(round_id)
