"""One real JupyterLab for all tests of this folder, before a real Chromium.

A test asks for `open_notebook` and gets a notebook that is open in JupyterLab:

    notebook = open_notebook(["from client_sdk.notebook import LiveRound", "LiveRound(…)"])
    notebook.run()
    expect(notebook.output(1)).to_contain_text("training")

What the pages complain of fails the test, as with all browser tests; of JupyterLab's own requests
to its own server nothing is expected to fail. Kernels end with the test.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from playwright.sync_api import BrowserContext

from tests.browser.conftest import (
    chromium,
    contexts,
    kept,
    pytest_runtest_makereport,
    watch_console,
)
from tests.jupyter.lab import Lab, Notebook, running, show

__all__ = ["chromium", "contexts", "kept", "pytest_runtest_makereport", "watch_console"]  # lent

WIDE = {"width": 1400, "height": 1000}


def pytest_itemcollected(item: pytest.Item) -> None:
    item.add_marker("browser")


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """One JupyterLab for all tests."""
    with running(tmp_path_factory.mktemp("lab") / "home") as started:
        yield started


@pytest.fixture
def open_notebook(
    lab: Lab, contexts: Callable[..., BrowserContext]
) -> Iterator[Callable[[Path | Sequence[str]], Notebook]]:
    """`open_notebook(["1 + 1", …])`, or a file in `lab.notebooks`: in a page of its own."""
    context = contexts(lab.origin, viewport=WIDE)

    def open_one(notebook: Path | Sequence[str]) -> Notebook:
        return show(lab, context.new_page(), notebook)

    yield open_one
    lab.end_kernels()
