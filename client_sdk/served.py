"""The version that the server serves, to be used here, with the server or without it.

What the server told last is kept: the model's card beside the profile, the blobs of its weights
in the cache, from where nothing else drives them out. So a model can be used in a train, and says
which version it is and whether the server could be asked.

    profiles/NAME/models/SLUG/
        card.json       the model document
        version.json    number and blobs of its newest version that is here

Keras is imported when something is predicted, evaluated or built, and not before.
"""

from __future__ import annotations

import hashlib
import json
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from client_sdk import wire
from client_sdk.data import read_for, read_inputs
from client_sdk.errors import (
    IntegrityError,
    ParticipantError,
    ParticipantSuspended,
    ServerDistrusted,
    ServerRefused,
    ServerUnreachable,
)
from client_sdk.keys import write_private
from client_sdk.objective import Objective
from client_sdk.protocol import Blob, ModelCard, check_slug

if TYPE_CHECKING:
    from client_sdk.network import Network
    from client_sdk.participant import Participant

log = logging.getLogger("client_sdk")

_CARD, _VERSION = "card.json", "version.json"
_PAGE: Final = 500  # models in one answer, the most that a server gives
_LATELY: Final = 10.0  # seconds that an answer about the served version is good for
_AWAY: Final = 60.0  # and that there was none: to wait for one takes its time
_PATIENCE: Final = 10.0
_PINNED: Final = 8  # models whose blobs stay in the cache, those used last
_NETWORKS: Final = 2  # built models that are kept, of all participants in this process


class NoModel(ParticipantError):
    """It is not clear which model is meant, or nothing of it is here or served.

    Args:
        detail: what was expected and received.
        models: slugs of the models to choose from.
    """

    def __init__(self, detail: str, models: list[str] | None = None) -> None:
        super().__init__(detail)
        self.models = models or []


class VersionBroken(ParticipantError):
    """A version puts out NaN or infinity: it says nothing, and no score of it is told."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a model says of one example.

    Args:
        label: of the highest score.
        scores: probability by label, in the order of the model's labels; plain values where the
            model has no classes.
        version: number of the version that said so.
    """

    label: str
    scores: dict[str, float]
    version: int


class Served:
    """One version of a model, as it is served.

    Get it from `Participant.served`.

    Attributes:
        slug: the model's name in addresses.
        name: the model's name for people.
        version: number of the version.
        labels: names of its classes, in their order; none where it has none.
        input_spec: what it takes, and how raw values become that.
        objective: what it is trained for.
        fresh: whether the server said just now that it serves this version; False where it could
            not be asked, and this is the newest version that is here.
        weights: its weights by name, one's own values in the place of those that stay here.

    Example:
        >>> served = alice.served()
        >>> served.version, served.fresh
        (1, True)
        >>> served.predict(np.zeros((2, 3))).shape
        (2, 2)
    """

    def __init__(
        self, card: ModelCard, version: int, weights: Mapping[str, np.ndarray], *, fresh: bool
    ) -> None:
        document = card.document
        try:
            self.input_spec = wire.InputSpec.from_json(document["input_spec"])
            self.objective = Objective.from_json(document["objective"])
        except (KeyError, TypeError, ValueError) as error:
            raise ServerDistrusted(f"Expected a whole model document. Received: {error}") from error
        self.slug = card.slug
        self.name = str(document.get("name") or card.slug)
        self.labels = [str(label) for label in document.get("labels") or []]
        self.version, self.fresh, self.weights = version, fresh, weights
        self.card = card
        self._own: Any = None
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"Served(slug={self.slug!r}, version={self.version}, fresh={self.fresh})"

    def model(self) -> Any:
        """This version as a compiled `keras.Model` of your own: train it, change it, save it.

        It is built once. What is done to it changes neither `predict` nor what a round trains.
        It takes what `input_spec.prepare` makes of raw examples.
        """
        import client_sdk.network

        with self._lock:
            if self._own is None:
                network = client_sdk.network.Network(self.card.document)
                network.load(self.weights)
                network.compile("sgd")
                self._own = network.model
        return self._own

    def predict(self, x: Any) -> np.ndarray:
        """Probabilities (n, classes) of raw examples; outputs as they are where it has no classes.

        Args:
            x: raw examples (n, *shape), or photos as paths or bytes.

        Raises:
            TrainingDataRefused: when the model cannot take them; a broken photo is named.
            VersionBroken: when it puts out NaN or infinity.
        """
        inputs = read_inputs(x, self.input_spec)
        with _network(self.card) as kept:
            outputs = kept.holding(self).outputs(inputs)
        self._expect_finite(outputs)
        return self.objective.probabilities(outputs)

    def predictions(self, images: Any) -> list[Prediction]:
        """What it says of each example; arguments as for `predict`."""
        return [self._prediction(row) for row in self.predict(images)]

    def evaluate(self, data: Any) -> dict[str, float]:
        """Loss, and accuracy where it has classes, on labelled data of any kind.

        Args:
            data: as for `Participant.participate`.

        Raises:
            VersionBroken: when the loss is NaN or infinite.
        """
        examples = read_for(data, self.input_spec, self.labels)
        with _network(self.card) as kept:
            network = kept.holding(self)
            if not network.model.compiled:
                network.compile("sgd")
            found = network.evaluate(examples)
        self._expect_finite(np.array(list(found.values())))
        return found

    def _expect_finite(self, values: np.ndarray) -> None:
        if not np.isfinite(values).all():
            raise VersionBroken(
                f"Expected finite numbers from {self.slug}, version {self.version}. "
                "Received: NaN or infinity"
            )

    def _prediction(self, row: np.ndarray) -> Prediction:
        scores = self.objective.scores(row, self.labels)
        return Prediction(max(scores, key=scores.__getitem__), scores, self.version)


