"""Taking part, from the first check-in to the last receipt.

One exchange is:

1. **check in**: an assignment, or when to come back and why;
2. **allow**: what our own limits do not allow is given back;
3. **look in the outbox**: an update that is trained already goes straight to step 6;
4. **download** the model and its weights, checked before anything is used;
5. **train**, telling the server of each epoch, and put the result into the outbox;
6. **send** it until there is a receipt: listed first, to the caller and in the ledger;
7. **ask for the verdict** when we check in again.

Where there is nothing to train, and examples of our own are held out, we may be asked to evaluate
a version on these: that is fetched and measured, and the numbers are listed and told.

A process may be killed between any two lines: the server gives the same assignment again, blobs
that are here are not fetched again, and what is in the outbox is sent bit by bit as it was.

What ends an exchange without an update is told to the server by a reason, so that its round need
not wait, and never with the text of a stranger's exception: that may quote the data.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np

from client_sdk import drift, wire
from client_sdk import held_out as held_out_examples
from client_sdk.building import ModelRefused
from client_sdk.errors import (
    CapabilityMissing,
    CertificateRefused,
    Declined,
    EvaluationClosed,
    IntegrityError,
    LimitReached,
    LoginRefused,
    ParticipantError,
    ParticipantRevoked,
    ParticipantSuspended,
    RoundClosed,
    ServerDistrusted,
    ServerRefused,
    ServerUnreachable,
    TooSlow,
    TrainingFailed,
    UpdateConflict,
)
from client_sdk.events import KINDS, Event, Summary
from client_sdk.held_out import Measured, Part, told_of
from client_sdk.limits import Limits
from client_sdk.outbox import Parcel
from client_sdk.progress import automatic
from client_sdk.protocol import Assignment, Evaluation, ModelCard, Wait
from client_sdk.receipts import Verdicts
from client_sdk.reporting import Reporter
from client_sdk.stopping import Stop, Stopped
from client_sdk.trainers import Data, Given, OnEpoch, TrainerLike, Trainers, count, takes
from client_sdk.wake import REFUSED, WORK, Wake

if TYPE_CHECKING:
    from client_sdk.participant import Participant

__all__ = ["KINDS", "Data", "Event", "OnEpoch", "Participation", "Summary", "TrainerLike"]

log = logging.getLogger("client_sdk")

_FAILURES_IN_A_ROW = 3
_SUSPENDED_PAUSE = 30.0
_SHORTEST_PAUSE = 0.5
_LONGEST_PAUSE = 300.0
_LONGEST_REST = 60.0  # after exchanges that came to nothing
_VERDICT_PAUSE = 30.0  # while a verdict is out that nobody tells us of
_AFTER_A_VERDICT = 5.0  # seconds until we ask what comes next, unless we are told
_BETWEEN_CHECK_INS = 0.2  # at least, however often a push asks us to
_WATCH = (30.0, 60.0)  # seconds between check-ins while pushes tell of work, at least and at most
_ASK_AFTER = WORK | {REFUSED}  # news after which a check-in may be answered otherwise
_TO_TRAIN = 0.8  # of the seconds that a round may take
_STOPPABLE_WAIT = 3.0  # longest check-in that somebody who may stop us has to sit out


class Participation:
    """One call of `Participant.participate`; its arguments are told there."""

    def __init__(
        self,
        participant: Participant,
        data: Data,
        *,
        model: str | None,
        rounds: int | None,
        until: datetime | Callable[[], bool] | None,
        on_event: Callable[[Event], object] | None,
        trainers: Trainers,
        wait: float,
        limits: Limits | Callable[[Limits], Limits] | None,
        progress: Callable[[Event], object] | bool | None,
        idle: float | None,
        stop: threading.Event | None,
        verdicts: float,
        held_out: float | None,
        evaluation_data: Data | None,
    ) -> None:
        if isinstance(until, datetime) and until.tzinfo is None:
            raise ValueError(f"Expected `until` to have a time zone. Received: {until}")
        self.participant = participant
        key = participant.profile.participant
        self.data, self.held_out = held_out_examples.parts(data, held_out, evaluation_data, key)
        if self.held_out is not None and not trainers.measures:
            raise ValueError("Expected a trainer that has `measure`, to evaluate. Received: none")
        self.model, self.rounds, self.until, self.wait = model, rounds, until, wait
        self.idle, self.verdicts_within = idle, verdicts
        self.on_event = on_event
        self.progress = _progress(progress)
        self.trainers = trainers
        self.given_limits = limits
        self.limits = Limits()
        self.stop = Stop(stop, participant.sleep)
        self.summary = Summary()
        self.verdicts = Verdicts(participant)
        self.wake: Wake | None = None
        self.assignment: Assignment | None = None
        self.reporter: Reporter | None = None
        self.failures_in_a_row = 0
        self._nothings = 0  # exchanges in a row that came to nothing, for whatever reason
        self._troubles = 0  # check-ins in a row whose answer was none to trust
        self._greeted = False
        self._fraction, self._latest = 0.0, dict[str, Any]()  # of the training under way
        self._began = self._worked_at = self._asked_at = time.monotonic()

    def run(self) -> Summary:
        """Take part until told otherwise."""
        with self._surroundings():
            try:
                while not self._ended():
                    self._step()
                self._wait_for_verdicts()
            except KeyboardInterrupt as interrupt:
                self._give_back()
                stopped = isinstance(interrupt, Stopped)
                self.summary.ended = "stopped" if stopped else "interrupted"
        return self.summary

    @contextmanager
    def _surroundings(self) -> Iterator[None]:
        """Hold the profile, hear signals and pushes, and leave everything as it was."""
        mine = self.participant
        with ExitStack() as stack:
            stack.callback(getattr(self.progress, "close", lambda: None))
            stack.enter_context(mine.profile.locked())
            stack.enter_context(self.stop.heard())
            mine.on_wait, before = self._offline, mine.on_wait
            stack.callback(setattr, mine, "on_wait", before)
            mine.pause = self.stop.pause
            stack.callback(setattr, mine, "pause", mine.sleep)
            self.wake = mine.wake()
            if self.wake is not None:
                stack.callback(self.wake.close)
            self.verdicts.begin()
            yield

    def _ended(self) -> bool:
        self.stop.check()
        if self.rounds is not None and self.summary.rounds >= self.rounds:
            self.summary.ended = "rounds"
        elif self._seconds_until() <= 0 or (callable(self.until) and self.until()):
            self.summary.ended = "until"
        elif self._seconds_idle() <= 0:
            self.summary.ended = "idle"
        return bool(self.summary.ended)

    def _seconds_left(self) -> float:
        return min(self._seconds_until(), self._seconds_idle())

    def _seconds_until(self) -> float:
        if not isinstance(self.until, datetime):
            return math.inf
        return (self.until - datetime.now(UTC)).total_seconds()

    def _seconds_idle(self) -> float:
        return math.inf if self.idle is None else self._worked_at + self.idle - time.monotonic()

    # --- Until there is an assignment ---

    def _step(self) -> None:
        """Check in, and do what is asked."""
        try:
            self.limits = self._limits_now()
            self._allow_any()
            answer, waited, greeting = self._check_in()
            self._ask_for_verdicts(at_once=not isinstance(answer, Wait))
            if isinstance(answer, Assignment):
                self._exchange(answer)
                self._worked_at = time.monotonic()
            elif isinstance(answer, Evaluation):
                self._evaluate(answer)
            elif greeting:
                self._tell("waiting", reason=answer.reason, detail=answer.detail, seconds=0.0)
            else:
                self._come_back(answer, waited)
        except LimitReached as reached:
            self._rest_until_allowed(reached)
        except ParticipantSuspended:
            self._tell("suspended", seconds=_SUSPENDED_PAUSE)
            self._pause(_SUSPENDED_PAUSE)

    def _limits_now(self) -> Limits:
        if isinstance(self.given_limits, Limits):
            return self.given_limits
        kept = self.participant.limits
        return kept if self.given_limits is None else self.given_limits(kept)

    def _allow_any(self) -> None:
        """Whether our own limits allow any round now; nobody is asked for one that they do not."""
        # An update that was counted when it was sent, and has no receipt, may be sent again.
        unsent = self.participant.outbox.waiting()
        self.limits.check_rounds(self.participant.today.count(without=unsent))
        if self.limits.ask_for(self.model) == []:
            raise LimitReached("models", f"{self.limits.models}", self.model or "none allowed")

    def _rest_until_allowed(self, reached: LimitReached) -> None:
        now = self.participant.now()
        tomorrow = datetime.combine(now.date() + timedelta(days=1), datetime.min.time())
        # Without a zone it is the machine's own midnight, whatever becomes of summer time.
        midnight = tomorrow.timestamp() - now.timestamp()
        seconds = midnight if reached.limit == "rounds_per_day" else _LONGEST_PAUSE
        self._tell("limited", limit=reached.limit, detail=str(reached), seconds=max(seconds, 1.0))
        # Limits may be changed meanwhile, and verdicts come in.
        pause = max(1.0, min(seconds, _LONGEST_PAUSE))
        if self._pushed():
            self._wait_for_push(pause, frozenset())
        else:
            self._pause(min(pause, _VERDICT_PAUSE) if self.verdicts.open else pause)
        self._ask_for_verdicts()

    def _check_in(self) -> tuple[Assignment | Evaluation | Wait, float, bool]:
        """The server's answer, how long it took, and whether it is the first.

        There is a wait until the end when there is no answer.
        """
        asked, left, greeting = time.monotonic(), self._seconds_left(), not self._greeted
        try:
            answer = self.participant.check_in(
                wait=max(0.0, min(self._hold(), left)),
                model=self.limits.ask_for(self.model),
                patience=left if math.isfinite(left) else None,
                evaluates=self.held_out is not None and self.limits.share_metrics,
                capabilities=self.trainers.capabilities,
            )
            self._troubles = 0
        except (ServerDistrusted, CertificateRefused) as error:
            if greeting:
                raise  # this was never our server
            answer = Wait(self._trouble(), "distrusted", str(error))  # a hotel's page, perhaps
        except ServerRefused as error:
            if greeting or not error.code.startswith("http_"):
                raise
            answer = Wait(self._trouble(), "distrusted", str(error))  # a proxy's, without a code
        except ServerUnreachable as error:
            if not math.isfinite(left):
                raise
            answer = Wait(left, "offline", str(error))
        self._greeted, self._asked_at = True, time.monotonic()
        return answer, time.monotonic() - asked, greeting

    def _hold(self) -> float:
        """Seconds that the server may hold its answer until there is something to do."""
        # The first time we ask for an answer at once: people want to see that the server is
        # there. And while pushes tell of work there is no need.
        if not self._greeted or self._pushed():
            return 0.0
        return min(self.wait, _STOPPABLE_WAIT) if self.stop.event is not None else self.wait

    def _pushed(self) -> bool:
        return self.wake is not None and self.wake.connected

    def _trouble(self) -> float:
        self._troubles += 1
        return min(2.0**self._troubles, _LONGEST_PAUSE)

    def _come_back(self, answer: Wait, waited: float) -> None:
        # A server that held the answer asks us back at once; one that says so each time at once
        # must not be asked a thousand times a second.
        pause = min(answer.retry_after, _LONGEST_PAUSE)
        if waited < _SHORTEST_PAUSE:
            pause = max(pause, _SHORTEST_PAUSE)
        pushed = self._pushed() and answer.reason not in ("distrusted", "offline")
        if pushed:
            pause = min(max(pause, _WATCH[0]), _WATCH[1])
        self._tell("waiting", reason=answer.reason, detail=answer.detail, seconds=pause)
        if pushed:
            self._wait_for_push(pause, _ASK_AFTER)
        else:
            self._pause(pause)

    def _wait_for_push(self, seconds: float, end_at: frozenset[str]) -> None:
        """Wait for news of these kinds; of verdicts they tell as well."""
        assert self.wake is not None
        until, judged = time.monotonic() + min(seconds, self._seconds_left()), False
        while (left := until - time.monotonic()) > 0 and self.wake.connected:
            look = self.verdicts.seconds_to_next if judged else math.inf
            self.wake.wait(min(left, look, self.stop.patience))
            self.stop.check()
            kinds = {news.kind for news in self.wake.news()}
            if kinds & end_at:
                break
            judged = judged or bool(kinds)
            if judged and self.verdicts.seconds_to_next <= 0:
                if self._ask_for_verdicts():
                    # The next round opens at once, or the server has something else to say.
                    until = min(until, time.monotonic() + _AFTER_A_VERDICT)
                judged = False
        since = time.monotonic() - self._asked_at
        if since < _BETWEEN_CHECK_INS:  # a flood of pushes is no reason for a flood of ours
            self._pause(_BETWEEN_CHECK_INS - since)

    def _pause(self, seconds: float) -> None:
        self.stop.pause(max(0.0, min(seconds, self._seconds_left())))

    # --- One exchange ---

    def _exchange(self, assignment: Assignment) -> None:
        self.assignment, self._began = assignment, time.monotonic()
        outbox = self.participant.outbox
        outbox.keep_only(assignment.id)
        try:
            with Reporter(self.participant, assignment.id) as self.reporter:
                self._tell("assigned")
                self._allow(assignment)
                parcel = outbox.find(assignment)
                if parcel is None:
                    parcel = self._train(assignment, self.reporter)
                else:
                    self._tell("resumed")
                self._send(assignment, parcel, self.reporter)
            self.failures_in_a_row = self._nothings = 0
        except (RoundClosed, UpdateConflict) as closed:
            self._tell("closed", reason=closed.code)
            self._nothings += 1
        except (LoginRefused, ParticipantSuspended, ParticipantRevoked):
            raise  # what is in the outbox stays there: we may be reinstated in time
        except Declined as declined:
            self._decline(assignment, declined)
        except (ServerRefused, ServerDistrusted, wire.WireError, _Failed) as error:
            self._fail(assignment, error)
        finally:
            self.reporter = None
        outbox.drop(assignment.id)
        self.assignment = None
        self._rest()

    def _rest(self) -> None:
        """Wait, the longer the more exchanges came to nothing: a server that gives out what it
        does not take, or what we do not want, must not keep us busy."""
        if self._nothings > 1:
            self._pause(min(2.0 ** (self._nothings - 2), _LONGEST_REST))

    def _allow(self, assignment: Assignment) -> None:
        """Whether our own limits allow this assignment, as far as it can be known now."""
        self.limits = self._limits_now()  # they may have been changed while the server was asked
        self.limits.check_assignment(assignment, self.model)
        self.limits.check_rounds(self.participant.today.count(without=assignment.id))

    def _check(self) -> None:
        """Raise what should end an exchange half-way; asked again and again while it goes on."""
        self._check_ours()
        if self.reporter is not None:
            self.reporter.check()

    def _check_ours(self) -> None:
        """The same once an update is being sent: then its own answer says whether it counts, and
        a report that comes after it is refused because the server has it."""
        self.stop.check()
        self.limits.check_seconds(time.monotonic() - self._began)

    def _within(self) -> float | None:
        """Seconds that the exchange may still take, by our own limit."""
        if self.limits.seconds_per_round is None:
            return None
        return max(0.0, self._began + self.limits.seconds_per_round - time.monotonic())

    @contextmanager
    def _within_limits(self) -> Iterator[None]:
        """Say which limit it was where a transfer was cut short by ours."""
        try:
            with _on_this_machine():
                yield
        except TooSlow:
            within = self._within()
            if within is not None and within < 1.0:  # no pause and second try was worth it
                self.limits.check_seconds(math.inf)
            raise

    def _train(self, assignment: Assignment, reporter: Reporter) -> Parcel:
        if assignment.encoding not in wire.ENCODINGS:
            detail = f"Expected {wire.ENCODINGS[0]}. Received: {assignment.encoding!r:.60}"
            raise wire.WireError("unsupported_encoding", detail, field="encoding")
        try:
            drift.check(assignment.requires, self.trainers.capabilities)
        except CapabilityMissing as error:
            raise _Failed(error) from error
        reporter.say(activity="downloading", fraction=0.0)
        self._tell("downloading", bytes=assignment.weights.length)
        with self._within_limits():
            card = self.participant.card(assignment, within=self._within())
            examples = self._examples(card, self.data)
            self.limits.check_samples(count(examples))
            card, weights = self.participant.download(
                assignment, within=self._within(), check=self._check
            )
            asked = self._asked(assignment, card)
        self._tell("downloaded", bytes=assignment.weights.length)
        trainer = self._trainer(card)
        reporter.say(activity="training", fraction=0.0)
        self._tell("training", samples=count(examples))
        self._fraction, self._latest = 0.0, {}
        result = self._call_trainer(trainer, assignment, weights, examples, asked)
        self._check()
        with _on_this_machine():
            return self._pack(assignment, card, result)

    def _asked(self, assignment: Assignment, card: ModelCard) -> dict[str, Any]:
        """What the strategy asks of the trainer, and what is given for that; most ask nothing."""
        if not assignment.requires:
            return {}
        mine, keeps = self.participant, drift.keeps(assignment.requires)
        for number in mine.own.undecided(assignment.run):
            if number != assignment.id:  # what it left decides what we begin with
                counted = self.verdicts.counted(number)
                if counted is not None:
                    mine.own.settle(number, counted=counted)
        size = sum(spec.size for spec in card.tensors(wire.FEDERATED))
        control = mine.control(assignment, card, within=self._within(), check=self._check)
        own = mine.own.find(assignment.run, keeps, size)
        return {"requires": assignment.requires, "own": own, "control": control}

    def _examples(self, card: ModelCard, data: Given | Part) -> Any:
        try:
            return data.read(card)
        except (ParticipantError, OSError) as error:  # they are none for this model
            raise _Failed(error) from error

    def _trainer(self, card: ModelCard) -> TrainerLike:
        try:
            return self.trainers.of(card)
        except ParticipantError as error:  # the model is none that we would build
            raise _Failed(error) from error

    def _call_trainer(
        self,
        trainer: TrainerLike,
        assignment: Assignment,
        weights: Mapping[str, np.ndarray],
        examples: Any,
        asked: Mapping[str, Any],
    ) -> Any:
        through: list[BaseException] = []  # what we raised ourselves is not the trainer's fault

        def watched(call: Callable[[], object]) -> None:
            try:
                call()
            except BaseException as error:
                through.append(error)
                raise

        def on_epoch(epoch: int, epochs: int, metrics: dict[str, float]) -> None:
            watched(lambda: self._epoch(epoch, epochs, _numbers(metrics)))

        def on_progress(fraction: float) -> None:
            watched(lambda: self._progress(fraction))

        within = self._within()
        offered = {
            "check": lambda: watched(self._check),
            "on_progress": on_progress,
            # What is left is for what goes before and after.
            "seconds": within if within is None else _TO_TRAIN * within,
            **asked,
        }
        more = {name: offered[name] for name in offered if takes(trainer.train, name)}
        try:
            return trainer.train(
                weights,
                examples,
                hyperparameters=assignment.hyperparameters,
                seed=assignment.seed,
                on_epoch=on_epoch,
                **more,
            )
        except Exception as error:
            if through:
                raise through[0] from None
            raise _Failed(error) from error

    def _progress(self, fraction: float) -> None:
        assert self.reporter is not None
        self._fraction = max(self._fraction, min(max(0.0, float(fraction)), 1.0))
        self.reporter.say(**self._latest | {"activity": "training", "fraction": self._fraction})
        self._tell("progress", fraction=self._fraction)

    def _epoch(self, epoch: int, epochs: int, metrics: dict[str, float]) -> None:
        assert self.reporter is not None
        shared = self.limits.share(metrics)
        self._fraction = epoch / max(epochs, 1)
        self._latest = {"epoch": epoch, "epochs": epochs} | ({"metrics": shared} if shared else {})
        self.reporter.say(activity="training", fraction=self._fraction, **self._latest)
        self._tell("epoch", epoch=epoch, epochs=epochs, metrics=metrics)
        self._check()

    def _pack(self, assignment: Assignment, card: ModelCard, result: Any) -> Parcel:
        """Put the result into the outbox, checked as the server will check it."""
        specs = card.tensors(wire.FEDERATED)
        try:
            self.summary.metrics = _numbers(result.metrics)
            asked = drift.keeps(assignment.requires)
            if asked:  # first: there is no update without what it leaves here
                own = {name: result.own[name] for name in asked}
                self.participant.own.put(assignment.run, assignment.id, own)
            parcel = self.participant.outbox.put(
                assignment,
                {spec.name: result.deltas[spec.name] for spec in specs},
                {spec.name: result.local[spec.name] for spec in card.tensors(wire.LOCAL)},
                int(result.samples),
                self.limits.share(self.summary.metrics),
                _reports(assignment.requires, result),
            )
            wire.norm(wire.open_flat(parcel.update, specs), specs)
        except (KeyError, ValueError) as error:
            raise _Failed(error) from error
        return parcel

    def _send(self, assignment: Assignment, parcel: Parcel, reporter: Reporter) -> None:
        mine = self.participant
        self.limits.check_samples(parcel.manifest.samples)
        self.limits.check_reports(parcel.manifest.reports)
        if not self.limits.share_metrics:  # switched off since it was trained
            parcel = mine.outbox.without_metrics(parcel)
        self._tell("sending", **mine.listing(parcel).to_json())
        self._check()
        manifest = parcel.manifest
        reporter.say(activity="uploading", fraction=0.0)
        self._tell("uploading", bytes=manifest.length)
        with self._within_limits():
            mine.upload(parcel, limits=self.limits, within=self._within(), check=self._check_ours)
        self.summary.rounds += 1
        self.summary.samples += manifest.samples
        receipt = self.verdicts.expect(assignment, manifest)
        self.summary.receipts.append(receipt)
        told = {"samples": manifest.samples, "metrics": dict(manifest.metrics)}
        self._tell("uploaded", **told, receipt=receipt)

    # --- One evaluation ---

    def _evaluate(self, evaluation: Evaluation) -> None:
        """Measure a version on what is held out, and tell the server numbers."""
        self._began = time.monotonic()
        try:
            self.limits = self._limits_now()
            self.limits.check_evaluation(evaluation, self.model)
            measured = self._measure(evaluation)
            self.limits.check_samples(measured.samples)
            self._tell("sending", **told_of(evaluation, measured))
            self._check_ours()
            self.participant.report_evaluation(evaluation, measured, limits=self.limits)
            self.summary.evaluations += 1
            about = {"model": evaluation.model, "version": evaluation.version}
            told = about | {"samples": measured.samples, "metrics": measured.metrics}
            self._tell("evaluated", evaluation=evaluation.id, **told)
            self._nothings = 0
        except EvaluationClosed as closed:
            self._tell("closed", reason=closed.code)
            self._nothings += 1
        except (LoginRefused, ParticipantSuspended, ParticipantRevoked):
            raise
        except Declined as declined:
            limit = declined.limit if isinstance(declined, LimitReached) else ""
            self._tell("declined", limit=limit, reason=declined.code, detail=str(declined))
            self._decline_evaluation(evaluation, declined.code)
        except (ServerRefused, ServerDistrusted, wire.WireError, _Failed) as error:
            reason, _ = _reason(error)
            log.warning("evaluation %d failed: %s", evaluation.id, reason)
            self._tell("failed", reason=reason, detail=str(error))
            self._decline_evaluation(evaluation, reason)
        self._rest()

    def _measure(self, evaluation: Evaluation) -> Measured:
        assert self.held_out is not None
        with self._within_limits():
            card = self.participant.card(evaluation, within=self._within())
            examples = self._examples(card, self.held_out)
            self.limits.check_samples(count(examples))
            card, weights = self.participant.download(
                evaluation, within=self._within(), check=self._check_ours
            )
        about = {"model": evaluation.model, "version": evaluation.version}
        self._tell("evaluating", evaluation=evaluation.id, **about, samples=count(examples))
        trainer: Any = self._trainer(card)
        through: list[BaseException] = []

        def check() -> None:
            try:
                self._check_ours()
            except BaseException as error:
                through.append(error)
                raise

        try:
            measured: Measured = trainer.measure(weights, examples, check=check)
        except Exception as error:
            if through:
                raise through[0] from None
            raise _Failed(error) from error
        return replace(measured, metrics=_numbers(measured.metrics))

    def _decline_evaluation(self, evaluation: Evaluation, reason: str) -> None:
        self.summary.declined += 1
        with _nothing_to_add():
            self.participant.decline_evaluation(evaluation, reason)
        self._nothings += 1

    # --- What became of it ---

    def _ask_for_verdicts(self, *, at_once: bool = False) -> bool:
        """Tell of each verdict that is new; whether there was one."""
        final = False
        for receipt in self.verdicts.ask(at_once=at_once):
            kept = self.summary.receipts
            for place, known in enumerate(kept):
                if known.assignment == receipt.assignment:
                    kept[place] = receipt
            if receipt.counted is not None:
                final = True
                with suppress(OSError):  # it is asked for again before it matters
                    self.participant.own.settle(receipt.assignment, counted=receipt.counted)
                self.participant.forget_served()
                self._tell("receipt", receipt=receipt)
        return final

    def _wait_for_verdicts(self) -> None:
        until = time.monotonic() + self.verdicts_within
        pause = _SHORTEST_PAUSE
        while self.verdicts_within > 0 and any(not one.final for one in self.summary.receipts):
            self._ask_for_verdicts(at_once=True)
            left = until - time.monotonic()
            if left <= 0 or all(one.final for one in self.summary.receipts):
                return
            self.stop.pause(min(pause, left))
            pause = min(pause * 1.5, 5.0)

    # --- What goes wrong, or is not wanted ---

    def _decline(self, assignment: Assignment, declined: Declined) -> None:
        limit = declined.limit if isinstance(declined, LimitReached) else ""
        log.info("assignment %d is given back: %s", assignment.id, declined)
        self._tell("declined", limit=limit, reason=declined.code, detail=str(declined))
        self.summary.declined += 1
        # Nothing of how many examples we have, or how long we train, is the server's to know.
        with _nothing_to_add():
            self.participant.withdraw(assignment.id, reason=declined.code, patience=None)
        self._nothings += 1

    def _fail(self, assignment: Assignment, error: Exception) -> None:
        reason, detail = _reason(error)
        log.warning("assignment %d failed: %s", assignment.id, reason)
        self._tell("failed", reason=reason, detail=str(error))
        self._report(assignment, reason, detail)
        self.summary.failures += 1
        self.failures_in_a_row += 1
        if self.failures_in_a_row >= _FAILURES_IN_A_ROW:
            raise TrainingFailed(
                f"Expected an exchange to succeed. Received: {self.failures_in_a_row} failures in "
                f"a row, the last one {reason}: {error}"
            ) from error
        self._nothings += 1

    def _report(self, assignment: Assignment, reason: str, detail: str) -> None:
        with _nothing_to_add():
            self.participant.report_failure(assignment.id, reason, detail)

    def _give_back(self) -> None:
        self._tell("interrupted")
        if self.assignment is None:
            return
        # Where the server does not hear us, the outbox keeps what was trained.
        self.participant.pause = self.participant.sleep
        with suppress(ParticipantError):
            self.participant.withdraw(self.assignment.id)
        self.assignment = None

    def _offline(self, reason: str, seconds: float) -> None:
        self._tell("offline", reason=reason, seconds=seconds)

    def _tell(self, kind: str, /, **data: Any) -> None:
        log.debug("%s %s", kind, {name: data[name] for name in data if name != "detail"})
        event = Event(kind, self.assignment, data)
        if self.on_event is not None:
            self.on_event(event)
        if self.progress is not None:
            try:
                self.progress(event)
            except Exception:
                log.exception("what shows the progress failed, and is not asked again")
                self.progress = None


class _Failed(Exception):
    """The trainer raised, or its result does not fit the model, or this machine has trouble."""

    def __init__(self, error: Exception) -> None:
        super().__init__(f"{type(error).__name__}: {error}")
        self.error = error


@contextmanager
def _on_this_machine() -> Iterator[None]:
    """A full disk, say, or a model too large for it, ends an exchange and no participation."""
    try:
        yield
    except (OSError, ModelRefused) as error:
        raise _Failed(error) from error


@contextmanager
def _nothing_to_add() -> Iterator[None]:
    """Of an exchange that has ended: closed by now, or failed already by the server's own view. And
    where a full disk lets us list nothing, nothing is told."""
    try:
        yield
    except (ServerRefused, ServerDistrusted, OSError) as error:
        log.info("the server is not told: %s", error)


def _reason(error: Exception) -> tuple[str, str]:
    """What the server is told: a code, and a sentence that cannot quote any data."""
    if isinstance(error, ServerRefused):
        return error.code, error.detail
    if isinstance(error, IntegrityError):
        return "integrity", str(error)
    if isinstance(error, ServerDistrusted):
        return "too_slow" if isinstance(error, TooSlow) else "distrusted", str(error)
    cause = error.error if isinstance(error, _Failed) else error
    if isinstance(cause, wire.WireError):
        return cause.code, cause.detail
    if isinstance(cause, CapabilityMissing):
        return "capability_missing", str(cause)
    if isinstance(cause, ParticipantError):
        return "training_refused", f"{type(cause).__name__}: {type(cause).__doc__ or ''}"
    if isinstance(cause, OSError):
        return "local_trouble", type(cause).__name__
    return "training_failed", type(cause).__name__


def _numbers(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Metrics as the wire takes them: finite, few, with short names."""
    found = {
        str(name)[: wire.METRIC_NAME_LIMIT]: float(value)
        for name, value in metrics.items()
        if math.isfinite(value)
    }
    return dict(list(found.items())[: wire.METRICS_LIMIT])


def _reports(requires: drift.Requirements, result: Any) -> dict[str, float]:
    """What the strategy asks to be told, and nothing else of what the trainer has to tell."""
    asked = any(name in wire.REPORTS for name in requires)
    return drift.reports(requires, result.reports) if asked else {}


def _progress(given: Callable[[Event], object] | bool | None) -> Callable[[Event], object] | None:
    if given is None:
        return automatic()
    return given if callable(given) else None
