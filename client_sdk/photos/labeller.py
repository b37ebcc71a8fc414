"""The labeller: photos in, a word of the model's on each, labels, a round, and what it changed.

It knows no transport. Whoever shows it (the page of `app`, the widget of a notebook) draws
`state()`, hears by `subscribe` when that is another one, and passes on what people do as messages:

    do          with                    answer
    add         name, and its bytes     photo, known
    look        id                      photo, scores, version; the picture, and what the model sees
    label       id, label               photo
    label_all                           labelled, left
    delete      id                      photo
    undo                                photo
    gallery     label, start, count     photos, total
    thumbs      ids                     ids, and a small picture for each
    refresh                             newer, asked (whether the server could be)
    train                               -
    cancel                              -
    compare                             -
    changes     start, count            lines, total

Every message is answered by one; a refusal says `error`: its code and a sentence. What a message
holds is a stranger's word and checked: a photo is named by its id alone, and no path ever comes in.
"""

from __future__ import annotations

import logging
import threading
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from client_sdk import photo
from client_sdk.errors import ParticipantError
from client_sdk.photo import PhotoRefused
from client_sdk.photos import gallery as galleries
from client_sdk.photos.gallery import Gallery, GalleryRefused, Photo
from client_sdk.photos.recogniser import Changes, Recogniser
from client_sdk.photos.taking_part import TakingPart

log = logging.getLogger("client_sdk")

FEW: Final = 5  # photos of a label below which it is said that more would help
VERDICT_PATIENCE: Final = 60.0  # seconds
_PAGE: Final = 120  # photos told at once, at most
_THUMBS: Final = 40
_LABELS_SHOWN: Final = 400  # of labels without a photo, that a page can show
_COMPARED_UNASKED: Final = 500  # photos

Answer = tuple[dict[str, Any], list[bytes]]


