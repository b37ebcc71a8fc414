"""A participant comes in and is shown out: bob's browser, the real client, a live list."""

from collections.abc import Callable
from pathlib import Path

import pytest
from django.contrib.auth.models import User
from playwright.sync_api import Page, Request, expect

from client_sdk import cli
from rounds.models import JoinCode, Participant
from tests.browser.conftest import Console, SignIn
from tests.rounds.conftest import Enrolled

Axe = Callable[[Page], None]
CLIPBOARD = ["clipboard-read", "clipboard-write"]


@pytest.fixture(autouse=True)
def home_of_the_client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the participant's machine keeps its key."""
    monkeypatch.setenv("FEDCLIENT_HOME", str(tmp_path / "charlie"))


def make_code(page: Page, label: str) -> str:
    """Bob fills the form and presses the button; the command that he is shown."""
    page.goto("/join-codes/new/")
    page.get_by_label("For whom").fill(label)
    page.get_by_role("button", name="Make the code").click()
    return page.locator("#join-command").inner_text()


def test_charlie_joins_by_the_command_that_bob_copied_and_appears_in_the_list(
    signed_in: SignIn, bob: User
) -> None:
    page = signed_in(bob)
    watched = page.context.new_page()  # nobody touches it again
    watched.goto("/participants/")
    expect(watched.get_by_role("heading", name="Nobody has enrolled yet")).to_be_visible()

    page.context.grant_permissions(CLIPBOARD)
    command = make_code(page, "for charlie")
    page.get_by_role("button", name="Copy the command").click()
    expect(page.get_by_role("button", name="Copied")).to_be_visible()
    copied = page.evaluate("navigator.clipboard.readText()")
    assert copied == command

    expect(watched.get_by_role("row", name="for charlie")).to_contain_text("open")
    assert cli.main([*copied.split()[1:], "--name", "charlie"]) == 0
    row = watched.get_by_role("table", name="Participants").get_by_role("row", name="charlie")
    expect(row).to_contain_text("online")
    expect(watched.get_by_role("row", name="for charlie")).to_contain_text("used up")


def test_a_reload_neither_shows_the_code_again_nor_makes_another(
    signed_in: SignIn, bob: User, axe: Axe, watch_console: Console
) -> None:
    watch_console.expect("status of 409")
    page = signed_in(bob, color_scheme="dark")
    secret = make_code(page, "for dora").split()[-1]
    axe(page)
    expect(page.get_by_role("img", name="QR code")).to_be_visible()
    page.reload()
    expect(page.get_by_role("heading", name="A join code is shown once")).to_be_visible()
    assert secret not in page.content()
    axe(page)
    assert JoinCode.objects.count() == 1


def test_the_link_completes_the_command_and_no_request_tells_the_code(
    browser_page: Page, axe: Axe
) -> None:
    told: list[str] = []

    def heard(request: Request) -> None:
        told.append(f"{request.url} {request.all_headers()} {request.post_data}")

    browser_page.on("request", heard)
    browser_page.goto("/join/")
    expect(browser_page.locator("#join-command")).to_contain_text(" CODE")
    secret = "fsj_dhXp0Y7kR5tQbWc3-ZaLmN8v"
    browser_page.goto("about:blank")
    browser_page.goto(f"/join/#{secret}")
    expect(browser_page.locator("#join-command")).to_contain_text(f" {secret}")
    expect(browser_page.get_by_text("Put the join code")).to_be_hidden()
    axe(browser_page)
    browser_page.get_by_role("link", name="fedserver").click()  # the address is no referrer
    expect(browser_page.get_by_role("heading", name="Sign in")).to_be_visible()
    assert len(told) > 5
    assert secret not in "".join(told)


def test_bob_suspends_charlie_in_a_dialog_that_asks_why(
    signed_in: SignIn, bob: User, enrolled: Callable[..., Enrolled]
) -> None:
    charlie = enrolled("charlie").participant
    page = signed_in(bob)
    page.goto(f"/participants/{charlie.uuid}/")
    page.get_by_role("link", name="Revoke").click()
    dialog = page.get_by_role("dialog", name="Revoke: charlie")
    dialog.get_by_role("link", name="Leave it as it is").click()
    expect(dialog).to_have_count(0)

    page.get_by_role("link", name="Suspend").click()
    dialog = page.get_by_role("dialog", name="Suspend: charlie")
    dialog.get_by_label("Why").fill("odd updates")
    dialog.get_by_role("button", name="Suspend").click()
    expect(page.get_by_role("status").get_by_text("charlie is suspended.")).to_be_visible()
    expect(page.locator("main .state").first).to_have_text("suspended")
    expect(page.get_by_role("link", name="Reinstate")).to_be_visible()
    expect(page.get_by_role("region", name="In the journal")).to_contain_text("odd updates")
    assert Participant.objects.get().state == "suspended"
