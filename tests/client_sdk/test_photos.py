"""Alice's photos: kept by label without a trace of where they were taken, and recognised."""

from __future__ import annotations

import doctest
import io
import json
import math
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import numpy as np
import PIL.Image
import pytest
from websockets.sync.client import connect
from websockets.typing import Origin

from client_sdk import folder, photos
from client_sdk.errors import ProfileInUse, ServerUnreachable
from client_sdk.notebook import photo_labeller
from client_sdk.objective import Objective
from client_sdk.photo import PhotoRefused
from client_sdk.photos import app, neighbours, taking_part
from client_sdk.photos import gallery as galleries
from client_sdk.photos import labeller as labellers
from client_sdk.photos.gallery import Gallery, GalleryRefused
from client_sdk.photos.labeller import FEW, Labeller
from client_sdk.testing import FakeServer, FakeTrainer
from client_sdk.wire import InputSpec
from tests.labelling import (
    LABELS,
    FruitModel,
    Gardener,
    fruit,
    fruit_server,
    gardener,
    jpeg,
)
from tests.waiting import until


@pytest.fixture
def server() -> FakeServer:
    return fruit_server()


@pytest.fixture
def alice(server: FakeServer) -> Iterator[Gardener]:
    participant = gardener(server)
    yield participant
    participant.close()


@pytest.fixture
def gallery(tmp_path: Path) -> Gallery:
    return Gallery(tmp_path / "photos")


@pytest.fixture
def labeller(alice: Gardener, gallery: Gallery, server: FakeServer) -> Iterator[Labeller]:
    options = {"trainer": FakeTrainer(weights=server.weights), "verdicts": 0.0}
    found = Labeller(alice, gallery, options=options)
    found.start()
    until(lambda: found.state()["busy"] is None and found.state()["model"])
    yield found
    found.close()


def apple(seed: int = 0, **options: Any) -> bytes:
    return jpeg(fruit("apple", seed, (320, 240)), **options)


def opened(path: Path) -> PIL.Image.Image:
    return PIL.Image.open(io.BytesIO(path.read_bytes()))


def files(gallery: Gallery) -> list[str]:
    home = gallery.path
    return sorted(str(one.relative_to(home)) for one in home.rglob("*") if one.is_file())


# --- On disk ------------------------------------------------------------------------------------


def test_nothing_but_the_picture_is_kept(gallery: Gallery) -> None:
    found = gallery.add(apple())
    written = found.path.read_bytes()
    for trace in (b"Exif", b"Telephone", b"at home", b"ICC_PROFILE", b"alice"):
        assert trace not in written
    picture = opened(found.path)
    assert not picture.getexif()
    assert picture.info.keys() <= {"jfif", "jfif_version", "jfif_unit", "jfif_density"}


@pytest.mark.skipif(os.name != "posix", reason="Windows has other rights")
def test_nobody_else_on_the_machine_may_look(gallery: Gallery) -> None:
    gallery.label(gallery.add(apple()).id, "apple")
    gallery.add(apple(seed=1))
    for home in (gallery.path, gallery.path / ".waiting", gallery.path / "apple"):
        assert home.stat().st_mode & 0o077 == 0


def test_a_photo_taken_sideways_is_kept_upright(gallery: Gallery) -> None:
    sideways = fruit("plum", size=(320, 240)).transpose(PIL.Image.Transpose.ROTATE_90)
    found = gallery.add(jpeg(sideways, orientation=6))
    assert opened(found.path).size == (320, 240)


def test_a_large_photo_is_kept_smaller_and_undistorted(gallery: Gallery) -> None:
    found = gallery.add(jpeg(PIL.Image.new("RGB", (3000, 1500), "red")))
    assert opened(found.path).size == (1024, 512)


def test_a_small_drawing_keeps_every_pixel(gallery: Gallery) -> None:
    pixels = np.random.default_rng(1).integers(0, 255, (8, 8, 3), dtype=np.uint8)
    file = io.BytesIO()
    PIL.Image.fromarray(pixels).save(file, "PNG", pnginfo=None)
    found = gallery.add(file.getvalue())
    np.testing.assert_array_equal(np.asarray(opened(found.path)), pixels)


