"""What there is on a server, as small objects: their values, and what may be decided about them.

A thing is what the server said when it was read; `refresh` reads it again, and a decision does so
by itself. Every decision takes a reason, a sentence for people, which enters the journal.
"""

from __future__ import annotations

import html
from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, ClassVar, Self

from client_sdk.admin.collections import LEFT, Collection, is_time, moment
from client_sdk.admin.files import opened
from client_sdk.admin.history import History
from client_sdk.admin.waiting import until_over

if TYPE_CHECKING:
    from client_sdk.admin.admin import Admin
    from client_sdk.notebook.live import LiveRound, LiveRun


class Thing:
    """Something on a server.

    Args:
        admin: Whose.
        document: As the API gives it.
    """

    key: ClassVar[str] = "id"  # what it is found by
    order: ClassVar[str] = "id"  # by which lists of it are in the order of their making
    shown: ClassVar[tuple[str, ...]] = ()  # in a notebook's table

    def __init__(self, admin: Admin, document: Mapping[str, Any]) -> None:
        self._admin = admin
        self._become(document)

    @classmethod
    def columns(cls) -> tuple[str, ...]:
        """Names of its values."""
        return tuple(cls.__annotations__)

    def _become(self, document: Mapping[str, Any]) -> None:
        self.document = dict(document)
        for name in type(self).__annotations__:
            if name in document:
                value = document[name]
                setattr(self, name, moment(value) if is_time(name) else value)

    @property
    def path(self) -> str:
        """Of it, below /api/v1/."""
        raise NotImplementedError

    @property
    def page(self) -> str:
        """Its address on the dashboard, which has most things where the API has them."""
        return f"{self._admin.url}/{self.path}/"

    def refresh(self) -> Self:
        """Read it again; itself."""
        self._become(self._admin.get(self.path))
        return self

    def _decide(self, verb: str, reason: str, **more: Any) -> Self:
        said = {name: value for name, value in more.items() if value is not None}
        self._become(self._admin.post(f"{self.path}/{verb}", {"reason": reason, **said}))
        return self

    def cell(self, name: str) -> str:
        """A value as HTML."""
        value = getattr(self, name, None)
        text = html.escape(_said(value))
        if text and name in (self.key, "name"):
            return f'<a href="{html.escape(self.page)}" target="_blank">{text}</a>'
        return text

    def __repr__(self) -> str:
        told = ", ".join(f"{name}={getattr(self, name, None)!r}" for name in self.shown[:5])
        return f"{type(self).__name__}({told})"

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><th {LEFT}>{html.escape(name.replace('_', ' '))}</th>"
            f"<td {LEFT}>{self.cell(name)}</td></tr>"
            for name in self.shown
        )
        return f"<table><tbody>{rows}</tbody></table>"


class Passing(Thing):
    """What begins and ends, and can be waited for: a run, a round."""

    subject: ClassVar[str]  # of its lines in the journal
    ends: ClassVar[tuple[str, ...]]  # the states that are final, and the journal's words for them

    id: int

    @property
    def over(self) -> bool:
        """Whether it has ended."""
        raise NotImplementedError

    async def finished(self, timeout: float | None = None) -> Self:  # noqa: ASYNC109
        """Wait until it has ended, without keeping a notebook's kernel from anything else.

        Args:
            timeout: Seconds at most; None for ever.

        Returns:
            Itself, as it is then.

        Raises:
            TimeoutError: It goes on still.
        """
        kinds = [f"{self.subject}.{end}" for end in self.ends]
        await until_over(self, {**self._about(), "kinds": kinds}, timeout)
        return self

    def _about(self) -> dict[str, int]:
        """What its lines in the journal name."""
        return {self.subject: self.id}


