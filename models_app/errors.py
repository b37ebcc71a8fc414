"""The errors that people and programs meet; each becomes a problem document with its `code`.

FedserverError
├── BlobMissing              blob_missing         404
├── BlobCorrupt              blob_corrupt         500
├── RegistryError
│   ├── ModelNotFound        model_not_found      404
│   ├── VersionNotFound      version_not_found    404
│   ├── SlugTaken            slug_taken           409
│   ├── WrongStage           wrong_stage          409
│   ├── StaleBase            stale_base           409
│   ├── InvalidModel         model_invalid        422   (slug, labels, roles, metrics)
│   ├── NonFinite            non_finite           422
│   ├── NothingToMeasureOn   nothing_to_measure   409
│   └── PackageRefused       package_refused      422
│       ├── PackageTooLarge  package_too_large    413
│       └── OpeningBusy      opening_busy         503
└── TryRefused               try_refused          422   (a photo or a row that nobody can answer)
    ├── TryTooLarge          photo_too_large      413
    ├── TryUnsupported       photo_unsupported    415
    ├── TryUnanswered        try_unanswered       503   (no worker)
    └── TryBusy              try_busy             503

`rounds.errors` hangs its own tree below FedserverError.
"""

from typing import Any


class FedserverError(Exception):
    """What went wrong, in a form that one handler turns into an RFC 9457 problem document.

    Args:
        detail: What was expected, ending with `Received: …` where something was received.
        field: The field of the request that is at fault, if one is.
        **extra: Further members of the problem document, JSON values.
    """

    code = "error"
    status = 400
    title = "The request cannot be served"

    def __init__(self, detail: str, *, field: str | None = None, **extra: Any) -> None:
        super().__init__(detail)
        self.detail = detail
        self.field = field
        self.extra = extra


class BlobMissing(FedserverError):
    code = "blob_missing"
    status = 404
    title = "There is no such blob"


class BlobCorrupt(FedserverError):
    code = "blob_corrupt"
    status = 500
    title = "A blob does not hold what its digest says"


class RegistryError(FedserverError):
    code = "registry_error"
    title = "The registry refused this"


class ModelNotFound(RegistryError):
    code = "model_not_found"
    status = 404
    title = "There is no such model"


class VersionNotFound(RegistryError):
    code = "version_not_found"
    status = 404
    title = "There is no such version"


class SlugTaken(RegistryError):
    code = "slug_taken"
    status = 409
    title = "A model with this slug exists"


class WrongStage(RegistryError):
    code = "wrong_stage"
    status = 409
    title = "The version's stage does not allow this"


class StaleBase(RegistryError):
    code = "stale_base"
    status = 409
    title = "Another version is served by now"


class InvalidModel(RegistryError):
    code = "model_invalid"
    status = 422
    title = "The model cannot be created like this"


class NonFinite(RegistryError):
    code = "non_finite"
    status = 422
    title = "NaN or infinity where a number was expected"


class NothingToMeasureOn(RegistryError):
    code = "nothing_to_measure"
    status = 409
    title = "The model has no evaluation set"


class PackageRefused(RegistryError):
    code = "package_refused"
    status = 422
    title = "The model file was refused"


class PackageTooLarge(PackageRefused):
    code = "package_too_large"
    status = 413
    title = "The model file is too large"


class OpeningBusy(PackageRefused):
    code = "opening_busy"
    status = 503
    title = "Another model file is being opened"


class TryRefused(FedserverError):
    code = "try_refused"
    status = 422
    title = "This cannot be tried"


class TryTooLarge(TryRefused):
    code = "photo_too_large"
    status = 413
    title = "The photo is too large"


class TryUnsupported(TryRefused):
    code = "photo_unsupported"
    status = 415
    title = "This is no photo that can be opened"


class TryUnanswered(TryRefused):
    code = "try_unanswered"
    status = 503
    title = "No worker answered"


class TryBusy(TryRefused):
    code = "try_busy"
    status = 503
    title = "Too many photos are waiting"
