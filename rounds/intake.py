"""An update's way in: who sends it, how long it is, what it claims, what it is; and once.

    admit     before a byte of the body is read: the token, the assignment, the signed manifest
    Landing   while the bytes arrive: written and hashed, never more than declared
    settle    when all are here: digest, strict parse, finite, norm; then one transaction
              makes the assignment `uploaded`, and only then is it acknowledged

What is refused leaves no file and no update; the assignment stays open, so that its participant
may send a good one. After `MAX_REFUSALS` bad ones it is rejected.
"""

import dataclasses
import hashlib
import logging
import os
import shutil
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from django.conf import settings
from django.db import DatabaseError
from django.db.models import F

from client_sdk import wire
from journal import events
from models_app import blobs
from rounds import clock, eligibility, enrolment, lifecycle, moves, rules
from rounds.errors import NoSpace, TooLarge, UpdateConflict, UpdateInvalid
from rounds.models import Assignment, Participant, Round, Update
from rounds.moves import lock_place

logger = logging.getLogger(__name__)

MAX_REFUSALS = 5
RESERVE = 256 * 2**20  # bytes of disk that uploads leave to the database and the logs

_flushing = ThreadPoolExecutor(8, thread_name_prefix="intake-flush")


@dataclass(frozen=True, slots=True)
class Admission:
    """An upload that may send its body."""

    participant: Participant
    assignment: Assignment
    manifest: wire.UpdateManifest
    signed: bytes  # the manifest exactly as it came
    signature: str
    receipt: dict[str, Any] | None = None  # it is here already: no body is needed
    began: float = dataclasses.field(default_factory=time.monotonic)


def admit(
    participant: Participant, assignment_id: int, *, length: int, manifest: str, signature: str
) -> Admission:
    """Everything that can be refused before the body is read.

    Args:
        participant: Whose token it was.
        assignment_id: Which of its assignments the update is for.
        length: The declared length of the body, in bytes.
        manifest: The `Fedserver-Manifest` header, base64url.
        signature: The `Fedserver-Signature` header, base64url.

    Raises:
        AssignmentNotFound: It is not the participant's own.
        TooLarge: Longer than any valid update of this model.
        SignatureInvalid: Not signed by the participant's key.
        UpdateInvalid: The manifest is malformed, or speaks of something else than this.
        UpdateConflict: The assignment has another update already.
        RoundClosed: The round takes no more updates.
        NoSpace: The disk has no room for it now.
    """
    mine = lifecycle.own_assignment(participant, assignment_id)
    specs = mine.round.run.model.federated
    limit = min(wire.update_length_limit(specs), settings.MAX_UPDATE_BYTES)
    if length > limit:
        raise TooLarge(f"Expected at most {limit} bytes. Received: {length}", field="length")
    try:
        signed = wire.unb64(manifest)
        enrolment.verify(participant.public_key, wire.update_message(signed), signature)
        told = wire.UpdateManifest.from_bytes(signed)
        _compare(told, mine, length)
        _reports(told, mine)
    except wire.WireError as error:
        raise refuse(mine, invalid(error)) from error
    except UpdateInvalid as error:
        raise refuse(mine, error) from error
    receipt = _receipt_if_here(mine, told)
    if receipt is None and not _is_open(mine):
        raise lifecycle.closed(mine)
    if receipt is None:
        _expect_room(length)
    return Admission(participant, mine, told, signed, signature, receipt)


def _expect_room(length: int) -> None:
    free = shutil.disk_usage(settings.FEDSERVER_HOME).free
    if free < length + RESERVE:
        raise NoSpace(
            f"Expected room for {length} bytes and {RESERVE} more. Received: {free} bytes free",
            retry_after=60,
        )


def _compare(told: wire.UpdateManifest, mine: Assignment, length: int) -> None:
    """The manifest must speak of this assignment, its round, its base and this body."""
    expected = {
        "assignment": mine.pk,
        "round": mine.invited_in_id,
        "base": mine.base.weights,
        "length": length,
    }
    for field, value in expected.items():
        if getattr(told, field) != value:
            raise UpdateInvalid(
                f"Expected {field} {value} in the manifest. Received: {getattr(told, field)}",
                field=field,
                reason="manifest_mismatch",
            )


