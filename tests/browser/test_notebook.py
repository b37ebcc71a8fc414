"""The notebook's widgets in a real browser, before the real server: they show what happens.

In JupyterLab itself they are seen in tests/jupyter; here is what needs none of it.
"""

from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import BrowserContext, Page, expect

from accounts.models import PersonalToken
from client_sdk.notebook.live import LiveRound, LiveRun
from client_sdk.notebook.progress import Progress
from client_sdk.participation import Event
from tests.browser import scene as scenes
from tests.browser.scene import Scene
from tests.browser.widgets import Host

# One scene and one server for all tests of this file, and not for each.
transactional_db, scene, server = scenes.database, scenes.scene, scenes.server

Contexts = Callable[..., BrowserContext]
NARROW = {"width": 400, "height": 800}


@pytest.fixture
def token(scene: Scene) -> str:
    """What victor has in his notebook, who may only look."""
    return PersonalToken.objects.issue(scene.victor, "a notebook")[1]


@pytest.fixture
def page(server: str, contexts: Contexts) -> Page:
    return contexts(server).new_page()


def test_a_view_that_is_opened_later_shows_the_truth_and_the_last_one_ends_it(
    page: Page, server: str, scene: Scene, token: str
) -> None:
    live = LiveRound(server, scene.training.pk, token=token)
    host = Host(page, live)
    host.until_text("Round 2 of autumn", "training 2/5, 40", "live")
    scene.report("dora", 4)
    host.until_text("training 4/5, 80")
    assert any(one["kind"] == "assignment.progress" for one in live.events)
    host.open("second")
    expect(page.locator("#second")).to_contain_text("training 4/5, 80")
    followed = []
    for place in ("first", "second"):
        host.close(place)
        followed.append(live.following)
    assert followed == [True, False]
    assert page.locator(".fs-live").count() == 0
    live.close()


def test_why_somebody_failed_is_told(page: Page, server: str, scene: Scene, token: str) -> None:
    live = LiveRound(server, scene.training.pk, token=token)
    host = Host(page, live)
    host.until_text("gustav")
    page.get_by_role("row").filter(has_text="gustav").get_by_role("button").click()
    host.until_text("Unable to allocate 3.73 GiB for an array with shape")
    link = page.get_by_role("row").get_by_role("link", name="gustav")
    expect(link).to_have_attribute("href", f"{server}/participants/{scene.uuid_of('gustav')}/")
    live.close()


def test_a_wrong_token_is_a_sentence(page: Page, server: str, scene: Scene) -> None:
    live = LiveRun(server, scene.spring.pk, token="fsu_nonsense")
    Host(page, live).until_text("refused", "The token is not accepted: make one on the profile")
    live.close()


@pytest.mark.parametrize("light", [True, False], ids=["light", "dark"])
def test_everybody_can_read_the_views(
    server: str, contexts: Contexts, scene: Scene, token: str, light: bool, axe: Any
) -> None:
    theme = "light" if light else "dark"
    page = contexts(server, viewport=NARROW, color_scheme=theme).new_page()
    for live in (
        LiveRound(server, scene.published.pk, token=token),
        LiveRun(server, scene.spring.pk, token=token),
    ):
        host = Host(page, live, light=light)
        host.until_text("ended", "digits")
        assert page.evaluate("document.documentElement.scrollWidth") <= NARROW["width"]
        axe(page)
        live.close()


def test_a_participation_is_seen_to_move(server: str, page: Page, axe: Any) -> None:
    progress = Progress()
    host = Host(page, progress.view)
    host.until_text("Taking part")
    progress(Event("training", data={"samples": 120}))
    for epoch in (1, 2, 3):
        metrics = {"loss": 1.0 / epoch}
        progress(Event("epoch", data={"epoch": epoch, "epochs": 4, "metrics": metrics}))
    host.until_text("epoch 3/4", "0.333")
    step = page.locator('[data-step="training"]')
    expect(step).to_have_attribute("data-when", "current")
    assert page.locator("polyline").get_attribute("points") == "0,4 50,73 100,96"
    receipt = {"round": 7, "number": 3, "version": 4, "samples": 120, "bytes": 2800}
    progress(Event("receipt", data={"receipt": {**receipt, "state": "accepted", "published": 5}}))
    host.until_text("accepted", "2.8 kB")
    axe(page)
