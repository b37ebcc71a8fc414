"""The registry's verbs: the only writer of a version's stage.

    create_model      version 1 enters and is published at once, for a model serves something
    import_version    weights trained elsewhere enter as a candidate
    add_candidate     weights that a round made enter as a candidate
    record_metrics    an evaluation is written down
    record_federated  and what participants measured, beside it
    ask_measurement   somebody wants it measured again
    measure           a worker does
    publish           a candidate is served, what was served is archived
    reject            a candidate will not be served
    roll_back         an archived version is served again, as a new version with the old blobs
    export            a version leaves as a file

        candidate ──publish──> published ──(another is published)──> archived
            └──────reject────> rejected

Each verb is one transaction: conditional UPDATEs whose row counts say who was first, and one line
in the journal for each change. Verbs that change what a model serves lock its row first, so that
two of them never see the same predecessor.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
from django.core.exceptions import ValidationError
from django.core.validators import validate_slug
from django.db import IntegrityError
from django.db.models import Max
from django.db.models.functions import Now

from client_sdk import architecture, wire
from journal import events
from models_app import blobs, packages, selectors
from models_app.blobs import Blob
from models_app.errors import (
    InvalidModel,
    ModelNotFound,
    NonFinite,
    NothingToMeasureOn,
    SlugTaken,
    StaleBase,
    VersionNotFound,
    WrongStage,
)
from models_app.evaluation import Evaluation, by_participants, by_the_server, named_federated
from models_app.models import Model, ModelVersion
from models_app.packages import Package

Origin, Stage = ModelVersion.Origin, ModelVersion.Stage


# --- In ---------------------------------------------------------------------------------------


def check_slug(slug: str) -> None:
    """Refuse a slug that cannot be had, before minutes go into opening a file for it.

    Raises:
        InvalidModel: It is none.
        SlugTaken: There is such a model.
    """
    try:
        validate_slug(slug)
    except ValidationError:
        detail = f"Expected letters, digits, - and _. Received: {slug[:100]!r}"
        raise InvalidModel(detail, field="slug") from None
    if slug == "new":
        raise InvalidModel("Expected another slug: /models/new/ is a page.", field="slug")
    if len(slug) > 80:
        raise InvalidModel(f"Expected at most 80 characters. Received: {len(slug)}", field="slug")
    if Model.objects.filter(slug=slug).exists():
        raise SlugTaken(f"Expected a slug that is free. Received: {slug}", field="slug")


def create_model(
    slug: str,
    package: Package,
    *,
    name: str = "",
    description: str = "",
    labels: Sequence[str] = (),
    local: Sequence[str] = (),
    frozen: Sequence[str] = (),
    actor: str = "",
) -> Model:
    """Register a model and publish its weights as version 1.

    Args:
        slug: Its name in addresses, unique.
        package: What `packages.open_package` opened.
        name: Its name for people; the slug when empty.
        description: What it is for.
        labels: Names of its classes, in the order of its outputs.
        local: Patterns of layers whose weights stay with each participant.
        frozen: Patterns of layers whose weights never change.
        actor: Who creates it.

    Returns:
        The model, which serves version 1.

    Raises:
        SlugTaken: There is such a model.
        InvalidModel: The slug, the labels or the patterns do not fit.
        NonFinite: A weight is NaN or infinite.
    """
    check_slug(slug)
    _check_labels(labels, package)
    weights = assign_roles(package.weights, local=local, frozen=frozen)
    federated, fixed = _store(weights, package.tensors)
    model = Model(
        slug=slug,
        name=name or slug,
        description=description,
        architecture=package.architecture,
        architecture_digest=architecture.digest(package.architecture),
        weights_manifest=[weight.to_json() for weight in weights],
        input_spec=package.input_spec.to_json(),
        labels=list(labels),
        objective=package.objective,
        evaluation_set=_store_evaluation(package),
        evaluation_samples=package.evaluation_samples,
        created_by=actor,
    )
    with events.transaction() as journal:
        _insert_model(model)
        journal.record("model.created", model=model.pk, actor=actor, slug=slug)
        first = _add(
            journal,
            model,
            Origin.INITIAL,
            federated,
            fixed,
            evaluation=package.evaluated,
            actor=actor,
        )
        _serve(journal, model, first, actor=actor, reason="the first version")
    return model


def import_version(
    model_id: int, package: Package, *, actor: str = "", reason: str = ""
) -> ModelVersion:
    """Add weights that were trained elsewhere as a candidate.

    Args:
        model_id: The model, whose architecture the package must have.
        package: The opened file.
        actor: Who imports it.
        reason: Why, for people.

    Returns:
        The candidate; its parent is the version served now.

    Raises:
        InvalidModel: The package has another architecture.
        NonFinite: A weight is NaN or infinite.
    """
    model = _model(model_id)
    received = architecture.digest(package.architecture)
    if received != model.architecture_digest:
        raise InvalidModel(
            f"Expected the architecture of {model.slug} ({model.architecture_digest[:12]}), "
            f"layer names included. Received: {received[:12]}"
        )
    # By place: Keras may have called the parts of a layer otherwise this time.
    names = [weight.name for weight in model.weights]
    tensors = dict(zip(names, package.tensors.values(), strict=True))
    federated, fixed = _store(model.weights, tensors)
    with events.transaction() as journal:
        model = _locked(model_id)
        return _add(
            journal,
            model,
            Origin.IMPORTED,
            federated,
            fixed,
            parent=model.served,
            evaluation=package.evaluated,
            actor=actor,
            reason=reason,
        )


def add_candidate(
    model_id: int,
    *,
    parent: ModelVersion,
    weights: Blob,
    strategy_state: str = "",
    reason: str = "",
) -> ModelVersion:
    """Add the weights that a round made as a candidate.

    Args:
        model_id: The model.
        parent: The version that the round trained on; its fixed tensors are taken over.
        weights: Blob of the new federated tensors.
        strategy_state: Digest of the strategy's state after the round; empty if it has none.
        reason: Why, for people.
    """
    fixed = Blob(parent.fixed, parent.fixed_bytes)
    with events.transaction() as journal:
        return _add(
            journal,
            _locked(model_id),
            Origin.ROUND,
            weights,
            fixed,
            parent=parent,
            strategy_state=strategy_state,
            reason=reason,
        )


def served(model_id: int) -> ModelVersion:
    """The version that a model serves.

    Raises:
        VersionNotFound: There is no such model, or it serves none.
    """
    version = ModelVersion.objects.filter(model=model_id, stage=Stage.PUBLISHED).first()
    if version is None:
        raise VersionNotFound(f"Expected a model with a published version. Received: {model_id}")
    return version


# --- Judged -----------------------------------------------------------------------------------


def record_metrics(version: ModelVersion, evaluation: Evaluation) -> None:
    """Write an evaluation down. What participants have measured stays beside it.

    Args:
        version: The version that was evaluated.
        evaluation: Finite numbers by name, and the confusion matrix if there is one.

    Raises:
        NonFinite: A metric is NaN or infinite.
    """
    version.confusion = evaluation.confusion
    _record(version, evaluation.metrics, keep=by_participants, confusion=evaluation.confusion)


def record_federated(version: ModelVersion, means: Mapping[str, float]) -> None:
    """Write down what participants measured, beside what the server did, and they before.

    Args:
        version: The version that was evaluated.
        means: Over participants, by the names that these gave.

    Raises:
        NonFinite: A mean is NaN or infinite.
    """
    _record(version, named_federated(means), keep=dict)


def _record(
    version: ModelVersion,
    metrics: Mapping[str, float],
    *,
    keep: Callable[[Mapping[str, float]], dict[str, float]],
    **columns: Any,
) -> None:
    if not all(math.isfinite(value) for value in metrics.values()):
        raise NonFinite(f"Expected finite metrics. Received: {dict(metrics)}", field="metrics")
    with events.transaction() as journal:
        row = ModelVersion.objects.filter(pk=version.pk)
        known = row.select_for_update(no_key=True).values_list("metrics", flat=True).get()
        together = keep(known) | dict(metrics)
        version.metrics = by_the_server(together) | by_participants(together)
        row.update(metrics=version.metrics, **columns)
        journal.record(
            "version.evaluated",
            **_subjects(version),
            number=version.number,
            metrics=version.metrics,
        )


def ask_measurement(version: ModelVersion, *, actor: str = "", reason: str = "") -> None:
    """Note that a version is to be measured again. The door then asks a worker to do it.

    Raises:
        NothingToMeasureOn: Its model has no evaluation set.
    """
    if not version.model.evaluation_set:
        raise NothingToMeasureOn(
            f"Expected a model with an evaluation set. Received: {version.model.slug}"
        )
    with events.transaction() as journal:
        journal.record(
            "version.measuring",
            **_subjects(version),
            number=version.number,
            actor=actor,
            reason=reason,
        )


def measure(version_id: int) -> None:
    """Measure a version and write down what was found. For workers that have Keras.

    Raises:
        NonFinite: A weight or the loss is NaN or infinite.
    """
    from models_app import keras_bridge  # only here: TensorFlow is heavy

    version = ModelVersion.objects.select_related("model").get(pk=version_id)
    record_metrics(version, keras_bridge.evaluate(version))


def publish(
    version: ModelVersion,
    *,
    actor: str = "",
    reason: str = "",
    expected_served: ModelVersion | None = None,
) -> ModelVersion:
    """Serve a candidate. Publishing what is served already changes nothing.

    Args:
        version: The candidate.
        actor: Who publishes it; empty for the server.
        reason: Why, for people.
        expected_served: The version that must be served until now; None to replace any.

    Returns:
        The version as it is now.

    Raises:
        StaleBase: Another version than the expected one is served by now.
        WrongStage: The version is rejected or archived.
    """
    with events.transaction() as journal:
        model = _locked(version.model_id)
        if model.served != version:
            _expect_served(model.served, expected_served)
            _serve(journal, model, version, actor=actor, reason=reason)
    version.refresh_from_db()
    return version


def reject(version: ModelVersion, *, reason: str, actor: str = "") -> ModelVersion:
    """Decide that a candidate will not be served. Rejecting it again changes nothing.

    Raises:
        WrongStage: The version is published or archived.
    """
    with events.transaction() as journal:
        if _move(version, Stage.CANDIDATE, Stage.REJECTED, reason):
            journal.record(
                "version.rejected",
                **_subjects(version),
                number=version.number,
                actor=actor,
                reason=reason,
            )
    version.refresh_from_db()
    if version.stage != Stage.REJECTED:
        raise _wrong_stage(version, "a candidate, to reject it")
    return version


def roll_back(
    model: Model,
    to: ModelVersion,
    *,
    actor: str = "",
    reason: str = "",
    expected_served: ModelVersion | None = None,
) -> ModelVersion:
    """Serve an archived version again, as a new version that points at the old blobs.

    Args:
        model: The model.
        to: A version of it that was served once.
        actor: Who decides it.
        reason: Why, for people.
        expected_served: The version that must be served until now; None to replace any.

    Returns:
        The new version, whose parent is `to`.

    Raises:
        VersionNotFound: `to` belongs to another model.
        WrongStage: `to` was never served, or is served now.
        StaleBase: Another version than the expected one is served by now.
    """
    if to.model_id != model.pk:
        raise VersionNotFound(f"Expected a version of {model.slug}. Received: {to}")
    with events.transaction() as journal:
        model = _locked(model.pk)
        to = ModelVersion.objects.get(pk=to.pk)
        if to.stage != Stage.ARCHIVED:
            raise _wrong_stage(to, "an archived version, to roll back to it")
        _expect_served(model.served, expected_served)
        again = _add(
            journal,
            model,
            Origin.ROLLBACK,
            Blob(to.weights, to.weights_bytes),
            Blob(to.fixed, to.fixed_bytes),
            parent=to,
            strategy_state=to.strategy_state,
            evaluation=Evaluation(to.metrics, to.confusion),
            actor=actor,
            reason=reason,
        )
        _serve(journal, model, again, actor=actor, reason=reason)
        journal.record(
            "version.rolled_back",
            **_subjects(again),
            number=again.number,
            to=to.number,
            actor=actor,
            reason=reason,
        )
    again.refresh_from_db()
    return again


# --- Out ----------------------------------------------------------------------------------------


def export(version: ModelVersion, form: str, *, actor: str = "") -> Path:
    """Write a version as a file to hand out.

    Args:
        version: The version.
        form: "keras" for a `.keras` file, "safetensors" for all tensors in one file.
        actor: Who asks for it.

    Returns:
        A file in the spool, which the caller deletes.
    """
    target, tensors = blobs.new_spool_file(), selectors.tensors(version)
    if form == "keras":
        packages.write_keras(version.model.architecture, version.model.weights, tensors, target)
    else:
        wire.dump(target, tensors)
    with events.transaction() as journal:
        journal.record(
            "version.exported",
            **_subjects(version),
            number=version.number,
            format=form,
            actor=actor,
        )
    return target


# --- Roles --------------------------------------------------------------------------------------


def assign_roles(
    weights: Iterable[wire.WeightSpec], *, local: Sequence[str] = (), frozen: Sequence[str] = ()
) -> list[wire.WeightSpec]:
    """Say which weights are averaged, which stay with a participant, which never change.

    A pattern (`*`, `?`, `[…]`) is compared with the path of a layer and of every layer around it:
    "encoder" means all of a nested model, "encoder.dense_*" some of its layers. What the package
    froze already (integers, untrainable layers) stays frozen.

    Args:
        weights: The manifest as opened.
        local: Patterns of layers to keep with each participant.
        frozen: Patterns of layers to freeze.

    Returns:
        The manifest with its roles.

    Raises:
        InvalidModel: A pattern matches no layer or a layer is both local and frozen, a federated
            weight is not float32, or nothing is left to average.
    """
    manifest = list(weights)
    _expect_matches(manifest, local, "local")
    _expect_matches(manifest, frozen, "frozen")
    roles = [_with_role(weight, local, frozen) for weight in manifest]
    federated = [weight for weight in roles if weight.role == wire.FEDERATED]
    for weight in federated:
        if weight.dtype != "F32":
            detail = f"Expected float32 in the federated {weight.name}. Received: {weight.dtype}"
            raise InvalidModel(detail, field="frozen")
    if not federated:
        raise InvalidModel("Expected at least one federated weight. Received: none")
    return roles


def _expect_matches(
    weights: Sequence[wire.WeightSpec], patterns: Sequence[str], field: str
) -> None:
    for pattern in patterns:
        if not any(_matches(weight.layer, [pattern]) for weight in weights):
            layers = ", ".join(dict.fromkeys(weight.layer for weight in weights))
            detail = f"Expected a pattern of layers among {layers[:500]}. Received: {pattern!r}"
            raise InvalidModel(detail, field=field)


def _with_role(
    weight: wire.WeightSpec, local: Sequence[str], frozen: Sequence[str]
) -> wire.WeightSpec:
    is_local, is_frozen = _matches(weight.layer, local), _matches(weight.layer, frozen)
    if is_local and is_frozen:
        detail = f"Expected a layer to be local or frozen. Received: both for {weight.layer}"
        raise InvalidModel(detail, field="local")
    role = weight.role
    if is_frozen:
        role = wire.FROZEN
    elif is_local and weight.dtype[0] == "F":
        role = wire.LOCAL
    return wire.WeightSpec.from_json({**weight.to_json(), "role": role})


def _matches(layer: str, patterns: Sequence[str]) -> bool:
    names = layer.split(".")
    paths = [".".join(names[:depth]) for depth in range(1, len(names) + 1)]
    return any(fnmatchcase(path, pattern) for path in paths for pattern in patterns)


# --- Parts of the verbs -------------------------------------------------------------------------


def _check_labels(labels: Sequence[str], package: Package) -> None:
    if labels and package.outputs not in (None, 1, len(labels)):
        raise InvalidModel(
            f"Expected {package.outputs} labels, one for each output. Received: {len(labels)}",
            field="labels",
        )


def _insert_model(model: Model) -> None:
    try:
        model.save(force_insert=True)
    except IntegrityError:
        detail = f"Expected a slug that is free. Received: {model.slug}"
        raise SlugTaken(detail, field="slug") from None


def _store(
    weights: Sequence[wire.WeightSpec], tensors: Mapping[str, np.ndarray]
) -> tuple[Blob, Blob]:
    """Store the two blobs of a version: the federated tensors, and the rest."""
    for name, values in tensors.items():
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            raise NonFinite(f"Expected finite weights. Received: NaN or infinity in {name}")
    federated = _store_part(weights, tensors, wire.FEDERATED)
    return federated, _store_part(weights, tensors, wire.LOCAL, wire.FROZEN)


def _store_part(
    weights: Sequence[wire.WeightSpec], tensors: Mapping[str, np.ndarray], *roles: str
) -> Blob:
    part = {spec.name: tensors[spec.name] for spec in wire.tensors_of(weights, *roles)}
    if not part:
        return Blob("", 0)
    spooled = blobs.new_spool_file()
    sha256, _ = wire.dump(spooled, part)
    return blobs.put_file(spooled, sha256)


def _store_evaluation(package: Package) -> str:
    return blobs.put_file(package.evaluation).sha256 if package.evaluation else ""


def _model(model_id: int) -> Model:
    model = Model.objects.filter(pk=model_id).first()
    if model is None:
        raise ModelNotFound(f"Expected the id of a model. Received: {model_id}")
    return model


def _locked(model_id: int) -> Model:
    """The model, its row locked until the transaction ends (SQLite has one writer anyway)."""
    # Not its key: who creates a row that names it (a run, a join code) holds the journal's lock
    # when that is checked, at its commit, and must not have to wait for us then.
    model = Model.objects.select_for_update(no_key=True).filter(pk=model_id).first()
    if model is None:
        raise ModelNotFound(f"Expected the id of a model. Received: {model_id}")
    return model


def _add(
    journal: events.Journal,
    model: Model,
    origin: str,
    weights: Blob,
    fixed: Blob,
    *,
    parent: ModelVersion | None = None,
    strategy_state: str = "",
    evaluation: Evaluation | None = None,
    actor: str = "",
    reason: str = "",
) -> ModelVersion:
    last = model.versions.aggregate(last=Max("number"))["last"] or 0
    found = evaluation or Evaluation()
    version = ModelVersion.objects.create(
        model=model,
        number=last + 1,
        parent=parent,
        origin=origin,
        weights=weights.sha256,
        weights_bytes=weights.bytes,
        fixed=fixed.sha256,
        fixed_bytes=fixed.bytes,
        strategy_state=strategy_state,
        metrics=dict(found.metrics),
        confusion=found.confusion,
        created_by=actor,
        reason=reason,
    )
    journal.record(
        "version.created",
        **_subjects(version),
        number=version.number,
        origin=origin,
        actor=actor,
        reason=reason,
    )
    return version


def _serve(
    journal: events.Journal, model: Model, version: ModelVersion, *, actor: str, reason: str
) -> None:
    before = model.served
    if before and _move(before, Stage.PUBLISHED, Stage.ARCHIVED, f"v{version.number} is served"):
        journal.record("version.archived", **_subjects(before), number=before.number, actor=actor)
    if not _move(version, Stage.CANDIDATE, Stage.PUBLISHED, reason, published_at=Now()):
        version.refresh_from_db()
        raise _wrong_stage(version, "a candidate, to publish it")
    journal.record(
        "version.published",
        **_subjects(version),
        number=version.number,
        origin=version.origin,
        actor=actor,
        reason=reason,
    )


def _move(version: ModelVersion, old: str, new: str, reason: str, **also: Now) -> bool:
    """The conditional UPDATE: True where this call moved it."""
    row = ModelVersion.objects.filter(pk=version.pk, stage=old)
    return row.update(stage=new, reason=reason, **also) == 1


def _expect_served(found: ModelVersion | None, expected: ModelVersion | None) -> None:
    if expected is not None and found != expected:
        raise StaleBase(
            f"Expected {expected} to be served still. Received: {found}",
            served=found.number if found else None,
        )


def _wrong_stage(version: ModelVersion, expected: str) -> WrongStage:
    detail = f"Expected {expected}. Received: {version}, which is {version.stage}"
    return WrongStage(detail, stage=version.stage)


def _subjects(version: ModelVersion) -> dict[str, Any]:
    return {"model": version.model_id, "version": version.pk}
