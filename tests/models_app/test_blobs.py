"""Files named by their content: written whole, found again, never half there."""

import hashlib
import os
from datetime import timedelta
from pathlib import Path

import pytest

from models_app import blobs
from models_app.blobs import Blob
from models_app.errors import BlobMissing


@pytest.fixture(autouse=True)
def _home(settings: object, tmp_path: Path) -> None:
    settings.FEDSERVER_HOME = tmp_path  # type: ignore[attr-defined]


def test_a_blob_is_called_by_its_digest_and_can_be_read_again() -> None:
    blob = blobs.put(b"weights")
    assert blob == Blob(hashlib.sha256(b"weights").hexdigest(), 7)
    assert blobs.path(blob.sha256).read_bytes() == b"weights"
    assert blobs.exists(blob.sha256)


def test_a_spooled_file_moves_into_the_store_and_leaves_the_spool() -> None:
    spooled = blobs.new_spool_file()
    spooled.write_bytes(b"many weights")
    blob = blobs.put_file(spooled)
    assert not spooled.exists()
    assert blobs.path(blob.sha256).read_bytes() == b"many weights"


def test_the_same_bytes_twice_are_one_blob() -> None:
    assert blobs.put(b"same") == blobs.put(b"same")


def test_a_stored_blob_cannot_be_written_to_by_accident() -> None:
    assert blobs.path(blobs.put(b"kept").sha256).stat().st_mode & 0o222 == 0


def test_a_digest_that_nobody_stored_is_missing() -> None:
    nobody = "0" * 64
    assert not blobs.exists(nobody)
    with pytest.raises(BlobMissing, match=f"Received: {nobody}"):
        blobs.path(nobody)


@pytest.mark.parametrize("name", ["", "..", "../../etc/passwd", "A" * 64, "0" * 63, "0" * 65])
def test_a_name_that_is_no_digest_never_becomes_a_path(name: str) -> None:
    with pytest.raises(BlobMissing, match="SHA-256"):
        blobs.path(name)


def test_a_deleted_blob_is_gone_and_deleting_it_again_is_no_error() -> None:
    blob = blobs.put(b"an update that was folded")
    blobs.delete(blob.sha256)
    blobs.delete(blob.sha256)
    assert not blobs.exists(blob.sha256)


def test_the_sweep_takes_what_was_left_behind_and_spares_what_is_being_written() -> None:
    left, written = blobs.new_spool_file(), blobs.new_spool_file()
    folder = left.parent / "opening-x"
    folder.mkdir()
    for entry in (left, folder):
        os.utime(entry, (0, 0))
    assert blobs.sweep_spool(older_than=timedelta(hours=1)) == 2
    assert not left.exists()
    assert not folder.exists()
    assert written.exists()
