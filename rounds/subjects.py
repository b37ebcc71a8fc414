"""What lines of the journal speak of: the names of their subjects, as far as these still exist."""

from collections.abc import Iterable
from typing import Any, NamedTuple
from uuid import UUID

from journal.models import Event
from models_app.models import Model, ModelVersion
from rounds.models import Participant, Round, Run


class VersionName(NamedTuple):
    slug: str
    number: int


class RoundName(NamedTuple):
    run: str
    number: int


class ParticipantName(NamedTuple):
    uuid: UUID
    name: str


class Subjects(NamedTuple):
    """By kind of subject, what each id stands for; ids of rows that are gone are missing."""

    model: dict[int, str]
    version: dict[int, VersionName]
    run: dict[int, str]
    round: dict[int, RoundName]
    participant: dict[int, ParticipantName]


def of_lines(lines: Iterable[Event]) -> Subjects:
    """The subjects of lines, by five queries at most, however many lines there are."""
    lines = list(lines)

    def found(name: str, rows: Any, *fields: str) -> Any:
        ids = {getattr(line, name) for line in lines} - {None}
        return rows.filter(pk__in=ids).values_list("pk", *fields) if ids else ()

    versions = found("version", ModelVersion.objects.order_by(), "model__slug", "number")
    rounds = found("round", Round.objects.order_by(), "run__name", "number")
    participants = found("participant", Participant.objects, "uuid", "name")
    return Subjects(
        model=dict(found("model", Model.objects.order_by(), "slug")),
        version={pk: VersionName(*rest) for pk, *rest in versions},
        run=dict(found("run", Run.objects, "name")),
        round={pk: RoundName(*rest) for pk, *rest in rounds},
        participant={pk: ParticipantName(*rest) for pk, *rest in participants},
    )
