"""Who may do what: every address that a browser can be sent to, asked by everyone.

`DOORS` is the table. An address without a line in it fails the first test; the API's own table is
in tests/rounds/api/test_who_may.py. Then everybody is followed through what they are shown: nobody
meets a link or a form that leads to a closed door.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Any
from urllib.parse import parse_qs, urljoin, urlsplit

import pytest
from django.conf import settings
from django.contrib import admin
from django.contrib.auth.models import User
from django.db import transaction
from django.test import Client
from django.urls import Resolver404, get_resolver, resolve, reverse
from pytest_django import DjangoDbBlocker

from accounts.models import PersonalToken
from accounts.roles import Role
from journal.models import Event
from models_app import decisions as of_models
from models_app.models import Model, ModelVersion
from rounds import decisions as of_rounds
from rounds.models import JoinCode, Run
from tests.browser import scene as scenes
from tests.rounds.conftest import person

pytestmark = pytest.mark.alike

# --- The people, and what they may meet -------------------------------------------------------

STRANGERS = ("a stranger", "somebody deactivated")
VIEWER, OPERATOR, OWNER = "a viewer", "an operator", "an owner"
PEOPLE = (*STRANGERS, VIEWER, OPERATOR, OWNER)

ANYBODY = frozenset(PEOPLE)
VIEWERS = frozenset({VIEWER, OPERATOR, OWNER})
OPERATORS = frozenset({OPERATOR, OWNER})
OWNERS = frozenset({OWNER})
NOBODY: frozenset[str] = frozenset()

Arguments = dict[str, Any]


@dataclass
class Cast:
    """The rows that addresses name, and the sessions of the people."""

    scene: scenes.Scene
    users: dict[str, User] = field(default_factory=dict)
    sessions: dict[str, str] = field(default_factory=dict)
    tokens: dict[str, int] = field(default_factory=dict)
    visits: dict[str, list["Visit"]] = field(default_factory=dict)

    def browser(self, who: str, *, careful: bool = False) -> Client:
        """A new browser with who's session in it; a careful one sends no forged forms."""
        client = Client(enforce_csrf_checks=careful)
        if who in self.sessions:
            client.cookies[settings.SESSION_COOKIE_NAME] = self.sessions[who]
        return client

    def token(self, who: str) -> int:
        return self.tokens.get(who, self.tokens[OWNER])


@dataclass(frozen=True)
class Door:
    """An address, and who may go through.

    Attributes:
        look: Who may open it.
        send: Who may send a form to it; the others are refused. None: nothing is to be sent, and
            whoever does changes nothing.
        at: What it names, as arguments of the address, for a person.
        query: What is asked there.
        form: What is sent.
    """

    look: frozenset[str]
    send: frozenset[str] | None = None
    at: Callable[[Cast, str], list[Arguments]] = lambda cast, who: [{}]
    query: Callable[[Cast, str], Arguments] = lambda cast, who: {}
    form: Arguments = field(default_factory=lambda: {"reason": "because"})


def verbs(
    decisions: dict[str, Any], rows: Callable[[Cast], list[Arguments]]
) -> Callable[[Cast, str], list[Arguments]]:
    """Every verb about a row."""
    return lambda cast, who: [rows(cast)[0] | {"verb": verb} for verb in decisions]


# --- The dashboard ----------------------------------------------------------------------------


def runs(cast: Cast) -> list[Arguments]:
    return [{"pk": run.pk} for run in Run.objects.order_by("pk")]


def rounds(cast: Cast) -> list[Arguments]:
    return [{"pk": cast.scene.training.pk}, {"pk": cast.scene.published.pk}]


def models(cast: Cast) -> list[Arguments]:
    return [{"slug": model.slug} for model in Model.objects.order_by("pk")]


def versions(cast: Cast) -> list[Arguments]:
    found = ModelVersion.objects.filter(model=cast.scene.digits)
    return [{"slug": "digits", "number": one.number} for one in found]


def participants(cast: Cast) -> list[Arguments]:
    return [{"uuid": cast.scene.uuid_of(name)} for name in ("charlie", "hanna", "ivan")]


