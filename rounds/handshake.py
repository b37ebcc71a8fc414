"""Whether a participant's software and this server understand each other.

An SDK tells its versions when it enrols and at its first check-in: `version`, `wire`, `python`,
`keras`, `backend`, and `capabilities`, a list of names (`capabilities.py`). Pure functions of what
was told. Who tells nothing is served: a program of
somebody's own has no version of ours, and speaks the wire's first version or fails at it.
"""

import re
from collections.abc import Mapping
from typing import Any

from client_sdk import wire
from rounds.errors import SdkUnsupported

WIRES = (wire.WIRE_VERSION,)  # of the wire format, that this server speaks
# Raised when older ones can no longer be served; within a major version, that is never.
OLDEST_SDK = "0.1"
NEWEST_MAJOR = 0


def check(sdk: Mapping[str, Any]) -> None:
    """Refuse software that would fail later in ways that nobody can read.

    Args:
        sdk: Versions by name, as the SDK tells them.

    Raises:
        SdkUnsupported: It is too old, of a later major version, or speaks another wire format.
    """
    told = sdk.get("version")
    if (version := _version(told)) is not None:
        if version < _oldest():
            raise _refusal(
                f"Expected fedserver[client] {OLDEST_SDK} or later. Received: {told}. "
                "Upgrade it: pip install --upgrade 'fedserver[client]'"
            )
        if version[0] > NEWEST_MAJOR:
            raise _refusal(
                f"Expected fedserver[client] {NEWEST_MAJOR}.x. Received: {told}. "
                "Ask the operator to upgrade the server, or install an older one"
            )
    spoken = sdk.get("wire")
    if spoken is not None and str(spoken) not in map(str, WIRES):
        known = " or ".join(map(str, WIRES))
        raise _refusal(
            f"Expected version {known} of the wire format. Received: {str(spoken)[:20]}. "
            "Participant and server need versions of fedserver that fit"
        )


def _refusal(detail: str) -> SdkUnsupported:
    return SdkUnsupported(detail, field="sdk", wire=list(WIRES), oldest=OLDEST_SDK)


def _oldest() -> tuple[int, int]:
    version = _version(OLDEST_SDK)
    assert version is not None
    return version


def _version(text: Any) -> tuple[int, int] | None:
    """Major and minor; None for what is no version of ours."""
    found = re.match(r"(\d{1,6})\.(\d{1,6})(?![\d])", text) if isinstance(text, str) else None
    return (int(found[1]), int(found[2])) if found else None
