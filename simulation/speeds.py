"""How long participants take, on a clock that nobody waits for: pure, and decided by seeds.

A participant of median speed takes `step_seconds` for a step of training; how much slower or
faster another one is, is drawn once from a log-normal distribution. With a hundred participants
and a sigma of 0.9 the slowest takes about ten times as long as the median.
"""

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rounds.selection import derive_seed


def factors(participants: int, sigma: float, seed: int) -> NDArray[np.float64]:
    """How many times as long as the median each participant takes, shape (participants,).

    Args:
        participants: how many there are.
        sigma: of the log-normal distribution; 0 where all are alike.
        seed: the same seed gives the same factors.
    """
    random = np.random.default_rng(derive_seed(seed, "speeds"))
    return np.exp(sigma * random.standard_normal(participants))


def steps(examples: int, batch: int, epochs: int) -> int:
    """Steps of a round's training, the last of an epoch with what is left."""
    return epochs * math.ceil(examples / batch)


def vanishes(assignment_seed: int, share: float) -> bool:
    """Whether a selected participant is not heard of again in this round."""
    return derive_seed(assignment_seed, "dropout") < share * 2**31


@dataclass(frozen=True, slots=True, order=True)
class Arrival:
    """An upload: after how many virtual seconds it comes, and whose it is."""

    seconds: float
    assignment: int


@dataclass(frozen=True, slots=True)
class Schedule:
    """What becomes of a round's cohort.

    Args:
        uploads: those that come in time, in the order in which they come.
        slow: assignments that are still training when the round closes.
        seconds: how long the round takes.
    """

    uploads: list[Arrival]
    slow: list[int]
    seconds: float


def schedule(
    durations: Sequence[Arrival], *, target: int, deadline: float | None = None
) -> Schedule:
    """Who uploads before a round closes, and when it closes.

    A round closes with the upload that reaches its target, at its deadline, or without one when
    nobody is left to wait for.

    Args:
        durations: of those who have not vanished, in any order.
        target: updates that end the training.
        deadline: seconds after which nobody is waited for.
    """
    ordered = sorted(durations)
    latest = math.inf if deadline is None else deadline
    uploads = [one for one in ordered if one.seconds <= latest][:target]
    slow = [one.assignment for one in ordered[len(uploads) :]]
    if len(uploads) == target or deadline is None:
        seconds = uploads[-1].seconds if uploads else 0.0
    else:
        seconds = deadline
    return Schedule(uploads, slow, seconds)


class Flow:
    """Who trains when in an asynchronous run: places that are taken, left and taken again.

    Invitations are numbered from 0 in the order in which they are made. Whoever has a place keeps
    it until its training ends; whoever has had one, well or ill, has no other before the buffer
    is closed: when it is full, or when nobody is left who could fill it. Nothing but the seed and
    what became of the uploads and of the rounds decides the course.

    Args:
        durations: virtual seconds that each participant takes.
        concurrency: places.
        buffer: uploads that make a version.
        seed: decides who comes next.
    """

    def __init__(
        self, durations: Sequence[float], *, concurrency: int, buffer: int, seed: int
    ) -> None:
        self._durations, self._seed = durations, seed
        self._concurrency, self._size = concurrency, buffer
        self._working: list[tuple[float, int, int]] = []  # until when, invitation, participant
        self._done: set[int] = set()  # have had a place, since the last buffer was closed
        self._buffered = self._invited = 0
        self.now = 0.0
        self.closed: list[float] = []  # when each buffer was

    def invite(self) -> int | None:
        """The participant that takes the next place now; None where none is free or nobody is."""
        if len(self._working) >= self._concurrency:
            return None
        busy = self._done | {participant for _, _, participant in self._working}
        idle = [one for one in range(len(self._durations)) if one not in busy]
        if not idle:
            return None
        chosen = idle[derive_seed(self._seed, "next", self._invited) % len(idle)]
        until = self.now + self._durations[chosen]
        heapq.heappush(self._working, (until, self._invited, chosen))
        self._invited += 1
        return chosen

    def next(self) -> int:
        """Go on to the next end of a training; which invitation's it is."""
        self.now, invitation, participant = heapq.heappop(self._working)
        self._done.add(participant)
        return invitation

    def ended(self, *, counts: bool) -> bool:
        """Say what became of it.

        Args:
            counts: whether an update came that counts.

        Returns:
            Whether the buffer is closed: it is empty again after that.
        """
        self._buffered += counts
        may_come = self._working or len(self._done) < len(self._durations)
        if self._buffered < self._size and may_come:
            return False
        self._done, self._buffered = set(), 0
        self.closed.append(self.now)
        return True

    def empty(self) -> None:
        """Say that the round failed whose buffer was closed last: nobody trains any more."""
        self._working.clear()
