"""Round after round, until the run is done.

What a simulation is about to do follows from its rows and its seed alone: so one that was killed
does again what was not written down, and goes on as if nothing had been.
"""

import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from client_sdk import drift, wire
from client_sdk.keys import Key
from journal import events
from models_app import blobs
from models_app.models import ModelVersion
from rounds import (
    clock,
    eligibility,
    federated_evaluation,
    intake,
    lifecycle,
    moves,
    rules,
    selection,
)
from rounds.models import (
    Assignment,
    CheckIn,
    FederatedEvaluation,
    Participant,
    Round,
    Run,
)
from simulation import attacks, federation, results, speeds, training
from simulation.kept import Kept
from simulation.plan import Plan
from simulation.speeds import Arrival, Flow, Schedule
from simulation.training import Base, Job, Judging, Outcome, Recipe

ENDED = (Run.State.COMPLETED, Run.State.STOPPED, Run.State.FAILED)
Place = Assignment.State
Tell = Callable[[Round], None]
Hands = Callable[[Recipe], Executor]


class SimulationFailed(Exception):
    """A simulation cannot go on; the text says why."""


@dataclass(frozen=True, slots=True)
class Work:
    """A training that has been asked for."""

    job: Job
    outcome: "Future[Outcome]"


@dataclass(frozen=True, slots=True)
class Seat:
    """What a participant's training depends on: the same again is not trained again."""

    participant: int
    seed: int
    base: str


