"""The demo, interrupted. What it comes to when it is not: tests/fedserver/test_up_and_demo.py."""

import signal
import time
from pathlib import Path

import pytest

from tests.fedserver.test_up_and_demo import (
    descendants,
    ends_with,
    line_with,
    manage,
    still_alive,
)

pytestmark = [pytest.mark.keras, pytest.mark.timeout(240)]


@pytest.mark.parametrize(
    "moment",
    ["2 participants", "round 1  published"],
    ids=["while it starts", "in the middle of a round"],
)
def test_ctrl_c_ends_everything_within_seconds(tmp_path: Path, moment: str) -> None:
    file = tmp_path / "result.json"
    words = ("--participants", "2", "--rounds", "100", "--json", str(file))
    with manage(tmp_path, "demo", *words) as demo:
        line_with(demo, moment)
        started = descendants(demo)
        assert started
        demo.send_signal(signal.SIGINT)
        began = time.monotonic()
        line_with(demo, "ended before it was done")
        ends_with(demo, 130)
        assert time.monotonic() - began < 30
        assert not still_alive(started)
    assert not file.exists()
    assert not list(tmp_path.rglob("*.sock"))
