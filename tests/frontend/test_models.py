"""Models, versions and tries in pages: who sees what, and what each button does."""

import html
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from celery.contrib.testing.worker import start_worker
from django.conf import settings
from django.contrib.auth.models import User
from django.test import Client
from django.test.utils import override_script_prefix
from django.urls import reverse
from pytest_django import DjangoAssertNumQueries

from client_sdk import wire
from fedserver.celery import app as celery_app
from frontend.page import LIVE
from frontend.registry import compared, lineage
from journal.models import Event
from models_app import blobs, registry, trying
from models_app.evaluation import Evaluation
from models_app.models import Model, ModelVersion
from rounds import lifecycle
from rounds.models import Run
from tests.client_sdk.test_photo import bomb, file_of, halves
from tests.models_app.conftest import package, parts, tensors, weights
from tests.rounds.conftest import Enrolled

__all__ = ["package", "parts", "tensors", "weights"]  # fixtures, lent by the registry

pytestmark = pytest.mark.django_db
Stage = ModelVersion.Stage
PHOTO = file_of(halves())


def signed_in(user: User) -> Client:
    client = Client()
    client.force_login(user)
    return client


@pytest.fixture
def operator(bob: User) -> Client:
    return signed_in(bob)


@pytest.fixture
def viewer(victor: User) -> Client:
    return signed_in(victor)


