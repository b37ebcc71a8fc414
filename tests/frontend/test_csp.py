"""What our pages tell a browser to refuse, and that none of them needs what is refused."""

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from django.contrib import admin
from django.contrib.auth.models import User
from django.contrib.staticfiles import finders
from django.test import Client
from django.urls import reverse

pytestmark = pytest.mark.django_db

HOUSE = Path(__file__).resolve().parent.parent.parent
TEMPLATES = sorted(
    file for room in ("frontend", "fedserver") for file in (HOUSE / room / "templates").rglob("*")
)


def policy(client: Client, address: str) -> dict[str, str]:
    """The directives of a page's policy."""
    header = client.get(address)["Content-Security-Policy"]
    return dict(part.strip().partition(" ")[::2] for part in header.split(";"))


STRICT = {
    "default-src": "'self'",
    "script-src": "'self'",
    "style-src": "'self'",
    "img-src": "'self' data: blob:",
    "connect-src": "'self'",
    "object-src": "'none'",
    "base-uri": "'none'",
    "form-action": "'self'",
    "frame-ancestors": "'none'",
}


@pytest.mark.parametrize("address", ["/", "/sign-in/", "/admin/", "/nowhere/", "/healthz"])
def test_every_page_has_the_strict_policy(client: Client, address: str) -> None:
    assert policy(client, address) == STRICT


def test_the_pages_of_the_api_may_style_themselves_and_no_more(client: Client) -> None:
    styled = STRICT | {"style-src": "'self' 'unsafe-inline'"}
    assert policy(client, "/api/docs") == styled
    assert policy(client, "/api/redoc") == styled | {"worker-src": "'self' blob:"}


def test_nobody_may_frame_a_page_whom_the_frame_options_refuse(client: Client) -> None:
    answer = client.get("/sign-in/")
    assert answer["X-Frame-Options"] == "DENY"
    assert policy(client, "/sign-in/")["frame-ancestors"] == "'none'"


def test_other_headers_say_what_no_page_does(client: Client) -> None:
    answer = client.get("/sign-in/")
    assert answer["Referrer-Policy"] == "same-origin"
    assert answer["Cross-Origin-Opener-Policy"] == "same-origin"
    assert answer["X-Content-Type-Options"] == "nosniff"
    for device in ("camera", "microphone", "geolocation"):
        assert f"{device}=()" in answer["Permissions-Policy"]


def test_documents_for_programs_carry_no_policy(client: Client) -> None:
    answer = client.get("/api/v1/")
    assert "Content-Security-Policy" not in answer
    assert "Permissions-Policy" not in answer


async def test_the_headers_come_without_a_thread_too(async_client: Client) -> None:
    answer = await async_client.get("/nowhere/")  # type: ignore[misc]
    assert "script-src 'self'" in answer["Content-Security-Policy"]


class Inline(HTMLParser):
    """What a strict policy refuses: scripts and styles in the page, handlers and style attributes.

    A script that holds data (`type="application/json"`) is none.
    """

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        told = dict(attrs)
        is_code = tag == "script" and told.get("type", "") in ("", "module", "text/javascript")
        if tag == "style" or (is_code and "src" not in told):
            self.found.append(tag)
        self.found += [name for name in told if name == "style" or name.startswith("on")]
        places = (told.get(name) or "" for name in ("src", "href", "action"))
        self.found += [place for place in places if place.startswith("javascript:")]


@pytest.mark.parametrize("file", [file for file in TEMPLATES if file.is_file()], ids=str)
def test_no_template_of_ours_holds_what_the_policy_refuses(file: Path) -> None:
    html = re.sub(r"{[{%].*?[%}]}", "", file.read_text())
    assert Inline(html).found == []
    assert not re.search(r'(?:src|href)="(?:https?:)?//', html), "from elsewhere"


def test_the_admins_pages_hold_nothing_that_the_policy_refuses(client: Client, alice: User) -> None:
    client.force_login(alice)
    for model in admin.site._registry:
        page = f"admin:{model._meta.app_label}_{model._meta.model_name}"
        for address in (reverse(f"{page}_changelist"), reverse(f"{page}_add")):
            answer = client.get(address)
            assert Inline(answer.content.decode()).found == [], address


def test_a_picture_for_the_tab_is_found_where_browsers_look(client: Client) -> None:
    answer = client.get("/favicon.ico")
    assert answer.status_code in (200, 301, 302)
    if answer.status_code != 200:
        assert finders.find(answer["Location"].removeprefix("/static/"))


def test_swagger_gets_its_settings_from_a_file_of_their_own(client: Client) -> None:
    shown = client.get("/api/docs").content.decode()
    assert Inline(shown).found == []
    (script,) = re.findall(r'<script src="([^"]*\?script=[^"]*)"', shown)
    answer = client.get(script)
    assert answer["Content-Type"].startswith("application/javascript")
    assert "SwaggerUIBundle(" in answer.content.decode()
    assert Inline(client.get("/api/redoc").content.decode()).found == []
