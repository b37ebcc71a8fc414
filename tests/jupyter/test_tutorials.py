"""The tutorials, run from top to bottom in a real JupyterLab, with their widgets seen to move.

They share one server, the one that JupyterLab starts, and one kernel, which TensorFlow is loaded
into once. Each begins with nothing of the one before.
"""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import BrowserContext, Locator, expect

from tests.client_sdk.test_photo import file_of, halves
from tests.jupyter.lab import ROOT, Lab, Notebook, show

TUTORIALS = ROOT / "tutorials"
PATIENCE = 150  # seconds for a notebook
FORGET = """async () => {
  const { kernel } = window.jupyterapp.shell.currentWidget.context.sessionContext.session;
  await kernel.requestExecute({ code: "%reset -f" }).done;
}"""
# What a widget said on the way, however quickly it went by.
RECORD = """() => {
  window.said = new Set();
  const look = () => {
    for (const one of document.querySelectorAll(".jp-OutputArea .fedserver"))
      for (const [word] of one.textContent.matchAll(SAID)) window.said.add(word);
  };
  const all = { subtree: true, childList: true, characterData: true };
  new MutationObserver(look).observe(document.body, all);
}"""
SAID = r"/running|completed|\d of \d rounds published|Round \d, \w+|accepted/g"
TELL_KERNELS = """
import os
os.environ |= {told!r}
"""


@pytest.fixture(scope="module")
def server(lab: Lab) -> Iterator[str]:
    """The server that JupyterLab has started, of which its kernels are told; its address."""
    headers = {"Authorization": f"token {lab.token}"}
    opened = httpx.get(f"{lab.url}fedserver/sign-in/", headers=headers, timeout=90)
    assert opened.status_code == 200, opened.text
    home = lab.home / "fedserver"
    url = f"http://127.0.0.1:{(home / 'jupyter-port').read_text().strip()}"
    command = [sys.executable, str(ROOT / "manage.py"), "personal_token", "owner"]
    made = subprocess.run(command, env=lab.environment, capture_output=True, text=True, check=True)
    told = {"FEDSERVER_URL": url, "FEDSERVER_TOKEN": made.stdout.strip()}
    startup = lab.home / "ipython" / "profile_default" / "startup" / "10-federation.py"
    startup.parent.mkdir(parents=True, exist_ok=True)
    told |= {"FEDCLIENT_HOME": str(lab.home / "parties"), "TF_CPP_MIN_LOG_LEVEL": "2"}
    startup.write_text(TELL_KERNELS.format(told=told))
    for file in [*TUTORIALS.glob("*.ipynb"), *TUTORIALS.glob("*.py")]:
        shutil.copy(file, lab.notebooks)
    yield url
    startup.unlink()


@pytest.fixture(scope="module")
def kernel(lab: Lab, server: str) -> Iterator[str]:
    """A kernel that several notebooks use, one after the other; its id."""
    made = lab.api("POST", "kernels", json={"name": "python3"}, timeout=60)
    yield made["id"]
    lab.end_kernels()


@pytest.fixture
def tutorial(
    lab: Lab, kernel: str, contexts: Callable[..., BrowserContext]
) -> Callable[[str], Notebook]:
    """`tutorial("take_part")`: open, with nothing run yet."""
    context = contexts(lab.origin, viewport={"width": 1400, "height": 1000})

    def open_one(name: str) -> Notebook:
        session = {"path": f"{name}.ipynb", "name": name, "type": "notebook"}
        lab.api("POST", "sessions", json=session | {"kernel": {"id": kernel}}, timeout=60)
        notebook = show(lab, context.new_page(), lab.notebooks / f"{name}.ipynb")
        notebook.page.evaluate(FORGET)
        notebook.page.evaluate(RECORD.replace("SAID", SAID))
        return notebook

    return open_one


def below(notebook: Notebook, code: str) -> Locator:
    """What the cell put out that has this in its code."""
    cells = notebook.page.locator(".jp-Notebook:visible .jp-CodeCell")
    found = cells.filter(has=notebook.page.locator(".jp-InputArea", has_text=code))
    return found.first.locator(".jp-OutputArea").first


