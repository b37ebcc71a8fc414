"""People and their tokens in the admin: owners look after the one, everyone after their own."""

import re

import pytest
from django.contrib.auth.models import Group, User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from accounts.models import PersonalToken
from accounts.roles import Role, roles_of
from journal.models import Event
from tests.rounds.conftest import alice, bob, victor

__all__ = ["alice", "bob", "victor"]  # fixtures, lent by the rounds
pytestmark = pytest.mark.django_db


def signed_in(user: User) -> Client:
    browser = Client()
    browser.force_login(user)
    return browser


def form_of(person: User, *roles: Role, **changed: object) -> dict[str, object]:
    """The form of a person as the browser sends it."""
    groups = [Group.objects.get_or_create(name=role)[0].pk for role in roles]
    return {"username": person.username, "is_active": "on", "groups": groups} | changed


def test_alice_makes_bob_an_owner(alice: User, bob: User) -> None:
    address = reverse("admin:auth_user_change", args=[bob.pk])
    answer = signed_in(alice).post(address, form_of(bob, Role.OWNER, is_staff="on"))
    assert answer.status_code == 302, answer.context["adminform"].errors
    assert Role.OWNER in roles_of(User.objects.get(pk=bob.pk))


def test_a_page_asks_once_who_bob_is(bob: User) -> None:
    browser = signed_in(bob)
    with CaptureQueriesContext(connection) as asked:
        assert browser.get(reverse("admin:index")).status_code == 200
    assert sum("auth_group" in query["sql"] for query in asked) == 1


def test_the_list_of_people_names_their_roles(alice: User, bob: User, victor: User) -> None:
    shown = signed_in(alice).get(reverse("admin:auth_user_changelist")).content.decode()
    roles = re.findall(r'class="field-role">(\w+)<', shown)
    assert sorted(roles) == ["operator", "owner", "viewer"]


def test_who_is_deleted_takes_their_tokens_along(alice: User, bob: User) -> None:
    PersonalToken.objects.issue(bob, "notebook")
    address = reverse("admin:auth_user_delete", args=[bob.pk])
    assert "notebook" in signed_in(alice).get(address).content.decode()
    signed_in(alice).post(address, {"post": "yes"})
    assert not User.objects.filter(pk=bob.pk).exists()
    assert not PersonalToken.objects.exists()


def test_victor_makes_a_token_that_is_shown_once(victor: User) -> None:
    browser = signed_in(victor)
    form = {"label": "notebook", "expires_at_0": "", "expires_at_1": ""}
    answer = browser.post(reverse("admin:accounts_personaltoken_add"), form, follow=True)
    (secret,) = re.findall(r"fsu_[\w-]+", answer.content.decode())
    assert secret not in browser.get(answer.request["PATH_INFO"]).content.decode()
    line = Event.objects.get(kind="token.created")
    assert (line.actor, line.data["label"]) == ("victor", "notebook")


def test_victor_deletes_his_own_token_and_no_other(victor: User, bob: User) -> None:
    mine, _ = PersonalToken.objects.issue(victor, "mine")
    his, _ = PersonalToken.objects.issue(bob, "his")
    browser = signed_in(victor)
    address = reverse("admin:accounts_personaltoken_decide", args=["delete"])
    assert browser.post(f"{address}?row={his.pk}").status_code == 404
    answer = browser.post(f"{address}?row={mine.pk}", {"reason": "lost the laptop"}, follow=True)
    assert "is deleted" in answer.content.decode()
    assert list(PersonalToken.objects.all()) == [his]
    assert Event.objects.get(kind="token.deleted").reason == "lost the laptop"


def test_there_is_one_page_to_sign_in_on(victor: User) -> None:
    answer = Client().get("/admin/rounds/run/", follow=True)
    assert answer.request["PATH_INFO"] == reverse("frontend:sign-in")
    User.objects.filter(pk=victor.pk).update(is_staff=False)
    answer = signed_in(victor).get("/admin/", follow=True)
    assert answer.status_code == 403
    assert "not marked as staff" in answer.content.decode()