class Run(Passing):
    """A federated training: its rules, and where it stands.

    Example:
        >>> run = admin.runs.named("spring")
        >>> run.pause(reason="until the scanner is repaired").state
        'paused'
    """

    subject = "run"
    ends = ("completed", "stopped", "failed")
    shown = ("id", "name", "model", "state", "published", "rounds_planned", "strategy", "reason")

    id: int
    name: str
    model: str
    state: str
    reason: str
    kind: str
    strategy: str
    strategy_options: dict[str, Any]
    hyperparameters: dict[str, Any]
    seed: int
    rounds_planned: int
    published: int
    until_metric: str
    until_value: float | None
    best_metric: str
    patience: int | None
    patience_delta: float
    keep_best: bool
    concurrency: int | None
    buffer_size: int | None
    selection: str
    fraction: float
    over_selection: float
    cohort_goal: int | None
    cohort_min: int
    target: int | None
    quorum: int
    selecting_seconds: int
    training_seconds: int
    quarantine_factor: float
    gate_metric: str
    gate_tolerance: float
    evaluators: int
    evaluators_min: int
    evaluation_seconds: int
    retries: int
    retry_seconds: int
    failures: int
    next_round_at: datetime | None
    created_by: str | None
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None

    @property
    def path(self) -> str:
        return f"runs/{self.id}"

    @property
    def over(self) -> bool:
        """Whether no round will open any more."""
        return self.state in self.ends

    @property
    def rounds(self) -> Collection[Round]:
        """Its rounds, the first one first."""
        return self._admin.rounds.where(run=self.id)

    def start(self, reason: str = "") -> Self:
        """A draft begins: its first round opens."""
        return self._decide("start", reason)

    def pause(self, reason: str = "") -> Self:
        """The current round finishes, and no other opens."""
        return self._decide("pause", reason)

    def resume(self, reason: str = "") -> Self:
        """It goes on after a pause."""
        return self._decide("resume", reason)

    def stop(self, reason: str = "") -> Self:
        """It ends for good, and its round is cancelled."""
        return self._decide("stop", reason)

    def history(self) -> History:
        """Its rounds in numbers: `.frame()`, `.plot()`."""
        return History(self._admin.get(f"{self.path}/history"))

    def live(self) -> LiveRun:
        """A widget that shows it as it happens."""
        from client_sdk.notebook.live import LiveRun

        return LiveRun(self._admin.url, self.id, token=self._admin.token)


class Round(Passing):
    """A round: its phase, its cohort, and what came of it."""

    subject = "round"
    ends = ("published", "failed", "cancelled")
    shown = ("id", "run", "number", "model", "phase", "cohort", "version", "metrics", "reason")

    id: int
    run: int
    model: str
    number: int
    phase: str
    code: str
    reason: str
    base: int
    version: int | None
    metrics: dict[str, float]
    cohort: dict[str, int]
    target: int | None
    quorum: int
    samples: int | None
    diagnostics: dict[str, Any]
    deadline: datetime | None
    attempts: int
    opened_at: datetime
    training_at: datetime | None
    aggregating_at: datetime | None
    evaluating_at: datetime | None
    last_update_at: datetime | None
    ended_at: datetime | None

    @property
    def path(self) -> str:
        return f"rounds/{self.id}"

    @property
    def over(self) -> bool:
        """Whether it is published, failed or cancelled."""
        return self.phase in self.ends

    @property
    def assignments(self) -> Collection[Assignment]:
        """Who was invited, and what became of it."""
        admin = self._admin
        return Collection(
            admin, Assignment, f"{self.path}/assignments", lambda one: Assignment(admin, one)
        )

    def close(self, reason: str = "") -> Self:
        """Its training ends now, with the updates that are here; there must be a quorum."""
        return self._decide("close", reason)

    def cancel(self, reason: str = "") -> Self:
        """It is abandoned; a running run opens its next one."""
        return self._decide("cancel", reason)

    def live(self) -> LiveRound:
        """A widget that shows it as it happens."""
        from client_sdk.notebook.live import LiveRound

        return LiveRound(self._admin.url, self.id, token=self._admin.token)


class Assignment(Thing):
    """A participant's place in a round."""

    shown = ("id", "name", "state", "activity", "epoch", "update", "code", "reason")

    id: int
    round: int
    participant: str
    name: str
    state: str
    code: str
    reason: str
    detail: str
    refusals: int
    activity: str
    fraction: float
    epoch: int | None
    epochs: int | None
    metrics: dict[str, float]
    update: dict[str, Any] | None
    invited_at: datetime
    training_at: datetime | None
    uploaded_at: datetime | None
    ended_at: datetime | None
    last_seen_at: datetime | None

    @property
    def path(self) -> str:
        return f"rounds/{self.round}/assignments/{self.id}"

    @property
    def page(self) -> str:
        return f"{self._admin.url}/rounds/{self.round}/"


