"""What the server answers, as types: assignments, waits and models.

Unknown fields are let through, so that a newer server can say more; a field that is needed and
missing, or of another type, makes the answer one that we do not trust.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from client_sdk import wire
from client_sdk.errors import IntegrityError, ServerDistrusted, plain

_KINDS: dict[type, tuple[type, ...]] = {float: (int, float)}
_REQUIREMENTS = 32
_NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")
_LARGEST = 2**63 - 1  # what a database numbers with; more would not even be a file's name


def _take(document: Any, name: str, kind: type, default: Any = ...) -> Any:
    value = document.get(name) if isinstance(document, Mapping) else None
    if value is None and default is not ...:
        return default
    fits = isinstance(value, _KINDS.get(kind, (kind,))) and (kind is bool) == isinstance(
        value, bool
    )
    if fits and isinstance(value, int):
        fits = 0 <= value <= _LARGEST
    elif fits and isinstance(value, float):
        fits = math.isfinite(value)
    if fits:
        return value
    shown = repr(value)[:40] if isinstance(value, int | float) else type(value).__name__
    raise ServerDistrusted(
        f"Expected `{name}` in the server's answer to be {kind.__name__}. Received: {shown}"
    )


def read_text(document: Any, name: str, form: str = r"[\x21-\x7e]{1,4000}") -> str:
    """A word of an answer that goes into headers, or is signed: visible letters of ASCII.

    Raises:
        ServerDistrusted: when there is none.
    """
    text: str = _take(document, name, str)
    if not re.fullmatch(form, text):
        raise ServerDistrusted(f"Expected `{name}` to be a word. Received: {text[:40]!r}")
    return text


def check_slug(slug: str) -> str:
    """The slug of a model; it becomes a part of paths, here and in addresses, so it must be one.

    Raises:
        ServerDistrusted: when it could lead out of its folder.
    """
    if not re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,199}", slug):
        raise ServerDistrusted(f"Expected the slug of a model. Received: {slug[:80]!r}")
    return slug


def _digest(text: str) -> str:
    if not re.fullmatch(r"[0-9a-f]{64}", text):
        raise ServerDistrusted(f"Expected a SHA-256 digest. Received: {text[:80]!r}")
    return text


@dataclass(frozen=True, slots=True)
class Blob:
    """A file that the server serves: its SHA-256 and its length in bytes."""

    sha256: str
    length: int

    @classmethod
    def from_json(cls, document: Any) -> Blob:
        """Read {"sha256", "bytes"}; the digest becomes a file name, so it must be one."""
        return cls(_digest(_take(document, "sha256", str)), _take(document, "bytes", int))


@dataclass(frozen=True, slots=True)
class Assignment:
    """A participant's place in one round: what to train, from what, and how.

    Args:
        id: the assignment, `round` its round and `run` its run, as the server numbers them.
        number: place of the round in its run, from 1; `rounds` is how many are planned.
        model: slug of the model; `architecture_digest` the SHA-256 of its architecture.
        version: number of the base version.
        weights: blob of its federated weights.
        fixed: blob of its frozen weights and of the local ones' initial values, or None.
        hyperparameters: epochs, batch_size, learning_rate, optimizer, momentum, max_steps.
        seed: decides the order of the samples and the dropout.
        encoding: how deltas are to be written.
        seconds_left: until the round closes, or None.
        quorum: fewest updates that the round publishes with; None when the server does not say.
        cohort: how many participants it wants, or None.
        requires: what the strategy asks of us, as in `client_sdk.drift`; empty for nothing.
        control: blob of the strategy's control variates, or None for zeros.
    """

    id: int
    run: int
    round: int
    number: int
    rounds: int
    model: str
    architecture_digest: str
    version: int
    weights: Blob
    fixed: Blob | None
    hyperparameters: Mapping[str, Any]
    seed: int
    encoding: str = "float32"
    seconds_left: float | None = None
    quorum: int | None = None
    cohort: int | None = None
    requires: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    control: Blob | None = None

    @classmethod
    def from_json(cls, document: Any) -> Assignment:
        """Read an assignment document.

        Raises:
            ServerDistrusted: when something needed is missing or of another type.
        """
        version = _take(document, "version", dict)
        fixed, control = version.get("fixed"), document.get("control")
        return cls(
            id=_take(document, "id", int),
            run=_take(document, "run", int),
            round=_take(document, "round", int),
            number=_take(document, "number", int, 0),
            rounds=_take(document, "rounds", int, 0),
            model=check_slug(_take(document, "model", str)),
            architecture_digest=_digest(_take(document, "architecture_digest", str)),
            version=_take(version, "number", int),
            weights=Blob.from_json(version.get("weights")),
            fixed=Blob.from_json(fixed) if fixed else None,
            hyperparameters=_take(document, "hyperparameters", dict),
            seed=_take(document, "seed", int),
            encoding=_take(document, "encoding", str, "float32"),
            seconds_left=_take(document, "seconds_left", float, None),
            quorum=_take(document, "quorum", int, None),
            cohort=_take(document, "cohort", int, None),
            requires=_requirements(_take(document, "requires", dict, {})),
            control=Blob.from_json(control) if control else None,
        )


def _requirements(document: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """What a strategy asks for, by name, each with its settings: words and finite numbers.

    Names that are unknown here are kept: what we cannot do has to be refused.
    """
    found = {}
    for name in document:
        settings = _take(document, name, dict)
        words = [name, *settings]
        if len(document) > _REQUIREMENTS or not all(map(_NAME.fullmatch, words)):
            raise ServerDistrusted(
                f"Expected `requires` in the server's answer to be at most {_REQUIREMENTS} names "
                f"with settings. Received: {str(words)[:80]}"
            )
        found[name] = {one: float(_take(settings, one, float)) for one in settings}
    return found


@dataclass(frozen=True, slots=True)
class Evaluation:
    """A version to be measured on data that a participant keeps for that.

    Args:
        id: as the server numbers it.
        model: slug of the model; `architecture_digest` the SHA-256 of its architecture.
        version: number of the version; `weights` and `fixed` as in an assignment.
        minimum: fewest participants of which the server shows or uses anything.
        goal: how many it wants.
        seconds_left: until it takes no more reports, or None.
    """

    id: int
    model: str
    architecture_digest: str
    version: int
    weights: Blob
    fixed: Blob | None
    minimum: int
    goal: int = 0
    seconds_left: float | None = None

    @classmethod
    def from_json(cls, document: Any) -> Evaluation:
        """Read an evaluation document.

        Raises:
            ServerDistrusted: when something needed is missing or of another type.
        """
        version = _take(document, "version", dict)
        fixed = version.get("fixed")
        return cls(
            id=_take(document, "id", int),
            model=check_slug(_take(document, "model", str)),
            architecture_digest=_digest(_take(document, "architecture_digest", str)),
            version=_take(version, "number", int),
            weights=Blob.from_json(version.get("weights")),
            fixed=Blob.from_json(fixed) if fixed else None,
            minimum=_take(document, "minimum", int),
            goal=_take(document, "goal", int, 0),
            seconds_left=_take(document, "seconds_left", float, None),
        )


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing to do for now: why, and in how many seconds to ask again."""

    retry_after: float
    reason: str = ""
    detail: str = ""
    run: int | None = None

    @classmethod
    def from_json(cls, document: Any) -> Wait:
        """Read the answer to a check-in that gives no work."""
        return cls(
            retry_after=max(0.0, _take(document, "retry_after", float)),
            reason=plain(_take(document, "reason", str, ""))[:100],
            detail=plain(_take(document, "detail", str, ""))[:1000],
            run=_take(document, "run", int, None),
        )


