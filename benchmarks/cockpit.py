"""How soon the cockpit of a round is seen, and what it costs the browser that follows it.

    python -m benchmarks.cockpit [--participants 100,1000] [--visits 7] [--json FILE]

Real web process, real Valkey, Chromium without a screen, all on this machine. For each number of
participants a round trains, most of whom have reported progress.

- `painted`: from the click to the first paint of anything, and `rows`: to the paint after the one
  in which all rows were made; by a browser that has never been here, and by one that has;
- `document`: bytes of the page as it comes over the wire, `answered`: until its first byte;
- `fold`: milliseconds to fold a report of progress from each participant, `draw`: to redraw all
  that they have changed;
- `JS and CSS`: bytes of the page's own scripts and styles, each compressed with gzip.
"""

import argparse
import gzip
import json
import os
import statistics
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, BrowserContext, Page, Response, sync_playwright

from benchmarks import server
from tests.browser.chromium import FLAGS, find

WATCH = """
const wanted = %d;
const found = () => document.querySelectorAll("tr[data-assignment]").length;
const look = () => found() < wanted ? requestAnimationFrame(look) : requestAnimationFrame(note);
const note = () => setTimeout(() => { window.rowsAt = performance.now(); });
requestAnimationFrame(look);
"""
TIMES = """() => ({
  answered: performance.getEntriesByType("navigation")[0].responseStart,
  painted: performance.getEntriesByName("first-contentful-paint")[0]?.startTime,
  rows: window.rowsAt,
})"""
FOLD = """async () => {
  const root = `${document.documentElement.dataset.root}static/drawings/`;
  const { fold } = await import(`${root}round_state.js`);
  const { Model } = await import(`${root}model.js`);
  const start = document.querySelector("fs-round").state;
  const model = new Model({ data: start });
  const el = document.createElement("div");
  document.querySelector("main").append(el);
  for (const name of ["phases", "assignments", "timeline", "feed"]) {
    (await import(`${root}${name}.js`)).default.render({ model, el });
  }
  const { run, round } = start;
  const hint = (one, at, turn) => ({
    id: null, at, kind: "assignment.progress", actor: "", reason: "", run: run.id, round: round.id,
    assignment: one.id,
    data: { ...one, activity: "training", fraction: turn / 30, epoch: turn, epochs: 30 },
  });
  const turns = { fold: [], draw: [] };
  for (let turn = 1; turn <= 20; turn += 1) {
    const at = new Date(Date.now() + 1000 * turn).toISOString();
    const hints = start.assignments.map((one) => hint(one, at, turn));
    const began = performance.now();
    const state = fold(model.get("data"), hints);
    const folded = performance.now();
    model.set("data", state);
    el.offsetHeight;
    turns.fold.push(folded - began);
    turns.draw.push(performance.now() - folded);
  }
  const middle = (values) => values.sort((a, b) => a - b)[values.length >> 1];
  return { fold: middle(turns.fold), draw: middle(turns.draw) };
}"""


@dataclass
class Row:
    """One line of the table; milliseconds and kB."""

    participants: int
    answered: float = 0.0
    painted: float = 0.0
    rows: float = 0.0
    rows_again: float = 0.0
    document: float = 0.0
    fold: float = 0.0
    draw: float = 0.0


@dataclass
class Report:
    """Everything that was measured."""

    load: dict[str, Any] = field(default_factory=server.load)
    rows: list[Row] = field(default_factory=list)
    assets: dict[str, int] = field(default_factory=dict)


def prepare(participants: int) -> int:
    """A round that trains with so many, most of whom have said how far they are; its id."""
    import numpy as np

    from rounds import lifecycle
    from rounds.models import Round

    slug = f"model-{participants}"
    server.register(slug, {"kernel": np.zeros((2, 3), np.float32)})
    run = server.start_run(slug, participants=participants, rounds=1)
    members = server.members(participants)
    for number, place in enumerate(server.invite(members)):
        for activity, fraction in (("downloading", 0.0), ("training", 0.3)):
            if number % 10:
                lifecycle.report(
                    members[number].participant,
                    place.pk,
                    activity=activity,
                    fraction=fraction,
                    epoch=3,
                    epochs=10,
                    metrics={"loss": 1.0, "accuracy": 0.7},
                )
    return Round.objects.get(run=run).pk


