"""How often somebody may try to sign in: so many times in a while, by address and by name.

An attempt counts before its password is looked at, so that many at once do not get past; a good
one is given back. The counters lie in the cache, and where that is away everybody may try: an
operator has to get in when the broker is down.

Whoever likes can use up a name's attempts, from anywhere. So that this shuts nobody out, a browser
in which somebody has signed in as this name before has attempts of its own.
"""

import hashlib
import logging
import math
import time
from collections.abc import Iterable

import redis
from django.core.cache import cache

logger = logging.getLogger(__name__)

WHILE = 600  # seconds
MOST = {
    "name": 10,
    "address": 30,
    "browser": 10,
}  # attempts in a while; an address may be a whole school's


def attempt(name: str, address: str, browser: str = "") -> int:
    """Count an attempt.

    Args:
        name: As whom somebody tries to sign in.
        address: From where.
        browser: Which one, if somebody has signed in there as this name before.

    Returns:
        How many seconds to wait before the next one; 0: try.
    """
    try:
        return max(_count(kind, value) for kind, value in _counters(name, address, browser))
    except redis.RedisError as error:
        logger.warning("Attempts to sign in are not counted: %s", error)
        return 0


def forgive(name: str, address: str, browser: str = "") -> None:
    """Forget the attempts as this name, and one from this address: the password was right.

    Those of a browser that is known were counted for it alone.
    """
    try:
        if browser:
            cache.delete(_key("browser", browser))
            return
        cache.delete(_key("name", name.casefold()))
        key = _key("address", address)
        if cache.get(key):
            cache.decr(key)
    except (redis.RedisError, ValueError):
        return  # away, or its while has just ended


def _counters(name: str, address: str, browser: str) -> Iterable[tuple[str, str]]:
    if browser:
        return (("browser", browser),)
    return (("name", name.casefold()), ("address", address))


def _count(kind: str, value: str) -> int:
    key, now = _key(kind, value), time.time()
    if cache.add(key, 0, WHILE):
        cache.set(f"{key}:until", now + WHILE, WHILE)
    try:
        count = cache.incr(key)
    except ValueError:  # its while ended just now
        return 0
    until = cache.get(f"{key}:until") or now + WHILE
    return math.ceil(max(until - now, 1)) if count > MOST[kind] else 0


def _key(kind: str, value: str) -> str:
    """Names may be as long and odd as one likes; what is kept of them is not."""
    return f"sign-in:{kind}:{hashlib.sha256(value.encode()).hexdigest()}"
