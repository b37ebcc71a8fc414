"""What is asked of every page, whatever it shows: to be read by everybody, everywhere, in peace."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import pytest
from django.contrib.auth.models import User
from django.urls import reverse
from playwright.sync_api import Page, expect

from frontend import urls
from rounds import enrolment, lifecycle
from rounds.models import Participant, Run
from tests.browser import scene as scenes
from tests.browser.conftest import SignIn
from tests.browser.scene import Scene

WIDE, PHONE = {"width": 1400, "height": 900}, {"width": 390, "height": 844}
# No pages, but addresses that answer with something else.
NO_PAGES = {"sign-out", "journal-export", "run-history", "run-preview", "journal-news"}
CONTROLS = """() => {
  const found = "a[href], button, input, select, textarea, summary, [tabindex]";
  const controls = [...document.querySelectorAll(found)].filter((one) =>
    one.tabIndex >= 0 && !one.disabled && one.checkVisibility({ visibilityProperty: true }) &&
    !(one.type === "radio" && one.form?.elements[one.name].value !== one.value));
  window.left = new Set(controls);
  window.ringless = new Set();
  addEventListener("focusin", ({ target }) => {
    const { outlineStyle, outlineWidth, boxShadow } = getComputedStyle(target);
    const ring = (outlineStyle !== "none" && parseFloat(outlineWidth) >= 2) || boxShadow !== "none";
    if (!ring) window.ringless.add(target);
    window.left.delete(target);
  });
  return controls.length;
}"""
SETTLED = "() => new Promise((done) => requestAnimationFrame(() => setTimeout(done, 50)))"
TOLD = "(name) => [...window[name]].map((one) => one.outerHTML.slice(0, 200))"


@dataclass(frozen=True)
class Place:
    """A page, and where it is in the scene."""

    name: str
    arguments: Callable[[Scene], dict[str, Any]] = lambda scene: {}
    fewer: str = ""  # the query for fewer rows, where each has the same controls

    def path(self, scene: Scene) -> str:
        return reverse(f"frontend:{self.name}", kwargs=self.arguments(scene))


def of_digits(scene: Scene) -> dict[str, Any]:
    return {"slug": scene.digits.slug}


PLACES = {
    "overview": Place("overview"),
    "runs": Place("runs"),
    "a new run": Place("run-new"),
    "the strategies": Place("strategies"),
    "a run that is over": Place("run", lambda scene: {"pk": scene.spring.pk}),
    "a run": Place("run", lambda scene: {"pk": scene.autumn.pk}),
    "a decision": Place("run-decide", lambda scene: {"pk": scene.autumn.pk, "verb": "stop"}),
    "a round that trains": Place("round", lambda scene: {"pk": scene.training.pk}),
    "a round that is over": Place("round", lambda scene: {"pk": scene.published.pk}),
    "models": Place("models"),
    "a new model": Place("model-new"),
    "a model": Place("model", of_digits),
    "a version": Place("version", lambda scene: {"slug": scene.digits.slug, "number": 4}),
    "trying it": Place("try", of_digits),
    "participants": Place("participants"),
    "a participant": Place("participant", lambda scene: {"uuid": scene.uuid_of("frida")}),
    "a new join code": Place("join-code-new"),
    "the journal": Place("journal", fewer="?kind=run.created"),
    "profile": Place("profile"),
    "a new token": Place("token-new"),
    "a new password": Place("change-password"),
    "sign in": Place("sign-in"),
    "how to join": Place("join"),
}
# Those which look like one of these, and differ in their words alone.
ALIKE = {"round-decide", "version-decide", "participant-decide", "join-code-decide", "token-delete"}


# One scene and one server for all tests of this file, and not for each.
transactional_db, scene, server = scenes.database, scenes.scene, scenes.server
kept = scenes.kept


def show(page: Page, path: str) -> None:
    """Go there, and wait until everything is drawn."""
    answer = page.goto(path)
    assert answer is not None
    assert answer.status == 200
    expect(page.locator("fs-drawing:empty")).to_have_count(0)


def test_every_page_is_looked_at_here() -> None:
    known = {place.name for place in PLACES.values()} | NO_PAGES | ALIKE
    assert {pattern.name for pattern in urls.urlpatterns} == known


# A theme changes colours and a size the layout: neither meets anything new in the other two pairs.
@pytest.mark.parametrize(
    ("size", "theme"), [(WIDE, "light"), (PHONE, "dark")], ids=["wide and light", "phone and dark"]
)
@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
def test_everybody_can_read_it(
    scene: Scene,
    signed_in: SignIn,
    axe: Callable[[Page], None],
    place: Place,
    size: dict[str, int],
    theme: Literal["light", "dark"],
) -> None:
    page = signed_in(reader(scene, place), viewport=size, color_scheme=theme)
    show(page, place.path(scene))
    axe(page)
    assert page.title().removesuffix(" · fedserver")
    expect(page.locator("h1")).to_have_count(1)
    assert page.locator("h1").inner_text()
    assert page.evaluate("document.documentElement.scrollWidth") <= size["width"]
    # Who asked for less motion gets none.
    assert page.evaluate("document.getAnimations().length") == 0


@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
def test_everything_is_reached_by_tab_and_shows_where_one_is(
    scene: Scene, signed_in: SignIn, place: Place
) -> None:
    page = signed_in(reader(scene, place), viewport=WIDE)
    show(page, place.path(scene) + place.fewer)
    for _ in range(page.evaluate(CONTROLS) + 3):
        page.keyboard.press("Tab")
    assert page.evaluate(TOLD, "left") == []
    assert page.evaluate(TOLD, "ringless") == []


def reader(scene: Scene, place: Place) -> User | None:
    """An owner sees every button; who signs in is nobody yet."""
    return None if place.name in ("sign-in", "join") else scene.alice


WATCH_SHIFTS = """() => {
  const say = () => { document.documentElement.dataset.refreshed = "yes"; };
  document.addEventListener("fs-refreshed", say);
  window.shifted = [];
  new PerformanceObserver((list) => {
    for (const { value, sources } of list.getEntries()) {
      if (value < 0.001) continue; // a pixel: nobody sees it
      window.shifted.push([value, ...sources.map(({ node }) => node?.outerHTML?.slice(0, 150))]);
    }
  }).observe({ type: "layout-shift" });
}"""


def pause_or_resume(scene: Scene) -> None:
    scene.autumn.refresh_from_db()
    running = scene.autumn.state == Run.State.RUNNING
    verb = lifecycle.pause_run if running else lifecycle.resume_run
    verb(scene.autumn.pk, actor="bob")


def suspend_or_reinstate(scene: Scene) -> None:
    hanna = scene.people["hanna"].participant
    hanna.refresh_from_db()
    active = hanna.state == Participant.State.ACTIVE
    (enrolment.suspend if active else enrolment.reinstate)(hanna, actor="bob")


# What happens while somebody looks at a page.
NEWS = {
    "overview": pause_or_resume,
    "runs": pause_or_resume,
    "a run": pause_or_resume,
    "participants": suspend_or_reinstate,
}


@pytest.mark.parametrize("size", [WIDE, PHONE], ids=["wide", "phone"])
@pytest.mark.parametrize("name", NEWS)
def test_news_move_nothing_that_somebody_reads(
    scene: Scene, signed_in: SignIn, name: str, size: dict[str, int]
) -> None:
    page = signed_in(scene.alice, viewport=size)
    show(page, PLACES[name].path(scene))
    expect(page.locator("fs-connection")).to_have_text("live")
    page.evaluate(WATCH_SHIFTS)
    NEWS[name](scene)
    expect(page.locator("html")).to_have_attribute("data-refreshed", "yes")
    page.evaluate(SETTLED)
    assert page.evaluate("window.shifted") == []


def test_a_row_of_a_round_moves_without_moving_the_page(scene: Scene, signed_in: SignIn) -> None:
    page = signed_in(scene.victor, viewport=WIDE)
    show(page, PLACES["a round that trains"].path(scene))
    expect(page.locator("fs-connection")).to_have_text("live")
    page.evaluate(WATCH_SHIFTS)
    for epoch in (3, 4):
        scene.report("dora", epoch)
        expect(page.get_by_role("row", name="dora")).to_contain_text(f"training {epoch}/5")
    page.evaluate(SETTLED)
    assert page.evaluate("window.shifted") == []
