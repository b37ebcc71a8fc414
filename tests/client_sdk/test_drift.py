"""What participants are asked for, and the numbers that they keep: by hand, and by the papers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client_sdk import drift, wire
from client_sdk.errors import CapabilityMissing
from client_sdk.wire import TensorSpec

SCAFFOLD: drift.Requirements = {"control_variates": {}, "report_steps": {}}
REPORT_LOSS: drift.Requirements = {"report_initial_loss": {}}
PROXIMAL: drift.Requirements = {"proximal": {"mu": 0.1}}


def vector(*values: float) -> drift.Vector:
    return np.array(values, np.float32)


def test_each_strategy_has_its_pull_and_its_shift() -> None:
    own = {"control_variates": vector(1, 2), "dynamic_regularization": vector(3, 4)}
    for requires, pull, shift in [
        (drift.NOTHING, 0.0, None),
        (PROXIMAL, 0.1, None),
        (SCAFFOLD, 0.0, [9, 18]),
        ({"dynamic_regularization": {"alpha": 0.2}}, 0.2, [-3, -4]),
        ({**SCAFFOLD, **PROXIMAL}, 0.1, [9, 18]),
    ]:
        found = drift.correction(requires, own, vector(10, 20), size=2)
        assert found.pull == pull
        assert (None if found.shift is None else found.shift.tolist()) == shift
        assert drift.pulls(requires) == (pull > 0)
        assert drift.shifts(requires) == (shift is not None)


def test_who_kept_nothing_yet_begins_at_zero() -> None:
    assert drift.correction(SCAFFOLD, None, None, size=2).shift == pytest.approx([0, 0])
    moved = drift.advance(SCAFFOLD, {}, None, vector(1, -2), steps=4, learning_rate=0.5)
    assert moved["control_variates"] == pytest.approx([-0.5, 1.0])


def test_what_is_kept_moves_as_the_papers_have_it() -> None:
    own = {"control_variates": vector(1.0), "dynamic_regularization": vector(2.0)}
    asked = {**SCAFFOLD, "dynamic_regularization": {"alpha": 0.1}}
    moved = drift.advance(asked, own, vector(0.25), vector(-3.0), steps=10, learning_rate=0.1)
    assert moved["control_variates"] == pytest.approx(1.0 - 0.25 + 3.0)
    assert moved["dynamic_regularization"] == pytest.approx(2.0 + 0.3)
    assert own["control_variates"] == pytest.approx(1.0)
    assert (
        drift.advance({"proximal": {"mu": 1.0}}, own, None, vector(1), steps=1, learning_rate=1)
        == {}
    )


@given(st.lists(st.floats(-100, 100, width=32), min_size=3, max_size=3), st.integers(1, 50))
@settings(max_examples=100, deadline=None)
def test_after_plain_steps_a_control_variate_is_the_mean_gradient(
    gradient: list[float], steps: int
) -> None:
    # K steps along one gradient, corrected by c - c_i, which option II takes out again.
    own, control = {"control_variates": vector(0.5, -1, 2)}, vector(1, 1, 1)
    shift = drift.correction(SCAFFOLD, own, control, size=3).shift
    assert shift is not None
    delta = (-0.125 * steps * (vector(*gradient) + shift)).astype(np.float32)
    moved = drift.advance(SCAFFOLD, own, control, delta, steps=steps, learning_rate=0.125)
    np.testing.assert_allclose(moved["control_variates"], gradient, rtol=1e-5, atol=1e-4)


def test_reports_are_what_is_asked_for_and_no_more() -> None:
    assert drift.reports(SCAFFOLD, {"steps": 7, "initial_loss": 0.5}) == {"steps": 7.0}
    assert drift.reports(REPORT_LOSS, {"initial_loss": 0.5}) == {"initial_loss": 0.5}
    assert drift.reports(PROXIMAL, {"steps": 7}) == {}
    with pytest.raises(KeyError):
        drift.reports(REPORT_LOSS, {"steps": 7})


@pytest.mark.parametrize(
    "asked",
    [
        {"telepathy": {}},
        {"proximal": {}},
        {"proximal": {"mu": -0.1}},
        {"proximal": {"mu": float("inf")}},
        {"proximal": {"mu": 0.1, "nu": 0.1}},
        {"control_variates": {"mu": 0.1}},
        {"dynamic_regularization": {"mu": 0.1}},
    ],
)
def test_what_cannot_be_done_is_refused(asked: Any) -> None:
    with pytest.raises(CapabilityMissing, match=r"Expected .*Received: "):
        drift.check(asked)


def test_a_trainer_is_asked_for_what_it_can_do_alone() -> None:
    drift.check(SCAFFOLD, ["control_variates", "report_steps"])
    with pytest.raises(CapabilityMissing, match=r"report_steps\. Received: control_variates"):
        drift.check(SCAFFOLD, ["report_steps"])
    with pytest.raises(CapabilityMissing, match="nothing beyond FedAvg"):
        drift.check(SCAFFOLD, ())


def test_vectors_of_other_lengths_and_what_overflows_are_refused() -> None:
    with pytest.raises(ValueError, match=r"control of shape \(3,\). Received: \(2,\)"):
        drift.correction(SCAFFOLD, None, vector(1, 2), size=3)
    with pytest.raises(ValueError, match="finite values"):
        drift.advance(SCAFFOLD, None, None, vector(3e38), steps=1, learning_rate=1e-9)


def test_tensors_are_one_vector_and_come_apart_again() -> None:
    specs = [TensorSpec("kernel", (2, 2)), TensorSpec("bias", (2,))]
    tensors = {"kernel": vector(1, 2, 3, 4).reshape(2, 2), "bias": vector(5, 6)}
    flat = drift.joined(tensors)
    assert flat.tolist() == [1, 2, 3, 4, 5, 6]
    apart = wire.split(flat, specs)
    assert {name: values.tolist() for name, values in apart.items()} == {
        name: values.tolist() for name, values in tensors.items()
    }
    assert drift.joined({}).shape == (0,)