class Refused(Exception):
    """A message that asks for what cannot be."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail


class Labeller:
    """Photos, their labels, and the model that learns from them.

    Args:
        participant: who takes part.
        gallery: the photos.
        model: slug of the model; None for the one of the enrolment.
        options: more of `Participant.participate`, such as `trainer`.

    Example:
        >>> labeller = Labeller(alice, Gallery(photos))
        >>> answer, _ = labeller.handle({"do": "add"}, [content])
        >>> _ = labeller.handle({"do": "label", "id": answer["photo"]["id"], "label": "cat"})
        >>> labeller.state()["total"]
        1
    """

    def __init__(
        self,
        participant: Any,
        gallery: Gallery,
        *,
        model: str | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        self.gallery = gallery
        self._participant, self._options = participant, dict(options or {})
        self._recogniser = Recogniser(participant, gallery, model)
        self._listeners: list[Callable[[], object]] = []
        self._busy: dict[str, Any] | None = None
        self._part: TakingPart | None = None
        self._changes: Changes | None = None
        self._revision = 0
        self._background: threading.Thread | None = None
        self._working = threading.Lock()
        self._starting = threading.Lock()

    def start(self) -> None:
        """Get the model ready, in the background: the first photo need not wait for all of it."""
        self._in_background(self._get_ready)

    def close(self) -> None:
        """Give back what is under way; waits a little for it."""
        if self._part is not None and not self._part.over:
            self._part.cancel()
            self._part.join(10.0)

    # --- What it shows ---

    def subscribe(self, listener: Callable[[], object]) -> Callable[[], None]:
        """Be told, from any thread, that `state` is another one.

        Returns:
            What ends it.
        """
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener) if listener in self._listeners else None

    def state(self) -> dict[str, Any]:
        """All that is to be drawn, but the photos themselves; plain JSON."""
        labels = self._labels()
        waiting = self.gallery.waiting()
        total = sum(one["count"] for one in labels)
        return {
            "participant": self._participant.profile.name,
            "server": self._participant.profile.url,
            "folder": _shown(self.gallery.path),
            "model": self._model(),
            "trouble": _plain(self._recogniser.trouble),
            "busy": self._busy,
            "labels": labels,
            "few": FEW,
            "total": total,
            "usable": sum(one["count"] for one in labels if one["known"]),
            "waiting": [self._waits(one) for one in waiting],
            "training": self._part.state if self._part is not None else None,
            "changes": self._changes.to_json() if self._changes is not None else None,
            "comparable": self._recogniser.earlier,
            "revision": self._revision,
        }

    def _model(self) -> dict[str, Any] | None:
        served = self._recogniser.served
        if served is None:
            return None
        return {
            "slug": served.slug,
            "name": served.name or served.slug,
            "version": served.version,
            "fresh": bool(served.fresh),
            "photos": self._recogniser.takes_photos,
            "shape": list(served.input_spec.shape),
            "labels": self._recogniser.labels,
        }

    def _labels(self) -> list[dict[str, Any]]:
        """The model's labels in its order, then folders that it has no label for."""
        counts, known = self.gallery.counts(), self._recogniser.labels
        lines = [{"label": label, "count": counts.pop(label, 0), "known": True} for label in known]
        if len(lines) > _LABELS_SHOWN:
            lines = [line for line in lines if line["count"]]
        others = [(label, count) for label, count in counts.items() if count]
        known_too = not known and self._recogniser.served is not None
        return lines + [
            {"label": label, "count": count, "known": known_too and label.isdecimal()}
            for label, count in others
        ]

    def _waits(self, one: Photo) -> dict[str, Any]:
        said = self._recogniser.said(one.id)
        top = {"label": said[0], "score": said[1]} if said else None
        return {"id": one.id, "top": top}

    def _changed(self) -> None:
        for listener in list(self._listeners):
            with suppress(Exception):  # whoever has gone away must not stop the work
                listener()

    def _photos_changed(self) -> None:
        self._revision += 1
        self._changed()

    # --- What people do ---

    def handle(self, content: Any, buffers: Sequence[bytes] = ()) -> Answer:
        """Do what a message says.

        Args:
            content: `do`, and what it needs.
            buffers: bytes that came with it.

        Returns:
            The answer, and bytes that go with it.
        """
        try:
            verb = content.get("do") if isinstance(content, Mapping) else None
            if verb not in _VERBS:
                raise Refused(
                    "message_unknown", f"Expected one of {_VERBS}. Received: {verb!r:.40}"
                )
            answer: Answer = getattr(self, f"_do_{verb}")(content, [bytes(one) for one in buffers])
            return answer
        except (Refused, PhotoRefused, GalleryRefused) as refused:
            return {"error": {"code": refused.code, "text": refused.detail}}, []
        except OSError as error:
            text = f"The photos' folder cannot be used: {error.strerror or error}."
            return {"error": {"code": "folder", "text": text}}, []
        except (ImportError, ParticipantError, ValueError) as error:
            return {"error": {"code": "failed", "text": str(error)}}, []

    def _do_add(self, content: Mapping[str, Any], buffers: list[bytes]) -> Answer:
        if len(buffers) != 1:
            raise Refused("message_invalid", f"Expected one photo. Received: {len(buffers)}")
        found = self.gallery.add(buffers[0])
        if found.label is None:
            self._try_to_recognise(found.id)
        self._photos_changed()
        return {"photo": _line(found), "known": found.label}, []

    def _do_look(self, content: Mapping[str, Any], _: list[bytes]) -> Answer:
        found = self.gallery.find(_text(content, "id"))
        picture = self.gallery.read(found.id)
        recognition = self._try_to_recognise(found.id)
        answer: dict[str, Any] = {"photo": _line(found), "scores": [], "version": None}
        if recognition is None:
            return answer, [picture]
        scores = [{"label": label, "score": score} for label, score in recognition.scores]
        answer |= {"scores": scores, "version": recognition.version}
        return answer, [picture, self._seen(picture)]

    def _do_label(self, content: Mapping[str, Any], _: list[bytes]) -> Answer:
        label = unicodedata.normalize("NFC", _text(content, "label"))
        known = self._recogniser.labels
        label = label if label in known else label.strip()
        if known and label not in known:
            raise Refused(
                "label_unknown", f"Expected one of the model's labels. Received: {label!r:.60}"
            )
        found = self.gallery.label(_text(content, "id"), label)
        self._photos_changed()
        return {"photo": _line(found)}, []

    def _do_label_all(self, _: Mapping[str, Any], __: list[bytes]) -> Answer:
        """Give every photo that waits the label that it was recognised as."""
        labelled = 0
        for one in self.gallery.waiting():
            # Gone by now, broken, or of a label that names no folder: it stays, and stops no other.
            with suppress(GalleryRefused, PhotoRefused):
                recognition = self._try_to_recognise(one.id)
                if recognition is not None:
                    self.gallery.label(one.id, recognition.top[0])
                    labelled += 1
        self._photos_changed()
        return {"labelled": labelled, "left": len(self.gallery.waiting())}, []

    def _do_delete(self, content: Mapping[str, Any], _: list[bytes]) -> Answer:
        found = self.gallery.delete(_text(content, "id"))
        self._recogniser.forget(found.id)
        self._photos_changed()
        return {"photo": _line(found)}, []

    def _do_undo(self, _: Mapping[str, Any], __: list[bytes]) -> Answer:
        found = self.gallery.undo()
        self._photos_changed()
        return {"photo": _line(found) if found is not None else None}, []

    def _do_gallery(self, content: Mapping[str, Any], _: list[bytes]) -> Answer:
        label = content.get("label")
        photos = self.gallery.photos(label if isinstance(label, str) and label else None)
        start, count = _number(content, "start", 0), _number(content, "count", _PAGE)
        part = photos[start : start + min(count, _PAGE)]
        return {"photos": [_line(one) for one in part], "total": len(photos)}, []

    def _do_thumbs(self, content: Mapping[str, Any], _: list[bytes]) -> Answer:
        asked = content.get("ids")
        ids = [one for one in asked if isinstance(one, str)] if isinstance(asked, list) else []
        made: dict[str, bytes] = {}
        for id_ in ids[:_THUMBS]:
            with suppress(GalleryRefused, PhotoRefused, OSError):  # it is shown as broken
                made[id_] = galleries.thumbnail(self.gallery.read(id_))
        return {"ids": list(made)}, list(made.values())

    def _do_refresh(self, _: Mapping[str, Any], __: list[bytes]) -> Answer:
        newer, trouble = self._look(), self._recogniser.trouble
        return {"newer": newer, "asked": trouble is None or trouble.code == "no_photos"}, []

    def _do_train(self, _: Mapping[str, Any], __: list[bytes]) -> Answer:
        self._expect_idle()
        if self._recogniser.served is not None and not self._recogniser.takes_photos:
            raise Refused("no_photos", self._recogniser.trouble.text)  # type: ignore[union-attr]
        if not any(one["count"] for one in self._labels() if one["known"] or not self._model()):
            raise Refused("no_data", "Expected at least one labelled photo. Received: none")
        with self._starting:  # two pages may be open
            self._expect_idle()
            self._part = TakingPart(
                self._take_part,
                prepare=self._before_training,
                changed=self._changed,
                ended=self._after_training,
            )
            self._part.start()
        self._changed()
        return {}, []

    def _expect_idle(self) -> None:
        if self._part is not None and not self._part.over:
            raise Refused("training", "Expected no training under way. Received: another")

    def _do_cancel(self, _: Mapping[str, Any], __: list[bytes]) -> Answer:
        if self._part is not None:
            self._part.cancel()
        return {}, []

    def _do_compare(self, _: Mapping[str, Any], __: list[bytes]) -> Answer:
        if self._recogniser.earlier is None:
            raise Refused("no_earlier", "Expected an earlier version. Received: the first one")
        self._in_background(self._compare)
        return {}, []

    def _do_changes(self, content: Mapping[str, Any], _: list[bytes]) -> Answer:
        lines = self._changes.lines if self._changes is not None else ()
        start, count = _number(content, "start", 0), _number(content, "count", _PAGE)
        part = lines[start : start + min(count, _PAGE)]
        told = [
            {
                "id": one.id,
                "label": one.label,
                "kind": one.kind,
                "before": {"label": one.before[0], "score": one.before[1]},
                "after": {"label": one.after[0], "score": one.after[1]},
            }
            for one in part
        ]
        return {"lines": told, "total": len(lines)}, []

    # --- The model ---

    def _try_to_recognise(self, id_: str) -> Any:
        """What the model says of a photo; a model that cannot is told of, and stops no photo."""
        try:
            return self._recogniser.recognise(id_)
        except (ParticipantError, ImportError) as error:
            self._recogniser.fail(error)
            return None

    def _seen(self, picture: bytes) -> bytes:
        """What the model sees of a photo."""
        served = self._recogniser.served
        assert served is not None
        return photo.as_png(photo.as_example(picture, served.input_spec), served.input_spec)

    def _get_ready(self) -> None:
        self._say_busy("Getting the model ready")
        self._look()
        try:
            self._recogniser.warm_up()
        except (ParticipantError, ImportError) as error:
            self._recogniser.fail(error)
        self._recognise_all(self.gallery.waiting())

    def _recognise_all(self, photos: Sequence[Photo]) -> None:
        try:
            self._recogniser.recognise_all(photos)
        except (ParticipantError, ImportError) as error:
            self._recogniser.fail(error)

    def _look(self) -> bool:
        """Ask for a newer version; what is on the page is recognised anew when there is one."""
        held = self._recogniser.served is not None
        if self._part is not None:
            self._part.follow(self._participant.assignment)
        newer = self._recogniser.look()
        if newer and held:
            self._in_background(self._compare_unasked)
        self._changed()
        return newer

    def _compare_unasked(self) -> None:
        self._recognise_all(self.gallery.waiting())
        if 0 < len(self.gallery.images) <= _COMPARED_UNASKED:
            self._compare()

    def _compare(self) -> None:
        version = self._recogniser.served.version if self._recogniser.served else 0
        text = f"Comparing version {version} with the one before"
        self._say_busy(text, 0.0)
        try:
            self._changes = self._recogniser.compare(lambda part: self._say_busy(text, part))
        except (ParticipantError, ImportError) as error:
            self._recogniser.fail(error)

    # --- Taking part ---

    def _take_part(self, stop: threading.Event, on_event: Callable[..., None]) -> Any:
        served = self._recogniser.served
        return self._participant.participate(
            self.gallery.path,
            model=served.slug if served is not None else None,
            rounds=1,
            on_event=on_event,
            stop=stop,
            progress=False,  # the page shows it
            **{"verdicts": VERDICT_PATIENCE, **self._options},
        )

    def _before_training(self) -> None:
        """Let the version that training starts from see the photos, to be compared with later."""
        self._recogniser.look()
        if not self._recogniser.takes_photos and self._recogniser.trouble is not None:
            raise ValueError(self._recogniser.trouble.text)
        self._recognise_all(self.gallery.photos()[:_COMPARED_UNASKED])

    def _after_training(self) -> None:
        self._look()

    # --- In the background ---

    def _in_background(self, work: Callable[[], None]) -> None:
        """One thing after another, in threads that nobody waits for."""
        thread = threading.Thread(target=self._work, args=(work,), daemon=True)
        self._background = thread
        thread.start()

    def _work(self, work: Callable[[], None]) -> None:
        with self._working:
            try:
                work()
            except Exception:
                log.exception("the labeller's work ended early")
            finally:
                self._busy = None
                self._changed()

    def _say_busy(self, text: str, part: float | None = None) -> None:
        self._busy = {"text": text, "part": part}
        self._changed()


_VERBS: Final = tuple(
    name.removeprefix("_do_") for name in vars(Labeller) if name.startswith("_do_")
)


def _shown(path: Path) -> str:
    """A path as people know it."""
    path = path.absolute()
    with suppress(ValueError, RuntimeError):
        return str("~" / path.relative_to(Path.home()))
    return str(path)


def _line(found: Photo) -> dict[str, Any]:
    return {"id": found.id, "label": found.label}


def _plain(trouble: Any) -> dict[str, str] | None:
    return {"code": trouble.code, "text": trouble.text} if trouble is not None else None


def _text(content: Mapping[str, Any], name: str) -> str:
    value = content.get(name)
    if not isinstance(value, str) or not value or len(value) > 1000:
        raise Refused("message_invalid", f"Expected `{name}` as text. Received: {value!r:.40}")
    return value


def _number(content: Mapping[str, Any], name: str, default: int) -> int:
    value = content.get(name, default)
    if type(value) is not int or value < 0:
        raise Refused("message_invalid", f"Expected `{name}` from 0. Received: {value!r:.40}")
    return value
