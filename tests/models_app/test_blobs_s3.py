"""The same store in a bucket, against a real HTTP server that speaks S3."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto.server import ThreadedMotoServer

from models_app import blobs
from models_app.errors import BlobCorrupt, BlobMissing


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(
    endpoint: str, settings: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Any]:
    """The bucket `fed`, which the settings name with the prefix `blobs`."""
    for name, value in (("ACCESS_KEY_ID", "alice"), ("SECRET_ACCESS_KEY", "secret")):
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    settings.BLOBS_URL, settings.BLOBS_ENDPOINT = "s3://fed/blobs", endpoint
    settings.FEDSERVER_HOME = tmp_path
    blobs._client.cache_clear()
    bucket = boto3.resource("s3", endpoint_url=endpoint).Bucket("fed")
    bucket.create()
    yield bucket
    bucket.objects.delete()
    bucket.delete()


def key(data: bytes) -> str:
    digest = hashlib.sha256(data).hexdigest()
    return f"blobs/{digest[:2]}/{digest}"


def test_a_blob_is_in_the_bucket_once_put_returns(bucket: Any) -> None:
    blobs.put(b"weights")
    assert bucket.Object(key(b"weights")).get()["Body"].read() == b"weights"


def test_a_machine_that_does_not_have_a_blob_fetches_it(
    bucket: Any, settings: Any, tmp_path: Path
) -> None:
    blob = blobs.put(b"weights")
    settings.FEDSERVER_HOME = tmp_path / "another machine"
    assert blobs.exists(blob.sha256)
    assert blobs.path(blob.sha256).read_bytes() == b"weights"


def test_a_fetched_blob_is_fetched_once(bucket: Any, settings: Any, tmp_path: Path) -> None:
    blob = blobs.put(b"weights")
    settings.FEDSERVER_HOME = tmp_path / "another machine"
    blobs.path(blob.sha256)
    bucket.Object(key(b"weights")).delete()
    assert blobs.path(blob.sha256).read_bytes() == b"weights"


def test_other_bytes_under_a_digest_are_refused(bucket: Any) -> None:
    bucket.put_object(Key=key(b"weights"), Body=b"poison")
    with pytest.raises(BlobCorrupt, match="Received"):
        blobs.path(hashlib.sha256(b"weights").hexdigest())


def test_a_digest_that_nobody_stored_is_missing(bucket: Any) -> None:
    assert not blobs.exists("0" * 64)
    with pytest.raises(BlobMissing):
        blobs.path("0" * 64)


def test_a_deleted_blob_leaves_the_bucket(bucket: Any) -> None:
    blob = blobs.put(b"an update that was folded")
    blobs.delete(blob.sha256)
    assert not blobs.exists(blob.sha256)
    assert not list(bucket.objects.all())