class Participant(Thing):
    """A party that trains.

    Example:
        >>> admin.participants.named("alice").suspend(reason="its clock is wrong").state
        'suspended'
    """

    key = "uuid"
    shown = ("uuid", "name", "state", "model", "invited", "accepted", "last_seen_at")

    uuid: str
    id: int
    name: str
    state: str
    model: str | None
    public_key: str
    join_code: int | None
    sdk: dict[str, Any]
    invited: int
    accepted: int
    enrolled_at: datetime
    last_seen_at: datetime | None

    @property
    def path(self) -> str:
        return f"participants/{self.uuid}"

    def suspend(self, reason: str = "") -> Self:
        """No rounds and no requests, until it is reinstated."""
        return self._decide("suspend", reason)

    def reinstate(self, reason: str = "") -> Self:
        """A suspended one may take part again."""
        return self._decide("reinstate", reason)

    def revoke(self, reason: str = "") -> Self:
        """For good: its key is worth nothing any more."""
        return self._decide("revoke", reason)


class JoinCode(Thing):
    """What participants enrol with.

    `code` is its secret, there only on what `join_codes.make` answers and never shown by itself:
    what a notebook shows it keeps.
    """

    shown = ("id", "label", "model", "uses", "max_uses", "expires_at", "withdrawn_at")

    id: int
    label: str
    model: str | None
    max_uses: int
    uses: int
    expires_at: datetime | None
    withdrawn_at: datetime | None
    created_by: str | None
    created_at: datetime

    code: str | None = None

    @property
    def path(self) -> str:
        return f"join-codes/{self.id}"

    @property
    def page(self) -> str:
        return f"{self._admin.url}/participants/"

    def withdraw(self, reason: str = "") -> Self:
        """Nobody may enrol with it any more; who has enrolled stays."""
        return self._decide("withdraw", reason)


class Model(Thing):
    """A model, and the version that it serves."""

    key = "slug"
    order = "created_at"
    shown = ("slug", "name", "served_number", "labels", "evaluation_samples", "created_by")

    slug: str
    name: str
    description: str
    architecture_digest: str
    input_spec: dict[str, Any]
    labels: list[str]
    objective: dict[str, Any]
    evaluation_samples: int
    created_by: str
    created_at: datetime

    @property
    def path(self) -> str:
        return f"models/{self.slug}"

    @property
    def versions(self) -> Versions:
        """Its versions, the first one first."""
        return Versions.of(self)

    @property
    def served(self) -> Version | None:
        """The version that participants get now, as it was when this was read."""
        document = self.document["served"]
        return Version(self._admin, {**document, "model": self.slug}) if document else None

    @property
    def served_number(self) -> int | None:
        """Number of that version."""
        return self.served.number if self.served else None


