"""Waiting for what other threads and processes do."""

import time
from collections.abc import Callable


def until(true: Callable[[], object], seconds: float = 30.0) -> None:
    """Wait until something is true; fails when it is not so in time."""
    ends = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < ends, f"Expected it within {seconds:g} s. Received: not yet"
        time.sleep(0.01)
