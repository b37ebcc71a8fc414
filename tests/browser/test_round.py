"""The round's cockpit in a real browser: it shows what happens, as it happens, and all of it."""

import random
import re
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from playwright.sync_api import Page, expect

from journal import events
from models_app.models import Model
from rounds import clock, lifecycle
from rounds.models import Assignment, Round
from rounds.round_state import round_state
from tests.browser.conftest import Console, SignIn
from tests.browser.rounds import differences, expect_the_truth, plain
from tests.rounds.conftest import Enrolled
from tests.rounds.test_lifecycle import started
from tests.rounds.updates import all_check_in, carry, send, update_bytes, upload

Enrol = Callable[..., Enrolled]

NAMES = ("charlie", "dora", "emil", "frida", "gustav", "hanna")
TRACEBACK = 'Traceback (most recent call last):\n  File "train.py", line 12\nMemoryError'
FOLD = """async ([start, sequences]) => {
  const { root } = document.documentElement.dataset;
  const { fold } = await import(`${root}static/drawings/round_state.js`);
  return sequences.map((batches) => batches.reduce(fold, start));
}"""


def row(page: Page, name: str) -> Any:
    return page.get_by_role("row").filter(has=page.get_by_role("link", name=name, exact=True))


def watch(page: Page, round_: Round) -> Page:
    """The cockpit, once it is live."""
    page.goto(f"/rounds/{round_.pk}/")
    expect(page.locator("fs-connection")).to_contain_text("live")
    return page


def own(round_: Round, one: Enrolled) -> Assignment:
    return round_.assignments.get(participant=one.participant)


def train(one: Enrolled, round_: Round, epochs: int = 2) -> None:
    """What the client tells of a training."""
    pk = own(round_, one).pk
    lifecycle.report(one.participant, pk, activity="downloading", fraction=0.0)
    for epoch in range(epochs + 1):
        lifecycle.report(
            one.participant,
            pk,
            activity="training",
            fraction=epoch / epochs,
            epoch=epoch,
            epochs=epochs,
            metrics={"loss": 2.0 / (epoch + 1)},
        )


class Story:
    """A round in which everything happens: charlie, dora and emil are accepted, frida's update is
    too large, gustav fails, hanna is not heard of again."""

    def __init__(self, model: Model, enrolled: Enrol) -> None:
        self.people = {name: enrolled(name) for name in NAMES}
        self.round = started(model, rounds_planned=1, quorum=3, name="autumn")

    def gather(self) -> None:
        all_check_in(*self.people.values())

    def train(self) -> None:
        for name in NAMES[:5]:
            train(self.people[name], self.round)
        for name in NAMES[:3]:
            upload(self.people[name], value=1.0)
        frida, gustav = self.people["frida"], self.people["gustav"]
        body = update_bytes(self.round.run.model, 99.0)
        send(frida, own(self.round, frida), body)
        mine = own(self.round, gustav).pk
        lifecycle.fail(
            gustav.participant, mine, code="MemoryError", reason="No memory.", detail=TRACEBACK
        )

    def end(self) -> None:
        long_ago = clock.now() - timedelta(hours=1)
        self.round.assignments.filter(state="invited").update(last_seen_at=long_ago)
        lifecycle.close_round(self.round.pk, actor="bob", reason="enough is enough")
        carry(self.round)


@pytest.fixture
def story(server: str, tiny_model: Model, enrolled: Enrol) -> Story:
    return Story(tiny_model, enrolled)


