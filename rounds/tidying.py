"""What nobody needs any more, and when it may go."""

from datetime import timedelta

from models_app import blobs
from models_app import selectors as registry
from rounds import clock
from rounds.models import Assignment, Update

# Younger bytes may be those of an upload or a fold that has not reached its row yet.
_ORPHAN_AGE = timedelta(days=1)


def forget_updates(keep_days: int) -> int:
    """Delete the bytes of updates whose round has long ended; what was known of them stays.

    Args:
        keep_days: Counted from the end of the round.

    Returns:
        How many updates were forgotten.
    """
    before = clock.now() - timedelta(days=keep_days)
    old = Update.objects.filter(deleted_at=None, assignment__round__ended_at__lt=before)
    # One that no round has judged yet waits for its run to be resumed.
    old = old.exclude(assignment__state=Assignment.State.UPLOADED)
    forgotten = 0
    for update in old.iterator():
        Update.objects.filter(pk=update.pk).update(deleted_at=clock.now())
        if not _is_named(update.digest):
            blobs.delete(update.digest)
        forgotten += 1
    return forgotten


def delete_orphans() -> int:
    """Delete bytes that no row names: of uploads whose round closed over them, of workers that
    overslept.

    Returns:
        How many blobs were deleted.
    """
    orphans = [digest for digest in blobs.stored(_ORPHAN_AGE) if not _is_named(digest)]
    for digest in orphans:
        blobs.delete(digest)
    return len(orphans)


def _is_named(digest: str) -> bool:
    """Whether a row names these bytes: equal content is one file, whoever sent it."""
    kept = Update.objects.filter(digest=digest, deleted_at=None)
    return kept.exists() or registry.names_blob(digest)
