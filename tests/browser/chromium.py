"""The Chromium that the browser tests drive: where it lies, whose turn it is, what is kept."""

import asyncio
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, Self

from playwright.sync_api import Browser, BrowserContext, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome")
FLAGS = (
    "--no-sandbox",  # which root may not use
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--font-render-hinting=none",
    # A camera that shows a moving pattern, and nobody to be asked for it.
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
    # Nothing but this machine has an address: a page that wants more shows it.
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost",
)
PATIENCE = 15  # seconds: others use the machine too, and only a failure waits so long
# Steady pictures of steady pages: nothing moves, and it is always the same hour.
STEADY: dict[str, Any] = {"reduced_motion": "reduce", "locale": "en-GB", "timezone_id": "UTC"}
TELL_VIOLATIONS = """
addEventListener("securitypolicyviolation", (event) =>
  console.error("policy violation:", event.effectiveDirective, event.blockedURI, event.sample));
"""


@cache
def find() -> tuple[str, str]:
    """Look for a Chromium that runs.

    Returns:
        Its path, and "" — or "", and a sentence that says what to do.
    """
    for name in NAMES:
        path = shutil.which(name)
        # Ubuntu has a program of this name that only asks for a snap.
        if path and subprocess.run([path, "--version"], capture_output=True).returncode == 0:
            return path, ""
    return "", "no Chromium on the path (on Debian: apt-get install chromium)"


class Chromium:
    """A running Chromium, driven from this thread.

    Playwright's synchronous interface keeps an event loop suspended in the thread and leaves it
    marked as running: Django then refuses its database to the thread, and other tests cannot run
    a loop of their own. So the mark is there only inside `turn`.
    """

    browser: Browser

    def __enter__(self) -> Self:
        path, reason = find()
        assert path, reason
        self._playwright = sync_playwright().start()
        self._loop = asyncio.get_running_loop()
        self.browser = self._playwright.chromium.launch(executable_path=path, args=FLAGS)
        asyncio._set_running_loop(None)
        return self

    def __exit__(self, *_: object) -> None:
        with self.turn():
            self.browser.close()
            self._playwright.stop()

    @contextmanager
    def turn(self) -> Iterator[Browser]:
        """The time in which pages may be driven; the database needs `unsafe` in it (conftest)."""
        asyncio._set_running_loop(self._loop)
        try:
            yield self.browser
        finally:
            asyncio._set_running_loop(None)


class Kept:
    """Contexts that one test after the other sits before, each time with nothing in them.

    A new context costs more than a second of processor time: its pages need a process, and compile
    every script anew. One that is kept has a blank page that keeps them. All pages that it shows
    have to be of one server.
    """

    def __init__(self) -> None:
        self._free: list[BrowserContext] = []
        self._options: dict[BrowserContext, dict[str, Any]] = {}

    def take(self, browser: Browser, **options: Any) -> BrowserContext:
        """A free one with these options, else a new one."""
        for context in self._free:
            if self._options[context] == options:
                self._free.remove(context)
                return context
        context = browser.new_context(**{**STEADY, **options})
        context.set_default_timeout(PATIENCE * 1000)
        context.add_init_script(TELL_VIOLATIONS)
        self._options[context] = options
        return context

    def put_back(self, context: BrowserContext) -> None:
        """Empty it, and let the next one have it."""
        blank, *others = context.pages or [context.new_page()]
        for page in others:
            page.close()
        context.unroute_all()
        blank.unroute_all()
        context.set_offline(False)
        blank.goto("/healthz")
        blank.evaluate("() => [localStorage, sessionStorage].forEach((one) => one.clear())")
        context.clear_cookies()
        context.clear_permissions()
        self._free.append(context)

    def close(self) -> None:
        for context in self._free:
            context.close()
