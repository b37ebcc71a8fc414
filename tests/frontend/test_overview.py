"""The first page: what is going on, what needs somebody, and how one begins."""

import re
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
import redis
from django.conf import settings
from django.contrib.auth.models import User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from frontend import overview
from frontend.page import LIVE
from journal.models import Event
from models_app import registry
from models_app.models import Model, ModelVersion
from rounds import enrolment, lifecycle
from rounds import overview as reads
from rounds.models import Assignment, JoinCode, Participant, Round, Run
from tests.rounds.conftest import Enrolled, tiny_package
from tests.rounds.updates import all_check_in, carry, upload

pytestmark = pytest.mark.django_db
Enrol = Callable[..., Enrolled]
QUERIES = 29


def at(user: User) -> Client:
    client = Client()
    client.force_login(user)
    return client


def text(answer: Any) -> str:
    """A page's words, without its markup."""
    page = re.sub(r"(?s)<(script|svg).*?</\1>", " ", answer.content.decode())
    return " ".join(re.sub(r"<[^>]+>", " ", page).split())


def notices(user: User) -> list[str]:
    return [one.what for one in at(user).get("/").context["notices"]]


@pytest.fixture(autouse=True)
def broker(monkeypatch: pytest.MonkeyPatch) -> None:
    """It answers: one that does not would be a notice on each page."""
    monkeypatch.setattr("journal.events.is_heard", lambda: True)


@pytest.fixture
def published(tiny_model: Model, enrolled: Enrol) -> Run:
    """A run whose first round was published, and whose second one selects."""
    charlie, dora = enrolled("charlie"), enrolled("dora")
    run = lifecycle.create_run(tiny_model, name="autumn", rounds_planned=3, actor="bob")
    first = lifecycle.start_run(run.pk, actor="bob")
    all_check_in(charlie, dora)
    upload(charlie)
    upload(dora)
    carry(first)
    return run


# --- First steps ------------------------------------------------------------------------------


def done(user: User) -> list[str]:
    page = at(user).get("/").content.decode()
    return re.findall(r'<li data-done="(\w+)">', page)


def test_an_empty_server_tells_the_first_steps(alice: User) -> None:
    page = at(alice).get("/")
    assert done(alice) == ["no"] * 5
    assert "python manage.py create_model digits" in text(page)
    assert "fedclient join ADDRESS CODE" in text(page)
    html = page.content.decode()
    assert 'href="/models/new/"' in html
    assert 'href="/join-codes/new/"' in html


def test_a_viewer_is_told_who_does_them_and_gets_no_button(victor: User) -> None:
    page = at(victor).get("/")
    assert "An operator does it" in text(page)
    main = page.content.decode().partition("<main")[2]
    assert not re.search(r'href="/(models/new|join-codes/new|runs/new)/"', main)


def test_steps_are_ticked_off_as_they_are_done_and_go(
    alice: User, tiny_model: Model, enrolled: Enrol
) -> None:
    assert done(alice) == ["yes", "no", "no", "no", "no"]
    enrolment.make_join_code(actor="bob")
    assert done(alice) == ["yes", "yes", "no", "no", "no"]
    charlie, dora = enrolled("charlie"), enrolled("dora")
    assert done(alice) == ["yes", "yes", "yes", "no", "no"]
    run = lifecycle.create_run(tiny_model, name="autumn", rounds_planned=1, actor="bob")
    assert done(alice) == ["yes", "yes", "yes", "yes", "no"]
    first = lifecycle.start_run(run.pk, actor="bob")
    all_check_in(charlie, dora)
    upload(charlie)
    upload(dora)
    carry(first)
    assert done(alice) == []


# --- What is under way ------------------------------------------------------------------------


def card(user: User) -> Any:
    (only,) = at(user).get("/").context["runs"]
    return only


def test_a_round_that_selects_counts_who_has_come(published: Run, victor: User) -> None:
    filling = card(victor).filling
    assert (filling.value, filling.mark) == (0, 2)
    lifecycle.check_in(Participant.objects.get(name="charlie"))
    assert card(victor).filling.words == "1 participant has checked in; at least 2 are needed"


def test_a_round_that_trains_counts_its_updates(
    published: Run, enrolled: Enrol, victor: User
) -> None:
    charlie, dora = (
        Enrolled(Participant.objects.get(name=name), None, "")  # type: ignore[arg-type]
        for name in ("charlie", "dora")
    )
    all_check_in(charlie, dora)
    page = at(victor).get("/")
    assert "0 of 2 updates are here" in text(page)
    assert 'data-state="training"' in page.content.decode()
    assert "min" in text(page)
    assert "left" in text(page)


