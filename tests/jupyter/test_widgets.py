"""The widgets of `client_sdk.notebook` in a real JupyterLab, seen to move."""

from collections.abc import Callable, Sequence
from typing import Any

from django.contrib.auth.models import User
from playwright.sync_api import expect

from accounts.models import PersonalToken
from models_app.models import Model
from rounds import lifecycle
from rounds.models import Assignment
from tests.jupyter.lab import Notebook
from tests.rounds.conftest import Enrolled, enrolled, tiny_model, victor
from tests.rounds.test_lifecycle import started
from tests.rounds.updates import all_check_in, carry, upload

__all__ = ["enrolled", "tiny_model", "victor"]  # fixtures, lent by the rounds

Open = Callable[[Sequence[str]], Notebook]
RULES: dict[str, Any] = {"rounds_planned": 1, "cohort_goal": 2, "over_selection": 1.0}
TAKE_PART = """
import numpy as np
from client_sdk.testing import FakeServer, FakeTrainer
server = FakeServer()
code, way = server.join_code(), server.transport
alice = Participant.enrol(server.url, code, name="alice", profile="shown", transport=way)
server.open_round()
data = (np.zeros((10, 3)), np.zeros(10))
alice.participate(data, rounds=1, trainer=FakeTrainer()).rounds
"""


def test_a_round_a_run_and_a_participation_are_seen_to_move(
    server: str,
    open_notebook: Open,
    victor: User,
    tiny_model: Model,
    enrolled: Callable[..., Enrolled],
) -> None:
    charlie, dora = enrolled("charlie"), enrolled("dora")
    round_ = started(tiny_model, name="spring", **RULES)
    _, token = PersonalToken.objects.issue(victor, "a notebook")
    where = f"{server!r}, {{}}, token={token!r}"
    notebook = open_notebook(
        [
            "%load_ext client_sdk.notebook",
            f"live = LiveRound({where.format(round_.pk)}); live",
            f"LiveRun({where.format(round_.run_id)})",
            "live  # a second view",
            TAKE_PART,
        ]
    )
    notebook.run()
    views = [notebook.output(1), notebook.output(3)]
    for view in views:
        expect(view.locator(".fs-live-status")).to_have_text("live")
        expect(view).to_contain_text("0 of 2 participants have checked in.")
    told, _ = all_check_in(charlie, dora)
    assert isinstance(told, Assignment)
    lifecycle.report(
        charlie.participant, told.pk, activity="training", fraction=0.5,
        epoch=1, epochs=2, metrics={"loss": 0.25},
    )  # fmt: skip
    for view in views:
        expect(view).to_contain_text("training 1/2, 50")
    for one in (charlie, dora):
        upload(one)
    carry(round_)
    for view in views:
        expect(view).to_contain_text("Version 2 is published.")
        expect(view.locator(".fs-live-status")).to_have_text("ended")
    run = notebook.output(2)
    expect(run).to_contain_text("1 of 1 round published")
    expect(run.locator(".state").first).to_have_text("completed")
    expect(run.locator(".u-over").first).to_be_visible()
    expect(run.locator("dt").first).to_have_css("float", "none")  # JupyterLab's own rule
    taking = notebook.output(4)
    expect(taking).to_contain_text("Round 1, training")
    expect(taking.locator("tbody tr")).to_have_count(1)
    expect(taking.locator(".state").first).to_have_text("ended")
