"""Pictures of every page: `make screenshots`.

A demo trains as `manage.py demo` does, with five participants that hold unevenly much. Its pages
are then looked at as its owner sees them, light and dark, wide and on a phone, among them a round
in the middle of its training; and all of them are laid into `var/screenshots`. Those that the
README shows are written smaller to `docs/images`. With `--serve` the server goes on serving.
"""

import argparse
import contextlib
import io
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image
from playwright.sync_api import (
    APIResponse,
    Browser,
    BrowserContext,
    Page,
    ViewportSize,
    expect,
    sync_playwright,
)
from sklearn.datasets import load_digits

from client_sdk import Participant
from client_sdk.errors import ParticipantError
from client_sdk.testing import FakeResult
from tests.browser.chromium import FLAGS, find

ROOT = Path(__file__).resolve().parent.parent.parent
TARGET = ROOT / "var" / "screenshots"
DEMO = ("--participants", "6", "--rounds", "6", "--partition", "dirichlet:0.7")
# Long enough for pictures of it: the demo's own rounds take a second or two.
SLOW = {"epochs": 50, "batch_size": 1, "learning_rate": 0.001, "optimizer": "sgd"}
SIZES: dict[str, ViewportSize] = {
    "wide": {"width": 1400, "height": 900},
    "phone": {"width": 390, "height": 844},
}
THEMES: tuple[Literal["light", "dark"], ...] = ("light", "dark")
# What the README shows, each so high for its width, and how large a file of it may be.
KEPT = {"cockpit-light-wide": 1.1, "run-dark-wide": 0.75}
KEPT_WIDTH, KEPT_BYTES = 1680, 250_000
FONTS = """<?xml version="1.0"?>
<!DOCTYPE fontconfig SYSTEM "fonts.dtd">
<fontconfig>
  <include>/etc/fonts/fonts.conf</include>
  <match target="pattern">
    <test name="family"><string>sans-serif</string></test>
    <edit name="family" mode="prepend" binding="strong"><string>Inter</string></edit>
  </match>
</fontconfig>
"""


@dataclass
class Studio:
    """The demo's server, and a browser in which its owner is signed in.

    Args:
        url: Where the server is.
        contexts: One for each theme and size, by name.
    """

    url: str
    contexts: dict[str, BrowserContext]

    def get(self, path: str) -> Any:
        """What the API answers."""
        return self._told(self._request.get(f"{self.url}/api/v1/{path}"))

    def post(self, path: str, body: dict[str, Any]) -> Any:
        """What the API answers to a body."""
        cookies = {one["name"]: one["value"] for one in self._any.cookies()}
        headers = {"X-CSRFToken": cookies["fedserver_csrf"], "Referer": f"{self.url}/"}
        return self._told(
            self._request.post(f"{self.url}/api/v1/{path}", data=body, headers=headers)
        )

    @property
    def _any(self) -> BrowserContext:
        return next(iter(self.contexts.values()))

    @property
    def _request(self) -> Any:
        return self._any.request

    def _told(self, response: APIResponse) -> Any:
        assert response.ok, f"{response.url}: {response.text()}"
        return response.json()

    def picture(
        self,
        name: str,
        path: str,
        prepare: Callable[[Page], None] = lambda page: None,
        *,
        whole: bool = True,
    ) -> None:
        """One page in every theme and size, after something was done on it.

        Args:
            name: What the files are called.
            path: Where the page is.
            prepare: What to do on it first.
            whole: All of the page, else what fits into the window.
        """
        for kind, context in self.contexts.items():
            with context.new_page() as page:
                answer = page.goto(path)
                assert answer is not None
                assert answer.ok, f"Expected a page. Received: {answer.status}, {path}"
                expect(page.locator("fs-drawing:empty")).to_have_count(0)
                prepare(page)
                page.screenshot(path=TARGET / f"{name}-{kind}.png", full_page=whole)
            say(f"{name}-{kind}.png")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--serve", action="store_true", help="go on serving until Ctrl-C")
    options = parser.parse_args()
    path, reason = find()
    if not path:
        sys.exit(f"fedserver: {reason}")
    shutil.rmtree(TARGET, ignore_errors=True)
    TARGET.mkdir(parents=True)
    with demo() as (url, password), chromium(path) as browser:
        studio = Studio(url, contexts(browser, url))
        studio.picture("sign-in", "/sign-in/")
        signed_in = sign_in(studio, password)
        studio.contexts = contexts(browser, url, storage_state=signed_in)
        take_all(studio)
        keep()
        if options.serve:
            say(f"Serving at {url}/ as owner with the password {password} until Ctrl-C")
            with contextlib.suppress(KeyboardInterrupt):
                while True:
                    time.sleep(3600)


