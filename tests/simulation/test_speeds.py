"""The virtual clock: who comes when, and when a round closes."""

import numpy as np
import pytest

from simulation import speeds
from simulation.speeds import Arrival, Flow


def test_participants_that_are_alike_take_as_long_as_each_other() -> None:
    assert speeds.factors(3, 0.0, seed=1).tolist() == [1.0, 1.0, 1.0]


def test_the_slowest_of_a_hundred_takes_about_ten_times_the_median() -> None:
    ratios = []
    for seed in range(50):
        found = speeds.factors(100, 0.9, seed)
        ratios.append(found.max() / np.median(found))
    assert 8 < np.median(ratios) < 12
    np.testing.assert_array_equal(speeds.factors(100, 0.9, 3), speeds.factors(100, 0.9, 3))


def test_the_last_step_of_an_epoch_takes_what_is_left() -> None:
    assert speeds.steps(examples=25, batch=10, epochs=2) == 6


def test_a_share_of_the_selected_vanishes_always_the_same() -> None:
    gone = [speeds.vanishes(seed, 0.3) for seed in range(2000)]
    assert np.mean(gone) == pytest.approx(0.3, abs=0.03)
    assert gone == [speeds.vanishes(seed, 0.3) for seed in range(2000)]
    assert not any(speeds.vanishes(seed, 0.0) for seed in range(100))


def test_a_round_closes_with_the_upload_that_reaches_its_target() -> None:
    found = speeds.schedule([Arrival(9.0, 1), Arrival(2.0, 2), Arrival(4.0, 3)], target=2)
    assert found.uploads == [Arrival(2.0, 2), Arrival(4.0, 3)]
    assert found.slow == [1]
    assert found.seconds == 4.0


def test_a_round_waits_for_the_slowest_of_those_it_needs() -> None:
    found = speeds.schedule([Arrival(9.0, 1), Arrival(2.0, 2)], target=3)
    assert [one.assignment for one in found.uploads] == [2, 1]
    assert found.seconds == 9.0


def test_after_its_deadline_a_round_waits_for_nobody() -> None:
    arrivals = [Arrival(9.0, 1), Arrival(2.0, 2)]
    found = speeds.schedule(arrivals, target=2, deadline=5.0)
    assert found.uploads == [Arrival(2.0, 2)]
    assert found.slow == [1]
    assert found.seconds == 5.0
    assert speeds.schedule(arrivals, target=1, deadline=5.0).seconds == 2.0


def test_places_are_taken_left_and_taken_again() -> None:
    """Two places, buffers of two; alice takes 1 s, bob 2, charlie 3, dora 4."""
    flow = Flow([1.0, 2.0, 3.0, 4.0], concurrency=2, buffer=2, seed=0)
    invited = [flow.invite(), flow.invite()]
    assert flow.invite() is None  # no place is left
    assert None not in invited
    first = flow.next()
    assert flow.now == min(1.0 + one for one in invited if one is not None)
    assert not flow.ended(counts=True)
    third = flow.invite()
    assert third not in invited  # whose update is in the buffer waits for the next one
    second = flow.next()
    assert {first, second} <= {0, 1, 2}
    assert flow.ended(counts=True)
    assert flow.closed == [flow.now]


def test_nobody_is_invited_again_before_the_buffer_is_full() -> None:
    flow = Flow([1.0, 5.0], concurrency=2, buffer=2, seed=0)
    both = {flow.invite(), flow.invite()}
    assert both == {0, 1}
    flow.next()
    assert not flow.ended(counts=True)
    assert flow.invite() is None
    flow.next()
    assert flow.ended(counts=True)
    assert flow.invite() is not None


def test_who_fails_gives_its_place_to_another() -> None:
    flow = Flow([1.0, 1.0], concurrency=1, buffer=1, seed=0)
    one = flow.invite()
    flow.next()
    assert not flow.ended(counts=False)
    assert flow.invite() not in (None, one)
    flow.next()
    assert flow.ended(counts=True)
    assert flow.closed == [2.0]


def test_a_buffer_that_nobody_is_left_to_fill_is_closed_with_what_is_there() -> None:
    """Alice vanishes and bob uploads: nobody else could come."""
    flow = Flow([1.0, 1.0], concurrency=1, buffer=2, seed=0)
    flow.invite()
    flow.next()
    assert not flow.ended(counts=False)
    flow.invite()
    flow.next()
    assert flow.ended(counts=True)
    assert flow.closed == [2.0]
    assert flow.invite() is not None


def test_who_trains_while_a_round_fails_loses_the_place_and_may_come_again() -> None:
    """Alice takes 1 s, bob 9: alice's update alone fills the buffer."""
    flow = Flow([1.0, 9.0], concurrency=2, buffer=1, seed=0)
    assert {flow.invite(), flow.invite()} == {0, 1}
    flow.next()
    assert flow.ended(counts=True)
    flow.empty()
    assert {flow.invite(), flow.invite()} == {0, 1}
    assert flow.next() in (2, 3)  # not bob's first
    assert flow.now == 2.0
