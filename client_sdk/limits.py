"""What a participant allows: its own limits, which no server can lift.

They are kept in the profile, read anew for each round, and checked before what leaves:

    models               at the check-in, which asks for no others, and on the assignment that comes
    rounds_per_day       before the check-in, and again as an update leaves
    cohort_at_least      on the assignment, before anything is fetched
    samples_at_least     before training, and again as an update leaves
    seconds_per_round    while fetching, training and sending; no update leaves after it
    share_metrics        wherever metrics would leave: reports of progress, and the update; and on
                         the assignment, where the strategy asks for the loss before training

A limit that is hit gives the assignment back, with a reason that says which limit it was and
nothing else: how many examples we have is our own business. Time alone is no wall but a budget: a
trainer that takes `seconds`, as ours does, is told four fifths of what is left and ends early with
what it has, which is sent. Only where that comes too late as well is the assignment given back.

Two of them take the server's word. How large a cohort is, only the server knows; and a model's
name is what the server calls it, unless the limit pins its architecture: "digits@3f9a…".
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from client_sdk.errors import LimitReached, ProfileInvalid
from client_sdk.keys import write_private
from client_sdk.wire import REPORTS

if TYPE_CHECKING:
    from client_sdk.protocol import Assignment, Evaluation

_MODEL = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,199}(@[0-9a-f]{8,64})?")
_MODELS_LIMIT = 100  # a check-in names no more


@dataclass(frozen=True, slots=True)
class Limits:
    """What a participant allows.

    Args:
        samples_at_least: fewest examples to train with; fewer tell more about each.
        rounds_per_day: most updates that leave on one day of this machine's calendar; None for
            any number, 0 for none.
        cohort_at_least: fewest updates that a version may be made of, as the server promises by
            the round's quorum; None for any.
        seconds_per_round: most time from an assignment to the last byte of its update. Training
            ends early and what it has is sent, or else the assignment is given back; None for any.
        models: only models of these slugs; None for any. "digits@3f9a…" allows it with the
            architecture of this SHA-256 alone; its first 8 digits are enough.
        share_metrics: whether loss and accuracy leave. Where not, assignments whose strategy
            asks for a loss are given back; one that asks for the count of steps is told it, as it
            is told the count of examples.

    Example:
        >>> alice.limits = Limits(samples_at_least=50, rounds_per_day=10, share_metrics=False)
        >>> alice.limits.rounds_per_day
        10
    """

    samples_at_least: int = 1
    rounds_per_day: int | None = None
    cohort_at_least: int | None = None
    seconds_per_round: float | None = None
    models: tuple[str, ...] | None = None
    share_metrics: bool = True

    def __post_init__(self) -> None:
        _expect(_is_count(self.samples_at_least, 1), self, "samples_at_least", "a number from 1")
        for name, least in (("rounds_per_day", 0), ("cohort_at_least", 1)):
            value = getattr(self, name)
            fits = value is None or _is_count(value, least)
            _expect(fits, self, name, f"a whole number from {least}, or None")
        seconds = self.seconds_per_round
        number = isinstance(seconds, int | float) and not isinstance(seconds, bool)
        fits = seconds is None or (number and 0 < seconds < 1e9)
        _expect(fits, self, "seconds_per_round", "seconds above 0, or None")
        _expect(isinstance(self.share_metrics, bool), self, "share_metrics", "True or False")
        if self.models is not None:
            several = isinstance(self.models, list | tuple | set | frozenset)
            _expect(several, self, "models", "a list of slugs, or None")
            object.__setattr__(self, "models", tuple(self.models))
            slugs = all(isinstance(one, str) and _MODEL.fullmatch(one) for one in self.models)
            few = len(self.models) <= _MODELS_LIMIT
            _expect(slugs and few, self, "models", f"at most {_MODELS_LIMIT} slugs, or None")

    # --- On disk ---

    @classmethod
    def load(cls, path: Path) -> Limits:
        """Read them from a file; there are none before it is written.

        Raises:
            ProfileInvalid: when the file is damaged: to go on without limits would lift them.
        """
        try:
            document = json.loads(path.read_text("utf-8"))
        except FileNotFoundError:
            return cls()
        except (OSError, ValueError):
            raise ProfileInvalid(f"Expected limits in {path}. Received: another file") from None
        try:
            return cls.from_json(document)
        except ValueError as error:
            raise ProfileInvalid(f"In {path}: {error}") from None

    def save(self, path: Path) -> None:
        """Write them, durable."""
        write_private(path, json.dumps(self.to_json(), indent=2).encode())

    @classmethod
    def from_json(cls, document: Any) -> Limits:
        """Read what `to_json` wrote.

        Raises:
            ValueError: for names that are unknown here, which might be limits, and for values
                that are none.
        """
        known = {field.name for field in fields(cls)}
        if not isinstance(document, Mapping) or not set(document) <= known:
            raise ValueError(f"Expected limits named {sorted(known)}. Received: {document!r:.200}")
        return cls(**document)

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return asdict(self)

    # --- Before what leaves ---

    def ask_for(self, model: str | None) -> list[str] | None:
        """The slugs to name at a check-in; None for any, empty when none is allowed.

        Args:
            model: the one that the caller wants; None for any.
        """
        if self.models is None:
            return None if model is None else [model]
        allowed = list(dict.fromkeys(one.partition("@")[0] for one in self.models))
        return [slug for slug in allowed if model in (None, slug)]

    def check_assignment(self, assignment: Assignment, model: str | None = None) -> None:
        """Whether an assignment may be done, as far as it says.

        Raises:
            LimitReached: for a model that is not allowed, too small a cohort, or a strategy that
                asks for what may not leave.
        """
        self._check_model(assignment, model)
        least, quorum = self.cohort_at_least, assignment.quorum
        if least is not None and (quorum is None or quorum < least):
            told = "no word about it" if quorum is None else quorum
            raise LimitReached("cohort_at_least", f"a cohort of at least {least}", told)
        self.check_reports(REPORTS[name] for name in assignment.requires if name in REPORTS)

    def check_reports(self, names: Iterable[str]) -> None:
        """Whether what the strategy asks to be told may leave.

        Raises:
            LimitReached: for a loss, where metrics may not.
        """
        if not self.share_metrics and "initial_loss" in names:
            asked = "a strategy that asks for the loss before training"
            raise LimitReached("share_metrics", "a strategy that asks for no metrics", asked)

    def _check_model(self, asked: Assignment | Evaluation, model: str | None) -> None:
        slugs = self.ask_for(model)
        if slugs is not None and asked.model not in slugs:
            raise LimitReached("models", f"{slugs}", asked.model)
        if self.models is not None and not any(
            _allows(one, asked.model, asked.architecture_digest) for one in self.models
        ):
            digest = asked.architecture_digest
            raise LimitReached("models", f"{list(self.models)}", f"{asked.model}@{digest}")

    def check_evaluation(self, evaluation: Evaluation, model: str | None = None) -> None:
        """Whether a version may be measured for the server, as far as it says.

        Raises:
            LimitReached: for a model that is not allowed, too small a cohort, or where no metrics
                may leave.
        """
        if not self.share_metrics:
            raise LimitReached("share_metrics", "metrics that may leave", "none may")
        self._check_model(evaluation, model)
        least = self.cohort_at_least
        if least is not None and evaluation.minimum < least:
            expected = f"a smallest cohort of at least {least}"
            raise LimitReached("cohort_at_least", expected, evaluation.minimum)

    def check_samples(self, samples: int) -> None:
        """Whether there are enough examples.

        Raises:
            LimitReached: when there are too few.
        """
        if samples < self.samples_at_least:
            expected = f"at least {self.samples_at_least} examples"
            raise LimitReached("samples_at_least", expected, samples)

    def check_rounds(self, today: int) -> None:
        """Whether one more update may leave today.

        Args:
            today: how many have left.

        Raises:
            LimitReached: when none may.
        """
        if self.rounds_per_day is not None and today >= self.rounds_per_day:
            expected = f"fewer than {self.rounds_per_day} updates today"
            raise LimitReached("rounds_per_day", expected, today)

    def check_seconds(self, taken: float) -> None:
        """Whether a round may go on.

        Raises:
            LimitReached: when it has taken too long.
        """
        if self.seconds_per_round is not None and taken > self.seconds_per_round:
            expected = f"at most {self.seconds_per_round:g} s for a round"
            raise LimitReached("seconds_per_round", expected, f"{taken:.1f} s")

    def share(self, metrics: Mapping[str, float]) -> dict[str, float]:
        """The metrics that may leave."""
        return dict(metrics) if self.share_metrics else {}


def _allows(limit: str, slug: str, architecture: str) -> bool:
    name, _, digest = limit.partition("@")
    return name == slug and architecture.startswith(digest)


def _is_count(value: object, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _expect(fits: bool, limits: Limits, name: str, expected: str) -> None:
    if not fits:
        received = getattr(limits, name)
        raise ValueError(f"Expected `{name}` to be {expected}. Received: {received!r:.200}")
