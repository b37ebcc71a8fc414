"""What a command says: lines for people, or JSON for programs.

Under --json standard output holds JSON and nothing else, whatever happens; what is only for
people is not said, and what goes wrong is an object with the name `error`.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

from client_sdk.cli import codes

if TYPE_CHECKING:
    from rich.console import Console

# Names of files and sentences of servers are strangers' words: none may move the cursor.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


_STYLES = {"ok": "green", "warning": "yellow", "failed": "bold red"}


class Output:
    """Where a command says what it has to say.

    Args:
        as_json: say it to programs.
    """

    def __init__(self, *, as_json: bool = False) -> None:
        self.as_json = as_json

    def say(self, line: str) -> None:
        """A line for people."""
        if not self.as_json:
            _write(clean(line))

    def mark(self, state: str, line: str) -> None:
        """A line that begins with how something is: "ok", "warning" or "failed"."""
        if self.as_json:
            return
        if sys.stdout.isatty():
            from rich.text import Text

            styled = Text.assemble((f"{state:<9} ", _STYLES[state]), clean(line))
            console().print(styled, soft_wrap=True)
        else:
            self.say(f"{state:<9} {line}")

    @contextmanager
    def busy(self, text: str) -> Iterator[None]:
        """Tell people in a terminal that this takes a while."""
        if self.as_json or not sys.stderr.isatty():
            yield
            return
        with console(stderr=True).status(clean(text)):
            yield

    def fields(self, rows: Mapping[str, object], width: int = 0) -> None:
        """Names and values for people, in two columns; what is None has no line.

        Args:
            rows: the values by name.
            width: of the names at least, where more of them are told later.
        """
        shown = {name: value for name, value in rows.items() if value is not None}
        width = max((width, *map(len, shown)))
        for name, value in shown.items():
            self.say(f"{name:<{width}}  {value}")

    def table(
        self, head: Sequence[str], rows: Iterable[Sequence[str]], right: Sequence[str] = ()
    ) -> None:
        """A table for people; columns named in `right` hold numbers."""
        if self.as_json:
            return
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
        for name in head:
            table.add_column(name, justify="right" if name in right else "left", overflow="fold")
        for row in rows:
            table.add_row(*(Text(clean(cell)) for cell in row))
        screen = console()
        if screen.is_terminal:
            screen.print(table)
            return
        with screen.capture() as captured:
            screen.print(table)
        for line in captured.get().splitlines():
            _write(line.rstrip())

    def result(self, document: Mapping[str, Any]) -> None:
        """What came of it, for programs."""
        if self.as_json:
            _write(json.dumps(jsonable(document), indent=2, ensure_ascii=False))

    def line(self, document: Mapping[str, Any]) -> None:
        """One of many results, on a line of its own, for programs."""
        if self.as_json:
            _write(json.dumps(jsonable(document), ensure_ascii=False))

    def complain(self, text: str) -> None:
        """Something for people that should not be overlooked."""
        if not self.as_json:
            console(stderr=True).print(clean(text), style="red", markup=False, soft_wrap=True)

    def error(self, error: BaseException, code: int) -> None:
        """What went wrong."""
        text = str(error) or type(error).__name__
        self.complain(text)
        self.line({"error": problem(error, code)})


def problem(error: BaseException, code: int) -> dict[str, Any]:
    """An error for programs: its kind, a sentence, the exit code that it leads to."""
    said = getattr(error, "code", None)
    return {
        "kind": said if isinstance(said, str) else snake(type(error).__name__),
        "message": str(error) or type(error).__name__,
        "exit_code": code,
    }


def snake(name: str) -> str:
    """The name of a class as a word of JSON.

    Example:
        >>> snake("ProfileNotFound")
        'profile_not_found'
    """
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


def clean(text: str) -> str:
    """A text without what would steer a terminal."""
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)


def jsonable(value: Any) -> Any:
    """A value as JSON has it: dataclasses as objects, times as ISO 8601, no NaN."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            field.name: jsonable(getattr(value, field.name)) for field in dataclasses.fields(value)
        }
    if isinstance(value, Mapping):
        return {str(name): jsonable(one) for name, one in value.items()}
    if isinstance(value, (str, bool, int)) or value is None:
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, date):  # and with it datetime
        return value.isoformat()
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:  # a number of NumPy's
        return jsonable(value.item())
    if isinstance(value, Iterable):
        ordered = sorted(value, key=str) if isinstance(value, (set, frozenset)) else value
        return [jsonable(one) for one in ordered]
    return str(value)


def console(*, stderr: bool = False) -> Console:
    """A console of rich; one that is no terminal wraps nothing."""
    from rich.console import Console

    file = sys.stderr if stderr else sys.stdout
    width = None if file.isatty() else 10_000
    return Console(stderr=stderr, highlight=False, width=width)


def _write(text: str) -> None:
    # One write for each line: two processes may write into one file.
    encoding = sys.stdout.encoding or "utf-8"
    sys.stdout.write(text.encode(encoding, "replace").decode(encoding) + "\n")
    sys.stdout.flush()


def reader_gone() -> int:
    """Nobody reads any more: keep Python from complaining of it at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return codes.READER_GONE
