"""Reports of progress to the server, from a thread of their own."""

from __future__ import annotations

import logging
import math
import threading
import time
from typing import TYPE_CHECKING, Any

from client_sdk.errors import ParticipantError, ParticipantRevoked, RoundClosed

if TYPE_CHECKING:
    from client_sdk.participant import Participant

log = logging.getLogger("client_sdk")

_PACE = 0.25  # seconds between reports of the same activity, at least
_HEARTBEAT = 20.0  # and at most


class Reporter:
    """Tells the server how far an assignment is.

    Training must not stand still because the network does: reports are put down, and the thread
    sends them. A new activity is sent at once, so that even a short round shows how long it
    fetched and trained; within an activity the latest report is, a few times a second. It also
    repeats itself now and then, so that the server sees life in a long epoch and we learn that
    a round has closed.

    Args:
        participant: whose assignment it is.
        assignment: its id.
    """

    def __init__(self, participant: Participant, assignment: int) -> None:
        self._participant = participant
        self._assignment = assignment
        self._changed = threading.Condition()
        self._waiting: list[dict[str, Any]] = []
        self._sent: dict[str, Any] = {}
        self._sent_at = -math.inf
        self._ended = False
        self._closed: ParticipantError | None = None
        self._thread = threading.Thread(target=self._run, name="fedclient-progress", daemon=True)

    def __enter__(self) -> Reporter:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._ended = True
            self._changed.notify()

    def say(self, **progress: Any) -> None:
        """Put down how far we are."""
        with self._changed:
            if self._waiting and self._waiting[-1]["activity"] == progress["activity"]:
                self._waiting.pop()
            self._waiting.append(progress)
            self._changed.notify()

    def check(self) -> None:
        """Raise what ended the assignment on the server, if something did."""
        if self._closed is not None:
            raise self._closed

    def _run(self) -> None:
        while (progress := self._next()) is not None:
            try:
                self._participant.report_progress(self._assignment, progress)
            except (RoundClosed, ParticipantRevoked) as closed:
                self._closed = closed
                return
            except Exception as error:
                log.debug("no report of progress: %s", type(error).__name__)

    def _next(self) -> dict[str, Any] | None:
        """The next report, when it is due; None when there will be none."""
        with self._changed:
            while not self._ended:
                left = self._seconds_to_next()
                if left <= 0:
                    self._sent = self._waiting.pop(0) if self._waiting else self._sent
                    self._sent_at = time.monotonic()
                    return self._sent
                self._changed.wait(left)
        return None

    def _seconds_to_next(self) -> float:
        since = time.monotonic() - self._sent_at
        if not self._waiting:
            return _HEARTBEAT - since if self._sent else _HEARTBEAT
        same = self._waiting[0]["activity"] == self._sent.get("activity")
        return _PACE - since if same else 0.0