def join_codes(cast: Cast) -> list[Arguments]:
    return [{"pk": code.pk} for code in JoinCode.objects.order_by("-pk")[:2]]


def of(rows: Callable[[Cast], list[Arguments]]) -> Callable[[Cast, str], list[Arguments]]:
    return lambda cast, who: rows(cast)


def own_token(cast: Cast, who: str) -> list[Arguments]:
    return [{"pk": cast.token(who)}]


PAGES = {
    "overview": Door(VIEWERS),
    # Signing in
    "sign-in": Door(ANYBODY, ANYBODY),
    "sign-out": Door(NOBODY, ANYBODY),
    "profile": Door(VIEWERS),
    "change-password": Door(VIEWERS, VIEWERS),
    "token-new": Door(VIEWERS, VIEWERS),
    "token-delete": Door(VIEWERS, VIEWERS, own_token),
    # Runs and rounds
    "runs": Door(VIEWERS),
    "run-new": Door(OPERATORS, OPERATORS),
    "run-preview": Door(OPERATORS),
    "run": Door(VIEWERS, at=of(runs)),
    "strategies": Door(VIEWERS),
    "run-history": Door(
        VIEWERS, at=lambda cast, who: [one | {"kind": "json"} for one in runs(cast)]
    ),
    "run-decide": Door(OPERATORS, OPERATORS, verbs(of_rounds.RUN, runs)),
    "round": Door(VIEWERS, at=of(rounds)),
    "round-decide": Door(OPERATORS, OPERATORS, verbs(of_rounds.ROUND, rounds)),
    # Models
    "models": Door(VIEWERS),
    "model-new": Door(OPERATORS, OPERATORS),
    "model": Door(VIEWERS, at=of(models)),
    "version": Door(VIEWERS, at=of(versions)),
    "version-decide": Door(
        OPERATORS, OPERATORS, verbs(of_models.VERSION | of_rounds.EVALUATION, versions)
    ),
    "try": Door(VIEWERS, VIEWERS, of(models)),
    # Participants
    "participants": Door(VIEWERS),
    "participant": Door(VIEWERS, at=of(participants)),
    "participant-decide": Door(OPERATORS, OPERATORS, verbs(of_rounds.PARTICIPANT, participants)),
    "join-code-new": Door(OPERATORS, OPERATORS),
    "join-code-decide": Door(OPERATORS, OPERATORS, verbs(of_rounds.JOIN_CODE, join_codes)),
    "join": Door(ANYBODY),
    # The journal
    "journal": Door(VIEWERS),
    "journal-news": Door(VIEWERS),
    "journal-export": Door(VIEWERS),
}

# --- The admin --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Powers:
    """Who may do what to rows of a table in the admin."""

    look: frozenset[str] = VIEWERS
    add: frozenset[str] = NOBODY
    change: frozenset[str] = NOBODY
    delete: frozenset[str] = NOBODY
    decide: frozenset[str] = NOBODY


POWERS = {
    "accounts_personaltoken": Powers(add=VIEWERS, decide=VIEWERS),
    "auth_user": Powers(OWNERS, add=OWNERS, change=OWNERS, delete=OWNERS),
    "journal_event": Powers(),
    "models_app_model": Powers(add=OPERATORS, change=OPERATORS),
    "models_app_modelversion": Powers(decide=OPERATORS),
    "rounds_assignment": Powers(),
    "rounds_checkin": Powers(),
    "rounds_evaluationreport": Powers(),
    "rounds_federatedevaluation": Powers(),
    "rounds_joincode": Powers(OPERATORS, add=OPERATORS, decide=OPERATORS),
    "rounds_participant": Powers(decide=OPERATORS),
    "rounds_participanttoken": Powers(),
    "rounds_round": Powers(decide=OPERATORS),
    "rounds_run": Powers(add=OPERATORS, decide=OPERATORS),
    "rounds_update": Powers(),
}
TABLES = {
    f"{model._meta.app_label}_{model._meta.model_name}": (model, room)
    for model, room in admin.site._registry.items()
}


