"""Lines of the journal as pages show them: a sentence whose subjects are links.

The names are read for all lines at once. A subject that is gone by now stays as text.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from django.urls import reverse

from frontend import sentences
from journal import events
from journal.models import Event
from rounds import attendance, subjects
from rounds.subjects import Subjects

_PLACES = ("round", "version", "run", "model")  # where a line belongs, the nearest one first


class Part(NamedTuple):
    """Some words, and where they lead; nowhere when empty."""

    text: str
    href: str = ""


@dataclass(frozen=True)
class Line:
    """One line, ready to be shown.

    Attributes:
        event: The row.
        parts: Its sentence.
        place: What it belongs to, where the sentence does not say so.
        is_void: Whether it tells of an assignment that was not needed in the end.
    """

    event: Event
    parts: list[Part]
    place: Part | None
    is_void: bool = False

    @property
    def id(self) -> int:
        return self.event.pk

    @property
    def at(self) -> datetime:
        return self.event.at

    @property
    def text(self) -> str:
        """The sentence without its links."""
        return "".join(part.text for part in self.parts)


def tell(found: Iterable[Event]) -> list[Line]:
    """Lines with their sentences, in the order given."""
    found = list(found)
    known = subjects.of_lines(found)
    return [_line(event, known) for event in found]


def _line(event: Event, known: Subjects) -> Line:
    names = _names(event, known)
    told = _told(event, names)
    parts = [
        Part(piece.text, names[piece.of].part.href if piece.of in names else "") for piece in told
    ]
    said = {piece.of for piece in told}
    nearest = next((of for of in _PLACES if of in names), None)
    place = names[nearest].part if nearest and said.isdisjoint(_PLACES) else None
    group, _, state = event.kind.partition(".")
    outcome = attendance.outcome(state, event.data.get("code", ""))
    is_void = group == "assignment" and outcome == attendance.VOID
    return Line(event, parts, place, is_void)


def _told(event: Event, names: dict[str, "_Name"]) -> list[sentences.Piece]:
    called = {of: name.text for of, name in names.items()}
    return sentences.tell(events.as_json(event), called)


class _Name(NamedTuple):
    """What a subject is called, and the page that shows it: its address is made when asked for."""

    text: str
    page: str
    args: Sequence[Any] = ()
    query: dict[str, str] | None = None

    @property
    def part(self) -> Part:
        return Part(self.text, reverse(f"frontend:{self.page}", args=self.args, query=self.query))


def _names(event: Event, known: Subjects) -> dict[str, _Name]:
    """What a line's subjects are called; the rows that are there."""
    found: dict[str, _Name] = {}
    if slug := known.model.get(event.model or 0):
        found["model"] = _Name(slug, "model", [slug])
    if version := known.version.get(event.version or 0):
        found["version"] = _Name(f"version {version.number} of {version.slug}", "version", version)
    if run := known.run.get(event.run or 0):
        found["run"] = _Name(run, "run", [event.run])
    if round_ := known.round.get(event.round or 0):
        found["round"] = _Name(f"round {round_.number} of {round_.run}", "round", [event.round])
    if participant := known.participant.get(event.participant or 0):
        found["participant"] = _Name(participant.name, "participant", [participant.uuid])
    if event.actor:
        found["actor"] = _whose(event, found)
    return found


def _whose(event: Event, found: dict[str, _Name]) -> _Name:
    """An actor: a participant with its page, or a person with all that they did."""
    participant = found.get("participant")
    if participant and participant.text == event.actor:
        return participant
    return _Name(event.actor, "journal", query={"actor": event.actor})


def as_text(event: Event, known: Subjects) -> str:
    """A line as plain words, for files."""
    return "".join(piece.text for piece in _told(event, _names(event, known)))
