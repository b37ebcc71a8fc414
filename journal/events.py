"""The vocabulary of events, and the one way to write them.

    with events.transaction() as journal:
        ...                                     # conditional UPDATEs
        journal.record("round.opened", run=1, round=7, number=3)

The lines are inserted last, in one statement, under a lock that PostgreSQL holds until the commit:
so ids become visible in their own order, and a reader that has seen id n never has to look below n
again. They are announced on Redis after the commit. An announcement is a hint: that it fails is
logged, and readers replay from the table.
"""

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime
from functools import cache
from typing import Any

import redis
from django.conf import settings
from django.db import connection
from django.db import transaction as database
from django.db.models import Max, QuerySet

from journal.models import Event

logger = logging.getLogger(__name__)

CHANNEL = settings.REDIS_PREFIX + "events"
SUBJECTS = ("model", "version", "run", "round", "assignment", "participant")

# Every event there is, with the data it may carry beside its subjects, actor and reason.
KINDS: dict[str, frozenset[str]] = {
    kind: frozenset(fields.split())
    for kind, fields in {
        "model.created": "slug",
        "version.created": "number origin",
        "version.measuring": "number",
        "version.evaluated": "number metrics",
        "version.published": "number origin",
        "version.rejected": "number",
        "version.archived": "number",
        "version.rolled_back": "number to",
        "version.exported": "number format",
        "participant.enrolled": "name",
        "participant.suspended": "name",
        "participant.reinstated": "name",
        "participant.revoked": "name",
        "participant.rotated": "name",
        "participant.left": "name",
        "join_code.created": "label max_uses expires_at",
        "join_code.withdrawn": "label",
        "token.created": "label expires_at user",
        "token.deleted": "label user",
        "person.password_changed": "",
        "run.created": "name strategy",
        "run.started": "",
        "run.paused": "",
        "run.resumed": "",
        "run.stopped": "",
        "run.completed": "rounds because",
        "run.failed": "failures",
        "run.retrying": "failures seconds next_round_at",
        "round.opened": "number base target quorum deadline",
        "round.checked_in": "number checked_in wanted",
        "round.has_room": "number",
        "round.training": "number invited target deadline",
        "round.aggregating": "number accepted deadline",
        "round.taken": "number phase attempts expires_at",
        "round.stumbled": "number phase attempts",
        "round.evaluating": "number version_number diagnostics seconds deadline",
        "round.published": "number version_number metrics base_metrics seconds",
        "round.failed": "number code metrics base_metrics",
        "round.cancelled": "number",
        "evaluation.opened": "evaluation version_number goal minimum deadline round_deadline "
        "metrics base_metrics",
        "evaluation.reported": "evaluation version_number name reports goal",
        "evaluation.done": "evaluation version_number reports summary metrics base_metrics "
        "round_deadline",
        "evaluation.failed": "evaluation version_number reports minimum round_deadline",
        "evaluation.cancelled": "evaluation version_number round_deadline",
        "assignment.invited": "name uuid",
        "assignment.training": "name progress",
        "assignment.progress": "name activity fraction epoch epochs metrics activities",
        "assignment.uploaded": "name samples bytes norm metrics progress",
        "assignment.carried": "name before place",
        "assignment.accepted": "name staleness",
        "assignment.quarantined": "name code norm limit staleness",
        "assignment.rejected": "name code progress staleness",
        "assignment.refused": "name code refusals",
        "assignment.failed": "name code progress",
        "assignment.withdrawn": "name code progress",
        "assignment.late": "name code progress",
        "assignment.lost": "name code progress",
    }.items()
}
# What server processes tell each other over the same channel; it reaches no page.
RECHECK = "session.recheck"
# The advisory lock that serialises journal writers on PostgreSQL ("fedserve" in ASCII).
_JOURNAL_LOCK = 0x6665647365727665


class UndeclaredEvent(Exception):
    """A line that the vocabulary does not know: a mistake in our own code."""


