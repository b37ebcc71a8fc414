"""Taking part, from the first check-in to the last receipt.

One exchange is:

1. **check in**: an assignment, or when to come back and why;
2. **look in the outbox**: an update that is trained already goes straight to step 5;
3. **download** the model and its weights, checked before anything is used;
4. **train**, telling the server of each epoch, and put the result into the outbox;
5. **upload** it until there is a receipt, and keep the weights that stay here.

A process may be killed between any two lines: the server gives the same assignment again, blobs
that are here are not fetched again, and what is in the outbox is sent bit by bit as it was.

What ends an exchange without an update is told to the server by a reason, so that its round need
not wait, and never with the text of a stranger's exception: that may quote the data.
"""

from __future__ import annotations

import logging
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from client_sdk import wire
from client_sdk.errors import (
    IntegrityError,
    LoginRefused,
    ParticipantError,
    ParticipantRevoked,
    ParticipantSuspended,
    RoundClosed,
    ServerRefused,
    ServerUnreachable,
    TrainingFailed,
    UpdateConflict,
)
from client_sdk.outbox import Parcel
from client_sdk.protocol import Assignment, ModelCard, Wait

if TYPE_CHECKING:
    from client_sdk.participant import Participant

log = logging.getLogger("client_sdk")

Data = tuple[np.ndarray, np.ndarray]
OnEpoch = Callable[[int, int, dict[str, float]], None]

KINDS = {
    "waiting": "nothing to do; `reason`, `detail`, `seconds`",
    "offline": "the server is away; `reason`, `seconds` until the next try",
    "suspended": "an operator has suspended us; `seconds` until the next try",
    "assigned": "a place in a round",
    "resumed": "its update is in the outbox already",
    "downloading": "fetching the model's weights; `bytes`",
    "training": "local training begins",
    "epoch": "an epoch is done; `epoch`, `epochs`, `metrics`",
    "uploading": "sending the update; `bytes`",
    "uploaded": "the server has it; `samples`, `metrics`",
    "closed": "the round is closed, our part no longer counts; `reason`",
    "failed": "the exchange came to nothing; `reason`, `detail`",
    "interrupted": "Ctrl-C or SIGTERM",
}

_FAILURES_IN_A_ROW = 3
_SUSPENDED_PAUSE = 30.0
_SHORTEST_PAUSE = 0.5
_LONGEST_PAUSE = 300.0
_PACE = 0.25  # seconds between reports of progress, at least
_HEARTBEAT = 20.0  # and at most


