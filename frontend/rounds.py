"""The round's cockpit: one round as it is, followed live, and what may be decided about it.

The page is not drawn again when something happens: it starts from the document that
`rounds.round_state` reads, and folds the events after it in the browser (`round.js`).
"""

from typing import Any

from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, render
from django.urls import path, reverse

from accounts.roles import roles_of
from frontend import advice, strategies
from frontend.decisions import decide
from frontend.page import page
from rounds.decisions import ROUND
from rounds.models import Round
from rounds.round_state import round_state

DRAWINGS = (
    *("assignments", "cockpit", "dom", "evaluation", "feed", "forecast", "making"),
    *("model", "numbers", "phases", "round_state", "scores", "sentences", "ticks", "timeline"),
    "verdicts",
)
# What the page imports, told at once: a browser finds each only in the one that imports it.
MODULES = (
    *(f"drawings/{name}.js" for name in DRAWINGS),
    "frontend/live.js",
)
_UUID, _ID = "00000000-0000-0000-0000-000000000000", 987654321


@page()
def round_page(request: HttpRequest, pk: int) -> HttpResponse:
    """A round: its phase, who is in it and how far, and what happened."""
    try:
        state = round_state(pk)
    except Round.DoesNotExist as error:
        raise Http404 from error
    roles = roles_of(request.user)
    strategy, options = state["run"]["strategy"], state["run"]["strategy_options"]
    context = {
        "state": state,
        "strategy": strategies.describe(strategy, options),
        "options": strategies.settings_of(strategy, options),
        "name": f"Round {state['round']['number']}",
        "decisions": {verb: one for verb, one in ROUND.items() if not roles.isdisjoint(one.roles)},
        "modules": MODULES,
        "setting": {"links": _links(state), "advice": advice.by_code()},
    }
    return render(request, "frontend/round.html", context)


def _links(state: dict[str, Any]) -> dict[str, str]:
    """Where the page leads: patterns with `{uuid}`, `{id}` or `{number}` to be filled in."""
    slug, pk = state["model"]["slug"], state["round"]["id"]
    patterns = {
        "participant": (reverse("frontend:participant", args=[_UUID]), _UUID, "{uuid}"),
        "round": (reverse("frontend:round", args=[_ID]), str(_ID), "{id}"),
        "version": (reverse("frontend:version", args=[slug, _ID]), str(_ID), "{number}"),
        "assignment": (
            reverse("assignment-detail", kwargs={"round_id": pk, "pk": _ID}),
            str(_ID),
            "{id}",
        ),
        "state": (reverse("round-state", args=[pk]), "", ""),
        "run": (reverse("frontend:run", args=[state["run"]["id"]]), "", ""),
    }
    return {name: url.replace(dummy, to) for name, (url, dummy, to) in patterns.items()}


@page()
def round_decide(request: HttpRequest, pk: int, verb: str) -> HttpResponse:
    """Close a round now, or cancel it."""
    if verb not in ROUND:
        raise Http404
    round_ = get_object_or_404(Round.objects.select_related("run"), pk=pk)
    name = f"Round {round_.number} of {round_.run.name}"
    return decide(
        request, ROUND[verb], round_, name=name, back=reverse("frontend:round", args=[pk])
    )


urlpatterns = [
    path("rounds/<int:pk>/", round_page, name="round"),
    path("rounds/<int:pk>/<slug:verb>/", round_decide, name="round-decide"),
]