def test_a_whole_round_is_seen_as_it_happens_and_ends_as_the_database_has_it(
    story: Story, bob: User, signed_in: SignIn
) -> None:
    page = watch(signed_in(bob), story.round)
    lifecycle.check_in(story.people["charlie"].participant)
    expect(page.get_by_text("1 of 6 participants have checked in.")).to_be_visible()
    expect(page.get_by_text("Nobody is invited yet")).to_be_visible()

    story.gather()
    expect(row(page, "charlie")).to_contain_text("invited")
    expect(page.get_by_role("heading", level=1)).to_contain_text("training")
    charlie = story.people["charlie"]
    mine = own(story.round, charlie).pk
    for epoch in (1, 2):
        lifecycle.report(
            charlie.participant,
            mine,
            activity="training",
            fraction=epoch / 5,
            epoch=epoch,
            epochs=5,
            metrics={"loss": 1.5},
        )
    expect(row(page, "charlie")).to_contain_text("training 2/5")
    expect(row(page, "charlie")).to_contain_text("1.50")
    expect_the_truth(page, story.round.pk)
    expect(page.get_by_role("link", name="Close now")).to_be_hidden()

    story.train()
    expect(page.get_by_text("4 of 6 updates are here; it may close with 3.")).to_be_visible()
    expect(page.get_by_role("link", name="Close now")).to_be_visible()
    expect(row(page, "gustav")).to_contain_text("failed")
    row(page, "gustav").get_by_role("button").click()
    expect(page.locator("pre")).to_have_text(TRACEBACK)

    story.end()
    for name, state in (("charlie", "accepted"), ("frida", "quarantined"), ("hanna", "lost")):
        expect(row(page, name)).to_contain_text(state)
    expect(page.locator("pre")).to_have_text(TRACEBACK)  # what is open stays open
    expect(page.get_by_text("Version 2 is published.")).to_be_visible()
    expect(page.get_by_role("link", name="Version 2")).to_have_attribute(
        "href", re.compile("/models/tiny/versions/2/$")
    )
    expect(page.get_by_role("status").filter(has_text="Round 1")).to_have_text(
        "Round 1 is published."
    )
    expect_the_truth(page, story.round.pk)


