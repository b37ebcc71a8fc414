"""The registry over HTTP: who may read and write, and what comes back."""

import asyncio
import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from rest_framework.test import APIClient

from client_sdk import wire
from models_app import blobs, registry
from models_app.evaluation import Evaluation
from models_app.models import Model, ModelVersion
from models_app.packages import Package

Api = Callable[[str, str], APIClient]
pytestmark = pytest.mark.django_db


def candidate(model: Model) -> ModelVersion:
    values = {spec.name: np.zeros(spec.shape, np.float32) for spec in model.federated}
    return registry.add_candidate(
        model.pk, parent=registry.served(model.pk), weights=blobs.put(wire.dumps(values))
    )


def participant(slug: str | None) -> APIClient:
    client = APIClient()
    principal = SimpleNamespace(
        role="participant", model_slug=slug, is_authenticated=True, is_active=True, pk="bob"
    )
    client.force_authenticate(principal)  # type: ignore[arg-type]
    return client


def content(response: Any) -> bytes:
    async def read() -> bytes:
        return b"".join([chunk async for chunk in response.streaming_content])

    return asyncio.run(read())


# --- Reading ------------------------------------------------------------------------------------


def test_a_participant_reads_all_that_it_needs_to_build_the_model(digits: Model) -> None:
    document = participant("digits").get("/api/v1/models/digits").json()
    first = registry.served(digits.pk)
    assert document["architecture"] == digits.architecture
    assert document["architecture_digest"] == digits.architecture_digest
    assert wire.read_weights(document["weights"]) == digits.weights
    assert wire.InputSpec.from_json(document["input_spec"]).shape == (4,)
    assert document["objective"]["loss"] == "sparse_categorical_crossentropy"
    assert document["served"]["number"] == 1
    assert document["served"]["weights"] == {"sha256": first.weights, "bytes": first.weights_bytes}
    assert document["served"]["fixed"] is None


def test_a_participant_sees_only_the_model_that_it_is_bound_to(
    digits: Model, package: Package
) -> None:
    registry.create_model("letters", package)
    bound, free = participant("digits"), participant(None)
    for address in ("letters", "letters/versions", "letters/versions/published"):
        refused = bound.get(f"/api/v1/models/{address}")
        assert (refused.status_code, refused.json()["code"]) == (404, "model_not_found")
        assert free.get(f"/api/v1/models/{address}").status_code == 200
    assert [model["slug"] for model in bound.get("/api/v1/models").json()["results"]] == ["digits"]
    assert free.get("/api/v1/models").json()["count"] == 2


def test_a_participant_changes_nothing_and_exports_nothing(digits: Model) -> None:
    client = participant("digits")
    assert client.post("/api/v1/models", {}).status_code == 403
    assert client.post("/api/v1/models/digits/versions/1/roll-back").status_code == 403
    assert client.get("/api/v1/models/digits/versions/1/export").status_code == 403


def test_a_stranger_reads_nothing(digits: Model) -> None:
    assert APIClient().get("/api/v1/models/digits").status_code in (401, 403)


def test_models_are_listed_in_pages_and_found_by_name(
    api: Api, digits: Model, package: Package, django_assert_max_num_queries: Any
) -> None:
    for slug in ("letters", "faces"):
        registry.create_model(slug, package, name=f"The {slug}", actor="bob")
    viewer = api("charlie", "viewer")
    with django_assert_max_num_queries(6):
        page = viewer.get("/api/v1/models", {"page_size": 2}).json()
    assert [model["slug"] for model in page["results"]] == ["digits", "faces"]
    assert page["results"][0]["served"]["number"] == 1
    assert page["results"][0]["versions"] == 1
    assert "architecture" not in page["results"][0]
    assert viewer.get("/api/v1/models", {"name": "the l"}).json()["count"] == 1
    assert viewer.get("/api/v1/models", {"created_by": "bob"}).json()["count"] == 2


def test_versions_are_listed_newest_first_and_filtered(
    api: Api, digits: Model, django_assert_max_num_queries: Any
) -> None:
    for _ in range(3):
        candidate(digits)
    viewer = api("charlie", "viewer")
    with django_assert_max_num_queries(6):
        page = viewer.get("/api/v1/models/digits/versions").json()
    assert [version["number"] for version in page["results"]] == [4, 3, 2, 1]
    assert page["results"][0]["parent"] == 1
    assert viewer.get("/api/v1/models/digits/versions?stage=published").json()["count"] == 1
    assert viewer.get("/api/v1/models/digits/versions?stage=best").status_code == 400


def test_a_version_shows_who_is_taken_for_whom_and_a_list_does_not(api: Api, digits: Model) -> None:
    counts = [[8, 2], [0, 10]]
    registry.record_metrics(registry.served(digits.pk), Evaluation({"accuracy": 0.9}, counts))
    viewer = api("charlie", "viewer")
    assert viewer.get("/api/v1/models/digits/versions/1").json()["confusion"] == counts
    listed = viewer.get("/api/v1/models/digits/versions").json()["results"][0]
    assert (listed["number"], "confusion" in listed) == (1, False)


@pytest.mark.parametrize(
    ("address", "code"),
    [
        ("nothing", "model_not_found"),
        ("nothing/versions", "model_not_found"),
        ("digits/versions/7", "version_not_found"),
        ("digits/versions/99999999999999999999", "version_not_found"),
    ],
)
def test_what_is_not_there_is_a_typed_problem(
    api: Api, digits: Model, address: str, code: str
) -> None:
    response = api("charlie", "viewer").get(f"/api/v1/models/{address}")
    assert (response.status_code, response.json()["code"]) == (404, code)


