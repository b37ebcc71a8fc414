"""What the local model says of photos, now and before.

It holds the version that is served, and remembers what each version said of each photo: its first
label and how sure it was. So that there is something to compare when a newer version is out, the
memory is kept beside the photos, for the last versions.
"""

from __future__ import annotations

import json
import logging
import math
import threading
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np

from client_sdk import photo
from client_sdk.errors import ParticipantError, ServerUnreachable
from client_sdk.objective import Objective
from client_sdk.photos.gallery import Gallery, GalleryRefused, Photo
from client_sdk.served import NoModel
from client_sdk.wire import InputSpec

log = logging.getLogger("client_sdk")

PATIENCE: Final = 10.0  # seconds to wait for the server before the cache will do
_BATCH: Final = 32
_VERSIONS_KEPT: Final = 4
_SCORES_KEPT: Final = 256

Verdict = tuple[str, float]


class ServedLike(Protocol):
    """A version of a model that predicts: `client_sdk.served.Served`."""

    slug: str
    name: str
    version: int
    labels: list[str]
    input_spec: InputSpec
    objective: Objective
    fresh: bool

    def predictions(self, images: Any) -> Sequence[Any]:
        """For each raw example `scores`, a probability by label."""


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why nothing is recognised, or why it is by an older version than there may be.

    Args:
        code: `no_model`, `no_keras`, `no_photos` or `offline`.
        text: sentence for people.
    """

    code: str
    text: str


@dataclass(frozen=True, slots=True)
class Recognition:
    """What a version says of a photo: all labels with their scores, the likeliest first."""

    version: int
    scores: tuple[Verdict, ...]

    @property
    def top(self) -> Verdict:
        """The likeliest label and its score."""
        return self.scores[0]


@dataclass(frozen=True, slots=True)
class Change:
    """One of one's own photos before and after: its label, and what two versions say of it."""

    id: str
    label: str
    before: Verdict
    after: Verdict

    @property
    def kind(self) -> str:
        """`learned`, `lost`, `other` (wrong in another way) or `same`."""
        was, is_ = self.before[0] == self.label, self.after[0] == self.label
        if was != is_:
            return "learned" if is_ else "lost"
        return "same" if self.before[0] == self.after[0] else "other"


@dataclass(frozen=True, slots=True)
class Changes:
    """Two versions compared on one's own labelled photos.

    Args:
        before, after: numbers of the versions.
        lines: the photos that both have seen; those that changed come first.
        left_out: photos labelled since, that the earlier version never saw.
    """

    before: int
    after: int
    lines: tuple[Change, ...]
    left_out: int

    def to_json(self) -> dict[str, Any]:
        """Counts for the page."""
        kinds = [line.kind for line in self.lines]
        return {
            "before": self.before,
            "after": self.after,
            "photos": len(self.lines),
            "right_before": sum(line.before[0] == line.label for line in self.lines),
            "right_after": sum(line.after[0] == line.label for line in self.lines),
            "left_out": self.left_out,
        } | {kind: kinds.count(kind) for kind in ("learned", "lost", "other", "same")}


