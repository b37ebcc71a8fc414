"""A lease: one worker holds a round while it works on it outside the transaction.

The lease is a token and an expiry in the round's row. It is renewed in the background; a worker
that was killed, or overslept, loses it, and whatever it brings later does not name the lease any
more and is fenced off.
"""

import logging
import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from django.conf import settings
from django.db import connection
from django.db.models import F, Q

from rounds import clock
from rounds.models import Round

logger = logging.getLogger(__name__)

MAX_ATTEMPTS = 5  # leases taken in one phase, before the round is given up


def free() -> Q:
    """The rounds that no worker holds now."""
    return Q(lease="") | Q(lease_expires_at__lt=clock.now())


@contextmanager
def hold(round_id: int, phase: str) -> Iterator[str | None]:
    """Hold a round in a phase, until its deadline at the longest.

    An error in the block is noted in the round as its reason, and the lease is given back, so
    that others may try.

    Yields:
        The lease; None if another worker holds the round, or it was tried too often.
    """
    token = secrets.token_hex(16)
    if not _take(round_id, phase, token):
        yield None
        return
    stop = threading.Event()
    renewal = threading.Thread(target=_renew, args=(round_id, token, stop), daemon=True)
    renewal.start()
    try:
        yield token
    except Exception as error:
        _give_back(round_id, token, error)
        raise
    finally:
        stop.set()
        renewal.join()


def _take(round_id: int, phase: str, token: str) -> bool:
    found = Round.objects.filter(free(), pk=round_id, phase=phase, attempts__lt=MAX_ATTEMPTS)
    return bool(
        found.update(
            lease=token,
            lease_expires_at=clock.now() + timedelta(seconds=settings.LEASE_SECONDS),
            attempts=F("attempts") + 1,
        )
    )


def _renew(round_id: int, token: str, stop: threading.Event) -> None:
    try:
        while not stop.wait(settings.LEASE_SECONDS / 3):
            expires = clock.now() + timedelta(seconds=settings.LEASE_SECONDS)
            in_time = Q(deadline=None) | Q(deadline__gt=clock.now())
            Round.objects.filter(in_time, pk=round_id, lease=token).update(lease_expires_at=expires)
    except Exception:
        # Without renewal the lease runs out, and another worker takes over: that is the design.
        logger.exception("Round %d: the lease was not renewed", round_id)
    finally:
        connection.close()


def _give_back(round_id: int, token: str, error: Exception) -> None:
    Round.objects.filter(pk=round_id, lease=token).update(
        lease="", lease_expires_at=None, reason=f"{type(error).__name__}: {error}"
    )
