"""Every command of fedclient, with its options; imports nothing that takes time."""

from __future__ import annotations

import argparse
import json
import math
import re
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn

from client_sdk.cli import codes, times

DEFAULT_PROFILE = "default"  # as client_sdk.profile.DEFAULT, which would cost what it imports
SHELLS = ("bash", "zsh", "tcsh", "fish")

_DESCRIPTION = "Take part in federated training: the data stay here, weight changes leave."
_EPILOG = """\
Every command takes --json: JSON on standard output, errors too.
FEDCLIENT_HOME names the folder of all profiles; without it, it is the user's
configuration folder.

"""

_Parsers = Any  # what add_subparsers answers; argparse keeps its type to itself


class Parser(argparse.ArgumentParser):
    """argparse's, with complaints in JSON where --json is among the words.

    Options are not to be abbreviated: what is unique today may not be tomorrow, in a script.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options, allow_abbrev=False)

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """As argparse does."""
        self.words = list(sys.argv[1:] if args is None else args)
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        """Say what is wrong with the words, and end."""
        if "--json" in (*getattr(self, "words", ()), *sys.argv[1:]):
            problem = {"kind": "usage", "message": message, "exit_code": codes.USAGE}
            sys.stdout.write(json.dumps({"error": problem}, ensure_ascii=False) + "\n")
            raise SystemExit(codes.USAGE)
        super().error(message)


def parser() -> argparse.ArgumentParser:
    """The parser of fedclient."""
    top = Parser(
        prog="fedclient",
        description=_DESCRIPTION,
        epilog=_EPILOG + codes.told(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action=_Version, help="say the version, and end")
    _common(top, profile=DEFAULT_PROFILE, as_json=False, verbose=False)
    commands = top.add_subparsers(required=True, metavar="COMMAND", parser_class=Parser)
    _joining(commands)
    _training(commands)
    _photos(commands)
    _records(commands)
    _rest(commands)
    return top


def _common(parser: argparse.ArgumentParser, **defaults: Any) -> None:
    """Options that may stand before and after the command."""

    def default(name: str) -> Any:
        return defaults.get(name, argparse.SUPPRESS)

    parser.add_argument(
        "--profile",
        default=default("profile"),
        metavar="NAME",
        help=f"which enrolment on this machine ({DEFAULT_PROFILE})",
    )
    parser.add_argument(
        "--json",
        action="store_true",
        dest="as_json",
        default=default("as_json"),
        help="answer in JSON",
    )
    parser.add_argument(
        "--verbose", action="store_true", default=default("verbose"), help="log each step"
    )


def _command(
    commands: _Parsers, name: str, does: str, help_text: str, more: str = ""
) -> argparse.ArgumentParser:
    """A command; `does` names its function as module:function below client_sdk.cli."""
    command: argparse.ArgumentParser = commands.add_parser(
        name,
        help=help_text,
        description=f"{help_text[0].upper()}{help_text[1:]}.",
        epilog=more or None,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _common(command)
    command.set_defaults(does=does)
    return command


def _joining(commands: _Parsers) -> None:
    join = _command(commands, "join", "joining:join", "enrol with a join code")
    join.add_argument("url", help="address of the server, https unless it is this machine")
    join.add_argument("code", help="join code from an operator")
    join.add_argument("--name", default="", help="what operators will see (this machine's name)")

    _command(commands, "status", "joining:status", "who we are, and whether the server accepts us")

    test = _command(
        commands,
        "test",
        "diagnosis:test",
        "look at each thing that taking part needs",
        "Each check has a line, and says what to do where it fails. The exit code is that of the\n"
        "first check that failed; one that only warns fails nothing.",
    )
    test.add_argument("url", nargs="?", help="a server that one has not joined yet")


def _training(commands: _Parsers) -> None:
    train = _command(
        commands,
        "train",
        "taking_part:train",
        "take part in rounds until told otherwise",
        "Ctrl-C or SIGTERM ends it in good order. A server that is away is waited for.\n"
        "Limits given here hold for this call; `fedclient limits set` keeps them.",
    )
    train.add_argument(
        "--data",
        type=Path,
        required=True,
        metavar="PATH",
        help="an .npz with arrays x and y, or a folder of images in folders by class",
    )
    train.add_argument(
        "--watch", action="store_true", help="take part for ever; read data that have changed anew"
    )
    train.add_argument(
        "--held-out",
        type=_share,
        metavar="SHARE",
        help="keep this share of the data, such as 0.1, to evaluate versions with, and never train "
        "with it",
    )
    train.add_argument("--model", metavar="SLUG", help="only rounds of this model")
    train.add_argument("--rounds", type=_count, metavar="N", help="stop after so many updates")
    train.add_argument(
        "--until", type=_ahead, metavar="TIME", help="stop then: 18:30, 2027-01-31T18:30, 8h"
    )
    _limits(train.add_argument_group("limits, which the server cannot lift"))


def _limits(group: Any) -> None:
    """What a participant allows; in `train` for one call, in `limits set` for good."""
    group.add_argument(
        "--samples-at-least",
        type=_count,
        metavar="N",
        default=argparse.SUPPRESS,
        help="do not train with fewer examples",
    )
    group.add_argument(
        "--rounds-per-day",
        type=_number,
        metavar="N",
        default=argparse.SUPPRESS,
        help="most updates on one day; 0 for none",
    )
    group.add_argument(
        "--cohort-at-least",
        type=_count,
        metavar="N",
        default=argparse.SUPPRESS,
        help="only rounds that publish with so many updates or more",
    )
    group.add_argument(
        "--seconds-per-round",
        type=_seconds,
        metavar="S",
        default=argparse.SUPPRESS,
        help="longest time for a round; training ends early, or it is given back",
    )
    group.add_argument(
        "--models",
        type=_slugs,
        metavar="SLUG,…",
        default=argparse.SUPPRESS,
        help="only these models; SLUG@DIGEST with this architecture alone",
    )
    group.add_argument(
        "--share-metrics",
        action=argparse.BooleanOptionalAction,
        default=argparse.SUPPRESS,
        help="whether loss and accuracy on the own data are sent",
    )


def _photos(commands: _Parsers) -> None:
    predict = _command(
        commands,
        "predict",
        "predicting:predict",
        "say what is on photos, with the served model",
        "Works without the server, with the newest version that was fetched.",
    )
    predict.add_argument("photos", nargs="+", type=Path, metavar="PHOTO", help="a picture's file")
    predict.add_argument("--model", metavar="SLUG", help="the model to ask")
    predict.add_argument(
        "--top", type=_count, default=3, metavar="N", help="show the N likeliest labels (3)"
    )

    photos = _command(
        commands,
        "photos",
        "labelling:photos",
        "label photos on a page of this machine, and train with them",
    )
    photos.add_argument(
        "--folder", type=Path, metavar="PATH", help="where the photos are kept, by label"
    )
    photos.add_argument("--model", metavar="SLUG", help="the model that recognises and learns")
    photos.add_argument("--port", type=_port, default=0, help="a port that is free if not given")
    photos.add_argument(
        "--no-browser", action="store_true", help="open no browser; the address is printed"
    )


def _records(commands: _Parsers) -> None:
    log = _command(commands, "log", "records:log", "what has left this machine")
    log.add_argument(
        "--since", type=_behind, metavar="TIME", help="from then on: 7d, 12h, 2027-01-31"
    )

    limits = _command(commands, "limits", "records:show", "what this machine allows")
    verbs = limits.add_subparsers(metavar="show, set or clear", parser_class=Parser)
    _command(verbs, "show", "records:show", "show the limits")
    change = _command(verbs, "set", "records:change", "set limits; the others stay as they are")
    _limits(change)
    clear = _command(verbs, "clear", "records:clear", "lift limits that were set")
    clear.add_argument(
        "names",
        nargs="*",
        type=_limit_name,
        metavar="LIMIT",
        help="such as rounds-per-day; all of them when none is named",
    )


def _rest(commands: _Parsers) -> None:
    _command(commands, "rotate-key", "joining:rotate_key", "change to a new key")

    leave = _command(commands, "leave", "joining:leave", "end the enrolment and forget it here")
    leave.add_argument("--yes", action="store_true", help="do not ask")
    leave.add_argument(
        "--here-only",
        action="store_true",
        help="do not tell the server, where it is gone for good",
    )

    profiles = _command(commands, "profiles", "joining:profiles", "enrolments on this machine")
    profiles.add_argument("--names", action="store_true", help="nothing but their names")

    completion = _command(
        commands,
        "completion",
        "completion:completion",
        "print what completes commands in a shell",
        "For bash:\n"
        "  fedclient completion bash > ~/.local/share/bash-completion/completions/fedclient\n"
        "For zsh, in a folder of $fpath:\n"
        "  fedclient completion zsh > ~/.zfunc/_fedclient\n"
        "For fish:\n"
        "  fedclient completion fish > ~/.config/fish/completions/fedclient.fish",
    )
    completion.add_argument("shell", choices=SHELLS)


# --- Values ---


class _Version(argparse.Action):
    """Looks the version up when it is asked for: that takes as long as all the rest."""

    def __init__(self, option_strings: Sequence[str], dest: str, help: str | None = None) -> None:  # noqa: A002
        super().__init__(option_strings, argparse.SUPPRESS, nargs=0, help=help)

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> NoReturn:
        import importlib.metadata

        try:
            version = importlib.metadata.version("fedserver")
        except importlib.metadata.PackageNotFoundError:
            version = "0"
        sys.stdout.write(f"fedclient {version}\n")
        raise SystemExit(codes.OK)


def _count(text: str) -> int:
    return _whole(text, 1)


def _number(text: str) -> int:
    return _whole(text, 0)


def _whole(text: str, least: int) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 10) or int(text) < least:
        raise argparse.ArgumentTypeError(f"Expected a whole number from {least}. Received: {text}")
    return int(text)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not math.isfinite(seconds) or seconds <= 0:
        raise argparse.ArgumentTypeError(f"Expected seconds above 0. Received: {text}")
    return seconds


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = math.nan
    if not 0 < share < 1:
        raise argparse.ArgumentTypeError(f"Expected a share above 0, below 1. Received: {text}")
    return share


def _port(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 6) or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"Expected a port from 0 to 65535. Received: {text}")
    return int(text)


def _slugs(text: str) -> tuple[str, ...]:
    slugs = tuple(slug.strip() for slug in text.split(","))
    if not all(re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]*(@[0-9a-f]{8,64})?", s) for s in slugs):
        raise argparse.ArgumentTypeError(f"Expected slugs with commas. Received: {text}")
    return slugs


def _ahead(text: str) -> datetime:
    return _time(text, ahead=True)


def _behind(text: str) -> datetime:
    return _time(text, ahead=False)


def _time(text: str, *, ahead: bool) -> datetime:
    try:
        return times.read(text, datetime.now(UTC), ahead=ahead)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


LIMITS = (
    "samples_at_least",
    "rounds_per_day",
    "cohort_at_least",
    "seconds_per_round",
    "models",
    "share_metrics",
)


def _limit_name(text: str) -> str:
    name = text.removeprefix("--").replace("-", "_")
    if name not in LIMITS:
        known = ", ".join(spelled(LIMITS))
        raise argparse.ArgumentTypeError(f"Expected one of {known}. Received: {text}")
    return name


def spelled(names: Iterable[str]) -> list[str]:
    """Names as options spell them."""
    return [name.replace("_", "-") for name in names]
