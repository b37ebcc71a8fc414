"""Participants: who takes part, how well, and how they come in and are shown out."""

import base64
import functools
import hashlib
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import segno
from django import forms
from django.core.paginator import Paginator
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, render
from django.urls import path, reverse
from django.utils.choices import CallableChoiceIterator
from django.utils.crypto import get_random_string
from django.utils.safestring import SafeString, mark_safe
from django.views.decorators.cache import never_cache

from accounts.address import address
from accounts.decisions import possible
from accounts.roles import OPERATORS, Role, roles_of
from client_sdk import wire
from frontend import history_pictures, lines
from frontend.decisions import decide
from frontend.page import page, pages_beside, respond
from journal import events
from models_app import selectors as registry
from models_app.errors import FedserverError
from rounds import attendance, clock, enrolment, selectors
from rounds.decisions import JOIN_CODE, PARTICIPANT
from rounds.models import Assignment, JoinCode, Participant

PER_PAGE = 50
LINES = 6  # of the journal
ORDERS = {
    "name": "name",
    "seen": "last seen",
    "new": "newest",
    "rounds": "most rounds",
    "unreliable": "least reliable",
    "samples": "most samples",
}
ANY = "any"  # of models: those that are bound to none
EXPIRIES = {
    "hour": ("an hour", timedelta(hours=1)),
    "day": ("a day", timedelta(days=1)),
    "week": ("a week", timedelta(days=7)),
    "month": ("30 days", timedelta(days=30)),
}
EXACT = "exact"
INSTALL = """python3 -m venv venv
. venv/bin/activate
pip install "fedserver[client] @ git+ADDRESS-OF-THE-REPOSITORY"
""".strip()
PYTHON = """from client_sdk import Participant

participant = Participant.enrol(
    "{address}",
    "{code}",
)"""
KEYS = "join_code_keys"  # in the session: of forms that have not made a code yet
KEPT_KEYS = 20


# --- All of them ------------------------------------------------------------------------------


def _models() -> list[tuple[str, str]]:
    slugs = registry.models().prefetch_related(None).values_list("slug", flat=True)
    return [(slug, slug) for slug in slugs]


def _bound_to() -> list[tuple[str, str]]:
    return [("", "any or no model"), (ANY, "no model"), *_models()]


def _codes() -> list[tuple[str, str]]:
    codes = selectors.join_codes()[:100]
    return [("", "any"), *((str(code.pk), str(code)) for code in codes)]


class Filters(forms.Form):
    """What of the list is shown; it travels in the address."""

    q = forms.CharField(label="Name or id", required=False, max_length=100)
    state = forms.ChoiceField(
        label="State", required=False, choices=[("", "any"), *Participant.State.choices]
    )
    online = forms.ChoiceField(
        label="Online", required=False, choices=[("", "any"), ("yes", "online"), ("no", "offline")]
    )
    model = forms.ChoiceField(label="Bound to", required=False)
    code = forms.IntegerField(
        label="Came with", required=False, max_value=2**63 - 1, widget=forms.Select
    )
    order = forms.ChoiceField(label="Order", required=False, choices=list(ORDERS.items()))

    def __init__(self, data: Any, roles: frozenset[str]) -> None:
        super().__init__(data, label_suffix="")
        # Read when they are drawn, which a live part does not, and then once.
        self.fields["model"].choices = functools.cache(_bound_to)  # type: ignore[attr-defined]
        if Role.OPERATOR in roles:
            self.fields["code"].widget.choices = CallableChoiceIterator(functools.cache(_codes))
        else:
            del self.fields["code"]  # what codes there are is the operators' business

    def asked(self) -> dict[str, Any]:
        """As `find_participants` takes it; what makes no sense does not narrow."""
        self.full_clean()
        found = {name: value for name, value in self.cleaned_data.items() if value}
        told: dict[str, Any] = {"order": found.get("order", "name")}
        if "q" in found:
            told["search"] = found["q"].strip()
        if "online" in found:
            told["online"] = found["online"] == "yes"
        if "model" in found:
            told["model"] = "" if found["model"] == ANY else found["model"]
        told |= {"state": found["state"]} if "state" in found else {}
        return told | ({"join_code": found["code"]} if "code" in found else {})


