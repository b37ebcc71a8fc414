"""How soon a live round is seen in JupyterLab, and what following it costs the kernel.

    python -m benchmarks.notebook [--participants 100] [--visits 3] [--json FILE]

Real web process, real Valkey, real JupyterLab, Chromium without a screen, all on this machine. A
round trains, most of whose participants have reported progress; a cell makes a `LiveRound`.

- `painted`: in a new kernel and page, from a cell's first line to the frame after the one that has
  all rows
- `shown`: from a report's commit to its words in the view, and `busy`: while a cell runs
- `events`: processor time of the kernel for 100 reports of progress, and `idle`: for five seconds
  without any
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psutil
from playwright.sync_api import Browser, sync_playwright

from benchmarks import server
from benchmarks.cockpit import prepare
from tests.browser.chromium import FLAGS, find
from tests.jupyter.lab import Lab, Notebook, running, show

REPORTS = 100
WATCH = """(wanted) => {
  const found = () => document.querySelectorAll(".fs-assignments tbody tr").length;
  const note = () => setTimeout(() => { window.rowsAt = Date.now(); });
  const look = () => found() < wanted ? setTimeout(look, 2) : requestAnimationFrame(note);
  look();
}"""
SHOWN = "(words) => document.querySelector('.fs-assignments').textContent.includes(words)"
BUSY = """() => { window.jupyterapp.shell.currentWidget.context.sessionContext.session.kernel
  .requestExecute({ code: "import time; time.sleep(5)" }); }"""


@dataclass
class Report:
    """Everything that was measured; milliseconds."""

    participants: int
    painted: float = 0.0
    shown: float = 0.0
    busy: float = 0.0
    idle: float = 0.0
    events: float = 0.0
    load: dict[str, Any] = field(default_factory=server.load)


def token() -> str:
    """What a viewer's notebook shows."""
    from django.contrib.auth.models import User

    from accounts.models import PersonalToken

    user, _ = User.objects.get_or_create(username="victor")
    return PersonalToken.objects.issue(user, "a benchmark")[1]


def opened(lab: Lab, browser: Browser, url: str, round_id: int, participants: int) -> Notebook:
    """A notebook that shows the round; `painted` is on its page."""
    page = browser.new_page(viewport={"width": 1400, "height": 1000})
    cells = [
        "%load_ext client_sdk.notebook\nimport os, time; print(os.getpid())",
        f"print(time.time())\nLiveRound({url!r}, {round_id}, token={token()!r})",
    ]
    notebook = show(lab, page, cells)
    page.evaluate(WATCH, participants)
    notebook.run()
    page.wait_for_function("window.rowsAt")
    return notebook


def painted(notebook: Notebook) -> float:
    began = float(notebook.output(1).inner_text().split()[0])
    at: float = notebook.page.evaluate("window.rowsAt")
    return at - 1000 * began


class Reports:
    """What the participants of the round say, each in turn."""

    def __init__(self, round_id: int) -> None:
        from rounds.models import Assignment

        rows = Assignment.objects.filter(round=round_id).select_related("participant")
        self._places = list(rows.order_by("id"))
        self._said = 0

    def say(self, loss: float) -> None:
        from rounds import lifecycle

        place = self._places[self._said % len(self._places)]
        self._said += 1
        lifecycle.report(
            place.participant,
            place.pk,
            activity="training",
            fraction=0.9,
            epoch=9,
            epochs=10,
            metrics={"loss": loss},
        )


def until_shown(notebook: Notebook, reports: Reports, loss: float) -> float:
    """Milliseconds from a report to its loss in the view."""
    reports.say(loss)
    began = time.perf_counter()
    notebook.page.wait_for_function(SHOWN, arg=f"{loss:.3f}")
    return 1000 * (time.perf_counter() - began)


def measure(lab: Lab, browser: Browser, url: str, participants: int, visits: int) -> Report:
    report = Report(participants)
    round_id = prepare(participants)
    reports = Reports(round_id)
    last, times = opened(lab, browser, url, round_id, participants), []
    for _ in range(visits):
        last.page.close()
        lab.end_kernels()
        last = opened(lab, browser, url, round_id, participants)
        times.append(painted(last))
    report.painted = statistics.median(times)
    kernel = psutil.Process(int(last.output(0).inner_text()))

    def spent() -> float:
        times = kernel.cpu_times()
        return 1000 * (times.user + times.system)

    last.page.wait_for_timeout(3000)
    report.shown = statistics.median(
        until_shown(last, reports, 0.111 + turn / 1000) for turn in range(9)
    )
    before = spent()
    last.page.wait_for_timeout(5000)
    report.idle = spent() - before
    before = spent()
    for _ in range(REPORTS):
        reports.say(0.5)
    last.page.wait_for_timeout(1500)
    report.events = spent() - before
    last.page.evaluate(BUSY)
    last.page.wait_for_timeout(300)
    report.busy = until_shown(last, reports, 0.777)
    return report


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--participants", type=int, default=100)
    parser.add_argument("--visits", type=int, default=3)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args(arguments)
    program, missing = find()
    if missing:
        raise SystemExit(missing)
    with (
        server.running(only=("web", "valkey")) as it,
        tempfile.TemporaryDirectory() as folder,
        running(Path(folder) / "lab") as lab,
        sync_playwright() as playwright,
    ):
        os.environ["DJANGO_ALLOW_ASYNC_UNSAFE"] = "true"  # playwright's loop waits meanwhile
        browser = playwright.chromium.launch(executable_path=program, args=FLAGS)
        report = measure(lab, browser, it.url, asked.participants, asked.visits)
        browser.close()
    print(
        f"{report.participants} participants: painted {report.painted:.0f} ms, "
        f"news shown after {report.shown:.0f} ms ({report.busy:.0f} ms in a busy kernel); "
        f"kernel {report.events:.0f} ms for {REPORTS} reports, {report.idle:.0f} ms for 5 s of none"
    )
    if asked.json:
        asked.json.write_text(json.dumps(asdict(report), indent=2))


if __name__ == "__main__":
    main()
