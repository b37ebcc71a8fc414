"""The life of a version: it enters, is judged, is served, and makes room for the next."""

import dataclasses
from functools import partial

import numpy as np
import pytest

from client_sdk import wire
from journal.models import Event
from models_app import blobs, registry, selectors
from models_app.errors import (
    InvalidModel,
    NonFinite,
    NothingToMeasureOn,
    SlugTaken,
    StaleBase,
    VersionNotFound,
    WrongStage,
)
from models_app.evaluation import Evaluation
from models_app.models import Model, ModelVersion
from models_app.packages import Package
from tests.races import at_once


def candidate(model: Model, value: float = 1.0) -> ModelVersion:
    """What a round would add: all federated weights equal to `value`."""
    values = {spec.name: np.full(spec.shape, value, np.float32) for spec in model.federated}
    return registry.add_candidate(
        model.pk, parent=registry.served(model.pk), weights=blobs.put(wire.dumps(values))
    )


def kinds() -> list[str]:
    return list(Event.objects.order_by("id").values_list("kind", flat=True))


def stages(model: Model) -> list[str]:
    return list(model.versions.order_by("number").values_list("stage", flat=True))


# --- In -----------------------------------------------------------------------------------------


@pytest.mark.django_db
def test_alice_registers_a_model_and_it_serves_version_1(package: Package) -> None:
    model = registry.create_model("digits", package, labels=["odd", "even"], actor="alice")
    first = registry.served(model.pk)
    assert (first.number, first.origin, first.stage) == (1, "initial", "published")
    assert first.published_at is not None
    assert kinds() == ["model.created", "version.created", "version.published"]
    assert set(Event.objects.values_list("actor", flat=True)) == {"alice"}


@pytest.mark.django_db
def test_the_weights_come_back_as_they_went_in(package: Package) -> None:
    model = registry.create_model("digits", package, local=["head"])
    first = registry.served(model.pk)
    assert [spec.name for spec in model.federated] == ["0000.body.kernel", "0001.body.bias"]
    assert [spec.name for spec in model.fixed] == ["0002.head.kernel", "0003.head.bias"]
    tensors = selectors.tensors(first)
    assert list(tensors) == list(package.tensors)
    for name, values in package.tensors.items():
        np.testing.assert_array_equal(tensors[name], values)


@pytest.mark.django_db
def test_a_model_without_fixed_weights_has_no_fixed_blob(digits: Model) -> None:
    assert registry.served(digits.pk).fixed == ""
    assert registry.served(digits.pk).blob_of("fixed") is None


@pytest.mark.django_db
@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
def test_a_first_version_must_be_finite(package: Package, poison: float) -> None:
    package.tensors["0001.body.bias"][1] = poison
    with pytest.raises(NonFinite, match=r"0001\.body\.bias"):
        registry.create_model("digits", package)
    assert not Model.objects.exists()
    assert not Event.objects.exists()


@pytest.mark.django_db
def test_a_slug_is_taken_once(digits: Model, package: Package) -> None:
    with pytest.raises(SlugTaken, match="Received: digits"):
        registry.create_model("digits", package)


@pytest.mark.django_db
@pytest.mark.parametrize("slug", ["", "two words", "../up", "x" * 81, "é"])
def test_a_slug_must_fit_into_an_address(package: Package, slug: str) -> None:
    with pytest.raises(InvalidModel) as refused:
        registry.create_model(slug, package)
    assert refused.value.field == "slug"


@pytest.mark.django_db
def test_labels_are_as_many_as_outputs(package: Package) -> None:
    with pytest.raises(InvalidModel, match="Expected 2 labels"):
        registry.create_model("digits", package, labels=["one", "two", "three"])


@pytest.mark.django_db
def test_imported_weights_are_a_candidate_below_what_is_served(
    digits: Model, package: Package
) -> None:
    version = registry.import_version(digits.pk, package, actor="bob", reason="trained at home")
    assert (version.number, version.origin, version.stage) == (2, "imported", "candidate")
    assert version.parent == registry.served(digits.pk)


@pytest.mark.django_db
def test_another_architecture_cannot_be_imported(digits: Model, package: Package) -> None:
    other = {**package.architecture, "config": {**package.architecture["config"], "name": "other"}}
    with pytest.raises(InvalidModel, match="Expected the architecture of digits"):
        registry.import_version(digits.pk, dataclasses.replace(package, architecture=other))


