"""From the words that were typed to an exit code."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module

from client_sdk import errors
from client_sdk.cli import codes
from client_sdk.cli.output import Output, reader_gone
from client_sdk.cli.parser import parser
from client_sdk.cli.quiet import quiet

_REMEMBERED = 10_000  # warnings
_WITH_KERAS = ("taking_part:train", "predicting:predict", "labelling:photos")

Command = Callable[[argparse.Namespace, Output], int]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; answers with its exit code.

    Args:
        arguments: as on the command line, without the program's name; its own when None.
    """
    options = parser().parse_args(arguments)
    _log(options)
    out = Output(as_json=options.as_json)
    try:
        with quiet(unless=options.verbose or options.does not in _WITH_KERAS):
            return _command(options.does)(options, out)
    except errors.ParticipantError as error:
        return _failed(out, error)
    except KeyboardInterrupt:
        out.line({"error": {"kind": "interrupted", "message": "interrupted", "exit_code": 130}})
        return codes.INTERRUPTED
    except BrokenPipeError:
        return reader_gone()
    except ImportError as error:
        if str(error).startswith("Expected "):  # ours, and says what to install
            return _failed(out, codes.NotInstalled(str(error)))
        if (error.name or "").partition(".")[0] not in _EXTRAS:
            raise
        return _failed(out, _not_installed(error.name or ""))
    except OSError as error:
        return _failed(out, error)


# What the extra `client` installs, by the names of its modules.
_EXTRAS = ("PIL", "jax", "keras", "starlette", "tensorflow", "uvicorn")


def _not_installed(module: str) -> codes.NotInstalled:
    name = "Pillow" if module == "PIL" else module
    return codes.NotInstalled(f"Expected {name}: pip install 'fedserver[client]'. Received: none")


def _failed(out: Output, error: BaseException) -> int:
    code = codes.exit_code(error)
    out.error(error, code)
    return code


def _command(does: str) -> Command:
    module, _, function = does.partition(":")
    command: Command = getattr(import_module(f"client_sdk.cli.{module}"), function)
    return command


class Once(logging.Filter):
    """Lets a warning through once: a broken image is met again in every round."""

    def __init__(self) -> None:
        super().__init__()
        self._said: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether to say it."""
        text = record.getMessage()
        known = text in self._said
        if len(self._said) < _REMEMBERED:
            self._said.add(text)
        return not known


def _log(options: argparse.Namespace) -> None:
    """Logging for people: each warning once, or each step with --verbose."""
    root = logging.getLogger()
    if not root.handlers:  # who calls `main` from a program of their own may have some
        handler = logging.StreamHandler(sys.stderr)
        if options.verbose:
            handler.setFormatter(logging.Formatter("%(asctime)s %(name)s %(message)s"))
        else:
            handler.addFilter(Once())
        root.addHandler(handler)
        root.setLevel(logging.DEBUG if options.verbose else logging.WARNING)
    # httpx writes whole addresses into its log; ours says what matters.
    for name in ("httpx", "httpcore", "websockets", "asyncio", "PIL", "matplotlib"):
        logging.getLogger(name).setLevel(logging.WARNING)
    if not options.verbose:  # what of TensorFlow heeds it need not be filtered
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