def test_the_same_photo_twice_is_one(gallery: Gallery) -> None:
    first = gallery.add(apple())
    gallery.label(first.id, "apple")
    without_place = io.BytesIO()
    fruit("apple", 0, (320, 240)).save(without_place, "JPEG", quality=90)
    assert without_place.getvalue() != apple()
    assert gallery.add(without_place.getvalue()).id == first.id
    # Nor does the gallery's own file, dropped on it again, become another photo.
    again = gallery.add(gallery.find(first.id).path.read_bytes())
    assert (again.id, again.label) == (first.id, "apple")
    assert gallery.counts() == {"apple": 1}


def test_to_label_relabel_and_delete_moves_one_file(gallery: Gallery) -> None:
    found = gallery.add(apple())
    assert [one.id for one in gallery.waiting()] == [found.id]
    gallery.label(found.id, "T-shirt/top")
    assert files(gallery) == [f"T-shirt%2Ftop/{found.id}.jpg"]
    gallery.label(found.id, "apple")
    assert files(gallery) == [f"apple/{found.id}.jpg"]
    gallery.delete(found.id)
    assert files(gallery) == []
    back = gallery.undo()
    assert back is not None
    assert back.label == "apple"
    assert gallery.undo() is None
    assert files(gallery) == [f"apple/{found.id}.jpg"]


def test_what_a_person_put_there_by_hand_takes_part_and_overwrites_nothing(
    gallery: Gallery,
) -> None:
    for label in ("apple", "plum"):
        home = gallery.path / label
        home.mkdir(parents=True)
        (home / "1.png").write_bytes(galleries.encode(fruit(label, size=(40, 40)))[0])
    apple_1 = next(one for one in gallery.photos("apple"))
    gallery.label(apple_1.id, "plum")
    assert files(gallery) == ["plum/1-2.png", "plum/1.png"]
    assert gallery.counts() == {"plum": 2}


@pytest.mark.parametrize("id_", ["", "..", "../../etc/passwd", "apple/1.png", "f" * 32])
def test_a_photo_is_named_by_its_id_and_never_by_a_path(gallery: Gallery, id_: str) -> None:
    gallery.label(gallery.add(apple()).id, "apple")
    for deed in (gallery.find, gallery.read, gallery.delete):
        with pytest.raises(GalleryRefused, match="Received: "):
            deed(id_)
    assert gallery.counts() == {"apple": 1}


@pytest.mark.parametrize("label", ["../outside", "/etc", "..", ".waiting", "a\0b"])
def test_no_label_leads_out_of_the_folder(gallery: Gallery, label: str) -> None:
    found = gallery.label(gallery.add(apple()).id, label)
    assert found.path.resolve().is_relative_to(gallery.path.resolve())
    assert found.path.parent.parent == gallery.path
    assert gallery.images.labels() == [label]


