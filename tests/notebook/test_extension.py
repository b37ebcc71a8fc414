"""What `%load_ext client_sdk.notebook` gives, and the widget of a participation."""

import doctest
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from IPython.core.interactiveshell import InteractiveShell

import client_sdk.notebook
from client_sdk.notebook import Admin, LiveRound, live, modules, progress
from client_sdk.notebook.progress import Progress
from client_sdk.participant import Participant
from client_sdk.participation import KINDS, Event
from client_sdk.testing import FakeServer, FakeTrainer


@pytest.fixture
def shell() -> Any:
    """A notebook's kernel, as far as its names go."""
    return InteractiveShell()


def test_the_extension_brings_its_names_and_takes_them_away(shell: Any) -> None:
    manager = shell.extension_manager
    assert manager.load_extension("client_sdk.notebook") is None
    assert shell.user_ns["LiveRound"] is LiveRound
    assert set(client_sdk.notebook.__all__) <= set(shell.user_ns)
    manager.unload_extension("client_sdk.notebook")
    assert not set(client_sdk.notebook.__all__) & set(shell.user_ns)


def test_a_name_of_ones_own_stays_ones_own(shell: Any) -> None:
    shell.user_ns["Admin"] = "mine"
    with pytest.warns(UserWarning, match="your own Admin stay"):
        shell.extension_manager.load_extension("client_sdk.notebook")
    assert shell.user_ns["Admin"] == "mine"
    assert shell.user_ns["LiveRound"] is LiveRound
    shell.extension_manager.unload_extension("client_sdk.notebook")
    assert shell.user_ns["Admin"] == "mine"


def test_what_is_offered_is_there() -> None:
    assert all(name in dir(client_sdk.notebook) for name in client_sdk.notebook.__all__)
    assert Admin.__module__ == "client_sdk.admin.admin"
    with pytest.raises(AttributeError, match="nothing"):
        client_sdk.notebook.__getattr__("nothing")


def test_an_operators_script_needs_no_notebook() -> None:
    code = "import sys, client_sdk.admin, client_sdk.notebook, client_sdk.notebook.modules\n"
    code += "print(*sys.modules)"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy = {"anywidget", "pandas", "matplotlib", "IPython", "keras", "tensorflow", "django"}
    assert not heavy & set(told.stdout.split())


# --- Progress ---


@dataclass
class _Receipt:
    round: int = 7
    number: int = 3
    model: str = "digits"
    version: int = 4
    samples: int = 120
    bytes: int = 2800
    state: str = "uploaded"
    code: str = ""
    reason: str = ""
    published: int | None = None


DATA: dict[str, dict[str, Any]] = {
    "waiting": {"reason": "no_open_round", "detail": "None is open.", "seconds": 1.0},
    "offline": {"reason": "ConnectError", "seconds": 1.0},
    "suspended": {"seconds": 30.0},
    "limited": {"limit": "rounds_per_day", "detail": "No more today.", "seconds": 60.0},
    "downloading": {"bytes": 2800},
    "downloaded": {"bytes": 2800},
    "training": {"samples": 120},
    "progress": {"fraction": 0.25},
    "epoch": {"epoch": 1, "epochs": 2, "metrics": {"loss": 0.5}},
    "evaluating": {"evaluation": 3, "model": "digits", "version": 4, "samples": 12},
    "evaluated": {"evaluation": 3, "samples": 12, "metrics": {"loss": 0.5}},
    "sending": {"bytes": 2800, "tensors": ["a"], "samples": 120, "metrics": {"loss": 0.5}},
    "uploading": {"bytes": 2800},
    "uploaded": {"samples": 120, "metrics": {"loss": 0.5}, "receipt": _Receipt()},
    "receipt": {"receipt": _Receipt(state="accepted", published=5)},
    "declined": {"limit": "models", "reason": "limits", "detail": "Not this model."},
    "closed": {"reason": "round_closed"},
    "failed": {"reason": "training_failed", "detail": "MemoryError"},
}


def test_every_event_is_shown() -> None:
    progress = Progress()
    assert set(KINDS) - set(DATA) == {"assigned", "resumed", "interrupted"}, "tell this test of it"
    for kind, data in DATA.items():
        progress(Event(kind, None, data))
    view = progress.view
    assert view.losses == [0.5]
    [line] = view.rounds
    assert (line["state"], line["published"], line["samples"]) == ("accepted", 5, 120)
    assert view.now["word"] == "failed"
    texts = [one["text"] for one in view.lines]
    assert "waiting: None is open." in texts
    assert any("version 5 came of the round" in text for text in texts)


def test_a_participation_is_shown_from_beginning_to_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEDCLIENT_HOME", str(tmp_path))
    server, progress = FakeServer(), Progress()
    with Participant.enrol(
        server.url, server.join_code(), name="alice", transport=server.transport
    ) as alice:
        server.open_round()
        alice.participate(
            (np.zeros((10, 3)), np.zeros(10)), rounds=1, trainer=FakeTrainer(), progress=progress
        )
    assert "Round 1, training " in str(progress.view.now["title"])
    assert progress.view.losses
    assert progress.view.rounds[0]["samples"] == 10
    assert progress.view.over


@pytest.mark.parametrize("module", [live, modules, progress], ids=lambda module: module.__name__)
def test_the_examples_run(module: ModuleType) -> None:
    finder, runner = doctest.DocTestFinder(exclude_empty=True), doctest.DocTestRunner(verbose=False)
    for example in finder.find(module, extraglobs={"token": "fsu_secret"}):
        assert runner.run(example).failed == 0
    assert runner.summarize(verbose=False).attempted
