"""A round that hands on who still trains, in a real browser: both of its pages stay true."""

import random
from collections.abc import Callable
from typing import Any

import pytest
from django.contrib.auth.models import User

from journal import events
from models_app.models import Model
from rounds import lifecycle
from rounds.models import Assignment, Round
from rounds.round_state import round_state
from tests.browser.conftest import SignIn
from tests.browser.rounds import differences, expect_the_truth, plain
from tests.browser.test_round import FOLD, disordered, watch
from tests.rounds.conftest import Enrolled
from tests.rounds.updates import carry, send, update_bytes

Enrol = Callable[..., Enrolled]
NAMES = ("charlie", "dora", "emil", "frida")


def comes(one: Enrolled) -> Assignment:
    told = lifecycle.check_in(one.participant)
    assert isinstance(told, Assignment), told
    return told


def trains(one: Enrolled, mine: Assignment, fraction: float) -> None:
    for activity in ("downloading", "training"):
        lifecycle.report(one.participant, mine.pk, activity=activity, fraction=fraction)


def sends(one: Enrolled, mine: Assignment, value: float) -> None:
    mine = Assignment.objects.get(pk=mine.pk)
    send(one, mine, update_bytes(mine.round.run.model, value))


def test_both_rounds_have_the_hand_over_as_the_database_has_it(
    server: str,
    tiny_model: Model,
    enrolled: Enrol,
    bob: User,
    signed_in: SignIn,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    heard: list[dict[str, Any]] = []
    announce = events.announce

    def listen(documents: list[dict[str, Any]]) -> None:
        heard.extend(documents)
        announce(documents)

    monkeypatch.setattr(events, "announce", listen)
    charlie, dora, emil, frida = map(enrolled, NAMES)
    run = lifecycle.create_run(
        tiny_model,
        kind="asynchronous",
        strategy="fedbuff",
        concurrency=4,
        buffer_size=2,
        quorum=1,
        rounds_planned=3,
    )
    first = lifecycle.start_run(run.pk, actor="bob")
    page = watch(signed_in(bob), first)
    opened = round_state(first.pk)
    places = {one: comes(one) for one in (charlie, dora, emil, frida)}
    for one, mine in places.items():
        trains(one, mine, 0.4)
    halfway = round_state(first.pk)
    sends(charlie, places[charlie], 1.0)
    sends(dora, places[dora], 2.0)
    lifecycle.step(first.pk)
    sends(emil, places[emil], 3.0)  # too late for the buffer
    expect_the_truth(page, first.pk)
    carry(first)
    expect_the_truth(page, first.pk)

    second = Round.objects.get(number=2)
    begun = round_state(second.pk)
    watch(page, second)
    trains(frida, places[frida], 0.8)
    mine = comes(charlie)
    expect_the_truth(page, second.pk)
    sends(charlie, mine, 1.0)
    carry(second)
    expect_the_truth(page, second.pk)
    lifecycle.stop_run(run.pk, actor="bob", reason="enough")

    lines = [one for one in heard if one["id"] is not None]
    hints = [one for one in heard if one["id"] is None]
    [start] = [
        one["id"] for one in lines if one["kind"] == "round.opened" and one["round"] == second.pk
    ]
    empty = {  # as the page had it, had it been read before anybody was handed on
        "cursor": start,
        "assignments": [],
        "counts": dict.fromkeys(begun["counts"], 0),
        "norms": {"median": None, "limit": None},
        "events": [one for one in begun["events"] if one["id"] <= start],
    }
    early = {name: opened[name] for name in ("cursor", "events")}  # rows that are ahead of it
    draw = random.Random(3)
    for round_, starts in (
        (first, (opened, halfway, halfway | early)),
        (second, (begun, begun | empty)),
    ):
        read = plain(round_state(round_.pk))
        for document in starts:
            sequences = [disordered(lines, hints, draw) for _ in range(20)]
            for folded in page.evaluate(FOLD, [document, [[heard], *sequences]]):
                assert not list(differences(plain(folded), read))