@page()
def participants(request: HttpRequest) -> HttpResponse:
    """Everyone who has enrolled, and for operators the codes to enrol with."""
    roles = roles_of(request.user)
    filters = Filters(request.GET, roles)

    def build() -> dict[str, Any]:
        asked = filters.asked()
        shown = Paginator(selectors.find_participants(**asked), PER_PAGE).get_page(
            request.GET.get("page")
        )
        rows = list(shown)
        came_to = selectors.attendances(rows)
        return {
            "counts": selectors.participant_counts(),
            "rows": [(one, came_to[one.pk]) for one in rows],
            "shown": shown,
            "narrowed": len(asked) > 1,
            "others": pages_beside(request, shown),
            "codes": selectors.latest_join_codes() if Role.OPERATOR in roles else None,
        }

    return respond(request, "participants", build, form=filters)


# --- One of them ------------------------------------------------------------------------------


@page()
def participant(request: HttpRequest, uuid: UUID) -> HttpResponse:
    """Who it is, and what became of its rounds."""
    roles = roles_of(request.user)

    def build() -> dict[str, Any]:
        found = selectors.participant(uuid)
        shown = Paginator(selectors.rounds_of(found), PER_PAGE).get_page(request.GET.get("page"))
        rounds = list(shown)
        medians = selectors.median_norms([one.round_id for one in rounds])
        history = [_line(one, medians.get(one.round_id)) for one in rounds]
        return {
            "participant": found,
            "fingerprint": fingerprint(found.public_key),
            "came_to": selectors.attendances([found])[found.pk],
            "history": history,
            "pictures": history_pictures.of(history),
            "shown": shown,
            "others": pages_beside(request, shown),
            "journal": lines.tell(events.replay(0, participant=found.pk).reverse()[:LINES]),
            "decisions": possible(PARTICIPANT, found, roles),
        }

    return respond(request, "participant", build)


def fingerprint(public_key: str) -> str:
    """The key as people compare it, in the form that ssh shows."""
    digest = hashlib.sha256(wire.unb64(public_key)).digest()
    return "SHA256:" + base64.b64encode(digest).decode().rstrip("=")


def _line(one: Assignment, median: float | None) -> history_pictures.Line:
    update = getattr(one, "update", None)
    return history_pictures.Line(
        assignment=one,
        outcome=attendance.VOID if one.is_void else one.state,  # type: ignore[attr-defined]
        update=update,
        norm_ratio=update.norm / median if update and median else None,
        durations=attendance.durations(one),
    )


@page()
def decide_participant(request: HttpRequest, uuid: UUID, verb: str) -> HttpResponse:
    """Suspend, reinstate, revoke."""
    if verb not in PARTICIPANT:
        raise Http404(verb)
    found = selectors.participant(uuid)
    back = reverse("frontend:participant", args=[uuid])
    return decide(request, PARTICIPANT[verb], found, name=found.name, back=back)


# --- Join codes -------------------------------------------------------------------------------


class JoinCodeForm(forms.Form):
    """What a join code admits."""

    key = forms.CharField(widget=forms.HiddenInput)
    label = forms.CharField(
        label="For whom",
        required=False,
        max_length=100,
        help_text="A hospital, a school, a colleague: you will know the code by it.",
    )
    model = forms.ChoiceField(
        label="Model",
        required=False,
        choices=lambda: [("", "any model"), *_models()],
        help_text="Who comes with it trains this model only.",
    )
    max_uses = forms.IntegerField(
        label="How many participants it admits", min_value=1, max_value=1_000_000, initial=1
    )
    expires = forms.ChoiceField(
        label="Good for",
        choices=[*((name, words) for name, (words, _) in EXPIRIES.items()), (EXACT, "until …")],
        initial="week",
    )
    expires_at = forms.DateTimeField(
        label="Until (UTC)",
        required=False,
        widget=forms.DateTimeInput(attrs={"type": "datetime-local"}),
    )

    def clean(self) -> dict[str, Any]:
        given = self.cleaned_data
        if given.get("expires") == EXACT:
            if not given.get("expires_at") and "expires_at" not in self.errors:
                self.add_error("expires_at", "Say until when.")
        elif given.get("expires"):
            given["expires_at"] = clock.now() + EXPIRIES[given["expires"]][1]
        return given

    def make(self, user: Any) -> tuple[JoinCode, str] | None:
        """The code, or None: what the verb refuses is said at its field."""
        given = self.cleaned_data
        try:
            return enrolment.make_join_code(
                label=given["label"],
                model=registry.model(given["model"]) if given["model"] else None,
                max_uses=given["max_uses"],
                expires_at=given["expires_at"],
                actor=user.get_username(),
                user=user,
            )
        except FedserverError as error:
            self.add_error(error.field if error.field in self.fields else None, error.detail)
            return None


