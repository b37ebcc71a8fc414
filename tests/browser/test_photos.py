"""Alice labels her photos, on the page that her own machine serves to her alone."""

from __future__ import annotations

import http.client
import io
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import PIL.Image
import pytest
from playwright.sync_api import BrowserContext, Locator, Page, expect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from client_sdk.photos.app import MESSAGE_LIMIT, Door, packed, running, unpacked
from client_sdk.photos.gallery import Gallery
from client_sdk.photos.labeller import Labeller
from client_sdk.testing import FakeServer
from client_sdk.wire import InputSpec
from tests.browser.conftest import Console
from tests.labelling import (
    LABELS,
    FruitModel,
    Gardener,
    SlowTrainer,
    fruit,
    fruit_server,
    gardener,
    jpeg,
)

WIDE, PHONE = {"width": 1400, "height": 900}, {"width": 390, "height": 844}
DROP = """([files, selector]) => {
  const transfer = new DataTransfer();
  for (const [name, bytes] of files) {
    transfer.items.add(new File([new Uint8Array(bytes)], name, { type: "image/jpeg" }));
  }
  const options = { dataTransfer: transfer, bubbles: true, cancelable: true };
  const target = document.querySelector(selector);
  for (const kind of ["dragenter", "dragover", "drop"]) {
    target.dispatchEvent(new DragEvent(kind, options));
  }
}"""


@dataclass
class Place:
    """Alice, her server, her photos, and the page that is served to her."""

    server: FakeServer
    alice: Gardener
    labeller: Labeller
    trainer: SlowTrainer
    door: Door
    contexts: Callable[..., BrowserContext]

    def open(self, **options: Any) -> Page:
        """The page, by its link, when the model is ready."""
        context = self.contexts(self.door.address, **{"viewport": WIDE, **options})
        page = context.new_page()
        page.goto(self.door.link)
        expect(page.get_by_role("heading", name="Photo labeller")).to_be_visible()
        expect(page.locator(".labeller")).not_to_have_attribute("aria-busy", "true")
        expect(page.locator(".lb-busy")).to_be_hidden()
        return page

    def files(self) -> list[str]:
        home = self.labeller.gallery.path
        seen = (one.relative_to(home) for one in home.rglob("*") if one.suffix in (".jpg", ".png"))
        return sorted(str(one.parent) for one in seen)

    def keep(self, label: str, count: int = 1) -> None:
        """Photos that have been labelled before."""
        for seed in range(count):
            found = self.labeller.gallery.add(jpeg(fruit(label, seed, (160, 120))))
            self.labeller.gallery.label(found.id, label)


@pytest.fixture
def has() -> FruitModel | None:
    """The version that is served when the program begins."""
    return FruitModel(1)


@pytest.fixture
def place(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    contexts: Callable[..., BrowserContext],
    has: FruitModel | None,
) -> Iterator[Place]:
    monkeypatch.setenv("FEDCLIENT_HOME", str(tmp_path / "home"))
    server = fruit_server()
    alice, trainer = gardener(server), SlowTrainer(server)
    alice.has = has
    options = {"trainer": trainer, "verdicts": 10.0, "wait": 0.0}
    labeller = Labeller(alice, Gallery(tmp_path / "photos"), options=options)
    with running(labeller) as door:
        yield Place(server, alice, labeller, trainer, door, contexts)
        trainer.let_go()
    alice.close()


def photo(label: str, seed: int = 0, **options: Any) -> Any:
    """A file as a person chooses it."""
    content = jpeg(fruit(label, seed, (320, 240)), **options)
    return {"name": f"IMG_{seed}.jpg", "mimeType": "image/jpeg", "buffer": content}


def choose(page: Page, *photos: Any) -> None:
    page.locator("input[type=file]").set_input_files(list(photos))


def part(page: Page, name: str) -> Locator:
    return page.get_by_role("region", name=name)


# --- Photos and labels ----------------------------------------------------------------------------


