"""Lines of the journal as pages show them: a sentence whose subjects are links.

The names are read for all lines at once. A subject that is gone by now stays as text.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from django.urls import reverse

from frontend import sentences
from journal import events
from journal.models import Event
from rounds import subjects
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
    """

    event: Event
    parts: list[Part]
    place: Part | None

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
    told = sentences.tell(events.as_json(event), {of: part.text for of, part in names.items()})
    parts = [Part(piece.text, names[piece.of].href if piece.of in names else "") for piece in told]
    said = {piece.of for piece in told}
    nearest = next((of for of in _PLACES if of in names), None)
    place = names[nearest] if nearest and said.isdisjoint(_PLACES) else None
    return Line(event, parts, place)


def _names(event: Event, known: Subjects) -> dict[str, Part]:
    """What a line's subjects are called, and where each is shown; the rows that are there."""
    found: dict[str, Part] = {}
    if slug := known.model.get(event.model or 0):
        found["model"] = Part(slug, reverse("frontend:model", args=[slug]))
    if version := known.version.get(event.version or 0):
        address = reverse("frontend:version", args=version)
        found["version"] = Part(f"version {version.number} of {version.slug}", address)
    if run := known.run.get(event.run or 0):
        found["run"] = Part(run, reverse("frontend:run", args=[event.run]))
    if round_ := known.round.get(event.round or 0):
        address = reverse("frontend:round", args=[event.round])
        found["round"] = Part(f"round {round_.number} of {round_.run}", address)
    if participant := known.participant.get(event.participant or 0):
        address = reverse("frontend:participant", args=[participant.uuid])
        found["participant"] = Part(participant.name, address)
    if event.actor:
        found["actor"] = Part(event.actor, _whose(event, found))
    return found


def _whose(event: Event, found: dict[str, Part]) -> str:
    """What an actor's name leads to: a participant's page, or all that a person did."""
    participant = found.get("participant")
    if participant and participant.text == event.actor:
        return participant.href
    return reverse("frontend:journal", query={"actor": event.actor})


def as_text(event: Event, known: Subjects) -> str:
    """A line as plain words, for files."""
    return _line(event, known).text
