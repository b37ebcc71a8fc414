"""Strategies that need more of participants, from the run's rules to what is kept at alice's."""

import signal
import threading
from collections.abc import Collection
from typing import Any

import numpy as np
import pytest

from client_sdk import Participant, drift, wire
from client_sdk import participant as sdk
from client_sdk.participation import Event
from client_sdk.testing import FakeTrainer
from models_app import blobs
from models_app.models import Model
from rounds import lifecycle
from rounds.models import Assignment, Round, Run, Update
from tests.end_to_end.conftest import live, start, take_part, told, workers
from tests.participant import WEIGHTS, data_of
from tests.rounds.updates import carry
from tests.waiting import until

pytestmark = [pytest.mark.timeout(120), pytest.mark.alike]

SIZE = sum(spec.tensor.size for spec in WEIGHTS)


def kept(alice: Participant, run: Run) -> np.ndarray:
    return alice.own.find(run.pk, ["control_variates"], SIZE)["control_variates"]


def control(round_: Round) -> np.ndarray:
    """The server's control variates with the version that came of a round."""
    assert round_.version is not None
    stored = lifecycle._state_left(round_.version, round_.run_id)
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


def test_who_has_an_old_sdk_is_told_why_and_the_round_goes_on_without(
    model: Model, everyone: dict[str, Participant], monkeypatch: pytest.MonkeyPatch
) -> None:
    versions = sdk.sdk_versions

    def of_then(capabilities: Collection[str]) -> dict[str, Any]:
        """An SDK that can do nothing of it does not know the word either."""
        told = versions(capabilities)
        return told if capabilities else {key: told[key] for key in told if key != "capabilities"}

    monkeypatch.setattr(sdk, "sdk_versions", of_then)
    waits: list[Event] = []
    stop = threading.Event()
    run = start(model, strategy="scaffold", cohort_goal=2, cohort_min=2, quorum=2).run

    def take_part(name: str) -> None:
        old = name == "charlie"
        trainer = FakeTrainer(
            weights=WEIGHTS, capabilities=() if old else tuple(drift.CAPABILITIES)
        )

        def note(event: Event) -> None:
            if old and event.kind == "waiting":
                waits.append(event)

        data = data_of(name)
        everyone[name].participate(data, trainer=trainer, stop=stop, wait=1, on_event=note)

    names = ("alice", "bob", "charlie")
    threads = {name: threading.Thread(target=take_part, args=(name,)) for name in names}
    with workers():
        threads["charlie"].start()  # first, and for that no sooner selected
        until(lambda: waits)
        threads["alice"].start()
        threads["bob"].start()
        try:
            until(lambda: Run.objects.get(pk=run.pk).state == Run.State.COMPLETED)
        finally:
            stop.set()
            for thread in threads.values():
                thread.join(30)
    assert waits[0].data["reason"] == "sdk_lacks"
    assert "control_variates, report_steps" in waits[0].data["detail"]
    assert "pip install --upgrade" in waits[0].data["detail"]
    accepted = Assignment.objects.values_list("participant__name", "state")
    assert sorted(accepted) == [("alice", "accepted"), ("bob", "accepted")]
