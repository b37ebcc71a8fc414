"""The journal's page: sentences, filters, pages that keep their place, news, and files."""

import csv
import json
from collections.abc import Callable
from datetime import timedelta
from io import StringIO
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.test import AsyncClient, Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from frontend import journal
from frontend.page import LIVE
from frontend.spreadsheet import harmless
from journal import events
from journal.models import Event
from models_app.models import Model
from rounds import enrolment, lifecycle
from rounds.models import Run
from tests.rounds.conftest import Enrolled
from tests.rounds.updates import all_check_in, carry, upload

pytestmark = pytest.mark.django_db
Enrol = Callable[..., Enrolled]


def at(user: User) -> Client:
    client = Client()
    client.force_login(user)
    return client


def write(count: int, kind: str = "run.paused", **fields: Any) -> None:
    with events.transaction() as lines:
        for number in range(count):
            lines.record(kind, reason=f"reason {number}", **fields)


def shown(answer: Any) -> list[int]:
    return [line.id for line in answer.context["lines"]]


def told(answer: Any) -> list[str]:
    return [line.text for line in answer.context["lines"]]


@pytest.fixture
def lived(tiny_model: Model, enrolled: Enrol) -> Run:
    """A run whose first round charlie and dora have brought to its end."""
    charlie, dora = enrolled("charlie"), enrolled("dora")
    run = lifecycle.create_run(tiny_model, name="autumn", rounds_planned=3, actor="bob")
    first = lifecycle.start_run(run.pk, actor="bob", reason="the scanners are in")
    all_check_in(charlie, dora)
    upload(charlie)
    upload(dora)
    carry(first)
    return run


# --- Lines ------------------------------------------------------------------------------------


def test_every_line_is_a_sentence_with_links_to_what_it_speaks_of(lived: Run, victor: User) -> None:
    page = at(victor).get("/journal/")
    assert "bob started autumn" in told(page)
    assert "Round 1 of autumn published version 2" in told(page)
    assert "charlie uploaded its update: 10 samples, 228 B" in told(page)
    html = page.content.decode()
    assert f'<a href="/runs/{lived.pk}/">autumn</a>' in html
    assert '<a href="/journal/?actor=bob">bob</a>' in html
    charlie = enrolment.Participant.objects.get(name="charlie")
    assert f'<a href="/participants/{charlie.uuid}/">charlie</a>' in html
    assert "the scanners are in" in html


def test_an_end_that_is_nobodys_fault_has_no_colour_of_one(lived: Run, victor: User) -> None:
    with events.transaction() as lines:
        lines.record("assignment.rejected", name="dora", code="bad_uploads", run=lived.pk)
        lines.record("assignment.rejected", name="emil", code="run_completed", run=lived.pk)
    page = at(victor).get("/journal/")
    assert told(page)[:2] == ["The update of emil was not used", "The update of dora was rejected"]
    assert page.content.decode().count(" data-void>") == 1


def test_newest_lines_come_first(lived: Run, victor: User) -> None:
    ids = shown(at(victor).get("/journal/"))
    assert ids == sorted(ids, reverse=True)


def test_what_is_gone_stays_as_text(victor: User) -> None:
    write(1, run=99, actor="bob")
    write(1, "round.failed", run=99, round=77, number=3)
    page = at(victor).get("/journal/")
    assert told(page) == ["Round 3 failed", "bob paused run 99"]
    assert "/runs/99/" not in page.content.decode()


def test_names_that_people_chose_are_text_and_no_markup(victor: User) -> None:
    write(1, "participant.left", participant=5, name="<b>eve</b>")
    assert "&lt;b&gt;eve&lt;/b&gt; left for good" in at(victor).get("/journal/").content.decode()


def test_an_empty_journal_says_what_will_be_written(victor: User) -> None:
    assert "Nothing has happened yet" in at(victor).get("/journal/").content.decode()


def test_reading_it_takes_as_many_queries_however_long_it_is(
    lived: Run, enrolled: Enrol, victor: User
) -> None:
    client = at(victor)
    counts = []
    for _ in range(2):
        with CaptureQueriesContext(connection) as queries:
            client.get("/journal/")
        counts.append(len(queries))
        for number in range(20):
            enrolled(f"participant {number}")
    assert counts == [10, 10]  # session, user, groups, cursor, lines, names of five kinds


