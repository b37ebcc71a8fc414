"""A run in the middle of its life, and clients that speak for its people."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
from django.contrib.auth.models import User
from rest_framework.test import APIClient

from accounts.models import PersonalToken
from models_app.models import Model
from rounds import enrolment, lifecycle
from rounds.models import JoinCode, Round, Run
from tests.rounds.conftest import Enrolled
from tests.rounds.updates import all_check_in, carry, upload

Client = Callable[..., APIClient]


def bearing(token: str) -> APIClient:
    """A client that shows a token."""
    client = APIClient()
    client.credentials(HTTP_AUTHORIZATION=f"Bearer {token}")
    return client


@pytest.fixture
def client_of(db: None) -> Client:
    """`client_of(bob)`: a client with a token of a person or a participant; of nobody without."""

    def signed_in(who: User | Enrolled | None = None) -> APIClient:
        if who is None:
            return APIClient()
        if isinstance(who, Enrolled):
            return bearing(who.token)
        return bearing(PersonalToken.objects.issue(who, "test")[1])

    return signed_in


@dataclass
class Scene:
    """Charlie and dora have done the first of three rounds, and train in the second."""

    model: Model
    run: Run
    first: Round
    second: Round
    charlie: Enrolled
    dora: Enrolled
    code: JoinCode

    @property
    def assignment(self) -> int:
        """Charlie's, in the second round."""
        return self.second.assignments.get(participant=self.charlie.participant).pk


@pytest.fixture
def scene(tiny_model: Model, enrolled: Callable[..., Enrolled]) -> Scene:
    charlie, dora = enrolled("charlie"), enrolled("dora")
    code, _ = enrolment.make_join_code(label="for emil", model=tiny_model)
    run = lifecycle.create_run(tiny_model, name="autumn", rounds_planned=3, actor="bob")
    first = lifecycle.start_run(run.pk, actor="bob")
    all_check_in(charlie, dora)
    upload(charlie, samples=10)
    upload(dora, samples=20)
    carry(first)
    all_check_in(charlie, dora)
    return Scene(tiny_model, run, first, run.rounds.get(number=2), charlie, dora, code)
