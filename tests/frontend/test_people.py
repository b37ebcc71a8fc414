"""Signing in and out, profiles, passwords, personal tokens, and the pages of what goes wrong."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.conf import settings
from django.contrib.auth.models import User
from django.core.cache import cache
from django.test import Client
from django.utils import timezone

from accounts import attempts
from accounts.models import PersonalToken
from accounts.tokens import make_token
from frontend import people
from journal.models import Event

pytestmark = pytest.mark.django_db
PASSWORD = "correct horse battery"


@pytest.fixture
def quick_hashes(settings: Any) -> None:
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]


@pytest.fixture
def dora(quick_hashes: None, db: None) -> User:
    """A viewer with a password."""
    return User.objects.create_user("dora", password=PASSWORD)


@pytest.fixture
def no_attempts(settings: Any) -> Iterator[None]:
    """Counters of attempts in memory, and none yet."""
    settings.CACHES = {"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}}
    cache.clear()
    yield
    cache.clear()


def sign_in(name: str, password: str, *, following: str = "", address: str = "10.0.0.1") -> Any:
    form = {"username": name, "password": password, "next": following}
    return Client().post("/sign-in/", form, REMOTE_ADDR=address)


def at(user: User) -> Client:
    client = Client()
    client.force_login(user)
    return client


# --- Signing in -------------------------------------------------------------------------------


def test_dora_signs_in_and_lands_where_she_wanted_to_go(dora: User, no_attempts: None) -> None:
    assert sign_in("dora", PASSWORD)["Location"] == "/"
    assert (
        sign_in("dora", PASSWORD, following="/journal/?actor=bob")["Location"]
        == "/journal/?actor=bob"
    )


def test_who_is_not_signed_in_is_sent_to_do_so_and_comes_back(db: None) -> None:
    assert Client().get("/journal/?run=4")["Location"] == "/sign-in/?next=/journal/%3Frun%3D4"


@pytest.mark.parametrize(
    "elsewhere",
    [
        "https://evil.example/",
        "//evil.example/",
        "///evil.example",
        "/\\evil.example",
        "http:evil.example",
        "javascript:alert(1)",
        "\thttps://evil.example",
    ],
)
def test_next_never_leads_away_from_here(dora: User, no_attempts: None, elsewhere: str) -> None:
    assert sign_in("dora", PASSWORD, following=elsewhere)["Location"] == "/"


@pytest.mark.parametrize(
    ("name", "password"),
    [("dora", "wrong"), ("nobody", PASSWORD), ("dora", PASSWORD + " "), ("gone", PASSWORD)],
)
def test_a_refusal_does_not_say_what_was_wrong(
    dora: User, no_attempts: None, name: str, password: str
) -> None:
    User.objects.create_user("gone", password=PASSWORD, is_active=False)
    answer = sign_in(name, password)
    assert answer.status_code == 200
    assert answer.context["form"].non_field_errors() == [people.WRONG]
    assert "sessionid" not in answer.cookies


def test_the_page_says_how_to_get_an_account_and_how_participants_join(db: None) -> None:
    page = Client().get("/sign-in/").content.decode()
    assert "createsuperuser" in page
    assert "fedclient join http://testserver CODE" in page


def test_who_is_deactivated_is_out_at_once(dora: User) -> None:
    client = at(dora)
    assert client.get("/profile/").status_code == 200
    User.objects.filter(pk=dora.pk).update(is_active=False)
    assert client.get("/profile/")["Location"] == "/sign-in/?next=/profile/"


# --- Too many attempts ------------------------------------------------------------------------


def test_after_ten_wrong_passwords_a_name_has_to_wait(dora: User, no_attempts: None) -> None:
    for number in range(attempts.MOST["name"]):
        assert sign_in("dora", "wrong", address=f"10.0.0.{number}").status_code == 200
    answer = sign_in("dora", PASSWORD, address="10.9.9.9")
    assert answer.status_code == 429
    assert 0 < int(answer["Retry-After"]) <= attempts.WHILE
    assert "possible in" in answer.content.decode()
    assert sign_in("DORA", PASSWORD, address="10.9.9.9").status_code == 429
    assert sign_in("nobody", "wrong", address="10.9.9.9").status_code == 200


def test_an_address_that_tries_many_names_has_to_wait(dora: User, no_attempts: None) -> None:
    for number in range(attempts.MOST["address"]):
        assert sign_in(f"name {number}", "wrong").status_code == 200
    assert sign_in("dora", PASSWORD).status_code == 429
    assert sign_in("dora", PASSWORD, address="10.0.0.2").status_code == 302


def test_good_passwords_do_not_use_up_attempts(dora: User, no_attempts: None) -> None:
    for _ in range(attempts.MOST["address"] + 1):
        assert sign_in("dora", PASSWORD).status_code == 302


def test_nobody_is_shut_out_by_others_who_try_their_name(dora: User, no_attempts: None) -> None:
    def come_back(name: str, password: str) -> int:
        form = {"username": name, "password": password}
        return browser.post("/sign-in/", form, REMOTE_ADDR="10.0.0.1").status_code

    browser = Client()
    assert come_back("dora", PASSWORD) == 302
    del browser.cookies[settings.SESSION_COOKIE_NAME]
    User.objects.create_user("emil", password=PASSWORD)
    for number in range(attempts.MOST["name"]):
        for name in ("dora", "emil"):
            sign_in(name, "wrong", address=f"10.1.0.{number}")
    assert sign_in("dora", PASSWORD, address="10.0.0.2").status_code == 429
    assert come_back("emil", PASSWORD) == 429, "it is dora's browser, and not emil's"
    for _ in range(attempts.MOST["browser"]):
        assert come_back("Dora", "wrong") == 200
    assert come_back("dora", PASSWORD) == 429, "a known browser may not try for ever either"


def test_dora_gets_in_where_she_was_before_while_others_try(dora: User, no_attempts: None) -> None:
    browser, form = Client(), {"username": "dora", "password": PASSWORD}
    assert browser.post("/sign-in/", form).status_code == 302
    del browser.cookies[settings.SESSION_COOKIE_NAME]
    for number in range(attempts.MOST["name"]):
        sign_in("dora", "wrong", address=f"10.1.0.{number}")
    assert sign_in("dora", PASSWORD, address="10.0.0.2").status_code == 429
    assert browser.post("/sign-in/", form).status_code == 302


def test_the_wait_ends(dora: User, no_attempts: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempts, "WHILE", 1)
    monkeypatch.setattr(attempts, "MOST", {"name": 1, "address": 100})
    assert attempts.attempt("dora", "10.0.0.1") == 0
    assert attempts.attempt("dora", "10.0.0.1") == 1
    cache.clear()  # what a second does to them
    assert attempts.attempt("dora", "10.0.0.1") == 0


def test_the_counters_lie_in_the_broker(dora: User, valkey: str) -> None:
    for _ in range(attempts.MOST["name"]):
        sign_in("dora", "wrong")
    assert sign_in("dora", PASSWORD).status_code == 429
    assert attempts.attempt("dora", "10.0.0.1") > attempts.WHILE - 60


def test_an_operator_gets_in_while_the_broker_is_away(dora: User, settings: Any) -> None:
    away = {**settings.CACHES["default"], "LOCATION": "unix:///nowhere/valkey.sock"}
    settings.CACHES = {"default": away}
    assert sign_in("dora", PASSWORD).status_code == 302


def test_behind_a_proxy_the_address_is_the_visitors_own(
    dora: User, no_attempts: None, settings: Any
) -> None:
    settings.REST_FRAMEWORK = {**settings.REST_FRAMEWORK, "NUM_PROXIES": 1}
    for number in range(attempts.MOST["address"] + 1):
        form = {"username": f"name {number}", "password": "wrong"}
        visitor = {"X-Forwarded-For": f"1.2.3.4, 203.0.113.{number}"}
        assert Client().post("/sign-in/", form, headers=visitor).status_code == 200


# --- Signing out, and the password ------------------------------------------------------------


def test_victor_is_signed_out_by_post_only(victor: User) -> None:
    client = at(victor)
    assert client.get("/sign-out/").status_code == 405
    assert client.post("/sign-out/")["Location"] == "/sign-in/"
    assert client.get("/profile/").status_code == 302


def test_dora_changes_her_password_and_the_journal_tells_it(dora: User, no_attempts: None) -> None:
    here, elsewhere = at(dora), at(dora)
    new = {"new_password1": "a better one 77", "new_password2": "a better one 77"}
    refused = here.post("/profile/password/", {"old_password": "wrong", **new})
    assert refused.context["form"].errors["old_password"]
    answer = here.post("/profile/password/", {"old_password": PASSWORD, **new})
    assert answer["Location"] == "/profile/"
    assert here.get("/profile/").status_code == 200
    assert elsewhere.get("/profile/").status_code == 302
    assert sign_in("dora", "a better one 77").status_code == 302
    assert Event.objects.get(kind="person.password_changed").actor == "dora"


# --- The profile ------------------------------------------------------------------------------


def test_the_profile_says_what_ones_roles_allow(victor: User, bob: User, alice: User) -> None:
    for user, allowed in ((victor, 1), (bob, 2), (alice, 3)):
        answer = at(user).get("/profile/")
        assert len(answer.context["roles"]) == allowed
        assert f"/journal/?actor={user.username}" in answer.content.decode()


def test_only_staff_is_shown_the_way_to_the_admin(victor: User, dora: User) -> None:
    assert "/admin/" in at(victor).get("/profile/").content.decode()
    assert "/admin/" not in at(dora).get("/profile/").content.decode()


def test_a_token_is_shown_once_and_works(victor: User) -> None:
    client = at(victor)
    answer = client.post("/profile/tokens/new/", {"label": "notebook", "days": "30"})
    page, secret = answer.content.decode(), answer.context["secret"]
    assert answer["Cache-Control"] == "no-store"
    assert page.count(secret) == 3  # to be copied, with curl, with Python
    assert secret not in client.get("/profile/").content.decode()
    token = PersonalToken.objects.get(user=victor)
    assert token.expires_at is not None
    assert timedelta(days=29) < token.expires_at - timezone.now() <= timedelta(days=30)
    told = Client().get("/api/v1/runs", headers={"Authorization": f"Bearer {secret}"})
    assert told.status_code == 200
    line = Event.objects.get(kind="token.created")
    assert (line.actor, line.data["label"]) == ("victor", "notebook")
    assert secret not in str(line.data)


@pytest.mark.parametrize(
    "form", [{"label": "", "days": "30"}, {"label": "x" * 101, "days": "30"}, {"label": "x"}]
)
def test_a_token_that_makes_no_sense_is_not_made(victor: User, form: dict[str, str]) -> None:
    answer = at(victor).post("/profile/tokens/new/", form)
    assert answer.context["form"].errors
    assert not PersonalToken.objects.exists()


def test_a_token_may_be_good_until_it_is_deleted(victor: User) -> None:
    at(victor).post("/profile/tokens/new/", {"label": "robot", "days": "0"})
    assert PersonalToken.objects.get().expires_at is None


def test_victor_deletes_his_token_and_no_one_elses(victor: User, bob: User) -> None:
    token, secret = make_token(victor, label="notebook", actor="victor")
    address = f"/profile/tokens/{token.pk}/delete/"
    assert at(bob).get(address).status_code == 404
    assert at(bob).post(address).status_code == 404
    assert "It cannot be had back" in at(victor).get(address).content.decode()
    assert at(victor).post(address, {"reason": "lost"})["Location"] == "/profile/"
    told = Client().get("/api/v1/runs", headers={"Authorization": f"Bearer {secret}"})
    assert told.status_code == 401
    line = Event.objects.get(kind="token.deleted")
    assert (line.actor, line.reason, line.data) == ("victor", "lost", {"label": "notebook"})


def test_a_token_made_for_somebody_else_says_for_whom(victor: User) -> None:
    make_token(victor, label="notebook", actor="command line")
    assert Event.objects.get(kind="token.created").data["user"] == "victor"


def test_tokens_are_listed_with_when_they_were_used(
    victor: User, django_assert_num_queries: Any
) -> None:
    for number in range(5):
        make_token(victor, label=f"script {number}", actor="victor")
    expired = timezone.now() - timedelta(days=1)
    make_token(victor, label="old one", expires_at=expired, actor="victor")
    client = at(victor)
    with django_assert_num_queries(5):  # session, user, groups twice, tokens
        page = client.get("/profile/").content.decode()
    assert 'data-state="expired"' in page
    assert page.count("never") == 6


# --- What goes wrong --------------------------------------------------------------------------


def test_an_address_that_leads_nowhere_says_where_to_go(victor: User) -> None:
    answer = at(victor).get("/nowhere/")
    assert answer.status_code == 404
    assert 'href="/journal/"' in answer.content.decode()
    assert 'href="/sign-in/"' in Client().get("/nowhere/").content.decode()


def test_a_form_of_another_site_is_refused_in_words(dora: User) -> None:
    client = Client(enforce_csrf_checks=True)
    answer = client.post("/sign-in/", {"username": "dora", "password": PASSWORD})
    assert answer.status_code == 403
    assert "Nothing has been changed" in answer.content.decode()


def test_a_mistake_of_ours_has_a_page_that_needs_nothing(
    victor: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("a mistake")

    monkeypatch.setattr(people, "roles_of", broken)
    client = at(victor)
    client.raise_request_exception = False
    answer = client.get("/profile/")
    assert answer.status_code == 500
    assert "Something broke here" in answer.content.decode()
    assert "a mistake" not in answer.content.decode()
