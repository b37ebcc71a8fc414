"""A page keeps telling the truth: cut off, its server killed, without WebSockets, signed out."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from django.conf import settings
from django.contrib.auth.models import User
from django.contrib.sessions.models import Session
from django.db import connection
from django.db.backends.utils import CursorWrapper
from playwright.sync_api import BrowserContext, Page, WebSocketRoute, expect

from journal import events
from journal.models import Event
from models_app.models import Model
from rounds import lifecycle
from rounds.models import Run
from tests.browser.conftest import PATIENCE, Console, SignIn, cookie_of

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.timeout(120)]

# A second listener of the page's own connection, which writes down what it is told.
EAVESDROP = """async (after) => {
  const { connect } = await import("/static/frontend/live.js");
  globalThis.heard = [];
  globalThis.statuses = [];
  connect({
    after,
    onEvents: (events) => heard.push(...events.map((one) => one.id)),
    onStatus: (status) => statuses.push(status),
  });
}"""


class Server:
    """The web process as it is in production, at a port of its own, to be killed."""

    def __init__(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as found:
            self.port = found.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "fedserver.web", "--port", str(self.port)]
        environment = {**os.environ, "DATABASE_URL": database_url()}
        environment["PYTHONPATH"] = str(settings.BASE_DIR)
        self._process = subprocess.Popen(command, env=environment)
        while not self._answers():
            assert self._process.poll() is None, "Expected a server. Received: its end"
            time.sleep(0.05)

    def _answers(self) -> bool:
        try:
            return httpx.get(f"{self.url}/healthz").is_success
        except httpx.TransportError:
            return False

    def kill(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
        self._process = None


def database_url() -> str:
    """The `DATABASE_URL` of the database that this test's own connection is on."""
    name = connection.settings_dict["NAME"]
    if connection.vendor == "sqlite":
        return f"sqlite:///{name}"
    return os.environ["DATABASE_URL"].replace("///postgres?", f"///{name}?")


@pytest.fixture
def killable(transactional_db: None, valkey: str) -> Iterator[Server]:
    server = Server()
    server.start()
    yield server
    server.kill()


@pytest.fixture
def run(tiny_model: Model) -> Run:
    found = lifecycle.create_run(tiny_model, name="spring", cohort_min=1, quorum=1)
    lifecycle.start_run(found.pk, actor="bob")
    return found


def eavesdrop(page: Page) -> int:
    """From now on the page writes down what it hears; the cursor from which on."""
    page.evaluate(EAVESDROP, after := events.head())
    until(page, "statuses.includes('live')")
    return after


def until(page: Page, holds: str) -> None:
    """Waits until an expression is true. (The page's policy lets it evaluate no strings itself.)"""
    give_up = time.monotonic() + PATIENCE
    while not page.evaluate(holds):
        assert time.monotonic() < give_up, f"Expected: {holds}"
        page.wait_for_timeout(50)


def write(count: int = 1) -> None:
    for _ in range(count):
        with events.transaction() as journal:
            journal.record("run.retrying", failures=1, seconds=1)


def assert_heard_everything(page: Page, after: int) -> None:
    """Every event since then once and in order, by the same document that was there before."""
    ids = list(Event.objects.filter(id__gt=after).order_by("id").values_list("id", flat=True))
    until(page, f"heard.at(-1) === {ids[-1]}")
    assert page.evaluate("heard") == ids


def test_a_page_shows_what_happens_without_a_reload(
    server: str, signed_in: SignIn, victor: User, run: Run
) -> None:
    page = signed_in(victor)
    page.goto("/runs/")
    expect(page.locator("fs-connection")).to_have_text("live")
    expect(page.locator(f"#run-{run.pk} .state").first).to_have_text("running")
    after = eavesdrop(page)
    lifecycle.pause_run(run.pk, actor="bob", reason="it is late")
    expect(page.locator(f"#run-{run.pk} .state").first).to_have_text("paused")
    assert_heard_everything(page, after)


def test_a_page_whose_server_is_killed_says_so_and_shows_the_truth_when_it_is_back(
    killable: Server,
    contexts: Callable[..., BrowserContext],
    victor: User,
    run: Run,
    watch_console: Console,
) -> None:
    watch_console.expect("ERR_CONNECTION_REFUSED|WebSocket connection|ERR_|Failed to load")
    context = contexts(killable.url)
    context.add_cookies([cookie_of(victor, killable.url)])
    page = context.new_page()
    page.goto("/runs/")
    after = eavesdrop(page)
    write()
    killable.kill()
    lifecycle.pause_run(run.pk, actor="bob", reason="it is late")
    word = page.locator("fs-connection")
    expect(word).to_contain_text("cut off")
    expect(word).to_contain_text("what you see may be old")
    expect(page.locator(f"#run-{run.pk} .state").first).to_have_text("running")
    write(3)
    killable.start()
    back = time.monotonic()
    expect(word).to_have_text("live")
    expect(page.locator(f"#run-{run.pk} .state").first).to_have_text("paused")
    assert time.monotonic() - back < 10
    assert_heard_everything(page, after)