def test_whoever_is_killed_while_writing_leaves_no_half_a_photo(
    gallery: Gallery, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(_: int) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", killed)
        with pytest.raises(KeyboardInterrupt):
            gallery.add(apple())
    assert gallery.waiting() == []
    begun = Gallery(gallery.path)
    assert files(begun) == []
    assert len([begun.add(apple())]) == len(begun.waiting()) == 1


def test_what_waits_for_a_label_waits_over_a_restart(gallery: Gallery) -> None:
    found = gallery.add(apple())
    assert [one.id for one in Gallery(gallery.path).waiting()] == [found.id]


def test_broken_files_are_refused_and_leave_nothing(gallery: Gallery) -> None:
    for content in (b"", b"%PDF-1.7", apple()[:300]):
        with pytest.raises(PhotoRefused):
            gallery.add(content)
    assert files(gallery) == []


# --- What the labeller says ---------------------------------------------------------------------


def do(labeller: Labeller, verb: str, *buffers: bytes, **content: Any) -> dict[str, Any]:
    answer, _ = labeller.handle({"do": verb, **content}, buffers)
    assert "error" not in answer, answer
    return answer


def refused(labeller: Labeller, content: Any, *buffers: bytes) -> str:
    answer, _ = labeller.handle(content, buffers)
    assert answer["error"]["text"]
    code: str = answer["error"]["code"]
    return code


def label(labeller: Labeller, name: str, seeds: int) -> None:
    for seed in range(seeds):
        id_ = do(labeller, "add", jpeg(fruit(name, seed, (320, 240))))["photo"]["id"]
        do(labeller, "label", id=id_, label=name)


def test_a_photo_is_recognised_at_once_with_all_labels(labeller: Labeller) -> None:
    id_ = do(labeller, "add", apple())["photo"]["id"]
    assert labeller.state()["waiting"][0]["top"]["label"] == "apple"
    answer, buffers = labeller.handle({"do": "look", "id": id_})
    assert answer["scores"][0]["label"] == "apple"
    assert {one["label"] for one in answer["scores"]} == set(LABELS)
    assert sum(one["score"] for one in answer["scores"]) == pytest.approx(1)
    assert answer["version"] == 1
    # The picture, and what the model sees of it.
    assert PIL.Image.open(io.BytesIO(buffers[0])).size == (320, 240)
    assert PIL.Image.open(io.BytesIO(buffers[1])).size == (32, 32)


def test_sixteen_photos_are_labelled_as_they_were_recognised(labeller: Labeller) -> None:
    for seed in range(4):
        for name in LABELS:
            do(labeller, "add", jpeg(fruit(name, seed, (320, 240))))
    assert len(labeller.state()["waiting"]) == 16
    assert do(labeller, "label_all") == {"labelled": 16, "left": 0}
    counts = {one["label"]: one["count"] for one in labeller.state()["labels"]}
    assert counts == {"apple": 4, "lemon": 8, "pear": 0, "plum": 4}  # as version 1 has it
    assert do(labeller, "gallery", start=10, count=120)["total"] == 16
    assert len(do(labeller, "gallery", start=10, count=120)["photos"]) == 6
    assert do(labeller, "gallery", label="plum")["total"] == 4


def test_a_photo_that_cannot_be_labelled_as_recognised_stops_no_other(
    alice: Gardener, gallery: Gallery
) -> None:
    alice.has = FruitModel(labels=["", "lemon ", "x" * 300, "plum"])
    labeller = begun(alice, gallery)
    for name in LABELS:
        do(labeller, "add", jpeg(fruit(name, 0, (320, 240))))
    assert do(labeller, "label_all") == {"labelled": 3, "left": 1}
    counts = {one["label"]: one["count"] for one in labeller.state()["labels"]}
    assert (counts["lemon "], counts["plum"]) == (2, 1)  # version 1 takes a pear for a lemon
    [one] = labeller.state()["waiting"]
    assert do(labeller, "label", id=one["id"], label="lemon ")["photo"]["label"] == "lemon "


def test_labels_are_those_of_the_model(labeller: Labeller) -> None:
    id_ = do(labeller, "add", apple())["photo"]["id"]
    assert refused(labeller, {"do": "label", "id": id_, "label": "banana"}) == "label_unknown"
    assert refused(labeller, {"do": "label", "id": "no", "label": "plum"}) == "photo_unknown"


def test_photos_of_other_labels_are_shown_and_not_counted_in(labeller: Labeller) -> None:
    home = labeller.gallery.path / "banana"
    home.mkdir(parents=True)
    (home / "1.jpg").write_bytes(apple())
    state = labeller.state()
    assert {"label": "banana", "count": 1, "known": False} in state["labels"]
    assert (state["total"], state["usable"], state["few"]) == (1, 0, FEW)
    assert refused(labeller, {"do": "train"}) == "no_data"


def test_numbers_that_json_cannot_tell_reach_no_page(labeller: Labeller, gallery: Gallery) -> None:
    settings = {"learning_rate": 0.1, "epochs": 1, "more": math.inf, "nested": {}}
    assert taking_part._settings(settings) == {"learning_rate": 0.1, "epochs": 1}
    do(labeller, "add", apple())
    [memory] = (gallery.path / ".recognised").iterdir()
    told = json.loads(memory.read_text())
    [id_] = told["1"]
    told["1"][id_][1] = math.nan
    memory.write_text(json.dumps(told))
    state = begun(labeller._participant, gallery).state()
    json.dumps(state, allow_nan=False)


@pytest.mark.skipif(not neighbours.CONNECTIONS.exists(), reason="this system tells nobody")
def test_who_has_the_link_and_is_another_user_of_the_machine_is_not_let_in(
    labeller: Labeller, monkeypatch: pytest.MonkeyPatch
) -> None:
    with app.running(labeller) as door:
        monkeypatch.setattr(neighbours, "_ours", lambda: {os.getuid() + 1})
        assert httpx.get(door.link).status_code == 403
        monkeypatch.undo()
        assert "set-cookie" in httpx.get(door.link).headers  # and the link is good still


def test_a_folder_that_cannot_be_read_for_a_moment_stops_no_page(
    labeller: Labeller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app, "_AGAIN", 0.01)
    said, state = [OSError("the drive was pulled out")], labeller.state
    monkeypatch.setattr(labeller, "state", lambda: state() if not said else throw(said.pop()))
    with app.running(labeller) as door:
        cookie = httpx.get(door.link).headers["set-cookie"].partition(";")[0]
        address = f"{door.address.replace('http', 'ws')}/live"
        with connect(
            address, additional_headers={"Cookie": cookie}, origin=Origin(door.address)
        ) as page:
            frame = page.recv(10)
            assert isinstance(frame, bytes)
            assert app.unpacked(frame)[0]["state"]["total"] == 0


def throw(error: Exception) -> Any:
    raise error


@pytest.mark.parametrize("told", ["", "heading\n", "heading\n 0: nonsense\n", None])
def test_where_the_system_does_not_tell_who_asks_the_link_is_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: str | None
) -> None:
    monkeypatch.setattr(neighbours, "CONNECTIONS", tmp_path / "tcp")
    if told is not None:
        (tmp_path / "tcp").write_text(told)
    assert neighbours.is_ours(("127.0.0.1", 1), ("127.0.0.1", 2))


