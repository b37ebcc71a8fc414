"""What every page does: let the right people in, draw itself, and draw its live part again.

A page is a template with a live part of its own (`run.html` includes `run_live.html`). While it is
open, an event makes the browser ask for the live part alone, and says up to which event it has
heard. The answer is drawn once for all who watch the same page in the same role: database work does
not grow with the number of watchers, and nobody is shown a state older than what they heard.
"""

import hashlib
import re
import time
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any

import redis
from django.contrib.auth.views import redirect_to_login
from django.core.cache import cache
from django.core.exceptions import BadRequest
from django.core.paginator import Page
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import render
from django.template.loader import render_to_string

from accounts.roles import LADDER, VIEWERS, Role, roles_of
from journal import events
from models_app.errors import FedserverError

View = Callable[..., HttpResponse]
Drawn = tuple[int, float, str]  # the journal's head, the moment, the HTML
LIVE = "Fedserver-Live"  # of a request: the greatest event id that the page has heard of
FORGET = 60  # seconds that a drawn live part is kept
PATIENCE = 5  # seconds that one waits for another who draws the same


def page(*, read: tuple[Role, ...] = VIEWERS, write: tuple[Role, ...] | None = None) -> Any:
    """A view for people who are signed in and hold one of the roles.

    Args:
        read: Roles that may look.
        write: Roles that may send forms; the readers' when None.

    Returns:
        A decorator. Who is not signed in is sent to do so, who may not gets the page that says
        so, and a domain error of kind "not found" becomes the 404 page.
    """

    def decorate(view: View) -> View:
        @wraps(view)
        def guarded(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
            roles = roles_of(request.user)
            if not roles:
                return _sign_in(request)
            allowed = read if request.method in ("GET", "HEAD") else write or read
            if roles.isdisjoint(allowed):
                return refuse(request, allowed)
            if any("\0" in text for _, texts in request.GET.lists() for text in texts):
                raise BadRequest("Expected a text. Received: NUL, which PostgreSQL does not take")
            try:
                return view(request, *args, **kwargs)
            except FedserverError as error:
                if error.status == 404:
                    raise Http404(error.detail) from error
                raise

        return guarded

    return decorate


def _sign_in(request: HttpRequest) -> HttpResponse:
    if LIVE in request.headers:
        return HttpResponse(status=401)
    return redirect_to_login(request.get_full_path())


def refuse(request: HttpRequest, allowed: tuple[Role, ...]) -> HttpResponse:
    """The page that says which role is missing."""
    needed = min(allowed, key=LADDER.index)
    return render(request, "frontend/forbidden.html", {"needed": needed}, status=403)


def respond(
    request: HttpRequest,
    name: str,
    build: Callable[[], Mapping[str, Any]],
    **frame: Any,
) -> HttpResponse:
    """A page, or its live part alone if that is what the browser asks for.

    Args:
        request: Of somebody whom `page` has let in.
        name: Of the templates: `run` for `frontend/run.html` and `frontend/run_live.html`.
        build: Reads what the live part shows. It may depend on the address and the role only, and
            so does the live part's template: it has no `request`.
        **frame: What only the whole page shows.
    """
    if LIVE in request.headers:
        return _live_part(request, name, build)
    cursor = events.head()  # before anything is read: an event too many does no harm
    context = {**build(), **frame, "roles": roles_of(request.user), "cursor": cursor}
    return render(request, f"frontend/{name}.html", context)


def id_in(text: str) -> int | None:
    """The id that somebody wrote into an address; None for what no row can have."""
    fits = text.isascii() and text.isdecimal() and len(text) < 19
    return int(text) if fits else None


def pages_beside(request: HttpRequest, shown: Page[Any]) -> dict[str, str]:
    """The addresses of the pages of a list before and after this one."""
    numbers = {}
    if shown.has_previous():
        numbers["before"] = shown.previous_page_number()
    if shown.has_next():
        numbers["after"] = shown.next_page_number()
    addresses = {}
    for name, number in numbers.items():
        query = request.GET.copy()
        query["page"] = str(number)
        addresses[name] = "?" + query.urlencode()
    return addresses


def _live_part(
    request: HttpRequest, name: str, build: Callable[[], Mapping[str, Any]]
) -> HttpResponse:
    heard = id_in(request.headers[LIVE])
    if heard is None:
        return HttpResponse(status=400)
    roles = roles_of(request.user)

    def draw() -> Drawn:
        cursor, at = events.head(), time.time()
        context = {**build(), "roles": roles, "cursor": cursor}
        return cursor, at, render_to_string(f"frontend/{name}_live.html", context)

    since = time.time() - _oldest(request)
    try:
        cursor, _, html = _shared(_key(request, name, roles), heard, since, draw)
    except redis.RedisError:
        cursor, _, html = draw()
    return HttpResponse(html, headers={"Cache-Control": "no-store", LIVE: str(cursor)})


def _oldest(request: HttpRequest) -> int:
    """How many seconds ago it may have been drawn: some of it changes without an event."""
    found = re.fullmatch(r"max-age=([0-9]{1,4})", request.headers.get("Cache-Control", ""))
    return int(found[1]) if found else FORGET


def _key(request: HttpRequest, name: str, roles: frozenset[str]) -> str:
    highest = max(LADDER.index(Role(role)) for role in roles)
    seen = f"{name}\n{highest}\n{request.get_full_path()}"
    return "live:" + hashlib.sha256(seen.encode()).hexdigest()


def _shared(key: str, heard: int, since: float, draw: Callable[[], Drawn]) -> Drawn:
    """What somebody has drawn after that event and moment, or else what we draw for everybody."""
    give_up = time.monotonic() + PATIENCE
    while time.monotonic() < give_up:
        drawn: Drawn | None = cache.get(key)
        if drawn is not None and drawn[0] >= heard and drawn[1] >= since:
            return drawn
        if cache.add(key + ":drawing", True, PATIENCE):
            try:
                drawn = draw()
                cache.set(key, drawn, FORGET)
                return drawn
            finally:
                cache.delete(key + ":drawing")
        time.sleep(0.02)
    return draw()
