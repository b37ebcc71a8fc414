"""Times as people type them."""

from __future__ import annotations

import re
from datetime import UTC, datetime, time, timedelta

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
EXPECTED = "18:30, 2027-01-31, 2027-01-31T18:30 or a span such as 90m, 8h, 7d"


def read(text: str, now: datetime, *, ahead: bool) -> datetime:
    """A point in time, from a clock time, a date, both, or a span from now.

    Args:
        text: what was typed; without a time zone the one of this machine is meant.
        now: with its time zone.
        ahead: whether spans and bare clock times lie ahead of now or behind it.

    Raises:
        ValueError: for anything else.

    Example:
        >>> now = datetime(2027, 1, 31, 12, tzinfo=UTC)
        >>> read("90m", now, ahead=True).isoformat()
        '2027-01-31T13:30:00+00:00'
    """
    try:
        if found := re.fullmatch(r"(\d+)([smhdw])", text):
            span = timedelta(**{_UNITS[found[2]]: int(found[1])})
            return now + span if ahead else now - span
        if re.fullmatch(r"\d\d?:\d\d", text):
            return _clock(text, now, ahead)
        moment = datetime.fromisoformat(text)
    except (ValueError, OverflowError):
        raise ValueError(f"Expected {EXPECTED}. Received: {text}") from None
    return (moment if moment.tzinfo else moment.astimezone()).astimezone(UTC)


def _clock(text: str, now: datetime, ahead: bool) -> datetime:
    hour, minute = map(int, text.split(":"))
    here = now.astimezone()
    day = here.date()
    # Through the naive time, so that a day with 23 or 25 hours comes out right.
    moment = datetime.combine(day, time(hour, minute)).astimezone()
    if ahead and moment <= here:
        moment = datetime.combine(day + timedelta(days=1), time(hour, minute)).astimezone()
    if not ahead and moment > here:
        moment = datetime.combine(day - timedelta(days=1), time(hour, minute)).astimezone()
    return moment.astimezone(UTC)


def short(moment: datetime) -> str:
    """A time as a column of a table shows it, in this machine's time zone."""
    return moment.astimezone().strftime("%Y-%m-%d %H:%M:%S")