def test_a_socket_that_is_cut_again_and_again_misses_nothing_and_repeats_nothing(
    server: str, signed_in: SignIn, victor: User
) -> None:
    page, cut = signed_in(victor), []

    def carry(route: WebSocketRoute) -> None:
        route.connect_to_server()
        cut.append(route)

    page.route_web_socket("**/ws/live/", carry)
    page.goto("/runs/")
    after = eavesdrop(page)
    for count in (1, 7, 30):
        write(count)
        before = len(cut)
        cut[-1].close()
        write(count)
        while len(cut) == before:
            page.wait_for_timeout(20)
    write()
    assert_heard_everything(page, after)
    assert len(cut) >= 4


def test_without_web_sockets_a_page_polls_the_same_events(
    server: str, signed_in: SignIn, victor: User, run: Run
) -> None:
    page = signed_in(victor)
    page.route_web_socket("**/ws/live/", lambda route: route.close())
    page.goto("/runs/")
    word = page.locator("fs-connection")
    expect(word).to_have_text("polling")
    page.evaluate(EAVESDROP, after := events.head())
    lifecycle.pause_run(run.pk, actor="bob", reason="it is late")
    expect(page.locator(f"#run-{run.pk} .state").first).to_have_text("paused")
    assert_heard_everything(page, after)
    expect(word).to_have_text("polling")


def test_a_line_that_is_dead_without_a_word_is_given_up(
    server: str, signed_in: SignIn, victor: User
) -> None:
    page, opened = signed_in(victor), []

    def swallow(route: WebSocketRoute) -> None:
        opened.append(route)
        if len(opened) > 1:
            route.connect_to_server()

    page.clock.install()
    page.route_web_socket("**/ws/live/", swallow)
    page.goto("/runs/")
    page.clock.run_for(1000)
    assert len(opened) == 1
    page.clock.run_for(31_000)
    expect(page.locator("fs-connection")).to_have_text("live")
    assert len(opened) == 2


def test_who_signs_out_elsewhere_is_led_to_sign_in(
    server: str, signed_in: SignIn, victor: User, watch_console: Console
) -> None:
    watch_console.expect("status of 401")
    page = signed_in(victor)
    page.goto("/runs/")
    eavesdrop(page)
    Session.objects.all().delete()
    events.recheck(victor.pk)
    page.wait_for_url("**/sign-in/?next=/runs/")