def _reports(told: wire.UpdateManifest, mine: Assignment) -> dict[str, float]:
    """What the run's strategy asked to be reported, and no more. The wire has checked the ranges.

    Steps weigh an update as samples do, and without a mean that would bound them: so they can be
    no more than the samples give.

    Raises:
        UpdateInvalid: Something is not there, or cannot be.
    """
    asked = eligibility.requirements(mine.round.run)
    names = [wire.REPORTS[capability] for capability in asked if capability in wire.REPORTS]
    for name in names:
        if name not in told.reports:
            raise UpdateInvalid(
                f"Expected {name} among the manifest's reports, for {mine.round.run.strategy} "
                f"needs it. Received: {sorted(told.reports)}",
                field=f"reports.{name}",
                reason="report_missing",
            )
    reports = {name: told.reports[name] for name in names}
    most = rules.most_steps(mine.round.run, told.samples)
    if reports.get("steps", 0) > most:
        raise UpdateInvalid(
            f"Expected steps up to {most} among the manifest's reports, as {told.samples} samples "
            f"give by the run's hyper-parameters. Received: {reports['steps']:.0f}",
            field="reports.steps",
            reason="too_many_steps",
        )
    return reports


def _is_open(mine: Assignment) -> bool:
    return mine.state in Assignment.OPEN and mine.round.phase in Round.ACTIVE


def _receipt_if_here(mine: Assignment, told: wire.UpdateManifest) -> dict[str, Any] | None:
    """The receipt of an identical update, sent before; a different one is a conflict."""
    update = Update.objects.filter(assignment=mine).first()
    if update is None:
        return None
    if (update.digest, update.samples) != (told.digest, told.samples):
        raise UpdateConflict(
            f"Expected the update {update.digest} with {update.samples} samples again. "
            f"Received: {told.digest} with {told.samples}"
        )
    return receipt(update)


def receipt(update: Update) -> dict[str, Any]:
    """What a participant gets for an update, the same each time."""
    return {
        "assignment": update.assignment_id,
        "state": Assignment.State.UPLOADED,
        "digest": update.digest,
        "bytes": update.bytes,
        "samples": update.samples,
        "received_at": update.received_at.isoformat(),
    }


class Landing:
    """A spooled file that is hashed as it is written. Not for the event loop: it blocks.

    Args:
        limit: The declared length; not one byte more is written.
    """

    def __init__(self, limit: int) -> None:
        self.path: Path = blobs.new_spool_file()
        self.length = 0
        self._limit = limit
        self._hash = hashlib.sha256()
        self._file = self.path.open("wb", buffering=0)

    def write(self, data: bytes | bytearray) -> None:
        """Append.

        Raises:
            UpdateInvalid: More comes than was declared.
        """
        self.length += len(data)
        if self.length > self._limit:
            raise UpdateInvalid(
                f"Expected {self._limit} bytes. Received: at least {self.length}", field="length"
            )
        self._hash.update(data)
        rest = memoryview(data)
        while rest:
            rest = rest[self._file.write(rest) :]

    def flush(self) -> Future[None]:
        """Have what has landed put on the disk, in a thread of its own."""
        if not settings.DURABLE:
            return _flushing.submit(lambda: None)
        return _flushing.submit(os.fsync, self._file.fileno())

    @property
    def digest(self) -> str:
        return self._hash.hexdigest()

    def close(self) -> None:
        """Forget what has landed, unless it has become a blob."""
        self._file.close()
        self.path.unlink(missing_ok=True)


def tell(admission: Admission, landed: int) -> None:
    """Let those who watch know how much of a long upload has landed.

    Raises:
        RoundClosed: Nobody waits for the rest.
    """
    try:
        lifecycle.report(
            admission.participant,
            admission.assignment.pk,
            activity=Assignment.Activity.UPLOADING,
            fraction=landed / max(admission.manifest.length, 1),
        )
    except DatabaseError as error:
        logger.warning("Assignment %d: no news: %s", admission.assignment.pk, error)