def in_words(answer: Any) -> str:
    text = re.sub(r"<(script|style).*?</\1>", "", answer.content.decode(), flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", text)).split())


def read(client: Client, path: str, status: int = 200, **query: Any) -> str:
    """A page as people read it: its text in one line."""
    answer = client.get(path, query)
    assert answer.status_code == status
    return in_words(answer)


def data_of(answer: Any, name: str) -> Any:
    """What a page tells a drawing."""
    found = re.search(rf'<script id="{name}" type="application/json">(.*?)</script>', answer)
    assert found
    return json.loads(found[1])


def candidate(model: Model, accuracy: float = 0.9, **options: Any) -> ModelVersion:
    """What a round would add, measured."""
    values = {spec.name: np.zeros(spec.shape, np.float32) for spec in model.federated}
    made = registry.add_candidate(
        model.pk,
        parent=registry.served(model.pk),
        weights=blobs.put(wire.dumps(values)),
        **options,
    )
    confusion = [[8, 1, 1], [2, 1, 1], [0, 0, 6]]
    registry.record_metrics(made, Evaluation({"accuracy": accuracy, "loss": 0.25}, confusion))
    return made


@pytest.fixture
def grown(tiny_model: Model) -> Model:
    """v1 archived, v2 rejected, v3 archived, v4 a rollback to v1 and served, v5 a candidate."""
    first = registry.served(tiny_model.pk)
    registry.record_metrics(first, Evaluation({"accuracy": 0.5, "loss": 1.5}))
    registry.reject(candidate(tiny_model, 0.1), reason="far worse")
    registry.publish(candidate(tiny_model, 0.8))
    registry.roll_back(tiny_model, first, reason="the new one calls dogs cats", actor="alice")
    candidate(tiny_model, 0.75)
    return tiny_model


# --- The list -------------------------------------------------------------------------------------


def test_an_empty_server_says_what_a_model_is_and_what_to_do(
    operator: Client, viewer: Client
) -> None:
    assert "No model yet" in read(operator, "/models/")
    assert "Register a model" in read(operator, "/models/")
    told = read(viewer, "/models/")
    assert "An operator can register one." in told
    assert "Register a model" not in told


def test_each_model_is_told_with_what_it_serves(
    viewer: Client, grown: Model, enrolled: Callable[..., Enrolled]
) -> None:
    run = Run.objects.create(model=grown, name="spring")
    lifecycle.start_run(run.pk, actor="bob")
    told = read(viewer, "/models/")
    assert "Tiny running spring serves v4 accuracy 50.0 % versions 5 run 1 participants 0" in told
    assert "Try it" in told


def test_the_list_asks_no_more_for_many_models(
    viewer: Client, grown: Model, package: Any, django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    def cost() -> int:
        with django_assert_num_queries(10) as asked:
            viewer.get("/models/")
        return len(asked)

    before = cost()
    for number in range(5):
        registry.create_model(f"model-{number}", package)
    assert cost() == before


# --- One model ------------------------------------------------------------------------------------


def test_versions_stand_side_by_side_with_origin_and_reason(viewer: Client, grown: Model) -> None:
    told = read(viewer, "/models/tiny/")
    assert re.search(r"served since .* v4 accuracy 50.0 % loss 1.5 versions 5", told)
    assert "v5 is a candidate : it is served once somebody publishes it." in told
    assert "Accuracy 75.0 %, against 50.0 % of v4" in told
    assert re.search(r"v4 0\.5 1\.5 published rollback v1 .* the new one calls dogs cats", told)
    assert re.search(r"v2 0\.1 0\.25 rejected round v1 .* far worse", told)


def test_a_version_links_to_the_round_that_made_it(viewer: Client, grown: Model) -> None:
    run = Run.objects.create(model=grown, name="spring", quorum=1)
    made = grown.versions.get(number=3)
    base = grown.versions.get(number=1)
    made_by = run.rounds.create(number=2, base=base, version=made, quorum=1, phase="published")
    page = viewer.get("/models/tiny/").content.decode()
    assert f'<a href="/rounds/{made_by.pk}/">round 2</a>' in page
    assert data_of(page, "lineage-data")["versions"][2]["made_by"] == "round 2 of spring"
    told = read(viewer, "/models/tiny/versions/3/")
    assert "made by round 2 of spring" in told


def test_the_table_is_sorted_as_one_wishes(viewer: Client, grown: Model) -> None:
    def order(**query: str) -> list[str]:
        page = viewer.get("/models/tiny/", query).content.decode()
        return re.findall(r'<tr id="version-(\d)"', page)

    assert order() == ["5", "4", "3", "2", "1"]
    assert order(order="number") == ["1", "2", "3", "4", "5"]
    assert order(order="-accuracy") == ["3", "5", "4", "1", "2"]
    assert order(order="loss")[-2:] == ["4", "1"]
    assert order(order="nonsense") == order()
    page = viewer.get("/models/tiny/?order=-accuracy").content.decode()
    assert 'aria-sort="descending"><a href="?order=accuracy' in page


def test_a_long_history_is_shown_in_part_until_somebody_asks(
    viewer: Client, tiny_model: Model
) -> None:
    first = registry.served(tiny_model.pk)
    ModelVersion.objects.bulk_create(
        ModelVersion(
            model=tiny_model,
            number=number,
            parent=first,
            origin="round",
            stage="rejected",
            weights=first.weights,
            weights_bytes=1,
        )
        for number in range(2, 42)
    )
    page = viewer.get("/models/tiny/").content.decode()
    assert page.count('<tr id="version-') == 30
    assert "Show all 41" in page
    assert len(data_of(page, "lineage-data")["versions"]) == 41
    assert viewer.get("/models/tiny/?all").content.decode().count('<tr id="version-') == 41


def test_a_models_page_asks_no_more_for_many_versions(
    operator: Client, tiny_model: Model, django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    for _ in range(2):
        with django_assert_num_queries(13):
            operator.get("/models/tiny/")
        for _ in range(6):
            candidate(tiny_model)


def test_a_viewer_sees_no_button_that_decides(
    viewer: Client, operator: Client, grown: Model
) -> None:
    for path in ("/models/tiny/", "/models/tiny/versions/5/"):
        assert "/publish/" in operator.get(path).content.decode()
        page = viewer.get(path).content.decode()
        for word in ("/publish/", "/reject/", "/roll-back/", "/measure/", "/runs/new/"):
            assert word not in page


def test_the_live_part_is_drawn_once_for_all_of_a_role(
    operator: Client, alice: User, grown: Model, valkey: str, django_assert_num_queries: Any
) -> None:
    heard = {LIVE: str(Event.objects.latest("id").pk)}
    first = operator.get("/models/tiny/", headers=heard)
    assert "<html" not in first.content.decode()
    again = operator.get("/models/tiny/", headers=heard)
    assert again.content == first.content


def test_an_unknown_model_is_not_found(viewer: Client, tiny_model: Model) -> None:
    for path in ("nothing/", "nothing/try/", "nothing/versions/1/", "tiny/versions/9/"):
        assert viewer.get(f"/models/{path}").status_code == 404


def test_a_stranger_signs_in_first(tiny_model: Model) -> None:
    for path in ("", "new/", "tiny/", "tiny/try/", "tiny/versions/1/", "tiny/versions/1/publish/"):
        answer = Client().get(f"/models/{path}")
        assert (answer.status_code, answer["Location"][:9]) == (302, "/sign-in/")


def test_addresses_keep_the_prefix_that_the_server_has(viewer: Client, grown: Model) -> None:
    with override_script_prefix("/user/x/proxy/"):
        page = viewer.get("/models/tiny/").content.decode()
    known = ("/user/x/proxy/", "#", "?", "/static/")
    assert not [href for href in re.findall(r'href="([^"]*)"', page) if not href.startswith(known)]


def test_the_picture_knows_where_versions_come_from(grown: Model) -> None:
    versions = list(grown.versions.select_related("parent").order_by("-number"))
    found = lineage(grown, versions, {})
    assert found["metric"] == "accuracy"
    told = [(one["number"], one["parent"], one["stage"]) for one in found["versions"]]
    assert told == [
        (1, None, "archived"),
        (2, 1, "rejected"),
        (3, 1, "archived"),
        (4, 1, "published"),
        (5, 4, "candidate"),
    ]


# --- One version ----------------------------------------------------------------------------------


def test_a_version_is_compared_with_its_parent_and_what_is_served(grown: Model) -> None:
    versions = {one.number: one for one in grown.versions.select_related("parent")}
    accuracy, loss = compared(versions[3], versions[4])
    assert (accuracy["name"], accuracy["value"]) == ("Accuracy", 0.8)
    assert accuracy["parent"]["word"] == "better"
    assert accuracy["parent"]["change"] == pytest.approx(0.3)
    assert (loss["parent"]["number"], loss["served"]["number"]) == (1, 4)
    assert (loss["served"]["word"], loss["served"]["size"]) == ("better", 1.25)
    assert compared(versions[4], versions[4])[0]["served"] is None


def test_the_worst_class_is_named_in_a_sentence(viewer: Client, grown: Model) -> None:
    told = read(viewer, "/models/tiny/versions/5/")
    assert "b is recognised least: 1 of 4 (25.0 %); most often it is taken for a (2 times)." in told
    page = viewer.get("/models/tiny/versions/5/").content.decode()
    assert data_of(page, "confusion-data") == {
        "labels": ["a", "b", "c"],
        "counts": [[8, 1, 1], [2, 1, 1], [0, 0, 6]],
    }
    bars = data_of(page, "bars-data")["scores"]
    assert [(bar["label"], bar["note"]) for bar in bars] == [
        ("b", "1 of 4"),
        ("a", "8 of 10"),
        ("c", "6 of 6"),
    ]


def test_a_version_without_a_matrix_says_why(viewer: Client, grown: Model) -> None:
    told = read(viewer, "/models/tiny/versions/1/")
    assert "There is no confusion matrix of this version" in told
    assert "Measure again" not in told


def test_a_version_that_nothing_measured_says_so(viewer: Client, tiny_model: Model) -> None:
    assert "Tiny has no evaluation set" in read(viewer, "/models/tiny/versions/1/")


# --- Decisions ------------------------------------------------------------------------------------


def decide(client: Client, path: str, reason: str = "because") -> Any:
    return client.post(f"/models/tiny/versions/{path}", {"reason": reason})


def test_bob_publishes_a_candidate_and_the_journal_knows_why(
    operator: Client, grown: Model
) -> None:
    assert "It is served from now on" in read(operator, "/models/tiny/versions/5/publish/")
    answer = decide(operator, "5/publish/?served=4", "better on dogs")
    assert (answer.status_code, answer["Location"]) == (302, "/models/tiny/")
    assert registry.served(grown.pk).number == 5
    line = Event.objects.filter(kind="version.published").latest("id")
    assert (line.actor, line.reason) == ("bob", "better on dogs")
    assert "tiny v5 is published." in read(operator, "/models/tiny/")


def test_bob_rolls_back_and_rejects(operator: Client, grown: Model) -> None:
    assert decide(operator, "3/roll-back/?served=4").status_code == 302
    served = registry.served(grown.pk)
    assert (served.number, served.parent and served.parent.number) == (6, 3)
    assert decide(operator, "5/reject/?served=6").status_code == 302
    assert grown.versions.get(number=5).stage == Stage.REJECTED


@pytest.mark.parametrize("path", ["5/publish/?served=3", "3/roll-back/?served=1"])
def test_nothing_happens_when_another_version_is_served_by_now(
    operator: Client, grown: Model, path: str
) -> None:
    answer = decide(operator, path)
    assert answer.status_code == 409
    assert "to be served still. Received: tiny v4" in in_words(answer)
    assert registry.served(grown.pk).number == 4


def test_a_reason_must_be_given_for_what_cannot_be_taken_back(
    operator: Client, grown: Model
) -> None:
    assert "This field is required." in in_words(decide(operator, "5/reject/", ""))
    assert grown.versions.get(number=5).stage == Stage.CANDIDATE


def test_the_verb_refuses_in_the_form(operator: Client, grown: Model) -> None:
    answer = decide(operator, "2/publish/")
    assert (answer.status_code, "which is rejected" in in_words(answer)) == (409, True)
    assert operator.get("/models/tiny/versions/2/dance/").status_code == 404


def test_a_viewer_decides_nothing(viewer: Client, grown: Model) -> None:
    for verb in ("publish", "reject", "roll-back", "measure"):
        assert decide(viewer, f"5/{verb}/").status_code == 403
    assert registry.served(grown.pk).number == 4


def test_bob_has_a_version_measured_again(operator: Client, grown: Model, valkey: str) -> None:
    Model.objects.filter(pk=grown.pk).update(evaluation_set="0" * 64)
    assert "Measure again" in read(operator, "/models/tiny/versions/1/")
    answer = decide(operator, "1/measure/", "it had no matrix")
    assert answer["Location"] == "/models/tiny/versions/1/"
    line = Event.objects.get(kind="version.measuring")
    assert (line.actor, line.reason) == ("bob", "it had no matrix")


# --- Registering ----------------------------------------------------------------------------------


@pytest.mark.alike
def test_bob_registers_a_model_from_its_two_parts(operator: Client, parts: dict[str, Path]) -> None:
    with (
        parts["architecture"].open("rb") as architecture,
        parts["weights"].open("rb") as weights,
        parts["evaluation"].open("rb") as evaluation,
    ):
        answer = operator.post(
            "/models/new/",
            {
                "slug": "iris",
                "name": "Iris",
                "architecture": architecture,
                "weights": weights,
                "evaluation": evaluation,
                "labels": "cat\r\ndog\r\n",
                "scale": "1/4",
            },
        )
    assert answer["Location"] == "/models/iris/"
    made = Model.objects.get(slug="iris")
    assert (made.labels, made.input_spec["scale"]) == (["cat", "dog"], 0.25)
    first = registry.served(made.pk)
    assert first.created_by == "bob"
    assert sum(map(sum, first.confusion or [])) == 20
    assert "iris is registered, and serves version 1." in read(operator, "/models/iris/")


@pytest.mark.parametrize(
    ("given", "field", "error"),
    [
        ({"slug": "a b"}, "slug", "Expected letters, digits, - and _"),
        ({"slug": "tiny"}, "slug", "Expected a slug that is free"),
        ({"slug": "new"}, "slug", "/models/new/ is a page"),
        ({"package": None}, "package", "Received: neither"),
        ({"weights": b"x"}, "package", "Received: both"),
        ({"package": None, "weights": b"x"}, "architecture", "Expected both parts"),
        ({"scale": "a lot"}, "scale", "Expected a number, or 1/255. Received: a lot"),
        ({}, None, "Expected a .keras file, which is a zip archive"),
    ],
)
def test_what_is_wrong_stands_at_its_field(
    operator: Client, tiny_model: Model, tmp_path: Path, given: Any, field: str | None, error: str
) -> None:
    form: dict[str, Any] = {"slug": "iris", "package": b"no zip"} | given
    for name, content in list(form.items()):
        if isinstance(content, bytes):
            (tmp_path / name).write_bytes(content)
            form[name] = (tmp_path / name).open("rb")
        elif content is None:
            del form[name]
    answer = operator.post("/models/new/", form)
    assert answer.status_code == 422
    errors = answer.context["form"].errors
    assert error in " ".join(errors[field or "__all__"])
    assert error in in_words(answer)
    assert Model.objects.count() == 1


def test_a_viewer_registers_nothing(viewer: Client) -> None:
    assert viewer.get("/models/new/").status_code == 403
    assert viewer.post("/models/new/", {"slug": "iris"}).status_code == 403


# --- Try it ---------------------------------------------------------------------------------------


@pytest.fixture
def images(tiny_model: Model) -> Model:
    tiny_model.input_spec = {"shape": [8, 8, 1], "scale": 1 / 255}
    tiny_model.save()
    return tiny_model


@pytest.fixture
def worker(transactional_db: None, valkey: str) -> Iterator[None]:
    """A real worker of the queue that has Keras, in a thread."""
    with start_worker(
        celery_app, pool="solo", queues=["evaluation"], perform_ping_check=False, loglevel="ERROR"
    ):
        yield


def ask(client: Client, content: bytes, kind: str = "image/png", query: str = "") -> Any:
    return client.post(f"/models/tiny/try/{query}", content, content_type=kind)


def test_the_page_says_what_the_model_takes(viewer: Client, tiny_model: Model) -> None:
    assert "2 numbers" in read(viewer, "/models/tiny/try/")
    tiny_model.input_spec = {"shape": [8, 8, 3]}
    tiny_model.save()
    assert "Drop a photo here" in read(viewer, "/models/tiny/try/")
    tiny_model.input_spec = {"shape": [None]}
    tiny_model.save()
    told = read(viewer, "/models/tiny/try/")
    assert "It takes neither photos nor a row of numbers" in told
    assert "Drop a photo" not in told


@pytest.mark.parametrize(
    ("content", "kind", "status", "code"),
    [
        (b"%PDF-1.7", "image/png", 415, "photo_unsupported"),
        (PHOTO, "application/pdf", 415, "photo_unsupported"),
        (b"1, 2", "text/plain", 415, "photo_unsupported"),
        (b"\xff\xd8\xff" + bytes(settings.MAX_PHOTO_BYTES), "image/jpeg", 413, "photo_too_large"),
    ],
    ids=["no photo", "no image", "text", "too large"],
)
def test_the_door_refuses_at_once(
    viewer: Client, images: Model, content: bytes, kind: str, status: int, code: str
) -> None:
    answer = ask(viewer, content, kind)
    assert (answer.status_code, answer.json()["code"]) == (status, code)


def test_a_model_of_rows_takes_no_photo(viewer: Client, tiny_model: Model) -> None:
    answer = ask(viewer, b"1, 2, 3", "text/plain")
    assert (answer.status_code, answer.json()["code"]) == (422, "try_refused")
    assert answer.json()["detail"] == "Expected 2 finite numbers. Received: 3"


@pytest.mark.parametrize(
    ("content", "status", "code"),
    [
        (file_of(halves(200, 200))[:100], 422, "try_refused"),
        (bomb(10_000, 5_000), 413, "photo_too_large"),
    ],
    ids=["broken", "bomb"],
)
def test_a_worker_refuses_what_it_cannot_open(
    worker: None, viewer: Client, images: Model, content: bytes, status: int, code: str
) -> None:
    lines = Event.objects.count()
    answer = ask(viewer, content)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert Event.objects.count() == lines  # the journal tells nothing of a photo


def test_victor_is_told_that_no_worker_is_there(
    viewer: Client, images: Model, valkey: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trying.ask, "__kwdefaults__", {"seconds": 0.2})
    answer = ask(viewer, PHOTO)
    assert (answer.status_code, answer.json()["code"]) == (503, "try_unanswered")
    assert answer.json()["taken"] is False


def test_the_page_is_where_its_name_says(tiny_model: Model) -> None:
    assert reverse("frontend:try", args=("tiny",)) == "/models/tiny/try/"


def test_only_operators_ask_participants_to_evaluate(
    operator: Client, viewer: Client, tiny_model: Model
) -> None:
    page = "/models/tiny/versions/1/"
    assert "“Ask participants” does" in in_words(operator.get(page))
    assert "An operator may ask participants" in in_words(viewer.get(page))
    asked = {"goal": 3, "minimum": 3, "seconds": 60, "reason": "before the board meets"}
    assert viewer.post(f"{page}evaluate/", asked).status_code == 403
    refused = operator.post(f"{page}evaluate/", asked | {"minimum": 4})
    assert "Expected a whole number from 4 to 1000000" in in_words(refused)
    assert operator.post(f"{page}evaluate/", asked).url == page  # type: ignore[attr-defined]
    again = operator.get(page)
    assert "Cancel the evaluation" in in_words(again)
    assert "Nobody was asked" not in in_words(again)
    assert operator.post(f"{page}cancel-evaluation/", {"reason": ""}).status_code == 302
    assert Event.objects.get(kind="evaluation.cancelled").actor == "bob"


def test_what_participants_measured_stands_by_itself_and_in_the_table_of_versions(
    viewer: Client, tiny_model: Model
) -> None:
    first = registry.served(tiny_model.pk)
    registry.record_metrics(first, Evaluation({"accuracy": 0.5}))
    registry.record_federated(first, {"accuracy": 0.25})
    assert [row["name"] for row in compared(first, first)] == ["Accuracy"]
    assert "Federated accuracy" in in_words(viewer.get("/models/tiny/"))