class Engine:
    """Carries one simulation to its end.

    Args:
        plan: what was asked for.
        home: its folder.
        run: what `federation.found` gave.
        hands: finds those who train, once they are needed.
    """

    def __init__(self, plan: Plan, home: Path, run: Run, hands: Hands) -> None:
        self._plan, self._home, self._run, self._hands = plan, home, run, hands
        self._people = list(Participant.objects.order_by("pk"))
        self._places = {one.pk: place for place, one in enumerate(self._people)}
        self._keys: dict[int, Key] = {}
        _, y = training.examples(home)
        self._shares = training.shares(plan, y)
        self._attackers = attacks.attackers(plan.participants, plan.attackers, plan.seed)
        self._factors = speeds.factors(plan.participants, plan.stragglers, plan.seed)
        requires = {name: dict(one) for name, one in eligibility.requirements(run).items()}
        self._recipe = Recipe(plan, home, federation.document(run.model), requires)
        self._pool: Executor | None = None
        self._ahead: dict[Seat, Work] = {}
        self._elsewhere = 0.0  # processor seconds of other processes, in this round
        self._kept = Kept(home, run, own=self._recipe.keeps)

    @property
    def _alone(self) -> bool:
        """Whether this process does it all."""
        return isinstance(self._pool, training.Here)

    # --- Round after round ---

    def close(self) -> None:
        """End the processes that train."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            shutil.rmtree(self._home / "spool", ignore_errors=True)

    def rounds(self, tell: Tell) -> None:
        """Go on until the run has ended.

        Args:
            tell: called after each round, however it ended.
        """
        shutil.rmtree(self._home / "spool", ignore_errors=True)  # of one that was killed
        self._pool = self._hands(self._recipe)
        training.import_tensorflow()
        if self._plan.asynchronous:
            self._flow(tell)
            return
        while (round_ := self._open_round()) is not None:
            began = self._begin()
            while round_.phase in Round.ACTIVE:
                self._carry(round_)
                round_ = self._again(round_)
            self._finish(round_, began, tell)

    def _begin(self) -> tuple[float, float]:
        self._elsewhere = 0.0
        return time.monotonic(), time.process_time()

    def _finish(self, round_: Round, began: tuple[float, float], tell: Tell) -> None:
        """What is left to do when a round has ended."""
        self._kept.tidy(round_)
        cpu = time.process_time() - began[1] + self._elsewhere
        results.note(self._home, round_, time.monotonic() - began[0], cpu)
        tell(round_)

    def _again(self, round_: Round) -> Round:
        return Round.objects.select_related("run", "base", "version").get(pk=round_.pk)

    def _open_round(self) -> Round | None:
        """The active round; of a run that has none, the next one. None when it has ended."""
        active = Round.objects.filter(run=self._run, phase__in=Round.ACTIVE)
        if (found := active.first()) is None:
            self._run.refresh_from_db()
            if self._run.state in ENDED:
                return None
            # Nobody waits on a virtual clock: a failed round is tried again at once.
            Run.objects.filter(pk=self._run.pk).update(next_round_at=None)
            lifecycle.advance(self._run.pk)
            found = active.get()
        return self._again(found)

    def _carry(self, round_: Round) -> None:
        """Do what the round's phase asks for."""
        if round_.phase == Round.Phase.SELECTING:
            self._gather(round_)
        elif round_.phase == Round.Phase.TRAINING:
            self._train(round_)
        self._step(round_)

    def _step(self, round_: Round) -> None:
        if round_.phase == Round.Phase.EVALUATING:
            self._look_ahead(round_)
            self._evaluate_by_participants(round_)
        if lifecycle.needs_keras(round_.pk):
            lifecycle.evaluate(round_.pk)
        else:
            lifecycle.step(round_.pk)

    # --- Selecting ---

    def _gather(self, round_: Round) -> None:
        """Everybody checks in: of a hundred requests nothing is kept but this insert."""
        CheckIn.objects.bulk_create(
            (CheckIn(round=round_, participant=one) for one in self._people), ignore_conflicts=True
        )

    # --- Training ---

    def _train(self, round_: Round) -> None:
        plan = self._schedule(round_)
        rows = round_.assignments.select_related("participant", "base", "invited_in")
        cohort = {one.pk: one for one in rows}
        open_ = [pk for pk, mine in cohort.items() if mine.state in Assignment.OPEN]
        told = [*(one.assignment for one in plan.uploads), *plan.slow]
        self._report([pk for pk in told if pk in open_])
        coming = [cohort[one.assignment] for one in plan.uploads]
        owned = self._kept.owned(one.participant_id for one in coming)
        works = {
            mine.pk: self._start(mine, owned)
            for mine in coming
            if mine.pk in open_ or self._colludes(self._places[mine.participant_id])
        }
        _drop(self._ahead.values())  # what was begun for a round that has come otherwise
        self._ahead.clear()
        works = self._agree(works, len(coming))
        for mine in coming:
            if mine.pk in open_:
                self._upload(mine, works[mine.pk])
        self._report(plan.slow)  # late, and not lost, however long that has taken
        uploaded, working = lifecycle.counts(round_)
        if uploaded >= (round_.target or 0) or not working:
            return  # the next step closes it
        if uploaded >= round_.quorum:
            reason = "nobody else comes in time"
            lifecycle.close_round(round_.pk, actor=federation.ACTOR, reason=reason)
        else:
            for mine in round_.assignments.filter(state__in=Assignment.OPEN):
                self._vanish(mine)

    def _schedule(self, round_: Round) -> Schedule:
        rows = round_.assignments.values_list("pk", "participant", "seed")
        return self._course(list(rows), round_.target)

    def _course(self, rows: Sequence[tuple[int, int, int]], target: int | None) -> Schedule:
        """What becomes of a cohort on the virtual clock.

        Args:
            rows: assignments with their participants and seeds.
            target: updates that end the round.
        """
        durations = [
            Arrival(self._seconds(self._places[participant]), pk)
            for pk, participant, seed in rows
            if not speeds.vanishes(seed, self._plan.dropout)
        ]
        return speeds.schedule(durations, target=target or len(rows), deadline=self._plan.deadline)

    def _seconds(self, place: int) -> float:
        plan, count = self._plan, len(self._shares[place].trained)
        steps = speeds.steps(count, plan.batch, plan.epochs)
        return float(steps * plan.step_seconds * self._factors[place])

    def _start(self, mine: Assignment, owned: dict[int, Path]) -> Work:
        """Have an assignment trained, unless that was begun before."""
        place = self._places[mine.participant_id]
        seat = Seat(place, mine.seed, mine.base.weights)
        if (begun := self._ahead.pop(seat, None)) is not None:
            return begun
        kept = self._kept.own_file(mine.pk) if self._recipe.keeps else None
        own = owned.get(mine.participant_id)
        return self._submit(place, mine.seed, mine.base, own=own, kept=kept)

    def _submit(
        self,
        place: int,
        seed: int,
        version: ModelVersion,
        *,
        own: Path | None = None,
        kept: Path | None = None,
    ) -> Work:
        assert self._pool is not None
        job = Job(place, self._base(version), seed, blobs.new_spool_file(), own, kept)
        return Work(job, self._pool.submit(training.work, job))

    def _base(self, version: ModelVersion) -> Base:
        state = version.strategy_state
        steered = bool(state) and drift.CONTROL_VARIATES in self._recipe.requires
        return Base(
            weights=blobs.path(version.weights),
            fixed=blobs.path(version.fixed) if version.fixed else None,
            control=blobs.path(state) if steered else None,
        )

    def _colludes(self, place: int) -> bool:
        """Whether what others send depends on what this participant learns."""
        return self._plan.attack == "little_is_enough" and place in self._attackers

    def _agree(self, works: dict[int, Work], cohort: int) -> dict[int, Work]:
        """Attackers that know of each other decide what all of them send."""
        ours = {pk: work for pk, work in works.items() if self._colludes(work.job.participant)}
        done = {pk: work for pk, work in ours.items() if not work.outcome.result().failure}
        if not done:
            return works
        specs = self._run.model.federated
        z = self._plan.strength
        sent = attacks.little_is_enough(
            [np.array(wire.open_flat(work.job.target, specs)) for work in done.values()],
            attacks.z_max(cohort, len(ours)) if z is None else z,
        )
        agreed = {}
        for pk, work in done.items():
            digest, length = wire.dump(work.job.target, wire.split(sent, specs))
            outcome: Future[Outcome] = Future()
            outcome.set_result(replace(work.outcome.result(), digest=digest, bytes=length))
            agreed[pk] = Work(work.job, outcome)
        return works | agreed

    def _report(self, assignments: Sequence[int]) -> None:
        """Those that train say so, all at once."""
        now = clock.now()
        rows = Assignment.objects.filter(pk__in=assignments, state__in=Assignment.OPEN)
        rows.update(last_seen_at=now)
        with events.transaction() as journal:
            invited = rows.filter(state=Place.INVITED)
            moves.move_assignments(invited, Place.TRAINING, journal, training_at=now)

    def _upload(self, mine: Assignment, work: Work) -> None:
        """Hand an update in by the way that every update comes."""
        outcome, who = work.outcome.result(), mine.participant
        if not self._alone:
            self._elsewhere += outcome.cpu_seconds
        try:
            if outcome.failure:
                lifecycle.fail(who, mine.pk, code="training_diverged", reason=outcome.failure)
                return
            signed = wire.UpdateManifest(
                assignment=mine.pk,
                round=mine.invited_in_id,
                base=mine.base.weights,
                digest=outcome.digest,
                length=outcome.bytes,
                samples=outcome.samples,
                metrics=outcome.metrics,
                reports=outcome.reports,
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
                landing.write(work.job.target.read_bytes())
                intake.settle(admission, landing)
            finally:
                landing.close()
        finally:
            work.job.target.unlink()

    def _key(self, who: Participant) -> Key:
        if who.pk not in self._keys:
            self._keys[who.pk] = federation.key(self._plan, who.name)
        return self._keys[who.pk]

    def _vanish(self, mine: Assignment) -> None:
        reason = "It was not heard of again."
        lifecycle.fail(mine.participant, mine.pk, code="vanished", reason=reason)

    # --- Looking ahead ---

    def _look_ahead(self, round_: Round) -> None:
        """While a version is evaluated here, others begin with what follows if it is published.

        Who trains in the next round, with which seed and from what, is known by now. A guess that
        proves wrong costs the time of others, and no result.
        """
        run, version = round_.run, round_.version
        certain = self._plan.gate is None and not self._recipe.keeps
        last = run.rounds.filter(phase=Round.Phase.PUBLISHED).count() + 1 >= run.rounds_planned
        asynchronous = self._plan.asynchronous
        if version is None or self._ahead or last or self._alone or asynchronous or not certain:
            return
        seed = selection.derive_seed(run.seed, round_.number + 1)
        chosen = rules.choose(run, (one.pk for one in self._people), seed)
        target = rules.target(run, len(chosen))
        seeds = {
            pk: selection.derive_seed(seed, self._people[self._places[pk]].name) for pk in chosen
        }
        course = self._course([(pk, pk, seeds[pk]) for pk in chosen], target)
        for one in course.uploads:
            place, own = self._places[one.assignment], seeds[one.assignment]
            work = self._submit(place, own, version)
            self._ahead[Seat(place, own, version.weights)] = work

    # --- Evaluating ---

    def _evaluate_by_participants(self, round_: Round) -> None:
        """Those who are asked measure the candidate on what they have held out."""
        found = FederatedEvaluation.objects.filter(
            round=round_, state=FederatedEvaluation.State.OPEN
        ).first()
        if found is None or round_.version is None:
            return
        assert self._pool is not None
        able = [one.pk for one in self._people if len(self._shares[self._places[one.pk]].held_out)]
        chosen = selection.choose(
            able,
            selection="random",
            goal=self._plan.evaluators,
            fraction=1.0,
            over_selection=1.0,
            minimum=1,
            seed=selection.derive_seed(round_.seed, "evaluators"),
        )
        owned, base = self._kept.owned(chosen), self._base(round_.version)
        judged = [
            (pk, self._pool.submit(training.judge, Judging(self._places[pk], base, owned.get(pk))))
            for pk in chosen
        ]
        for pk, future in judged:
            who, told = self._people[self._places[pk]], future.result()
            if not self._alone:
                self._elsewhere += told.cpu_seconds
            if federated_evaluation.ask(who) is not None:
                federated_evaluation.report(
                    who, found.pk, samples=told.samples, metrics=told.metrics, classes=told.classes
                )

    # --- Asynchronous ---

    def _flow(self, tell: Tell) -> None:
        """Places that are taken and left, on the virtual clock, until the run has ended.

        It is gone through from the beginning each time; what has been done is not done again.
        """
        flow, began = self._new_flow(), self._begin()
        known = list(self._invitations())
        works: dict[int, Work] = {}
        while self._open_round() is not None:
            closed = False
            while not closed:
                while (place := flow.invite()) is not None:
                    number = len(works)
                    mine = known[number] if number < len(known) else self._invite(place, known)
                    works[number] = _DONE
                    if mine.state in Assignment.OPEN:
                        works[number] = self._start(mine, self._kept.owned([mine.participant_id]))
                number = flow.next()
                counts = self._end(known[number], works[number])
                works[number] = _DONE
                closed = flow.ended(counts=counts)
            round_ = self._again(self._run.rounds.get(number=len(flow.closed)))
            if round_.phase in Round.ACTIVE:
                round_ = self._close_buffer(round_)
                self._finish(round_, began, tell)
                began = self._begin()
            if round_.phase == Round.Phase.FAILED:
                flow.empty()  # all who trained in it have lost their places
                _drop(work for work in works.values() if work is not _DONE)
                works = dict.fromkeys(works, _DONE)

    def _new_flow(self) -> Flow:
        plan = self._plan
        return Flow(
            [self._seconds(place) for place in range(plan.participants)],
            concurrency=plan.concurrency,
            buffer=plan.buffer,
            seed=plan.seed,
        )

    def _invitations(self) -> Iterable[Assignment]:
        rows = Assignment.objects.filter(round__run=self._run).order_by("pk")
        return rows.select_related("participant", "base", "invited_in")

    def _invite(self, place: int, known: list[Assignment]) -> Assignment:
        found = lifecycle.check_in(self._people[place])
        if not isinstance(found, Assignment):
            raise SimulationFailed(f"Expected a place for participant {place}. Received: {found}")
        known.append(found)
        return found

    def _end(self, mine: Assignment, work: Work) -> bool:
        """Upload, or vanish, where that has not been done; whether the update counts."""
        if work is not _DONE:
            self._report([mine.pk])
            if speeds.vanishes(mine.seed, self._plan.dropout):
                self._vanish(mine)
            else:
                self._upload(mine, work)
        # And not by its state: an update whose round has failed had filled a place all the same.
        return Assignment.objects.filter(pk=mine.pk, uploaded_at__isnull=False).exists()

    def _close_buffer(self, round_: Round) -> Round:
        """Go on until the round has ended, with a version or without one."""
        while (round_ := self._again(round_)).phase in Round.ACTIVE:
            # Whoever trains is there: only the virtual clock says when it is not any more.
            open_ = Assignment.objects.filter(round=round_, state__in=Assignment.OPEN)
            open_.update(last_seen_at=clock.now())
            self._step(round_)
        return round_

    # --- Afterwards ---

    def virtual_seconds(self) -> Callable[[Round], float]:
        """What answers how many virtual seconds a round has taken."""
        if not self._plan.asynchronous:
            return lambda round_: self._schedule(round_).seconds
        closed = self._closed()

        def seconds(round_: Round) -> float:
            before = closed[round_.number - 2] if round_.number > 1 else 0.0
            return closed[round_.number - 1] - before

        return seconds

    def _closed(self) -> list[float]:
        """When each buffer was closed, by going through what was written down."""
        rows = Assignment.objects.filter(round__run=self._run).order_by("pk")
        flow, known = self._new_flow(), list(rows.values_list("uploaded_at", flat=True))
        ended = self._run.rounds.exclude(phase__in=Round.ACTIVE).order_by("number")
        for phase in ended.values_list("phase", flat=True):
            closed = False
            while not closed:
                while flow.invite() is not None:
                    pass
                closed = flow.ended(counts=known[flow.next()] is not None)
            if phase == Round.Phase.FAILED:
                flow.empty()
        return flow.closed


_DONE: Any = object()


def _drop(works: Iterable[Work]) -> None:
    """Trainings that nobody waits for any more."""
    for work in works:
        work.outcome.cancel()
        work.outcome.add_done_callback(_unlinking(work.job.target))


def _unlinking(file: Path) -> Callable[[object], None]:
    return lambda _: file.unlink(missing_ok=True)
