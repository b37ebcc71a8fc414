"""Runs in a real browser: the wizard by keyboard, decisions from the page, and pictures."""

from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect

from journal.models import Event
from rounds.models import Run
from tests.browser import scene as scenes
from tests.browser.conftest import Console, SignIn
from tests.browser.scene import Scene

# How many different colours a canvas shows: a blank one has a single one.
COLOURS = """(canvas) => {
  const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  return new Set(new Uint32Array(data.buffer)).size;
}"""


# One scene and one server for all tests of this file, and not for each.
transactional_db, scene, server = scenes.database, scenes.scene, scenes.server
kept = scenes.kept


def preview(page: Page) -> str:
    return page.locator("#preview").inner_text()


def press(page: Page, *keys: str) -> None:
    for key in keys:
        page.keyboard.press(key)


def decide(page: Page, verb: str, reason: str = "") -> None:
    """Press a button of the page, and the one of the dialog that it opens."""
    page.get_by_role("link", name=verb, exact=True).click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_be_visible()
    dialog.get_by_role("textbox").fill(reason)
    dialog.get_by_role("button", name=verb).click()


def test_bob_makes_a_run_by_keyboard_and_is_told_that_it_has_to_wait(
    scene: Scene, signed_in: SignIn, axe: Callable[[Page], None], watch_console: Console
) -> None:
    watch_console.expect("status of 409")  # digits trains already
    page = signed_in(scene.bob)
    page.goto("/runs/new/")
    expect(page.locator("fs-wizard[data-ready]")).to_be_visible()
    assert "Choose a model" in preview(page)

    page.get_by_label("Model", exact=True).focus()
    press(page, *"digits")  # as a list is chosen from by typing
    press(page, "Tab")
    page.keyboard.type("winter")
    press(page, "Tab", "ArrowUp")
    expect(page.locator("#preview")).to_contain_text("Up to 11 rounds")
    press(page, "Enter")
    expect(page.locator(":focus")).to_have_text("Strategy")
    press(page, "Tab", "Tab", "Tab", "Tab")  # kind, a link, the first drawer, what it holds
    expect(page.locator(":focus")).to_have_attribute("value", "fedavg")
    press(page, "Tab", "Tab", "Enter")  # its paper, the second drawer
    expect(page.get_by_label("FedAdam", exact=True)).to_be_visible()
    press(page, "Shift+Tab", "Shift+Tab", "ArrowDown", "ArrowDown")
    expect(page.locator("#preview")).to_contain_text("FedAvgM makes a new version")
    expect(page.get_by_label("Server momentum")).to_be_visible()
    press(page, "Enter")
    expect(page.locator(":focus")).to_have_text("Who trains")
    press(page, "Tab", "ArrowDown", "ArrowDown")  # random
    expect(page.get_by_label("Fraction")).to_be_visible()
    press(page, "Tab")
    page.keyboard.type("3")
    page.get_by_label("Fraction").press("ControlOrMeta+a")
    page.keyboard.type("0.5")
    expect(page.locator("#preview")).to_contain_text("for 6 of the 7 enrolled participants; then 4")
    page.get_by_label("Wait for").focus()
    press(page, "Tab")
    page.keyboard.type("5")  # instead of what was there: more than the goal
    expect(page.locator("[data-field=cohort_goal] .errorlist")).to_contain_text("from 5")
    expect(page.get_by_role("button", name="Who trains")).to_have_attribute("data-wrong", "")
    axe(page)
    press(page, "Backspace", "2")
    expect(page.locator("[data-field=cohort_goal] .errorlist")).to_have_count(0)
    page.get_by_role("button", name="Create as a draft").press("Enter")

    expect(page.locator(".notices")).to_contain_text("is a draft")
    run = Run.objects.get(name="winter")
    asked = (run.selection, run.cohort_goal, run.cohort_min, run.rounds_planned)
    assert asked == ("random", 3, 2, 11)
    assert run.strategy == "fedavgm"
    expect(page.get_by_text("autumn (run").first).to_contain_text("trains this model now")
    decide(page, "Start")
    expect(page.get_by_role("alert")).to_contain_text("Expected no other running or paused run")


