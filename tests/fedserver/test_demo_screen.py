"""What the demo shows, with a terminal and without."""

from io import StringIO
from typing import Any

import pytest
from rich.console import Console

from fedserver.demo_screen import Place, Screen


def line(number: int, state: str, **told: Any) -> dict[str, Any]:
    names = ("version", "accuracy", "loss", "seconds", "overhead_seconds")
    blank = {"accepted": 0, "rejected": 0, "samples": 0} | dict.fromkeys(names)
    return {"number": number, "state": state, **blank, **told}


PUBLISHED = line(
    1, "published", version=2, accepted=4, rejected=1, accuracy=0.8583, loss=0.45, seconds=3.14
)


@pytest.fixture
def out() -> StringIO:
    return StringIO()


def test_without_a_terminal_each_round_is_told_once_and_when_it_has_ended(out: StringIO) -> None:
    console = Console(file=out, force_terminal=False)
    with Screen(console) as screen:
        screen.show([line(1, "training")], [Place("alice", "training")])
        screen.show([PUBLISHED, line(2, "selecting")], [])
        screen.show([PUBLISHED, line(2, "training")], [])
    told = (
        "round 1  published  4 updates, 1 refused  version 2  accuracy 0.858  loss 0.450  3.1 s\n"
    )
    assert out.getvalue() == told


def test_on_a_terminal_the_round_under_way_names_its_participants(out: StringIO) -> None:
    places = [
        Place("alice", "training", "training", 2, 3),
        Place("bob", "training", "downloading"),
        Place("charlie", "uploaded", "uploading", 3, 3),
    ]
    console = Console(file=out, force_terminal=True, color_system=None, width=120)
    with Screen(console) as screen:
        screen.show([PUBLISHED, line(2, "training")], places, seconds=1.4)
        screen.warn("bob has a cold")
    assert "alice training 2/3, bob downloading, charlie uploaded" in out.getvalue()
    assert "4 updates, 1 refused" in out.getvalue()
    assert "bob has a cold" in out.getvalue()


def test_a_crowd_is_counted(out: StringIO) -> None:
    places = [Place(f"participant-{n}", "uploaded") for n in range(9)]
    places.append(Place("alice", "training", "training", 1, 3))
    console = Console(file=out, force_terminal=True, color_system=None, width=120)
    with Screen(console) as screen:
        screen.show([line(1, "training")], places)
    assert "9 uploaded, 1 training" in out.getvalue()


def test_a_terminal_is_drawn_on_only_when_something_changed(out: StringIO) -> None:
    console = Console(file=out, force_terminal=True, color_system=None, width=120)
    with Screen(console) as screen:
        screen.show([line(1, "training")], [], seconds=1.1)
        drawn = len(out.getvalue())
        screen.show([line(1, "training")], [], seconds=1.3)
        assert len(out.getvalue()) == drawn
        screen.show([line(1, "training")], [], seconds=2.0)
        assert len(out.getvalue()) > drawn
