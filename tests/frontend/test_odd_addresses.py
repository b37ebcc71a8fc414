"""Addresses that nobody typed: each gets an answer that says so, and none a server's mistake."""

from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client

from models_app.models import Model
from rounds import lifecycle
from rounds.models import Run

pytestmark = pytest.mark.django_db

HUGE, ENDLESS, NUL = str(2**63), "9" * 5000, "%00"


@pytest.fixture
def run(tiny_model: Model) -> Run:
    return lifecycle.create_run(tiny_model, actor="bob")


@pytest.fixture
def browser(bob: User) -> Client:
    client = Client(raise_request_exception=False)
    client.force_login(bob)
    return client


@pytest.mark.parametrize("value", [HUGE, ENDLESS, NUL, "-1", "%C2%B2", "%FF", "x"])
@pytest.mark.parametrize(
    "address",
    [
        "/?x={}",
        "/journal/?before={}",
        "/journal/?run={}",
        "/journal/?text={}",
        "/journal/export/?actor={}",
        "/participants/?code={}",
        "/participants/?q={}",
        "/participants/?page={}",
        "/runs/?model={}&state={}",
        "/runs/?page={}",
        "/runs/1/?compare={}",
        "/runs/new/?like={}",
        "/runs/new/?model=tiny&version={}",
        "/runs/new/?model={}",
        "/runs/new/preview/?model={}",
        "/runs/new/preview/?model=tiny&selecting_seconds={}&seed={}&name={}",
        "/models/tiny/?order={}",
        "/models/tiny/versions/1/publish/?served={}",
        "/models/tiny/versions/{}/",
        "/join-codes/{}/withdraw/",
        "/rounds/{}/",
    ],
)
def test_bob_gets_an_answer(browser: Client, run: Run, address: str, value: str) -> None:
    address = address.replace("/runs/1/", f"/runs/{run.pk}/").replace("{}", value)
    for headers in ({}, {"Fedserver-Live": "0"}):
        assert browser.get(address, headers=headers).status_code in (200, 302, 400, 404)


@pytest.mark.parametrize("wished", ["nowhere", "frontend:runs", "api-docs", "//evil.example"])
def test_a_decision_leads_to_addresses_and_not_to_names(
    browser: Client, run: Run, wished: str
) -> None:
    address: Any = f"/runs/{run.pk}/start/?next={wished}"
    answer = browser.post(address, {"reason": ""})
    assert answer.status_code == 302
    assert answer["Location"] in (wished, f"/runs/{run.pk}/")
    assert "evil" not in answer["Location"]
