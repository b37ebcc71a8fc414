"""Models in the browser: their lineage by keyboard, what they confuse, and a photo tried."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from celery.contrib.testing.worker import start_worker
from django.contrib.auth.models import User
from playwright.sync_api import Page, expect

from client_sdk import wire
from fedserver.celery import app as celery_app
from models_app import blobs, registry
from models_app.evaluation import Evaluation
from models_app.models import Model, ModelVersion
from tests.browser.conftest import PATIENCE, Console, SignIn
from tests.client_sdk.test_photo import file_of, halves

Axe = Callable[[Page], None]
PASTE = """(bytes) => {
  const transfer = new DataTransfer();
  transfer.items.add(new File([new Uint8Array(bytes)], "pasted.png", { type: "image/png" }));
  dispatchEvent(new ClipboardEvent("paste", { clipboardData: transfer, bubbles: true }));
}"""


def measured(classes: int, right: int = 8) -> Evaluation:
    """Of ten examples of each class so many are recognised, the others are called the next one."""
    counts = np.diag([right] * classes) + np.roll(np.diag([10 - right] * classes), 1, axis=1)
    return Evaluation({"accuracy": right / 10, "loss": 0.5}, counts.tolist())


def candidate(model: Model, evaluation: Evaluation) -> ModelVersion:
    values = {spec.name: np.zeros(spec.shape, np.float32) for spec in model.federated}
    weights = blobs.put(wire.dumps(values))
    made = registry.add_candidate(model.pk, parent=registry.served(model.pk), weights=weights)
    registry.record_metrics(made, evaluation)
    return made


@pytest.fixture
def grown(tiny_model: Model) -> Model:
    """v1, v2 rejected, v3 served after it, v4 a rollback to v1, v5 a candidate."""
    first = registry.served(tiny_model.pk)
    registry.record_metrics(first, measured(3, 4))
    registry.reject(candidate(tiny_model, measured(3, 1)), reason="far worse")
    registry.publish(candidate(tiny_model, measured(3, 9)))
    registry.roll_back(tiny_model, first, reason="it calls dogs cats")
    candidate(tiny_model, measured(3, 8))
    return tiny_model


def test_the_lineage_is_walked_by_keyboard_and_told_in_words(
    signed_in: SignIn, victor: User, grown: Model, axe: Axe
) -> None:
    page = signed_in(victor)
    page.goto("/models/tiny/")
    summary = "5 versions, v4 is served, 1 rejected, 1 to be decided, 1 by rolling back."
    expect(page.get_by_text(summary)).to_be_visible()
    nodes = page.get_by_role("group", name="Versions, oldest first").get_by_role("link")
    expect(nodes).to_have_count(5)
    expect(nodes.nth(1)).to_have_accessible_name("v2, rejected, round, from v1, accuracy 0.100")
    assert [node.get_attribute("tabindex") for node in nodes.all()].count("0") == 1
    nodes.nth(3).focus()
    page.keyboard.press("Home")
    expect(nodes.nth(0)).to_be_focused()
    page.keyboard.press("ArrowRight")
    expect(page.locator(".lineage-told")).to_contain_text("Far worse.")
    axe(page)
    page.keyboard.press("Enter")
    page.wait_for_url("**/models/tiny/versions/2/")


def test_bob_publishes_and_the_open_page_follows(
    signed_in: SignIn, bob: User, grown: Model
) -> None:
    page = signed_in(bob)
    page.goto("/models/tiny/")
    page.locator("#waiting-5").get_by_role("link", name="Publish").click()
    page.get_by_role("dialog").get_by_role("button", name="Publish").click()
    expect(page.locator("#version-5")).to_contain_text("published")
    watched = page.context.new_page()
    watched.goto("/models/tiny/")
    expect(watched.locator("fs-connection")).to_contain_text("live")
    registry.roll_back(grown, grown.versions.get(number=4), reason="no, it was better")
    expect(watched.locator("#version-6")).to_contain_text("no, it was better")
    expect(watched.get_by_text("6 versions, v6 is served")).to_be_visible()


def test_who_is_taken_for_whom_is_a_table_that_can_be_read(
    signed_in: SignIn, victor: User, grown: Model, axe: Axe
) -> None:
    page = signed_in(victor, color_scheme="dark")
    page.goto("/models/tiny/versions/5/")
    row = page.locator(".confusion-table").get_by_role("row", name="b ")
    expect(row.get_by_role("cell").nth(1)).to_have_text("80")
    page.get_by_label("examples", exact=True).check()
    expect(row.get_by_role("cell").nth(1)).to_have_text("8")
    expect(page.get_by_text("a taken for b: 2 times")).to_be_visible()
    axe(page)


def test_a_hundred_classes_are_told_one_cell_at_a_time(
    signed_in: SignIn, victor: User, tiny_model: Model, axe: Axe
) -> None:
    candidate(tiny_model, measured(100))
    page = signed_in(victor)
    page.goto("/models/tiny/versions/2/")
    matrix = page.locator("canvas")
    matrix.focus()
    for key in ("ArrowDown", "ArrowRight", "ArrowRight"):
        page.keyboard.press(key)
    expect(page.get_by_text("1 is taken for 2 in 2 of 10 (20.0 %).")).to_be_visible()
    axe(page)


def test_a_refused_upload_keeps_what_was_typed_and_chosen(
    signed_in: SignIn, bob: User, tiny_model: Model, tmp_path: Path, watch_console: Console
) -> None:
    watch_console.expect("status of 422")
    file = tmp_path / "model.keras"
    file.write_bytes(b"no archive")
    page = signed_in(bob)
    page.goto("/models/new/")
    page.get_by_label("Slug").fill("tiny")
    page.get_by_label("Keras file").set_input_files(file)
    page.get_by_role("button", name="Register").click()
    expect(page.get_by_label("Slug")).to_be_focused()
    expect(page.locator(".errorlist")).to_contain_text("Expected a slug that is free")
    page.get_by_label("Slug").fill("iris")
    page.get_by_role("button", name="Register").click()
    expect(page.get_by_role("alert")).to_contain_text("which is a zip archive")
    assert not Model.objects.filter(slug="iris").exists()


# --- Try it ---------------------------------------------------------------------------------------


@pytest.fixture
def worker(server: str) -> Iterator[None]:
    """A real worker of the queue that has Keras, in a thread."""
    with start_worker(
        celery_app, pool="solo", queues=["evaluation"], perform_ping_check=False, loglevel="ERROR"
    ):
        yield


@pytest.mark.keras
def test_victor_tries_a_photo_and_then_what_is_none(
    signed_in: SignIn,
    victor: User,
    tmp_path: Path,
    axe: Axe,
    worker: None,
    watch_console: Console,
) -> None:
    photos()
    (tmp_path / "halves.png").write_bytes(file_of(halves()))
    (tmp_path / "notes.txt").write_text("no photo")
    page = signed_in(victor)
    page.goto("/models/halves/try/")
    page.locator("#photo").set_input_files(tmp_path / "halves.png")
    answer = page.locator(".answer")
    expect(answer.locator(".answer-label")).to_have_text("right", timeout=2000 * PATIENCE)
    expect(answer).to_contain_text("Version 1 answered in")
    expect(page.get_by_alt_text("Your photo as the model saw it")).to_be_visible()
    expect(page.get_by_alt_text("Your photo", exact=True)).to_be_visible()
    expect(page.get_by_role("list", name="All classes").get_by_role("listitem")).to_have_count(2)
    axe(page)
    page.get_by_label("Turn light into dark").check()
    expect(answer.locator(".answer-label")).to_have_text("left")
    page.locator("#photo").set_input_files(tmp_path / "notes.txt")
    expect(answer.get_by_text("That did not work.")).to_be_visible()
    page.get_by_label("Turn light into dark").uncheck()
    page.evaluate(PASTE, list(file_of(halves())))
    expect(answer.locator(".answer-label")).to_have_text("right")


def photos() -> Model:
    """A model that says on which half of a picture there is more light."""
    keras = pytest.importorskip("keras")
    from models_app import keras_bridge
    from models_app.packages import Package

    layers = keras.layers
    network = keras.Sequential(
        [layers.Input((2, 2, 1)), layers.Flatten(), layers.Dense(2, activation="softmax")]
    )
    kernel = np.array([[1, 0], [0, 1], [1, 0], [0, 1]], np.float32)
    network.set_weights([kernel, np.zeros(2, np.float32)])
    package = Package(
        architecture=json.loads(network.to_json()),
        weights=keras_bridge.manifest(network),
        tensors=keras_bridge.read_state(network),
        input_spec=wire.InputSpec((2, 2, 1), scale=1 / 255),
        objective={"loss": "sparse_categorical_crossentropy", "from_logits": False},
        outputs=2,
    )
    return registry.create_model("halves", package, labels=["left", "right"])