class Recogniser:
    """The local model before the photos of a gallery.

    Args:
        participant: whose model it is.
        gallery: the photos.
        model: slug of the model; None for the one of the enrolment.
    """

    def __init__(self, participant: Any, gallery: Gallery, model: str | None = None) -> None:
        self.served: ServedLike | None = None
        self.trouble: Trouble | None = None
        self._participant, self._gallery, self._model = participant, gallery, model
        self._earlier: ServedLike | None = None
        self._scores: dict[tuple[int, str], Recognition] = {}
        self._said: dict[int, dict[str, Verdict]] = {}
        self._predicting = threading.RLock()
        self._looking = threading.Lock()
        self._keeping = threading.Lock()

    # --- The model ---

    @property
    def takes_photos(self) -> bool:
        """Whether there is a model, and it tells labels of images."""
        return self.served is not None and _labels_photos(self.served)

    @property
    def labels(self) -> list[str]:
        """The model's labels, in its order; none while there is no model."""
        return list(map(_same, self.served.labels)) if self.served is not None else []

    def look(self) -> bool:
        """Ask for the newest version, and take it.

        Returns:
            Whether it is another one than before.
        """
        with self._looking:
            try:
                served: ServedLike = self._participant.served(self._model, patience=PATIENCE)
            except ServerUnreachable:
                self.trouble = _OFFLINE if self.served is not None else _NOTHING_HERE
                return False
            except (ParticipantError, ImportError) as error:
                self.trouble = _told(error)
                return False
            return self._take(served)

    def _take(self, served: ServedLike) -> bool:
        held = self.served
        if held is None or held.slug != served.slug:
            self._said = _read(self._gallery, served.slug)
        elif held.version != served.version:
            self._earlier = held
        self.trouble = None if served.fresh else _OFFLINE
        if not photo.takes_photos(served.input_spec):
            shape = " x ".join(str(side or "any") for side in served.input_spec.shape)
            self.trouble = Trouble("no_photos", _NO_PHOTOS.format(served.name, shape))
        elif not _labels_photos(served):
            self.trouble = Trouble("no_photos", _NO_LABELS.format(served.name))
        self.served = served
        return held is None or (held.slug, held.version) != (served.slug, served.version)

    def fail(self, error: Exception) -> None:
        """Tell that the model cannot run here, and why."""
        log.warning("nothing is recognised: %s", error)
        self.trouble = _told(error)

    def warm_up(self) -> None:
        """Build the model now, so that the first photo need not wait for it."""
        if self.served is not None and self.takes_photos:
            nothing = photo.empty_examples(self.served.input_spec)
            with self._predicting:
                self.served.predictions(np.zeros((1, *nothing.shape[1:]), nothing.dtype))

    # --- What it says ---

    def recognise(self, id_: str) -> Recognition | None:
        """All labels of a photo with their scores; None while nothing can recognise it.

        Raises:
            GalleryRefused: `photo_unknown`.
            PhotoRefused: the file is broken.
        """
        if not self.takes_photos:
            return None
        assert self.served is not None
        known = self._scores.get((self.served.version, id_))
        if known is None:
            content = self._gallery.read(id_)
            example = photo.as_example(content, self.served.input_spec)
            known = self._predict(self.served, [id_], [example])[0]
            self._keep(self.served.slug)
        return known

    def said(self, id_: str) -> Verdict | None:
        """What the version in use said of a photo, if it has seen it."""
        return self._said.get(self.served.version, {}).get(id_) if self.served else None

    def recognise_all(
        self,
        photos: Iterable[Photo],
        served: ServedLike | None = None,
        on_progress: Callable[[float], object] = lambda _: None,
    ) -> None:
        """Let a version see every photo that it has not seen; broken ones are passed over.

        Args:
            photos: of the gallery.
            served: the version; the one in use when None.
            on_progress: told the share that is done.
        """
        served = served or self.served
        if served is None or not _labels_photos(served):
            return
        seen = self._said.get(served.version, {})
        unseen = [one for one in photos if one.id not in seen]
        for start in range(0, len(unseen), _BATCH):
            on_progress(start / len(unseen))
            ids, examples = _examples(self._gallery, unseen[start : start + _BATCH], served)
            if ids:
                self._predict(served, ids, examples)
        if unseen:
            self._keep(served.slug)

    def _predict(
        self, served: ServedLike, ids: Sequence[str], examples: Sequence[np.ndarray]
    ) -> list[Recognition]:
        with self._predicting:
            found = served.predictions(np.stack(examples))
        recognitions = [_ranked(served.version, one.scores) for one in found]
        for id_, recognition in zip(ids, recognitions, strict=True):
            self._said.setdefault(served.version, {})[id_] = recognition.top
            self._scores[served.version, id_] = recognition
        while len(self._scores) > _SCORES_KEPT:
            self._scores.pop(next(iter(self._scores)))
        return recognitions

    # --- What changed ---

    @property
    def earlier(self) -> int | None:
        """Number of the version that the one in use can be compared with."""
        if self.served is None:
            return None
        seen = [number for number, photos in self._said.items() if photos]
        held = [self._earlier.version] if self._earlier is not None else []
        numbers = [number for number in (*seen, *held) if number < self.served.version]
        return max(numbers, default=None)

    def compare(self, on_progress: Callable[[float], object] = lambda _: None) -> Changes | None:
        """The version in use and the one before it, on all labelled photos.

        Returns:
            None while there is no earlier version to compare with.
        """
        after, before = self.served, self.earlier
        if after is None or before is None:
            return None
        known = set(self.labels)
        photos = [one for one in self._gallery.photos() if not known or one.label in known]
        if self._earlier is not None and self._earlier.version == before:
            self.recognise_all(photos, self._earlier, lambda part: on_progress(part / 2))
        self.recognise_all(photos, after, lambda part: on_progress(0.5 + part / 2))
        was, is_ = self._said.get(before, {}), self._said.get(after.version, {})
        lines = [
            Change(one.id, one.label or "", was[one.id], is_[one.id])
            for one in photos
            if one.id in was and one.id in is_
        ]
        order = ("lost", "learned", "other", "same")
        lines.sort(key=lambda line: order.index(line.kind))
        return Changes(before, after.version, tuple(lines), len(photos) - len(lines))

    def forget(self, id_: str) -> None:
        """A photo was deleted: nothing that was said of it is kept."""
        for said in self._said.values():
            said.pop(id_, None)
        for known in [key for key in self._scores if key[1] == id_]:
            del self._scores[known]
        if self.served is not None:
            self._keep(self.served.slug)

    def _keep(self, slug: str) -> None:
        """Remember for the next start; a memory that is lost costs a comparison and no photo."""
        path = _memory(self._gallery, slug)
        with self._keeping, suppress(OSError):
            for old in sorted(self._said)[:-_VERSIONS_KEPT]:
                del self._said[old]
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            part = path.with_suffix(".part")
            part.write_text(json.dumps({version: dict(one) for version, one in self._said.items()}))
            part.replace(path)


