"""What a participation shows: lines in a log, bars in a terminal."""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from rich.console import Console

from client_sdk import progress
from client_sdk.participation import KINDS, Event
from client_sdk.protocol import Assignment, Blob

ROUND = Assignment(
    id=1,
    run=1,
    round=7,
    number=3,
    rounds=10,
    model="digits",
    architecture_digest="",
    version=4,
    weights=Blob("0" * 64, 1000),
    fixed=None,
    hyperparameters={"epochs": 2},
    seed=7,
)


def exchange(losses: tuple[float, ...] = (0.9, 0.3)) -> Iterator[Event]:
    """A round as it is told."""
    yield Event("waiting", data={"reason": "no_open_round", "detail": "No round is open."})
    yield Event("assigned", ROUND)
    yield Event("downloading", ROUND, {"bytes": 240_000})
    yield Event("downloaded", ROUND, {"bytes": 240_000})
    yield Event("training", ROUND, {"samples": 10})
    yield Event("progress", ROUND, {"fraction": 0.1})
    for epoch, loss in enumerate(losses, 1):
        metrics = {"accuracy": 0.5, "loss": loss}
        yield Event("epoch", ROUND, {"epoch": epoch, "epochs": 2, "metrics": metrics})
    leaves = {"bytes": 120, "tensors": ["a", "b"], "samples": 10, "metrics": {"loss": 0.3}}
    yield Event("sending", ROUND, leaves)
    yield Event("uploading", ROUND, {"bytes": 120})
    yield Event("uploaded", ROUND, {"samples": 10, "metrics": {"loss": 0.3}})
    receipt = {"number": 3, "state": "accepted", "published": 5}
    yield Event("receipt", ROUND, {"receipt": receipt})


@pytest.fixture
def terminal() -> progress.Terminal:
    return progress.Terminal(
        Console(
            file=io.TextIOWrapper(io.BytesIO(), encoding="utf-8"),
            force_terminal=True,
            force_interactive=True,
            color_system=None,
            width=100,
            _environ={"TERM": "xterm"},
        )
    )


def drawn(shown: progress.Terminal) -> str:
    """All that was written to the terminal, with its control sequences."""
    file = shown.console.file
    file.flush()
    return file.buffer.getvalue().decode()  # type: ignore[attr-defined]


def lines_of(text: str) -> list[str]:
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text).replace("\r", "\n").splitlines()


def test_alices_log_has_a_line_for_each_thing_that_happened() -> None:
    file = io.StringIO()
    shown = progress.Lines(file)
    for event in exchange():
        shown(event)
    assert file.getvalue().splitlines() == [
        "waiting: No round is open.",
        "round 3 of 10 of model digits, from version 4",
        "  epoch 1/2  loss 0.9000  accuracy 0.5000",
        "  epoch 2/2  loss 0.3000  accuracy 0.5000",
        "  what leaves: 120 B, 2 tensors, the count 10, loss",
        "  update sent, 10 samples",
        "  round 3: accepted; version 5 came of the round",
    ]


@pytest.mark.parametrize(
    ("receipt", "said"),
    [
        (
            {"state": "rejected", "code": "run_completed", "reason": "The run is completed."},
            "round 6: not used. The run is completed. Version 11 came of the round without it.",
        ),
        (
            {"state": "quarantined", "code": "norm_outsized", "reason": "Its norm is 9, of 5."},
            "round 6: quarantined. Its norm is 9, of 5. Version 11 came of the round without it.",
        ),
        (
            {"state": "rejected", "code": "bad_uploads", "published": None},
            "round 6: rejected. Bad uploads.",
        ),
        (
            {"state": "late", "reason": "the round was closed", "published": None},
            "round 6: late. The round was closed.",
        ),
        ({"state": "unknown", "published": None}, "round 6: unknown"),
        ({"state": "accepted", "published": None}, "round 6: accepted"),
    ],
)
def test_a_verdict_is_a_word_and_then_sentences(receipt: dict[str, object], said: str) -> None:
    told = {"number": 6, "published": 11} | receipt
    assert progress.sentence(Event("receipt", ROUND, {"receipt": told})) == f"  {said}"


