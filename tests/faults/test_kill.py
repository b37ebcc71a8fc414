"""Any process may be killed at any moment, and the run ends with the same bytes."""

import hashlib
import os
import random
from functools import partial

import pytest
import redis
from redis.backoff import ConstantBackoff
from redis.retry import Retry

from fedserver import valkey
from models_app import blobs
from models_app.models import ModelVersion
from rounds.models import Assignment, Round, Run, Update
from tests.faults.conftest import FORKED, NAMES, Blow, Federation

pytestmark = pytest.mark.timeout(240)

ROUNDS = 6
# More of them by hand: FAULT_SEEDS="1 2 3".
SEEDS = [int(seed) for seed in os.environ.get("FAULT_SEEDS", "1").split()]
FLUSHES = (("assignment.training", 2), ("assignment.uploaded", 6), ("round.aggregating", 3))
RESTARTS = (("round.aggregating", 1), ("assignment.uploaded", 14))


def versions_of(run: Run) -> list[str]:
    """The SHA-256 of each version's weights, of the bytes as they are served."""
    found = []
    for version in ModelVersion.objects.filter(model=run.model_id).order_by("number"):
        content = blobs.path(version.weights).read_bytes()
        assert hashlib.sha256(content).hexdigest() == version.weights
        found.append(version.weights)
    return found


def check_that_nothing_was_lost_or_counted_twice(federation: Federation, run: Run) -> None:
    assert run.state == Run.State.COMPLETED, run.reason
    rounds = list(run.rounds.order_by("number"))
    assert [one.phase for one in rounds] == [Round.Phase.PUBLISHED] * ROUNDS
    assert [one.number for one in rounds] == list(range(1, ROUNDS + 1))
    numbers = ModelVersion.objects.filter(model=run.model_id).order_by("number")
    assert [one.number for one in numbers] == list(range(1, ROUNDS + 2))
    assignments = Assignment.objects.filter(round__run=run)
    assert assignments.count() == ROUNDS * len(NAMES)
    assert not assignments.exclude(state=Assignment.State.ACCEPTED).exists()
    assert Update.objects.filter(assignment__round__run=run).count() == ROUNDS * len(NAMES)
    acknowledged = set(federation.acknowledged())
    assert acknowledged <= set(Update.objects.values_list("assignment", flat=True))


def compare_with_an_undisturbed_run(federation: Federation, disturbed: Run) -> None:
    """The same seeds, participants and weights, and nobody is killed."""
    check_that_nothing_was_lost_or_counted_twice(federation, disturbed)
    federation.until_ready()
    calm = federation.train("calm", ROUNDS)
    check_that_nothing_was_lost_or_counted_twice(federation, calm)
    assert versions_of(disturbed) == versions_of(calm)
    assert len(set(versions_of(calm))) == ROUNDS + 1


# What a run goes through, and how many lines of it there are in a round.
MOMENTS = {
    "assignment.invited": len(NAMES),
    "assignment.training": len(NAMES),
    "assignment.uploaded": len(NAMES),
    "round.aggregating": 1,
    "round.evaluating": 1,
    "round.published": 1,
}
VICTIMS = ("web", "web", "steps", "steps", FORKED, "beat", "alice", "charlie")


def storm(federation: Federation, draw: random.Random) -> list[Blow]:
    """Every victim is killed at a moment of its own, somewhere in all rounds but the last."""
    every = [
        (kind, number + 1)
        for kind, lines in MOMENTS.items()
        for number in range((ROUNDS - 1) * lines)
    ]
    return [
        Blow(*moment, partial(federation.kill, victim), delay=draw.uniform(0, 0.03))
        for victim, moment in zip(VICTIMS, draw.sample(every, len(VICTIMS)), strict=True)
    ]


@pytest.mark.parametrize("seed", SEEDS)
def test_killed_processes_change_no_bit_of_any_version(federation: Federation, seed: int) -> None:
    stormy = federation.train("stormy", ROUNDS, storm(federation, random.Random(seed)))
    compare_with_an_undisturbed_run(federation, stormy)


def test_a_valkey_that_forgets_everything_or_is_killed_changes_nothing(
    federation: Federation,
) -> None:
    # A flush may come while a killed one is not back yet: then it waits.
    patience = Retry(ConstantBackoff(0.1), 100)
    broker = redis.Redis.from_url(valkey.url(federation.home), retry=patience)
    flushes = [Blow(kind, number, broker.flushall) for kind, number in FLUSHES]
    kills = [Blow(kind, number, partial(federation.kill, "valkey")) for kind, number in RESTARTS]
    shaken = federation.train("shaken", ROUNDS, [*flushes, *kills])
    compare_with_an_undisturbed_run(federation, shaken)
    # The others find it again by themselves.
    assert all(warning.startswith("valkey ") for warning in federation.warnings)
