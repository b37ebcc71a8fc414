"""Passing news, paced: the first one at once, then the latest twice a second, the last never lost.

A participant may report its progress a hundred times a second; a page shows two of them. When an
assignment moves on, what waits of it is dropped, and what comes late of it as well.
"""

from collections.abc import Hashable

from journal.wish import Told, Wish

PAUSE = 0.5  # seconds between two hints about the same
KEPT = 10_000  # assignments that are remembered; the longest untold are forgotten first
# Lines about an assignment after which its progress is still news.
AT_WORK = frozenset({"assignment.invited", "assignment.training", "assignment.refused"})


class Hints:
    """The latest hint about each assignment, and which of them are to be told when."""

    def __init__(self) -> None:
        self._latest: dict[Hashable, Told] = {}
        self._told_at: dict[Hashable, float] = {}
        self._waiting: dict[Hashable, float] = {}  # and from when on they may be told
        self._over: dict[Hashable, None] = {}  # an ordered set

    def put(self, hint: Told, now: float) -> None:
        """Takes a hint, for the next that are due."""
        about = _about(hint)
        if about in self._over:
            return
        self._latest.pop(about, None)  # so that the order is that of news
        self._latest[about] = hint
        told_at = self._told_at.get(about)
        self._waiting.setdefault(about, now if told_at is None else max(now, told_at + PAUSE))
        if len(self._latest) > KEPT:
            self._forget(next(iter(self._latest)))

    def heed(self, line: Told) -> None:
        """Drops what a line of the journal makes old: an assignment that has moved on."""
        if line.family != "assignment." or line.kind in AT_WORK:
            return
        about = _about(line)
        self._forget(about)
        if line.kind == "assignment.carried":
            return  # what was known of it named the round before; it is still at work
        self._over[about] = None
        if len(self._over) > KEPT:
            del self._over[next(iter(self._over))]

    def due(self, now: float) -> list[Told]:
        """Those that are told now."""
        found = [about for about, at in self._waiting.items() if at <= now]
        for about in found:
            del self._waiting[about]
            self._told_at[about] = now
        return [self._latest[about] for about in found]

    def next_at(self) -> float | None:
        """When the next one is due."""
        return min(self._waiting.values(), default=None)

    def latest(self, wish: Wish) -> list[Told]:
        """What is known of those who are at work, for a page that has just come."""
        return [hint for hint in self._latest.values() if wish.takes(hint)]

    def _forget(self, about: Hashable) -> None:
        for kept in (self._latest, self._told_at, self._waiting):
            kept.pop(about, None)


def _about(one: Told) -> Hashable:
    """What a hint replaces the one before of: an assignment, else what it speaks of."""
    return one.subjects.get("assignment") or tuple(one.subjects.items())
