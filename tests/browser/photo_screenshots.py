"""Pictures of the photo labeller for its document: `python -m tests.browser.photo_screenshots`.

Alice has labelled fruit, taken part in a round, and a newer version is out. Her page is looked at
wide and light, and on a phone in the dark, and written small to `docs/images`.
"""

import io
import os
import tempfile
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import Browser, Page, expect, sync_playwright

from client_sdk.photos.app import Door, running
from client_sdk.photos.gallery import Gallery
from client_sdk.photos.labeller import Labeller
from tests.browser.chromium import FLAGS, find
from tests.labelling import LABELS, FruitModel, SlowTrainer, fruit, fruit_server, gardener, jpeg

TARGET = Path(__file__).resolve().parent.parent.parent / "docs" / "images"
WIDE = {"width": 1400, "height": 1130}
PHONE = {"width": 390, "height": 1010}
MOST = 140_000  # bytes of a picture


def main() -> None:
    """Take them."""
    with tempfile.TemporaryDirectory() as home, sync_playwright() as playwright:
        os.environ |= {"FEDCLIENT_HOME": home, "HOME": home}
        browser = playwright.chromium.launch(executable_path=find()[0], args=FLAGS)
        _take(browser, Path(home) / "Pictures" / "fruit")
        browser.close()


def _take(browser: Browser, folder: Path) -> None:
    server = fruit_server()
    server.url = "https://fed.example.org"
    alice, trainer = gardener(server), SlowTrainer(server, epochs=8)
    gallery = Gallery(folder)
    for seed in range(5):
        for label in LABELS[: 4 if seed < 4 else 3]:
            gallery.label(gallery.add(jpeg(fruit(label, seed))).id, label)
    labeller = Labeller(alice, gallery, options={"trainer": trainer, "verdicts": 10.0})
    server.hyperparameters |= {"epochs": 8, "optimizer": "sgd", "momentum": 0.9}
    server.open_round()
    with running(labeller) as door:
        page = _page(browser, door, door.link, viewport=WIDE)
        page.get_by_role("button", name="Train", exact=True).click()
        trainer.let_go()
        expect(page.get_by_text("Waiting for the server's verdict")).to_be_visible()
        for place in server._places.values():
            place.document["published"], place.state = 2, "accepted"
        alice.has = FruitModel(2)
        expect(page.locator(".lb-receipt")).to_contain_text("accepted")
        expect(page.locator(".lb-versus")).to_be_visible()
        _drop(page, [fruit("pear", 31), fruit("plum", 32), fruit("apple", 33)])
        _write(page, "photos")
        state = page.context.storage_state()
        phone: dict[str, Any] = {"is_mobile": True, "has_touch": True, "device_scale_factor": 2}
        small = _page(
            browser,
            door,
            door.address,
            viewport=PHONE,
            color_scheme="dark",
            storage_state=state,
            **phone,
        )
        _write(small, "photos-phone")
    alice.close()


def _page(browser: Browser, door: Door, address: str, **options: Any) -> Page:
    context = browser.new_context(base_url=door.address, reduced_motion="reduce", **options)
    page = context.new_page()
    page.goto(address)
    expect(page.locator(".lb-photo").first).to_be_attached()
    return page


def _drop(page: Page, pictures: list[Image.Image]) -> None:
    files: Any = [
        {"name": f"{number}.jpg", "mimeType": "image/jpeg", "buffer": jpeg(picture)}
        for number, picture in enumerate(pictures)
    ]
    page.locator("input[type=file]").set_input_files(files)
    expect(page.locator(".lb-strip img[src^=blob]")).to_have_count(len(pictures))


def _write(page: Page, name: str) -> None:
    expect(page.locator(".lb-picture[src^=blob]").first).to_be_visible()
    page.wait_for_timeout(600)
    picture = Image.open(io.BytesIO(page.screenshot()))
    picture.thumbnail((1400, 2400))
    target = TARGET / f"{name}.webp"
    for quality in (90, 80, 70, 60, 50):
        picture.save(target, "WEBP", quality=quality, method=6)
        if target.stat().st_size <= MOST:
            return


if __name__ == "__main__":
    main()
