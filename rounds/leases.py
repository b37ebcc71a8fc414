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
from typing import Any

from django.conf import settings
from django.db import connection
from django.db.models import F, Q

from journal import events
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
    _tell(round_id)
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
            mine = Round.objects.filter(in_time, pk=round_id, lease=token)
            if mine.update(lease_expires_at=expires):
                _tell(round_id)
    except Exception:
        # Without renewal the lease runs out, and another worker takes over: that is the design.
        logger.exception("Round %d: the lease was not renewed", round_id)
    finally:
        connection.close()


def _give_back(round_id: int, token: str, error: Exception) -> None:
    reason = f"{type(error).__name__}: {error}"
    with events.transaction() as journal:
        held = Round.objects.filter(pk=round_id, lease=token)
        if held.update(lease="", lease_expires_at=None, reason=reason):
            round_ = Round.objects.get(pk=round_id)
            journal.record("round.stumbled", reason=reason, **_work(round_))


def _tell(round_id: int) -> None:
    """Let those who watch know that a worker holds the round, and until when."""
    round_ = Round.objects.get(pk=round_id)
    if round_.lease_expires_at is not None:
        expires = round_.lease_expires_at.isoformat()
        events.hint("round.taken", **_work(round_), expires_at=expires)


def _work(round_: Round) -> dict[str, Any]:
    """What a worker works at, in the words of the journal."""
    return {
        "run": round_.run_id,
        "round": round_.pk,
        "number": round_.number,
        "phase": round_.phase,
        "attempts": round_.attempts,
    }
