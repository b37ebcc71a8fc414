"""Round after round, until the run is done.

What a simulation is about to do follows from its rows and its seed alone: so one that was killed
does again what was not written down, and goes on.
"""

import time
from collections.abc import Callable
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any

from client_sdk import wire
from client_sdk.keys import Key
from models_app import blobs
from rounds import intake, lifecycle
from rounds.models import Assignment, CheckIn, Participant, Round, Run, Update
from simulation import federation, results, speeds, training
from simulation.plan import Plan
from simulation.speeds import Arrival, Schedule
from simulation.training import Job, Outcome

ENDED = (Run.State.COMPLETED, Run.State.STOPPED, Run.State.FAILED)
Tell = Callable[[Round], None]


class Engine:
    """Carries one simulation to its end.

    Args:
        plan: what was asked for.
        home: its folder.
        run: what `federation.found` gave.
        workers: processes that train; 1 for this one.
    """

    def __init__(self, plan: Plan, home: Path, run: Run, workers: int) -> None:
        self._plan, self._home, self._run = plan, home, run
        self._people = list(Participant.objects.order_by("pk"))
        self._places = {one.pk: place for place, one in enumerate(self._people)}
        self._keys: dict[int, Key] = {}
        _, y = training.examples(home)
        self._shares = training.shares(plan, y)
        self._factors = speeds.factors(plan.participants, plan.stragglers, plan.seed)
        self._workers = workers
        self._pool: Executor | None = None
        self._trained = 0.0  # processor seconds in other processes, of this round

    def close(self) -> None:
        """End the processes that train."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def rounds(self, tell: Tell) -> None:
        """Go on until the run has ended.

        Args:
            tell: called after each round, however it ended.
        """
        recipe = training.Recipe(self._plan, self._home, federation.document(self._run.model))
        self._pool = training.pool(recipe, self._workers)
        while True:
            wall, cpu, self._trained = time.monotonic(), time.process_time(), 0.0
            round_ = self._open_round()
            if round_ is None:
                return
            while round_.phase in Round.ACTIVE:
                self._carry(round_)
                round_ = Round.objects.select_related("run", "base").get(pk=round_.pk)
            cpu = time.process_time() - cpu + self._trained
            results.note(self._home, round_, time.monotonic() - wall, cpu)
            self._forget(round_)
            tell(round_)

    def _open_round(self) -> Round | None:
        """The active round; of a run that has none, the next one. None when it has ended."""
        found = Round.objects.select_related("run", "base").filter(phase__in=Round.ACTIVE)
        if (active := found.first()) is not None:
            return active
        self._run.refresh_from_db()
        if self._run.state in ENDED:
            return None
        # Nobody waits on a virtual clock: a failed round is tried again at once.
        Run.objects.filter(pk=self._run.pk).update(next_round_at=None)
        lifecycle.advance(self._run.pk)
        return found.get()

    def _carry(self, round_: Round) -> None:
        """Do what the round's phase asks for."""
        if round_.phase == Round.Phase.SELECTING:
            self._gather(round_)
        elif round_.phase == Round.Phase.TRAINING:
            self._train(round_)
        if lifecycle.needs_keras(round_.pk):
            lifecycle.evaluate(round_.pk)
        else:
            lifecycle.step(round_.pk)

    def _gather(self, round_: Round) -> None:
        """Everybody checks in: of a hundred requests nothing is kept but this insert."""
        CheckIn.objects.bulk_create(
            (CheckIn(round=round_, participant=one) for one in self._people), ignore_conflicts=True
        )

    # --- Training ---

    def _train(self, round_: Round) -> None:
        plan = self.schedule(round_)
        open_ = {
            one.pk: one
            for one in round_.assignments.filter(state__in=Assignment.OPEN).select_related(
                "participant", "base"
            )
        }
        waiting = [
            (open_[one.assignment], self._start(open_[one.assignment]))
            for one in plan.uploads
            if one.assignment in open_
        ]
        for pk in plan.slow:
            if pk in open_:
                self._report(open_[pk])
        for mine, (path, future) in waiting:
            self._upload(mine, path, future.result())
        uploaded, working = lifecycle.counts(round_)
        if uploaded >= (round_.target or 0) or not working:
            return  # the next step closes it
        if uploaded >= round_.quorum:
            lifecycle.close_round(
                round_.pk, actor=federation.ACTOR, reason="nobody else comes in time"
            )
        else:
            self._give_up(open_.values())

    def schedule(self, round_: Round) -> Schedule:
        """What becomes of the round's cohort on the virtual clock."""
        durations = [
            Arrival(self._seconds(participant), pk)
            for pk, participant, seed in round_.assignments.values_list("pk", "participant", "seed")
            if not speeds.vanishes(seed, self._plan.dropout)
        ]
        target = round_.target or len(durations)
        return speeds.schedule(durations, target=target, deadline=self._plan.deadline)

    def virtual_seconds(self, round_: Round) -> float:
        """How long a round has taken on the virtual clock."""
        return self.schedule(round_).seconds

    def _seconds(self, participant: int) -> float:
        place, plan = self._places[participant], self._plan
        steps = speeds.steps(len(self._shares[place]), plan.batch, plan.epochs)
        return float(steps * plan.step_seconds * self._factors[place])

    def _start(self, mine: Assignment) -> tuple[Path, Future[Outcome]]:
        path = blobs.new_spool_file()
        base = mine.base
        job = Job(
            participant=self._places[mine.participant_id],
            weights=blobs.path(base.weights),
            fixed=blobs.path(base.fixed) if base.fixed else None,
            seed=mine.seed,
            target=path,
        )
        assert self._pool is not None
        return path, self._pool.submit(training.work, job)

    def _report(self, mine: Assignment) -> None:
        lifecycle.report(
            mine.participant, mine.pk, activity=Assignment.Activity.TRAINING, fraction=0.0
        )

    def _upload(self, mine: Assignment, path: Path, outcome: Outcome) -> None:
        """Hand an update in by the way that every update comes."""
        if self._workers > 1:
            self._trained += outcome.cpu_seconds
        self._report(mine)
        who = mine.participant
        try:
            if outcome.failure:
                lifecycle.fail(who, mine.pk, code="training_diverged", reason=outcome.failure)
                return
            signed = wire.UpdateManifest(
                assignment=mine.pk,
                round=mine.round_id,
                base=mine.base.weights,
                digest=outcome.digest,
                length=outcome.bytes,
                samples=outcome.samples,
                metrics=outcome.metrics,
            ).to_bytes()
            admission = intake.admit(
                who,
                mine.pk,
                length=outcome.bytes,
                manifest=wire.b64(signed),
                signature=self._key(who).sign(wire.update_message(signed)),
            )
            landing = intake.Landing(outcome.bytes)
            try:
                landing.write(path.read_bytes())
                intake.settle(admission, landing)
            finally:
                landing.close()
        finally:
            path.unlink()

    def _key(self, who: Participant) -> Key:
        if who.pk not in self._keys:
            self._keys[who.pk] = federation.key(self._plan, who.name)
        return self._keys[who.pk]

    def _give_up(self, assignments: Any) -> None:
        """Nobody is left who could make the quorum: all are told to have failed."""
        for mine in assignments:
            if Assignment.objects.filter(pk=mine.pk, state__in=Assignment.OPEN).exists():
                lifecycle.fail(
                    mine.participant, mine.pk, code="vanished", reason="It was not heard of again."
                )

    # --- Afterwards ---

    def _forget(self, round_: Round) -> None:
        """Delete the bytes that nobody needs any more: thousands of updates fill a disk."""
        ended = Update.objects.filter(deleted_at=None, assignment__round=round_)
        for digest in ended.values_list("digest", flat=True):
            blobs.delete(digest)