def test_a_count_down_is_drawn_by_the_server(published: Run, victor: User) -> None:
    deadline = timezone.now() + timedelta(minutes=4, seconds=12.5)
    Round.objects.filter(run=published, phase="selecting").update(deadline=deadline)
    page = at(victor).get("/").content.decode()
    assert re.search(r'<time datetime="[^"]+" data-until title="[^"]+ UTC">4 min 1\d s left<', page)


def test_a_draft_can_be_started_by_who_may(tiny_model: Model, bob: User, victor: User) -> None:
    draft = lifecycle.create_run(tiny_model, name="autumn", actor="bob")
    link = f'href="/runs/{draft.pk}/start/?next=/"'
    assert link in at(bob).get("/").content.decode()
    assert link not in at(victor).get("/").content.decode()


def test_a_paused_run_can_be_resumed_by_who_may(published: Run, bob: User, victor: User) -> None:
    lifecycle.pause_run(published.pk, actor="bob", reason="holidays")
    round_ = published.rounds.get(phase="selecting")
    lifecycle.cancel_round(round_.pk, actor="bob")
    link = f'href="/runs/{published.pk}/resume/?next=/"'
    assert link in at(bob).get("/").content.decode()
    assert "Paused: holidays" in text(at(victor).get("/"))
    assert link not in at(victor).get("/").content.decode()


# --- Models and participants ------------------------------------------------------------------


def measure(model: Model, number: int, **metrics: float) -> None:
    ModelVersion.objects.filter(model=model, number=number).update(metrics=metrics)


def row(user: User) -> Any:
    (only,) = at(user).get("/").context["models"]
    return only


def test_a_model_shows_what_it_serves_and_how_it_got_better(published: Run, victor: User) -> None:
    measure(published.model, 1, accuracy=0.5)
    measure(published.model, 2, accuracy=0.75)
    page = at(victor).get("/")
    assert "75.0 % accuracy" in text(page)
    assert "+25.0 points since version 1" in text(page)
    assert 'aria-label="accuracy of its last 2 versions, from 50.0 % to 75.0 %"' in (
        page.content.decode()
    )
    assert row(victor).verdict == "better"


@pytest.mark.parametrize(
    ("before", "after", "words", "verdict"),
    [
        ({"accuracy": 0.75}, {"accuracy": 0.5}, "\u221225.0 points", "worse"),
        ({"accuracy": 0.5}, {"accuracy": 0.5}, "as good", ""),
        ({"loss": 0.5}, {"loss": 0.25}, "\u22120.25", "better"),
        ({"loss": 0.5}, {"loss": 0.75}, "+0.25", "worse"),
    ],
)
def test_better_is_said_of_what_is_better(
    published: Run,
    victor: User,
    before: dict[str, float],
    after: dict[str, float],
    words: str,
    verdict: str,
) -> None:
    measure(published.model, 1, **before)
    measure(published.model, 2, **after)
    assert (row(victor).change_words, row(victor).verdict) == (words, verdict)


def test_versions_that_were_never_served_are_not_in_the_picture(
    published: Run, victor: User
) -> None:
    registry.import_version(published.model_id, tiny_package(), actor="alice")
    assert [one.number for one in row(victor).trend] == [1, 2]


def test_a_model_that_is_not_measured_says_so(tiny_model: Model, victor: User) -> None:
    assert "not measured: it has no held-out set" in text(at(victor).get("/"))


def test_online_is_who_was_seen_within_the_minute(enrolled: Enrol, victor: User) -> None:
    for name, seconds in (("charlie", 10), ("dora", 50), ("emil", 70)):
        seen = timezone.now() - timedelta(seconds=seconds)
        Participant.objects.filter(pk=enrolled(name).participant.pk).update(last_seen_at=seen)
    page = text(at(victor).get("/"))
    assert "2 online of 3 that may train" in page
    assert "seen within the last minute" in page


# --- What needs somebody ----------------------------------------------------------------------


def test_nothing_is_said_where_nothing_is_wrong(published: Run, victor: User) -> None:
    Participant.objects.update(last_seen_at=timezone.now())
    assert notices(victor) == []
    assert "Nothing: no failures" in text(at(victor).get("/"))