@never_cache  # no-store: no history, no proxy keeps the code
@page(read=OPERATORS)
def new_join_code(request: HttpRequest) -> HttpResponse:
    """Ask for whom, and show the code: in the answer to the form, and never again.

    A form makes one code: sent again, as by a reload of the answer, it makes no other.
    """
    keys: list[str] = request.session.get(KEYS, [])
    if request.method != "POST":
        key = get_random_string(22)
        request.session[KEYS] = [*keys[1 - KEPT_KEYS :], key]
        return _ask(request, JoinCodeForm(initial={"key": key}, label_suffix=""))
    form = JoinCodeForm(request.POST, label_suffix="")
    if (key := request.POST.get("key", "")) not in keys:
        return render(request, "frontend/join_code_gone.html", status=409)
    made = form.make(request.user) if form.is_valid() else None
    if made is None:
        return _ask(request, form, 400)
    request.session[KEYS] = [other for other in keys if other != key]
    return _show(request, *made)


def _ask(request: HttpRequest, form: JoinCodeForm, status: int = 200) -> HttpResponse:
    context = {"form": form}
    return render(request, "frontend/join_code.html", context, status=status)


def _show(request: HttpRequest, code: JoinCode, secret: str) -> HttpResponse:
    link = join_link(request, secret)
    context = {"code": code, "link": link, "qr": qr(link), **_server(request, secret)}
    return render(request, "frontend/join_code_made.html", context)


def _server(request: HttpRequest, code: str = "CODE") -> dict[str, Any]:
    """What to type where the data lie."""
    here = address(request)
    host = urlsplit(here).hostname or ""
    is_local = host in ("localhost", "127.0.0.1", "::1") or host.endswith(".localhost")
    return {
        "command": f"fedclient join {here} {code}",
        "python": PYTHON.format(address=here, code=code),
        "install": INSTALL,
        # Or the client will not speak to it.
        "needs_https": not (here.startswith("https:") or is_local),
    }


def join_link(request: HttpRequest, secret: str) -> str:
    """Where a participant is told how to use a code.

    The code is the fragment, which browsers keep to themselves: it is in no server's log.
    """
    return address(request, reverse("frontend:join")) + "#" + secret


def qr(text: str) -> SafeString:
    """A QR code as SVG: black on white with its quiet zone, for cameras know no dark theme."""
    picture = segno.make(text, micro=False, error="m")
    return mark_safe(picture.svg_inline(border=4, light="#fff", dark="#000", omitsize=True))  # noqa: S308


def join(request: HttpRequest) -> HttpResponse:
    """How to take part, for whoever was given a code; the page never tells us which."""
    return render(request, "frontend/join_code_use.html", _server(request))


@page(read=OPERATORS)
def decide_join_code(request: HttpRequest, pk: int, verb: str) -> HttpResponse:
    """Withdraw."""
    if verb not in JOIN_CODE:
        raise Http404(verb)
    code = get_object_or_404(selectors.join_codes(), pk=pk)
    name = f"join code “{code.label}”" if code.label else str(code)
    back = reverse("frontend:participants") + "#join-codes"
    return decide(request, JOIN_CODE[verb], code, name=name, back=back)


urlpatterns = [
    path("participants/", participants, name="participants"),
    path("participants/<uuid:uuid>/", participant, name="participant"),
    path("participants/<uuid:uuid>/<slug:verb>/", decide_participant, name="participant-decide"),
    path("join-codes/new/", new_join_code, name="join-code-new"),
    path("join-codes/<int:pk>/<slug:verb>/", decide_join_code, name="join-code-decide"),
    path("join/", join, name="join"),
]
