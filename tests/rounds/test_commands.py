"""`manage.py join_code` and `manage.py open_round`, as operators type them."""

from collections.abc import Callable
from io import StringIO
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from client_sdk import wire
from client_sdk.keys import Key
from journal.models import Event
from models_app.models import Model
from rounds import enrolment, lifecycle
from rounds.management.commands import open_round
from rounds.models import JoinCode, Round, Run
from tests.rounds.conftest import Enrolled
from tests.rounds.updates import all_check_in, carry, upload

pytestmark = pytest.mark.django_db

Enrol = Callable[..., Enrolled]


def output_of(*words: str, **options: Any) -> list[str]:
    out = StringIO()
    call_command(*words, stdout=out, **options)
    return out.getvalue().splitlines()


def test_charlie_enrols_with_the_code_of_the_command(tiny_model: Model) -> None:
    words = ("--model", "tiny", "--uses", "2", "--days", "0.5", "--label", "site one")
    secret, sentence, command = output_of("join_code", *words, "--url", "https://fed.example")
    assert sentence.startswith("It admits 2 participants until ")
    assert command == f"fedclient join https://fed.example {secret}"

    key = Key.generate()
    signature = key.sign(wire.enrol_message(secret, "charlie", key.public))
    charlie, _ = enrolment.enrol(
        code=secret, name="charlie", public_key=key.public, signature=signature
    )
    assert charlie.model == tiny_model
    code = JoinCode.objects.get()
    assert (code.label, code.uses, code.max_uses) == ("site one", 1, 2)


@pytest.mark.parametrize(
    "words",
    [("--model", "unknown"), ("--uses", "0"), ("--days", "0"), ("--days", "1e12")],
)
def test_a_code_that_makes_no_sense_is_not_made(words: tuple[str, str]) -> None:
    with pytest.raises(CommandError, match="Expected"):
        call_command("join_code", *words)
    assert not JoinCode.objects.exists()


def test_an_asynchronous_run_and_how_it_ends(tiny_model: Model) -> None:
    output_of(
        *("open_round", "tiny", "--strategy", "fedbuff", "--set", "staleness_exponent=0.3"),
        *("--concurrency", "8", "--buffer-size", "4", "--rounds", "50"),
        *("--best-metric", "accuracy", "--patience", "5", "--keep-best"),
    )
    run = Run.objects.get()
    assert (run.kind, run.concurrency, run.buffer_size) == ("asynchronous", 8, 4)
    assert run.strategy_options == {"staleness_exponent": 0.3}
    assert (run.best_metric, run.patience, run.keep_best) == ("accuracy", 5, True)
    assert Round.objects.get().phase == "training"


def test_an_option_of_the_strategy_is_refused_by_its_name(tiny_model: Model) -> None:
    with pytest.raises(CommandError, match="--set magic: Expected no options, for fedavg has none"):
        call_command("open_round", "tiny", "--set", "magic=1")
    with pytest.raises(CommandError, match="Expected NAME=VALUE"):
        call_command("open_round", "tiny", "--set", "magic")


def test_a_round_is_opened_with_rules_and_hyperparameters(tiny_model: Model) -> None:
    (told,) = output_of(
        *("open_round", "tiny", "--rounds", "3", "--min", "1", "--goal", "4", "--epochs", "5"),
        *("--learning-rate", "0.1", "--seconds-to-train", "60", "--selection", "random"),
        *("--fraction", "0.5", "--seed", "7"),
    )
    run = Run.objects.get()
    assert told == f"run {run.pk}: tiny with fedavg has opened round 1"
    assert (run.state, run.rounds_planned, run.cohort_min, run.quorum) == ("running", 3, 1, 1)
    assert (run.cohort_goal, run.training_seconds, run.seed) == (4, 60, 7)
    assert (run.selection, run.fraction) == ("random", 0.5)
    assert run.hyperparameters == {
        "epochs": 5,
        "batch_size": 32,
        "learning_rate": 0.1,
        "optimizer": "sgd",
        "momentum": 0.0,
        "max_steps": None,
    }
    assert Round.objects.get().phase == "selecting"
    assert Event.objects.get(kind="run.started").actor == "command line"


def test_without_options_it_is_one_round_with_the_defaults(tiny_model: Model) -> None:
    output_of("open_round", "tiny")
    run = Run.objects.get()
    assert (run.rounds_planned, run.cohort_min, run.quorum, run.strategy) == (1, 2, 2, "fedavg")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("unknown",), "Expected the slug of a model. Received: unknown"),
        (("tiny", "--rounds", "0"), "--rounds: Expected a whole number"),
        (("tiny", "--epochs", "-1"), "--epochs: Expected a whole number"),
        (("tiny", "--selection", "first_come"), "--goal: Expected a number"),
    ],
)
def test_what_makes_no_sense_opens_nothing(
    words: tuple[str, ...], says: str, tiny_model: Model
) -> None:
    with pytest.raises(CommandError, match=says):
        call_command("open_round", *words)
    assert not Round.objects.exists()


def test_a_second_run_of_a_model_has_to_wait(tiny_model: Model) -> None:
    output_of("open_round", "tiny")
    with pytest.raises(CommandError, match="no other running or paused run"):
        call_command("open_round", "tiny")


class Watched:
    """What people do while a command watches: its pauses, in which they act."""

    def __init__(self, *deeds: Callable[[], object]) -> None:
        self._deeds = list(deeds)

    def sleep(self, seconds: float) -> None:
        assert self._deeds, "it went on watching after all was done"
        self._deeds.pop(0)()


def test_watching_tells_of_each_round_until_the_run_ends(
    tiny_model: Model, enrolled: Enrol, monkeypatch: pytest.MonkeyPatch
) -> None:
    charlie, dora = enrolled("charlie"), enrolled("dora")

    def one_round() -> None:
        all_check_in(charlie, dora)
        upload(charlie)
        upload(dora)
        carry(Round.objects.latest("id"))

    monkeypatch.setattr(open_round, "time", Watched(one_round, one_round))
    lines = output_of("open_round", "tiny", "--rounds", "2", "--watch")
    assert [line.rpartition("  ")[0] for line in lines[1:3]] == [
        "round 1  published  version 2  2 updates",
        "round 2  published  version 3  2 updates",
    ]
    assert lines[3] == f"run {Run.objects.get().pk} is completed"


def test_watching_a_run_that_is_stopped_says_why(
    tiny_model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop() -> None:
        lifecycle.stop_run(Run.objects.get().pk, actor="bob", reason="wrong data")

    monkeypatch.setattr(open_round, "time", Watched(stop))
    out = StringIO()
    with pytest.raises(CommandError, match="The run is stopped: wrong data"):
        call_command("open_round", "tiny", "--watch", stdout=out)
    assert "round 1  cancelled  0 updates" in out.getvalue()
