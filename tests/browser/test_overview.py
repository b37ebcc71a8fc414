"""The first page, the journal and one's own profile, in a real browser."""

import json
import re
from collections.abc import Callable, Iterator

import pytest
from django.contrib.auth.models import User
from playwright.sync_api import Page, expect

from accounts.models import PersonalToken
from frontend import sentences
from journal import events
from journal.models import Event
from rounds import lifecycle
from tests.browser import scene as scenes
from tests.browser.conftest import Console, SignIn
from tests.browser.scene import Scene

PASSWORD = "correct horse battery"


# One scene and one server for all tests of this file, and not for each.
transactional_db, scene, server = scenes.database, scenes.scene, scenes.server
kept = scenes.kept


def live(page: Page, path: str) -> Page:
    """Go there, and wait until the page hears what happens."""
    page.goto(path)
    expect(page.locator("fs-connection")).to_have_text("live")
    return page


# --- Sentences --------------------------------------------------------------------------------


def test_the_feed_and_the_pages_tell_each_event_in_the_same_words(
    scene: Scene, signed_in: SignIn
) -> None:
    lines = [events.as_json(line) for line in Event.objects.all()]
    lines += [
        {"kind": kind, "actor": actor, "run": 4, "round": 7, "participant": 2, "data": data}
        for kind in events.KINDS
        for actor in ("", "bob")
        for data in ({}, dict.fromkeys(events.KINDS[kind], 3), {"seconds": 4.25, "number": 2})
    ]
    page = signed_in(scene.victor)
    page.goto("/sign-in/")
    told = page.evaluate(
        """async (lines) => {
          const { tellText } = await import("/static/drawings/sentences.js");
          return lines.map((line) => tellText(line));
        }""",
        json.loads(json.dumps(lines)),
    )
    assert told == [sentences.tell_text(line) for line in lines]


# --- Overview ---------------------------------------------------------------------------------


def test_the_first_page_follows_a_run_without_being_loaded_again(
    scene: Scene, signed_in: SignIn
) -> None:
    page = live(signed_in(scene.bob), "/")
    page.evaluate("() => { window.same = true; }")
    run = page.locator(f"#run-{scene.autumn.pk}")
    expect(run).to_contain_text("1 of 9 updates are here; 2 are enough")
    lifecycle.pause_run(scene.autumn.pk, actor="alice", reason="the grid is weak")
    expect(run.locator(".state").first).to_have_text("paused")
    expect(page.locator("#recent")).to_contain_text("alice paused autumn")
    run.get_by_role("link", name="Resume").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_role("textbox").fill("it holds again")
    dialog.get_by_role("button", name="Resume").click()
    expect(page.get_by_role("listitem").filter(has_text="is running again")).to_be_visible()
    expect(run.locator(".state").first).to_have_text("running")
    assert Event.objects.filter(kind="run.resumed").latest("id").reason == "it holds again"


def test_the_count_down_ticks(scene: Scene, signed_in: SignIn) -> None:
    page = live(signed_in(scene.victor), "/")
    left = page.locator(f"#run-{scene.autumn.pk} time[data-until]")
    expect(left).to_have_text(re.compile(r"min \d+ s left"))
    before = left.inner_text()
    expect(left).not_to_have_text(before)


def test_each_notice_leads_to_the_next_step(scene: Scene, signed_in: SignIn) -> None:
    page = signed_in(scene.alice)
    page.goto("/")
    page.get_by_role("link", name="Publish or reject it").click()
    expect(page).to_have_url(re.compile("/models/digits/versions/"))


# --- Journal ----------------------------------------------------------------------------------


def test_new_lines_are_announced_and_shown_when_they_are_wanted(
    scene: Scene, signed_in: SignIn
) -> None:
    page = live(signed_in(scene.victor), "/journal/?actor=dora")
    expect(page.locator(".news")).to_be_empty()
    count = page.locator(".journal > li").count()
    with events.transaction() as journal:
        journal.record("run.paused", actor="dora", run=scene.autumn.pk)
        journal.record("run.paused", actor="somebody else", run=scene.autumn.pk)
    news = page.get_by_role("link", name="1 new line")
    expect(news).to_be_visible()
    assert page.locator(".journal > li").count() == count
    news.click()
    expect(page.locator(".journal > li")).to_have_count(count + 1)
    expect(page.locator(".journal > li").first).to_contain_text("dora paused autumn")


