"""What follows a server for a notebook: it knows the truth, outlives the server, and ends."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from django.contrib.auth.models import User

from accounts.models import PersonalToken
from client_sdk.errors import AddressRefused
from client_sdk.notebook.live import LiveRound, LiveRun, LiveView
from journal import events
from models_app.models import Model
from rounds import lifecycle
from rounds.models import Round
from tests.notebook.conftest import TokenOf
from tests.rounds.conftest import Enrolled
from tests.rounds.test_lifecycle import everyone_uploads, started
from tests.rounds.updates import all_check_in, carry
from tests.serving import serving
from tests.waiting import until

Enrol = Callable[..., Enrolled]
RULES: dict[str, Any] = {"rounds_planned": 2, "cohort_goal": 2, "over_selection": 1.0}


@contextmanager
def watching(live: LiveView) -> Iterator[None]:
    """Until the block ends somebody looks at it."""
    try:
        until(lambda: live.status["word"] == "live")
        yield
    finally:
        live.close()
        assert not live.following


def kinds(live: LiveRound) -> list[str]:
    return [one["kind"] for one in live.events]


def test_a_round_is_followed_to_its_end(
    server: str, victor: User, token_of: TokenOf, tiny_model: Model, enrolled: Enrol
) -> None:
    charlie, dora = enrolled("charlie"), enrolled("dora")
    round_ = started(tiny_model, **RULES)
    live = LiveRound(server, round_.pk, token=token_of(victor))
    with watching(live):
        assert live.document["round"]["phase"] == "selecting"
        everyone_uploads(charlie, dora)
        until(lambda: kinds(live).count("assignment.uploaded") == 2)
        carry(round_)
        until(lambda: live.status["word"] == "ended")
        assert {"round.published", "round.opened"} <= {*kinds(live), *_told(live)}
        assert live.links["version"].endswith("/models/tiny/versions/{number}/")


def _told(live: LiveRound) -> list[str]:
    return [one["kind"] for one in live.document["events"]]


def test_news_of_the_same_take_each_others_place(
    server: str, victor: User, token_of: TokenOf, tiny_model: Model, enrolled: Enrol
) -> None:
    charlie, dora = enrolled("charlie"), enrolled("dora")
    round_ = started(tiny_model, **RULES)
    mine, _ = all_check_in(charlie, dora)
    live = LiveRound(server, round_.pk, token=token_of(victor))

    def heard() -> list[dict[str, Any]]:
        return [one for one in live.events if one["kind"] == "assignment.progress"]

    with watching(live):
        for epoch in range(1, 4):
            lifecycle.report(
                charlie.participant, mine.pk, activity="training", fraction=epoch / 3,
                epoch=epoch, epochs=3, metrics={"loss": 1.0 / epoch},
            )  # fmt: skip
            time.sleep(0.15)
        until(lambda: heard() and heard()[-1]["data"]["epoch"] == 3)
        assert len(heard()) == 1


def test_what_is_kept_beside_the_document_stays_small(
    server: str, victor: User, token_of: TokenOf, tiny_model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("client_sdk.notebook.live._KEPT", 5)
    round_ = started(tiny_model, **RULES)
    live = LiveRound(server, round_.pk, token=token_of(victor))
    with watching(live):
        for number in range(12):
            with events.transaction() as journal:
                journal.record("round.stumbled", run=round_.run_id, round=round_.pk, number=number)
            time.sleep(0.12)
        until(lambda: {*range(12)} == _numbers(live))
        assert len(live.events) <= 12


def _numbers(live: LiveRound) -> set[int]:
    told = [*live.document["events"], *live.events]
    return {one["data"]["number"] for one in told if one["kind"] == "round.stumbled"}


def test_a_server_that_is_started_again_is_found_again(
    transactional_db: None,
    valkey: str,
    victor: User,
    token_of: TokenOf,
    tiny_model: Model,
    enrolled: Enrol,
) -> None:
    charlie, dora = enrolled("charlie"), enrolled("dora")
    round_ = started(tiny_model, **RULES)
    with serving() as port:
        live = LiveRound(f"http://127.0.0.1:{port}", round_.pk, token=token_of(victor))
        until(lambda: live.status["word"] == "live")
    until(lambda: live.status["word"] == "connecting")
    all_check_in(charlie, dora)
    with serving(port), watching(live):
        until(lambda: "round.training" in [*_told(live), *kinds(live)])
        lifecycle.cancel_round(round_.pk, actor="bob", reason="a test")
        until(lambda: "round.cancelled" in kinds(live))


def test_a_wrong_token_is_told_and_not_tried_again(
    server: str, victor: User, token_of: TokenOf, tiny_model: Model
) -> None:
    round_ = started(tiny_model, **RULES)
    for token, number, words in (
        ("fsu_nonsense", round_.pk, "The token is not accepted: make one on the profile page"),
        (token_of(victor), 987654, "There is nothing of this id on the server"),
    ):
        live = LiveRound(server, number, token=token)
        until(lambda live=live: live.status["word"] == "refused")  # type: ignore[misc]
        assert live.status["sentence"].startswith(words)
        until(lambda live=live: not live.following)  # type: ignore[misc]
    with pytest.raises(AddressRefused):
        LiveRound("http://fed.example.org", 1, token="fsu_secret")


def test_a_token_that_is_deleted_ends_the_view(
    server: str,
    victor: User,
    token_of: TokenOf,
    tiny_model: Model,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("journal.doorkeeper.EVERY", 0.3)
    live = LiveRound(server, started(tiny_model, **RULES).pk, token=token_of(victor))
    until(lambda: live.status["word"] == "live")
    PersonalToken.objects.all().delete()
    until(lambda: live.status["word"] == "refused")
    live.close()


def test_where_no_socket_gets_through_it_asks(
    server: str,
    victor: User,
    token_of: TokenOf,
    tiny_model: Model,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("client_sdk.following._POLL", 0.2)
    monkeypatch.setattr("client_sdk.following._PATH", "ws/nowhere/")
    round_ = started(tiny_model, **RULES)
    live = LiveRound(server, round_.pk, token=token_of(victor))
    until(lambda: live.status["word"] == "polling")
    lifecycle.cancel_round(round_.pk, actor="bob", reason="a test")
    until(lambda: live.document["round"]["phase"] == "cancelled")
    live.close()


def test_who_looks_keeps_it_going_and_nobody_else(
    server: str, victor: User, token_of: TokenOf, tiny_model: Model
) -> None:
    live = LiveRound(server, started(tiny_model, **RULES).pk, token=token_of(victor))
    for view in ("first", "second"):
        live._handle_custom_msg({"type": "opened", "view": view}, [])
    live._handle_custom_msg({"type": "closed", "view": "first"}, [])
    still = live.following
    live._handle_custom_msg({"type": "closed", "view": "second"}, [])
    assert (still, live.following) == (True, False)
    live._handle_custom_msg({"type": "opened", "view": "third"}, [])
    with watching(live):
        assert live.following
    assert "fsu_" not in str(live.get_state())


def test_a_run_is_followed_to_its_end(
    server: str, victor: User, token_of: TokenOf, tiny_model: Model, enrolled: Enrol
) -> None:
    charlie, dora = enrolled("charlie"), enrolled("dora")
    round_ = started(tiny_model, **(RULES | {"rounds_planned": 1}))
    live = LiveRun(server, round_.run_id, token=token_of(victor))
    with watching(live):
        assert live.history["rounds"][0]["phase"] == "selecting"
        everyone_uploads(charlie, dora)
        until(lambda: live.history["rounds"][0]["counts"]["uploaded"] == 2)
        carry(Round.objects.get(pk=round_.pk))
        until(lambda: live.status["word"] == "ended")
        assert (live.run["state"], live.run["published"]) == ("completed", 1)
