"""Live views of a round and of a run, as on the dashboard and drawn by the same modules.

A widget's values are what it shows: the document as it was read last, and what has happened since.
So every view of it shows the same, also one that is opened later, or in another window.

What happens is followed by a thread in the kernel (`client_sdk.following`), which a cell that runs
does not hold up. It ends when nothing more can happen, when the widget is closed, and when the last
view of it is: another view begins it again.
"""

from __future__ import annotations

import threading
from datetime import datetime
from pathlib import Path
from typing import Any

import anywidget
import traitlets

import client_sdk
from client_sdk.errors import ParticipantError
from client_sdk.following import (
    CONNECTING,
    ENDED,
    REFUSED,
    Event,
    Follower,
    personal,
    read_patiently,
)
from client_sdk.notebook.modules import css, esm

HERE = Path(__file__).parent
DRAWINGS = Path(client_sdk.__file__).parent / "drawings"

ROUND_ENDED = ("published", "failed", "cancelled")
RUN_ENDED = ("completed", "stopped", "failed")

_KEPT = 100  # events beside the document, before it is read anew
_UNKNOWN = -1e15  # milliseconds: any clock is ahead of that


def style(*drawings: str) -> str:
    """The style of a live view: that of all widgets, and the drawings' own rules inside of it."""
    sheets = [DRAWINGS / "parts.css", *(DRAWINGS / drawing for drawing in drawings)]
    return css(DRAWINGS / "widget.css", HERE / "live.css") + css(*sheets, within=".fedserver")


class LiveView(anywidget.AnyWidget):
    """What the live views share: a follower for as long as somebody looks, and its status.

    The token stays in the kernel: a widget's values are kept in the notebook.
    """

    status = traitlets.Dict({"word": CONNECTING, "sentence": ""}).tag(sync=True)
    links = traitlets.Dict().tag(sync=True)

    _follower: Follower | None = None
    _together = 0.0

    def __init__(self, url: str, token: str | None, wish: dict[str, Any]) -> None:
        self._transport, _ = personal(url, token)
        self._base = self._transport.url
        self._wish = wish
        self._views: set[str] = set()
        super().__init__()
        self.on_msg(self._hear)
        self._begin()

    def close(self) -> None:
        """Follow no longer, and take the widget away."""
        if self._follower is not None:
            self._follower.close(wait=False)
        super().close()

    @property
    def following(self) -> bool:
        """Whether news still come."""
        return self._follower is not None and self._follower.running

    def _begin(self) -> None:
        if self.following or self.status["word"] in (ENDED, REFUSED):
            return
        self._follower = Follower(
            self._transport,
            self._wish,
            read=self._read,
            take=self._take,
            tell=self._tell,
            together=self._together,
        )
        self._follower.start()

    def _finish(self) -> None:
        assert self._follower is not None
        self._follower.finish()

    def _tell(self, word: str, sentence: str) -> None:
        self.status = {"word": word, "sentence": sentence}

    # --- What a page says ---

    def _hear(self, _: object, said: Any, __: object) -> None:
        kind = said.get("type") if isinstance(said, dict) else None
        if kind == "opened":
            self._views.add(str(said.get("view")))
            self._begin()
        elif kind == "closed":
            self._views.discard(str(said.get("view")))
            if not self._views and self._follower is not None:
                self._follower.close(wait=False)
        elif kind is not None:
            self._asked(said)

    def _asked(self, said: dict[str, Any]) -> None:
        """Something else that a page says."""

    # --- What is followed ---

    def _read(self) -> int | None:
        raise NotImplementedError

    def _take(self, events: list[Event]) -> None:
        raise NotImplementedError