@pytest.mark.django_db
def test_a_candidate_takes_over_the_fixed_weights_of_its_parent(package: Package) -> None:
    model = registry.create_model("digits", package, frozen=["head"])
    version = candidate(model)
    assert version.fixed == registry.served(model.pk).fixed != ""
    np.testing.assert_array_equal(
        selectors.tensors(version)["0002.head.kernel"], package.tensors["0002.head.kernel"]
    )


# --- Judged -------------------------------------------------------------------------------------


@pytest.mark.django_db
def test_publishing_archives_what_was_served(digits: Model) -> None:
    version = registry.publish(candidate(digits), actor="bob", reason="it is better")
    assert registry.served(digits.pk) == version
    assert stages(digits) == ["archived", "published"]
    assert kinds()[-3:] == ["version.created", "version.archived", "version.published"]


@pytest.mark.django_db
def test_publishing_twice_changes_nothing(digits: Model) -> None:
    version = registry.publish(candidate(digits))
    before = kinds()
    assert registry.publish(version).published_at == version.published_at
    assert kinds() == before


@pytest.mark.django_db
def test_a_decision_on_a_version_that_is_no_longer_served_is_stale(digits: Model) -> None:
    first = registry.served(digits.pk)
    late = candidate(digits)
    registry.publish(candidate(digits))
    with pytest.raises(StaleBase, match="Expected digits v1 to be served") as refused:
        registry.publish(late, expected_served=first)
    assert refused.value.extra == {"served": 3}
    assert stages(digits) == ["archived", "candidate", "published"]


@pytest.mark.django_db
def test_a_rejected_candidate_is_never_served(digits: Model) -> None:
    version = registry.reject(candidate(digits), reason="accuracy fell")
    assert registry.reject(version, reason="again").reason == "accuracy fell"
    assert kinds().count("version.rejected") == 1
    with pytest.raises(WrongStage, match="which is rejected"):
        registry.publish(version)
    assert registry.served(digits.pk).number == 1


@pytest.mark.django_db
def test_what_is_served_cannot_be_rejected(digits: Model) -> None:
    with pytest.raises(WrongStage, match="which is published"):
        registry.reject(registry.served(digits.pk), reason="a mistake")


@pytest.mark.django_db
def test_rolling_back_makes_a_new_version_of_the_old_blobs(digits: Model) -> None:
    first = registry.served(digits.pk)
    registry.record_metrics(first, Evaluation({"accuracy": 0.9}, [[8, 2], [0, 10]]))
    registry.publish(candidate(digits))
    again = registry.roll_back(digits, first, actor="alice", reason="the new one is worse")
    assert (again.number, again.origin, again.stage) == (3, "rollback", "published")
    assert (again.weights, again.fixed, again.parent) == (first.weights, first.fixed, first)
    assert (again.metrics, again.confusion) == ({"accuracy": 0.9}, [[8, 2], [0, 10]])
    assert stages(digits) == ["archived", "archived", "published"]
    line = Event.objects.get(kind="version.rolled_back")
    assert (line.data, line.actor, line.version) == ({"number": 3, "to": 1}, "alice", again.pk)


@pytest.mark.django_db
def test_only_what_was_served_once_can_be_rolled_back_to(digits: Model, package: Package) -> None:
    with pytest.raises(WrongStage, match="which is published"):
        registry.roll_back(digits, registry.served(digits.pk))
    with pytest.raises(WrongStage, match="which is candidate"):
        registry.roll_back(digits, candidate(digits))
    other = registry.create_model("letters", package)
    with pytest.raises(VersionNotFound, match="Received: letters v1"):
        registry.roll_back(digits, registry.served(other.pk))


@pytest.mark.django_db
def test_metrics_are_written_down_and_are_finite(digits: Model) -> None:
    version = candidate(digits)
    found = Evaluation({"loss": 0.5, "accuracy": 0.75}, [[2, 1], [0, 1]])
    registry.record_metrics(version, found)
    version.refresh_from_db()
    assert Evaluation(version.metrics, version.confusion) == found
    assert Event.objects.get(kind="version.evaluated").data["metrics"] == version.metrics
    with pytest.raises(NonFinite):
        registry.record_metrics(version, Evaluation({"loss": float("nan")}))


@pytest.mark.django_db
def test_bob_may_want_a_version_measured_again(digits: Model) -> None:
    version = candidate(digits)
    with pytest.raises(NothingToMeasureOn, match="Received: digits"):
        registry.ask_measurement(version, actor="bob")
    Model.objects.filter(pk=digits.pk).update(evaluation_set="0" * 64)
    registry.ask_measurement(
        ModelVersion.objects.get(pk=version.pk), actor="bob", reason="there was no matrix"
    )
    line = Event.objects.get(kind="version.measuring")
    assert (line.version, line.actor, line.reason) == (version.pk, "bob", "there was no matrix")


