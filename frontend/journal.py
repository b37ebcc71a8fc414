"""The journal: all that happened, narrowed to what is asked for, page by page or as a file."""

import csv
import json
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from io import StringIO
from typing import Any
from uuid import UUID

from channels.db import database_sync_to_async
from django import forms
from django.db.models import Q, QuerySet
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.shortcuts import redirect, render
from django.urls import path, reverse
from django.utils.http import urlencode

from frontend import lines
from frontend.page import LIVE, id_in, page, respond
from frontend.spreadsheet import harmless
from journal import events, selectors
from journal.models import Event
from models_app.models import Model
from rounds import subjects
from rounds.models import Participant

PER_PAGE = 50
MOST_NEW = 1000  # counted no further: "1000 new lines"
CHUNK = 1000  # lines of a file that are in memory at once
GROUPS = {
    "model": "models",
    "version": "versions",
    "run": "runs",
    "round": "rounds",
    "evaluation": "participants' evaluations",
    "assignment": "participants in rounds",
    "participant": "participants",
    "join_code": "join codes",
    "token": "personal tokens",
    "person": "people",
}
ABOUT = (
    ("", "anything"),
    ("model", "the model"),
    ("version", "the version with id"),
    ("run", "the run with number"),
    ("round", "the round with number"),
    ("participant", "the participant"),
)
Chosen = dict[str, list[int]]


# --- What is asked for ------------------------------------------------------------------------


def _kinds() -> list[Any]:
    """Groups of kinds, and each kind in its group, as choices."""
    grouped = [
        (label, [(group, f"all about {label}"), *_kinds_of(group)])
        for group, label in GROUPS.items()
    ]
    return [("", "everything"), *(one for one in grouped if len(one[1]) > 1)]


def _kinds_of(group: str) -> list[tuple[str, str]]:
    of_it = [kind for kind in events.KINDS if kind.partition(".")[0] == group]
    return [(kind, kind.replace("_", " ").replace(".", " ")) for kind in of_it]


MOMENT = forms.DateTimeInput(attrs={"type": "datetime-local"}, format="%Y-%m-%dT%H:%M")


class Filters(forms.Form):
    """What the journal is narrowed to."""

    kind = forms.ChoiceField(label="What", required=False, choices=_kinds)
    about = forms.ChoiceField(label="About", required=False, choices=ABOUT)
    which = forms.CharField(
        label="Which", required=False, max_length=150, help_text="a slug, a number or a name"
    )
    actor = forms.CharField(
        label="By", required=False, max_length=150, help_text="a person or participant"
    )
    text = forms.CharField(
        label="Text", required=False, max_length=200, help_text="in its reason or its data"
    )
    since = forms.DateTimeField(label="From (UTC)", required=False, widget=MOMENT)
    until = forms.DateTimeField(label="Until (UTC)", required=False, widget=MOMENT)

    def clean(self) -> dict[str, Any]:
        told = super().clean() or {}
        about, which = told.get("about"), told.get("which", "").strip()
        if which and not about:
            self.add_error("about", "Say what it is that you look for.")
        if about and which and not self.errors:
            told["chosen"] = {about: _ids(about, which)}
            if not told["chosen"][about]:
                self.add_error("which", f"Expected a {about} that exists. Received: {which}")
        return told


def _ids(about: str, which: str) -> list[int]:
    """Ids of what is asked for, by its slug, number or name; of a row that is gone, its number."""
    found: list[int] = []
    if about == "model":
        found = list(Model.objects.filter(slug=which).values_list("pk", flat=True))
    elif about == "participant":
        named = Participant.objects.filter(_participant(which))
        found = list(named.values_list("pk", flat=True)[:CHUNK])
    number = id_in(which)
    return found or ([] if number is None else [number])


def _participant(which: str) -> Q:
    try:
        return Q(uuid=UUID(which))
    except ValueError:
        return Q(name=which)


@dataclass(frozen=True)
class Asked:
    """A request's filters, read."""

    form: Filters
    query: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, request: HttpRequest) -> "Asked":
        given = {name: value for name, value in request.GET.dict().items() if value.strip()}
        for name, _ in ABOUT[1:]:  # `?run=4` is short for `?about=run&which=4`
            if name in given:
                given |= {"about": name, "which": given.pop(name)}
        form = Filters(given, auto_id="filter-%s")
        form.is_valid()
        query = {name: given[name] for name in form.fields if given.get(name)}
        return cls(form, query)

    @property
    def found(self) -> QuerySet[Event]:
        """The lines; none as long as the form is at fault."""
        told = self.form.cleaned_data
        if self.form.errors:
            return Event.objects.none()
        names = ("kind", "actor", "text", "since", "until")
        return selectors.lines(**{name: told[name] for name in names}, **told.get("chosen", {}))

    @property
    def words(self) -> list[str]:
        """What is asked for, as people say it."""
        asked = self.query
        kinds = dict(_kinds_of(asked.get("kind", "").partition(".")[0]))
        told = {
            "kind": kinds.get(asked.get("kind", "")) or GROUPS.get(asked.get("kind", ""), ""),
            "which": f"{asked.get('about', '')} {asked.get('which', '')}",
            "actor": f"by {asked.get('actor')}",
            "text": f"with \u201c{asked.get('text')}\u201d",
            "since": f"from {asked.get('since', '').replace('T', ' ')}",
            "until": f"until {asked.get('until', '').replace('T', ' ')}",
        }
        return [words for name, words in told.items() if name in asked]

    def address(self, name: str = "journal", **more: Any) -> str:
        """An address with the same filters."""
        query = urlencode(self.query | {key: value for key, value in more.items() if value})
        return reverse(f"frontend:{name}") + (f"?{query}" if query else "")


