"""What belongs to no room."""

import pytest
from django.test import Client


@pytest.mark.django_db
def test_load_balancers_are_answered(client: Client) -> None:
    assert client.get("/healthz").json() == {"status": "ok"}