def settle(admission: Admission, landing: Landing) -> dict[str, Any]:
    """Judge what has landed, and count it once.

    Returns:
        The receipt: from here on the update is durable.

    Raises:
        UpdateInvalid: The bytes are not what the manifest or the model says.
        UpdateConflict: Another update of this assignment was faster.
        RoundClosed: The round closed meanwhile.
    """
    mine, told = admission.assignment, admission.manifest
    flushed = landing.flush()  # the disk works while the numbers are judged
    try:
        norm = _inspect(admission, landing)
    except wire.WireError as error:
        raise refuse(mine, invalid(error)) from error
    except UpdateInvalid as error:
        raise refuse(mine, error) from error
    finally:
        flushed.result()  # nobody closes a file that is being flushed
    blob = blobs.put_file(landing.path, sha256=landing.digest)
    with events.transaction() as journal:
        # The lock that closing takes too: an update is counted whole or refused.
        round_ = lock_place(mine.pk)
        now = clock.now()
        done = _done(admission, now)
        moved = round_.phase in Round.ACTIVE and Assignment.objects.filter(
            pk=mine.pk, state__in=Assignment.OPEN
        ).update(
            state=Assignment.State.UPLOADED,
            uploaded_at=now,
            **done,
        )
        if moved:
            update = Update.objects.create(
                assignment=mine,
                digest=blob.sha256,
                bytes=blob.bytes,
                samples=told.samples,
                norm=norm,
                metrics=told.metrics,
                reports=_reports(told, mine),
                manifest=admission.signed.decode(),
                signature=admission.signature,
                received_at=now,
            )
            journal.record(
                "assignment.uploaded",
                actor=admission.participant.name,
                at=now,
                **moves.subjects(mine, round_),
                name=admission.participant.name,
                samples=told.samples,
                bytes=blob.bytes,
                norm=norm,
                metrics=told.metrics,
                progress=moves.progress(Assignment.objects.get(pk=mine.pk)),
            )
            mine.round = round_
            lifecycle.tell_of_room(round_)
            return receipt(update)
    if (again := _receipt_if_here(mine, told)) is not None:
        return again
    raise lifecycle.closed(mine)


def _done(admission: Admission, now: datetime) -> dict[str, Any]:
    """The columns of an assignment whose upload has ended now."""
    uploading = Assignment.Activity.UPLOADING
    began = now - timedelta(seconds=time.monotonic() - admission.began)
    known = Assignment.objects.values_list("activities", flat=True).get(pk=admission.assignment.pk)
    return {
        "activity": uploading,
        "fraction": 1.0,
        "activities": {uploading: began.isoformat()} | known,
        "last_seen_at": now,
    }


def _inspect(admission: Admission, landing: Landing) -> float:
    told = admission.manifest
    for field, received in (("length", landing.length), ("digest", landing.digest)):
        if received != getattr(told, field):
            raise UpdateInvalid(
                f"Expected {field} {getattr(told, field)}. Received: {received}", field=field
            )
    specs = admission.assignment.round.run.model.federated
    return wire.norm(wire.open_flat(landing.path, specs), specs)


def invalid(error: wire.WireError) -> UpdateInvalid:
    """A wire error as a typed refusal: the wire's own code goes along as `reason`."""
    return UpdateInvalid(str(error), field=error.field, reason=error.code)


def refuse(mine: Assignment, error: UpdateInvalid) -> UpdateInvalid:
    """Note a bad upload in the journal; after a few of them the assignment is rejected."""
    code = str(error.extra.get("reason", error.code))
    reason = error.detail
    with events.transaction() as journal:
        mine.round = lock_place(mine.pk)  # it may have been handed on since it was let in
        open_ = Assignment.objects.filter(pk=mine.pk, state__in=Assignment.OPEN)
        if open_.update(refusals=F("refusals") + 1):
            refusals = open_.values_list("refusals", flat=True).get()
            subjects: dict[str, Any] = {"run": mine.round.run_id, "round": mine.round_id}
            journal.record(
                "assignment.refused",
                actor=mine.participant.name,
                reason=reason,
                **subjects,
                assignment=mine.pk,
                participant=mine.participant_id,
                name=mine.participant.name,
                code=code,
                refusals=refusals,
            )
            if lifecycle.reject(open_.filter(refusals__gte=MAX_REFUSALS), journal, code, reason):
                lifecycle.tell_of_room(mine.round)
    return error


def wants_step(assignment: Assignment) -> bool:
    """Whether this upload may have been the one that its round waited for."""
    uploaded, working = lifecycle.counts(assignment.round)
    return working == 0 or uploaded >= (assignment.round.target or 0)