def test_alices_log_says_what_was_evaluated() -> None:
    told = {"model": "digits", "version": 5, "samples": 72, "metrics": {"loss": 0.25}}
    said = progress.sentence(Event("evaluated", None, {"evaluation": 1, **told}))
    assert said == "  evaluated version 5 of model digits on 72 held-out examples: loss 0.2500"


def test_a_weekend_without_the_server_is_one_line() -> None:
    file = io.StringIO()
    shown = progress.Lines(file)
    for seconds in (1.0, 2.0, 4.0, 60.0):
        shown(Event("offline", data={"reason": "connection refused", "seconds": seconds}))
    assert file.getvalue() == "server away (connection refused); trying again\n"


def test_a_sentence_of_the_server_moves_no_cursor() -> None:
    file = io.StringIO()
    progress.Lines(file)(Event("waiting", data={"reason": "", "detail": "\x1b[2Jgone\nnext"}))
    assert file.getvalue() == "waiting: \ufffd[2Jgone\ufffdnext\n"


def test_a_file_of_few_characters_takes_what_it_can() -> None:
    file = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    progress.Lines(file)(Event("waiting", data={"reason": "", "detail": "für später"}))
    assert file.buffer.getvalue() == b"waiting: f?r sp?ter\n"


def test_bars_stand_for_what_is_under_way_and_lines_for_what_is_done(
    terminal: progress.Terminal,
) -> None:
    for event in exchange():
        terminal(event)
        if terminal._progress is not None:
            terminal._progress.refresh()
    terminal.close()
    lines = lines_of(drawn(terminal))
    bars = [line for line in lines if "━" in line]
    assert any("download" in line and "240 kB" in line for line in bars)
    assert any("train" in line and "epoch 2/2  loss 0.3000" in line for line in bars)
    assert any("upload" in line and "120 B" in line for line in bars)
    assert "round 3 of 10 of model digits, from version 4" in (line.strip() for line in lines)
    assert any(line.startswith("  update sent, 10 samples  loss 0.3000  █▁") for line in lines)


def test_the_terminal_gets_its_cursor_back(terminal: progress.Terminal) -> None:
    terminal(Event("training", ROUND))
    assert "\x1b[?25l" in drawn(terminal)
    terminal.close()
    terminal.close()
    assert drawn(terminal).rindex("\x1b[?25h") > drawn(terminal).rindex("\x1b[?25l")


def test_the_next_round_begins_with_no_bars_of_the_last(terminal: progress.Terminal) -> None:
    for event in [*exchange(), Event("closed", ROUND, {"reason": "round_closed"}), *exchange()]:
        terminal(event)
    assert terminal._tasks == {}
    terminal.close()


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_every_kind_of_event_can_be_shown(kind: str, terminal: progress.Terminal) -> None:
    said = {
        "reason": "r",
        "detail": "d",
        "seconds": 1.0,
        "fraction": 0.5,
        "bytes": 10,
        "done": 5,
        "epoch": 1,
        "epochs": 2,
        "samples": 3,
        "metrics": {},
        "limit": "models",
        "receipt": SimpleNamespace(round=1, number=1, state="late", reason="too late", code="late"),
    }
    event = Event(kind, ROUND, said)
    terminal(event)
    terminal.close()
    progress.Lines(io.StringIO())(event)


def test_where_nobody_looks_nothing_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    assert progress.automatic() is None


def test_a_terminal_that_cannot_move_its_cursor_gets_lines(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Old(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setattr(sys, "stderr", Old())
    assert isinstance(progress.automatic(), progress.Lines)
    monkeypatch.setenv("TERM", "xterm")
    assert isinstance(progress.automatic(), progress.Terminal)


def test_small_numbers_and_large_ones() -> None:
    assert [progress.size(n) for n in (0, 999, 1000, 999_999, 1_500_000, 12_000_000_000)] == [
        "0 B",
        "999 B",
        "1 kB",
        "1.0 MB",
        "1.5 MB",
        "12 GB",
    ]
    assert progress.spark([]) == progress.spark([1.0, 1.0]) == ""
