"""The real SDK at the real server: three participants train, hold out, evaluate, and are summed."""

import threading
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from client_sdk import Participant
from client_sdk.held_out import Measured
from client_sdk.testing import FakeTrainer
from models_app import registry
from models_app.models import Model
from rounds import enrolment, federated_evaluation, lifecycle
from rounds.models import FederatedEvaluation, Round
from tests.end_to_end.conftest import workers
from tests.rounds.conftest import tiny_package
from tests.waiting import until

pytestmark = pytest.mark.timeout(120)

NAMES = ("alice", "bob", "charlie")
X = np.random.default_rng(3).normal(size=(60, 2)).astype(np.float32)
Y = np.arange(60) % 3


@pytest.fixture
def model(transactional_db: None) -> Model:
    return registry.create_model("tiny", tiny_package(), labels=["a", "b", "c"])


@pytest.fixture
def everyone(
    model: Model, server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[list[Participant]]:
    monkeypatch.setenv("FEDCLIENT_HOME", str(tmp_path))
    with ExitStack() as stack:
        found = []
        for name in NAMES:
            _, code = enrolment.make_join_code(label=name)
            one = Participant.enrol(server, code, name=name, profile=name)
            found.append(stack.enter_context(one))
        yield found


def test_three_participants_evaluate_what_they_have_trained(
    model: Model, everyone: list[Participant]
) -> None:
    rules: dict[str, Any] = {
        "rounds_planned": 1,
        "evaluators": 3,
        "evaluators_min": 3,
        "evaluation_seconds": 60,
    }
    rules |= {"gate_metric": "federated_accuracy"}
    round_ = lifecycle.start_run(lifecycle.create_run(model, **rules).pk)
    stop = threading.Event()
    accuracies = (0.9, 0.5, 0.7)
    summaries = []

    def take_part(one: Participant, accuracy: float) -> None:
        trainer = FakeTrainer(
            step=0.1,
            weights=model.weights,
            measured={"loss": 1 - accuracy, "accuracy": accuracy},
        )
        summaries.append(one.participate((X, Y), trainer=trainer, held_out=0.3, stop=stop, wait=1))

    threads = [
        threading.Thread(target=take_part, args=pair)
        for pair in zip(everyone, accuracies, strict=True)
    ]
    for thread in threads:
        thread.start()

    def published() -> bool:
        while lifecycle.step(round_.pk):
            pass
        return Round.objects.get(pk=round_.pk).phase not in Round.ACTIVE

    try:
        until(published)
    finally:
        stop.set()
        for thread in threads:
            thread.join(30)
    round_.refresh_from_db()
    assert (round_.phase, round_.reason) == ("published", "")
    asked = FederatedEvaluation.objects.get()
    told = asked.summary["metrics"]["accuracy"]
    weights = [one.samples or 0 for one in asked.reports.order_by("participant__name")]
    assert told["mean"] == pytest.approx(
        sum(n * m for n, m in zip(weights, accuracies, strict=True)) / sum(weights)
    )
    assert told["worst_participant"]["name"] == "bob"
    assert round_.version is not None
    assert round_.version.metrics["federated_accuracy"] == told["mean"]
    # Everybody trained with what they did not evaluate with.
    updates = [one.update.samples for one in round_.assignments.order_by("participant__name")]
    assert [train + held for train, held in zip(updates, weights, strict=True)] == [60, 60, 60]
    assert sum(one.evaluations for one in summaries) == 3


def test_a_version_that_participants_find_worse_is_not_served(
    model: Model, everyone: list[Participant]
) -> None:
    class Measures(FakeTrainer):
        """Finds the first version good, and what comes of it not."""

        def measure(self, *given: Any, **more: Any) -> Measured:
            told = super().measure(*given, **more)
            first = (self.evaluated[-1]["0001.dense.bias"] < 0.15).all()
            return replace(told, metrics={"accuracy": 0.9 if first else 0.6})

    rules: dict[str, Any] = {"rounds_planned": 2, "retries": 0}
    rules |= {"evaluators": 2, "evaluators_min": 2, "gate_metric": "federated_accuracy"}
    run = lifecycle.start_run(lifecycle.create_run(model, **rules).pk).run
    stop = threading.Event()

    def take_part(one: Participant) -> None:
        trainer = Measures(step=0.1, weights=model.weights)
        one.participate((X, Y), trainer=trainer, held_out=0.3, stop=stop, wait=1)

    threads = [threading.Thread(target=take_part, args=(one,)) for one in everyone]
    for thread in threads:
        thread.start()
    try:
        with workers():
            until(lambda: run.rounds.filter(number=2, phase="failed").exists())
    finally:
        stop.set()
        for thread in threads:
            thread.join(30)
    first, second = run.rounds.order_by("number")
    assert (first.phase, second.code) == ("published", "gate")
    assert "federated_accuracy no more than 0.2 worse" in second.reason
    assert registry.served(model.pk) == first.version
    assert second.version is not None
    assert second.version.metrics["federated_accuracy"] == pytest.approx(0.6)
    assert second.version.stage == "rejected"


def test_who_waits_is_woken_when_an_operator_asks(
    model: Model, everyone: list[Participant]
) -> None:
    waiting, stop = threading.Event(), threading.Event()
    alice, bob, _ = everyone

    def take_part(one: Participant) -> None:
        def on_event(event: object) -> None:
            waiting.set()

        trainer = FakeTrainer(weights=model.weights)
        one.participate((X, Y), trainer=trainer, stop=stop, on_event=on_event, held_out=0.3)

    threads = [threading.Thread(target=take_part, args=(one,)) for one in (alice, bob)]
    for thread in threads:
        thread.start()
    try:
        assert waiting.wait(30)
        asked = federated_evaluation.request(registry.served(model.pk), goal=2, minimum=2)
        until(lambda: federated_evaluation.due() == [asked.pk])
        assert federated_evaluation.step(asked.pk)
    finally:
        stop.set()
        for thread in threads:
            thread.join(30)
    asked.refresh_from_db()
    assert asked.summary["participants"] == 2
