"""The dashboard in a tab of JupyterLab, below a prefix: opened, walked through, and ended with it.

The tests follow one another, as a person does who has just installed it.
"""

import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import psutil
import pytest
from django.urls import resolve
from playwright.sync_api import BrowserContext, FrameLocator, Page, Request, expect

from frontend import urls
from tests.browser.conftest import Console
from tests.jupyter.lab import PREFIX, ROOT, Lab

BELOW = f"{PREFIX}fedserver"
PATIENCE = 90_000  # milliseconds: the server starts
SCENE = """
import os, django
os.environ["DJANGO_SETTINGS_MODULE"] = "fedserver.settings"
django.setup()
from django.contrib.auth.models import User
from accounts.tokens import make_token
from tests.browser import scene
scene.make()
make_token(User.objects.get(username="owner"), label="script", actor="owner")
"""
LEADS = """() => [...document.querySelectorAll("[href], [src], [action], [formaction]")]
  .flatMap((one) => ["href", "src", "action", "formaction"].map((name) => one.getAttribute(name)))
  .filter((address) => address !== null)
  .map((address) => new URL(address, document.baseURI).href)"""
PAPERS = "https://arxiv.org/abs/"  # of strategies: who follows such a link means to leave
# Answers that are no pages of ours to be walked through.
UNLINKED = ("sign-in/", "join/", "api/redoc")  # for who is signed in
ENOUGH = {"frontend:participant": 9}  # nothing can be decided about some
NO_PAGES = {"sign-out", "journal-export", "run-history", "run-preview", "journal-news", "logout"}


@pytest.fixture
def context(lab: Lab, contexts: Callable[..., BrowserContext]) -> BrowserContext:
    """A browser that JupyterLab knows."""
    return contexts(lab.origin, viewport={"width": 1400, "height": 900})


def launcher(lab: Lab, page: Page) -> FrameLocator:
    """Opens JupyterLab, and the dashboard from its card: the tab's content."""
    page.goto(f"{lab.url}lab/workspaces/new?reset&token={lab.token}")
    page.locator(".jp-LauncherCard", has_text="fedserver").click(timeout=PATIENCE)
    frame = page.frame_locator("iframe")
    expect(frame.locator("h1")).to_be_visible(timeout=PATIENCE)
    return frame


def sign_in(where: FrameLocator | Page, lab: Lab) -> None:
    """As the first owner, of whom the page tells."""
    told = where.locator("pre", has_text="first-owner.txt").inner_text()
    name, password = Path(told.removeprefix("cat ")).read_text().split()
    where.get_by_label("Username").fill(name)
    where.get_by_label("Password").fill(password)
    where.get_by_role("button", name="Sign in").click()
    expect(where.locator("fs-connection")).to_have_text("live")


def programs(lab: Lab) -> list[psutil.Process]:
    """What runs of the server that JupyterLab has started."""
    everybody = psutil.Process(lab.pid).children(recursive=True)
    return [one for one in everybody if "ipykernel_launcher" not in one.cmdline()]


@pytest.mark.timeout(240)
def test_the_first_owner_opens_it_from_the_launcher_signs_in_and_out(
    lab: Lab, context: BrowserContext
) -> None:
    page = context.new_page()
    frame = launcher(lab, page)
    sign_in(frame, lab)
    names = {(cookie["name"], cookie["path"]) for cookie in context.cookies()}
    ours = {name: path for name, path in names if name.startswith("fedserver")}
    assert set(ours.values()) == {f"{BELOW}/"}
    assert f"fedserver_session{BELOW.replace('/', '_')}" in ours
    assert not {name for name, path in names - set(ours.items()) if path.startswith(BELOW)}
    frame.get_by_text("owner").first.click()
    frame.get_by_role("button", name="Sign out").click()
    expect(frame.get_by_role("heading", name="Sign in")).to_be_visible()
    assert lab.token not in lab.log.read_text()


@pytest.mark.timeout(240)
def test_no_page_leads_out_of_the_prefix_and_all_that_they_do_works(
    lab: Lab, context: BrowserContext, watch_console: Console, tmp_path: Path
) -> None:
    fill(lab)
    asked: list[str] = []
    context.on("request", lambda request: asked.append(_place(request)))
    page = context.new_page()
    page.goto(f"{BELOW}/?token={lab.token}", timeout=PATIENCE)
    sign_in(page, lab)
    walked = walk(page)
    pages = {f"frontend:{pattern.name}" for pattern in urls.urlpatterns}
    assert pages - walked == {f"frontend:{name}" for name in NO_PAGES} & pages
    assert {"admin:index", "admin:rounds_round_changelist", "api-docs", "api-redoc"} <= walked
    decide_in_a_dialog(page)
    register_a_model(page, watch_console, tmp_path)
    take_home(page)
    assert {place for place in asked if not place.startswith(f"{BELOW}/")} == set()


