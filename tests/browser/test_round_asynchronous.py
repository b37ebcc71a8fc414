"""A round that hands on who still trains, in a real browser: both of its pages stay true."""

import random
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from playwright.sync_api import Page, expect

from journal import events
from models_app.models import Model
from rounds import attendance, clock, lifecycle
from rounds.models import Assignment, Round
from rounds.round_state import round_state
from tests.browser.conftest import SignIn
from tests.browser.rounds import differences, expect_the_truth, plain
from tests.browser.test_round import FOLD, disordered, row, watch
from tests.rounds.conftest import Enrolled
from tests.rounds.updates import carry, send, update_bytes

Enrol = Callable[..., Enrolled]
NAMES = ("charlie", "dora", "emil", "frida")
VERDICTS = """async (cases) => {
  const { named, outcome } = await import("/static/drawings/verdicts.js");
  return cases.map(([state, code, roundCode]) => named(outcome({ state, code }, roundCode)));
}"""
# What is wider than its place, and cut there.
CUT = """(places) => [...document.querySelectorAll(places)]
  .filter((one) => one.scrollWidth > one.clientWidth)
  .map((one) => one.textContent)"""


def comes(one: Enrolled) -> Assignment:
    told = lifecycle.check_in(one.participant)
    assert isinstance(told, Assignment), told
    return told


def trains(one: Enrolled, mine: Assignment, fraction: float) -> None:
    for activity in ("downloading", "training"):
        lifecycle.report(one.participant, mine.pk, activity=activity, fraction=fraction)


def sends(one: Enrolled, mine: Assignment, value: float) -> None:
    mine = Assignment.objects.get(pk=mine.pk)
    send(one, mine, update_bytes(mine.round.run.model, value))


