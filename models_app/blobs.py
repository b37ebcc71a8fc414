"""Content-addressed files: written once, named by their SHA-256, never changed.

A file is written into the spool, fsynced, and renamed into the store; the folder is fsynced too.
So a name that exists names whole content, whatever was killed on the way, and a row may name a
blob as soon as `put` or `put_file` has returned.

With `BLOBS_URL` the store is a bucket: a file counts as stored once the bucket has it, and the
folder in `FEDSERVER_HOME` is a cache in front of it. boto3 is imported only then.
"""

import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from pathlib import Path
from time import time
from typing import Any
from urllib.parse import urlsplit

from django.conf import settings

from models_app.errors import BlobCorrupt, BlobMissing

_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Blob:
    """What a stored file is called and how long it is."""

    sha256: str
    bytes: int


def put_file(path: Path, sha256: str = "") -> Blob:
    """Move a spooled file into the store.

    Args:
        path: A file from `new_spool_file`; it is gone afterwards.
        sha256: Its digest where the caller took it while writing; else it is read once more.

    Returns:
        The blob, durable.
    """
    _fsync(path)
    blob = Blob(sha256 or digest_file(path), path.stat().st_size)
    if _bucket():
        _upload(path, blob)
    _adopt(path, blob.sha256)
    return blob


def put(data: bytes) -> Blob:
    """Store some bytes."""
    spooled = new_spool_file()
    spooled.write_bytes(data)
    return put_file(spooled, hashlib.sha256(data).hexdigest())


def path(sha256: str) -> Path:
    """A local file with the blob's content, fetched from the bucket where need be.

    Raises:
        BlobMissing: No blob has this digest.
        BlobCorrupt: The bucket holds other bytes under this name.
    """
    local = _local(sha256)
    if not local.exists():
        if not _bucket():
            raise BlobMissing(f"Expected the digest of a stored blob. Received: {sha256}")
        _adopt(_download(sha256), sha256)
    return local


def exists(sha256: str) -> bool:
    """Whether a blob is stored."""
    return _local(sha256).exists() or (bool(_bucket()) and _in_bucket(sha256))


def delete(sha256: str) -> None:
    """Forget a blob that no row names any more; one that is not there is no error."""
    _local(sha256).unlink(missing_ok=True)
    if _bucket():
        client, bucket, key = _s3(sha256)
        client.delete_object(Bucket=bucket, Key=key)


def new_spool_file() -> Path:
    """A new empty file on the store's own file system, to be written and then `put_file`d."""
    descriptor, name = tempfile.mkstemp(dir=_folder("spool"))
    os.close(descriptor)
    return Path(name)


def sweep_spool(older_than: timedelta = timedelta(days=1)) -> int:
    """Delete what killed processes left in the spool.

    Args:
        older_than: Files and folders written to more recently are someone's work and stay.

    Returns:
        How many were deleted.
    """
    limit = time() - older_than.total_seconds()
    stale = [entry for entry in _folder("spool").iterdir() if entry.lstat().st_mtime < limit]
    for entry in stale:
        if entry.is_dir():
            shutil.rmtree(entry, ignore_errors=True)
        else:
            entry.unlink(missing_ok=True)
    return len(stale)


def stored(older_than: timedelta) -> Iterator[str]:
    """The digests of the blobs in the local folder that were last stored some time ago."""
    limit = time() - older_than.total_seconds()
    for file in _folder("blobs").glob("??/*"):
        if file.stat().st_mtime < limit:
            yield file.name


def digest_file(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _folder(name: str) -> Path:
    folder = Path(settings.FEDSERVER_HOME) / name
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _local(sha256: str) -> Path:
    # Digests come in over HTTP: one that is not sixty-four hex digits must not become a path.
    if not _SHA256.fullmatch(sha256):
        raise BlobMissing(f"Expected a SHA-256 in hexadecimal. Received: {sha256[:80]!r}")
    return Path(settings.FEDSERVER_HOME) / "blobs" / sha256[:2] / sha256


def _adopt(spooled: Path, sha256: str) -> None:
    target = _local(sha256)
    if not target.parent.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        _fsync(target.parent.parent)
    spooled.chmod(0o444)
    os.utime(spooled)  # stored now: what is stored again is young again
    os.replace(spooled, target)
    _fsync(target.parent)


def _fsync(path: Path) -> None:
    if not settings.DURABLE:
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _bucket() -> str:
    return settings.BLOBS_URL


@cache
def _client(endpoint: str, process: int) -> Any:
    # One for each process: a client's connections must not be shared across a fork.
    import boto3

    return boto3.session.Session().client("s3", endpoint_url=endpoint or None)


def _s3(sha256: str) -> tuple[Any, str, str]:
    url = urlsplit(_bucket())
    client = _client(settings.BLOBS_ENDPOINT, os.getpid())
    return client, url.netloc, f"{url.path.strip('/')}/{sha256[:2]}/{sha256}".lstrip("/")


def _upload(path: Path, blob: Blob) -> None:
    if not _in_bucket(blob.sha256):
        client, bucket, key = _s3(blob.sha256)
        client.upload_file(str(path), bucket, key)


def _in_bucket(sha256: str) -> bool:
    from botocore.exceptions import ClientError

    client, bucket, key = _s3(sha256)
    try:
        client.head_object(Bucket=bucket, Key=key)
    except ClientError as error:
        if error.response["Error"]["Code"] in ("404", "NoSuchKey"):
            return False
        raise
    return True


def _download(sha256: str) -> Path:
    if not _in_bucket(sha256):
        raise BlobMissing(f"Expected the digest of a stored blob. Received: {sha256}")
    client, bucket, key = _s3(sha256)
    spooled = new_spool_file()
    client.download_file(bucket, key, str(spooled))
    if (found := digest_file(spooled)) != sha256:
        spooled.unlink()
        raise BlobCorrupt(f"Expected bytes with the digest {sha256}. Received: {found}")
    _fsync(spooled)
    return spooled