def row_of(table: str, cast: Cast, who: str) -> Any:
    """A row that this person would see, if they see any."""
    if table == "accounts_personaltoken":
        return cast.token(who)
    row = TABLES[table][0]._default_manager.order_by("pk").last()
    assert row is not None, f"the scene has no {table}"
    return row.pk


def row(table: str) -> Callable[[Cast, str], list[Arguments]]:
    return lambda cast, who: [{"object_id": row_of(table, cast, who)}]


def asked(table: str) -> Callable[[Cast, str], list[Arguments]]:
    room: Any = TABLES[table][1]
    return lambda cast, who: [{"verb": verb} for verb in room.decisions or {"none": 0}]


def chosen(table: str) -> Callable[[Cast, str], Arguments]:
    return lambda cast, who: {"row": row_of(table, cast, who)}


def doors_of(table: str, powers: Powers) -> dict[str, Door]:
    """The pages of a table of the admin."""
    one = row(table)
    return {
        # What is sent to a list are its actions, which only lead on to the page that asks.
        f"{table}_changelist": Door(powers.look),
        f"{table}_add": Door(powers.add, powers.add),
        f"{table}_change": Door(powers.look, powers.change, one),
        f"{table}_history": Door(powers.look, at=one),
        f"{table}_delete": Door(powers.delete, powers.delete, one, form={"post": "yes"}),
        f"{table}_decide": Door(powers.decide, powers.decide, asked(table), chosen(table)),
    }


def an_old_address(table: str) -> str:
    """Of a row, as old versions of Django had it: leads on to the page for changing it."""
    label, _, name = table.rpartition("_")
    return f"admin/{label}/{name}/<path:object_id>/"


ADMIN = {
    "index": Door(VIEWERS),
    "app_list": Door(VIEWERS, at=lambda cast, who: [{"app_label": "rounds"}]),
    "password_change": Door(VIEWERS, VIEWERS),
    "password_change_done": Door(VIEWERS),
    "jsi18n": Door(VIEWERS),
    "auth_user_password_change": Door(
        OWNERS, OWNERS, lambda cast, who: [{"id": cast.scene.bob.pk}]
    ),
}
for _table, _powers in POWERS.items():
    ADMIN |= doors_of(_table, _powers)

TABLE = {
    **{f"frontend:{name}": door for name, door in PAGES.items()},
    **{f"admin:{name}": door for name, door in ADMIN.items()},
    "healthz": Door(ANYBODY),
    "api-docs": Door(ANYBODY),
    "api-redoc": Door(ANYBODY),
}
# What answers with no page: a picture, a document, ways on to other addresses, and what Django's
# admin offers to forms that ours do not have.
ELSEWHERE = {
    "favicon.ico",
    "schema",
    "admin:login",
    "admin:logout",
    "admin:autocomplete",
    "admin:view_on_site",
    "admin/(?P<url>.*)$",
    *(an_old_address(table) for table in POWERS),
}


def addresses(patterns: Any, path: str = "", space: str = "") -> Iterator[str]:
    """The names of all addresses but the API's; of one without a name, what it looks like."""
    for pattern in patterns:
        route = path + str(pattern.pattern)
        if route.startswith("api/v"):
            continue
        if hasattr(pattern, "url_patterns"):
            inner = f"{space}{pattern.namespace}:" if pattern.namespace else space
            yield from addresses(pattern.url_patterns, route, inner)
        else:
            yield f"{space}{pattern.name}" if pattern.name else route


SERVED = set(addresses(get_resolver().url_patterns))
DOORS = {name: door for name, door in TABLE.items() if name in SERVED}
DECIDING = [f"frontend:{name}" for name in PAGES if name.endswith("-decide")]

# --- The house, with everybody in it ----------------------------------------------------------


@pytest.fixture(scope="module")
def transactional_db(django_db_setup: None, django_db_blocker: DjangoDbBlocker) -> Iterator[None]:
    """The database for all tests of this file, which is then as it was before."""
    with django_db_blocker.unblock(), undone():
        yield