def read_check_in(document: Any) -> Assignment | Evaluation | Wait:
    """The answer to a check-in, whichever it is."""
    action = _take(document, "action", str)
    if action == "train":
        return Assignment.from_json(_take(document, "assignment", dict))
    if action == "evaluate":
        return Evaluation.from_json(_take(document, "evaluation", dict))
    return Wait.from_json(document)


@dataclass(frozen=True, slots=True)
class ModelCard:
    """A model as the server describes it.

    Args:
        document: the description as it came, for the trainer.
        slug: the model's name on this server.
        architecture_digest: SHA-256 of the architecture.
        weights: its weights manifest.
    """

    document: Mapping[str, Any]
    slug: str
    architecture_digest: str
    weights: tuple[wire.WeightSpec, ...]

    @classmethod
    def from_json(cls, document: Any) -> ModelCard:
        """Read a model document.

        Raises:
            ServerDistrusted: when something needed is missing or of another type.
            IntegrityError: when the architecture has not the digest that is said.
        """
        architecture = _take(document, "architecture", dict)
        announced = _digest(_take(document, "architecture_digest", str))
        found = hashlib.sha256(wire.canonical_json(architecture)).hexdigest()
        if found != announced:
            raise IntegrityError(f"Expected an architecture of {announced}. Received: {found}")
        try:
            weights = tuple(wire.read_weights(_take(document, "weights", list)))
        except wire.WireError as error:
            raise ServerDistrusted(error.detail) from error
        return cls(document, _take(document, "slug", str), announced, weights)

    def tensors(self, *roles: str) -> list[wire.TensorSpec]:
        """Its tensors of these roles, in the order of the manifest."""
        return wire.tensors_of(self.weights, *roles)