def test_a_photo_is_recognised_kept_corrected_and_deleted(place: Place) -> None:
    page = place.open()
    expect(page.locator(".lb-next")).to_contain_text("Next: add a few photos")
    expect(part(page, "Train").get_by_role("button", name="Train")).to_be_disabled()
    choose(page, photo("pear", orientation=3))
    label = part(page, "Label")
    expect(label.get_by_role("heading", name="lemon")).to_be_visible()  # so version 1 has it
    expect(label.locator(".lb-choice")).to_have_count(len(LABELS))
    expect(label.locator(".lb-choice").first).to_contain_text("%")
    label.get_by_role("button", name=re.compile("pear")).click()
    mine = part(page, "Your photos")
    expect(mine.get_by_role("heading", name="Your photos · 1")).to_be_visible()
    assert place.files() == ["pear"]

    mine.get_by_role("button", name="pear", exact=True).click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("Version 1 takes it for lemon")
    dialog.get_by_role("button", name=re.compile("plum")).click()
    expect(dialog.get_by_role("heading", name="plum")).to_be_visible()
    assert place.files() == ["plum"]
    dialog.get_by_role("button", name="Delete").click()
    expect(mine).to_be_hidden()
    assert place.files() == []
    page.get_by_role("button", name="Undo").click()
    expect(mine.get_by_role("button", name="plum", exact=True)).to_be_visible()
    assert place.files() == ["plum"]


def test_what_is_kept_is_upright_and_tells_nothing_of_where_it_was(place: Place) -> None:
    page = place.open()
    choose(page, photo("apple", orientation=6))
    part(page, "Label").get_by_role("button", name="Keep as apple").click()
    expect(part(page, "Your photos")).to_be_visible()
    (path,) = place.labeller.gallery.images.files("apple")
    content = path.read_bytes()
    assert b"Exif" not in content
    assert b"Telephone" not in content
    kept = PIL.Image.open(io.BytesIO(content))
    assert (kept.size, dict(kept.getexif())) == ((240, 320), {})


@pytest.mark.parametrize("has", [FruitModel(2)], ids=["version 2"])
def test_sixteen_photos_are_dropped_and_kept_as_recognised(place: Place) -> None:
    page = place.open()
    dropped = [
        [f"{label}{seed}.jpg", list(jpeg(fruit(label, seed, (96, 72))))]
        for label in LABELS
        for seed in range(4)
    ]
    page.evaluate(DROP, [dropped, ".lb-drop"])
    label = part(page, "Label")
    expect(label.get_by_role("heading", name="16 photos wait")).to_be_visible()
    label.get_by_role("button", name="Keep all 16 as recognised").click()
    mine = part(page, "Your photos")
    expect(mine.locator(".lb-photo img[src^=blob]")).to_have_count(16)
    expect(label).to_be_hidden()
    assert place.files() == sorted(4 * LABELS)
    expect(mine.locator(".lb-notice").first).to_contain_text("Few photos of apple (4)")
    mine.get_by_role("button", name=re.compile("^plum.*4 photos")).click()
    expect(mine.locator(".lb-photo")).to_have_count(4)


def test_the_same_photo_twice_is_one_and_a_broken_one_is_named(place: Place) -> None:
    place.keep("plum")
    page = place.open()
    twin = {"name": "twin.jpg", "mimeType": "image/jpeg"}
    twin["buffer"] = place.labeller.gallery.images.files("plum")[0].read_bytes()  # type: ignore[assignment]
    broken = {"name": "torn.jpg", "mimeType": "image/jpeg", "buffer": b"\xff\xd8\xff torn"}
    choose(page, twin, broken)
    expect(page.get_by_text("twin.jpg is here already, as plum.")).to_be_visible()
    expect(page.get_by_text("torn.jpg was not added.")).to_be_visible()
    assert place.files() == ["plum"]


def test_the_camera_takes_photos(place: Place) -> None:
    page = place.open()
    page.get_by_role("button", name="Use the camera").click()
    shutter = page.get_by_role("button", name="Take a photo")
    expect(shutter).to_be_enabled()
    shutter.click()
    expect(part(page, "Label").locator(".lb-choice").first).to_be_visible()
    page.get_by_role("button", name="Close the camera").click()
    expect(page.locator("video")).to_be_hidden()
    assert page.evaluate("document.querySelector('video').srcObject") is None
    assert place.files() == [".waiting"]