# --- Narrowed ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("kind=run", {"run.created", "run.started"}),
        ("kind=run.started", {"run.started"}),
        ("actor=bob", {"run.created", "run.started"}),
        ("actor=bob&kind=run.created", {"run.created"}),
        ("actor=BOB", set()),
        ("text=scanners", {"run.started"}),
        ("text=SCANNERS", {"run.started"}),
        ("text=fedavg", {"run.created"}),
        ("about=model&which=tiny&kind=model", {"model.created"}),
        ("model=tiny&kind=run", {"run.created", "run.started"}),
        ("since=2000-01-01T00:00&until=2001-01-01T00:00", set()),
        ("since=2000-01-01T00:00&kind=model", {"model.created"}),
        ("participant=charlie&kind=participant", {"participant.enrolled"}),
        ("about=participant&which=dora&kind=assignment.accepted", {"assignment.accepted"}),
    ],
)
def test_narrowed_to(lived: Run, victor: User, query: str, expected: set[str]) -> None:
    page = at(victor).get(f"/journal/?{query}")
    assert page.status_code == 200
    assert {line.event.kind for line in page.context["lines"]} == expected
    assert page.context["narrowed"]


def test_pages_link_to_what_happened_to_a_run_a_round_or_a_participant(
    lived: Run, victor: User
) -> None:
    client, round_ = at(victor), lived.rounds.get(number=1)
    assert "bob started autumn" in told(client.get(f"/journal/?run={lived.pk}"))
    of_round = client.get(f"/journal/?round={round_.pk}").context["lines"]
    assert {line.event.round for line in of_round} == {round_.pk}
    charlie = enrolment.Participant.objects.get(name="charlie")
    by_uuid = client.get(f"/journal/?participant={charlie.uuid}")
    assert "charlie enrolled" in told(by_uuid)
    assert "dora enrolled" not in told(by_uuid)


def test_a_run_that_is_gone_is_still_found_by_its_number(victor: User) -> None:
    write(1, run=99)
    assert told(at(victor).get("/journal/?run=99")) == ["Run 99 was paused"]


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("kind=nonsense", "kind"),
        ("about=moon&which=1", "about"),
        ("which=4", "about"),
        ("model=nowhere", "which"),
        ("run=-1", "which"),
        ("run=" + "9" * 30, "which"),
        ("run=٣", "which"),
        ("participant=nobody", "which"),
        ("since=yesterday", "since"),
        ("text=" + "x" * 201, "text"),
    ],
)
def test_what_cannot_be_asked_is_said_at_its_field(
    victor: User, tiny_model: Model, query: str, field: str
) -> None:
    page = at(victor).get(f"/journal/?{query}")
    assert page.status_code == 400
    assert list(page.context["form"].errors) == [field]
    assert shown(page) == []
    assert at(victor).get(f"/journal/export/?{query}").status_code == 400


# --- Pages ------------------------------------------------------------------------------------


def test_pages_keep_their_place_while_lines_are_written(victor: User) -> None:
    write(120)
    everything = list(Event.objects.order_by("-id").values_list("id", flat=True))
    client = at(victor)
    first = client.get("/journal/")
    assert shown(first) == everything[:50]
    write(30)
    second = client.get(first.context["older"])
    assert shown(second) == everything[50:100]
    write(30)
    third = client.get(second.context["older"])
    assert shown(third) == everything[100:]
    assert third.context["older"] == ""
    assert shown(client.get(third.context["newer"])) == everything[50:100]


def test_the_way_back_ends_on_a_full_newest_page(victor: User) -> None:
    write(60)
    client = at(victor)
    second = client.get(client.get("/journal/").context["older"])
    write(3)
    back = client.get(second.context["newer"])
    assert len(shown(back)) == 50
    newest = client.get(back.context["newer"]) if back.context["newer"] else back
    assert shown(newest)[0] == Event.objects.latest("id").pk
    assert newest.context["first_page"]


def test_pages_keep_what_they_are_narrowed_to(victor: User) -> None:
    write(60, actor="bob")
    write(60, actor="alice")
    older = at(victor).get("/journal/?actor=bob&kind=run").context["older"]
    page = at(victor).get(older)
    assert {line.event.actor for line in page.context["lines"]} == {"bob"}
    assert len(shown(page)) == 10


@pytest.mark.parametrize("place", ["before=x", "before=-1", "after=" + "9" * 40, "before=0"])
def test_a_place_that_makes_no_sense_does_no_harm(victor: User, place: str) -> None:
    write(3)
    assert at(victor).get(f"/journal/?{place}").status_code == 200


# --- News -------------------------------------------------------------------------------------


def news(client: Client, page: Any) -> str:
    answer = client.get(page.context["news"], headers={LIVE: str(Event.objects.latest("id").pk)})
    assert answer.status_code == 200
    return str(answer.content.decode())


def test_new_lines_are_announced_and_not_pushed_in(victor: User) -> None:
    write(3, actor="bob")
    client = at(victor)
    page = client.get("/journal/?actor=bob")
    assert news(client, page).strip() == ""
    write(1, actor="bob")
    assert "1 new line " in news(client, page)
    write(11, actor="bob")
    write(5, actor="alice")
    assert "12 new lines " in news(client, page)
    assert 'href="/journal/?actor=bob"' in news(client, page)


