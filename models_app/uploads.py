"""Files that a browser or a script sent, as the paths that opening needs."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from django.core.files.uploadedfile import TemporaryUploadedFile, UploadedFile

from models_app import blobs, packages
from models_app.packages import Package


@contextmanager
def opened(files: Mapping[str, UploadedFile | None], **options: Any) -> Iterator[Package]:
    """Open an uploaded model.

    Args:
        files: By the names of `packages.open_package`'s paths.
        **options: Its other arguments.

    Yields:
        The opened package; it and the files are gone afterwards.
    """
    with ExitStack() as stack:
        for name, upload in files.items():
            options[name] = stack.enter_context(_on_disk(upload)) if upload else None
        yield stack.enter_context(packages.open_package(**options))


@contextmanager
def _on_disk(upload: UploadedFile) -> Iterator[Path]:
    if isinstance(upload, TemporaryUploadedFile):
        yield Path(upload.temporary_file_path())
        return
    path = blobs.new_spool_file()
    try:
        with path.open("wb") as file:
            for chunk in upload.chunks():
                file.write(chunk)
        yield path
    finally:
        path.unlink(missing_ok=True)