def test_all_of_it_goes_by_the_keyboard_alone(place: Place) -> None:
    page = place.open()
    choose(page, photo("apple", 1), photo("plum", 2), photo("lemon", 3))
    label = part(page, "Label")
    expect(label.get_by_role("heading", name="3 photos wait")).to_be_visible()
    expect(label.get_by_role("heading", name="apple")).to_be_visible()
    reach(page, "Keep as apple")
    page.keyboard.press("Enter")  # the button's own
    expect(label.get_by_role("heading", name="plum")).to_be_visible()
    page.keyboard.press("1")  # the likeliest label
    expect(label.get_by_role("heading", name="lemon")).to_be_visible()
    page.keyboard.press("Delete")
    expect(label).to_be_hidden()
    expect(part(page, "Your photos").locator(".lb-photo")).to_have_count(2)
    assert place.files() == ["apple", "plum"]
    reach(page, "apple", exact=True)
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_role("heading", name="apple")).to_be_visible()
    page.keyboard.press("ArrowRight")
    expect(dialog.get_by_role("heading", name="plum")).to_be_visible()
    second = dialog.locator(".lb-choice-name").nth(1).inner_text()
    page.keyboard.press("2")
    expect(dialog.get_by_role("heading", name=second)).to_be_visible()
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    assert place.files() == sorted(["apple", second])


DIGITS = FruitModel(labels=["1", "2", "3", "4"])


@pytest.mark.parametrize("has", [DIGITS], ids=["digits"])
def test_where_labels_are_digits_their_keys_are_theirs(place: Place) -> None:
    page = place.open()
    choose(page, photo("apple", 1), photo("plum", 2))
    label = part(page, "Label")
    expect(label.get_by_role("heading", name="1", exact=True)).to_be_visible()
    reach(page, "Keep as 1")
    page.keyboard.press("3")  # not the third likeliest
    expect(label.get_by_role("heading", name="4", exact=True)).to_be_visible()
    assert place.files() == [".waiting", "3"]


def reach(page: Page, name: str, **options: Any) -> None:
    """Press Tab until a button has the focus, which can be seen."""
    wanted = page.get_by_role("button", name=name, **options).first
    for _ in range(60):
        page.keyboard.press("Tab")
        if wanted.evaluate("(one) => one === document.activeElement"):
            width = wanted.evaluate("(one) => parseFloat(getComputedStyle(one).outlineWidth)")
            assert width >= 2
            return
    raise AssertionError(f"Tab does not reach {name}")


# --- Training -------------------------------------------------------------------------------------


def test_training_shows_settings_loss_and_receipt_and_then_what_changed(place: Place) -> None:
    for label in ("apple", "pear"):
        place.keep(label, 2)
    page = place.open()
    train = part(page, "Train")
    train.get_by_role("button", name="Train").click()
    expect(train.get_by_role("status").first).to_contain_text("Waiting for a round to open")
    place.server.open_round()
    place.trainer.go_on.release()
    place.trainer.go_on.release()
    expect(train.get_by_text("after epoch 2 of 4, right in 75")).to_be_visible()
    expect(train.get_by_role("img", name=re.compile("^Loss 0.*it began at"))).to_be_visible()
    expect(train.locator(".lb-facts").first).to_contain_text("Learning rate0.1")
    place.trainer.let_go()
    expect(train.get_by_role("status").first).to_contain_text("verdict")
    (assignment,) = place.server._places.values()
    assignment.document["published"] = 2
    assignment.state = "accepted"
    place.alice.has = FruitModel(2)
    receipt = train.locator(".lb-receipt")
    expect(receipt).to_contain_text("accepted")
    expect(receipt).to_contain_text("Trained fromversion 1")
    expect(receipt).to_contain_text("Samples4")
    expect(receipt).to_contain_text("Came of itversion 2")

    changed = part(page, "What changed")
    expect(changed.locator(".lb-versus")).to_contain_text("Version 150 %2 of 4")
    expect(changed.locator(".lb-versus")).to_contain_text("Version 2100 %4 of 4")
    expect(changed.locator("li").first).to_contain_text("lemon → pear")
    expect(page.locator(".lb-status .lb-state")).to_have_text("version 2")


def test_training_can_be_cancelled(place: Place) -> None:
    place.keep("apple")
    page = place.open()
    train = part(page, "Train")
    train.get_by_role("button", name="Train").click()
    train.get_by_role("button", name="Cancel").click()
    expect(train.get_by_text("Cancelled. Nothing was sent.")).to_be_visible()
    expect(train.get_by_role("button", name="Train again")).to_be_enabled()
    assert place.server.updates == []


