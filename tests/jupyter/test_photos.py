"""The photo labeller in a real notebook: the same screen, over a kernel."""

import re
from collections.abc import Callable, Sequence

from playwright.sync_api import expect

from tests.jupyter.lab import ROOT, Lab, Notebook
from tests.labelling import fruit, jpeg

ENROL = f"""import sys
sys.path.insert(0, {str(ROOT)!r})
from client_sdk.testing import FakeTrainer
from tests.labelling import fruit_server, gardener
server = fruit_server()
alice = gardener(server, version=2)
round = server.open_round()"""
LABEL = """from client_sdk.notebook.photo_labeller import PhotoLabeller
labeller = PhotoLabeller(alice, "fruit", trainer=FakeTrainer(weights=server.weights), verdicts=0)
labeller"""


def test_photos_are_labelled_and_trained_with_in_a_notebook(
    lab: Lab, open_notebook: Callable[[Sequence[str]], Notebook]
) -> None:
    notebook = open_notebook([ENROL, LABEL])
    notebook.run()
    widget = notebook.output(1)
    expect(widget.locator(".lb-status")).to_contain_text("Fruitversion 2")
    photos = [
        {"name": f"{label}.jpg", "mimeType": "image/jpeg", "buffer": jpeg(fruit(label))}
        for label in ("plum", "lemon")
    ]
    widget.locator("input[type=file]").set_input_files(photos)  # type: ignore[arg-type]
    expect(widget.get_by_role("heading", name="2 photos wait")).to_be_visible()
    widget.get_by_role("button", name="Keep as plum").click()
    # A key that is a shortcut of JupyterLab elsewhere.
    expect(widget.get_by_role("heading", name="lemon")).to_be_visible()
    widget.page.keyboard.press("1")
    expect(widget.get_by_role("heading", name="Your photos · 2")).to_be_visible()
    expect(widget.locator(".lb-photo img[src^=blob]")).to_have_count(2)
    kept = sorted(path.parent.name for path in (lab.notebooks / "fruit").glob("*/*.jpg"))
    assert kept == ["lemon", "plum"]

    widget.get_by_role("button", name="Train", exact=True).click()
    expect(widget.locator(".lb-receipt")).to_contain_text("Samples2")
    expect(widget.get_by_role("img", name=re.compile("^Loss"))).to_be_visible()
