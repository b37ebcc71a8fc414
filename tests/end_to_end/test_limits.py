"""What alice does not allow, the real server does not get, and it is told why."""

import threading
from typing import Any

import pytest

from client_sdk import Limits, Participant
from client_sdk.participation import Event
from models_app.models import Model
from rounds.models import Assignment, Update
from tests.end_to_end.conftest import start, take_part

pytestmark = pytest.mark.timeout(60)

LIMITS = {
    "cohort_at_least": 2,
    "samples_at_least": 10**6,
    "models": ("plain@00000000",),  # another architecture than she has seen
    "rounds_per_day": 0,
    "seconds_per_round": 0.001,
}


@pytest.mark.parametrize("limit", LIMITS)
def test_a_limit_of_alices_own_is_kept(model: Model, alice: Participant, limit: str) -> None:
    round_ = start(model)  # which publishes with one update
    told: list[Event] = []
    stop = threading.Event()  # she would rest now, perhaps until midnight

    def note(event: Event) -> None:
        if event.kind in ("declined", "limited"):
            told.append(event)
            stop.set()

    limits: dict[str, Any] = {limit: LIMITS[limit]}
    summary = take_part(alice, limits=Limits(**limits), on_event=note, stop=stop)
    assert (summary.rounds, summary.ended) == (0, "stopped")
    assert Update.objects.count() == 0
    [reached] = told
    assert reached.data["limit"] == limit
    if reached.kind == "declined":
        mine = Assignment.objects.get(round=round_)
        assert (mine.state, mine.code) == ("withdrawn", f"limit_{limit}")
        assert not any(letter.isdigit() for letter in mine.reason + mine.detail)
    else:  # she did not even ask
        assert not Assignment.objects.exists()


def test_metrics_that_alice_does_not_share_reach_nobody(model: Model, alice: Participant) -> None:
    alice.limits = Limits(share_metrics=False)
    start(model)
    summary = take_part(alice, rounds=1)
    assert summary.metrics
    assert Update.objects.get().metrics == {}
    assert Assignment.objects.get().metrics == {}