class TrainerLike(Protocol):
    """What trains: `client_sdk.training.Trainer`, or something of yours."""

    def train(
        self,
        weights: Mapping[str, np.ndarray],
        data: Data,
        hyperparameters: Mapping[str, Any],
        seed: int,
        on_epoch: OnEpoch | None = None,
    ) -> Any:
        """Train, and answer with `deltas`, `samples`, `metrics` and `local`."""


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened while taking part; `KINDS` lists what can.

    Args:
        kind: short name.
        assignment: what it is about, if anything.
        data: more, by name; never training data.
    """

    kind: str
    assignment: Assignment | None = None
    data: Mapping[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class Summary:
    """What came of a participation.

    Args:
        rounds: updates that the server has acknowledged.
        samples: examples trained on, summed over them.
        failures: exchanges that came to nothing through a fault.
        metrics: of the last update.
        ended: "rounds", "until" or "interrupted".
    """

    rounds: int = 0
    samples: int = 0
    failures: int = 0
    metrics: dict[str, float] = field(default_factory=dict)
    ended: str = ""


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
        trainer: TrainerLike | None,
        wait: float,
    ) -> None:
        if isinstance(until, datetime) and until.tzinfo is None:
            raise ValueError(f"Expected `until` to have a time zone. Received: {until}")
        self.participant = participant
        self.data = data
        self.model, self.rounds, self.until, self.wait = model, rounds, until, wait
        self.on_event = on_event
        self.trainers = _Trainers(trainer)
        self.summary = Summary()
        self.assignment: Assignment | None = None
        self.failures_in_a_row = 0
        self._greeted = False

    def run(self) -> Summary:
        """Take part until told otherwise."""
        self.participant.on_wait = self._offline
        with self.participant.profile.locked(), _sigterm_interrupts():
            try:
                while not self._ended():
                    self._step()
            except KeyboardInterrupt:
                self.summary.ended = "interrupted"
                self._give_back()
        return self.summary

    def _ended(self) -> bool:
        if self.rounds is not None and self.summary.rounds >= self.rounds:
            self.summary.ended = "rounds"
        elif self._seconds_left() <= 0 or (callable(self.until) and self.until()):
            self.summary.ended = "until"
        return bool(self.summary.ended)

    def _seconds_left(self) -> float:
        if not isinstance(self.until, datetime):
            return math.inf
        return (self.until - datetime.now(UTC)).total_seconds()

    def _step(self) -> None:
        """Check in, and do what is asked."""
        greeting = not self._greeted
        try:
            answer, waited = self._check_in()
            if isinstance(answer, Wait) and greeting:
                self._tell("waiting", reason=answer.reason, detail=answer.detail, seconds=0.0)
            elif isinstance(answer, Wait):
                self._come_back(answer, waited)
            else:
                self._exchange(answer)
        except ParticipantSuspended:
            self._tell("suspended", seconds=_SUSPENDED_PAUSE)
            self._pause(_SUSPENDED_PAUSE)

    def _check_in(self) -> tuple[Assignment | Wait, float]:
        """The server's answer, and how long it took; a wait until the end when there is none."""
        asked, left = time.monotonic(), self._seconds_left()
        try:
            answer = self.participant.check_in(
                # The first time we ask for an answer at once: people want to see that the server
                # is there. From then on it may hold the answer until there is something to do.
                wait=max(0.0, min(self.wait, left)) if self._greeted else 0.0,
                model=self.model,
                patience=left if math.isfinite(left) else None,
            )
        except ServerUnreachable as error:
            if type(error) is not ServerUnreachable or not math.isfinite(left):
                raise
            answer = Wait(left, "offline", str(error))
        self._greeted = True
        return answer, time.monotonic() - asked

    def _come_back(self, answer: Wait, waited: float) -> None:
        # A server that held the answer asks us back at once; one that says so each time at once
        # must not be asked a thousand times a second.
        pause = min(answer.retry_after, _LONGEST_PAUSE)
        if waited < _SHORTEST_PAUSE:
            pause = max(pause, _SHORTEST_PAUSE)
        self._tell("waiting", reason=answer.reason, detail=answer.detail, seconds=pause)
        self._pause(pause)

    def _pause(self, seconds: float) -> None:
        self.participant.sleep(max(0.0, min(seconds, self._seconds_left())))

    # --- One exchange ---

    def _exchange(self, assignment: Assignment) -> None:
        self.assignment = assignment
        self._tell("assigned")
        outbox = self.participant.outbox
        outbox.keep_only(assignment.id)
        try:
            with _Reporter(self.participant, assignment.id) as reporter:
                parcel = outbox.find(assignment)
                if parcel is None:
                    parcel = self._train(assignment, reporter)
                else:
                    self._tell("resumed")
                self._upload(parcel, reporter)
            self.failures_in_a_row = 0
        except (RoundClosed, UpdateConflict) as closed:
            self._tell("closed", reason=closed.code)
        except (LoginRefused, ParticipantSuspended, ParticipantRevoked):
            raise  # what is in the outbox stays there: we may be reinstated in time
        except (ServerRefused, IntegrityError, wire.WireError, _TrainerFailed) as error:
            self._fail(assignment, error)
        outbox.drop(assignment.id)
        self.assignment = None

    def _train(self, assignment: Assignment, reporter: _Reporter) -> Parcel:
        if assignment.encoding not in wire.ENCODINGS:
            detail = f"Expected {wire.ENCODINGS[0]}. Received: {assignment.encoding!r:.60}"
            raise wire.WireError("unsupported_encoding", detail, field="encoding")
        reporter.say(activity="downloading", fraction=0.0)
        self._tell("downloading", bytes=assignment.weights.length)
        card, weights = self.participant.download(assignment)
        trainer = self._trainer(card)
        reporter.say(activity="training", fraction=0.0)
        self._tell("training")
        result = self._call_trainer(trainer, assignment, weights, reporter)
        return self._pack(assignment, card, result)

    def _trainer(self, card: ModelCard) -> TrainerLike:
        try:
            return self.trainers.of(card)
        except ParticipantError as error:  # the model is none that we would build
            raise _TrainerFailed(error) from error

    def _call_trainer(
        self,
        trainer: TrainerLike,
        assignment: Assignment,
        weights: Mapping[str, np.ndarray],
        reporter: _Reporter,
    ) -> Any:
        through: list[BaseException] = []  # what on_epoch raised is not the trainer's fault

        def on_epoch(epoch: int, epochs: int, metrics: dict[str, float]) -> None:
            try:
                numbers = _numbers(metrics)
                reporter.say(
                    activity="training",
                    fraction=epoch / max(epochs, 1),
                    epoch=epoch,
                    epochs=epochs,
                    metrics=numbers,
                )
                self._tell("epoch", epoch=epoch, epochs=epochs, metrics=numbers)
                reporter.check()
            except Exception as error:
                through.append(error)
                raise

        try:
            return trainer.train(
                weights,
                self.data,
                hyperparameters=assignment.hyperparameters,
                seed=assignment.seed,
                on_epoch=on_epoch,
            )
        except Exception as error:
            if through:
                raise through[0] from None
            raise _TrainerFailed(error) from error

    def _pack(self, assignment: Assignment, card: ModelCard, result: Any) -> Parcel:
        """Put the result into the outbox, checked as the server will check it."""
        specs = card.tensors(wire.FEDERATED)
        try:
            parcel = self.participant.outbox.put(
                assignment,
                {spec.name: result.deltas[spec.name] for spec in specs},
                {spec.name: result.local[spec.name] for spec in card.tensors(wire.LOCAL)},
                int(result.samples),
                _numbers(result.metrics),
            )
            wire.norm(wire.open_flat(parcel.update, specs), specs)
        except (KeyError, wire.WireError) as error:
            raise _TrainerFailed(error) from error
        return parcel

    def _upload(self, parcel: Parcel, reporter: _Reporter) -> None:
        manifest = parcel.manifest
        reporter.say(activity="uploading", fraction=0.0)
        self._tell("uploading", bytes=manifest.length)
        self.participant.upload(parcel)
        self.summary.rounds += 1
        self.summary.samples += manifest.samples
        self.summary.metrics = dict(manifest.metrics)
        self._tell("uploaded", samples=manifest.samples, metrics=dict(manifest.metrics))

    # --- What goes wrong ---

    def _fail(self, assignment: Assignment, error: Exception) -> None:
        reason, detail = _reason(error)
        log.warning("assignment %d failed: %s", assignment.id, reason)
        self._tell("failed", reason=reason, detail=str(error))
        with suppress(ServerRefused):  # closed by now, or failed already by the server's own view
            self.participant.report_failure(assignment.id, reason, detail)
        self.summary.failures += 1
        self.failures_in_a_row += 1
        if self.failures_in_a_row >= _FAILURES_IN_A_ROW:
            raise TrainingFailed(
                f"Expected an exchange to succeed. Received: {self.failures_in_a_row} failures in "
                f"a row, the last one {reason}: {error}"
            ) from error

    def _give_back(self) -> None:
        self._tell("interrupted")
        if self.assignment is None:
            return
        # Where the server does not hear us, the outbox keeps what was trained.
        with suppress(ParticipantError):
            self.participant.withdraw(self.assignment.id)
        self.assignment = None

    def _offline(self, reason: str, seconds: float) -> None:
        self._tell("offline", reason=reason, seconds=seconds)

    def _tell(self, kind: str, **data: Any) -> None:
        log.debug("%s %s", kind, {name: data[name] for name in data if name != "detail"})
        if self.on_event is not None:
            self.on_event(Event(kind, self.assignment, data))


