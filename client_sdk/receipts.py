"""What became of an update: the server's verdict, and the version that came of its round."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from client_sdk.errors import ParticipantError, RoundClosed, plain
from client_sdk.protocol import Assignment
from client_sdk.wire import UpdateManifest

if TYPE_CHECKING:
    from client_sdk.ledger import Entry
    from client_sdk.participant import Participant

PENDING = ("invited", "training", "uploaded")
_ROUND_ENDED = ("published", "failed", "cancelled")
# Why an update was not needed in the end: its round or run ended first, which is nobody's fault.
VOID_CODES = ("round_cancelled", "run_completed", "run_paused", "run_stopped")
ROUND_FAILED = "round_failed"


def verdict(state: str, code: str) -> str:
    """What became of an update, in a word: its state, or that it was not used.

    Args:
        state: of its place in the round.
        code: why.

    Example:
        >>> verdict("rejected", "norm_invalid"), verdict("rejected", "run_completed")
        ('rejected', 'not used')
    """
    unused = state in ("late", "rejected") and code in VOID_CODES
    return "not used" if unused or (state, code) == ("rejected", ROUND_FAILED) else state


@dataclass(frozen=True, slots=True)
class Receipt:
    """What a participant has for an update that it sent.

    Args:
        run: the run; `round` the round, as the server numbers them, and `number` its place in
            the run, from 1.
        model: slug of the model; `version` is the number of the version trained from.
        samples: examples trained on.
        bytes: length of the update.
        state: "uploaded" while nothing is known, then "accepted", "rejected", "quarantined",
            "late" and so on.
        code: why, for programs; `reason` for people. Empty for an update that was accepted.
        published: number of the version that came of the round; None when none has, yet.
        assignment: the place in the round that it was sent for.
        phase: of the round, as far as it is known.
    """

    run: int
    round: int
    number: int
    model: str
    version: int
    samples: int
    bytes: int
    state: str = "uploaded"
    code: str = ""
    reason: str = ""
    published: int | None = None
    assignment: int = 0
    phase: str = ""

    @property
    def final(self) -> bool:
        """Whether nothing more will be known: the verdict, and for an accepted update whether
        a version came of its round."""
        if self.state in PENDING:
            return False
        known = self.published is not None or self.phase in ("", *_ROUND_ENDED)
        return known or self.state != "accepted"

    @property
    def counted(self) -> bool | None:
        """Whether a version came of the update; None while that may still be."""
        if not self.final:
            return None
        return self.state == "accepted" and self.published is not None

    def after(self, document: Mapping[str, Any]) -> Receipt:
        """This receipt after what the server says of the assignment; of odd words nothing."""
        published = document.get("published", self.published)
        whole = isinstance(published, int) and not isinstance(published, bool)
        return replace(
            self,
            state=_text(document, "state")[:40] or self.state,
            code=_text(document, "code")[:100],
            reason=_text(document, "reason")[:1000],
            phase=_text(document, "phase")[:40],
            published=published if whole or published is None else self.published,
        )


def _text(document: Mapping[str, Any], name: str) -> str:
    value = document.get(name)
    return plain(value) if isinstance(value, str) else ""


_PACE = 1.0  # seconds between questions, at least
_ASK_FOR = timedelta(days=7)  # a verdict that has not come by then is not asked for any more
_ASK_ABOUT = 20  # of the updates of earlier processes


class Verdicts:
    """Asks what became of updates, also of those that an earlier process sent.

    Args:
        participant: whose updates they are.
    """

    def __init__(self, participant: Participant) -> None:
        self._participant = participant
        self._pending: dict[int, Receipt] = {}
        self._asked_at = -math.inf

    def begin(self) -> None:
        """Take up the updates whose verdict the ledger does not know."""
        since = datetime.now(UTC) - _ASK_FOR
        known = [one for one in self._participant.ledger.open_updates() if one.at > since]
        for entry in known[-_ASK_ABOUT:]:
            if entry.assignment is not None:
                self._pending[entry.assignment] = _of(entry)

    def expect(self, assignment: Assignment, manifest: UpdateManifest) -> Receipt:
        """Ask from now on about an update that the server has acknowledged."""
        receipt = Receipt(
            run=assignment.run,
            round=assignment.round,
            number=assignment.number,
            model=assignment.model,
            version=assignment.version,
            samples=manifest.samples,
            bytes=manifest.length,
            assignment=assignment.id,
        )
        self._pending[assignment.id] = receipt
        return receipt

    @property
    def open(self) -> bool:
        """Whether there is something to ask about."""
        return bool(self._pending)

    @property
    def seconds_to_next(self) -> float:
        """Seconds until it makes sense to ask again; for ever when nothing is to be asked."""
        if not self._pending:
            return math.inf
        return max(0.0, self._asked_at + _PACE - time.monotonic())

    def ask(self, *, at_once: bool = False) -> Iterator[Receipt]:
        """Ask about each; gives those of which something new is known.

        Args:
            at_once: ask also when that was done a moment ago.
        """
        if not self._pending or (self.seconds_to_next > 0 and not at_once):
            return
        self._asked_at = time.monotonic()
        for number, before in list(self._pending.items()):
            try:
                receipt = before.after(self._participant.assignment(number))
            except RoundClosed:  # it knows nothing of it
                receipt = replace(before, state="unknown")
            except ParticipantError:
                return  # another time
            if receipt == before:
                continue
            self._pending[number] = receipt
            if receipt.final:
                del self._pending[number]
                # Not before: who stops now is to ask for the version another time.
                with suppress(OSError):  # a full disk: it can be asked for again
                    self._note(receipt)
            yield receipt

    def counted(self, assignment: int) -> bool | None:
        """Ask whether a version came of an update; None while that may still be.

        The server is waited for.
        """
        nothing = Receipt(run=0, round=0, number=0, model="", version=0, samples=0, bytes=0)
        try:
            told = self._participant.assignment(assignment, patience=None)
        except RoundClosed:  # it knows nothing of it
            return False
        return nothing.after(told).counted

    def _note(self, receipt: Receipt) -> None:
        told = {name: getattr(receipt, name) for name in ("state", "code", "reason", "published")}
        self._participant.ledger.note(
            "update", durable=False, assignment=receipt.assignment, **told
        )


def _of(entry: Entry) -> Receipt:
    return Receipt(
        run=entry.run or 0,
        round=entry.round or 0,
        number=entry.number or 0,
        model=entry.model,
        version=entry.version or 0,
        samples=entry.samples or 0,
        bytes=entry.bytes,
        state=entry.state,
        assignment=entry.assignment or 0,
    )
