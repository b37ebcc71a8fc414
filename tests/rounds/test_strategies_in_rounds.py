"""Strategies through the life of rounds: what they remember is stored and found again."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from client_sdk import wire
from models_app import blobs
from models_app.models import Model
from rounds import aggregation, enrolment, lifecycle, rules
from rounds.aggregation import Contribution
from rounds.models import Assignment, Round
from tests.rounds.conftest import Enrolled
from tests.rounds.test_lifecycle import started
from tests.rounds.updates import all_check_in, carry, send, served_weights, update_bytes

pytestmark = [pytest.mark.django_db, pytest.mark.alike]

# One of each kind of state, and of each report.
STRATEGIES = ["adaptive_clipping", "fedadam", "feddyn", "fednova", "qfedavg", "scaffold"]
REPORTS = {"report_steps": ("steps", 4.0), "report_initial_loss": ("initial_loss", 0.5)}


@pytest.fixture
def everyone(enrolled: Callable[..., Enrolled]) -> list[Enrolled]:
    able = [enrolled(name) for name in ("charlie", "dora", "emil")]
    for one in able:
        can = ["proximal", "control_variates", "dynamic_regularization", *REPORTS]
        enrolment.note_sdk(one.participant, {"version": "0.5.0", "capabilities": can})
        one.participant.refresh_from_db()
    return able


def a_round(everyone: list[Enrolled], reports: dict[str, float], by: float) -> Round:
    assignment: Any = None
    for value, (one, assignment) in enumerate(zip(everyone, all_check_in(*everyone), strict=True)):
        assert isinstance(assignment, Assignment), assignment
        body = update_bytes(assignment.round.run.model, by + value / 8)
        send(one, assignment, body, samples=10 + value, reports=reports)
    return carry(assignment.round)


@pytest.mark.parametrize("name", STRATEGIES)
def test_two_rounds_go_as_far_as_the_strategy_itself_does(
    name: str, tiny_model: Model, everyone: list[Enrolled]
) -> None:
    strategy = aggregation.build(name)
    asked = {"epochs": 2, "batch_size": 5}  # four steps, or more
    run = started(tiny_model, strategy=name, quorum=3, rounds_planned=2, hyperparameters=asked).run
    setting = rules.setting(run, population=len(everyone))
    reports = dict(REPORTS[name] for name in strategy.requires if name in REPORTS)
    weights = served_weights(tiny_model).copy()
    state = strategy.init(weights)
    for by in (0.5, -0.25):
        round_ = a_round(everyone, reports, by)
        contributions = [
            Contribution(
                np.full(9, by + value / 8, np.float32),
                10 + value,
                one.participant.pk,
                reports=reports,
            )
            for value, one in enumerate(everyone)
        ]
        result = strategy.apply(state, contributions, setting=setting)
        state = result.state
        weights = weights + result.delta
        assert round_.phase == Round.Phase.PUBLISHED, round_.reason
        assert served_weights(tiny_model).tobytes() == weights.tobytes()
        assert round_.version is not None
        assert bool(round_.version.strategy_state) == bool(state)
        if state:
            specs = [wire.TensorSpec.of(*item) for item in state.items()]
            kept = wire.open_tensors(blobs.path(round_.version.strategy_state), specs)
            assert all(kept[key].tobytes() == state[key].tobytes() for key in state)
    run.refresh_from_db()
    assert run.state == lifecycle.RunState.COMPLETED