@pytest.mark.parametrize(
    "content",
    [
        None,
        [],
        {},
        {"do": "start"},
        {"do": ["add"]},
        {"do": "add"},
        {"do": "look"},
        {"do": "look", "id": 7},
        {"do": "label", "id": "x" * 5000, "label": "apple"},
        {"do": "gallery", "start": -1},
        {"do": "gallery", "count": "all"},
    ],
)
def test_what_a_page_should_not_say_is_refused(labeller: Labeller, content: Any) -> None:
    assert refused(labeller, content) in ("message_unknown", "message_invalid")


def test_small_pictures_are_given_for_what_is_there(labeller: Labeller) -> None:
    id_ = do(labeller, "add", apple())["photo"]["id"]
    answer, buffers = labeller.handle({"do": "thumbs", "ids": [id_, "gone", 7]})
    assert answer["ids"] == [id_]
    assert PIL.Image.open(io.BytesIO(buffers[0])).size == (galleries.THUMB, galleries.THUMB)


# --- Without a server, without a model, with another model ---------------------------------------


def begun(participant: Gardener, gallery: Gallery) -> Labeller:
    labeller = Labeller(participant, gallery)
    labeller._look()
    return labeller


def test_without_a_server_the_version_that_is_here_recognises(
    alice: Gardener, gallery: Gallery
) -> None:
    alice.has = FruitModel(3, fresh=False)
    labeller = begun(alice, gallery)
    do(labeller, "add", apple())
    state = labeller.state()
    assert state["trouble"]["code"] == "offline"
    assert (state["model"]["version"], state["model"]["fresh"]) == (3, False)
    assert state["waiting"][0]["top"]["label"] == "apple"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ServerUnreachable("Expected an answer. Received: none"), "no_model"),
        (ImportError("No module named 'keras'"), "no_keras"),
        (ProfileInUse("Expected one process. Received: two"), "no_model"),
    ],
)
def test_without_a_model_photos_are_labelled_all_the_same(
    alice: Gardener, gallery: Gallery, error: Exception, code: str
) -> None:
    alice.refuses = error
    labeller = begun(alice, gallery)
    id_ = do(labeller, "add", apple())["photo"]["id"]
    assert do(labeller, "look", id=id_)["scores"] == []
    do(labeller, "label", id=id_, label="my apple")
    state = labeller.state()
    assert state["trouble"]["code"] == code
    assert "labelled" in state["trouble"]["text"]
    assert (state["model"], state["total"]) == (None, 1)
    # Once there is a model, the photo waits for one of its labels.
    alice.refuses = None
    do(labeller, "refresh")
    assert labeller.state()["usable"] == 0