def fail_round(run: Run) -> None:
    """Everybody who was invited gives up."""
    for one in Participant.objects.filter(state="active"):
        lifecycle.check_in(one)
    round_ = run.rounds.get(phase__in=Round.ACTIVE)
    for part in round_.assignments.all():
        lifecycle.fail(part.participant, part.pk, code="training_failed", reason="no memory")
    carry(round_)


def test_a_run_that_tries_again_says_why_and_when(published: Run, victor: User) -> None:
    fail_round(published)
    page = at(victor).get("/")
    assert "autumn is trying again after 1 round failed" in text(page)
    assert "Only 0 of at least 2 updates came." in text(page)
    assert "See the round that failed" in text(page)


def test_a_run_that_gave_up_is_named_until_another_one_takes_over(
    tiny_model: Model, enrolled: Enrol, victor: User
) -> None:
    enrolled("charlie"), enrolled("dora")
    run = lifecycle.create_run(tiny_model, name="autumn", retries=0, actor="bob")
    lifecycle.start_run(run.pk, actor="bob")
    fail_round(run)
    assert "autumn failed for good" in notices(victor)
    again = lifecycle.create_run(tiny_model, name="winter", actor="bob")
    assert "autumn failed for good" in notices(victor)
    lifecycle.start_run(again.pk, actor="bob")
    assert not [what for what in notices(victor) if "autumn" in what]


def test_rounds_that_failed_are_told_for_a_day(published: Run, victor: User) -> None:
    fail_round(published)
    Run.objects.filter(pk=published.pk).update(failures=0)
    assert "Round 2 of autumn failed" in notices(victor)
    long_ago = timezone.now() - reads.LATELY - timedelta(minutes=1)
    Round.objects.filter(phase="failed").update(ended_at=long_ago)
    assert not [what for what in notices(victor) if "failed" in what]


def test_updates_that_were_set_aside_are_named_by_round(published: Run, victor: User) -> None:
    now = timezone.now()
    told = {"state": "quarantined", "ended_at": now, "reason": "Its norm is 1275."}
    Assignment.objects.filter(participant__name="charlie").update(**told)
    assert "The update of charlie was set aside in round 1 of autumn" in notices(victor)
    Assignment.objects.update(**told)
    assert any(
        what.startswith("2 updates of ") and what.endswith("were set aside in round 1 of autumn")
        for what in notices(victor)
    )


def test_who_fails_in_a_round_under_way_is_named(
    published: Run, enrolled: Enrol, victor: User
) -> None:
    for name in ("emil", "frida", "gustav"):
        enrolled(name)
    for one in Participant.objects.all():
        lifecycle.check_in(one)
    parts = published.rounds.get(number=2).assignments.order_by("participant")
    for part, name in zip(parts, ("charlie", "dora", "emil", "frida"), strict=False):
        assert part.participant.name == name
        lifecycle.fail(part.participant, part.pk, code="training_failed", reason="no memory")
        if name == "dora":
            assert "dora and charlie failed in round 2 of autumn, which is under way" in (
                notices(victor)
            )
    what = "frida, emil, dora and 1 more failed in round 2 of autumn, which is under way"
    assert what in notices(victor)
    assert "no memory" in text(at(victor).get("/"))


def test_who_was_suspended_has_not_failed(published: Run, victor: User) -> None:
    for one in Participant.objects.all():
        lifecycle.check_in(one)
    enrolment.suspend(Participant.objects.get(name="dora"), actor="bob")
    assert not [what for what in notices(victor) if "under way" in what]


def test_who_was_not_seen_for_a_day_is_missed(enrolled: Enrol, victor: User) -> None:
    for number in range(5):
        enrolled(f"site {number}")
    long_ago = timezone.now() - timedelta(days=2)
    Participant.objects.filter(name="site 0").update(last_seen_at=long_ago)
    assert "site 0 was not seen for a day" in notices(victor)
    Participant.objects.update(last_seen_at=long_ago)
    assert "site 0, site 1, site 2 and 2 more were not seen for a day" in notices(victor)
    Participant.objects.update(state="suspended")
    assert notices(victor) == []


def test_one_that_enrolled_and_never_came_is_missed_after_a_day(
    enrolled: Enrol, victor: User
) -> None:
    enrolled("charlie")
    assert notices(victor) == []
    long_ago = timezone.now() - timedelta(days=2)
    Participant.objects.update(enrolled_at=long_ago, last_seen_at=None)
    assert notices(victor) == ["charlie was not seen for a day"]


