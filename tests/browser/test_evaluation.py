"""What participants measured, in the browser: asked for, followed live, drawn for everybody."""

from collections.abc import Callable

import pytest
from django.contrib.auth.models import User
from playwright.sync_api import Page, expect

from models_app import registry
from models_app.evaluation import Evaluation
from models_app.models import Model
from rounds import federated_evaluation, lifecycle
from rounds.models import FederatedEvaluation
from tests.browser.conftest import SignIn
from tests.browser.rounds import expect_the_truth
from tests.rounds.conftest import Enrolled
from tests.rounds.test_federated_evaluation import come, trained
from tests.rounds.updates import carry

Axe = Callable[[Page], None]
Enrol = Callable[..., Enrolled]
TOLD = {
    "charlie": (40, 0.9, [[25, 23], [15, 13], [0, 0]]),
    "dora": (25, 0.48, [[10, 8], [10, 3], [5, 1]]),
    "emil": (60, 0.81, [[30, 26], [30, 22], [0, 0]]),
}


def report(one: Enrolled) -> None:
    samples, accuracy, classes = TOLD[one.participant.name]
    metrics = {"accuracy": accuracy, "loss": 1.2 - accuracy}
    evaluation = come(one).evaluation_id
    told = {"samples": samples, "metrics": metrics, "classes": classes}
    federated_evaluation.report(one.participant, evaluation, **told)


@pytest.fixture
def version_page(signed_in: SignIn, bob: User, tiny_model: Model) -> Page:
    registry.record_metrics(
        registry.served(tiny_model.pk), Evaluation({"accuracy": 0.86, "loss": 0.4})
    )
    page = signed_in(bob)
    page.goto("/models/tiny/versions/1/")
    return page


def test_bob_asks_participants_and_watches_them_come(
    version_page: Page, enrolled: Enrol, axe: Axe
) -> None:
    page = version_page
    panel = page.get_by_role("region", name="On participants' own data")
    expect(panel).to_contain_text("Nobody was asked to evaluate this version")
    panel.get_by_role("link", name="Ask participants").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Reports that end it").fill("3")
    axe(page)
    dialog.get_by_role("button", name="Ask participants").click()
    expect(panel).to_contain_text("0 of 3 participants have evaluated it")
    everyone = [enrolled(name) for name in TOLD]
    report(everyone[0])
    expect(panel).to_contain_text("1 of 3 participants has evaluated it; of fewer than 3 nothing")
    assert "90.0" not in page.content()
    for one in everyone[1:]:
        report(one)
    federated_evaluation.step(FederatedEvaluation.objects.get().pk)
    expect(panel).to_contain_text("3 participants with 125 held-out examples")
    expect(panel).to_contain_text("77.3")  # (40 · 0.9 + 25 · 0.48 + 60 · 0.81) / 125
    expect(panel.get_by_role("link", name="dora").first).to_be_visible()
    expect(panel).to_contain_text("Of b, c too few participants (fewer than 3) have examples")
    axe(page)


def test_a_round_that_waits_for_participants_is_followed(
    signed_in: SignIn, victor: User, tiny_model: Model, enrolled: Enrol, axe: Axe
) -> None:
    everyone = [enrolled(name) for name in TOLD]
    round_ = trained(tiny_model, *everyone, evaluators_min=3)
    page = signed_in(victor)
    page.goto(f"/rounds/{round_.pk}/")
    panel = page.get_by_role("region", name="On participants' own data")
    expect(panel).to_contain_text("0 of 3 participants have evaluated it")
    report(everyone[0])
    expect(panel).to_contain_text("1 of 3 participants has evaluated it")
    expect_the_truth(page, round_.pk)
    for one in everyone[1:]:
        report(one)
    carry(round_)
    expect(panel).to_contain_text("3 participants with 125 held-out examples")
    expect(page.get_by_text("Version 2 is published.")).to_be_visible()
    expect_the_truth(page, round_.pk)
    axe(page)
    page.goto(f"/runs/{round_.run_id}/")
    chart = page.get_by_role("region", name="Accuracy, on participants' own data")
    expect(chart).to_contain_text("0.773")
    expect(chart).to_contain_text("mean over participants, on data of their own")
    axe(page)


def test_a_round_of_a_run_that_asks_nobody_has_no_panel(
    signed_in: SignIn, victor: User, tiny_model: Model
) -> None:
    round_ = lifecycle.start_run(lifecycle.create_run(tiny_model).pk)
    page = signed_in(victor)
    page.goto(f"/rounds/{round_.pk}/")
    expect(page.get_by_role("region", name="Timeline")).to_be_visible()
    expect(page.get_by_role("region", name="On participants' own data")).to_be_hidden()
