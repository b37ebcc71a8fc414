"""How long to wait before the next try."""

from __future__ import annotations

import random


def backoff(tries: int, first: float, longest: float) -> float:
    """Seconds, twice as many after each try that failed; never everybody's at the same moment.

    Args:
        tries: how many have failed before this one.
        first: seconds after the first.
        longest: seconds at most.

    Example:
        >>> 4 <= backoff(3, 1.0, longest=30.0) <= 8, backoff(10**6, 1.0, longest=30.0) <= 30
        (True, True)
    """
    most = min(longest, first * 2.0 ** min(tries, 16))  # 2.0**2000 is no float
    return most * random.uniform(0.5, 1.0)  # noqa: S311 - no secret