def said(notebook: Notebook) -> set[str]:
    """What the widgets have said since the notebook was opened."""
    return set(notebook.page.evaluate("[...window.said]"))


def test_they_are_stored_without_outputs_and_speak_of_each_other() -> None:
    names = {file.name for file in TUTORIALS.glob("*.ipynb")}
    assert len(names) == 4
    for name in names:
        text = (TUTORIALS / name).read_text()
        cells = json.loads(text)["cells"]
        code = [cell for cell in cells if cell["cell_type"] == "code"]
        assert all(not cell["outputs"] and cell["execution_count"] is None for cell in code)
        assert cells[0]["source"][0].startswith("# ")
        assert set(re.findall(r"\((\w+\.ipynb)\)", text)) <= names


@pytest.mark.timeout(240)
def test_alice_takes_part(tutorial: Callable[[str], Notebook]) -> None:
    notebook = tutorial("take_part")
    notebook.run(PATIENCE)
    progress = below(notebook, "alice.participate(")
    expect(progress).to_contain_text("accepted")
    assert {"Round 1, training"} <= said(notebook)
    expect(below(notebook, "summary.receipts[-1]")).to_contain_text("state='accepted'")
    told = below(notebook, "others.leave()").inner_text()
    before, after = map(float, re.findall(r"\d\.\d+", told))
    assert after > before + 0.3  # one round is enough to see that it was worth it
    expect(below(notebook, "alice.log()")).to_contain_text("update")


@pytest.mark.timeout(240)
def test_bob_runs_a_federation(tutorial: Callable[[str], Notebook]) -> None:
    notebook = tutorial("run_a_federation")
    notebook.run(PATIENCE)
    live = below(notebook, "run.live()")
    expect(live.locator(".state").first).to_have_text("completed")
    assert {"running", "0 of 3 rounds published", "3 of 3 rounds published"} <= said(notebook)
    expect(below(notebook, "run.history().plot()").locator("img")).to_be_visible()
    expect(below(notebook, "last.live()")).to_contain_text("dora")


@pytest.mark.timeout(240)
def test_alice_labels_her_photos(tutorial: Callable[[str], Notebook]) -> None:
    notebook = tutorial("label_your_photos")
    notebook.run(PATIENCE)
    labeller = below(notebook, "PhotoLabeller(alice")
    expect(labeller.get_by_role("heading", name="Your photos · 40")).to_be_visible()
    labeller.locator(".lb-photo").first.scroll_into_view_if_needed()
    expect(labeller.locator(".lb-photo img[src^=blob]").first).to_be_visible()
    expect(below(notebook, "summary.receipts[-1]")).to_contain_text("state='accepted'")


@pytest.mark.timeout(240)
def test_somebody_brings_a_model(tutorial: Callable[[str], Notebook]) -> None:
    notebook = tutorial("bring_your_own_model")
    notebook.run(PATIENCE)
    expect(below(notebook, "run.live()")).to_contain_text("2 of 2 rounds published")
    assert {"running", "completed"} <= said(notebook)
    told = below(notebook, "network.evaluate").inner_text()
    before, after = map(float, re.findall(r"0\.\d+|1\.0", told))
    assert after > before + 0.3


@pytest.mark.timeout(240)
def test_a_photo_is_tried_on_the_model_in_the_dashboard(
    lab: Lab, kernel: str, contexts: Callable[..., BrowserContext], tmp_path: Path
) -> None:
    """The model of the tutorials above, by the worker that has loaded Keras for their rounds."""
    page = contexts(lab.origin).new_page()
    page.goto(f"{lab.url}fedserver/models/handwriting/try/?token={lab.token}")
    name, password = (lab.home / "fedserver" / "first-owner.txt").read_text().split()
    page.get_by_label("Username").fill(name)
    page.get_by_label("Password").fill(password)
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url(lambda url: "/sign-in/" not in url)  # and its scripts are there
    (tmp_path / "halves.png").write_bytes(file_of(halves()))
    page.locator("#photo").set_input_files(tmp_path / "halves.png")
    expect(page.locator(".answer")).to_contain_text("answered in", timeout=60_000)
