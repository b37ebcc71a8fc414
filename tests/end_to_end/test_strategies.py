"""Strategies that need more of participants, from the run's rules to what is kept at alice's."""

import signal

import numpy as np
import pytest

from client_sdk import Participant, wire
from models_app import blobs
from models_app.models import Model
from rounds import lifecycle
from rounds.models import Assignment, Round, Run, Update
from tests.end_to_end.conftest import live, start, take_part, told
from tests.participant import WEIGHTS
from tests.rounds.updates import carry

pytestmark = pytest.mark.timeout(120)

SIZE = sum(spec.tensor.size for spec in WEIGHTS)


def kept(alice: Participant, run: Run) -> np.ndarray:
    return alice.own.find(run.pk, ["control_variates"], SIZE)["control_variates"]


def control(round_: Round) -> np.ndarray:
    """The server's control variates with the version that came of a round."""
    assert round_.version is not None
    stored = lifecycle.state_left(round_.version, round_.run_id)
    assert stored is not None
    return np.array(wire.open_flat(blobs.path(stored), [wire.TensorSpec("control", (SIZE,))]))


@pytest.mark.parametrize("moment", ["epoch", "uploading", "answered"])
def test_whenever_alice_is_killed_her_control_variates_are_those_that_the_server_has_of_her(
    moment: str, model: Model, alice: Participant
) -> None:
    run = start(model, rounds_planned=3, strategy="scaffold").run
    first = live(moment)
    assert first.returncode == -signal.SIGKILL, first.stderr
    if not Update.objects.exists():
        assert live().returncode == 0
    one = carry(run.rounds.get(number=1))
    second = live()
    assert second.returncode == 0, second.stderr
    assert "training" in told(second)
    # She is alone, so that the mean of all control variates is her own, and moves as hers do.
    np.testing.assert_allclose(kept(alice, run), control(one), rtol=1e-5, atol=1e-6)
    two = carry(run.rounds.get(number=2))
    live()
    assert [one.state for one in Assignment.objects.all()[:2]] == [Assignment.State.ACCEPTED] * 2
    np.testing.assert_allclose(kept(alice, run), control(two), rtol=1e-5, atol=1e-6)
    assert np.abs(kept(alice, run)).max() > 0.1


def test_what_a_strategy_asks_to_be_told_is_signed_listed_and_used(
    model: Model, alice: Participant
) -> None:
    run = start(model, strategy="qfedavg").run
    take_part(alice, rounds=1)
    assert carry(run.rounds.get()).phase == Round.Phase.PUBLISHED
    update = Update.objects.get()
    assert update.reports == alice.log()[-1].reports == {"initial_loss": 2.0}