@pytest.fixture(scope="module")
def cast(transactional_db: None) -> Cast:
    """One scene for all these tests, none of which leaves a trace in it."""
    scene = scenes.make()
    cast = Cast(scene, {VIEWER: scene.victor, OPERATOR: scene.bob, OWNER: scene.alice})
    gone = person("greta", Role.OWNER)
    for who, user in {**cast.users, STRANGERS[1]: gone}.items():
        client = Client()
        client.force_login(user)
        cast.sessions[who] = client.cookies[settings.SESSION_COOKIE_NAME].value
        cast.tokens[who] = PersonalToken.objects.issue(user, "notebook")[0].pk
    User.objects.filter(pk=gone.pk).update(is_active=False)
    return cast


@contextmanager
def undone() -> Iterator[None]:
    """What is written in it is taken back."""
    with transaction.atomic():
        yield
        transaction.set_rollback(True)


def ways(name: str, cast: Cast, who: str, *, every: bool = False) -> list[str]:
    """The addresses behind a door, for a person: of every row, or of one for each verb."""
    door = DOORS[name]
    query = door.query(cast, who)
    found = door.at(cast, who)
    if not (every or "verb" in found[0]):
        found = found[:1]
    return [reverse(name, kwargs=arguments, query=query or None) for arguments in found]


def met(answer: Any) -> str:
    """How somebody was met, in a word."""
    location = answer.get("Location", "")
    if answer.status_code == 302 and location.startswith((SIGN_IN, ADMIN_SIGN_IN)):
        return "asked to sign in"
    if answer.status_code in (401, 403):
        return "refused"
    if answer.status_code >= 500:
        return "failed"
    return "not there" if answer.status_code in (404, 405) else "let in"


SIGN_IN = reverse("frontend:sign-in") + "?next="
ADMIN_SIGN_IN = reverse("admin:login") + "?next="


def expected(who: str, may: frozenset[str]) -> str:
    if who in may:
        return "let in"
    return "asked to sign in" if who in STRANGERS else "refused"


# --- What is shown ----------------------------------------------------------------------------


class Shown(HTMLParser):
    """Where the links and forms of a page lead."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.forms: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        told = {name: value or "" for name, value in attrs}
        if tag == "a" and "href" in told:
            self.links.append(told["href"])
        if tag == "form" and told.get("method", "get").lower() == "post":
            self.forms.append(told.get("action", ""))
        elif tag == "form":
            self.links.append(told.get("action", ""))
        if tag in ("button", "input") and "formaction" in told:
            self.forms.append(told["formaction"])


@dataclass(frozen=True)
class Visit:
    """Somebody has tried to open an address."""

    name: str
    who: str
    address: str
    met: str
    ways: tuple[tuple[str, str], ...] = ()  # what the page shows: (link or form, address)


def visits(cast: Cast, name: str) -> list[Visit]:
    """Everybody at a door, and at every row's page who may look; an owner's are an operator's."""
    if name not in cast.visits:
        may = DOORS[name].look - OWNERS
        cast.visits[name] = [
            visit(cast, name, who, address)
            for who in PEOPLE
            for address in ways(name, cast, who, every=who in may)
        ]
    return cast.visits[name]


def visit(cast: Cast, name: str, who: str, address: str) -> Visit:
    with undone():
        browser = cast.browser(who)
        browser.raise_request_exception = False
        answer = browser.get(address)
    found: list[tuple[str, str]] = []
    if "text/html" in answer.get("Content-Type", ""):
        shown = Shown(answer.content.decode())
        found += [("link", urljoin(address, to)) for to in shown.links]
        found += [("form", urljoin(address, to)) for to in shown.forms]
    return Visit(name, who, address, met(answer), tuple(found))


# --- The tests --------------------------------------------------------------------------------


def test_the_table_tells_of_every_address(transactional_db: None) -> None:
    assert set(TABLE) | ELSEWHERE == SERVED


def test_the_table_tells_of_every_table_of_the_admin() -> None:
    assert set(POWERS) == set(TABLES)


@pytest.mark.parametrize("name", DOORS)
def test_everybody_opens_what_they_may(name: str, cast: Cast) -> None:
    door = DOORS[name]
    for visit in visits(cast, name):
        if door.look:
            assert visit.met == expected(visit.who, door.look), visit
        else:  # nothing is ever to be seen here
            assert visit.met != "let in", visit


