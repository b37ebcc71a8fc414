"""A run's strategy came from a package that is not installed any more: all can still be read."""

from collections.abc import Callable

import pytest
from django.contrib.auth.models import User
from django.test import Client

from models_app.models import Model
from rounds.models import Round, Run
from tests.rounds import doubles
from tests.rounds.conftest import Enrolled
from tests.rounds.test_lifecycle import started
from tests.rounds.updates import all_check_in, carry, upload

pytestmark = pytest.mark.django_db


@pytest.fixture
def round_(
    tiny_model: Model, enrolled: Callable[..., Enrolled], monkeypatch: pytest.MonkeyPatch
) -> Round:
    """The package goes while charlie and dora train, and they send what they have."""
    charlie, dora = enrolled("charlie"), enrolled("dora")
    with monkeypatch.context() as installed:
        doubles.add(installed)
        round_ = started(tiny_model, strategy="averaging", retries=0)
        all_check_in(charlie, dora)
    upload(charlie)
    upload(dora)
    return round_


def test_its_round_fails_with_the_sentence_that_says_so(round_: Round) -> None:
    failed = carry(round_)
    assert (failed.phase, failed.code) == (Round.Phase.FAILED, "aggregation_failed")
    assert "Received: 'averaging'" in failed.reason
    assert Run.objects.get(pk=round_.run_id).state == Run.State.FAILED


@pytest.mark.parametrize(
    "address",
    [
        "/",
        "/runs/",
        "/runs/{run}/",
        "/rounds/{round}/",
        "/runs/new/?like={run}",
        "/models/tiny/",
        "/participants/",
        "/journal/",
        "/strategies/",
        "/api/v1/runs/{run}",
        "/api/v1/runs/{run}/history",
        "/api/v1/rounds/{round}",
        "/admin/rounds/run/{run}/change/",
    ],
)
@pytest.mark.parametrize("failed", [False, True])
def test_alice_reads_every_page(
    round_: Round, alice: User, client: Client, address: str, failed: bool
) -> None:
    if failed:
        carry(round_)
    client.force_login(alice)
    answer = client.get(address.format(run=round_.run_id, round=round_.pk))
    assert answer.status_code == 200, answer.content
