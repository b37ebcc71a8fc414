"""Reads of the journal: a page of it, what is new since, and the last lines."""

from collections.abc import Sequence
from datetime import datetime

from django.db.models import Q, QuerySet

from journal.models import Event

# Not on a first page: too many to read, and told in the round's own; or nobody else's business.
DETAILS = (
    "assignment.invited",
    "assignment.training",
    "assignment.uploaded",
    "assignment.accepted",
    "assignment.carried",
    "round.checked_in",
    "round.has_room",
    "round.taken",
    "version.measuring",
    "version.archived",
    "token.created",
    "token.deleted",
    "person.password_changed",
)


def lines(
    *,
    kind: str = "",
    actor: str = "",
    text: str = "",
    since: datetime | None = None,
    until: datetime | None = None,
    **subjects: Sequence[int],
) -> QuerySet[Event]:
    """The lines that are asked for, in no order yet.

    Args:
        kind: A kind (`run.paused`) or a group of kinds (`run`).
        actor: Who did it, by their exact name.
        text: Found in the reason or in what the line tells, in upper or lower case.
        since: Not before it.
        until: Before it.
        **subjects: For each subject ids of which a line names one.
    """
    found = Event.objects.filter(**{f"{name}__in": ids for name, ids in subjects.items()})
    if kind:
        found = (
            found.filter(kind=kind) if "." in kind else found.filter(kind__startswith=kind + ".")
        )
    if actor:
        found = found.filter(actor=actor)
    if text:
        found = found.filter(Q(reason__icontains=text) | Q(data__icontains=text))
    if since:
        found = found.filter(at__gte=since)
    if until:
        found = found.filter(at__lt=until)
    return found


def page(
    found: QuerySet[Event], size: int, *, before: int | None = None, after: int | None = None
) -> tuple[list[Event], bool, bool]:
    """A page of lines by their ids, which new lines do not shift.

    Args:
        found: What is asked for.
        size: Lines on a page.
        before: Lines older than this one; None for the newest.
        after: Instead, the lines that follow this one.

    Returns:
        Lines, newest first; whether there are newer ones; whether there are older ones.
    """
    if after is not None:
        rows = list(found.filter(id__gt=after).order_by("id")[: size + 1])
        newer = len(rows) > size
        return rows[:size][::-1], newer, found.filter(id__lte=after).exists()
    older = found.filter(id__lt=before) if before is not None else found
    rows = list(older.order_by("-id")[: size + 1])
    newer = before is not None and found.filter(id__gte=before).exists()
    return rows[:size], newer, len(rows) > size


def count_after(found: QuerySet[Event], after: int, most: int) -> int:
    """How many lines have come since, counted no further than `most`."""
    return found.filter(id__gt=after).order_by()[:most].count()


def recent(count: int) -> list[Event]:
    """The last lines but for the details, newest first."""
    return list(Event.objects.exclude(kind__in=DETAILS).order_by("-id")[:count])
