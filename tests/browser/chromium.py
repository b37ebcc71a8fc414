"""The Chromium that the browser tests drive: where it lies, and whose turn the thread is."""

import asyncio
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Self

from playwright.sync_api import Browser, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome")
FLAGS = (
    "--no-sandbox",  # which root may not use
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--font-render-hinting=none",
    # Nothing but this machine has an address: a page that wants more shows it.
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost",
)


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
