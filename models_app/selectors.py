"""Every read of the registry."""

from typing import Any

import numpy as np
from django.db.models import Count, Prefetch, Q, QuerySet

from client_sdk import wire
from models_app import blobs
from models_app.errors import ModelNotFound, VersionNotFound
from models_app.models import Model, ModelVersion

_HEAVY = ("architecture", "weights_manifest")  # megabytes for large models


def models() -> QuerySet[Model]:
    """All models for a list: how many versions each has, and in `serving` the one it serves."""
    published = ModelVersion.objects.filter(stage=ModelVersion.Stage.PUBLISHED)
    published = published.defer("confusion")
    serving = Prefetch("versions", queryset=published, to_attr="serving")
    counted = Model.objects.defer(*_HEAVY).annotate(version_count=Count("versions"))
    return counted.prefetch_related(serving).order_by("slug")


def model(slug: str) -> Model:
    """The model with this slug.

    Raises:
        ModelNotFound: There is none.
    """
    found = Model.objects.filter(slug=slug).first()
    if found is None:
        raise ModelNotFound(f"Expected the slug of a model. Received: {slug}")
    return found


def versions(slug: str) -> QuerySet[ModelVersion]:
    """The versions of a model, newest first, without their confusion matrices."""
    return _versions(slug).defer("confusion", "parent__confusion")


def _versions(slug: str) -> QuerySet[ModelVersion]:
    light = [f"model__{name}" for name in _HEAVY]
    rows = ModelVersion.objects.select_related("model", "parent").defer(*light)
    return rows.filter(model__slug=slug).order_by("-number")


def version(slug: str, number: str | int) -> ModelVersion:
    """A version by its number, or the one that is `published`.

    Raises:
        VersionNotFound: There is none.
    """
    rows = _versions(slug)
    if number == "published":
        found = rows.filter(stage=ModelVersion.Stage.PUBLISHED).first()
    else:
        found = rows.filter(number=number).first() if _is_number(number) else None
    if found is None:
        detail = f"Expected a version of {slug}, a number or `published`. Received: {number}"
        raise VersionNotFound(detail)
    return found


def names_blob(sha256: str) -> bool:
    """Whether any row of the registry names a blob, as weights, state or evaluation set."""
    versions = Q(weights=sha256) | Q(fixed=sha256) | Q(strategy_state=sha256)
    return (
        ModelVersion.objects.filter(versions).exists()
        or Model.objects.filter(evaluation_set=sha256).exists()
    )


def is_version_blob(sha256: str, slug: str | None = None) -> bool:
    """Whether a blob is the weights of some version, and so may be handed out.

    Args:
        sha256: The blob's digest.
        slug: The only model that counts; None for all.
    """
    rows = ModelVersion.objects.all() if slug is None else versions(slug)
    return rows.filter(weights=sha256).exists() or rows.filter(fixed=sha256).exists()


def tensors(version: ModelVersion) -> dict[str, np.ndarray]:
    """All tensors of a version in manifest order, mapped from the store."""
    model = version.model
    found = wire.open_tensors(blobs.path(version.weights), model.federated)
    if version.fixed:
        found |= wire.open_tensors(blobs.path(version.fixed), model.fixed)
    return {weight.name: found[weight.name] for weight in model.weights}


def opening_options(model: Model) -> dict[str, Any]:
    """How `packages.open_package` has to open further weights of a model."""
    return {
        "evaluation": blobs.path(model.evaluation_set) if model.evaluation_set else None,
        "loss": model.objective["loss"],
        "scale": model.input_spec["scale"],
        "offset": model.input_spec["offset"],
    }


def _is_number(text: str | int) -> bool:
    return isinstance(text, int) or (text.isascii() and text.isdecimal() and len(text) < 10)
