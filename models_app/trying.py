"""Trying a model: a photo, or a row of numbers, answered by the version that it serves.

A photo is its owner's. It lives in the memory of the process that received it and of the worker
that looks at it, for seconds, and nowhere else. It cannot wait in Redis as work does: a broker that
appends every write to a file, as the embedded one does, would have it on its disk. So it goes by
publish and subscribe, which no broker keeps:

    door                                    worker
    listens, and rings the bell   ───────>  takes the ring: an id
                                  <───────  "here", and listens
    tells the question            ───────>
                                  <───────  tells the answer

Nobody can ask for another one's answer, for answers have no address: each comes back through the
request that asked.
"""

import base64
import csv
import json
import logging
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import cache
from threading import BoundedSemaphore
from typing import Any, Final

import numpy as np
import redis
from django.conf import settings

from client_sdk import photo
from client_sdk.photo import PhotoRefused
from client_sdk.wire import InputSpec, WireError
from models_app import registry
from models_app.errors import (
    FedserverError,
    TryBusy,
    TryRefused,
    TryTooLarge,
    TryUnanswered,
    TryUnsupported,
)
from models_app.evaluation import class_labels
from models_app.models import Model

logger = logging.getLogger(__name__)

PATIENCE: Final = 20.0  # seconds that a person waits for a worker
ROW_BYTES: Final = 65_536
_AT_ONCE: Final = 4  # of one process: each holds a photo and a thread
_WORKER_PATIENCE: Final = 5.0  # seconds; the door is there, or it is gone
_HERE: Final = b"here"

_places = BoundedSemaphore(_AT_ONCE)


@dataclass(frozen=True)
class Question:
    """What is tried: a photo's file, or the numbers of one row as JSON.

    Args:
        content: The bytes.
        is_photo: Whether they are a photo.
        invert: Turn light into dark first.
    """

    content: bytes
    is_photo: bool = True
    invert: bool = False

    def packed(self) -> bytes:
        """In one piece, to be sent."""
        head = {"is_photo": self.is_photo, "invert": self.invert}
        return json.dumps(head).encode() + b"\n" + self.content

    @classmethod
    def unpacked(cls, packed: bytes) -> "Question":
        """What `packed` put together."""
        head, _, content = packed.partition(b"\n")
        return cls(content, **json.loads(head))


# --- What a model takes -------------------------------------------------------------------------


def takes(model: Model) -> str:
    """What can be tried on a model: "photo", "row", or "" for other things."""
    spec = InputSpec.from_json(model.input_spec)
    if photo.takes_photos(spec):
        return "photo"
    return "row" if len(spec.shape) == 1 and spec.shape[0] else ""


def read_photo(content: bytes, *, invert: bool = False) -> Question:
    """A photo to be tried, judged by its size and its first bytes; the worker opens it.

    Raises:
        TryTooLarge: It has too many bytes.
        TryUnsupported: It is none of the formats.
    """
    if len(content) > settings.MAX_PHOTO_BYTES:
        limit = settings.MAX_PHOTO_BYTES
        raise TryTooLarge(f"Expected at most {limit} bytes. Received: {len(content)}")
    with _refusals():
        photo.format_of(content)
    return Question(content, invert=invert)


def read_row(text: str, model: Model) -> Question:
    """One row of numbers, written as JSON, as CSV (a line of names before it is skipped) or with
    spaces.

    Raises:
        TryRefused: It does not hold as many numbers as the model takes.
    """
    (count,) = InputSpec.from_json(model.input_spec).shape
    values = _numbers(text[:ROW_BYTES].strip())
    if values is None or len(values) != count or not np.isfinite(values).all():
        received = f"{text[:60]!r}" if values is None else f"{len(values)}"
        raise TryRefused(f"Expected {count} finite numbers. Received: {received}", field="row")
    return Question(json.dumps(values).encode(), is_photo=False)


