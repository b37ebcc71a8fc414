"""The widgets' styles: the dashboard's colours, and nobody else's page."""

import re
from pathlib import Path

import pytest

import client_sdk
import frontend
from client_sdk.notebook.live import LiveRound, LiveRun
from client_sdk.notebook.progress import ProgressView

DRAWINGS = Path(client_sdk.__file__).parent / "drawings"
PHOTOS = Path(client_sdk.__file__).parent / "photos"
TOKENS = Path(frontend.__file__).parent / "static" / "frontend" / "tokens.css"
# JupyterLab's own are taken for these, or type is smaller there.
THEIRS = {"surface", "raised", "sunken", "text", "quiet", "line", "line-strong", "accent-tint"}
THEIRS |= {"font", "mono", "small", "space-5", "space-6", "radius"}


def tokens_in(sheet: Path) -> dict[str, str]:
    return dict(re.findall(r"^  --([\w-]+): (.+);$", sheet.read_text(), re.MULTILINE))


def test_a_colour_that_both_have_is_the_same_in_both() -> None:
    ours, dashboards = tokens_in(DRAWINGS / "widget.css"), tokens_in(TOKENS)
    assert ours.keys() <= dashboards.keys()
    differing = {name for name in ours if ours[name] != dashboards[name]}
    assert differing == THEIRS


def test_the_labellers_page_has_the_dashboards_tokens() -> None:
    ours, dashboards = tokens_in(PHOTOS / "page.css"), tokens_in(TOKENS)
    assert {"surface", "accent", "space-1", "shadow"} <= ours.keys()
    assert ours == {name: dashboards[name] for name in ours}


def test_the_labeller_uses_no_token_that_its_page_or_a_notebook_lacks() -> None:
    text = (PHOTOS / "labeller.css").read_text()
    used = set(re.findall(r"var\(--([\w-]+)\)", text)) - set(re.findall(r"--([\w-]+):", text))
    assert used <= tokens_in(PHOTOS / "page.css").keys()
    assert used <= tokens_in(DRAWINGS / "widget.css").keys()


def test_the_drawings_use_no_token_that_a_notebook_lacks() -> None:
    known = tokens_in(DRAWINGS / "widget.css").keys()
    for name in ("round.css", "charts.css", "parts.css"):
        text = (DRAWINGS / name).read_text()
        used = set(re.findall(r"var\(--([\w-]+)", text))
        own = set(re.findall(r"--([\w-]+):", text))
        set_by_scripts = {"units"}
        assert used - own - set_by_scripts <= known, name


@pytest.mark.parametrize("widget", [LiveRound, LiveRun, ProgressView])
def test_nothing_outside_of_a_widget_is_touched(widget: type) -> None:
    css = re.sub(r"/\*.*?\*/", "", widget._css, flags=re.DOTALL)  # type: ignore[attr-defined]
    depth, selector = 0, ""
    for character in css:
        if character == "{":
            if depth == 0:
                own = ".fedserver" in selector or ".fs-" in selector or "@container" in selector
                assert own, selector
            depth, selector = depth + 1, ""
        elif character == "}":
            depth, selector = depth - 1, ""
        else:
            selector += character
    assert depth == 0