def _labels_photos(served: ServedLike) -> bool:
    return photo.takes_photos(served.input_spec) and served.objective.has_classes


def _examples(
    gallery: Gallery, photos: Iterable[Photo], served: ServedLike
) -> tuple[list[str], list[np.ndarray]]:
    ids, examples = [], []
    for one in photos:
        try:
            example = photo.as_example(gallery.read(one.id), served.input_spec)
        except (photo.PhotoRefused, GalleryRefused, OSError) as error:
            log.warning("%s is passed over: %s", one.path.name, error)
            continue
        ids.append(one.id)
        examples.append(example)
    return ids, examples


def _ranked(version: int, scores: Mapping[str, float]) -> Recognition:
    ranked = sorted(((_same(label), score) for label, score in scores.items()), key=_least)
    return Recognition(version, tuple(ranked))


def _least(one: Verdict) -> float:
    return -one[1]


def _same(label: str) -> str:
    """A label as a folder's is read: in one normal form."""
    return unicodedata.normalize("NFC", label)


# --- Between two starts -------------------------------------------------------------------------


def _memory(gallery: Gallery, slug: str) -> Any:
    return gallery.path / ".recognised" / f"{slug}.json"


def _read(gallery: Gallery, slug: str) -> dict[int, dict[str, Verdict]]:
    with suppress(OSError, ValueError, TypeError, AttributeError):
        document = json.loads(_memory(gallery, slug).read_text())
        return {int(number): dict(_verdicts(said)) for number, said in document.items()}
    return {}


def _verdicts(said: dict[str, Any]) -> Iterator[tuple[str, Verdict]]:
    for id_, (label, score) in said.items():
        if math.isfinite(score):  # what is not could not be told to a page
            yield id_, (str(label), float(score))


# --- What is missing ----------------------------------------------------------------------------

_OFFLINE = Trouble(
    "offline",
    "The server does not answer. Photos are recognised by the newest version on this machine, and "
    "labelled and kept as ever; training waits for the server.",
)
_NOTHING_HERE = Trouble(
    "no_model",
    "The server does not answer, and no model is on this machine yet. Photos can be added and "
    "labelled already; they are recognised as soon as the server gives a model.",
)
_WHICH = (
    "The server has several models: {}. Say which one when you start, such as "
    "fedclient photos --model SLUG. Photos can be added and labelled already."
)
_NO_KERAS = (
    "Keras is not installed, so no model can run here: pip install 'fedserver[client]'. Photos can "
    "be added and labelled all the same."
)
_NO_LABELS = (
    "{} tells numbers of a photo, and no labels. Photos can be added and labelled, but this model "
    "neither recognises them nor learns from their labels."
)
_NO_PHOTOS = (
    "{} takes no photos: one of its inputs is {}. Photos can be added and labelled, but this model "
    "neither recognises them nor learns from them."
)


def _told(error: Exception) -> Trouble:
    if isinstance(error, ImportError):
        return Trouble("no_keras", _NO_KERAS)
    if isinstance(error, NoModel) and error.models:
        return Trouble("no_model", _WHICH.format(", ".join(error.models[:20])))
    if isinstance(error, NoModel) and isinstance(error.__cause__, ServerUnreachable):
        return _NOTHING_HERE
    return Trouble("no_model", f"{error} Photos can be added and labelled already.")
