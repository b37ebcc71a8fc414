"""Fruit for the photo labeller: pictures, a model that knows them by colour, and who has it.

Nothing here needs Keras: the model looks at the middle of a photo and says which fruit has that
colour. Version 1 takes a pear for a lemon; version 2 has learned better.
"""

from __future__ import annotations

import io
import math
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageDraw
import PIL.ImageFilter

from client_sdk.errors import ServerUnreachable
from client_sdk.objective import Objective
from client_sdk.participant import Participant
from client_sdk.served import Prediction
from client_sdk.testing import FakeServer, FakeTrainer
from client_sdk.wire import InputSpec

LABELS = ["apple", "lemon", "pear", "plum"]
COLOURS = {
    "apple": (196, 42, 38),
    "lemon": (242, 210, 48),
    "pear": (150, 182, 62),
    "plum": (94, 46, 122),
}
MISTAKEN = COLOURS | {"lemon": (170, 190, 60), "pear": (60, 170, 120)}  # of version 1
CLASSES = Objective("sparse_categorical_crossentropy")
SPEC = InputSpec((32, 32, 3), scale=1 / 255)
GPS, MAKE, ORIENTATION = 0x8825, 0x010F, 0x0112


def fruit(label: str, seed: int = 0, size: tuple[int, int] = (640, 480)) -> PIL.Image.Image:
    """A picture of a fruit on a table; each seed gives another."""
    draw = np.random.default_rng([LABELS.index(label), seed])
    width, height = size
    table = tuple(int(value) for value in draw.integers(205, 240, 3))
    image = PIL.Image.new("RGB", size, table)
    brush = PIL.ImageDraw.Draw(image)
    brush.rectangle((0, int(0.62 * height), width, height), fill=tuple(v - 40 for v in table))
    shift = draw.uniform(-0.04, 0.04, 2)
    x, y = (0.5 + shift[0]) * width, (0.52 + shift[1]) * height
    radius = height * draw.uniform(0.3, 0.36)
    brush.ellipse(
        (x - radius, y + 0.7 * radius, x + radius, y + 1.15 * radius), fill=(120, 110, 100)
    )
    image = image.filter(PIL.ImageFilter.GaussianBlur(height / 60))
    brush = PIL.ImageDraw.Draw(image)
    shade = draw.integers(-12, 12)
    colour = np.array(COLOURS[label]) + shade
    wide = {"lemon": 1.2, "plum": 0.9}.get(label, 1.0)
    if label == "pear":
        neck = (x - 0.55 * radius, y - 1.45 * radius, x + 0.45 * radius, y)
        brush.ellipse(neck, fill=tuple((0.9 * colour).astype(int)))
    for step in range(24):  # lighter towards the upper left: round
        part = 1 - step / 24
        light = np.clip(colour * (0.72 + 0.5 * (1 - part)), 0, 255).astype(int)
        r, offset = radius * part, radius * 0.28 * (1 - part)
        box = (x - wide * r - offset, y - r - offset, x + wide * r - offset, y + r - offset)
        brush.ellipse(box, fill=tuple(light))
    if label != "lemon":
        top = y - (1.4 if label == "pear" else 0.9) * radius
        brush.line(
            (x, top, x + 0.12 * radius, top - 0.35 * radius), (92, 64, 40), width=height // 60
        )
    return image.filter(PIL.ImageFilter.GaussianBlur(1))


def jpeg(image: PIL.Image.Image, *, orientation: int = 1) -> bytes:
    """A file as a telephone writes it: with its place, its maker, and which way is up."""
    exif = PIL.Image.Exif()
    exif[MAKE], exif[ORIENTATION] = "Telephone of alice", orientation
    exif.get_ifd(GPS).update({1: "N", 2: (47.0, 22.0, 31.0), 3: "E", 4: (8.0, 32.0, 9.0)})
    file = io.BytesIO()
    image.save(file, "JPEG", quality=90, exif=exif.tobytes(), comment=b"at home")
    return file.getvalue()


@dataclass
class FruitModel:
    """A version of a model, as `Participant.served` gives one."""

    version: int = 1
    fresh: bool = True
    slug: str = "fruit"
    name: str = "Fruit"
    labels: list[str] = field(default_factory=lambda: list(LABELS))
    input_spec: InputSpec = SPEC
    objective: Objective = CLASSES
    breaks: Exception | None = None

    def predictions(self, x: np.ndarray) -> list[Prediction]:
        """How near the colours are, as softmax."""
        if self.breaks is not None:
            raise self.breaks
        colours = np.array([*(MISTAKEN if self.version == 1 else COLOURS).values()], float)
        middle = x[:, 14:20, 14:20].reshape(len(x), -1, 3).mean(axis=1)
        near = -np.linalg.norm(middle[:, None] - colours, axis=2) / 34
        scores = np.exp(near - near.max(axis=1, keepdims=True))
        scores /= scores.sum(axis=1, keepdims=True)
        by_label = [dict(zip(self.labels, row.tolist(), strict=True)) for row in scores]
        return [Prediction(max(one, key=one.__getitem__), one, self.version) for one in by_label]


class Gardener(Participant):
    """A participant whose model of fruit needs no Keras.

    Attributes:
        has: the version that it is served; None where nothing is here and nothing answers.
    """

    has: FruitModel | None = None
    refuses: Exception | None = None

    def served(self, slug: str | None = None, *, patience: float | None = 10.0) -> Any:
        if self.refuses is not None:
            raise self.refuses
        if self.has is None:
            raise ServerUnreachable("Expected an answer. Received: none")
        return self.has


class SlowTrainer(FakeTrainer):
    """Trains until it is let go, an epoch for each time."""

    def __init__(self, server: FakeServer, epochs: int = 4) -> None:
        super().__init__(epochs=epochs, weights=server.weights)
        self.go_on = threading.Semaphore(0)

    def train(
        self,
        weights: Mapping[str, np.ndarray],
        data: Any,
        hyperparameters: Mapping[str, Any],
        seed: int,
        on_epoch: Any = None,
        **of_a_strategy: Any,
    ) -> Any:
        def told(epoch: int, epochs: int, _: dict[str, float]) -> None:
            self.go_on.acquire(timeout=30)
            metrics = {"loss": 0.2 + 1.3 * math.exp(-epoch / 2), "accuracy": 1 - 0.5 / epoch}
            if on_epoch is not None:
                on_epoch(epoch, epochs, metrics)

        return super().train(weights, data, hyperparameters, seed, told, **of_a_strategy)

    def let_go(self) -> None:
        """Let all epochs pass."""
        for _ in range(self.epochs):
            self.go_on.release()


def fruit_server() -> FakeServer:
    """A server whose model takes photos of fruit."""
    document = {"name": "Fruit", "labels": LABELS, "input_spec": SPEC.to_json()}
    return FakeServer(model="fruit", document=document)


def gardener(server: FakeServer, name: str = "alice", version: int | None = 1) -> Gardener:
    """Enrol at the server."""
    found = Gardener.enrol(
        server.url, server.join_code(), name=name, profile=name, transport=server.transport
    )
    assert isinstance(found, Gardener)
    found.has = FruitModel(version) if version is not None else None
    return found
