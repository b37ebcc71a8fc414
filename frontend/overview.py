"""The first page: what is going on, and what needs somebody."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from django.http import HttpRequest, HttpResponse
from django.urls import path

from frontend import attention, lines
from frontend.page import page, respond
from frontend.templatetags.fedserver import metric, share
from journal import selectors as journal
from models_app import selectors as registry
from models_app.models import Model, ModelVersion
from rounds import overview as reads
from rounds import selectors
from rounds.models import Round, Run
from rounds.overview import Measured

Phase = Round.Phase
RECENT = 10


@page()
def overview(request: HttpRequest) -> HttpResponse:
    """Every model, every active run, and what needs attention."""
    return respond(request, "overview", _build)


def _build() -> dict[str, Any]:
    runs, rounds = list(reads.active_runs()), reads.active_rounds()
    participants = selectors.participant_counts()
    trends = reads.trends()
    return {
        "runs": [RunCard.of(run, rounds.get(run.pk)) for run in runs],
        "drafts": list(reads.drafts()),
        "models": [ModelRow.of(model, trends) for model in registry.models()],
        "participants": participants,
        "notices": attention.notices(runs, rounds, participants["online"]),
        "events": lines.tell(journal.recent(RECENT)),
        "steps": reads.first_steps(),
    }


@dataclass(frozen=True)
class Filling:
    """What a bar shows: `value` of `target`, and that `mark` is enough."""

    value: int
    target: int
    mark: int | None
    words: str


@dataclass(frozen=True)
class RunCard:
    """An active run, its round, and how far that is."""

    run: Run
    round: Any
    filling: Filling

    @classmethod
    def of(cls, run: Run, round_: Any) -> "RunCard":
        return cls(run, round_, _filling(run, round_) if round_ else _between(run))


def _between(run: Run) -> Filling:
    """What there is to say while no round is open."""
    paused = run.state == Run.State.PAUSED
    words = f"Paused: {run.reason}" if paused and run.reason else "Paused" if paused else ""
    return Filling(0, 1, None, words or "Its next round opens by itself")


def _filling(run: Run, round_: Any) -> Filling:
    """How near the round is to its next phase."""
    first_come = run.selection == Run.Selection.FIRST_COME
    if round_.phase == Phase.SELECTING and not first_come:
        needed, there = max(run.cohort_min, run.quorum), round_.there_count
        target = max(run.cohort_goal or needed, needed)
        are = "participant has" if there == 1 else "participants have"
        return Filling(
            there, target, needed, f"{there} {are} checked in; at least {needed} are needed"
        )
    here = round_.uploaded_count + round_.accepted_count
    updates = "update" if here == 1 else "updates"
    if round_.phase in Round.OPEN:
        target = round_.target or round_.quorum
        words = f"{here} of {target} updates are here"
        if round_.quorum < target:
            words += f"; {round_.quorum} are enough"
        return Filling(here, target, round_.quorum, words)
    if round_.phase == Phase.AGGREGATING:
        return Filling(here, here, None, f"{here} {updates} become a new version")
    number = round_.version.number if round_.version else ""
    return Filling(here, here, None, f"Version {number} is measured before it is served")


@dataclass(frozen=True)
class ModelRow:
    """A model with what it serves, and how that came about."""

    model: Model
    serving: ModelVersion | None
    trend: list[Measured]

    @classmethod
    def of(cls, model: Any, trends: Mapping[int, list[Measured]]) -> "ModelRow":
        serving = model.serving[0] if model.serving else None
        return cls(model, serving, trends.get(model.pk, []))

    @property
    def measure(self) -> str:
        """What its versions are compared by: accuracy, or loss where there is none."""
        return "accuracy" if any(one.accuracy is not None for one in self.trend) else "loss"

    @property
    def values(self) -> list[float | None]:
        """That measure of each version."""
        return [getattr(one, self.measure) for one in self.trend]

    @property
    def now(self) -> float | None:
        """The served version's."""
        return self.values[-1] if self.trend else None

    @property
    def before(self) -> Measured | None:
        """The version that was served before."""
        return self.trend[-2] if len(self.trend) > 1 else None

    @property
    def change(self) -> float | None:
        """How much more or less it is than the version's before."""
        before = self.values[-2] if self.before else None
        return None if self.now is None or before is None else self.now - before

    @property
    def change_words(self) -> str:
        """The change as it is told: "+1.2 points", "as good"."""
        amount = abs(self.change or 0.0)
        if not amount:
            return "as good"
        told = f"{100 * amount:.1f} points" if self.measure == "accuracy" else metric(amount)
        return ("+" if (self.change or 0.0) > 0 else "\u2212") + told

    @property
    def verdict(self) -> str:
        """Whether the change is for the `better` or the `worse`; empty for neither."""
        if not self.change:
            return ""
        grows = self.change > 0
        return "better" if grows == (self.measure == "accuracy") else "worse"

    @property
    def words(self) -> str:
        """What its picture says."""
        known = [value for value in self.values if value is not None]
        tell = share if self.measure == "accuracy" else metric
        return (
            f"{self.measure} of its last {len(known)} versions, from {tell(known[0])} "
            f"to {tell(known[-1])}"
        )


urlpatterns = [path("", overview, name="overview")]
