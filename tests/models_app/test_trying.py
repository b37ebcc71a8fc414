"""A try: what goes from the door to the worker and back, and what is never kept."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
import redis
from django.conf import settings

from client_sdk.photo import PhotoRefused
from models_app import trying
from models_app.errors import TryBusy, TryRefused, TryTooLarge, TryUnanswered, TryUnsupported
from models_app.models import Model
from models_app.trying import Question
from tests.client_sdk.test_photo import bomb, file_of, halves

PHOTO = file_of(halves())
CROSS = "sparse_categorical_crossentropy"
Ring = Callable[[str], object]


def shaped(*shape: int | None, white: float = 255.0) -> Model:
    return Model(input_spec={"shape": list(shape), "white": white})


@pytest.fixture
def images(digits: Model) -> Model:
    """A model of images: its own worker opens a photo before it needs Keras."""
    digits.input_spec = {"shape": [8, 8, 1]}
    digits.save()
    return digits


@pytest.fixture
def ring(transactional_db: None, valkey: str, images: Model) -> Ring:
    """A worker behind the bell."""
    return lambda trial: Thread(target=trying.answer, args=(trial, images.pk)).start()


# --- What a model takes ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "takes"),
    [
        (shaped(8, 8, 1), "photo"),
        (shaped(None, None, 3), "photo"),
        (shaped(4), "row"),
        (shaped(None), ""),
        (shaped(10, 3), ""),
        (shaped(), ""),
    ],
)
def test_a_model_takes_photos_or_rows_or_neither(model: Model, takes: str) -> None:
    assert trying.takes(model) == takes


@pytest.mark.parametrize(
    "text",
    [
        "[1, 2.5, -3]",
        "1, 2.5, -3",
        "1;2.5;-3",
        "1\t2.5\t-3\n",
        "  1 2.5  -3 ",
        '"length","width","height"\r\n1,2.5,-3\r\n',
    ],
)
def test_a_row_is_read_however_people_write_it(text: str) -> None:
    question = trying.read_row(text, shaped(3))
    assert (json.loads(question.content), question.is_photo) == ([1.0, 2.5, -3.0], False)


@pytest.mark.parametrize(
    ("text", "received"),
    [
        ("", "0"),
        ("1, 2", "2"),
        ("[1, 2, 3, 4]", "4"),
        ("[1, true, 2]", "2"),
        ("a, b, c", "'a, b, c'"),
        ("1, 2, nan", "3"),
        ("[" * 9999, "'\\[\\["),
        ("[1, 2", "'\\[1, 2'"),
    ],
)
def test_a_row_that_does_not_fit_is_refused(text: str, received: str) -> None:
    with pytest.raises(TryRefused, match=f"Expected 3 finite numbers. Received: {received}"):
        trying.read_row(text, shaped(3))


def test_the_door_looks_at_size_and_first_bytes_only(settings: Any) -> None:
    assert trying.read_photo(PHOTO, invert=True) == Question(PHOTO, invert=True)
    with pytest.raises(TryUnsupported, match="Received: b'%PDF'"):
        trying.read_photo(b"%PDF")
    settings.MAX_PHOTO_BYTES = 10
    with pytest.raises(TryTooLarge, match="at most 10 bytes"):
        trying.read_photo(PHOTO)


# --- What a model says ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("outputs", "loss", "from_logits", "labels", "kind", "scores"),
    [
        ([0.25, 0.75], CROSS, False, ["a", "b"], "classes", {"a": 0.25, "b": 0.75}),
        ([0, np.log(3)], CROSS, True, [], "classes", {"0": 0.25, "1": 0.75}),
        ([1000, 0], CROSS, True, [], "classes", {"0": 1.0, "1": 0.0}),
        ([0.2], "binary_crossentropy", False, ["a", "b"], "classes", {"a": 0.8, "b": 0.2}),
        ([0.2], "binary_crossentropy", False, ["cat"], "classes", {"not cat": 0.8, "cat": 0.2}),
        ([0.0], "binary_crossentropy", True, [], "classes", {"0": 0.5, "1": 0.5}),
        ([0.9, 0.8], "binary_crossentropy", False, ["a", "b"], "labels", {"a": 0.9, "b": 0.8}),
        ([21.5], "mean_squared_error", False, ["price"], "values", {"price": 21.5}),
    ],
)
def test_outputs_become_scores(
    outputs: list[float],
    loss: str,
    from_logits: bool,
    labels: list[str],
    kind: str,
    scores: dict[str, float],
) -> None:
    objective = {"loss": loss, "from_logits": from_logits}
    found, rows = trying.readable(np.array(outputs, np.float32), objective, labels)
    assert found == kind
    assert {row["label"]: row["score"] for row in rows} == pytest.approx(scores)


@pytest.mark.parametrize("outputs", [np.zeros((2, 2)), np.array([np.nan, 1])])
def test_outputs_that_are_no_row_of_numbers_are_no_answer(outputs: Any) -> None:
    with pytest.raises(TryRefused, match="Expected one row of finite outputs"):
        trying.readable(outputs, {"loss": CROSS, "from_logits": False}, [])


# --- Between door and worker ----------------------------------------------------------------------


def test_the_worker_refuses_what_it_cannot_open(ring: Ring) -> None:
    whole = file_of(halves(200, 200))
    with pytest.raises(TryRefused, match="Expected a PNG that can be read"):
        trying.ask(Question(whole[: len(whole) // 2]), ring)
    with pytest.raises(TryTooLarge, match="Received: 10000 x 5000"):
        trying.ask(Question(bomb(10_000, 5_000)), ring)


def test_a_row_is_no_image(ring: Ring) -> None:
    with pytest.raises(TryRefused, match="Expected shape"):
        trying.ask(Question(b"[1, 2]", is_photo=False), ring)


def test_a_mistake_of_the_worker_is_an_answer_too(ring: Ring) -> None:
    with pytest.raises(TryRefused, match="its log tells"):
        trying.ask(Question(b"no JSON", is_photo=False), ring)


def test_alice_is_told_when_no_worker_comes(valkey: str) -> None:
    began = time.monotonic()
    with pytest.raises(TryUnanswered, match="none came") as told:
        trying.ask(Question(PHOTO), lambda trial: None, seconds=0.2)
    assert told.value.extra == {"taken": False}
    assert time.monotonic() - began < 2


def test_alice_is_told_when_the_broker_is_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nowhere = redis.Redis.from_url(f"unix://{tmp_path / 'nothing.sock'}")
    monkeypatch.setattr(trying, "_redis", lambda: nowhere)
    with pytest.raises(TryUnanswered, match="Expected a broker"):
        trying.ask(Question(PHOTO), lambda trial: None)


def test_a_worker_that_comes_too_late_does_nothing(valkey: str) -> None:
    trying.answer("a trial that nobody waits for", model_id=0)


def test_who_waits_does_not_keep_others_from_a_clear_answer(
    valkey: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ask_again(trial: str) -> None:
        with pytest.raises(TryBusy) as busy:
            trying.ask(Question(PHOTO), lambda trial: None)
        assert busy.value.extra == {"retry_after": 5}

    monkeypatch.setattr(trying, "_places", trying.BoundedSemaphore(1))
    with pytest.raises(TryUnanswered):
        trying.ask(Question(PHOTO), ask_again, seconds=0.1)
    with pytest.raises(TryUnanswered):  # its place is free again
        trying.ask(Question(PHOTO), lambda trial: None, seconds=0.1)


def test_a_photo_is_neither_kept_nor_written(ring: Ring, valkey: str) -> None:
    """The broker appends every write to a file: a photo must not be one of them."""
    marker = b"alice at the beach, nobody else's business"
    broken = PHOTO[:60] + marker
    with pytest.raises(TryRefused):
        trying.ask(Question(broken), ring)
    broker = redis.Redis.from_url(valkey)
    broker.set("witness", "this one is written")
    assert broker.keys() == [b"witness"]
    home = Path(settings.FEDSERVER_HOME)
    written = [path for path in home.rglob("*") if path.is_file()]
    assert any(b"this one is written" in path.read_bytes() for path in written)
    assert not any(marker in path.read_bytes() for path in written)


def test_what_the_floor_refuses_is_an_error_of_the_house() -> None:
    with pytest.raises(TryRefused, match="Received: rows"), trying._refusals():
        raise PhotoRefused("takes_no_photos", "Expected images. Received: rows")
