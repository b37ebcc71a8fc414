"""One story against the real stack: bob runs a federation from the page, and the page keeps up."""

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from django.conf import settings as django_settings
from django.db import connection
from playwright.sync_api import BrowserContext, Locator, Page, expect

from accounts.roles import Role
from client_sdk import Participant
from journal.models import Event
from models_app import registry
from rounds.models import Round, Run
from tests.browser.conftest import Console, cookie_of
from tests.fedserver.test_up_and_demo import line_with, manage
from tests.participant import package
from tests.rounds.conftest import person

NAMES = ("charlie", "dora", "emil")
PASSWORD = "the horse is correct"
ROUNDS, EPOCHS = 3, 40  # epochs of a tenth of a second
BY_BOB = {"join_code.created", "run.created", "run.started", "run.paused", "run.resumed"}
# What was opened by hand and never again is recognised by it: a reload would forget it.
MARK, MARKED = "window.opened = 'once'", "window.opened"


@pytest.fixture
def home(tmp_path: Path, settings: Any, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the server keeps its files; the participants have a place beside it."""
    settings.FEDSERVER_HOME = tmp_path / "home"
    settings.FEDSERVER_HOME.mkdir()
    monkeypatch.setenv("FEDCLIENT_HOME", str(tmp_path / "participants"))
    return tmp_path / "home"


@pytest.fixture
def up(transactional_db: None, home: Path) -> Iterator[tuple["subprocess.Popen[str]", str]]:
    """`manage.py up` on the test's own database: the process, and its address."""
    registry.create_model("plain", package())
    bob = person("bob", Role.OPERATOR)
    bob.set_password(PASSWORD)
    bob.save()
    told = {
        "DATABASE_URL": f"sqlite:///{connection.settings_dict['NAME']}",
        "FEDSERVER_SECRET_KEY": django_settings.SECRET_KEY,  # for victor's session, made here
        "FEDSERVER_SWEEP_SECONDS": "0.5",
    }
    with manage(home, "up", "--port", "0", **told) as process:
        yield process, line_with(process, "serves at").split()[3]


@pytest.mark.timeout(180)
def test_bob_runs_a_federation_from_the_page_and_a_killed_server_is_no_trouble(
    up: tuple["subprocess.Popen[str]", str],
    contexts: Callable[..., BrowserContext],
    watch_console: Console,
) -> None:
    process, url = up
    context = contexts(url)
    page = context.new_page()
    sign_in(page)
    code = make_join_code(page)
    with ExitStack() as everybody:
        for name in NAMES:
            Participant.enrol(url, code, name=name, profile=name).close()
            everybody.enter_context(taking_part(name))
        see_them(page)
        run = create_and_start(page)
        pause_and_resume(page, run)
        cockpit = context.new_page()
        watch_rows_move(cockpit, run)
        watch_console.expect("WebSocket|ERR_|Failed to load resource")
        kill_the_web_process(process)
        survive(page, cockpit)
        expect(page.get_by_text(f"{ROUNDS} of {ROUNDS} rounds published")).to_be_visible(
            timeout=60_000
        )
    compare_with_the_database(page, cockpit, run)
    look_as_victor(contexts(url), url, run)


def sign_in(page: Page) -> None:
    """By the form; a wrong password is refused."""
    page.goto("/runs/")
    for password in ("a wrong one", PASSWORD):
        page.get_by_label("Username").fill("bob")
        page.get_by_label("Password").fill(password)
        page.get_by_role("button", name="Sign in").click()
        if password != PASSWORD:
            expect(page.get_by_text("The name or the password is wrong")).to_be_visible()
    expect(page.get_by_role("heading", level=1)).to_have_text("Runs")


def make_join_code(page: Page) -> str:
    """One that admits everybody, and is shown once."""
    page.get_by_role("link", name="Participants").click()
    page.get_by_role("link", name="Make a join code").click()
    page.get_by_label("For whom").fill("clinics")
    page.get_by_label("How many participants it admits").fill(str(len(NAMES)))
    page.get_by_role("button", name="Make the code").click()
    command = page.get_by_text("fedclient join").inner_text()
    return command.split()[-1]


def see_them(page: Page) -> None:
    """Who enrolled is on the list."""
    page.get_by_role("link", name="See who enrols").click()
    for name in NAMES:
        expect(row_of(page, name)).to_contain_text("any model")


def row_of(page: Page, name: str) -> Locator:
    """Somebody's row in a table."""
    return page.get_by_role("row", name=re.compile(rf"^{name}\b"))


def create_and_start(page: Page) -> Run:
    """A run by the wizard."""
    page.get_by_role("link", name="Runs").click()
    page.get_by_role("link", name="New run").first.click()
    fill_in(page, {"Name": "autumn", "Rounds": ROUNDS})
    page.get_by_role("button", name="Training").click()
    fill_in(page, {"Epochs": EPOCHS})
    page.get_by_role("button", name="Closing").click()
    fill_in(page, {"Quorum": len(NAMES)})
    page.get_by_role("button", name="Create as a draft").click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("autumn")
    assert Run.objects.get().state == Run.State.DRAFT
    decide(page, "Start")
    expect(page.get_by_text("is running.")).to_be_visible()
    return Run.objects.get()


def fill_in(page: Page, values: dict[str, Any]) -> None:
    for label, value in values.items():
        page.get_by_label(re.compile(f"^{label}:?$")).fill(str(value))


def decide(page: Page, label: str, reason: str = "") -> None:
    """A button of the page, and the one in the dialog that it opens."""
    page.get_by_role("link", name=label, exact=True).click()
    dialog = page.get_by_role("dialog")
    if reason:
        dialog.get_by_label("Why").fill(reason)
    dialog.get_by_role("button", name=label, exact=True).click()


@contextmanager
def taking_part(name: str) -> Iterator[None]:
    """A participant as a process of its own, that trains nothing heavy."""
    command = [sys.executable, "-m", "tests.participant", name]
    environment = os.environ | {"PYTHONPATH": str(django_settings.BASE_DIR)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL) as process:
        try:
            yield
        finally:
            process.kill()


def pause_and_resume(page: Page, run: Run) -> None:
    """The round that is under way finishes, no other opens; and all of it shows by itself."""
    expect(page.get_by_role("link", name="Round 1").first).to_be_visible()
    decide(page, "Pause", "the night shift begins")
    expect(page.get_by_text("is paused.")).to_be_visible()
    page.evaluate(MARK)
    expect(page.get_by_text(f"1 of {ROUNDS} rounds published")).to_be_visible(timeout=30_000)
    expect(page.get_by_text("No round opens until it is resumed.")).to_be_visible()
    assert run.rounds.get().phase == Round.Phase.PUBLISHED
    decide(page, "Resume")
    expect(page.get_by_text("is running again.")).to_be_visible()
    page.evaluate(MARK)


def watch_rows_move(cockpit: Page, run: Run) -> None:
    """Everybody's row of the second round, which nobody reloads."""
    cockpit.goto(f"/rounds/{run.rounds.get(number=2).pk}/")
    cockpit.evaluate(MARK)
    for name in NAMES:
        row = row_of(cockpit, name)
        expect(row).to_contain_text(re.compile(rf"training \d+/{EPOCHS}"))
        told = re.search(rf"training \d+/{EPOCHS}", row.inner_text())
        assert told is not None
        expect(row).not_to_contain_text(told[0])


def kill_the_web_process(process: "subprocess.Popen[str]") -> None:
    everybody = psutil.Process(process.pid).children(recursive=True)
    next(one for one in everybody if "fedserver.web" in one.cmdline()).kill()


def survive(*pages: Page) -> None:
    """They say that they are cut off, and then that they are not, without a reload."""
    for page in pages:
        expect(page.locator("fs-connection")).to_have_text(re.compile("reconnecting|polling|cut"))
    for page in pages:
        expect(page.locator("fs-connection")).to_have_text("live", timeout=30_000)
        assert page.evaluate(MARKED) == "once"


def compare_with_the_database(page: Page, cockpit: Page, run: Run) -> None:
    """Both pages, which have been there all the time, tell what the database holds."""
    run.refresh_from_db()
    assert run.state == Run.State.COMPLETED
    expect(page.locator(".run-now")).to_contain_text("completed")
    for round_ in run.rounds.select_related("version"):
        assert round_.version is not None
        row = page.get_by_role("row", name=f"Round {round_.number}")
        expect(row).to_contain_text(f"version {round_.version.number}")
        expect(row).to_contain_text("published")
    second = run.rounds.get(number=2)
    expect(cockpit.locator("#round-phase")).to_have_text(second.phase)
    for one in second.assignments.select_related("participant", "update"):
        row = row_of(cockpit, one.participant.name)
        expect(row).to_contain_text(one.state)
        expect(row.locator(".fs-col-samples")).to_have_text(str(one.update.samples))
    for opened in (page, cockpit):
        assert opened.evaluate(MARKED) == "once"
    assert set(Event.objects.filter(actor="bob").values_list("kind", flat=True)) >= BY_BOB


def look_as_victor(context: BrowserContext, url: str, run: Run) -> None:
    """A viewer sees all of it, finds no button, and is refused."""
    context.add_cookies([cookie_of(person("victor", Role.VIEWER), url)])
    page = context.new_page()
    page.goto("/participants/")
    expect(row_of(page, "dora")).to_be_visible()
    expect(page.get_by_role("link", name="Make a join code")).to_have_count(0)
    page.goto(f"/runs/{run.pk}/")
    expect(page.get_by_role("link", name="New run like this")).to_have_count(0)
    answer = page.goto(f"/runs/{run.pk}/stop/")
    assert answer is not None
    assert answer.status == 403