# --- Models that are built once -------------------------------------------------------------------


class _Kept:
    """A built model that several versions use in turn."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        self._document = document
        self._lock = threading.Lock()
        self._network: Network | None = None
        self._holds: Served | None = None

    def __enter__(self) -> _Kept:
        self._lock.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def holding(self, served: Served) -> Network:
        """The model with a version's weights in it."""
        if self._network is None:
            from client_sdk.network import Network

            self._network = Network(self._document)
        if self._holds is not served:
            self._holds = None  # half loaded, should this fail
            self._network.load(served.weights)
            self._holds = served
        return self._network


_networks: OrderedDict[str, _Kept] = OrderedDict()
_networks_lock = threading.Lock()


def _network(card: ModelCard) -> _Kept:
    parts = [card.document.get(name) for name in ("weights", "input_spec", "objective")]
    key = hashlib.sha256(wire.canonical_json([card.architecture_digest, *parts])).hexdigest()
    with _networks_lock:
        if key not in _networks:
            _networks[key] = _Kept(card.document)
        _networks.move_to_end(key)
        while len(_networks) > _NETWORKS:
            _networks.popitem(last=False)
        return _networks[key]


# --- What is kept of a server's models ------------------------------------------------------------


class Shelf:
    """The models of one participant's server: asked for, and kept for when it is away."""

    def __init__(self, participant: Participant) -> None:
        self._participant = participant
        self._folder = participant.profile.folder / "models"
        self._given: dict[str, Served] = {}  # by slug
        self._asked: dict[str | None, tuple[float, Served]] = {}

    def served(self, slug: str | None, patience: float | None) -> Served:
        """The served version of a model, or the newest that is here; see `Participant.served`."""
        try:
            found = self._ask(slug, patience)
        except (ServerUnreachable, ParticipantSuspended) as error:
            found = self._kept(slug, error)
            log.info("%s, version %d, from the cache: %s", found.slug, found.version, error)
        else:
            log.info("%s, version %d, as it is served", found.slug, found.version)
        self._asked[slug] = (time.monotonic(), found)
        return found

    def lately(self, slug: str | None) -> Served:
        """The same, without asking again and again."""
        at, found = self._asked.get(slug, (0.0, None))
        good_for = _LATELY if found is None or found.fresh else _AWAY
        if found is not None and time.monotonic() - at < good_for:
            return found
        return self.served(slug, _PATIENCE)

    def forget(self) -> None:
        """Ask anew the next time: there may be a newer version."""
        self._asked.clear()

    def remember(self, card: ModelCard, version: int, weights: Blob, fixed: Blob | None) -> None:
        """Keep a version that is here, in place of the one before."""
        folder = self._folder / check_slug(card.slug)
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        document = dict(card.document) | {"served": None}
        content = wire.canonical_json(document)
        if not (folder / _CARD).exists() or (folder / _CARD).read_bytes() != content:
            write_private(folder / _CARD, content)
        told = {"number": version, "weights": _blob(weights), "fixed": fixed and _blob(fixed)}
        content = json.dumps(told).encode()
        path = folder / _VERSION
        if not path.exists() or path.read_bytes() != content:
            write_private(path, content)
        else:
            path.touch()  # the one used last

    def blobs(self) -> list[str]:
        """Digests of the blobs that are kept for when the server is away."""
        found = []
        for slug in self._used()[:_PINNED]:
            try:
                _, weights, fixed = _read_version(self._folder / slug / _VERSION)
            except (OSError, ValueError, ServerDistrusted):
                continue
            found += [blob.sha256 for blob in (weights, fixed) if blob]
        return found

    # --- With the server ---

    def _ask(self, slug: str | None, patience: float | None) -> Served:
        slug = check_slug(slug) if slug is not None else self._only(patience)
        try:
            document = self._participant._transport.get(f"models/{slug}", patience=patience)
        except ServerRefused as refused:
            if refused.status != 404:
                raise
            models = self._listed(patience)
            raise NoModel(
                f"Expected the slug of a model: {_some(models)}. Received: {slug!r}", models
            ) from refused
        card = ModelCard.from_json(document)
        if card.slug != slug:
            raise IntegrityError(f"Expected the model {slug}. Received: {card.slug!r:.80}")
        told = document.get("served")
        if told is None:
            raise NoModel(f"Expected a served version of {slug}. Received: none is published")
        version, weights, fixed = _version(told)
        return self._opened(card, version, weights, fixed, patience=patience, fresh=True)

    def _only(self, patience: float | None) -> str:
        models = self._listed(patience)
        used = [slug for slug in self._used() if slug in models]
        if len(models) == 1 or used:
            return (models if len(models) == 1 else used)[0]
        raise NoModel(
            f"Expected the slug of one of the server's models. Received: none; {_some(models)}",
            models,
        )

    def _listed(self, patience: float | None) -> list[str]:
        path = f"models?page_size={_PAGE}"
        answer = self._participant._transport.get(path, patience=patience)
        results = answer.get("results") if isinstance(answer, Mapping) else None
        if not isinstance(results, list):
            raise ServerDistrusted("Expected a list of models. Received: something else")
        slugs = [entry.get("slug") for entry in results if isinstance(entry, Mapping)]
        return [check_slug(slug) for slug in slugs if isinstance(slug, str)]

    def _opened(
        self,
        card: ModelCard,
        version: int,
        weights: Blob,
        fixed: Blob | None,
        *,
        patience: float | None,
        fresh: bool,
    ) -> Served:
        tensors = self._participant.tensors(card, version, weights, fixed, patience=patience)
        served, before = Served(card, version, tensors, fresh=fresh), self._given.get(card.slug)
        if before is not None and _same(before, served):
            before.fresh = fresh  # with what it has built
            return before
        self._given[card.slug] = served
        return served

    # --- Without it ---

    def _kept(self, slug: str | None, away: ParticipantError) -> Served:
        used = self._used()
        wanted = slug if slug is not None else next(iter(used), None)
        if wanted is None or wanted not in used:
            received = f"{wanted!r}, and here are {_some(used)}" if wanted else "none is here"
            raise NoModel(
                f"Expected a model that is kept here, for the server could not be asked ({away}). "
                f"Received: {received}",
                used,
            ) from away
        folder = self._folder / wanted
        try:
            card = ModelCard.from_json(json.loads((folder / _CARD).read_bytes()))
            version, weights, fixed = _read_version(folder / _VERSION)
            # What the cache has lost cannot be had now, and must not be waited for.
            if card.slug != wanted or not self._is_here(weights) or not self._is_here(fixed):
                raise NoModel("a part of it is missing")
            return self._opened(card, version, weights, fixed, patience=0.0, fresh=False)
        except (OSError, ValueError, NoModel, ServerDistrusted) as error:
            raise NoModel(
                f"Expected {wanted} to be kept whole, for the server could not be asked ({away}). "
                f"Received: {error}"
            ) from away

    def _is_here(self, blob: Blob | None) -> bool:
        cache = self._participant.cache
        return blob is None or cache.find(blob.sha256, blob.length) is not None

    def _used(self) -> list[str]:
        """Slugs of the models that are kept, the one used last first."""
        paths = list(self._folder.glob(f"*/{_VERSION}"))
        paths.sort(key=lambda path: path.stat().st_mtime_ns, reverse=True)
        return [path.parent.name for path in paths]


def _same(one: Served, other: Served) -> bool:
    if one.version != other.version or one.card.document != other.card.document:
        return False
    return all(np.array_equal(one.weights[name], other.weights[name]) for name in _local(one.card))


def _local(card: ModelCard) -> list[str]:
    """Weights that another round may have changed without another version."""
    return [spec.name for spec in card.tensors(wire.LOCAL)]


def _version(told: Any) -> tuple[int, Blob, Blob | None]:
    number, fixed = (told.get(name) if isinstance(told, Mapping) else None for name in _TOLD)
    if type(number) is not int:
        raise ServerDistrusted(f"Expected the number of a version. Received: {number!r:.80}")
    return number, Blob.from_json(told.get("weights")), Blob.from_json(fixed) if fixed else None


_TOLD = ("number", "fixed")


def _read_version(path: Path) -> tuple[int, Blob, Blob | None]:
    return _version(json.loads(path.read_bytes()))


def _blob(blob: Blob) -> dict[str, Any]:
    return {"sha256": blob.sha256, "bytes": blob.length}


def _some(slugs: list[str]) -> str:
    return ", ".join(slugs[:10]) + (", …" if len(slugs) > 10 else "") if slugs else "there are none"