# --- Without this or that -------------------------------------------------------------------------


@pytest.mark.parametrize("has", [None], ids=["nothing"])
def test_without_server_and_model_photos_are_labelled_and_the_page_says_what_is_missing(
    place: Place, axe: Callable[[Page], None]
) -> None:
    page = place.open()
    expect(page.get_by_text("no model is on this machine yet")).to_be_visible()
    choose(page, photo("apple"))
    label = part(page, "Label")
    label.get_by_label("Its label").fill("my apple")
    label.get_by_role("button", name="Keep", exact=True).click()
    expect(
        part(page, "Your photos").get_by_role("button", name="my apple", exact=True)
    ).to_be_visible()
    assert place.files() == ["my apple"]
    axe(page)


@pytest.mark.parametrize("has", [FruitModel(input_spec=InputSpec((4,)))], ids=["numbers"])
def test_a_model_that_takes_no_photos_says_so(place: Place) -> None:
    place.keep("apple")
    page = place.open()
    expect(page.get_by_text("Fruit takes no photos")).to_be_visible()
    expect(part(page, "Train").get_by_role("button", name="Train")).to_be_disabled()


def test_a_page_whose_program_has_ended_says_so(
    place: Place, watch_console: Console, tmp_path: Path
) -> None:
    watch_console.expect("ERR_CONNECTION_REFUSED|WebSocket connection")
    with running(Labeller(place.alice, Gallery(tmp_path / "others"))) as door:
        page = place.contexts(door.address, viewport=WIDE).new_page()
        page.goto(door.link)
        expect(page.get_by_role("button", name="Choose photos")).to_be_visible()
        expect(page.get_by_role("alert")).to_have_count(0)
    expect(page.get_by_text("Start it again: fedclient photos")).to_be_visible()


