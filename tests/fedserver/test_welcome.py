"""The plain page at `/`, and the addresses beside it."""

import re
from pathlib import Path

import pytest
from django.contrib.staticfiles import finders
from django.test import Client

pytestmark = pytest.mark.django_db


def test_the_welcome_page_leads_everywhere(client: Client) -> None:
    shown = client.get("/").content.decode()
    links = re.findall(r'<a href="([^"]+)"', shown)
    assert links == ["/admin/", "/api/docs", "/api/redoc", "/api/schema"]
    for link in links:
        assert client.get(link, follow=True).status_code == 200, link
    assert "fedclient join http://testserver CODE" in shown


def test_the_welcome_page_would_pass_a_strict_content_security_policy(client: Client) -> None:
    shown = client.get("/").content.decode()
    assert "<script" not in shown
    assert "<style" not in shown
    assert not re.search(r"\s(style|on\w+)=", shown)
    (sheet,) = re.findall(r'<link rel="stylesheet" href="/static/([^"]+)"', shown)
    found = finders.find(sheet)
    assert found is not None
    assert "prefers-color-scheme: dark" in Path(found).read_text()


def test_load_balancers_are_answered(client: Client) -> None:
    assert client.get("/healthz").json() == {"status": "ok"}