def test_a_model_that_fails_when_it_is_asked_says_so_and_loses_no_photo(
    alice: Gardener, gallery: Gallery
) -> None:
    alice.has = FruitModel(breaks=ImportError("No module named 'keras'"))
    labeller = begun(alice, gallery)
    do(labeller, "add", apple())
    assert labeller.state()["trouble"]["code"] == "no_keras"
    assert len(labeller.state()["waiting"]) == 1


def test_a_model_of_numbers_gives_no_photo_a_label(alice: Gardener, gallery: Gallery) -> None:
    alice.has = FruitModel(objective=Objective("mean_squared_error"), labels=[])
    labeller = begun(alice, gallery)
    do(labeller, "add", apple())
    state = labeller.state()
    assert "tells numbers of a photo" in state["trouble"]["text"]
    assert (state["model"]["photos"], state["waiting"][0]["top"]) == (False, None)
    assert do(labeller, "label_all") == {"labelled": 0, "left": 1}
    assert refused(labeller, {"do": "train"}) == "no_photos"


def test_a_model_that_takes_no_photos_says_so(alice: Gardener, gallery: Gallery) -> None:
    alice.has = FruitModel(input_spec=InputSpec((4,)))
    labeller = begun(alice, gallery)
    id_ = do(labeller, "add", apple())["photo"]["id"]
    do(labeller, "label", id=id_, label="apple")
    state = labeller.state()
    assert (state["trouble"]["code"], state["model"]["photos"]) == ("no_photos", False)
    assert "takes no photos" in state["trouble"]["text"]
    assert refused(labeller, {"do": "train"}) == "no_photos"


# --- Taking part, and what it changed -------------------------------------------------------------


def test_to_train_takes_part_in_one_round_and_gives_a_receipt(
    labeller: Labeller, server: FakeServer
) -> None:
    label(labeller, "apple", 3)
    label(labeller, "plum", 2)
    server.open_round()
    do(labeller, "train")
    until(lambda: labeller.state()["training"]["phase"] == "done")
    training = labeller.state()["training"]
    receipt = training["receipt"]
    assert (receipt["round"], receipt["version"], receipt["samples"]) == (1, 1, 5)
    assert receipt["bytes"] == len(server.updates[0].body)
    assert training["settings"] == {"epochs": 2, "batch_size": 8, "learning_rate": 0.1}
    assert [one["loss"] for one in training["epochs"]] == [1.0, 0.5]
    assert (receipt["state"], receipt["final"]) == ("uploaded", False)
    # The verdict comes when somebody looks again, and then what came of the round.
    (assignment,) = server._places.values()
    assignment.state = "accepted"
    assignment.document["phase"] = "aggregating"
    do(labeller, "refresh")
    receipt = labeller.state()["training"]["receipt"]
    assert (receipt["state"], receipt["published"], receipt["final"]) == ("accepted", None, False)
    assignment.document |= {"phase": "published", "published": 2}
    do(labeller, "refresh")
    receipt = labeller.state()["training"]["receipt"]
    assert (receipt["published"], receipt["final"]) == (2, True)


def test_what_waits_for_a_round_can_be_cancelled(labeller: Labeller, server: FakeServer) -> None:
    label(labeller, "apple", 1)
    do(labeller, "train")
    until(lambda: labeller.state()["training"]["phase"] == "waiting")
    assert refused(labeller, {"do": "train"}) == "training"
    do(labeller, "cancel")
    until(lambda: labeller.state()["training"]["phase"] == "cancelled")
    assert server.updates == []