# --- Deciding -----------------------------------------------------------------------------------


def test_an_operator_publishes_and_rolls_back(api: Api, digits: Model) -> None:
    candidate(digits)
    operator = api("bob", "operator")
    answer = operator.post(
        "/api/v1/models/digits/versions/2/publish", {"reason": "better"}, format="json"
    )
    assert (answer.status_code, answer.json()["stage"]) == (200, "published")
    assert answer.json()["reason"] == "better"
    answer = operator.post("/api/v1/models/digits/versions/1/roll-back", {}, format="json")
    assert (answer.status_code, answer.json()["number"]) == (201, 3)
    assert operator.get("/api/v1/models/digits/versions/published").json()["parent"] == 1


def test_a_viewer_decides_nothing(api: Api, digits: Model) -> None:
    candidate(digits)
    viewer = api("charlie", "viewer")
    for verb in ("publish", "reject", "roll-back"):
        answer = viewer.post(f"/api/v1/models/digits/versions/2/{verb}", {}, format="json")
        assert answer.status_code == 403
    assert viewer.post("/api/v1/models", {}).status_code == 403


def test_a_stale_decision_and_a_wrong_stage_are_conflicts(api: Api, digits: Model) -> None:
    candidate(digits)
    registry.publish(candidate(digits))
    operator = api("bob", "operator")
    address = "/api/v1/models/digits/versions/2"
    stale = operator.post(f"{address}/publish", {"expected_served": 1}, format="json")
    assert (stale.status_code, stale.json()["code"], stale.json()["served"]) == (
        409,
        "stale_base",
        3,
    )
    assert operator.post(f"{address}/reject", {}, format="json").json()["stage"] == "rejected"
    wrong = operator.post(f"{address}/publish", {}, format="json")
    assert (wrong.status_code, wrong.json()["code"]) == (409, "wrong_stage")


# --- Out ----------------------------------------------------------------------------------------


def test_a_version_is_downloaded_as_safetensors(
    api: Api, digits: Model, tmp_path: Path, tensors: dict[str, np.ndarray]
) -> None:
    answer = api("charlie", "viewer").get("/api/v1/models/digits/versions/1/export?as=safetensors")
    assert answer["Content-Disposition"] == 'attachment; filename="digits-v1.safetensors"'
    path = tmp_path / "weights.safetensors"
    path.write_bytes(content(answer))
    assert int(answer["Content-Length"]) == path.stat().st_size
    opened = wire.open_tensors(path, [weight.tensor for weight in digits.weights])
    np.testing.assert_array_equal(opened["0000.body.kernel"], tensors["0000.body.kernel"])


@pytest.mark.alike
def test_a_version_is_downloaded_as_keras_file(api: Api, digits: Model) -> None:
    answer = api("charlie", "viewer").get("/api/v1/models/digits/versions/published/export")
    with zipfile.ZipFile(io.BytesIO(content(answer))) as archive:
        assert "model.weights.h5" in archive.namelist()


def test_other_forms_are_refused(api: Api, digits: Model) -> None:
    answer = api("charlie", "viewer").get("/api/v1/models/digits/versions/1/export?as=pickle")
    assert (answer.status_code, answer.json()["field"]) == (400, "as")


# --- In -----------------------------------------------------------------------------------------


@pytest.mark.alike
def test_an_operator_uploads_a_model_and_then_better_weights(
    api: Api, parts: dict[str, Path]
) -> None:
    operator = api("bob", "operator")
    files = {name: SimpleUploadedFile(path.name, path.read_bytes()) for name, path in parts.items()}
    given = {"slug": "digits", "labels": ["odd", "even"], "local": ["head"], "scale": 0.5}
    answer = operator.post("/api/v1/models", given | files, format="multipart")
    assert answer.status_code == 201, answer.json()
    document = answer.json()
    assert document["labels"] == ["odd", "even"]
    assert document["created_by"] == "bob"
    assert document["evaluation_samples"] == 20
    assert document["served"]["metrics"]["loss"] > 0
    assert document["served"]["fixed"] is not None
    for name in ("architecture", "weights"):
        files[name].seek(0)
    again = {"architecture": files["architecture"], "weights": files["weights"]}
    answer = operator.post("/api/v1/models/digits/versions", again, format="multipart")
    assert answer.status_code == 201, answer.json()
    assert (answer.json()["number"], answer.json()["stage"]) == (2, "candidate")
    assert answer.json()["metrics"] == document["served"]["metrics"]


def test_a_hostile_upload_is_refused_with_its_reason(api: Api, tmp_path: Path) -> None:
    path = tmp_path / "model.keras"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", json.dumps({"class_name": "Evil", "config": {}}))
        archive.writestr("model.weights.h5", b"")
    upload = SimpleUploadedFile("model.keras", path.read_bytes())
    answer = api("alice", "owner").post(
        "/api/v1/models", {"slug": "evil", "package": upload}, format="multipart"
    )
    assert (answer.status_code, answer.json()["code"]) == (422, "package_refused")
    assert "Received: 'Evil'" in answer.json()["detail"]
    assert not Model.objects.exists()


def test_a_taken_slug_is_refused_before_anything_is_opened(api: Api, digits: Model) -> None:
    answer = api("alice", "owner").post("/api/v1/models", {"slug": "digits"}, format="multipart")
    assert (answer.status_code, answer.json()["code"]) == (409, "slug_taken")


def test_an_upload_without_files_is_refused(api: Api) -> None:
    answer = api("alice", "owner").post("/api/v1/models", {"slug": "empty"}, format="multipart")
    assert (answer.status_code, answer.json()["code"]) == (422, "package_refused")
