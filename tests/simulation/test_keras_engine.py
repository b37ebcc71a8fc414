"""Whole simulations of scikit-learn's digits, in the test's own process and database."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from django.db.models import QuerySet
from pytest_django import Settings
from rich.console import Console

from models_app import blobs
from models_app.models import ModelVersion
from rounds.models import Assignment, Run
from simulation import errands, tasks, training
from simulation.plan import Plan
from simulation.simulate import simulate

pytestmark = [pytest.mark.django_db, pytest.mark.keras, pytest.mark.alike]

SMALL: dict[str, Any] = {"model": "2nn", "participants": 10, "fraction": 0.5, "rounds": 2}
BUFFERED: dict[str, Any] = {"strategy": "fedbuff", "concurrency": 4, "buffer": 2}


@pytest.fixture
def home(tmp_path: Path, settings: Settings) -> Path:
    """A simulation's home, as its command sets the server's."""
    settings.FEDSERVER_HOME, settings.DURABLE, settings.REDIS_URL = tmp_path, False, ""
    return tmp_path


def run(home: Path, **changes: Any) -> dict[str, Any]:
    plan = Plan(**(SMALL | changes))
    return simulate(plan, home, console=Console(quiet=True))


def places(state: str) -> QuerySet[Assignment]:
    return Assignment.objects.filter(state=state)


def test_participants_learn_the_digits_and_the_results_say_how_fast(home: Path) -> None:
    plan = Plan(**SMALL | {"rounds": 30, "epochs": 5, "until": ("accuracy", 0.7)})
    file, picture = home / "found.json", home / "curve.png"
    found = simulate(plan, home, json_file=file, picture=picture, console=Console(quiet=True))
    assert json.loads(file.read_text()) == found
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert found["state"] == "completed"
    assert found["final_accuracy"] >= 0.7
    reached = found["rounds_to_target"]
    assert reached == found["rounds"] < 30
    assert [line["round"] for line in found["curve"]] == list(range(reached + 1))
    assert found["curve"][reached]["accuracy"] == found["final_accuracy"]
    assert found["curve"][reached - 1]["accuracy"] < 0.7
    assert found["curve"][1]["accepted"] == 5
    assert found["curve"][1]["cpu_seconds"] > 0
    assert found["settings"]["epochs"] == 5
    assert found["versions"]["keras"]
    # 143 or 144 examples in steps of 10: 15 steps of 10 ms, five times.
    assert found["curve"][1]["virtual_seconds"] == pytest.approx(0.75)
    # The first version and the served one are kept, and the examples for the evaluation.
    assert len([one for one in (home / "blobs").rglob("*") if one.is_file()]) == 3


def test_what_is_finished_is_answered_from_what_is_stored(home: Path) -> None:
    first = run(home)
    assert run(home) == first
    assert Run.objects.count() == 1


def test_some_vanish_and_some_are_too_slow(home: Path) -> None:
    found = run(home, fraction=1.0, dropout=0.3, stragglers=0.9, deadline=0.15, rounds=3)
    line = found["curve"][-1]
    assert line["virtual_seconds"] == pytest.approx(0.45)  # three deadlines
    assert line["accepted"] + line["late"] + line["lost"] == 10
    assert places("lost").exists()
    assert places("late").exists()


def test_a_round_of_which_nobody_is_left_is_tried_again(home: Path) -> None:
    found = run(home, participants=4, fraction=0.25, dropout=0.6, rounds=2)
    phases = [line["phase"] for line in found["curve"][1:]]
    assert phases.count("published") == 2
    assert "failed" in phases
    assert found["state"] == "completed"


def test_attackers_that_know_of_each_other_send_the_same(home: Path) -> None:
    found = run(home, attack="little_is_enough", attackers=0.4, fraction=1.0, rounds=1)
    assert found["curve"][1]["accepted"] == 10
    digests = [one.update.digest for one in places("accepted").select_related("update")]
    assert len(set(digests)) == 7  # of four attackers one, and of the others their own


def test_updates_that_are_too_long_are_set_aside_where_one_wants_that(home: Path) -> None:
    found = run(
        home, attack="scaled", attackers=0.2, strength=100.0, fraction=1.0, rounds=1, quarantine=5.0
    )
    assert (found["curve"][1]["accepted"], found["curve"][1]["quarantined"]) == (8, 2)


def test_nobody_waits_for_the_slowest_of_an_asynchronous_run(home: Path) -> None:
    found = run(home, **BUFFERED, stragglers=0.9, dropout=0.3, rounds=4, seed=1)
    assert found["state"] == "completed"
    assert [line["accepted"] for line in found["curve"][1:]] == [2] * 4
    clock = [line["virtual_seconds"] for line in found["curve"]]
    assert clock == sorted(clock)
    assert clock[0] == 0.0 < clock[1]
    assert places("accepted").filter(staleness__gt=0).exists()
    assert places("failed").filter(code="vanished").exists()


def test_a_round_that_nobody_waits_for_is_tried_again_when_the_gate_refuses_it(home: Path) -> None:
    found = run(
        home, **BUFFERED, participants=6, stragglers=0.9, gate=0.0, rounds=4, learning_rate=0.5
    )
    assert found["state"] == "completed"
    phases = [line["phase"] for line in found["curve"][1:]]
    assert phases.count("published") == 4
    assert "failed" in phases
    failed = phases.index("failed") + 1
    assert found["curve"][failed]["late"] > 0  # who trained on meanwhile begins anew
    clock = [line["virtual_seconds"] for line in found["curve"]]
    assert clock == sorted(set(clock))
    assert not list((home / "spool").glob("*"))


def test_of_which_too_much_is_set_aside_the_next_one_has_enough(home: Path) -> None:
    attack: dict[str, Any] = {"attack": "scaled", "attackers": 0.25, "strength": 100.0}
    found = run(
        home, **BUFFERED | {"buffer": 3, "quorum": 3}, **attack, quarantine=3.0, rounds=3, seed=1
    )
    assert found["state"] == "completed"
    phases = [line["phase"] for line in found["curve"][1:]]
    assert "failed" in phases
    assert found["curve"][phases.index("failed") + 1]["quarantined"] > 0


def test_a_buffer_that_nobody_is_left_to_fill_makes_a_version_of_a_quorum(home: Path) -> None:
    found = run(
        home, **BUFFERED | {"buffer": 6, "quorum": 3}, participants=6, dropout=0.4, rounds=3
    )
    assert found["state"] == "completed"
    lines = found["curve"][1:]
    assert {line["accepted"] for line in lines if line["phase"] == "published"} <= {3, 4, 5, 6}
    assert any(line["accepted"] < 6 for line in lines if line["phase"] == "published")
    again = [one for one in lines if one["phase"] == "failed"]
    assert all(line["failed"] > 3 for line in again)  # three of six were too many


def test_a_run_that_fails_time_and_again_ends_and_says_why(home: Path) -> None:
    found = run(home, **BUFFERED, participants=2, dropout=0.999999, rounds=1)
    assert found["state"] == "failed"
    assert found["reason"].startswith("101 rounds failed in a row")
    assert run(home, **BUFFERED, participants=2, dropout=0.999999, rounds=1) == found


def test_each_participant_keeps_its_normalization_and_evaluates_with_it(home: Path) -> None:
    found = run(home, model="bn", strategy="fedbn", evaluators=5, held_out=0.2, rounds=2)
    line = found["curve"][2]
    assert 0 <= line["federated_accuracy"] <= 1
    assert line["federated_loss"] > 0
    kept = {file.stem for file in (home / "own").glob("*.safetensors")}
    last = {
        str(places("accepted").filter(participant=one).latest("pk").pk)
        for one in places("accepted").values_list("participant", flat=True).distinct()
    }
    assert kept == last


class Bell:
    """Celery with a worker that does at once what it is sent."""

    def send_task(self, name: str, arguments: list[Any], queue: str) -> None:
        assert (name, queue) == ("simulation.tasks.work", "simulation")
        tasks.work(*json.loads(json.dumps(arguments)))


def test_workers_of_celery_train_and_evaluate_the_same_bytes(home: Path) -> None:
    hands = partial(errands.CeleryPool, app=Bell())
    plan = Plan(**SMALL | {"strategy": "scaffold", "evaluators": 3, "held_out": 0.2})
    found = simulate(plan, home, hands=hands, console=Console(quiet=True))
    assert found["state"] == "completed"
    assert 0 <= found["curve"][2]["federated_accuracy"] <= 1
    first = ModelVersion.objects.get(number=1)
    (home / "spool").mkdir()
    target, kept = home / "spool" / "update", home / "spool" / "kept"
    job = training.Job(4, training.Base(blobs.path(first.weights)), 7, target, None, kept)
    recipe = training.Recipe.read(home)
    done = [
        pool.submit(training.work, job).result() for pool in (training.Here(recipe), hands(recipe))
    ]
    assert done[0].digest == done[1].digest == blobs.digest_file(target)
    assert (
        done[0].samples
        == done[1].samples
        == len(training.shares(plan, training.examples(home)[1])[4].trained)
    )