class LiveRound(LiveView):
    """A round as it happens: phases, participants, timeline and events.

    Args:
        url: The server's address.
        round_id: Of the round, as in its address on the dashboard.
        token: A personal token (`fsu_…`, from the profile page), which the widget does not keep;
            None for the environment's `FEDSERVER_TOKEN`.

    Raises:
        AddressRefused: Plain http to another machine.
        TokenMissing: No token here, and none in the environment.

    Example:
        >>> live = LiveRound("http://127.0.0.1:8000", 7, token=token)
        >>> live.close()
    """

    _esm = esm(HERE / "live_round.js")
    _css = style("round.css", "evaluation.css")
    _together = 0.1

    document = traitlets.Dict(allow_none=True, default_value=None).tag(sync=True)
    events: traitlets.List[Event] = traitlets.List().tag(sync=True)
    offset = traitlets.Float(_UNKNOWN).tag(sync=True)
    reports = traitlets.Dict().tag(sync=True)

    def __init__(self, url: str, round_id: int, *, token: str | None = None) -> None:
        self._round = int(round_id)
        self._ended = self._followed = False  # the round; by another one, or by the run's end
        super().__init__(url, token, {})  # its run is known once it is read

    def _read(self) -> int:
        document = read_patiently(self._transport, f"rounds/{self._round}/state")
        cursor = int(document["cursor"])
        self._wish["run"] = document["run"]["id"]
        served = datetime.fromisoformat(document["now"])
        offset = (served - datetime.now(served.tzinfo)).total_seconds() * 1000
        with self.hold_sync():
            self.offset = max(self.offset, offset)
            self.links = self._links(document)
            self.document = document
            self.events = [one for one in self.events if _is_newer(one, cursor, document["now"])]
        self._ended = document["round"]["phase"] in ROUND_ENDED
        run = document["run"]
        self._followed = run["next"] is not None or run["state"] in RUN_ENDED
        self._finish_if_over()
        return cursor

    def _take(self, events: list[Event]) -> None:
        passing = {_subject(one) for one in events if one["id"] is None}
        kept = [one for one in self.events if one["id"] or _subject(one) not in passing]
        self.events = kept + events
        for one in events:
            self._look_for_the_end(one)
        self._finish_if_over()
        if len(self.events) > _KEPT:
            self._read()

    def _look_for_the_end(self, event: Event) -> None:
        subject, _, what = event["kind"].partition(".")
        if subject == "round" and event.get("round") == self._round:
            self._ended = self._ended or what in ROUND_ENDED
        elif event["kind"] == "round.opened":
            assert self.document is not None
            following = self.document["round"]["number"] + 1
            self._followed = self._followed or event["data"]["number"] == following
        elif subject == "run":
            self._followed = self._followed or what in RUN_ENDED

    def _finish_if_over(self) -> None:
        if self._ended and self._followed:
            self._finish()

    def _links(self, document: dict[str, Any]) -> dict[str, str]:
        slug, run = document["model"]["slug"], document["run"]["id"]
        return {
            "self": f"{self._base}/rounds/{self._round}/",
            "round": f"{self._base}/rounds/{{id}}/",
            "participant": f"{self._base}/participants/{{uuid}}/",
            "version": f"{self._base}/models/{slug}/versions/{{number}}/",
            "run": f"{self._base}/runs/{run}/",
        }

    def _asked(self, said: dict[str, Any]) -> None:
        if said.get("type") == "report" and isinstance(said.get("id"), int):
            threading.Thread(target=self._report, args=(said["id"],), daemon=True).start()

    def _report(self, assignment: int) -> None:
        path = f"rounds/{self._round}/assignments/{assignment}"
        try:
            report = {"detail": read_patiently(self._transport, path)["detail"]}
        except ParticipantError as error:
            report = {"error": f"The report cannot be read now: {error}"}
        self.reports = {**self.reports, str(assignment): report}


class LiveRun(LiveView):
    """A run as it happens: where it stands, its curves, and what became of its rounds.

    Args:
        url: The server's address.
        run_id: Of the run, as in its address on the dashboard.
        token: A personal token (`fsu_…`, from the profile page), which the widget does not keep;
            None for the environment's `FEDSERVER_TOKEN`.

    Raises:
        AddressRefused: Plain http to another machine.
        TokenMissing: No token here, and none in the environment.

    Example:
        >>> live = LiveRun("http://127.0.0.1:8000", 3, token=token)
        >>> live.close()
    """

    _esm = esm(HERE / "live_run.js")
    _css = style("charts.css", "vendor/uplot/uPlot.min.css")
    _together = 1.0

    run = traitlets.Dict(allow_none=True, default_value=None).tag(sync=True)
    history = traitlets.Dict(allow_none=True, default_value=None).tag(sync=True)

    def __init__(self, url: str, run_id: int, *, token: str | None = None) -> None:
        self._run = int(run_id)
        wish = {"run": self._run, "kinds": ["run.", "round.", "assignment."]}
        super().__init__(url, token, wish)

    def _read(self) -> None:
        history = read_patiently(self._transport, f"runs/{self._run}/history")
        run = read_patiently(self._transport, f"runs/{self._run}")
        with self.hold_sync():
            self.links = {
                "self": f"{self._base}/runs/{self._run}/",
                "round": f"{self._base}/rounds/{{id}}/",
            }
            self.run, self.history = run, history
        if run["state"] in RUN_ENDED:
            self._finish()

    def _take(self, events: list[Event]) -> None:
        self._read()


def _subject(event: Event) -> tuple[str, Any]:
    """What a passing piece of news is about: a newer one takes its place."""
    return event["kind"], event.get("assignment", event.get("round"))


def _is_newer(event: Event, cursor: int, now: str) -> bool:
    if event["id"] is None:
        return datetime.fromisoformat(event["at"]) > datetime.fromisoformat(now)
    return bool(event["id"] > cursor)