def test_both_rounds_have_the_hand_over_as_the_database_has_it(
    server: str,
    tiny_model: Model,
    enrolled: Enrol,
    bob: User,
    signed_in: SignIn,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    heard: list[dict[str, Any]] = []
    announce = events.announce

    def listen(documents: list[dict[str, Any]]) -> None:
        heard.extend(documents)
        announce(documents)

    monkeypatch.setattr(events, "announce", listen)
    charlie, dora, emil, frida = map(enrolled, NAMES)
    run = lifecycle.create_run(
        tiny_model,
        kind="asynchronous",
        strategy="fedbuff",
        concurrency=4,
        buffer_size=2,
        quorum=1,
        rounds_planned=3,
    )
    first = lifecycle.start_run(run.pk, actor="bob")
    page = watch(signed_in(bob), first)
    opened = round_state(first.pk)
    places = {one: comes(one) for one in (charlie, dora, emil, frida)}
    for one, mine in places.items():
        trains(one, mine, 0.4)
    halfway = round_state(first.pk)
    sends(charlie, places[charlie], 1.0)
    sends(dora, places[dora], 2.0)
    lifecycle.step(first.pk)
    sends(emil, places[emil], 3.0)  # too late for the buffer
    expect_the_truth(page, first.pk)
    carry(first)
    expect_the_truth(page, first.pk)

    second = Round.objects.get(number=2)
    begun = round_state(second.pk)
    watch(page, second)
    trains(frida, places[frida], 0.8)
    mine = comes(charlie)
    expect_the_truth(page, second.pk)
    sends(charlie, mine, 1.0)
    carry(second)
    expect_the_truth(page, second.pk)
    lifecycle.stop_run(run.pk, actor="bob", reason="enough")

    lines = [one for one in heard if one["id"] is not None]
    hints = [one for one in heard if one["id"] is None]
    [start] = [
        one["id"] for one in lines if one["kind"] == "round.opened" and one["round"] == second.pk
    ]
    empty = {  # as the page had it, had it been read before anybody was handed on
        "cursor": start,
        "assignments": [],
        "counts": dict.fromkeys(begun["counts"], 0),
        "norms": {"median": None, "limit": None},
        "events": [one for one in begun["events"] if one["id"] <= start],
    }
    early = {name: opened[name] for name in ("cursor", "events")}  # rows that are ahead of it
    draw = random.Random(3)
    for round_, starts in (
        (first, (opened, halfway, halfway | early)),
        (second, (begun, begun | empty)),
    ):
        read = plain(round_state(round_.pk))
        for document in starts:
            sequences = [disordered(lines, hints, draw) for _ in range(20)]
            for folded in page.evaluate(FOLD, [document, [[heard], *sequences]]):
                assert not list(differences(plain(folded), read))


@pytest.fixture
def last_round(tiny_model: Model, enrolled: Enrol) -> Round:
    """The only round of a run: of four two fill the buffer, emil's update comes after that, and
    frida still trains."""
    charlie, dora, emil, frida = map(enrolled, NAMES)
    run = lifecycle.create_run(
        tiny_model,
        kind="asynchronous",
        strategy="fedbuff",
        concurrency=4,
        buffer_size=2,
        quorum=1,
        rounds_planned=1,
    )
    round_ = lifecycle.start_run(run.pk, actor="bob")
    places = {one: comes(one) for one in (charlie, dora, emil, frida)}
    for one, mine in places.items():
        trains(one, mine, 0.4)
    sends(charlie, places[charlie], 1.0)
    sends(dora, places[dora], 0.0234)
    lifecycle.step(round_.pk)
    sends(emil, places[emil], 3.0)
    return round_


def expect_nobody_at_fault(page: Page) -> None:
    for name, words in {"charlie": "accepted", "emil": "not used", "frida": "not used"}.items():
        expect(row(page, name).locator(".state")).to_have_text(words)
    expect(page.locator(".fs-gauge-more")).to_have_text("2 accepted, 2 not used")
    gauge = page.get_by_role("progressbar", name="Updates")
    expect(gauge).to_have_attribute("aria-valuenow", "2")
    expect(gauge).to_have_attribute("aria-valuemax", "4")
    expect(page.locator(".fs-gauge-sentence")).to_have_text(
        "Version 2 was made from 2 updates of 4 invited."
    )
    for kind, words in (("rejected", "emil was not used"), ("late", "frida was not needed")):
        entry = page.locator(f".fs-feed-entry[data-kind='assignment.{kind}']")
        expect(entry).to_contain_text(words)
        assert entry.get_attribute("data-tone") is None
    expect(page.locator(".fs-mark[data-tone=quiet]")).to_have_count(2)


def test_who_is_not_needed_after_the_last_round_is_not_shown_as_at_fault(
    server: str, last_round: Round, bob: User, signed_in: SignIn
) -> None:
    page = watch(signed_in(bob), last_round)
    carry(last_round)
    expect_nobody_at_fault(page)
    page.reload()
    expect_nobody_at_fault(page)
    page.get_by_role("button", name="not used 2").click()
    expect(page.locator("tbody tr:not(.fs-detail)")).to_have_count(2)
    page.get_by_role("button", name="Why emil is not used").click()
    expect(page.locator(".fs-detail")).to_contain_text("The run is completed.")


def test_browsers_and_the_server_agree_on_who_is_at_fault(
    server: str, last_round: Round, bob: User, signed_in: SignIn
) -> None:
    codes = ("", "bad_uploads", attendance.ROUND_FAILED, *attendance.VOID_CODES)
    cases = [
        (state, code, why)
        for state in Assignment.State.values
        for code in codes
        for why in (attendance.TOO_FEW, "gate")
    ]
    page = watch(signed_in(bob), last_round)
    told = page.evaluate(VERDICTS, cases)
    assert told == [attendance.word(attendance.outcome(*case)) for case in cases]


def test_on_a_usual_screen_no_number_of_the_table_is_cut(
    server: str, last_round: Round, bob: User, signed_in: SignIn
) -> None:
    carry(last_round)
    mine = last_round.assignments.get(participant__name="dora")
    mine.uploaded_at = clock.now() - timedelta(days=3)
    mine.save()
    mine.update.metrics = {"loss": 0.0234}
    mine.update.norm = 0.00234
    mine.update.save()
    page = signed_in(bob, viewport={"width": 1280, "height": 900})
    page.goto(f"/rounds/{last_round.pk}/")
    expect(row(page, "dora")).to_contain_text("2.3e-3")
    assert page.evaluate(CUT, ".fs-assignments :is(th, td), .fs-sort, .fs-activity-words") == []