@contextlib.contextmanager
def demo() -> Iterator[tuple[str, str]]:
    """A demo that has trained and goes on serving: its address, and its owner's password."""
    command = [sys.executable, str(ROOT / "manage.py"), "demo", *DEMO]
    environment = os.environ | {"PYTHONUNBUFFERED": "1", "COLUMNS": "200"}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            read = ""
            assert process.stdout
            for line in process.stdout:
                read += line
                if "until Ctrl-C" in line:
                    break
            else:
                sys.exit(f"Expected a demo that trains. Received:\n{read}")
            url = re.search(r"server is at (\S+)/", read)
            password = re.search(r"with the password (\S+)", read)
            if url is None or password is None:
                sys.exit(f"Expected an address and a password. Received:\n{read}")
            yield url[1], password[1]
        finally:
            process.terminate()


@contextlib.contextmanager
def chromium(path: str) -> Iterator[Browser]:
    """A Chromium whose text is set in Inter where it is installed, as most systems' is alike."""
    with tempfile.NamedTemporaryFile("w", suffix=".conf") as fonts, sync_playwright() as driver:
        fonts.write(FONTS)
        fonts.flush()
        environment: dict[str, Any] = os.environ | {"FONTCONFIG_FILE": fonts.name}
        browser = driver.chromium.launch(executable_path=path, args=FLAGS, env=environment)
        with contextlib.closing(browser):
            yield browser


def contexts(browser: Browser, url: str, **options: Any) -> dict[str, BrowserContext]:
    """One for each theme and size, by name."""
    return {
        f"{theme}-{size}": browser.new_context(
            base_url=url,
            color_scheme=theme,
            viewport=viewport,
            device_scale_factor=2,
            reduced_motion="reduce",
            locale="en-GB",
            **options,
        )
        for theme in THEMES
        for size, viewport in SIZES.items()
    }


def sign_in(studio: Studio, password: str) -> Any:
    """As a person does it: what a browser then holds."""
    first = next(iter(studio.contexts.values()))
    with first.new_page() as page:
        page.goto("/sign-in/")
        page.get_by_label("Username").fill("owner")
        page.get_by_label("Password").fill(password)
        page.get_by_role("button", name="Sign in").click()
        page.wait_for_url("**/")
        expect(page.get_by_role("link", name="owner")).to_be_visible()
    return first.storage_state()


def take_all(studio: Studio) -> None:
    """Every page, first those of what has trained, then those of what trains."""
    model = studio.get("models")["results"][0]["slug"]
    finished = studio.get("runs")["results"][0]
    version = studio.get(f"models/{model}/versions")["results"][0]["number"]
    participant = studio.get("participants")["results"][0]["uuid"]
    last = studio.get(f"rounds?run={finished['id']}")["results"][-1]["id"]
    studio.picture("run", f"/runs/{finished['id']}/")
    studio.picture("round", f"/rounds/{last}/")
    studio.picture("run-new", "/runs/new/")
    studio.picture("run-new-strategy", "/runs/new/", pick)
    studio.picture("strategies", "/strategies/")
    studio.picture("models", "/models/")
    studio.picture("model", f"/models/{model}/")
    studio.picture("version", f"/models/{model}/versions/{version}/")
    studio.picture("try", f"/models/{model}/try/", try_it)
    studio.picture("participants", "/participants/")
    studio.picture("participant", f"/participants/{participant}/")
    studio.picture("join-code-new", "/join-codes/new/")
    studio.picture("journal", "/journal/")
    studio.picture("profile", "/profile/")
    take_live(studio, model)


def take_live(studio: Studio, model: str) -> None:
    """A run that takes its time: its round's page while everybody trains, and what knows of it."""
    rules = {"model": model, "name": "slowly", "rounds_planned": 3, "hyperparameters": SLOW}
    with more_participants(studio, jana=Slow(), ivan=Short()):
        run = studio.post("runs", {**rules, "cohort_goal": 8, "cohort_min": 3, "quorum": 3})
        studio.post(f"runs/{run['id']}/start", {})
        round_ = until(lambda: training_round(studio, run["id"]))
        studio.picture("cockpit", f"/rounds/{round_}/")
        studio.picture("overview", "/")
        studio.picture("runs", "/runs/")
        studio.picture("pause", f"/runs/{run['id']}/", open_dialog, whole=False)
        studio.post(f"runs/{run['id']}/stop", {"reason": "the pictures are taken"})