@pytest.mark.parametrize("name", DOORS)
def test_everybody_sends_what_they_may(name: str, cast: Cast) -> None:
    door = DOORS[name]
    lines = Event.objects.count()
    for who in PEOPLE if door.send else (STRANGERS[0], VIEWER):
        for address in ways(name, cast, who):
            with undone():
                answer = cast.browser(who).post(address, door.form)
                if door.send is None or who not in door.send:
                    assert Event.objects.count() == lines, (who, address)
            if door.send:
                assert met(answer) == expected(who, door.send), (who, address)


@pytest.mark.parametrize("name", DOORS)
def test_nothing_is_taken_from_another_sites_form(name: str, cast: Cast) -> None:
    for address in ways(name, cast, OWNER)[:1]:
        with undone():
            answer = cast.browser(OWNER, careful=True).post(address, DOORS[name].form)
        assert met(answer) in ("refused", "not there"), address


def door_behind(address: str) -> str | None:
    """The name of the door that an address of ours leads to."""
    parts = urlsplit(address)
    if parts.scheme not in ("", "http") or parts.netloc not in ("", "testserver"):
        return None
    try:
        name = resolve(parts.path).view_name
    except Resolver404:
        return None if parts.path.startswith(settings.STATIC_URL) else f"nothing at {address}"
    return name if name in DOORS else None


@pytest.mark.parametrize("who", [VIEWER, OPERATOR, OWNER])
def test_nobody_is_shown_a_door_that_is_closed_to_them(who: str, cast: Cast) -> None:
    closed = {
        (visit.address, kind, address)
        for name in DOORS
        for visit in visits(cast, name)
        if visit.who == who and visit.met == "let in"
        for kind, address in visit.ways
        if not is_open(kind, address, who)
    }
    assert closed == set()


def is_open(kind: str, address: str, who: str) -> bool:
    name = door_behind(address)
    if name is None:
        return True
    # A list of the admin sends its actions to itself, and a page its changes; who has none is shown
    # such a form without a button.
    if kind == "form" and name.startswith("admin:") and name.endswith(("_changelist", "_change")):
        return True
    door = DOORS.get(name, Door(NOBODY))
    return who in (door.look if kind == "link" else door.send or NOBODY)


NOT_NOW = {"measure"}  # nobody has given the scene's models an evaluation set


@pytest.mark.parametrize("name", DECIDING)
def test_whoever_may_decide_is_shown_the_button(name: str, cast: Cast) -> None:
    every = {arguments["verb"] for arguments in DOORS[name].at(cast, OWNER)}
    assert verbs_shown(name, OPERATOR, cast) | NOT_NOW == every | NOT_NOW
    assert verbs_shown(name, VIEWER, cast) == set()


def verbs_shown(name: str, who: str, cast: Cast) -> set[str]:
    """The verbs that a person is shown a link to, on whatever page."""
    return {
        resolve(urlsplit(address).path).kwargs["verb"]
        for page in set(DOORS) - {name}
        for visit in visits(cast, page)
        if visit.who == who
        for kind, address in visit.ways
        if kind == "link" and door_behind(address) == name
    }


def test_who_is_no_staff_sees_the_dashboard_and_not_the_admin(cast: Cast) -> None:
    with undone():
        User.objects.filter(pk=cast.scene.bob.pk).update(is_staff=False)
        browser = cast.browser(OPERATOR)
        assert "/admin/" not in browser.get("/").content.decode()
        answer = browser.get("/admin/rounds/run/", follow=True)
        assert answer.status_code == 403
        assert "not marked as staff" in answer.content.decode()


def test_a_stranger_is_led_back_to_where_they_wanted_to_go(cast: Cast) -> None:
    with undone():
        answer = Client().get("/admin/rounds/run/?state__exact=running", follow=True)
    assert answer.request["PATH_INFO"] == reverse("frontend:sign-in")
    assert parse_qs(answer.request["QUERY_STRING"]) == {
        "next": ["/admin/rounds/run/?state__exact=running"]
    }
