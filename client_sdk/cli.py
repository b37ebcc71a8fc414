"""The command line of a participant: join, status, train, leave."""

from __future__ import annotations

import argparse
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from rich.console import Console

from client_sdk import errors, profile
from client_sdk.participant import Participant
from client_sdk.participation import Event
from client_sdk.transport import version

OK, FAILED, USAGE, REFUSED, UNREACHABLE, NO_PROFILE, BAD_DATA, DISTRUSTED = range(8)
INTERRUPTED = 130

_EXIT_CODES = """exit codes:
  0  done
  1  failed: see the message
  2  wrong usage
  3  the server refused: join code, key, suspended or revoked
  4  the server cannot be reached
  5  no such profile, or it exists already, or another process uses it
  6  the data cannot be read
  7  the server sent something that cannot be trusted
130  interrupted; the assignment was given back
"""

_BY_ERROR: tuple[tuple[type[errors.ParticipantError], int], ...] = (
    (errors.ServerRefused, REFUSED),
    (errors.ServerUnreachable, UNREACHABLE),
    (errors.ProfileError, NO_PROFILE),
    (errors.AddressRefused, USAGE),
    (errors.ServerDistrusted, DISTRUSTED),
)

_PATIENCE = 10.0  # seconds: a person is waiting

say = Console(highlight=False, soft_wrap=True).print
complain = Console(stderr=True, highlight=False, soft_wrap=True, style="red").print


class _DataUnreadable(errors.ParticipantError):
    """The file given with --data cannot be used."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; answers with its exit code.

    Args:
        arguments: as on the command line, without the program's name; its own when None.
    """
    options = _parser().parse_args(arguments)
    logging.basicConfig(
        level=logging.DEBUG if options.verbose else logging.WARNING,
        format="%(asctime)s %(name)s %(message)s",
    )
    # httpx writes whole addresses into its log; ours says what matters.
    logging.getLogger("httpx").setLevel(logging.WARNING)
    logging.getLogger("httpcore").setLevel(logging.WARNING)
    if not options.verbose:  # TensorFlow's chatter at its start says nothing of ours
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    command: Callable[[argparse.Namespace], int] = options.command
    try:
        return command(options)
    except errors.ParticipantError as error:
        complain(str(error), markup=False)
        return _exit_code(error)
    except KeyboardInterrupt:
        return INTERRUPTED


def _exit_code(error: errors.ParticipantError) -> int:
    if isinstance(error, _DataUnreadable):
        return BAD_DATA
    return next((code for kind, code in _BY_ERROR if isinstance(error, kind)), FAILED)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fedclient",
        description="Take part in federated training: the data stay here, weight changes leave.",
        epilog=_EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"fedclient {version()}")
    parser.add_argument("--verbose", action="store_true", help="say each step")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    join = _command(commands, "join", _join, "enrol with a join code")
    join.add_argument("url", help="address of the server, https unless it is this machine")
    join.add_argument("code", help="join code from an operator")
    join.add_argument("--name", default="", help="what operators will see (this machine's name)")

    _command(commands, "status", _status, "who we are, and whether the server accepts us")

    train = _command(commands, "train", _train, "take part in rounds until told otherwise")
    train.add_argument("--data", type=Path, required=True, help=".npz with arrays x and y")
    train.add_argument("--model", help="only rounds of the model with this slug")
    train.add_argument("--rounds", type=_count, help="stop after so many updates")

    _command(commands, "leave", _leave, "end the enrolment and forget it here")
    return parser


def _command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    command: Callable[[argparse.Namespace], int],
    help_text: str,
) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=help_text, description=help_text)
    parser.add_argument("--profile", default=profile.DEFAULT, help="name on this machine")
    parser.set_defaults(command=command)
    return parser


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"Expected a whole number from 1. Received: {text}")
    return int(text)


def _join(options: argparse.Namespace) -> int:
    joined = Participant.enrol(
        options.url,
        options.code,
        name=options.name,
        profile=options.profile,
        patience=_PATIENCE,
    )
    with joined:
        say(f"Enrolled as {joined.profile.name} at {joined.profile.url}.", markup=False)
        say(f"The key is in {joined.profile.folder}; it never leaves this machine.", markup=False)
    return OK


def _status(options: argparse.Namespace) -> int:
    with Participant.load(options.profile) as participant:
        mine = participant.profile
        say(f"profile      {mine.profile}  ({mine.folder})", markup=False)
        say(f"participant  {mine.name}  ({mine.participant})", markup=False)
        say(f"server       {mine.url}", markup=False)
        told = participant.server(patience=_PATIENCE)
        say(f"version      {told.get('version', 'unknown')}", markup=False)
        participant.log_in(patience=_PATIENCE)
        say("accepted     yes")
    return OK


def _train(options: argparse.Namespace) -> int:
    data = _read(options.data)
    with Participant.load(options.profile) as participant:
        say(f"Taking part as {participant.profile.name}. Ctrl-C ends it.", markup=False)
        summary = participant.participate(
            data, model=options.model, rounds=options.rounds, on_event=_Screen()
        )
    updates = "1 update" if summary.rounds == 1 else f"{summary.rounds} updates"
    say(f"{updates} from {summary.samples} samples.")
    return INTERRUPTED if summary.ended == "interrupted" else OK


def _leave(options: argparse.Namespace) -> int:
    with Participant.load(options.profile) as participant:
        participant.leave(patience=_PATIENCE)
        say(f"Left {participant.profile.url}; nothing is kept here.", markup=False)
    return OK


def _read(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Arrays x and y of an .npz file; never a pickle."""
    try:
        with np.load(path, allow_pickle=False) as file:
            if not {"x", "y"} <= set(file.files):
                found = ", ".join(file.files) or "none"
                raise _DataUnreadable(f"Expected arrays x and y in {path}. Received: {found}")
            return file["x"], file["y"]
    except (OSError, ValueError, EOFError, TypeError, AttributeError, BadZipFile) as error:
        reason = error.strerror if isinstance(error, OSError) else "something else"
        raise _DataUnreadable(f"Expected an .npz file. Received: {path}, {reason}") from None


_LINES = {
    "offline": "server away ({reason}), next try in {seconds:.0f} s",
    "suspended": "suspended by an operator, next try in {seconds:.0f} s",
    "waiting": "waiting: {detail}",
    "assigned": "round {round} of model {model}",
    "resumed": "  the update was trained before",
    "epoch": "  epoch {epoch}/{epochs}  {numbers}",
    "uploaded": "  update sent, {samples} samples",
    "closed": "  the round is closed",
    "failed": "  failed, {reason}: {detail}",
    "interrupted": "interrupted; what was under way is given back",
}


class _Screen:
    """Shows events, one line each, and a repeated one only once."""

    def __init__(self) -> None:
        self._last = ""

    def __call__(self, event: Event) -> None:
        pattern = _LINES.get(event.kind)
        if pattern is None:
            return
        values = dict(event.data)
        if event.assignment is not None:
            values |= {"round": event.assignment.number, "model": event.assignment.model}
        metrics = values.get("metrics", {})
        values["numbers"] = "  ".join(f"{name} {value:.4f}" for name, value in metrics.items())
        line = pattern.format(**values)
        if line != self._last:
            say(line, markup=False)
        self._last = line