def test_the_journal_is_narrowed_by_its_form_and_saved(scene: Scene, signed_in: SignIn) -> None:
    page = signed_in(scene.victor)
    page.goto("/journal/")
    page.get_by_text("Narrow it down").click()
    page.get_by_label("What").select_option("run.created")
    page.get_by_role("button", name="Show").click()
    expect(page.locator(".narrowed")).to_have_text("run created")
    expect(page.locator(".journal > li")).to_have_count(5)
    with page.expect_download() as saving:
        page.get_by_role("link", name="Export as CSV").click()
    lines = saving.value.path().read_text().splitlines()
    assert lines[0].startswith("id,at,kind,actor,sentence")
    assert len(lines) == 6


# --- People -----------------------------------------------------------------------------------


@pytest.fixture
def dora(scene: Scene) -> Iterator[User]:
    user = User.objects.create_user("dora", password=PASSWORD)
    yield user
    user.delete()


def sign_in(page: Page, password: str) -> None:
    page.get_by_label("Username").fill("dora")
    page.get_by_label("Password").fill(password)
    page.get_by_role("button", name="Sign in").click()


def test_dora_signs_in_and_goes_on_to_where_she_wanted(
    dora: User, browser_page: Page, axe: Callable[[Page], None]
) -> None:
    page = browser_page
    page.goto("/journal/?actor=bob")
    sign_in(page, "wrong")
    expect(page.get_by_role("alert")).to_contain_text("The name or the password is wrong")
    axe(page)
    sign_in(page, PASSWORD)
    expect(page).to_have_url(re.compile(r"/journal/\?actor=bob$"))
    page.get_by_role("link", name="dora", exact=True).click()
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_role("heading", name="Sign in")).to_be_visible()


def test_a_token_is_made_in_a_dialog_shown_once_and_deleted(
    scene: Scene, signed_in: SignIn, axe: Callable[[Page], None]
) -> None:
    page = signed_in(scene.victor)
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.goto("/profile/")
    page.get_by_role("link", name="Make a token").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("What it is for").fill("weekly report")
    axe(page)
    dialog.get_by_role("button", name="Make it").click()
    secret = page.locator("#secret").inner_text()
    assert secret.startswith("fsu_")
    axe(page)
    page.get_by_role("button", name="Copy", exact=True).click()
    expect(page.get_by_role("button", name="Copied")).to_be_visible()
    assert page.evaluate("() => navigator.clipboard.readText()") == secret
    page.get_by_role("link", name="I have copied it").click()
    page.get_by_role("link", name="Delete weekly report").click()
    page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    expect(page.get_by_text("The token weekly report is deleted.")).to_be_visible()
    assert not PersonalToken.objects.filter(user=scene.victor).exists()


def test_the_colours_that_one_chooses_stay(scene: Scene, signed_in: SignIn) -> None:
    page = signed_in(scene.victor)
    page.goto("/profile/")
    ground = "() => getComputedStyle(document.documentElement).backgroundColor"
    light = page.evaluate(ground)
    switch = page.locator("main fs-theme button")
    while "dark" not in switch.inner_text():
        switch.click()
    dark = page.evaluate(ground)
    assert dark != light
    page.goto("/journal/")
    assert page.evaluate(ground) == dark


def test_a_page_that_is_not_there_says_where_to_go(
    scene: Scene, signed_in: SignIn, watch_console: Console, axe: Callable[[Page], None]
) -> None:
    watch_console.expect("status of 404")
    page = signed_in(scene.victor)
    page.goto("/nowhere/")
    axe(page)
    page.get_by_role("link", name="the journal").click()
    expect(page.get_by_role("heading", name="Journal", exact=True)).to_be_visible()
