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
    return codes.NotInstalled(f"Expected {module}: pip install 'fedserver[client]'. Received: none")


def _failed(out: Output, error: BaseException) -> int:
    code = codes.exit_code(error)
    out.error(error, code)
    return code


def _command(does: str) -> Command:
    module, _, function = does.partition(":")
    command: Command = getattr(import_module(f"client_sdk.cli.{module}"), function)
    return command


def _log(options: argparse.Namespace) -> None:
    """Logging for people: warnings, or each step with --verbose."""
    level = logging.DEBUG if options.verbose else logging.WARNING
    logging.basicConfig(
        level=level,
        stream=sys.stderr,
        format="%(asctime)s %(name)s %(message)s" if options.verbose else "%(message)s",
    )
    # httpx writes whole addresses into its log; ours says what matters.
    for name in ("httpx", "httpcore", "websockets", "asyncio", "PIL", "matplotlib"):
        logging.getLogger(name).setLevel(logging.WARNING)
    if not options.verbose:  # what of TensorFlow heeds it need not be filtered
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