@pytest.mark.parametrize("width", [1280, 390])
def test_all_steps_of_the_form_are_seen(scene: Scene, signed_in: SignIn, width: int) -> None:
    page = signed_in(scene.bob, viewport={"width": width, "height": 900})
    page.goto("/runs/new/?model=digits")
    expect(page.locator("fs-wizard[data-ready]")).to_be_visible()
    tabs = page.locator(".steps-tab").all()
    assert len(tabs) == 7
    steps = page.get_by_role("navigation", name="Steps").bounding_box()
    assert steps is not None
    for tab in tabs:
        box = tab.bounding_box()
        assert box is not None
        assert box["x"] >= steps["x"]
        assert box["x"] + box["width"] <= steps["x"] + steps["width"]


def test_bob_picks_a_strategy_and_the_form_follows(
    scene: Scene, signed_in: SignIn, axe: Callable[[Page], None]
) -> None:
    page = signed_in(scene.bob)
    page.goto("/runs/new/?model=digits")
    page.get_by_role("button", name="Strategy").click()
    page.get_by_text("Participants have different data").click()
    page.get_by_label("FedProx", exact=True).check()
    unable = page.locator(".choice", has=page.get_by_label("FedProx", exact=True)).locator(
        "[data-unable]"
    )
    expect(unable).to_contain_text("0 of the 7 enrolled participants can do")
    expect(page.get_by_label("Proximal term")).to_be_visible()
    page.get_by_label("Proximal term").fill("-1")
    expect(page.locator("[data-field='options.fedprox.mu'] .errorlist")).to_contain_text("from 0")
    axe(page)

    page.get_by_text("Somebody may send wrong updates").click()
    page.get_by_label("Krum", exact=True).check()
    expect(page.get_by_label("Proximal term")).to_be_hidden()
    page.locator("#preview").get_by_role("link", name="Quorum").click()
    expect(page.get_by_label("Quorum")).to_be_focused()
    page.get_by_label("Quorum").fill("5")
    expect(page.locator("#preview")).to_contain_text("Krum makes a new version")

    page.get_by_role("button", name="Strategy").click()
    page.get_by_label("nobody waits for the slowest").check()
    expect(page.get_by_label("FedBuff")).to_be_checked()
    page.get_by_role("button", name="Who trains").click()
    expect(page.get_by_label("Wait for", exact=True)).to_be_hidden()
    page.get_by_label("Updates for a version").fill("6")
    expect(page.locator("#preview")).to_contain_text("Every 6 updates make a version")
    page.get_by_role("button", name="Strategy").click()
    page.get_by_label("each waits for its cohort").check()
    expect(page.get_by_label("Krum", exact=True)).to_be_checked()

    page.get_by_role("button", name="Ending").click()
    expect(page.get_by_label("Give up after")).to_be_hidden()
    page.get_by_label("Compare versions by").fill("accuracy")
    page.get_by_label("Give up after").fill("3")
    page.get_by_label("Serve the best version").check()
    expect(page.locator("#preview")).to_contain_text("when 3 rounds in a row were no better")
    page.get_by_role("button", name="Create as a draft").click()
    expect(page.locator(".notices")).to_contain_text("is a draft")
    made = Run.objects.latest("pk")
    assert (made.strategy, made.kind, made.quorum, made.patience) == ("krum", "synchronous", 5, 3)
    assert made.keep_best


def test_without_a_script_the_form_shows_what_is_chosen(scene: Scene, signed_in: SignIn) -> None:
    page = signed_in(scene.bob, java_script_enabled=False)
    page.goto("/runs/new/?model=scans")
    expect(page.get_by_label("Train at a time")).to_be_hidden()
    page.get_by_text("Some are much slower than others").click()
    page.get_by_label("FedBuff").check()
    expect(page.get_by_label("Staleness exponent")).to_be_visible()
    page.get_by_label("nobody waits for the slowest").check()
    expect(page.get_by_label("Wait for", exact=True)).to_be_hidden()
    expect(page.get_by_label("Train at a time")).to_have_value("10")
    page.get_by_role("button", name="Create as a draft").click()
    expect(page.locator(".notices")).to_contain_text("is a draft")
    assert Run.objects.latest("pk").buffer_size == 5