def test_twenty_watchers_are_no_more_work_for_the_database_than_one(
    server: str, signed_in: SignIn, victor: User, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    page, statements = signed_in(victor), statements_of(monkeypatch)
    page.goto("/runs/")
    eavesdrop(page)
    expect(page.locator("fs-connection")).to_have_text("live")
    refreshed(page, watchers=1)
    statements.clear()
    refreshed(page, watchers=1)
    one = work(statements)
    assert one
    page.evaluate("""() => {
      const region = document.querySelector("fs-live");
      for (let i = 1; i < 20; i++) document.body.append(region.cloneNode(true));
    }""")
    refreshed(page, watchers=20)
    statements.clear()
    refreshed(page, watchers=20)
    assert work(statements) == one


def statements_of(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Everything that this process asks its database from now on, in whichever thread."""
    found: list[str] = []
    execute = CursorWrapper.execute

    def listen(self: CursorWrapper, sql: Any, params: Any = None) -> Any:
        found.append(str(sql))
        return execute(self, sql, params)

    monkeypatch.setattr(CursorWrapper, "execute", listen)
    return found


def work(statements: list[str]) -> Counter[str]:
    """Reads of the server's own tables: who asks is looked up for each of them."""
    own = ("rounds_", "models_app_")
    read = (sql for sql in statements if sql.startswith("SELECT"))
    return Counter(sql for sql in read if any(f'FROM "{name}' in sql for name in own))


def refreshed(page: Page, watchers: int) -> None:
    """Writes a line, and waits until all watchers have drawn what came of it."""
    page.evaluate("""() => {
      globalThis.refreshes = 0;
      globalThis.count ??= document.addEventListener("fs-refreshed", () => refreshes++) ?? true;
    }""")
    with events.transaction() as journal:
        journal.record("run.retrying", failures=1, seconds=1)
    until(page, f"refreshes >= {watchers}")


REGION = """
<details id="more"><summary>More</summary>{text}</details>
<p id="told">{text}</p>
<div id="box"><ol id="long">{long}</ol></div>
<a id="link" href="/">{text}</a>
<form><input id="note" name="note" value="{text}"> <input id="tick" type="checkbox" {checked}>
<select id="choice"><option>a</option><option>b</option></select></form>
<progress id="bar" max="9" value="{value}"></progress>
<fs-drawing module="still" source="none" data-text="{text}"></fs-drawing>
"""


def test_what_the_reader_has_opened_typed_and_reached_stays(
    server: str, signed_in: SignIn, victor: User
) -> None:
    page, version = signed_in(victor), {"text": "first", "value": "1", "checked": ""}
    version["long"] = "<li>line</li>" * 100
    headers = {"Fedserver-Live": "0", "Content-Type": "text/html"}

    def answer(route: Any) -> None:
        route.fulfill(body=REGION.format(**version), headers=headers)

    page.route("**/region/", answer)
    still = {"body": "export default { render() {} }", "content_type": "text/javascript"}
    page.route("**/drawings/still.js", lambda route: route.fulfill(**still))
    page.goto("/profile/")
    page.evaluate("""() => {
      document.querySelector("main").insertAdjacentHTML(
        "beforeend", '<fs-live id="region" src="/region/" kinds="run."></fs-live>');
    }""")
    expect(page.locator("#told")).to_have_text("first")
    page.locator("#more summary").click()
    page.locator("#tick").check()
    page.locator("#choice").select_option("b")
    page.evaluate("""() => {
      document.getElementById("box").style.cssText = "height: 5rem; overflow: auto";
      document.getElementById("box").scrollTop = 70;
      document.querySelector("#region fs-drawing").innerHTML = "<i>drawn</i>";
      getSelection().selectAllChildren(document.getElementById("long").children[3]);
    }""")
    page.locator("#note").fill("my words")
    version |= {"text": "second", "value": "5"}
    write()
    expect(page.locator("#told")).to_have_text("second")
    expect(page.locator("#more")).to_have_attribute("open", "")
    expect(page.locator("#note")).to_have_value("my words")
    expect(page.locator("#note")).to_be_focused()
    expect(page.locator("#tick")).to_be_checked()
    expect(page.locator("#choice")).to_have_value("b")
    assert page.evaluate("document.getElementById('box').scrollTop") == 70
    assert page.evaluate("document.getElementById('bar').value") == 5
    assert page.locator("#link").inner_text() == "second"
    assert page.locator("#region fs-drawing").inner_html() == "<i>drawn</i>"
    assert page.locator("#region fs-drawing").get_attribute("data-text") == "second"
    page.locator("#link").focus()
    version["text"] = "third"
    write()
    expect(page.locator("#link")).to_have_text("third")
    expect(page.locator("#link")).to_be_focused()


def test_a_region_keeps_what_it_shows_while_the_server_fails_and_asks_again(
    server: str, signed_in: SignIn, victor: User, watch_console: Console
) -> None:
    watch_console.expect("status of 503")
    page, answers = signed_in(victor), []

    def answer(route: Any) -> None:
        answers.append(route)
        if len(answers) == 2:
            route.fulfill(status=503, body="no")
        else:
            told = {"Fedserver-Live": str(events.head()), "Content-Type": "text/html"}
            route.fulfill(body=f"<p id='told'>answer {len(answers)}</p>", headers=told)

    page.route("**/region/", answer)
    page.goto("/profile/")
    page.evaluate("""() => {
      document.querySelector("main").insertAdjacentHTML(
        "beforeend", '<fs-live src="/region/" kinds="run."></fs-live>');
    }""")
    expect(page.locator("#told")).to_have_text("answer 1")
    expect(page.locator("fs-connection")).to_have_text("live")
    write()
    while len(answers) < 2:
        page.wait_for_timeout(20)
    assert page.locator("#told").inner_text() == "answer 1"
    expect(page.locator("#told")).to_have_text("answer 3")


UNION = """async (wishes) => {
  const { union } = await import("/static/frontend/live.js");
  return wishes.map(union);
}"""
WISHES: list[Any] = [
    ([({"round": 7}, [])], ({"round": 7}, [])),
    ([({"round": 7}, ["run."]), ({"round": 7}, [])], ({"round": 7}, [])),
    ([({"round": 7, "run": 1}, ["run."]), ({"run": 1}, ["x."])], ({"run": 1}, ["run.", "x."])),
    ([({"round": 7}, ["run."]), ({"round": 8}, ["run."])], ({}, ["run."])),
]


def test_one_socket_hears_what_all_elements_of_a_page_wish(
    server: str, signed_in: SignIn, victor: User
) -> None:
    page = signed_in(victor)
    page.goto("/profile/")
    asked = [[{"subjects": about, "kinds": kinds} for about, kinds in one] for one, _ in WISHES]
    told = page.evaluate(UNION, asked)
    assert [(one["subjects"], one["kinds"]) for one in told] == [union for _, union in WISHES]