# --- The page ---------------------------------------------------------------------------------


@page()
def journal(request: HttpRequest) -> HttpResponse:
    """A page of lines, newest first; its place is kept by ids, whatever is written meanwhile."""
    asked = Asked.of(request)
    newest = events.head()  # before the lines are read: what comes later is new
    before, after = _id(request, "before"), _id(request, "after")
    found, newer, older = selectors.page(asked.found, PER_PAGE, before=before, after=after)
    if after is not None and not newer:  # the newest page, then, and a full one
        found, newer, older = selectors.page(asked.found, PER_PAGE)
    context = {
        "form": asked.form,
        "narrowed": asked.words,
        "lines": lines.tell(found),
        "newest": asked.address(),
        "newer": asked.address(after=found[0].pk) if newer and found else "",
        "older": asked.address(before=found[-1].pk) if older and found else "",
        "first_page": not newer,
        "news": asked.address("journal-news", seen=newest),
        "csv": asked.address("journal-export", format="csv"),
        "jsonl": asked.address("journal-export", format="jsonl"),
        "cursor": newest,
    }
    status = 400 if asked.form.errors else 200
    return render(request, "frontend/journal.html", context, status=status)


@page()
def news(request: HttpRequest) -> HttpResponse:
    """How many lines have come since the page was drawn: its one live part."""
    asked = Asked.of(request)
    if LIVE not in request.headers:
        return redirect(asked.address())

    def build() -> dict[str, Any]:
        count = selectors.count_after(asked.found, _id(request, "seen") or 0, MOST_NEW)
        return {"count": count, "most": MOST_NEW, "newest": asked.address()}

    return respond(request, "journal_news", build)


def _id(request: HttpRequest, name: str) -> int | None:
    return id_in(request.GET.get(name, ""))


# --- As a file --------------------------------------------------------------------------------


@page()
def export(request: HttpRequest) -> HttpResponse | StreamingHttpResponse:
    """What is asked for as a file, oldest first, written while it is read."""
    asked, form = Asked.of(request), request.GET.get("format", "csv")
    if asked.form.errors or form not in FORMATS:
        return HttpResponse("Expected filters of the journal, and csv or jsonl.", status=400)
    media_type, header, write = FORMATS[form]
    name = f"journal-{datetime.now(UTC):%Y-%m-%d}.{form}"
    return StreamingHttpResponse(
        _stream(asked.found, events.head(), header, write),
        content_type=media_type,
        headers={"Content-Disposition": f'attachment; filename="{name}"'},
    )


async def _stream(
    found: QuerySet[Event], last: int, header: str, write: Callable[[Sequence[Event]], str]
) -> AsyncIterator[str]:
    """The file, a chunk of lines at a time, up to the line that was the last at its start."""
    yield header
    seen = 0
    while True:
        chunk = found.filter(id__gt=seen, id__lte=last).order_by("id")[:CHUNK]
        written, seen = await database_sync_to_async(partial(_written, chunk, write))()
        if written:
            yield written
        if not seen:
            return


def _written(chunk: QuerySet[Event], write: Callable[[Sequence[Event]], str]) -> tuple[str, int]:
    """A chunk as text, and its greatest id; 0 where no other follows."""
    rows = list(chunk)
    return (write(rows) if rows else ""), (rows[-1].pk if len(rows) == CHUNK else 0)


COLUMNS = ("id", "at", "kind", "actor", "sentence", "reason", *events.SUBJECTS, "data")


def _as_csv(rows: Sequence[Event]) -> str:
    known, text = subjects.of_lines(rows), StringIO()
    table = csv.writer(text)
    for row in rows:
        told = [row.pk, row.at.isoformat(), row.kind, row.actor]
        told += [lines.as_text(row, known), row.reason]
        told += [getattr(row, name) for name in events.SUBJECTS]
        table.writerow([harmless(cell) for cell in (*told, json.dumps(row.data))])
    return text.getvalue()


def _as_json_lines(rows: Sequence[Event]) -> str:
    return "".join(json.dumps(events.as_json(row)) + "\n" for row in rows)


FORMATS: dict[str, tuple[str, str, Callable[[Sequence[Event]], str]]] = {
    "csv": ("text/csv; charset=utf-8", ",".join(COLUMNS) + "\r\n", _as_csv),
    "jsonl": ("application/x-ndjson", "", _as_json_lines),
}

urlpatterns = [
    path("journal/", journal, name="journal"),
    path("journal/news/", news, name="journal-news"),
    path("journal/export/", export, name="journal-export"),
]
