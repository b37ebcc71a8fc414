"""fedclient where it needs Keras: photos are recognised by a real model."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import PIL.Image
import pytest

from client_sdk import cli
from client_sdk.cli import joining
from client_sdk.testing import FakeServer
from tests.client_sdk.models import CROSSENTROPY, Server

pytestmark = pytest.mark.keras

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def light_or_dark() -> Server:
    """A model that knows light from dark, by the mean of a photo."""
    keras: ModuleType = pytest.importorskip("keras")
    layers = [
        keras.Input((8, 8, 3)),
        keras.layers.GlobalAveragePooling2D(),
        keras.layers.Dense(2, activation="softmax"),
    ]
    model = keras.Sequential(layers)
    model.set_weights([np.array([[-4, 4]] * 3, np.float32), np.array([6, -6], np.float32)])
    return Server(model, CROSSENTROPY, scale=1 / 255)


@pytest.fixture
def server(light_or_dark: Server) -> FakeServer:
    return light_or_dark.fake(("dark", "light"), name="Light or dark")


@pytest.fixture
def run(
    server: FakeServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Run]:
    """Type a command, as Alice who has joined."""
    monkeypatch.setattr(joining, "PATIENCE", 0.0)

    def typed(*words: object) -> tuple[int, str, str]:
        code = cli.main([str(word) for word in words])
        told = capsys.readouterr()
        return code, told.out, told.err

    with server.serve() as url:
        assert typed("join", url, server.join_code())[0] == cli.OK
        yield typed


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    """A light one, one that is broken, and a dark one."""
    PIL.Image.new("RGB", (20, 10), "white").save(tmp_path / "snow.jpg")
    PIL.Image.new("L", (10, 20), 0).save(tmp_path / "night.png")
    (tmp_path / "torn.jpg").write_bytes((tmp_path / "snow.jpg").read_bytes()[:40])
    return [tmp_path / name for name in ("snow.jpg", "torn.jpg", "night.png")]


def told(out: str) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(out)
    return answer


def test_a_broken_photo_is_named_and_the_others_go_on(run: Run, photos: list[Path]) -> None:
    code, out, err = run("predict", *photos, photos[0].with_name("gone.jpg"))
    assert code == cli.BAD_DATA
    lines = out.splitlines()
    assert lines[0] == "Light or dark, version 1"
    assert [line.split()[1] for line in lines[2:]] == ["light", "cannot", "dark", "cannot"]
    assert "torn.jpg: Expected a JPEG that can be read" in err
    assert "gone.jpg: No such file" in err


def test_programs_get_all_scores(run: Run, photos: list[Path]) -> None:
    code, out, err = run("predict", photos[0], photos[2], "--json")
    assert (code, err) == (cli.OK, "")
    answer = told(out)
    assert (answer["model"], answer["version"], answer["fresh"]) == ("digits", 1, True)
    snow, night = answer["photos"]
    assert (snow["label"], night["label"]) == ("light", "dark")
    assert list(snow["scores"]) == ["light", "dark"]
    assert sum(snow["scores"].values()) == pytest.approx(1)
    assert snow["score"] == max(snow["scores"].values()) > 0.9
    broken = told(run("predict", photos[1], "--json")[1])["photos"][0]
    assert (set(broken), broken["error"]["kind"]) == ({"photo", "error"}, "photo_broken")


def test_without_the_server_the_version_that_is_here_says_so(
    run: Run, photos: list[Path], server: FakeServer
) -> None:
    assert run("predict", photos[0])[0] == cli.OK
    server.away(1000)
    code, out, _ = run("predict", photos[0])
    assert code == cli.OK
    assert out.startswith("Light or dark, version 1 (the server is away")
    assert told(run("predict", photos[0], "--json")[1])["fresh"] is False


def test_a_model_that_is_not_here_is_said(run: Run, photos: list[Path]) -> None:
    code, _, err = run("predict", photos[0], "--model", "cats")
    assert code in (cli.FAILED, cli.REFUSED)
    assert "cats" in err or "model" in err
    assert "Traceback" not in err
