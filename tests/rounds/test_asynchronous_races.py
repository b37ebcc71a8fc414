"""Everyone at once in asynchronous runs: places, hand-over, and updates that count exactly once."""

import multiprocessing
import os
import random
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import numpy as np
import pytest
from django.db import connections

from client_sdk import wire
from journal.models import Event
from models_app import blobs
from models_app.models import Model
from rounds import enrolment, lifecycle
from rounds.errors import FedserverError, RoundClosed
from rounds.models import Assignment, Round, Run
from tests.races import at_once
from tests.rounds import doubles
from tests.rounds.conftest import Enrolled
from tests.rounds.test_asynchronous import buffered, comes, now, sends
from tests.rounds.updates import carry, send, update_bytes

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.timeout(180)]

Enrol = Callable[..., Enrolled]
GONE = ("failed", "withdrawn", "rejected", "late", "lost")


@pytest.fixture(autouse=True)
def _doubles(monkeypatch: pytest.MonkeyPatch) -> None:
    doubles.add(monkeypatch)


def step_all(run_id: int) -> None:
    """Carry the run's active round as far as it goes, and the next one, and so on."""
    while active := Round.objects.filter(run=run_id, phase__in=Round.ACTIVE).first():
        if not lifecycle.step(active.pk):
            return


def never_more_than(concurrency: int, run: Run) -> None:
    """By the journal at no time more trained than the run lets train."""
    working = most = 0
    for line in Event.objects.filter(run=run.pk, assignment__isnull=False).order_by("id"):
        what = line.kind.partition(".")[2]
        was_open = "progress" in line.data or what == "uploaded"
        working += what == "invited"
        working -= what == "uploaded" or (what in GONE and was_open)
        most = max(most, working)
    assert most <= concurrency
    assert working == Assignment.objects.filter(state__in=Assignment.OPEN).count()


def counted_exactly_once(run: Run, values: dict[int, float]) -> None:
    """Each version is its base and what was accepted in its round, and nothing else.

    Args:
        run: Whose rounds are looked at.
        values: By assignment, what was acknowledged.
    """
    specs = run.model.federated
    accepted: set[int] = set()
    for round_ in run.rounds.filter(phase="published").select_related("base", "version"):
        parts = round_.assignments.filter(state="accepted").order_by("participant_id")
        deltas = [values[one.pk] * np.float32(0.5**one.staleness) for one in parts]
        assert round_.version is not None
        base, made = (
            float(wire.open_flat(blobs.path(one.weights), specs)[0])
            for one in (round_.base, round_.version)
        )
        assert made - base == pytest.approx(sum(deltas) / len(deltas), abs=1e-5)
        accepted |= {one.pk for one in parts}
    waiting = Assignment.objects.filter(state="uploaded", round__phase__in=Round.ACTIVE)
    assert accepted | {one.pk for one in waiting} == values.keys()


@pytest.mark.parametrize("attempt", range(3))
def test_ten_check_ins_for_three_places_are_three_assignments(
    tiny_model: Model, enrolled: Enrol, attempt: int
) -> None:
    everyone = [enrolled(f"participant {number}") for number in range(10)]
    round_ = buffered(tiny_model, concurrency=3, buffer_size=8)
    results = at_once(*[partial(lifecycle.check_in, one.participant) for one in everyone])
    assert not [one for one in results if isinstance(one, Exception)]
    assert sum(isinstance(one, Assignment) for one in results) == 3
    assert round_.assignments.count() == 3


def test_the_last_place_is_given_again_once_it_is_free(tiny_model: Model, enrolled: Enrol) -> None:
    everyone = [enrolled(f"participant {number}") for number in range(8)]
    round_ = buffered(tiny_model, concurrency=1, buffer_size=8)
    first = comes(everyone[0])
    results = at_once(
        partial(lifecycle.withdraw, everyone[0].participant, first.pk),
        *[partial(lifecycle.check_in, one.participant) for one in everyone[1:]],
    )
    assert not [one for one in results if isinstance(one, Exception)]
    assert round_.assignments.filter(state="invited").count() <= 1
    never_more_than(1, round_.run)


@pytest.mark.parametrize("attempt", range(8))
def test_an_upload_while_its_round_is_closed_folded_and_handed_on_counts_once(
    tiny_model: Model, enrolled: Enrol, attempt: int
) -> None:
    charlie, dora, emil = map(enrolled, ("charlie", "dora", "emil"))
    first = buffered(tiny_model, rounds_planned=9)
    slow = comes(emil)
    values = {}
    for one in (charlie, dora):
        mine = comes(one)
        sends(one, mine, 1.0)
        values[mine.pk] = 1.0

    def upload() -> Any:
        time.sleep(attempt * 0.01)  # anywhere between the first step and the next round
        return sends(emil, slow, 4.0)

    told, _ = at_once(upload, partial(carry, first))
    assert isinstance(told, dict), told
    assert now(slow).state in ("uploaded", "accepted")
    values[slow.pk] = 4.0
    step_all(first.run_id)
    for one in (charlie, dora):
        mine = comes(one)
        sends(one, mine, 2.0)
        values[mine.pk] = 2.0
    step_all(first.run_id)
    assert now(slow).state == "accepted"
    counted_exactly_once(first.run, values)


