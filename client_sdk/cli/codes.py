"""Exit codes: what each means, and which error leads to which."""

from __future__ import annotations

from typing import Final

from client_sdk import errors

OK: Final = 0
FAILED: Final = 1
USAGE: Final = 2
REFUSED: Final = 3
UNREACHABLE: Final = 4
NO_PROFILE: Final = 5
BAD_DATA: Final = 6
DISTRUSTED: Final = 7
MISSING: Final = 8
VERSIONS: Final = 9
INTERRUPTED: Final = 130
READER_GONE: Final = 141

MEANINGS: Final = {
    OK: "done",
    FAILED: "failed: see the message",
    USAGE: "wrong usage",
    REFUSED: "the server refused: join code, key, suspended or revoked",
    UNREACHABLE: "the server cannot be reached, or its certificate is not trusted",
    NO_PROFILE: "no such profile, or it exists already, or another process uses it",
    BAD_DATA: "data or photos that cannot be read",
    DISTRUSTED: "the server sent something that cannot be trusted",
    MISSING: "something is not installed: pip install 'fedserver[client]'",
    VERSIONS: "this version and the server's do not understand each other",
    INTERRUPTED: "interrupted (Ctrl-C, SIGTERM); the assignment was given back",
    READER_GONE: "who read the output has gone (`fedclient log | head`)",
}


class DataUnreadable(errors.ParticipantError):
    """The data given cannot be used."""


class UsageError(errors.ParticipantError):
    """The words that were typed make no sense together."""


class NotInstalled(errors.ParticipantError):
    """A part that this command needs is not installed."""


# The first that fits counts. By name those that other modules define: importing these would cost
# what they import.
_BY_NAME: Final = {
    "DataUnreadable": BAD_DATA,
    "TrainingDataRefused": BAD_DATA,
    "PhotoRefused": BAD_DATA,
    "VersionRefused": VERSIONS,
    "NotInstalled": MISSING,
    "UsageError": USAGE,
}
_BY_CODE: Final = {"sdk_unsupported": VERSIONS}
_BY_ERROR: Final[tuple[tuple[type[BaseException], int], ...]] = (
    (errors.ServerRefused, REFUSED),
    (errors.ServerUnreachable, UNREACHABLE),
    (errors.ProfileError, NO_PROFILE),
    (errors.AddressRefused, USAGE),
    (errors.ServerDistrusted, DISTRUSTED),
    (ImportError, MISSING),
)


def exit_code(error: BaseException) -> int:
    """The exit code that an error leads to."""
    if isinstance(error, errors.TrainingFailed) and error.__cause__ is not None:
        cause = exit_code(getattr(error.__cause__, "error", error.__cause__))
        return BAD_DATA if cause == BAD_DATA else FAILED
    if getattr(error, "code", None) in _BY_CODE:
        return _BY_CODE[error.code]  # type: ignore[attr-defined]
    for kind in type(error).__mro__:
        if kind.__name__ in _BY_NAME:
            return _BY_NAME[kind.__name__]
    return next((code for kind, code in _BY_ERROR if isinstance(error, kind)), FAILED)


def told() -> str:
    """The table of exit codes, for --help."""
    lines = (f"{code:>5}  {meaning}" for code, meaning in MEANINGS.items())
    return "exit codes:\n" + "\n".join(lines)