def test_a_join_code_that_expires_with_places_left_is_told(victor: User) -> None:
    enrolment.make_join_code(label="clinics", max_uses=3, actor="bob")
    assert notices(victor) == []
    for hours, told in ((5, "expires soon"), (-5, "has expired")):
        JoinCode.objects.update(expires_at=timezone.now() + timedelta(hours=hours))
        assert notices(victor) == [f"The join code clinics {told}, with 3 places free"]
    JoinCode.objects.update(uses=3)
    assert notices(victor) == []
    JoinCode.objects.update(uses=0, withdrawn_at=timezone.now())
    assert notices(victor) == []


def test_a_round_that_no_worker_takes_is_told(published: Run, victor: User) -> None:
    round_ = published.rounds.get(number=2)
    since = timezone.now() - timedelta(minutes=5)
    Round.objects.filter(pk=round_.pk).update(phase="evaluating", evaluating_at=since)
    page = at(victor).get("/")
    assert "Round 2 of autumn waits for a worker" in text(page)
    assert "one with Keras" in text(page)
    held = {"lease": "x", "lease_expires_at": timezone.now() + timedelta(seconds=10)}
    Round.objects.filter(pk=round_.pk).update(**held)
    assert not [what for what in notices(victor) if "worker" in what]


def test_a_round_that_waits_for_more_than_are_online_is_told(published: Run, victor: User) -> None:
    long_ago = timezone.now() - timedelta(hours=1)
    Participant.objects.update(last_seen_at=long_ago)
    assert "Round 2 of autumn waits for 2 participants, and none is online" in notices(victor)
    Participant.objects.filter(name="dora").update(last_seen_at=timezone.now())
    assert "Round 2 of autumn waits for 2 participants, and 1 is online" in notices(victor)


def test_a_candidate_that_no_round_decides_about_waits_for_people(
    tiny_model: Model, victor: User
) -> None:
    registry.import_version(tiny_model.pk, tiny_package(), actor="alice")
    page = at(victor).get("/")
    assert "Version 2 of tiny waits for a decision" in text(page)
    assert 'href="/models/tiny/versions/2/"' in page.content.decode()


def test_a_broker_that_is_away_is_told_first(
    tiny_model: Model, victor: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    nobody = redis.Redis.from_url(f"unix://{settings.FEDSERVER_HOME / 'nobody.sock'}")
    monkeypatch.setattr("journal.events._redis", lambda: nobody)
    registry.import_version(tiny_model.pk, tiny_package(), actor="alice")
    assert notices(victor)[0] == "The broker does not answer"


# --- Lately, and what it costs ----------------------------------------------------------------


def test_the_last_events_are_told_without_their_details(published: Run, victor: User) -> None:
    told = [line.text for line in at(victor).get("/").context["events"]]
    assert len(told) == overview.RECENT
    assert "Round 1 of autumn published version 2" in told
    assert not [line for line in told if "was invited" in line]


def test_it_costs_as_many_queries_however_much_there_is(
    published: Run, enrolled: Enrol, victor: User
) -> None:
    client = at(victor)

    def count() -> int:
        with CaptureQueriesContext(connection) as queries:
            assert client.get("/").status_code == 200
        return len(queries)

    few = count()
    assert few == QUERIES - 1  # no participant is named in its last lines
    for number in range(6):
        model = registry.create_model(f"model-{number}", tiny_package(), actor="alice")
        registry.import_version(model.pk, tiny_package(), actor="alice")
        run = lifecycle.create_run(model, name=f"run {number}", actor="bob")
        lifecycle.create_run(model, name=f"draft {number}", actor="bob")
        lifecycle.start_run(run.pk, actor="bob")
        enrolled(f"site {number}")
    Participant.objects.update(enrolled_at=timezone.now() - timedelta(days=3))
    JoinCode.objects.update(uses=0, expires_at=timezone.now() + timedelta(hours=1))
    assert count() == QUERIES


def test_its_live_part_is_the_same_for_all_who_look(
    published: Run, victor: User, bob: User
) -> None:
    cursor = str(Event.objects.latest("id").pk)
    parts = [at(user).get("/", headers={LIVE: cursor}).content.decode() for user in (victor, bob)]
    assert "<html" not in parts[0]
    assert "victor" not in parts[0]
    assert "csrf" not in parts[1]
    assert parts[0].count("<section") == parts[1].count("<section") == 5


def test_it_is_for_people_who_are_signed_in(db: None) -> None:
    assert Client().get("/")["Location"] == "/sign-in/?next=/"