def _numbers(text: str) -> list[float] | None:
    try:
        if text.startswith("["):
            values = json.loads(text)
            return [float(value) for value in values if type(value) in (int, float)]
        lines = text.splitlines()
        row = lines[-1] if lines else ""
        comma = next((mark for mark in ",;\t" if mark in row), " ")
        cells = next(csv.reader([row], delimiter=comma, skipinitialspace=True), [])
        return [float(cell) for cell in cells if cell.strip()]
    except (ValueError, RecursionError):
        return None


# --- At the door --------------------------------------------------------------------------------


def ask(
    question: Question, ring: Callable[[str], object], *, seconds: float = PATIENCE
) -> dict[str, Any]:
    """Wait for a worker's answer.

    Args:
        question: What is tried.
        ring: Asks a worker to `answer` a try, by its id.
        seconds: To wait for.

    Returns:
        What `answer` found; see there.

    Raises:
        TryRefused: The worker could not open it, or the model not answer it.
        TryUnanswered: No worker came in time.
        TryBusy: Too many others wait.
    """
    if not _places.acquire(blocking=False):
        raise TryBusy("Expected a free place. Received: too many at once", retry_after=5)
    try:
        heard = _ask(question, ring, seconds)
    except redis.RedisError as error:
        raise TryUnanswered(f"Expected a broker. Received: {type(error).__name__}") from error
    finally:
        _places.release()
    if problem := heard.get("problem"):
        raise _REFUSALS.get(problem["code"], TryRefused)(problem["detail"])
    return heard


def _ask(question: Question, ring: Callable[[str], object], seconds: float) -> dict[str, Any]:
    trial, until, taken = secrets.token_urlsafe(16), time.monotonic() + seconds, False
    with _listening(f"{trial}:door") as subscription:
        ring(trial)
        while (message := _next(subscription, until)) is not None:
            if message != _HERE:
                answer: dict[str, Any] = json.loads(message)
                return answer
            taken = True
            _publish(f"{trial}:worker", question.packed())
    if taken:
        detail = f"Expected an answer within {seconds:g} s. Received: a worker is still at it"
    else:
        detail = f"Expected a worker within {seconds:g} s. Received: none came"
    raise TryUnanswered(detail, taken=taken)


# --- At the worker ------------------------------------------------------------------------------


def answer(trial: str, model_id: int) -> None:
    """Answer a try. For workers that have Keras.

    What is told: `version`, `seconds` of the model itself, `kind` (`classes`: one of them is it;
    `labels`: each may be; `values`: plain numbers), `scores` as a list of label and score, and
    `seen`, the picture as the model saw it. Or a `problem`, with `code` and `detail`.
    """
    with _listening(f"{trial}:worker") as subscription:
        if not _publish(f"{trial}:door", _HERE):
            return  # who asked has gone
        message = _next(subscription, time.monotonic() + _WORKER_PATIENCE)
    if message is None:
        return
    try:
        with _refusals():
            told = _answer(model_id, Question.unpacked(message))
    except FedserverError as error:
        told = {"problem": {"code": error.code, "detail": error.detail}}
    except Exception:
        logger.exception("A try on model %d failed", model_id)
        told = {"problem": {"code": "", "detail": "The worker made a mistake; its log tells."}}
    _publish(f"{trial}:door", json.dumps(told).encode())


def _answer(model_id: int, question: Question) -> dict[str, Any]:
    version = registry.served(model_id)
    spec = InputSpec.from_json(version.model.input_spec)
    seen = None
    if question.is_photo:
        example = photo.as_example(question.content, spec, invert=question.invert)
        picture = base64.b64encode(photo.as_png(example, spec)).decode()
        seen = f"data:image/png;base64,{picture}"
    else:
        example = np.array(json.loads(question.content))
    inputs = spec.prepare(example[np.newaxis])
    from models_app import keras_bridge  # only here: TensorFlow is heavy

    keras_bridge.warm(version)
    began = time.perf_counter()
    outputs = keras_bridge.predict(version, inputs)[0]
    seconds = time.perf_counter() - began
    kind, scores = readable(outputs, version.model.objective, version.model.labels)
    return {
        "version": version.number,
        "seconds": seconds,
        "kind": kind,
        "scores": scores,
        "seen": seen,
    }


