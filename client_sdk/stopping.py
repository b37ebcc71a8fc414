"""How a participation is told to end: Ctrl-C, SIGTERM, or an event that any thread may set."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_LOOK = 1.0  # seconds between looks at the event, where nothing else wakes us


class Stopped(KeyboardInterrupt):
    """The caller's event is set. Like Ctrl-C it is nobody's error to catch."""


class Stop:
    """Whether to go on.

    Args:
        event: the caller's; None when it has none.
        sleep: waits for seconds.
    """

    def __init__(self, event: threading.Event | None, sleep: Callable[[float], None]) -> None:
        self.event = event
        self._sleep = sleep

    @property
    def patience(self) -> float:
        """Seconds that something may block without a `check`; signals break through all."""
        return math.inf if self.event is None else _LOOK

    def check(self) -> None:
        """Raise Stopped when the event is set."""
        if self.event is not None and self.event.is_set():
            raise Stopped

    def pause(self, seconds: float) -> None:
        """Wait for seconds, unless the event is set."""
        if self.event is not None and self._sleep is time.sleep:
            self.event.wait(seconds)
        else:
            self._sleep(seconds)
        self.check()

    @contextmanager
    def heard(self) -> Iterator[None]:
        """Let SIGTERM do what Ctrl-C does, where this thread may say so."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def interrupt(*_: object) -> None:
            raise KeyboardInterrupt

        before = signal.signal(signal.SIGTERM, interrupt)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before if before is not None else signal.SIG_DFL)