class Version(Thing):
    """A version of a model: where its weights come from, and how good they are."""

    key = "number"
    order = "number"
    shown = ("model", "number", "stage", "origin", "parent", "metrics", "reason", "created_at")

    model: str
    number: int
    parent: int | None
    origin: str
    stage: str
    metrics: dict[str, float]
    reason: str
    created_by: str
    created_at: datetime
    published_at: datetime | None

    @property
    def path(self) -> str:
        return f"models/{self.model}/versions/{self.number}"

    def _become(self, document: Mapping[str, Any]) -> None:
        super()._become({"model": getattr(self, "model", None), **document})

    @property
    def evaluations(self) -> Collection[Evaluation]:
        """What participants were asked to measure of it on data of their own, in order."""
        admin = self._admin
        return Collection(
            admin, Evaluation, f"{self.path}/evaluations", lambda one: Evaluation(admin, one)
        )

    def evaluate(
        self, reason: str = "", *, goal: int = 10, minimum: int = 3, seconds: int = 300
    ) -> Evaluation:
        """Ask participants to measure it on data that they keep for that.

        Args:
            reason: Why.
            goal: Reports that end it.
            minimum: Smallest cohort, from 2: of fewer nothing is shown or used.
            seconds: How long to wait for them.

        Returns:
            What is under way; `await` its `finished()`, and read its `summary`.

        Raises:
            NotNow: They are asked about it already.
            Invalid: A number makes no sense; `field` says which.
        """
        asked = {"reason": reason, "goal": goal, "minimum": minimum, "seconds": seconds}
        made = self._admin.post(f"{self.path}/evaluations", asked)
        self.refresh()
        return Evaluation(self._admin, made)

    def publish(self, reason: str = "", *, expected_served: int | None = None) -> Self:
        """Serve this candidate; what was served is archived.

        Args:
            reason: Why.
            expected_served: Number of the version that must be served still for this to hold.
        """
        return self._decide("publish", reason, expected_served=expected_served)

    def reject(self, reason: str = "") -> Self:
        """This candidate will not be served."""
        return self._decide("reject", reason)

    def roll_back(self, reason: str = "", *, expected_served: int | None = None) -> Version:
        """Serve this archived version again.

        Returns:
            The new version, which has the same weights.
        """
        said = {"reason": reason} | (
            {} if expected_served is None else {"expected_served": expected_served}
        )
        made = self._admin.post(f"{self.path}/roll-back", said)
        self.refresh()
        return Version(self._admin, {**made, "model": self.model})


class Evaluation(Passing):
    """A version, measured by participants on data that they keep for that.

    `summary` is None until as many have reported as `minimum` says; then it has `participants`,
    `samples`, `metrics` (each with `mean`, `deviation`, `worst`, `worst_participant`) and
    `classes`.

    Example:
        >>> [model] = admin.models
        >>> asked = model.served.evaluate(goal=5, minimum=3)
        >>> asked.state, asked.reports, asked.summary
        ('open', 0, None)
    """

    subject = "evaluation"
    ends = ("done", "failed", "cancelled")
    shown = ("id", "model", "version", "state", "reports", "goal", "minimum", "reason")

    id: int
    model: str
    version: int
    round: int | None
    state: str
    reason: str
    goal: int
    minimum: int
    reports: int
    deadline: datetime | None
    summary: dict[str, Any] | None
    created_by: str
    opened_at: datetime
    ended_at: datetime | None

    @property
    def path(self) -> str:
        return f"models/{self.model}/versions/{self.version}/evaluations/{self.id}"

    @property
    def page(self) -> str:
        return f"{self._admin.url}/models/{self.model}/versions/{self.version}/"

    @property
    def over(self) -> bool:
        """Whether no more reports are taken."""
        return self.state in self.ends

    def _about(self) -> dict[str, int]:
        return {}  # an evaluation is no subject of the journal: those of all are heard

    def cancel(self, reason: str = "") -> Self:
        """It ends without a summary; a round that waits for it goes on without."""
        return self._decide("cancel", reason)


class Versions(Collection[Version]):
    """The versions of one model, and how one that was trained elsewhere comes in."""

    @classmethod
    def of(cls, model: Model) -> Versions:
        """Those of this model."""
        admin, slug = model._admin, model.slug
        return cls(
            admin, Version, f"{model.path}/versions",
            lambda one: Version(admin, {**one, "model": slug}),
        )  # fmt: skip

    def create(self, model: Any, reason: str = "") -> Version:
        """Import weights that were trained elsewhere, as a candidate.

        Args:
            model: A `keras.Model` of the same architecture, or the path of a `.keras` file.
            reason: Where they come from.

        Raises:
            Invalid: They are of another architecture, or not finite.
        """
        with opened(model) as files:
            return self._make(self._admin.upload(self._path, {"reason": reason}, files))


def _said(value: Any) -> str:
    """A value for people."""
    if value is None:
        return ""
    if isinstance(value, datetime):
        return value.astimezone().strftime("%Y-%m-%d %H:%M:%S %Z")
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Mapping):
        return ", ".join(
            f"{name} {_said(one)}" for name, one in value.items() if one not in (0, {})
        )
    if isinstance(value, list):
        return ", ".join(map(str, value[:12])) + (", …" if len(value) > 12 else "")
    return str(value)
