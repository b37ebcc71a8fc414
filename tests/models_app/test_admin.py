"""The registry in the admin: operators act through verbs, viewers look."""

import json
import zipfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from django.contrib.auth.models import User
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client
from django.urls import reverse

from client_sdk import wire
from journal.models import Event
from models_app import blobs, registry
from models_app.models import Model, ModelVersion

pytestmark = pytest.mark.django_db
SignIn = Callable[[str, str], Client]


@pytest.fixture
def sign_in(user: Callable[[str, str], User], client: Client) -> SignIn:
    def enter(name: str, role: str) -> Client:
        client.force_login(user(name, role))
        return client

    return enter


def candidate(model: Model) -> ModelVersion:
    values = {spec.name: np.zeros(spec.shape, np.float32) for spec in model.federated}
    return registry.add_candidate(
        model.pk, parent=registry.served(model.pk), weights=blobs.put(wire.dumps(values))
    )


@pytest.mark.parametrize(
    "page",
    [
        "model/",
        "model/?q=dig",
        "model/{model}/change/",
        "modelversion/",
        "modelversion/?stage__exact=published&q=digits",
        "modelversion/{version}/change/",
    ],
)
def test_a_viewer_looks_at_everything(digits: Model, sign_in: SignIn, page: str) -> None:
    version = candidate(digits)
    address = f"/admin/models_app/{page.format(model=digits.pk, version=version.pk)}"
    answer = sign_in("charlie", "viewer").get(address)
    assert answer.status_code == 200
    assert "digits" in answer.content.decode()


def act(client: Client, action: str, *versions: ModelVersion, reason: str = "better") -> str:
    rows = {"row": [version.pk for version in versions]}
    address = reverse("admin:models_app_modelversion_decide", args=[action], query=rows)
    return client.post(address, {"reason": reason}, follow=True).content.decode()


def test_an_operator_publishes_and_rolls_back(digits: Model, sign_in: SignIn) -> None:
    first, second = registry.served(digits.pk), candidate(digits)
    client = sign_in("bob", "operator")
    assert "Digits v2 is published" in act(client, "publish", second)
    assert "serves what digits v1 holds" in act(client, "roll-back", first, reason="v2 is blind")
    assert registry.served(digits.pk).origin == "rollback"
    line = Event.objects.get(kind="version.rolled_back")
    assert (line.actor, line.reason) == ("bob", "v2 is blind")


@pytest.mark.parametrize("action", ["reject", "roll-back"])
def test_what_cannot_be_taken_back_needs_a_reason(
    digits: Model, sign_in: SignIn, action: str
) -> None:
    version = candidate(digits)
    assert "This field is required" in act(sign_in("bob", "operator"), action, version, reason="")
    assert set(Event.objects.values_list("kind", flat=True)) <= {
        "model.created",
        "version.created",
        "version.published",
    }


def test_the_actions_of_the_list_lead_to_a_question(digits: Model, sign_in: SignIn) -> None:
    version = candidate(digits)
    chosen = {"action": "publish", "_selected_action": [version.pk]}
    client = sign_in("bob", "operator")
    answer = client.post("/admin/models_app/modelversion/", chosen, follow=True)
    assert "It is served from now on" in answer.content.decode()
    version.refresh_from_db()
    assert version.stage == "candidate"


def test_what_a_verb_refuses_is_said_on_the_page(digits: Model, sign_in: SignIn) -> None:
    answer = act(sign_in("bob", "operator"), "reject", registry.served(digits.pk))
    assert "Expected a candidate, to reject it" in answer


def test_a_viewer_has_no_actions(digits: Model, sign_in: SignIn) -> None:
    version = candidate(digits)
    act(sign_in("charlie", "viewer"), "publish", version)
    version.refresh_from_db()
    assert version.stage == "candidate"


def test_names_are_edited_and_weights_are_not(digits: Model, sign_in: SignIn) -> None:
    client = sign_in("bob", "operator")
    given = {"name": "Digits", "description": "handwriting", "labels": '["a", "b"]', "slug": "no"}
    answer = client.post(f"/admin/models_app/model/{digits.pk}/change/", given)
    assert answer.status_code == 302
    digits.refresh_from_db()
    assert (digits.slug, digits.name, digits.labels) == ("digits", "Digits", ["a", "b"])


def upload(**files: bytes) -> dict[str, object]:
    given = {"slug": "digits", "name": "Digits", "scale": "1.0", "offset": "0.0"}
    return given | {name: SimpleUploadedFile(name, data) for name, data in files.items()}


@pytest.mark.alike
def test_an_operator_uploads_a_model(sign_in: SignIn, parts: dict[str, Path]) -> None:
    client = sign_in("bob", "operator")
    assert "Keras file" in client.get("/admin/models_app/model/add/").content.decode()
    given = upload(
        architecture_file=parts["architecture"].read_bytes(),
        weights_file=parts["weights"].read_bytes(),
    )
    answer = client.post("/admin/models_app/model/add/", given | {"frozen": "body"})
    assert answer.status_code == 302, answer.content.decode()
    model = Model.objects.get(slug="digits")
    assert model.created_by == "bob"
    assert [weight.role for weight in model.weights] == ["frozen"] * 2 + ["federated"] * 2


def test_a_refused_upload_is_an_error_of_the_form(sign_in: SignIn) -> None:
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("config.json", json.dumps({"class_name": "Evil"}))
        archive.writestr("model.weights.h5", b"")
    client = sign_in("bob", "operator")
    answer = client.post("/admin/models_app/model/add/", upload(package=buffer.getvalue()))
    assert answer.status_code == 200
    assert "a subclassed model is Python code" in answer.content.decode()
    assert not Model.objects.exists()


def test_a_viewer_uploads_nothing(sign_in: SignIn) -> None:
    assert sign_in("charlie", "viewer").get("/admin/models_app/model/add/").status_code == 403
