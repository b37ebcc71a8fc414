"""What the tutorials share: a small federation on this machine, to be read and taken apart.

The server runs already: `make jupyter` has started it, and tells notebooks by two variables where
it is and who they are. The images are scikit-learn's handwritten digits, 8 by 8 pixels from 0
to 16.
"""

import logging
import os
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
from sklearn.datasets import load_digits

from client_sdk import Participant, Summary
from client_sdk.admin import Admin, Model, NotFound
from client_sdk.errors import ProfileNotFound

PARTIES = 6  # that the images are shared out to
HELD_OUT = 297  # images that the server measures versions by; nobody trains on them

Images = tuple[np.ndarray, np.ndarray]


def operator() -> Admin:
    """You as the operator of the server; its address is `FEDSERVER_URL`."""
    try:
        return Admin(os.environ["FEDSERVER_URL"], os.environ["FEDSERVER_TOKEN"])
    except KeyError as missing:
        raise RuntimeError(
            "Expected a server's address and an operator's token in FEDSERVER_URL and"
            f" FEDSERVER_TOKEN; `make jupyter` sets both. Received: no {missing.args[0]}"
        ) from None


def participant(admin: Admin, name: str) -> Participant:
    """A participant on this machine, enrolled the first time and loaded ever after."""
    try:
        return Participant.load(name)
    except ProfileNotFound:
        code = admin.join_codes.make(label=name).code or ""
        return Participant.enrol(admin.url, code, name=name, profile=name)


def digits(share: int | None = None) -> Images:
    """Images (n, 8, 8, 1) and their labels.

    Args:
        share: Of which party, from 0 on; None for those that are held out.
    """
    found = load_digits()
    order = np.random.default_rng(0).permutation(len(found.target))
    held_out, pool = order[:HELD_OUT], order[HELD_OUT:]
    mine = held_out if share is None else np.array_split(pool, PARTIES)[share]
    return found.images[mine].reshape(-1, 8, 8, 1).astype("uint8"), found.target[mine]


def network(*hidden: int) -> Any:
    """A small `keras.Model` for the digits, compiled."""
    import keras

    keras.utils.set_random_seed(0)
    layers = [keras.layers.Input((8, 8, 1)), keras.layers.Flatten()]
    layers += [keras.layers.Dense(units, activation="relu") for units in hidden or (32,)]
    model = keras.Sequential([*layers, keras.layers.Dense(10, activation="softmax")])
    model.compile("sgd", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def handwriting(admin: Admin) -> Model:
    """The model of the tutorials, registered by whoever needs it first."""
    try:
        return admin.models["handwriting"]
    except (KeyError, NotFound):
        return admin.models.create(
            "handwriting",
            network(),
            name="Handwritten digits",
            evaluation=digits(),
            labels=[str(digit) for digit in range(10)],
            scale=1 / 16,
        )


class Others:
    """Other parties that take part in the background, each with a share of the images.

    In the world they are on machines of their own, and run `fedclient train`; here they are
    threads of the notebook.

    Args:
        admin: Who lets them in.
        model: The slug of the model that they train.
        names: Who they are; the first one has the second share of the images, the first is yours.
        on_event: Told what they do.
    """

    def __init__(
        self,
        admin: Admin,
        model: str,
        names: tuple[str, ...] = ("bob", "charlie"),
        on_event: Callable[[Any], object] | None = None,
    ) -> None:
        logging.getLogger("client_sdk").setLevel(logging.ERROR)  # they would all talk at once
        self.summaries: dict[str, Summary] = {}
        self._stop = threading.Event()
        self._on_event = on_event
        self._threads = [
            threading.Thread(
                target=self._take_part,
                args=(participant(admin, name), digits(share), model),
                name=name,
                daemon=True,
            )
            for share, name in enumerate(names, start=1)
        ]
        for thread in self._threads:
            thread.start()

    def leave(self) -> dict[str, Summary]:
        """They stop, in good order: what they have done, by name."""
        self._stop.set()
        for thread in self._threads:
            thread.join()
        return self.summaries

    def _take_part(self, who: Participant, images: Images, model: str) -> None:
        with who:
            self.summaries[who.profile.name] = who.participate(
                images, model=model, stop=self._stop, on_event=self._on_event, progress=False
            )