def cookie(url: str) -> dict[str, str]:
    """The session of a viewer."""
    from django.conf import settings
    from django.contrib.auth.models import Group, User
    from django.test import Client

    user, _ = User.objects.get_or_create(username="victor")
    user.groups.add(Group.objects.get_or_create(name="viewer")[0])
    client = Client()
    client.force_login(user)
    name = settings.SESSION_COOKIE_NAME
    return {"name": name, "value": client.cookies[name].value, "url": url}


@contextmanager
def visitor(browser: Browser, url: str, session: Any) -> Iterator[BrowserContext]:
    """A browser that has never been here."""
    context = browser.new_context(base_url=url, viewport={"width": 1400, "height": 900})
    context.add_cookies([session])
    yield context
    context.close()


def visit(page: Page, path: str) -> dict[str, float]:
    page.goto(path)
    page.wait_for_function("window.rowsAt")
    found: dict[str, float] = page.evaluate(TIMES)
    return found


def measure(browser: Browser, url: str, participants: int, visits: int, report: Report) -> Row:
    """Visits of new browsers, each followed by another one of the same."""
    path, session = f"/rounds/{prepare(participants)}/", cookie(url)
    first, again = [], []
    row = Row(participants)
    for _ in range(visits):
        with visitor(browser, url, session) as context:
            context.add_init_script(WATCH % participants)
            page = context.new_page()
            page.on("response", lambda response: weigh(response, path, row, report))
            first.append(visit(page, path))
            again.append(visit(page, path))
            if len(first) == visits:
                found = page.evaluate(FOLD)
                row.fold, row.draw = found["fold"], found["draw"]
    for name in ("answered", "painted", "rows"):
        setattr(row, name, statistics.median(one[name] for one in first))
    row.rows_again = statistics.median(one["rows"] for one in again)
    return row


def weigh(response: Response, path: str, row: Row, report: Report) -> None:
    """Note how large something is that the page consists of."""
    kind = response.request.resource_type
    if response.url.endswith(path):
        row.document = len(response.body()) / 1e3
    elif kind in ("script", "stylesheet") and response.url not in report.assets:
        report.assets[response.url] = len(gzip.compress(response.body(), 6))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--participants", default="100,1000")
    parser.add_argument("--visits", type=int, default=7)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args(arguments)
    program, missing = find()
    if missing:
        raise SystemExit(missing)
    report = Report()
    with server.running(only=("web", "valkey")) as it, sync_playwright() as playwright:
        os.environ["DJANGO_ALLOW_ASYNC_UNSAFE"] = "true"  # playwright's loop waits meanwhile
        browser = playwright.chromium.launch(executable_path=program, args=FLAGS)
        for participants in map(int, asked.participants.split(",")):
            report.rows.append(measure(browser, it.url, participants, asked.visits, report))
            tell(report.rows[-1])
        browser.close()
    total = sum(report.assets.values()) / 1e3
    print(f"JS and CSS: {total:.1f} kB compressed, in {len(report.assets)} files")
    if asked.json:
        asked.json.write_text(json.dumps(asdict(report), indent=2))


def tell(row: Row) -> None:
    print(
        f"{row.participants:5} participants: answered {row.answered:.0f} ms, "
        f"painted {row.painted:.0f} ms, rows {row.rows:.0f} ms (again {row.rows_again:.0f} ms), "
        f"document {row.document:.0f} kB, fold {row.fold:.1f} ms, draw {row.draw:.1f} ms"
    )


if __name__ == "__main__":
    main()
