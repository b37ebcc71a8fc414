"""An asynchronous run with the real SDK at the real server, and workers that step what is due."""

import signal
import threading
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest

from client_sdk import Participant, wire
from client_sdk.testing import FakeResult, FakeTrainer
from models_app import blobs
from models_app.models import Model
from rounds import lifecycle
from rounds.models import Assignment, Round, Run, Update
from tests.end_to_end.conftest import live, told, workers
from tests.participant import WEIGHTS, data_of
from tests.rounds.updates import served_weights
from tests.waiting import until

pytestmark = pytest.mark.timeout(120)

EXPONENT = 0.5


class Slow(FakeTrainer):
    """A trainer that is at it until it is let go on."""

    def __init__(self, step: float) -> None:
        super().__init__(step=step, weights=WEIGHTS)
        self.trains, self.goes_on = threading.Event(), threading.Event()

    def train(self, *given: Any, **more: Any) -> FakeResult:
        self.trains.set()
        assert self.goes_on.wait(60)
        return super().train(*given, **more)


class TakingPart:
    """Somebody who takes part in a thread until the block ends."""

    def __init__(self, one: Participant, trainer: FakeTrainer, **options: Any) -> None:
        self.summary: Any = None
        self._stop = threading.Event()

        def take_part() -> None:
            data = data_of(one.profile.name)
            self.summary = one.participate(
                data, trainer=trainer, stop=self._stop, wait=1, verdicts=20, **options
            )

        self.thread = threading.Thread(target=take_part)

    def __enter__(self) -> "TakingPart":
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self.thread.join(30)
        assert not self.thread.is_alive()


def published(run: Run) -> int:
    return run.rounds.filter(phase=Round.Phase.PUBLISHED).count()


def delta_of(update: Update) -> np.ndarray:
    return np.array(wire.open_flat(blobs.path(update.digest), [one.tensor for one in WEIGHTS]))


def by_hand(run: Run, weights: np.ndarray) -> np.ndarray:
    """Every version of a run again, from what was uploaded: w ← w + Σ n s(τ) Δ / Σ n."""
    for round_ in run.rounds.filter(phase=Round.Phase.PUBLISHED).order_by("number"):
        assert round_.version is not None
        sum_, samples = np.zeros(weights.size), 0
        for one in round_.assignments.filter(state="accepted").order_by("participant_id"):
            behind = round_.base.number - one.base.number  # each round made the next number
            assert one.staleness == behind
            sum_ += one.update.samples * (1 + behind) ** -EXPONENT * delta_of(one.update)
            samples += one.update.samples
        weights = (weights + sum_ / samples).astype(np.float32)
    return weights


Verdicts = dict[int | None, tuple[str, int | None]]


def verdicts_known_to(one: Participant) -> Verdicts:
    """Of updates that counted or not; one that came when the run was over was refused."""
    nothing = ("sending", "uploaded", "refused")
    told = [line for line in one.log() if line.kind == "update" and line.state not in nothing]
    return {line.assignment: (line.state, line.published) for line in told}


def hears(one: Participant, name: str) -> Verdicts:
    """What a participant knows after it has been there for a moment."""
    soon = datetime.now(UTC) + timedelta(seconds=0.3)
    one.participate(data_of(name), trainer=FakeTrainer(weights=WEIGHTS), until=soon, wait=0)
    return verdicts_known_to(one)


def verdicts_about(name: str) -> Verdicts:
    """What was decided, and the number of the version that came of the round."""
    found = Assignment.objects.filter(participant__name=name).exclude(update=None)
    rows = found.values_list("pk", "state", "round__version__number")
    return {pk: (state, version) for pk, state, version in rows}


def test_who_is_slow_and_who_is_killed_count_once_with_their_age(
    model: Model, everyone: dict[str, Participant]
) -> None:
    first = served_weights(model)
    rules: dict[str, Any] = {
        "kind": "asynchronous",
        "strategy": "fedbuff",
        "strategy_options": {"staleness_exponent": EXPONENT},
        "concurrency": 3,
        "buffer_size": 2,
        "quorum": 2,
        "rounds_planned": 5,
        "quarantine_factor": 0.0,
    }
    run = lifecycle.start_run(lifecycle.create_run(model, **rules).pk).run
    steps = {"alice": 1.0, "bob": 2.0, "charlie": 4.0}
    charlies = Slow(steps["charlie"])

    def goes(name: str, **options: Any) -> TakingPart:
        trainer = FakeTrainer(step=steps[name], weights=WEIGHTS)
        return TakingPart(everyone[name], trainer, **options)

    with workers(), TakingPart(everyone["charlie"], charlies):
        assert charlies.trains.wait(30)
        assert live("epoch", "dora").returncode == -signal.SIGKILL
        # One place is left, and alice and bob share it: two versions, and both are handed on twice.
        with goes("alice", rounds=2) as alice, goes("bob", rounds=2) as bob:
            until(lambda: published(run) == 2)
            alice.thread.join(30)
            bob.thread.join(30)
        places = dict(
            Assignment.objects.filter(staleness=0).values_list("participant__name", "round__number")
        )
        assert (places["charlie"], places["dora"]) == (3, 3)
        charlies.goes_on.set()
        again = live("", "dora")
        assert again.returncode == 0, again.stderr
        assert "training" in told(again)
        # From here on whoever comes first counts first.
        with goes("alice") as alice, goes("bob") as bob:
            until(lambda: Run.objects.get(pk=run.pk).state == Run.State.COMPLETED)
    assert published(run) == 5
    left = Assignment.objects.filter(state__in=(Assignment.State.UPLOADED, *Assignment.OPEN))
    assert not left.exists()
    for name in ("charlie", "dora"):
        mine = Assignment.objects.filter(participant__name=name).earliest("pk")
        assert (mine.state, mine.staleness, mine.base.number) == ("accepted", 2, 1)
        assert (mine.round.number, mine.invited_in.number) == (3, 1)
    for update in Update.objects.select_related("assignment__participant"):
        if (step := steps.get(update.assignment.participant.name)) is not None:
            assert set(delta_of(update)) == {np.float32(step)}
    np.testing.assert_allclose(served_weights(model), by_hand(run, first), rtol=1e-6, atol=1e-6)
    for name, one in everyone.items():
        until(lambda name=name, one=one: hears(one, name) == verdicts_about(name))  # type: ignore[misc]