def test_bob_starts_pauses_resumes_and_stops_from_the_page(
    scene: Scene, signed_in: SignIn, axe: Callable[[Page], None]
) -> None:
    paused = Run.objects.get(model__slug="scans", state="paused")
    page = signed_in(scene.bob)
    page.goto(f"/runs/{paused.pk}/")
    chip = page.locator(".run-now .state").first
    decide(page, "Resume")
    expect(chip).to_have_text("running")
    decide(page, "Pause", "the clinic moves")
    expect(chip).to_have_text("paused")
    decide(page, "Stop", "not needed")
    expect(chip).to_have_text("stopped")
    expect(page.get_by_role("link", name="Stop", exact=True)).to_have_count(0)

    page.goto(f"/runs/{scene.draft.pk}/")
    watcher = signed_in(scene.victor)
    watcher.goto(f"/runs/{scene.draft.pk}/")
    expect(watcher.locator("fs-connection")).to_have_text("live")
    decide(page, "Start")
    expect(chip).to_have_text("running")
    expect(watcher.locator(".run-now .state").first).to_have_text("running")
    expect(watcher.locator(".run-now")).to_contain_text("Round 1")
    expect(watcher.locator(".run-left")).to_contain_text("left")
    expect(watcher.get_by_role("link", name="Pause")).to_have_count(0)
    told = Event.objects.filter(run=paused.pk, actor="bob", kind__startswith="run.")
    assert list(told.order_by("id").values_list("kind", "reason"))[-3:] == [
        ("run.resumed", ""),
        ("run.paused", "the clinic moves"),
        ("run.stopped", "not needed"),
    ]
    axe(page)


def test_victor_reads_the_curves_by_mouse_and_by_keyboard(
    scene: Scene, signed_in: SignIn, axe: Callable[[Page], None]
) -> None:
    page = signed_in(scene.victor)
    page.goto(f"/runs/{scene.spring.pk}/?compare={scene.autumn.pk}")
    curves = page.locator("fs-drawing[data-metric=accuracy]")
    expect(curves.locator("canvas")).to_be_visible()
    assert curves.locator("canvas").evaluate(COLOURS) > 10
    expect(curves.locator(".chart-runs li")).to_have_count(2)
    slider = curves.get_by_role("slider", name="Accuracy, by round")
    slider.focus()
    press(page, "Home")
    expect(curves.locator(".chart-picked")).to_have_text("Before round 1")
    press(page, "ArrowRight", "ArrowRight")
    expect(curves.locator(".chart-picked")).to_have_text("Round 2")
    said = slider.get_attribute("aria-valuetext")
    assert said is not None
    assert said.startswith("Round 2: spring: held-out 0.")
    box = slider.bounding_box()
    assert box is not None
    slider.hover(position={"x": box["width"] - 20, "y": 80})
    expect(curves.locator(".chart-picked")).to_have_text("Round 4")

    bars = page.locator("fs-drawing[data-measure=outcomes]")
    bars.get_by_role("slider").focus()
    press(page, "Home")
    expect(bars.locator(".chart-picked")).to_have_text("Round 1 (cancelled)")
    bars.get_by_text("All numbers").click()
    expect(bars.get_by_role("row")).to_have_count(1 + scene.spring.rounds.count())
    axe(page)

    before = curves.locator("canvas").evaluate("(canvas) => canvas.toDataURL()")
    page.emulate_media(color_scheme="dark")
    page.wait_for_function(
        "([canvas, before]) => canvas.isConnected === false || canvas.toDataURL() !== before",
        arg=[curves.locator("canvas").element_handle(), before],
    )
    assert curves.locator("canvas").count() == 1
    page.set_viewport_size({"width": 390, "height": 844})
    expect(curves.locator("canvas")).to_have_css("width", "324px")