class Journal:
    """The lines of one transaction, in the order they were recorded."""

    def __init__(self) -> None:
        self.lines: list[Event] = []

    def record(
        self,
        kind: str,
        *,
        actor: str = "",
        reason: str = "",
        at: datetime | None = None,
        **fields: Any,
    ) -> None:
        """Add a line, to be inserted when the transaction ends.

        Args:
            kind: One of `KINDS`.
            actor: Who did it: a user's or participant's name; empty for the server itself.
            reason: Why, in a sentence for people.
            at: When, by the database's clock: the time that the row got; None for now.
            **fields: Ids of subjects (`model`, `version`, `run`, `round`, `assignment`,
                `participant`) and the data that the kind declares.

        Raises:
            UndeclaredEvent: The kind or a field is not in the vocabulary.
        """
        if kind not in KINDS:
            raise UndeclaredEvent(f"Expected a kind of journal.events.KINDS. Received: {kind}")
        subjects = {name: fields.pop(name) for name in SUBJECTS if name in fields}
        if unknown := fields.keys() - KINDS[kind]:
            raise UndeclaredEvent(f"{kind} has no such data. Received: {sorted(unknown)}")
        when = {} if at is None else {"at": at}
        self.lines.append(
            Event(kind=kind, actor=actor, reason=reason, data=fields, **when, **subjects)
        )


_current: ContextVar[Journal | None] = ContextVar("journal", default=None)


@contextmanager
def transaction() -> Iterator[Journal]:
    """A database transaction with a journal; inside another one, a part of that one.

    Yields:
        The journal whose lines enter the table with the transaction's other changes.
    """
    if (outer := _current.get()) is not None:
        written = len(outer.lines)
        try:
            with database.atomic():
                yield outer
        except BaseException:
            del outer.lines[written:]  # what they tell of has been rolled back
            raise
        return
    journal = Journal()
    token = _current.set(journal)
    try:
        with database.atomic():
            yield journal
            _insert(journal.lines)
    finally:
        _current.reset(token)


def _insert(lines: list[Event]) -> None:
    if not lines:
        return
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_xact_lock(%s)", [_JOURNAL_LOCK])
    Event.objects.bulk_create(lines)
    _tell_the_time(lines)
    database.on_commit(lambda: announce([as_json(line) for line in lines]))


def _tell_the_time(lines: list[Event]) -> None:
    """Read the times that the database gave, so that what is announced is what is replayed."""
    timeless = {line.id: line for line in lines if not isinstance(line.at, datetime)}
    given = Event.objects.filter(id__in=timeless).values_list("id", "at") if timeless else ()
    for pk, at in given:
        timeless[pk].at = at


def hint(kind: str, **fields: Any) -> None:
    """Announce a state that is kept in a row and not worth a line, such as progress.

    Args:
        kind: One of `KINDS`.
        **fields: Time, subjects and data, as for `Journal.record`.
    """
    journal = Journal()
    journal.record(kind, **fields)
    documents = [as_json(line) for line in journal.lines]
    database.on_commit(lambda: announce(documents))


def as_json(line: Event) -> dict[str, Any]:
    """A line as the API and the sockets show it."""
    at = line.at.isoformat() if isinstance(line.at, datetime) else None
    document = {"id": line.id, "at": at, "kind": line.kind, "actor": line.actor}
    document["reason"] = line.reason
    document |= {name: getattr(line, name) for name in SUBJECTS if getattr(line, name) is not None}
    return document | {"data": line.data}


@cache
def _redis() -> redis.Redis:
    return redis.Redis.from_url(
        settings.REDIS_URL, socket_timeout=1, socket_connect_timeout=1, health_check_interval=30
    )


def announce(documents: list[dict[str, Any]]) -> None:
    """Tell whoever listens now. A broker that is away costs a log line, never the request.

    Args:
        documents: Events as `as_json` gives them, or unrecorded hints without an id.
    """
    if not settings.REDIS_URL:
        return  # a simulation: nobody listens
    try:
        _redis().publish(CHANNEL, json.dumps(documents))
    except redis.RedisError as error:
        logger.warning("%d events were not announced: %s", len(documents), error)


def is_heard() -> bool:
    """Whether the broker answers: without it nothing is told live, and rounds stand still."""
    try:
        return bool(_redis().ping())
    except redis.RedisError:
        return False


def recheck(user: int) -> None:
    """Have the sockets of a user looked at again at once, for example when they signed out.

    Without it each is looked at once a minute.
    """
    announce([{"id": None, "kind": RECHECK, "user": user}])


def head() -> int:
    """The greatest id there is: what a page has seen that is drawn from the rows after this."""
    return Event.objects.aggregate(head=Max("id"))["head"] or 0


def replay(after: int, **subjects: int) -> QuerySet[Event]:
    """The lines after a cursor, oldest first.

    Args:
        after: The greatest id that the reader has seen; 0 for all.
        **subjects: Ids to narrow to, for example `round=7`.
    """
    return Event.objects.filter(id__gt=after, **subjects).order_by("id")
