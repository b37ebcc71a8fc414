"""The end of the journal, kept in memory: who was away for a moment catches up without a query."""

from bisect import bisect_right
from collections.abc import Sequence
from operator import attrgetter
from typing import NamedTuple

from journal.wish import Told, Wish

SIZE = 2000  # lines; it may hold up to twice as many


class Page(NamedTuple):
    """Lines that follow a cursor, and the cursor to go on from."""

    lines: list[Told]
    cursor: int


class Tail:
    """Every line after `start`, up to `head`, in order.

    Args:
        lines: The last ones of the journal.
        start: The id after which none of them is missing.
    """

    def __init__(self, lines: Sequence[Told], start: int) -> None:
        self._lines = list(lines)
        self.start = start
        self.head = _id(lines[-1]) if lines else start

    def extend(self, lines: Sequence[Told]) -> None:
        """Adds the lines that follow the head."""
        self._lines += lines
        if lines:
            self.head = _id(lines[-1])
        if len(self._lines) > 2 * SIZE:
            self.start = _id(self._lines[-SIZE - 1])
            del self._lines[:-SIZE]

    def since(self, cursor: int, wish: Wish, limit: int) -> Page:
        """What a reader with this cursor, not before `start`, has yet to see."""
        found: list[Told] = []
        for place in range(bisect_right(self._lines, cursor, key=attrgetter("id")), len(self)):
            if wish.takes(self._lines[place]):
                found.append(self._lines[place])
                if len(found) == limit:
                    return Page(found, _id(found[-1]))
        return Page(found, self.head)

    def __len__(self) -> int:
        return len(self._lines)


def _id(line: Told) -> int:
    assert line.id is not None
    return line.id
