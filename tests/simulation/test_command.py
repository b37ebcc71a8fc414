"""`manage.py simulate` refuses at once, by the option's name, what can never come to anything."""

from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command
from django.core.management.base import CommandError

from simulation.management.commands import simulate


def refusal(*words: str) -> str:
    with pytest.raises(CommandError) as caught:
        call_command("simulate", *words)
    return str(caught.value)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("--epochs 0", "--epochs: Expected a whole number from 1 to 10000. Received: 0"),
        ("--batch 0", "--batch: Expected a whole number from 1"),
        ("--rounds 0", "--rounds: Expected a whole number from 1"),
        ("--until foo=0.9", "--until: Expected one of accuracy, loss"),
        ("--until accuracy=95", "--until: Expected a number from 0.0 to 1.0. Received: 95.0"),
        ("--strategy best", "--strategy: Expected one of"),
        ("--set mu=1", "--set mu: Expected no options, for fedavg has none. Received: 'mu'"),
        ("--strategy fedprox --set mu=-1", "--set mu: Expected a number from 0"),
        ("--strategy bulyan", "--quorum: Expected a quorum of at least 7"),
        ("--strategy fedbuff", "--concurrency and --buffer make a simulation asynchronous"),
        ("--quarantine 0.5", "--quarantine: Expected 0 for none, or 1 at least. Received: 0.5"),
        ("--quorum 11", "--quorum: Expected at most 10, a fraction of 0.1 of 100. Received: 11"),
        ("--deadline 0", "--deadline: Expected above 0"),
        ("--attack scaled:0.1:inf", "--attack: Expected a finite strength. Received: inf"),
        ("--model gone.keras", "--model: Expected a file that is there. Received: 'gone.keras'"),
        ("--workers 0", "--workers: Expected at least 1. Received: 0"),
        ("--workers 2 --celery", "--workers: Expected none with --celery"),
        ("--plot curve.foo", "--plot: Expected a file that ends in .png, .svg, .pdf"),
    ],
)
def test_what_can_come_to_nothing_is_refused_before_anything_is_loaded(
    words: str, sentence: str
) -> None:
    assert sentence in refusal(*words.split())


def test_a_folder_of_something_else_is_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "precious.txt").touch()
    assert f"Received: {tmp_path}, which has precious.txt" in refusal("--home", str(tmp_path))
    assert [one.name for one in tmp_path.iterdir()] == ["precious.txt"]
    file = tmp_path / "precious.txt"
    assert "--home: Expected a folder to write in." in refusal("--home", str(file))


@pytest.mark.django_db
def test_a_run_that_fails_is_a_command_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    ended: dict[str, Any] = {"state": "failed", "reason": "3 rounds failed in a row."}
    monkeypatch.setattr("simulation.simulate.simulate", lambda *_, **__: ended)
    monkeypatch.setenv(simulate.LOCK, "0")  # as in a home of its own
    assert refusal() == "3 rounds failed in a row."