class _TrainerFailed(Exception):
    """The trainer raised, or its result does not fit the model."""

    def __init__(self, error: Exception) -> None:
        super().__init__(f"{type(error).__name__}: {error}")
        self.error = error


def _reason(error: Exception) -> tuple[str, str]:
    """What the server is told: a code, and a sentence that cannot quote any data."""
    if isinstance(error, ServerRefused):
        return error.code, error.detail
    if isinstance(error, IntegrityError):
        return "integrity", str(error)
    cause = error.error if isinstance(error, _TrainerFailed) else error
    if isinstance(cause, wire.WireError):
        return cause.code, cause.detail
    if isinstance(cause, ParticipantError):
        return "training_refused", f"{type(cause).__name__}: {type(cause).__doc__ or ''}"
    return "training_failed", type(cause).__name__


def _numbers(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Metrics as the wire takes them: finite, few, with short names."""
    found = {
        str(name)[: wire.METRIC_NAME_LIMIT]: float(value)
        for name, value in metrics.items()
        if math.isfinite(value)
    }
    return dict(list(found.items())[: wire.METRICS_LIMIT])


class _Trainers:
    """Keeps the trainer of the last model, so that its graph is built once."""

    def __init__(self, given: TrainerLike | None) -> None:
        self._given = given
        self._kept: tuple[str, TrainerLike] | None = None
        self._build: Callable[[Mapping[str, Any]], TrainerLike] | None = None
        if given is None:
            # Now and not at the first assignment: who lacks Keras learns it before a round
            # counts on us, and the seconds that its import takes pass while we wait for one.
            from client_sdk.training import Trainer

            self._build = Trainer
            threading.Thread(target=import_module, args=("keras",), daemon=True).start()

    def of(self, card: ModelCard) -> TrainerLike:
        if self._given is not None:
            return self._given
        key = f"{card.slug}/{card.architecture_digest}"
        if self._kept is None or self._kept[0] != key:
            assert self._build is not None
            self._kept = (key, self._build(card.document))
        return self._kept[1]


class _Reporter:
    """Tells the server of progress from a thread of its own.

    Training must not stand still because the network does: reports are put down and the thread
    sends the latest one, at most a few a second. It also repeats itself now and then, so that
    the server sees life in a long epoch and we learn that a round has closed.
    """

    def __init__(self, participant: Participant, assignment: int) -> None:
        self._participant = participant
        self._assignment = assignment
        self._latest: dict[str, Any] | None = None
        self._ended = threading.Event()
        self._closed: ParticipantError | None = None
        self._thread = threading.Thread(target=self._run, name="fedclient-progress", daemon=True)

    def __enter__(self) -> _Reporter:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()

    def say(self, **progress: Any) -> None:
        """Put down how far we are."""
        self._latest = progress

    def check(self) -> None:
        """Raise what ended the assignment on the server, if something did."""
        if self._closed is not None:
            raise self._closed

    def _run(self) -> None:
        sent: dict[str, Any] | None = None
        sent_at = -math.inf
        while not self._ended.wait(_PACE):
            progress = self._latest
            due = progress is not sent or time.monotonic() - sent_at > _HEARTBEAT
            if progress is None or not due:
                continue
            sent, sent_at = progress, time.monotonic()
            try:
                self._participant.report_progress(self._assignment, progress)
            except (RoundClosed, ParticipantRevoked) as closed:
                self._closed = closed
                return
            except Exception as error:
                log.debug("no report of progress: %s", type(error).__name__)


@contextmanager
def _sigterm_interrupts() -> Iterator[None]:
    """Let SIGTERM do what Ctrl-C does, where this thread may say so."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before if before is not None else signal.SIG_DFL)