def test_another_program_with_this_profile_is_told_of(labeller: Labeller, alice: Gardener) -> None:
    label(labeller, "apple", 1)
    with alice.profile.locked():
        do(labeller, "train")
        until(lambda: labeller.state()["training"]["phase"] == "failed")
    assert "Another program" in labeller.state()["training"]["detail"]


def test_a_newer_version_is_compared_on_ones_own_photos(
    labeller: Labeller, alice: Gardener
) -> None:
    for name in ("apple", "pear"):
        label(labeller, name, 3)
    assert refused(labeller, {"do": "compare"}) == "no_earlier"
    alice.has = FruitModel(2)
    assert do(labeller, "refresh") == {"newer": True, "asked": True}
    until(lambda: labeller.state()["changes"] is not None)
    changes = labeller.state()["changes"]
    assert (changes["before"], changes["after"], changes["photos"]) == (1, 2, 6)
    assert (changes["right_before"], changes["right_after"]) == (3, 6)
    assert (changes["learned"], changes["lost"], changes["same"]) == (3, 0, 3)
    lines = do(labeller, "changes", start=0, count=3)["lines"]
    assert {(one["label"], one["before"]["label"], one["after"]["label"]) for one in lines} == {
        ("pear", "lemon", "pear")
    }


def test_what_the_version_before_said_is_remembered_over_a_restart(
    labeller: Labeller, alice: Gardener, server: FakeServer
) -> None:
    label(labeller, "pear", 2)
    server.open_round()
    do(labeller, "train")
    until(lambda: labeller.state()["training"]["phase"] == "done")
    alice.has = FruitModel(2)
    later = begun(alice, Gallery(labeller.gallery.path))
    label(later, "plum", 1)
    later._compare()
    changes = later.state()["changes"]
    assert (changes["before"], changes["photos"], changes["learned"]) == (1, 2, 2)
    assert changes["left_out"] == 1


def test_a_photo_that_is_deleted_is_forgotten(labeller: Labeller) -> None:
    label(labeller, "plum", 1)
    (found,) = do(labeller, "gallery")["photos"]
    memory = labeller.gallery.path / ".recognised" / "fruit.json"
    assert found["id"] in memory.read_text()
    do(labeller, "delete", id=found["id"])
    assert found["id"] not in memory.read_text()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_whoever_ends_the_program_gives_back_what_is_under_way(
    labeller: Labeller, server: FakeServer, number: signal.Signals
) -> None:
    label(labeller, "apple", 1)
    do(labeller, "train")
    until(lambda: labeller.state()["training"]["phase"] == "waiting")
    ends = threading.Timer(0.5, os.kill, (os.getpid(), number))

    def begin(link: str) -> None:
        assert link.startswith("http://127.0.0.1:")
        ends.start()

    with pytest.raises(KeyboardInterrupt):
        app.run(labeller, open_browser=False, on_ready=begin)
    assert labeller.state()["training"]["phase"] == "cancelled"


@pytest.mark.parametrize("module", [folder, galleries, labellers, app, photo_labeller])
def test_the_examples_are_true(
    module: ModuleType, tmp_path: Path, labeller: Labeller, alice: Gardener
) -> None:
    home = tmp_path / module.__name__
    if module is folder:
        for name in ("cat/1", "cat/2", "dog/1"):
            path = home / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(galleries.encode(fruit("apple", size=(40, 40)))[0])
    # A label that the example's model has.
    told = {"photos": home, "content": apple(), "alice": alice, "labeller": labeller}
    if module is labellers:
        assert alice.has is not None
        alice.has.labels[0] = "cat"
    failed, tried = doctest.testmod(module, extraglobs=told)
    assert (failed, tried > 0) == (0, True)


def test_where_the_photos_are_kept_outlives_the_profile(alice: Gardener) -> None:
    home = photos.default_folder(alice)
    assert not home.is_relative_to(alice.profile.folder)
