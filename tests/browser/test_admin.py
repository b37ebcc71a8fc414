"""The admin as people have it before them: in both themes, by keyboard, under the strict policy."""

from collections.abc import Callable

import pytest
from django.contrib.auth.models import User
from playwright.sync_api import Page, expect

from models_app.models import Model
from rounds import enrolment, lifecycle
from rounds.models import Run
from tests.browser.conftest import SignIn
from tests.rounds.conftest import Enrolled

PHONE = {"width": 390, "height": 844}


@pytest.fixture
def winter(tiny_model: Model, enrolled: Callable[..., Enrolled]) -> Run:
    """A run that has been started, with somebody who could train in it."""
    enrolled("charlie")
    enrolment.make_join_code(label="for emil", model=tiny_model, actor="bob")
    run = lifecycle.create_run(tiny_model, name="winter", actor="bob")
    lifecycle.start_run(run.pk, actor="bob")
    return run


SORTS = {
    "light": (
        {},
        ["", "rounds/run/", "rounds/run/{run}/change/", "rounds/run/decide/stop/?row={run}"],
    ),
    "dark": (
        {"viewport": PHONE},
        ["rounds/run/", "rounds/run/add/", "rounds/joincode/add/", "journal/event/"],
    ),
}


@pytest.mark.parametrize("theme", SORTS)
def test_alice_can_read_every_sort_of_page(
    alice: User, winter: Run, signed_in: SignIn, axe: Callable[[Page], None], theme: str
) -> None:
    options, places = SORTS[theme]
    page = signed_in(alice, color_scheme=theme, **options)
    for place in places:
        page.goto("/admin/" + place.format(run=winter.pk))
        axe(page)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), place


def test_bob_stops_a_run_from_the_list(bob: User, winter: Run, signed_in: SignIn) -> None:
    page = signed_in(bob)
    page.goto("/admin/rounds/run/?state__exact=running")
    page.get_by_role("checkbox", name="Select this object for an action - winter").check()
    page.get_by_label("Action:").select_option("Stop")
    page.get_by_role("button", name="Go").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Stop")
    page.get_by_role("button", name="Stop").click()
    expect(page.get_by_text("This field is required.")).to_be_visible()
    page.get_by_label("Why").fill("the snow has melted")
    page.get_by_role("button", name="Stop").click()
    expect(page.get_by_text("Winter is stopped.")).to_be_visible()
    assert page.url.endswith("/admin/rounds/run/?state__exact=running")
    winter.refresh_from_db()
    assert (winter.state, winter.reason) == ("stopped", "the snow has melted")


def test_the_colours_that_one_chose_here_hold_everywhere(alice: User, signed_in: SignIn) -> None:
    page = signed_in(alice, color_scheme="light")
    page.goto("/admin/")
    switch = page.get_by_role("button", name="Colours")
    for words in ("as the system", "light", "dark"):
        expect(switch).to_have_text(f"Colours: {words}")
        if words != "dark":
            switch.click()
    page.goto("/profile/")
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
    page.goto("/admin/rounds/run/")
    assert page.evaluate("getComputedStyle(document.documentElement).colorScheme") == "dark"


@pytest.mark.parametrize("address", ["/api/docs", "/api/redoc"])
def test_the_documentation_of_the_api_works_under_its_policy(
    browser_page: Page, address: str
) -> None:
    browser_page.goto(address)
    expect(browser_page.get_by_text("/api/v1/runs").first).to_be_attached()
    expect(browser_page.locator("img[src^=http]")).to_have_count(0)