@pytest.mark.timeout(240)
def test_it_ends_with_jupyterlab_and_is_as_it_was_when_that_starts_again(
    lab: Lab, context: BrowserContext
) -> None:
    page = context.new_page()
    page.goto(f"{BELOW}/?token={lab.token}", timeout=PATIENCE)
    sign_in(page, lab)
    page.goto(f"{BELOW}/join-codes/new/")
    address = command(page)
    page.goto("about:blank")
    started = programs(lab)
    assert len(started) >= 5
    lab.stop()
    _, left = psutil.wait_procs(started, timeout=15)
    assert left == []
    lab.start()
    frame = launcher(lab, page)  # still signed in
    expect(frame.locator("fs-connection")).to_have_text("live")
    frame.get_by_role("link", name="Runs", exact=True).click()
    expect(frame.get_by_text("autumn").first).to_be_visible()
    assert httpx.get(f"{address}/healthz").json() == {"status": "ok"}
    assert address.startswith("http://127.0.0.1:")
    assert address != lab.origin


def fill(lab: Lab) -> None:
    """Lets the server have seen a lot."""
    told = lab.environment | {"PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", SCENE], cwd=ROOT, env=told, check=True)


def _place(request: Request) -> str:
    """Where on this machine a request goes; the whole address where it goes elsewhere."""
    parts = urlsplit(request.url)
    if parts.scheme in ("data", "blob", "about"):
        return f"{BELOW}/"
    return parts.path


def walk(page: Page) -> set[str]:
    """Follows every link, to one page of each kind: their names. None leads out of the prefix."""
    origin = urlsplit(page.url)._replace(path="", query="").geturl()
    seen: Counter[str] = Counter()
    ways = [f"{BELOW}/", *(f"{BELOW}/{path}" for path in UNLINKED)]
    while ways:
        way = ways.pop(0)
        name = kind(way)
        if seen[name] == ENOUGH.get(name, 1):
            continue
        seen[name] += 1
        answer = page.goto(way)
        assert answer is not None
        assert answer.status == 200, way
        assert urlsplit(page.url).path.startswith(f"{BELOW}/"), way
        for link in page.evaluate(LEADS):
            parts = urlsplit(link)
            if parts.scheme in ("data", "blob", "about") or link.startswith(PAPERS):
                continue
            assert link.startswith(f"{origin}{BELOW}/"), f"{link} on {way}"
            if is_page(parts.path):
                ways.append(link.removeprefix(origin))
    return set(seen)


def kind(way: str) -> str:
    """The name of an address, of which there are many."""
    return resolve(urlsplit(way).path.removeprefix(BELOW)).view_name


def is_page(path: str) -> bool:
    inside = path.removeprefix(BELOW)
    if inside.startswith(("/static/", "/api/v1/", "/api/schema", "/favicon.ico", "/admin/jsi18n")):
        return False
    return kind(path).rpartition(":")[2] not in NO_PAGES


def decide_in_a_dialog(page: Page) -> None:
    page.goto(f"{BELOW}/runs/")
    page.get_by_role("link", name="autumn").first.click()
    page.get_by_role("link", name="Pause", exact=True).click()
    page.get_by_role("dialog").get_by_role("button", name="Pause", exact=True).click()
    expect(page.get_by_text("is paused.")).to_be_visible()


def register_a_model(page: Page, watch_console: Console, folder: Path) -> None:
    """What is none is refused: it has come through, and has been looked at."""
    watch_console.expect("status of 422")
    file = folder / "model.keras"
    file.write_bytes(b"no archive" * 100_000)
    page.goto(f"{BELOW}/models/new/")
    page.get_by_label("Slug").fill("iris")
    page.get_by_label("Keras file").set_input_files(file)
    page.get_by_role("button", name="Register").click()
    expect(page.get_by_role("alert")).to_contain_text("which is a zip archive")


def take_home(page: Page) -> None:
    page.goto(f"{BELOW}/journal/")
    with page.expect_download() as started:
        page.get_by_role("link", name="CSV").click()
    assert "run.created" in started.value.path().read_text()


def command(page: Page) -> str:
    """The address at which participants join, as a new code's page says it."""
    page.get_by_role("button", name="Make the code").click()
    return page.get_by_text("fedclient join").first.inner_text().split()[2]