def test_news_are_counted_so_far_and_no_further(
    victor: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(1)
    client = at(victor)
    page = client.get("/journal/")
    monkeypatch.setattr(journal, "MOST_NEW", 5)
    write(20)
    assert "5 or more new lines" in news(client, page)


def test_news_are_no_page_of_their_own(victor: User) -> None:
    assert at(victor).get("/journal/news/?seen=3&actor=bob")["Location"] == "/journal/?actor=bob"


# --- Files ------------------------------------------------------------------------------------


async def file_of(user: User, query: str) -> tuple[Any, list[str]]:
    client = AsyncClient()
    await client.aforce_login(user)
    answer: Any = await client.get(f"/journal/export/?{query}")
    return answer, [chunk.decode() async for chunk in answer]


@pytest.mark.django_db(transaction=True)
async def test_a_csv_file_of_what_is_asked_for(victor: User) -> None:
    await journal.database_sync_to_async(write)(2, actor="bob", run=4)
    await journal.database_sync_to_async(write)(2, actor="alice", run=4)
    answer, chunks = await file_of(victor, "actor=bob&format=csv")
    assert answer["Content-Type"] == "text/csv; charset=utf-8"
    assert answer["Content-Disposition"].startswith('attachment; filename="journal-')
    rows = list(csv.DictReader(StringIO("".join(chunks))))
    assert [row["sentence"] for row in rows] == ["bob paused run 4"] * 2
    assert [row["reason"] for row in rows] == ["reason 0", "reason 1"]
    assert (rows[0]["run"], rows[0]["round"], json.loads(rows[0]["data"])) == ("4", "", {})


@pytest.mark.django_db(transaction=True)
async def test_json_lines_are_as_the_api_tells_them(victor: User) -> None:
    await journal.database_sync_to_async(write)(3, run=4)
    _, chunks = await file_of(victor, "format=jsonl")
    documents = [json.loads(line) for line in "".join(chunks).splitlines()]
    client = AsyncClient()
    await client.aforce_login(victor)
    api = json.loads((await client.get("/api/v1/events?after=0")).content)["events"]
    assert documents == api


@pytest.mark.django_db(transaction=True)
async def test_a_long_file_comes_in_pieces_and_ends_where_it_began(
    victor: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "CHUNK", 4)
    await journal.database_sync_to_async(write)(10)
    client = AsyncClient()
    await client.aforce_login(victor)
    answer: Any = await client.get("/journal/export/?format=jsonl")
    pieces = []
    async for piece in answer:
        pieces.append(piece.decode().splitlines())
        await journal.database_sync_to_async(write)(3)  # while it is read
    assert [len(piece) for piece in pieces if piece] == [4, 4, 2]
    ids = [json.loads(line)["id"] for piece in pieces for line in piece]
    assert ids == sorted(set(ids))


@pytest.mark.parametrize("cell", ["=1+1", "+1", "-1", "@SUM(A1)", "\tx", "\rx"])
def test_no_cell_is_taken_for_a_formula(cell: str) -> None:
    assert harmless(cell) == "'" + cell


@pytest.mark.parametrize("cell", ["bob", "", 7, -7, None, "a=b", '{"a": 1}'])
def test_other_cells_stay_as_they_are(cell: Any) -> None:
    assert harmless(cell) == cell


@pytest.mark.django_db(transaction=True)
async def test_a_reason_that_is_a_formula_is_made_harmless_in_the_file(victor: User) -> None:
    def record() -> None:
        with events.transaction() as lines:
            lines.record("run.paused", actor="=cmd|'/c calc'!A1", reason="@evil", run=4)

    await journal.database_sync_to_async(record)()
    _, chunks = await file_of(victor, "format=csv")
    row = next(csv.DictReader(StringIO("".join(chunks))))
    assert row["actor"].startswith("'=")
    assert row["sentence"].startswith("'=")
    assert row["reason"] == "'@evil"


@pytest.mark.parametrize("form", ["xlsx", ""])
def test_there_are_no_other_files(victor: User, form: str) -> None:
    assert at(victor).get(f"/journal/export/?format={form}").status_code == 400


# --- Who --------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/journal/", "/journal/export/?format=csv", "/journal/news/"])
def test_it_is_for_people_who_are_signed_in(db: None, path: str) -> None:
    assert Client().get(path)["Location"].startswith("/sign-in/?next=/journal/")


def test_moments_are_exact_to_the_second(victor: User) -> None:
    write(1)
    line = Event.objects.get()
    page = at(victor).get("/journal/").content.decode()
    assert line.at.strftime(">%H:%M:%S</time>") in page
    soon = (timezone.now() + timedelta(minutes=1)).strftime("%Y-%m-%dT%H:%M")
    assert len(shown(at(victor).get(f"/journal/?until={soon}"))) == 1
