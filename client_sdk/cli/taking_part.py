"""train: take part in rounds until told otherwise."""

from __future__ import annotations

import argparse
import dataclasses
import logging
import os
import signal
import sys
from contextlib import closing, suppress
from datetime import UTC, datetime
from functools import partial
from typing import Any

from client_sdk.cli import codes, watching
from client_sdk.cli.output import Output, clean
from client_sdk.cli.parser import LIMITS
from client_sdk.cli.watching import Watched, read
from client_sdk.held_out import Split
from client_sdk.limits import Limits
from client_sdk.participant import Participant
from client_sdk.participation import Event, Summary
from client_sdk.progress import Lines, Shows, Terminal
from client_sdk.protocol import Assignment

_VERDICT = 30.0  # seconds at the end for what is to become of the last update


def train(options: argparse.Namespace, out: Output) -> int:
    """Take part."""
    with Participant.load(options.profile) as participant:
        limits_of(options, participant.limits)  # what is none is said before data are read
        with closing(_Shown(out)) as shown:
            mine = participant.profile
            held_out = options.held_out
            split = None if held_out is None else Split(held_out, mine.participant)
            data = _data(options, shown, split)
            _end_with_the_terminal()
            shown.begin(f"Taking part as {mine.name}. Ctrl-C ends it.", mine.name, mine.url)
            summary = participant.participate(
                data,
                model=options.model,
                rounds=options.rounds,
                until=options.until,
                # What `limits set` changes meanwhile holds too.
                limits=partial(limits_of, options),
                # When nobody reads what we say, that is the end, and `on_event` may say so.
                on_event=shown,
                progress=False,
                verdicts=_VERDICT if options.rounds else 0.0,
                held_out=held_out,
            )
    code = codes.INTERRUPTED if summary.ended == "interrupted" else codes.OK
    _end(summary, code, out)
    return code


def _data(options: argparse.Namespace, shown: _Shown, split: Split | None) -> Any:
    if not options.watch:
        data, count = read(options.data)
        shown.data(watching.told(data, count, split), count)
        return data
    watched = Watched(options.data, shown.data, split)
    watched.wait()
    return watched


def limits_of(options: argparse.Namespace, kept: Limits) -> Limits:
    """The limits that are kept, with those that were given in their place.

    Raises:
        UsageError: for a value that is none.
    """
    given = {name: getattr(options, name) for name in LIMITS if hasattr(options, name)}
    try:
        return dataclasses.replace(kept, **given)
    except ValueError as error:
        raise codes.UsageError(str(error)) from None


def _end(summary: Summary, code: int, out: Output) -> None:
    updates = "1 update" if summary.rounds == 1 else f"{summary.rounds} updates"
    versions = "1 version" if summary.evaluations == 1 else f"{summary.evaluations} versions"
    evaluated = f", and {versions} evaluated" if summary.evaluations else ""
    out.say(f"{updates} from {summary.samples} samples{evaluated}.")
    told = {"event": "ended", "at": datetime.now(UTC), "exit_code": code}
    out.line(told | dataclasses.asdict(summary))


def _end_with_the_terminal() -> None:
    """Let a terminal that is closed do what SIGTERM does, but for who asked for `nohup`."""
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:
        signal.signal(signal.SIGHUP, lambda *_: os.kill(os.getpid(), signal.SIGTERM))


class _Shown:
    """Shows events as it fits where they go: bars, lines, or lines of JSON."""

    def __init__(self, out: Output) -> None:
        self._out = out
        self._shows: Shows | None = None
        self._gone = False
        if not out.as_json:
            live = sys.stdout.isatty()
            self._shows = Terminal.or_lines(sys.stdout) if live else Lines(sys.stdout)
        if isinstance(self._shows, Terminal):
            _log_above(self._shows)

    def __call__(self, event: Event) -> None:
        if self._gone:
            return
        try:
            self._show(event)
        except OSError:  # a pipe that nobody reads, a terminal that is closed
            self._gone = True
            raise KeyboardInterrupt from None

    def _show(self, event: Event) -> None:
        if self._shows is not None:
            self._shows(event)
        else:
            self._line(event.kind, dict(event.data) | {"assignment": _place(event.assignment)})

    def begin(self, text: str, name: str, url: str) -> None:
        """We begin."""
        self._out.say(text)
        self._line("started", {"participant": name, "url": url})

    def data(self, text: str, count: int) -> None:
        """What there is to train with."""
        self._out.say(text[0].upper() + text[1:] + ("" if text.endswith(".") else "."))
        self._line("data", {"examples": count, "detail": text})

    def close(self) -> None:
        """Nothing more happens."""
        if self._shows is not None:
            with suppress(OSError):
                self._shows.close()

    def _line(self, kind: str, told: dict[str, Any]) -> None:
        self._out.line({"event": kind, "at": datetime.now(UTC)} | told)


def _place(given: Assignment | None) -> dict[str, Any] | None:
    if given is None:
        return None
    names = ("id", "run", "round", "number", "rounds", "model", "version")
    return {name: getattr(given, name) for name in names}


class _Above(logging.Handler):
    """Prints warnings above the bars, and not through them."""

    def __init__(self, terminal: Terminal) -> None:
        super().__init__()
        self._console = terminal.console

    def emit(self, record: logging.LogRecord) -> None:
        """Print one."""
        text = clean(self.format(record))
        self._console.print(text, style="yellow", markup=False, soft_wrap=True)


def _log_above(terminal: Terminal) -> None:
    root = logging.getLogger()
    above = _Above(terminal)
    for handler in root.handlers:
        above.setFormatter(handler.formatter)
        for one in handler.filters:
            above.addFilter(one)
    root.handlers[:] = [above]
