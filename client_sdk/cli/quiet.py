"""Standard error without the chatter of libraries.

TensorFlow tells, at its start and in spite of its own settings, of processors and of rounding, by
writing to file 2 from C++. In the middle of bars that is a mess, and it is no use to who looks
after the machine. So file 2 becomes a pipe, and what comes through it is passed on line by line
but for these lines. --verbose leaves everything as it is.
"""

from __future__ import annotations

import io
import os
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

# Informations and warnings of absl and TensorFlow; errors and what is fatal pass.
_CHATTER = re.compile(
    r"WARNING: All log messages before absl::InitializeLog"
    r"|[IW]\d{4} \d\d[\d:. ]+ *\d+ [\w./-]+:\d+\]"
    r"|\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d+: [IW] (tensorflow|external)/"
    r"|To enable the following instructions: .* rebuild TensorFlow"
)
_ERRORS = 2  # the number of the file


@contextmanager
def quiet(*, unless: bool = False) -> Iterator[None]:
    """Pass standard error on without chatter, until the block ends.

    Args:
        unless: leave it as it is.
    """
    if unless or not _is_plain():
        yield
        return
    theirs = sys.stderr
    real = os.dup(_ERRORS)
    reading, writing = os.pipe()
    sys.stderr = open(real, "w", buffering=1, encoding=theirs.encoding, errors="replace")  # noqa: SIM115
    passing = threading.Thread(target=_pass_on, args=(reading,), daemon=True)
    passing.start()
    os.dup2(writing, _ERRORS)
    os.close(writing)
    try:
        yield
    finally:
        os.dup2(real, _ERRORS)  # and with that the last writer of the pipe is gone
        passing.join(2.0)
        mine, sys.stderr = sys.stderr, theirs
        mine.flush()


def _is_plain() -> bool:
    """Whether standard error is file 2, and nobody has put something else in its place."""
    try:
        return sys.stderr.fileno() == _ERRORS
    except (AttributeError, OSError, ValueError, io.UnsupportedOperation):
        return False


def _pass_on(reading: int) -> None:
    with open(reading, encoding="utf-8", errors="replace") as lines:
        for line in lines:
            if not _CHATTER.match(line):
                # Looked up each time: while bars are drawn it prints above them.
                sys.stderr.write(line)
                sys.stderr.flush()