@pytest.mark.parametrize("attempt", range(6))
def test_hand_over_upload_withdrawal_and_suspension_leave_one_consistent_end(
    tiny_model: Model, enrolled: Enrol, attempt: int
) -> None:
    charlie, dora, emil = map(enrolled, ("charlie", "dora", "emil"))
    first = buffered(tiny_model, rounds_planned=9, buffer_size=1)
    slow = comes(emil)
    mine = comes(charlie)
    sends(charlie, mine)
    gone = (
        partial(lifecycle.withdraw, emil.participant, slow.pk)
        if attempt % 2
        else partial(enrolment.suspend, emil.participant, actor="bob")
    )

    def wait_and_go() -> Any:
        time.sleep(attempt * 0.01)
        return gone()

    told, ended, _, _ = at_once(
        partial(sends, emil, slow, 4.0),
        wait_and_go,
        partial(carry, first),
        partial(lifecycle.check_in, dora.participant),
    )
    state = now(slow).state
    if isinstance(told, dict):  # acknowledged, and so it counts
        assert state in ("uploaded", "accepted")
        assert ended is None or isinstance(ended, RoundClosed)
    else:
        assert isinstance(told, FedserverError)
        assert state in ("withdrawn", "failed")
    step_all(first.run_id)
    values = {mine.pk: 1.0} | ({slow.pk: 4.0} if isinstance(told, dict) else {})
    counted_exactly_once(first.run, values)
    never_more_than(3, first.run)


@pytest.mark.parametrize("attempt", range(4))
def test_stopping_while_the_next_round_opens_leaves_nobody_at_work(
    tiny_model: Model, enrolled: Enrol, attempt: int
) -> None:
    charlie, dora, emil = map(enrolled, ("charlie", "dora", "emil"))
    first = buffered(tiny_model, rounds_planned=9, buffer_size=1)
    slow = comes(emil)
    sends(charlie, comes(charlie))

    def stop() -> Run:
        time.sleep(attempt * 0.02)
        return lifecycle.stop_run(first.run_id, actor="bob")

    results = at_once(
        stop,
        partial(carry, first),
        partial(sends, emil, slow),
        partial(lifecycle.check_in, dora.participant),
    )
    assert isinstance(results[0], Run)
    step_all(first.run_id)
    assert not Round.objects.filter(phase__in=Round.ACTIVE).exists()
    unfinished = Assignment.objects.filter(state__in=(*Assignment.OPEN, "uploaded"))
    assert not unfinished.exists()


def _work(run_id: int) -> None:
    connections.close_all()
    boss = os.getppid()
    while os.getppid() == boss:
        step_all(run_id)
        time.sleep(0.005)
    os._exit(0)


def _kill_workers(run_id: int, times: int) -> None:
    """A process without threads or connections, which alone may fork: its workers die young."""
    fork, chance = multiprocessing.get_context("fork"), random.Random(7)
    for _ in range(times):
        worker = fork.Process(target=_work, args=(run_id,))
        worker.start()
        time.sleep(chance.uniform(0.02, 0.25))
        worker.kill()
        worker.join()
    _work(run_id)


def test_workers_are_killed_at_any_moment_and_every_update_counts_exactly_once(
    tiny_model: Model, enrolled: Enrol, settings: Any
) -> None:
    settings.LEASE_SECONDS = 0.3
    everyone = [enrolled(f"participant {number}") for number in range(6)]
    run = buffered(tiny_model, concurrency=4, buffer_size=2, rounds_planned=6).run
    connections.close_all()  # a connection must not be shared across a fork
    boss = multiprocessing.get_context("fork").Process(target=_kill_workers, args=(run.pk, 12))
    boss.start()
    values: dict[int, float] = {}
    by = time.monotonic() + 90

    def participate(one: Enrolled, value: float) -> None:
        while time.monotonic() < by and Run.objects.get(pk=run.pk).state == "running":
            told = lifecycle.check_in(one.participant)
            if isinstance(told, Assignment):
                with suppress(RoundClosed):  # the run was completed in this moment
                    send(one, told, update_bytes(tiny_model, value))
                    values[told.pk] = value
            time.sleep(0.01)

    try:
        results = at_once(
            *[partial(participate, one, number + 1.0) for number, one in enumerate(everyone)]
        )
    finally:
        boss.kill()
        boss.join()
    assert results == [None] * 6
    run.refresh_from_db()
    assert (run.state, run.rounds.filter(phase="published").count()) == ("completed", 6)
    for one in Assignment.objects.filter(state="rejected", code="run_completed"):
        values.pop(one.pk, None)  # it came after the last buffer
    counted_exactly_once(run, values)
    never_more_than(4, run)
