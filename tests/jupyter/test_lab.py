"""JupyterLab as the other tests of this folder have it."""

from collections.abc import Callable, Sequence

import pytest
from playwright.sync_api import expect

from tests.jupyter.lab import CellFailed, Notebook

SLIDER = "import ipywidgets; slider = ipywidgets.IntSlider(7); slider"


def test_a_notebook_runs_its_widgets_are_seen_and_a_cell_that_raises_is_told(
    open_notebook: Callable[[Sequence[str]], Notebook],
) -> None:
    notebook = open_notebook(["print(6 * 7)", SLIDER, "slider.value = 8", "1 / 0"])
    with pytest.raises(CellFailed, match="ZeroDivisionError"):
        notebook.run()
    expect(notebook.output(0)).to_have_text("42")
    expect(notebook.output(1).locator(".widget-readout")).to_have_text("8")