def test_whatever_way_the_events_come_the_page_has_the_same_round(
    story: Story, bob: User, signed_in: SignIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[dict[str, Any]] = []
    announce = events.announce

    def listen(documents: list[dict[str, Any]]) -> None:
        heard.extend(documents)
        announce(documents)

    monkeypatch.setattr(events, "announce", listen)
    opened = round_state(story.round.pk)
    story.gather()
    halfway = round_state(story.round.pk)
    story.train()
    story.end()
    closed = plain(round_state(story.round.pk))
    lines = [one for one in heard if one["id"] is not None]
    hints = [one for one in heard if one["id"] is None]
    assert len(hints) > 20

    page = signed_in(bob)
    page.goto(f"/rounds/{story.round.pk}/")
    draw = random.Random(3)
    early = {name: opened[name] for name in ("cursor", "events")}  # rows that are ahead of it
    for start in (opened, halfway, halfway | early):
        sequences = [disordered(lines, hints, draw) for _ in range(40)]
        for folded in page.evaluate(FOLD, [start, [[heard], *sequences]]):
            assert not list(differences(plain(folded), closed))


def test_how_a_version_was_made_is_said_in_words(
    tiny_model: Model, enrolled: Enrol, victor: User, signed_in: SignIn, axe: Callable[[Page], None]
) -> None:
    names = ("charlie", "dora", "emil", "frida", "gustav")
    people = [enrolled(name) for name in names]
    rules: dict[str, Any] = {"strategy": "multi_krum", "quorum": 5, "quarantine_factor": 0.0}
    run = lifecycle.create_run(tiny_model, actor="bob", **rules)
    round_ = lifecycle.start_run(run.pk, actor="bob")
    all_check_in(*people)
    page = signed_in(victor)
    watch(page, round_)
    making = page.locator(".round-making")
    expect(making).to_contain_text("when the updates have been folded")
    for place, one in enumerate(people):
        upload(one, value=9.0 if one is people[4] else 0.1 + place / 1000)
    carry(round_)
    expect(making.locator("dl")).to_contain_text("Left out3 updates")  # five less f + 2
    gustav = making.get_by_role("listitem").filter(has_text="gustav")
    expect(gustav).to_contain_text("left out")
    expect(making.get_by_role("listitem").filter(has_text="dora")).to_contain_text("%")
    expect_the_truth(page, round_.pk)
    axe(page)


def test_who_goes_on_in_an_asynchronous_round_is_drawn(
    tiny_model: Model, enrolled: Enrol, victor: User, signed_in: SignIn, axe: Callable[[Page], None]
) -> None:
    charlie, dora, emil = enrolled("charlie"), enrolled("dora"), enrolled("emil")
    run = lifecycle.create_run(
        tiny_model,
        kind="asynchronous",
        strategy="fedbuff",
        concurrency=3,
        buffer_size=2,
        rounds_planned=5,
        actor="bob",
    )
    first = lifecycle.start_run(run.pk, actor="bob")
    all_check_in(charlie, dora, emil)
    upload(charlie)
    upload(dora)
    carry(first)
    second = run.rounds.get(number=2)
    lifecycle.check_in(charlie.participant)
    page = signed_in(victor)
    watch(page, second)
    expect(row(page, "emil")).to_contain_text("from v1")
    expect(page.get_by_text("1 of 2 was invited in this round; 1 began")).to_be_visible()
    drawn = page.get_by_role("img", name="emil since round 1, from version 1")
    expect(drawn).to_be_visible()
    upload(emil)
    upload(charlie)
    carry(second)
    expect(row(page, "emil")).to_contain_text("1 behind")
    expect(page.locator(".round-making dl")).to_contain_text("Behind, at most1 version")
    expect_the_truth(page, second.pk)
    axe(page)


def disordered(
    lines: list[dict[str, Any]], hints: list[dict[str, Any]], draw: random.Random
) -> list[list[dict[str, Any]]]:
    """Lines in order, some again as after a reconnection; hints anywhere, or lost."""
    batches, at = [], 0
    while at < len(lines):
        following = at + draw.randint(1, 7)
        batches.append(lines[max(0, at - draw.choice((0, 0, 3, 20))) : following])
        at = following
    for hint in draw.sample(hints, draw.randint(0, len(hints))):
        batch = draw.choice(batches)
        batch.insert(draw.randint(0, len(batch)), hint)
    return batches


def test_the_next_round_is_offered_and_nobody_is_taken_there(
    server: str, tiny_model: Model, enrolled: Enrol, victor: User, signed_in: SignIn
) -> None:
    enrolled("charlie")
    round_ = started(tiny_model, name="autumn")
    page = watch(signed_in(victor), round_)
    lifecycle.cancel_round(round_.pk, actor="bob", reason="The data were wrong.")
    expect(page.get_by_text("The round was cancelled.")).to_be_visible()
    expect(page.locator(".notice").get_by_text("The data were wrong.")).to_be_visible()
    assert page.url.endswith(f"/rounds/{round_.pk}/")
    expect_the_truth(page, round_.pk)
    page.get_by_role("link", name="Watch round 2").click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("Round 2")
    expect(page.get_by_role("link", name="← Round 1")).to_be_visible()


def test_bob_cancels_a_round_from_the_page_and_says_why(
    story: Story, bob: User, signed_in: SignIn, axe: Callable[[Page], None]
) -> None:
    story.gather()
    train(story.people["charlie"], story.round)
    page = watch(signed_in(bob), story.round)
    page.get_by_role("link", name="Cancel").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("abandoned")
    axe(page)
    dialog.get_by_role("textbox").fill("The labels were swapped.")
    dialog.get_by_role("button", name="Cancel").click()
    expect(page.get_by_text("The round was cancelled.")).to_be_visible()
    story.round.refresh_from_db()
    assert story.round.phase == "cancelled"
    assert story.round.reason == "The labels were swapped."


def test_rows_are_sorted_filtered_and_opened_by_keyboard(
    story: Story, victor: User, signed_in: SignIn, axe: Callable[[Page], None]
) -> None:
    story.gather()
    story.train()
    page = watch(signed_in(victor), story.round)
    names = page.locator("tbody th")
    expect(names).to_have_text(list(NAMES))
    page.get_by_role("button", name="Participant").focus()
    page.keyboard.press("Enter")
    expect(names).to_have_text(sorted(NAMES, reverse=True))
    page.get_by_role("button", name="Norm").press("Enter")
    expect(names.first).to_have_text("frida")
    page.get_by_role("button", name="failed 1").press("Enter")
    expect(names).to_have_text(["gustav"])
    page.get_by_role("button", name="Why gustav is failed").press("Enter")
    expect(page.locator("pre")).to_have_text(TRACEBACK)
    expect(page.get_by_role("button", name="Close now")).to_have_count(0)
    axe(page)


def test_what_happened_while_the_page_was_cut_off_is_made_up_for(
    story: Story, victor: User, signed_in: SignIn, watch_console: Console
) -> None:
    watch_console.expect("ERR_INTERNET_DISCONNECTED")
    story.gather()
    page = watch(signed_in(victor), story.round)
    charlie, dora = story.people["charlie"], story.people["dora"]
    train(charlie, story.round)
    expect(row(page, "charlie")).to_contain_text("100")
    page.context.set_offline(True)
    expect(page.locator("fs-connection")).not_to_contain_text("live")
    train(dora, story.round, epochs=4)  # passing news, which nobody repeats
    upload(charlie)
    page.context.set_offline(False)
    expect(page.locator("fs-connection")).to_contain_text("live")
    expect(row(page, "charlie")).to_contain_text("uploaded")
    expect(row(page, "dora")).to_contain_text("training 4/4")
    expect_the_truth(page, story.round.pk)