def test_a_page_tells_nothing_to_who_comes_to_its_port_afterwards(
    place: Place, watch_console: Console, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch_console.expect("ERR_CONNECTION_REFUSED|WebSocket connection")
    with running(Labeller(place.alice, Gallery(tmp_path / "others"))) as door:
        page = place.contexts(door.address, viewport=WIDE).new_page()
        page.goto(door.link)
        expect(page.get_by_role("button", name="Choose photos")).to_be_visible()
    heard, came = list[Any](), threading.Semaphore(0)

    class Mallory(Labeller):
        def handle(self, content: Any, buffers: Any = ()) -> Any:
            heard.append(content)
            return super().handle(content, buffers)

        def subscribe(self, listener: Callable[[], object]) -> Callable[[], None]:
            came.release()
            return super().subscribe(listener)

    mallory = Mallory(place.alice, Gallery(tmp_path / "mallory"))
    monkeypatch.setattr(Door, "knows", lambda *_: True)
    with running(mallory, int(door.address.rpartition(":")[2])):
        for _ in range(2):  # the page comes, and comes again, for it has not been answered well
            assert came.acquire(timeout=15)
        expect(page.get_by_text("Start it again: fedclient photos")).to_be_visible()
    assert heard == []


# --- Everybody can read it ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "theme"), [(WIDE, "light"), (PHONE, "dark")], ids=["wide and light", "phone and dark"]
)
def test_everybody_can_read_it(
    place: Place, axe: Callable[[Page], None], size: dict[str, int], theme: str
) -> None:
    place.keep("apple", 2)
    place.keep("pear", 1)
    page = place.open(viewport=size, color_scheme=theme)
    place.alice.has = FruitModel(2)
    page.get_by_role("button", name="Look for a newer version").click()
    expect(part(page, "What changed").locator(".lb-versus")).to_be_visible()
    choose(page, photo("plum", 1), photo("lemon", 2))
    expect(part(page, "Label").locator(".lb-strip img[src^=blob]")).to_have_count(2)
    axe(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= size["width"]
    assert page.evaluate("document.getAnimations().length") == 0
    part(page, "Your photos").locator(".lb-photo").first.click()
    expect(page.get_by_role("dialog")).to_be_visible()
    axe(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= size["width"]


# --- Who may come in ------------------------------------------------------------------------------


def ask(door: Door, path: str = "/", **headers: str) -> tuple[int, dict[str, str], str]:
    parts = urlsplit(door.address)
    connection = http.client.HTTPConnection(str(parts.hostname), int(parts.port or 0), timeout=5)
    connection.request(
        "GET", path, headers={name.replace("_", "-"): headers[name] for name in headers}
    )
    answer = connection.getresponse()
    told = {name.lower(): value for name, value in answer.getheaders()}
    return answer.status, told, answer.read().decode()


def entered(door: Door) -> str:
    """The cookie that the link gives."""
    status, headers, _ = ask(door, door.link.removeprefix(door.address))
    assert status == 200
    return headers["set-cookie"]


def test_the_link_lets_one_browser_in_once(place: Place, watch_console: Console) -> None:
    watch_console.expect("status of 403")
    link = place.door.link
    page = place.open()
    page.wait_for_url(f"{place.door.address}/")  # the token does not stay in the address
    other = place.contexts(place.door.address).new_page()
    assert other.goto(link).status == 403  # type: ignore[union-attr]
    expect(
        other.get_by_role("heading", name="This page opens for one browser only")
    ).to_be_visible()
    page.reload()
    expect(page.get_by_role("button", name="Choose photos")).to_be_visible()
    assert page.evaluate("document.cookie") == ""


def test_without_the_cookie_there_is_nothing_to_see(place: Place) -> None:
    for path in ("/", "/?token=", "/?token=guess"):
        assert ask(place.door, path)[0] == 403
    address = place.door.address.replace("http", "ws")
    with pytest.raises(InvalidStatus):
        connect(f"{address}/live", additional_headers={"Origin": place.door.address})


def test_the_cookie_is_for_this_page_and_no_script(place: Place) -> None:
    cookie = entered(place.door)
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    _, headers, _ = ask(place.door)
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert (headers["x-content-type-options"], headers["cache-control"]) == ("nosniff", "no-store")


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Host": "evil.example:80"},
        {"Host": "127.0.0.1"},
        {"Origin": "http://evil.example"},
        {"Origin": "http://127.0.0.1:1"},
        {"Origin": "null"},
    ],
    ids=lambda headers: "".join(f"{name} {value}" for name, value in headers.items()),
)
def test_another_host_or_origin_is_turned_away(place: Place, headers: dict[str, str]) -> None:
    cookie = entered(place.door).partition(";")[0]
    for path in ("/", "/photos/labeller.js"):
        status, _, told = ask(place.door, path, Cookie=cookie, **headers)
        assert status == 403
        assert told.startswith("Expected the ")
    address = place.door.address.replace("http", "ws")
    more = {"Cookie": cookie, "Origin": place.door.address, **headers}
    with pytest.raises(InvalidStatus):
        connect(f"{address}/live", additional_headers=more)


def test_a_socket_takes_frames_and_photos_of_bounded_length(place: Place) -> None:
    cookie = entered(place.door).partition(";")[0]
    address = f"{place.door.address.replace('http', 'ws')}/live"
    headers = {"Cookie": cookie, "Origin": place.door.address}

    def talk(frame: bytes | str) -> Any:
        with connect(address, additional_headers=headers, max_size=None) as socket:
            try:
                socket.send(frame)
                while True:
                    header, _ = unpacked(bytes(socket.recv()))  # type: ignore[arg-type]
                    if "content" in header:
                        return header["content"]
            except ConnectionClosed:
                return socket.close_code

    answer = talk(packed({"content": {"do": "undo", "re": "1"}}))
    assert answer == {"photo": None, "re": "1"}
    assert talk(packed({"content": {"do": "add", "re": "2"}}, [b"none"]))["error"]["code"]
    assert talk(b"\xff\xff\xff\xff") == 1003
    assert talk(b"{") == 1003
    assert talk(bytes(MESSAGE_LIMIT + 1)) in (1006, 1009)  # hung up on, before or after the reason
    assert ask(place.door)[0] == 403  # and the server is still there


@pytest.mark.parametrize("path", ["/photos/gallery.py", "/photos/../cli.py", "/drawings/", "/etc"])
def test_no_other_file_is_served(place: Place, path: str) -> None:
    assert ask(place.door, path)[0] == 404
