"""Real Chromium before the real server: what every browser test may ask for.

A test asks for `signed_in(bob)`, or for `browser_page` to come as nobody, and gets playwright's
synchronous `Page`, to which addresses are given as paths: `page.goto("/runs/")`. It fails on its
own when the page complains: an error in the console, an exception, a violation of the content
security policy, a request that leaves the server; unless it said before what to expect
(`watch_console.expect("status of 403")`). When it fails, pictures of its pages lie in its
temporary folder. `axe(page)` finds what a screen reader would stumble over.
"""

import re
from collections.abc import Callable, Generator, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

import pytest
from django.conf import settings
from django.contrib.auth.models import User
from django.test import Client
from playwright.sync_api import (
    BrowserContext,
    ConsoleMessage,
    Error,
    Page,
    Request,
    WebError,
    WebSocket,
    expect,
)

from tests.browser.chromium import PATIENCE, Chromium, Kept
from tests.rounds.conftest import alice, bob, enrolled, tiny_model, victor

__all__ = ["alice", "bob", "enrolled", "tiny_model", "victor"]  # fixtures, lent by the rounds

AXE = Path(__file__).parent / "vendor" / "axe-core" / "axe.min.js"
# Without its own copies of imported styles, which the content security policy would rightly refuse.
RUN_AXE = "() => axe.run(document, { resultTypes: ['violations'], preload: false })"


class SignIn(Protocol):
    """`signed_in(bob)`, or `signed_in(bob, color_scheme="dark", viewport=…)`."""

    def __call__(self, user: User | None, /, **options: Any) -> Page: ...


def pytest_itemcollected(item: pytest.Item) -> None:
    item.add_marker("browser")


class Console:
    """What the pages of a test complained of.

    Args:
        pictures: the folder for pictures of them, should the test fail.
    """

    def __init__(self, pictures: Path) -> None:
        self.complaints: list[str] = []
        self._pictures = pictures
        self._contexts: list[BrowserContext] = []
        self._ears: list[Callable[[], None]] = []
        self._expected: list[re.Pattern[str]] = []

    def expect(self, pattern: str) -> None:
        """Let complaints pass that the pattern is found in."""
        self._expected.append(re.compile(pattern))

    def watch(self, context: BrowserContext, origin: str) -> None:
        """Listen to every page of a context, from now on."""
        self._contexts.append(context)

        def wrote(message: ConsoleMessage) -> None:
            if message.type == "error":
                where = message.location
                self.complaints.append(f"{message.text} ({where['url']}:{where['lineNumber']})")

        def asked(request: Request) -> None:
            self._stayed(request.url, origin)

        def opened(socket: WebSocket) -> None:
            self._stayed(socket.url, origin)

        def failed(error: WebError) -> None:
            self.complaints.append(f"uncaught: {error.error}")

        def came(page: Page) -> None:
            page.on("websocket", opened)

        ears: dict[Any, Callable[[Any], None]] = {
            "console": wrote,
            "weberror": failed,
            "request": asked,
            "page": came,
        }
        for event, ear in ears.items():
            context.on(event, ear)
            self._ears.append(partial(context.remove_listener, event, ear))

    def look_away(self) -> None:
        """The test is over: what is closed now may complain."""
        while self._ears:
            self._ears.pop()()

    def _stayed(self, url: str, origin: str) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("data", "blob") and parts.netloc != urlsplit(origin).netloc:
            self.complaints.append(f"left the server: {url}")

    def unexpected(self) -> list[str]:
        """The complaints that nobody expected."""
        return [
            complaint
            for complaint in self.complaints
            if not any(pattern.search(complaint) for pattern in self._expected)
        ]

    def story(self) -> str:
        """The complaints, and where pictures of the pages lie, for whoever has to find out why."""
        lines = list(self.complaints)
        for page in (page for context in self._contexts for page in context.pages):
            file = self._pictures / f"page-{len(lines)}.png"
            try:
                page.screenshot(path=file, full_page=True, timeout=5000)
            except Error as error:  # the page may be what has failed
                lines.append(f"{page.url} has no picture: {error.message}")
            else:
                lines.append(f"{page.url} as it was: {file}")
        return "\n".join(lines)


@pytest.fixture(scope="session")
def chromium() -> Iterator[Chromium]:
    """One Chromium for the whole test run; people sit before contexts of their own in it."""
    expect.set_options(timeout=PATIENCE * 1000)
    with Chromium() as running:
        yield running


@pytest.fixture
def watch_console(tmp_path: Path) -> Iterator[Console]:
    """What the pages complain of, which is checked when the test is over."""
    console = Console(tmp_path)
    yield console
    assert not console.unexpected()


@pytest.fixture
def kept() -> Kept | None:
    """The contexts that a file's tests hand on; none, where each has a server of its own."""
    return None


@pytest.fixture
def contexts(
    chromium: Chromium,
    kept: Kept | None,
    watch_console: Console,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Callable[..., BrowserContext]]:
    """`contexts(url, **options)`: empty contexts of the browser, watched while the test runs."""
    # The loop that runs in this thread is playwright's, and it waits while a test uses a model.
    monkeypatch.setenv("DJANGO_ALLOW_ASYNC_UNSAFE", "true")
    with chromium.turn() as browser:
        source = Kept() if kept is None else kept
        opened: list[BrowserContext] = []

        def new(origin: str, **options: Any) -> BrowserContext:
            context = source.take(browser, base_url=origin, **options)
            opened.append(context)
            watch_console.watch(context, origin)
            return context

        yield new
        watch_console.look_away()
        for context in opened:
            if kept is None:
                context.close()
            else:
                kept.put_back(context)


@pytest.fixture
def signed_in(server: str, contexts: Callable[..., BrowserContext]) -> SignIn:
    """A factory of pages before which a person sits, signed in by force; None: nobody."""

    def open_page(user: User | None, /, **options: Any) -> Page:
        context = contexts(server, **options)
        if user is not None:
            context.add_cookies([cookie_of(user, server)])
        return context.new_page()

    return open_page


def cookie_of(user: User, server: str) -> Any:
    """The cookie of a new session, as a browser takes it."""
    client = Client()
    client.force_login(user)
    name = settings.SESSION_COOKIE_NAME
    return {"name": name, "value": client.cookies[name].value, "url": server}


@pytest.fixture
def browser_page(signed_in: SignIn) -> Page:
    """A page before which nobody is signed in."""
    return signed_in(None)


@pytest.fixture(scope="session")
def axe() -> Callable[[Page], None]:
    """`axe(page)` fails with what axe finds wrong on the page as it is now."""
    source = AXE.read_text()

    def check(page: Page) -> None:
        # Not a script tag, which the content security policy would rightly refuse.
        page.evaluate(source)
        found = page.evaluate(RUN_AXE)["violations"]
        assert not found, "\n".join(_violation(one) for one in found)

    return check


def _violation(found: dict[str, Any]) -> str:
    nodes = [f"    {node['html']}\n      {node['failureSummary']}" for node in found["nodes"][:5]]
    return "\n".join([f"{found['id']} ({found['impact']}): {found['help']}", *nodes])


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A failure here comes with pictures of its pages and with what they complained of."""
    report = yield
    console = getattr(item, "funcargs", {}).get("watch_console")
    if report.when == "call" and report.failed and console is not None:
        report.sections.append(("pages", console.story()))
    return report