class Slow:
    """Trains nothing, and takes its time: the round waits for it while pictures are taken."""

    def train(
        self, weights: Any, data: Any, hyperparameters: Any, seed: int, on_epoch: Any = None
    ) -> FakeResult:
        epochs = hyperparameters["epochs"]
        for epoch in range(1, epochs + 1):
            time.sleep(1.5)
            on_epoch(epoch, epochs, {"loss": 2.3 / (1 + epoch / 4), "accuracy": 1 - 0.9**epoch})
        deltas = {name: np.zeros_like(value) for name, value in weights.items()}
        return FakeResult(deltas, 180, {"loss": 0.2}, {})


class Short:
    """Has less memory than it takes."""

    def train(
        self, weights: Any, data: Any, hyperparameters: Any, seed: int, on_epoch: Any = None
    ) -> None:
        on_epoch(1, hyperparameters["epochs"], {"loss": 2.1, "accuracy": 0.2})
        np.zeros((10**6, 10**6, 10**3))


@contextlib.contextmanager
def more_participants(studio: Studio, **trainers: Any) -> Iterator[None]:
    """Participants in threads of this process, until the block ends."""
    with contextlib.ExitStack() as everybody:
        os.environ["FEDCLIENT_HOME"] = everybody.enter_context(tempfile.TemporaryDirectory())
        for name, trainer in trainers.items():
            told = studio.post("join-codes", {"label": name})
            enrolled = Participant.enrol(studio.url, told["code"], name=name, profile=name)
            participant = everybody.enter_context(enrolled)
            data = np.zeros((1, 1)), np.zeros(1)
            run = partial(participant.participate, data, trainer=trainer, rounds=1)
            threading.Thread(target=quietly, args=(run,), daemon=True).start()
        yield


def quietly(run: Callable[[], object]) -> None:
    """Of one that fails, and one that is cut off at the end, nothing needs to be said."""
    with contextlib.suppress(ParticipantError, RuntimeError, OSError):
        run()


def training_round(studio: Studio, run: int) -> int | None:
    """The round of a run, once somebody has uploaded and others still train."""
    for one in studio.get(f"rounds?run={run}")["results"]:
        found = studio.get(f"rounds/{one['id']}/assignments")["results"]
        states = {line["state"] for line in found}
        if {"uploaded", "training"} <= states:
            return int(one["id"])
    return None


def pick(page: Page) -> None:
    """Choose a strategy that has options and asks for something."""
    page.get_by_role("button", name="Strategy").click()
    page.get_by_text("Participants have different data").click()
    page.get_by_label("SCAFFOLD", exact=True).check()
    page.wait_for_timeout(1000)


def try_it(page: Page) -> None:
    """Drop a handwritten digit, and wait for the answer."""
    digit = load_digits().images[7] * 15.9
    file = io.BytesIO()
    Image.fromarray(digit.astype(np.uint8)).resize((160, 160)).save(file, "png")
    page.locator("input[type=file]").set_input_files(
        {"name": "seven.png", "mimeType": "image/png", "buffer": file.getvalue()}
    )
    page.wait_for_timeout(5000)


def open_dialog(page: Page) -> None:
    page.get_by_role("link", name="Pause").click()
    expect(page.get_by_role("dialog")).to_be_visible()


def until(found: Callable[[], int | None], seconds: float = 120) -> int:
    """What is found once it is there."""
    ends = time.monotonic() + seconds
    while (value := found()) is None:
        if time.monotonic() > ends:
            sys.exit("Expected a round in the middle of its training. Received: none")
        time.sleep(0.2)
    return value


def keep() -> None:
    """The upper part of what the README shows, smaller and with every colour as it is."""
    folder = ROOT / "docs" / "images"
    folder.mkdir(exist_ok=True)
    for name, height in KEPT.items():
        picture = Image.open(TARGET / f"{name}.png").convert("RGB")
        top = picture.crop((0, 0, picture.width, min(picture.height, int(picture.width * height))))
        smaller = top.resize((KEPT_WIDTH, top.height * KEPT_WIDTH // top.width))
        target = folder / f"{name.partition('-')[0]}.webp"
        smaller.save(target, lossless=True, quality=100, method=6)
        size = target.stat().st_size
        assert size <= KEPT_BYTES, f"Expected at most {KEPT_BYTES} bytes. Received: {size}, {name}"


def say(sentence: str) -> None:
    sys.stdout.write(f"{sentence}\n")


if __name__ == "__main__":
    main()