@pytest.mark.django_db
def test_a_version_leaves_as_safetensors_and_the_journal_knows(
    digits: Model, package: Package
) -> None:
    path = registry.export(registry.served(digits.pk), "safetensors", actor="bob")
    tensors = wire.open_tensors(path, [weight.tensor for weight in digits.weights])
    for name, values in package.tensors.items():
        np.testing.assert_array_equal(tensors[name], values)
    line = Event.objects.get(kind="version.exported")
    assert (line.actor, line.data) == ("bob", {"number": 1, "format": "safetensors"})
    path.unlink()  # it was ours to send


# --- Races --------------------------------------------------------------------------------------


@pytest.mark.django_db(transaction=True)
def test_of_two_rounds_that_publish_at_once_one_is_stale(package: Package) -> None:
    model = registry.create_model("digits", package)
    for _ in range(5):
        base = registry.served(model.pk)
        rivals = [candidate(model), candidate(model)]
        results = at_once(
            *(partial(registry.publish, rival, expected_served=base) for rival in rivals)
        )
        assert sorted(type(result).__name__ for result in results) == ["ModelVersion", "StaleBase"]
        winner = next(result for result in results if isinstance(result, ModelVersion))
        assert registry.served(model.pk) == winner


@pytest.mark.django_db(transaction=True)
def test_many_publish_at_once_and_exactly_one_version_is_served(package: Package) -> None:
    model = registry.create_model("digits", package)
    rivals = [candidate(model) for _ in range(6)]
    results = at_once(*(partial(registry.publish, rival) for rival in rivals))
    assert all(isinstance(result, ModelVersion) for result in results)
    assert stages(model).count("published") == 1
    assert kinds().count("version.published") == 7


@pytest.mark.django_db(transaction=True)
def test_candidates_that_enter_at_once_get_numbers_of_their_own(package: Package) -> None:
    model = registry.create_model("digits", package)
    versions = at_once(*[partial(candidate, model)] * 6)
    assert sorted(version.number for version in versions) == [2, 3, 4, 5, 6, 7]


# --- Roles --------------------------------------------------------------------------------------


def spec(ordinal: int, layer: str, dtype: str = "F32", role: str = "federated") -> wire.WeightSpec:
    return wire.WeightSpec(f"{ordinal:04d}.{layer}.w", ordinal, layer, (2,), dtype, role)


NESTED = [
    spec(0, "encoder.dense"),
    spec(1, "encoder.dense_1"),
    spec(2, "encoder.drop", "I64", "frozen"),
    spec(3, "head"),
]


@pytest.mark.parametrize(
    ("local", "frozen", "roles"),
    [
        ([], [], "federated federated frozen federated"),
        (["head"], [], "federated federated frozen local"),
        ([], ["encoder"], "frozen frozen frozen federated"),
        ([], ["encoder.dense_*"], "federated frozen frozen federated"),
        (["*dense_1"], ["head"], "federated local frozen frozen"),
        (["encoder"], [], "local local frozen federated"),
        (["h??d"], ["encoder.dense"], "frozen federated frozen local"),
    ],
)
def test_layers_get_their_roles_by_patterns(
    local: list[str], frozen: list[str], roles: str
) -> None:
    assigned = registry.assign_roles(NESTED, local=local, frozen=frozen)
    assert [weight.role for weight in assigned] == roles.split()


@pytest.mark.parametrize(
    ("local", "frozen", "reason"),
    [
        (["haed"], [], "Received: 'haed'"),
        (["head"], ["*"], "both for head"),
        (["*"], [], "at least one federated"),
    ],
)
def test_patterns_that_cannot_be_meant_are_refused(
    local: list[str], frozen: list[str], reason: str
) -> None:
    with pytest.raises(InvalidModel, match=reason):
        registry.assign_roles(NESTED, local=local, frozen=frozen)


def test_federated_weights_are_float32() -> None:
    halves = [spec(0, "body"), spec(1, "head", "F16")]
    with pytest.raises(InvalidModel, match=r"0001\.head\.w\. Received: F16"):
        registry.assign_roles(halves)
    roles = [weight.role for weight in registry.assign_roles(halves, frozen=["head"])]
    assert roles == ["federated", "frozen"]
