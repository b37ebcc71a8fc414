"""completion: a script that completes the commands of fedclient in a shell."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from typing import Any

import shtab

from client_sdk.cli import codes
from client_sdk.cli.output import Output
from client_sdk.cli.parser import parser


def completion(options: argparse.Namespace, out: Output) -> int:
    """Print the script for one shell."""
    top = parser()
    for action in _actions(top):
        complete = _COMPLETE.get(action.dest)
        if complete is not None:
            action.complete = complete  # type: ignore[attr-defined]
    script = shtab.complete(top, options.shell)
    out.result({"shell": options.shell, "script": script})
    if not out.as_json:
        sys.stdout.write(script)
        sys.stdout.flush()
    return codes.OK


def _actions(top: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    for action in top._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for one in action.choices.values():
                yield from _actions(one)


_NAMES = "fedclient profiles --names"
# By the name of the option.
_COMPLETE: dict[str, Any] = {
    "data": shtab.FILE,
    "folder": shtab.DIRECTORY,
    "photos": shtab.FILE,
    # Of zsh's own: shtab's would ask once for each command while the script is read.
    "profile": shtab.cmd(_NAMES) | {"zsh": f"{{compadd -- \\$({_NAMES})}}"},
}
