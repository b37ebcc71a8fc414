"""What a page wants to hear of: its subjects and its kinds of events."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from django.db.models import Q

from journal.events import KINDS, SUBJECTS

MOST_KINDS = 64
_FAMILIES = frozenset(kind.partition(".")[0] + "." for kind in KINDS)


class Told(NamedTuple):
    """An event as it goes out: serialised once, however many pages show it."""

    id: int | None
    kind: str
    family: str
    subjects: dict[str, int]
    text: str

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> "Told":
        """From an event as `journal.events.as_json` gives it."""
        kind = document["kind"]
        subjects = {name: document[name] for name in SUBJECTS if name in document}
        text = json.dumps(document, separators=(",", ":"))
        return cls(document["id"], kind, kind.partition(".")[0] + ".", subjects, text)


@dataclass(frozen=True)
class Wish:
    """A filter of events. Equal wishes share what is sent.

    Args:
        subjects: Pairs of a subject's name and the id that an event must carry; none: all events.
        kinds: Kinds (`run.paused`) and families of kinds (`run.`); none: all kinds. A family has
            its lines: passing news such as `assignment.progress` are told to who names them.
    """

    subjects: tuple[tuple[str, int], ...] = ()
    kinds: frozenset[str] = frozenset()

    @classmethod
    def of(cls, asked: Mapping[str, Any]) -> "Wish":
        """From what a page says, beside its cursor.

        Raises:
            ValueError: It makes no sense.
        """
        subjects = {name: value for name, value in asked.items() if name != "kinds"}
        if unknown := subjects.keys() - set(SUBJECTS):
            raise ValueError(f"Expected some of {SUBJECTS}, kinds. Received: {sorted(unknown)}")
        if not all(map(is_id, subjects.values())):
            raise ValueError(f"Expected ids. Received: {subjects}")
        return cls(tuple(sorted(subjects.items())), _kinds(asked.get("kinds", [])))

    @property
    def subject(self) -> tuple[str, int] | None:
        """One that every event it takes must carry, if there is one."""
        return self.subjects[0] if self.subjects else None

    def takes(self, one: Told) -> bool:
        named = not self.kinds or one.kind in self.kinds
        if not named and (one.id is None or one.family not in self.kinds):
            return False
        return all(one.subjects.get(name) == value for name, value in self.subjects)

    def query(self) -> Q:
        """The same for lines of the table."""
        wanted = Q(**dict(self.subjects))
        if self.kinds:
            families = {kind for kind in KINDS for name in self.kinds if kind.startswith(name)}
            wanted &= Q(kind__in=sorted(families))
        return wanted


def is_id(value: object) -> bool:
    return type(value) is int and 0 <= value < 2**63


def _kinds(asked: object) -> frozenset[str]:
    if not isinstance(asked, list) or len(asked) > MOST_KINDS:
        raise ValueError(f"Expected a list of kinds, {MOST_KINDS} at most.")
    for name in asked:
        if not isinstance(name, str) or (name not in KINDS and name not in _FAMILIES):
            raise ValueError(f"Expected kinds, or families such as 'run.'. Received: {name!r}")
    return frozenset(asked)
