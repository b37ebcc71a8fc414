"""Bytes go when nobody needs them any more, and not before."""

import os
import time
from collections.abc import Callable
from datetime import timedelta

import pytest

from models_app import blobs
from models_app.errors import BlobMissing
from models_app.models import Model
from rounds import clock, lifecycle, tasks, tidying
from rounds.models import Round, Update
from tests.rounds.conftest import Enrolled
from tests.rounds.updates import all_check_in, carry, served_weights, upload

pytestmark = pytest.mark.django_db

Enrol = Callable[..., Enrolled]
DAY = 86_400


def published(model: Model, *everyone: Enrolled) -> Round:
    round_ = lifecycle.start_run(lifecycle.create_run(model, rounds_planned=1).pk)
    all_check_in(*everyone)
    for one in everyone:
        upload(one)
    return carry(round_)


def ended(round_: Round, *, days_ago: float) -> None:
    Round.objects.filter(pk=round_.pk).update(ended_at=clock.now() - timedelta(days=days_ago))


def stored(*, days_ago: float) -> str:
    """Bytes that no row names."""
    digest = blobs.put(os.urandom(100)).sha256
    then = time.time() - days_ago * DAY
    os.utime(blobs.path(digest), (then, then))
    return digest


def test_updates_are_forgotten_some_days_after_their_round_and_their_rows_stay(
    tiny_model: Model, enrolled: Enrol
) -> None:
    round_ = published(tiny_model, enrolled("charlie"), enrolled("dora"))
    ended(round_, days_ago=6)
    assert tidying.forget_updates(7) == 0
    ended(round_, days_ago=8)
    assert tidying.forget_updates(7) == 2
    assert tidying.forget_updates(7) == 0
    update = Update.objects.first()
    assert update is not None
    assert update.deleted_at is not None
    with pytest.raises(BlobMissing):
        blobs.path(update.digest)
    assert served_weights(tiny_model)[0] == 2.0


def test_equal_updates_share_their_bytes_until_the_last_of_them_goes(
    tiny_model: Model, enrolled: Enrol
) -> None:
    everyone = enrolled("charlie"), enrolled("dora")
    old, new = published(tiny_model, *everyone), published(tiny_model, *everyone)
    (digest,) = set(Update.objects.values_list("digest", flat=True))
    ended(old, days_ago=8)
    assert tidying.forget_updates(7) == 2
    assert blobs.exists(digest)
    ended(new, days_ago=8)
    assert tidying.forget_updates(7) == 2
    assert not blobs.exists(digest)


def test_bytes_that_no_row_names_are_deleted_once_they_are_old(
    tiny_model: Model, enrolled: Enrol
) -> None:
    published(tiny_model, enrolled("charlie"), enrolled("dora"))
    for digest in blobs.stored(timedelta(seconds=-1)):
        then = time.time() - 3 * DAY
        os.utime(blobs.path(digest), (then, then))
    old, young = stored(days_ago=2), stored(days_ago=0.5)
    tidying.delete_orphans()
    assert not blobs.exists(old)
    assert blobs.exists(young)
    assert served_weights(tiny_model)[0] == 2.0
    assert all(blobs.exists(update.digest) for update in Update.objects.all())


def test_bytes_that_are_stored_again_are_young_again(db: None) -> None:
    data = os.urandom(100)
    digest = blobs.put(data).sha256
    os.utime(blobs.path(digest), (0, 0))
    blobs.put(data)
    tidying.delete_orphans()
    assert blobs.exists(digest)


def test_the_beat_tidies(db: None) -> None:
    old = stored(days_ago=2)
    tasks.tidy()
    assert not blobs.exists(old)
