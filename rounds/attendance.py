"""What a participant's rounds came to, in numbers and words: pure functions of counted rows."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

from rounds.models import Assignment

Place = Assignment.State
# Not a state: the round or the run ended before it was needed, which is nobody's fault.
VOID = "void"
VOID_CODES = ("round_cancelled", "run_completed", "run_paused", "run_stopped")
ROUND_FAILED = "round_failed"
TOO_FEW = "quorum_not_met"  # of a round: who was still training then is late all the same
# From the best to the worst; what is not here has not ended.
ENDED = (
    Place.ACCEPTED,
    Place.QUARANTINED,
    Place.REJECTED,
    Place.LATE,
    Place.WITHDRAWN,
    Place.LOST,
    Place.FAILED,
)


def outcome(state: str, code: str, round_code: str = TOO_FEW) -> str:
    """What became of an assignment: its state, or `VOID`.

    Args:
        state: Of the assignment.
        code: Why, of the assignment.
        round_code: Why its round failed, where that is known.
    """
    if state not in (Place.LATE, Place.REJECTED):
        return state
    spared = state == Place.REJECTED or round_code != TOO_FEW
    return VOID if code in VOID_CODES or (code == ROUND_FAILED and spared) else state


def word(outcome: str) -> str:
    """What people call an outcome."""
    return "not used" if outcome == VOID else outcome


class Segment(NamedTuple):
    """A part of a bar that is a hundred wide."""

    state: str
    times: int
    x: float
    width: float


@dataclass(frozen=True)
class Attendance:
    """How a participant's assignments ended.

    Attributes:
        counts: Assignments by outcome: a state, or `VOID`.
        samples: Examples behind its accepted updates.
        all_samples: Examples behind everybody's accepted updates to the same models.
    """

    counts: Mapping[str, int] = field(default_factory=Counter)
    samples: int = 0
    all_samples: int = 0

    @property
    def rounds(self) -> int:
        """In how many it had a place."""
        return sum(self.counts.values())

    @property
    def accepted(self) -> int:
        return self.counts.get(Place.ACCEPTED, 0)

    @property
    def void(self) -> int:
        """Assignments that say nothing of it: they were not needed in the end."""
        return self.counts.get(VOID, 0)

    @property
    def ended(self) -> int:
        """Assignments that say how reliable it is."""
        return sum(self.counts.get(state, 0) for state in ENDED)

    @property
    def reliability(self) -> float | None:
        """Accepted of those that ended; None before the first one has."""
        return self.accepted / self.ended if self.ended else None

    @property
    def share(self) -> float | None:
        """Of all samples that its models have learned from."""
        return self.samples / self.all_samples if self.all_samples else None

    @property
    def words(self) -> str:
        """Its reliability in a sentence: "8 of 10 accepted; 1 late, 1 lost"."""
        if not self.ended:
            return "none has ended yet" if self.rounds else "in no round yet"
        others = ", ".join(
            f"{self.counts[state]} {state}"
            for state in ENDED
            if state != Place.ACCEPTED and self.counts.get(state)
        )
        told = f"{self.accepted} of {self.ended} accepted"
        return f"{told}; {others}" if others else told

    @property
    def bar(self) -> list[Segment]:
        """Its outcomes side by side, a hundred wide in all."""
        segments: list[Segment] = []
        at = 0.0
        for state in ENDED:
            if count := self.counts.get(state, 0):
                width = 100 * count / self.ended
                segments.append(Segment(str(state), count, round(at, 3), round(width, 3)))
                at += width
        return segments


class Durations(NamedTuple):
    """Seconds that each part of an assignment took; None where that is not known."""

    download: float | None
    training: float | None
    upload: float | None


def durations(assignment: Assignment) -> Durations:
    """How long a participant took over an assignment, as far as it got and told."""
    told = {name: datetime.fromisoformat(at) for name, at in assignment.activities.items()}
    # Whoever told nothing has at least begun.
    training = told.get("training") if told else assignment.training_at
    marks = [told.get("downloading"), training, told.get("uploading")]
    end = assignment.uploaded_at or assignment.ended_at
    return Durations(*(_lasted(marks, index, end) for index in range(len(marks))))


def _lasted(marks: list[datetime | None], index: int, end: datetime | None) -> float | None:
    began, following = marks[index], marks[index + 1 :]
    until = following[0] if any(following) else end
    return max((until - began).total_seconds(), 0.0) if began and until else None