def readable(
    outputs: np.ndarray, objective: Mapping[str, Any], labels: Sequence[str]
) -> tuple[str, list[dict[str, Any]]]:
    """A model's outputs for one example, in words.

    Args:
        outputs: One row.
        objective: What the model is trained for.
        labels: Names of its classes.

    Returns:
        The kind, and label and score of each class in their order.

    Raises:
        TryRefused: The outputs are no row of finite numbers.
    """
    if outputs.ndim != 1 or not np.isfinite(outputs).all():
        received = f"shape {outputs.shape}" if outputs.ndim != 1 else "NaN or infinity"
        raise TryRefused(f"Expected one row of finite outputs. Received: {received}")
    kind, scores = _KINDS[objective["loss"]](outputs.astype(np.float64), objective["from_logits"])
    if len(outputs) == 1 and len(scores) == 2 and len(labels) == 1:
        labels = [f"not {labels[0]}", labels[0]]
    names = class_labels(labels, len(scores))
    pairs = zip(names, scores.tolist(), strict=True)
    return kind, [{"label": label, "score": score} for label, score in pairs]


def _classes(outputs: np.ndarray, from_logits: bool) -> tuple[str, np.ndarray]:
    if from_logits:
        powers = np.exp(outputs - outputs.max())
        outputs = powers / powers.sum()
    return "classes", outputs


def _yes_or_no(outputs: np.ndarray, from_logits: bool) -> tuple[str, np.ndarray]:
    likely = 0.5 + 0.5 * np.tanh(outputs / 2) if from_logits else outputs
    if len(likely) == 1:
        return "classes", np.array([1 - likely[0], likely[0]])
    return "labels", likely


def _values(outputs: np.ndarray, from_logits: bool) -> tuple[str, np.ndarray]:
    return "values", outputs


_KINDS: Final[Mapping[str, Callable[[np.ndarray, bool], tuple[str, np.ndarray]]]] = {
    "sparse_categorical_crossentropy": _classes,
    "categorical_crossentropy": _classes,
    "binary_crossentropy": _yes_or_no,
    "mean_squared_error": _values,
    "mean_absolute_error": _values,
}


# --- Between them -------------------------------------------------------------------------------

_REFUSALS = {kind.code: kind for kind in (TryTooLarge, TryUnsupported)}


@contextmanager
def _refusals() -> Iterator[None]:
    """Refusals of the floor below as errors of the house."""
    try:
        yield
    except PhotoRefused as error:
        raise _REFUSALS.get(error.code, TryRefused)(error.detail) from None
    except WireError as error:
        raise TryRefused(error.detail) from None


@cache
def _redis() -> redis.Redis:
    return redis.Redis.from_url(settings.REDIS_URL, socket_timeout=5, socket_connect_timeout=3)


def _channel(name: str) -> str:
    return f"{settings.REDIS_PREFIX}try:{name}"


def _publish(name: str, message: bytes) -> int:
    """Send a message; how many listen there."""
    listeners: Any = _redis().publish(_channel(name), message)
    return int(listeners)


@contextmanager
def _listening(name: str) -> Iterator[Any]:
    with closing(_redis().pubsub()) as subscription:
        subscription.subscribe(_channel(name))
        subscription.get_message(timeout=5)  # the broker says that it is so from now on
        yield subscription


def _next(subscription: Any, until: float) -> bytes | None:
    """The next message, or None when the time has passed."""
    while (left := until - time.monotonic()) > 0:
        message = subscription.get_message(timeout=left)
        if message and message["type"] == "message":
            content: bytes = message["data"]
            return content
    return None
