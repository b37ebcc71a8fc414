"""fedclient: the command line of a participant.

    codes.py       exit codes, and which error leads to which
    parser.py      every command and option; imports nothing that takes time
    program.py     from the words that were typed to an exit code
    output.py      lines for people, JSON for programs
    quiet.py       standard error without the chatter of libraries
    joining.py     join, status, profiles, rotate-key, leave
    diagnosis.py   test
    taking_part.py train
    watching.py    data that are read anew when they have changed
    predicting.py  predict
    records.py     log, limits
    labelling.py   photos
    completion.py  completion

A command's module is imported when the command is given: `fedclient --help` answers at once, and
works where Keras is not installed.
"""

from client_sdk.cli.codes import (
    BAD_DATA,
    DISTRUSTED,
    FAILED,
    INTERRUPTED,
    MISSING,
    NO_PROFILE,
    OK,
    REFUSED,
    UNREACHABLE,
    USAGE,
    VERSIONS,
)
from client_sdk.cli.parser import parser
from client_sdk.cli.program import main

__all__ = [
    "BAD_DATA",
    "DISTRUSTED",
    "FAILED",
    "INTERRUPTED",
    "MISSING",
    "NO_PROFILE",
    "OK",
    "REFUSED",
    "UNREACHABLE",
    "USAGE",
    "VERSIONS",
    "main",
    "parser",
]
