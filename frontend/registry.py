"""Models, their versions, and trying them: what is served, where it came from, how good it is.

Not `models.py`: Django would take it for tables.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any
from uuid import UUID

from django.conf import settings
from django.contrib import messages
from django.db import connection
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import redirect, render
from django.urls import path, reverse

from accounts.roles import OPERATORS, roles_of
from frontend.decisions import Decision, decide, possible
from frontend.model_form import NewModelForm
from frontend.page import page, respond
from models_app import selectors, summary, tasks, trying
from models_app.decisions import VERSION
from models_app.errors import FedserverError, TryUnsupported
from models_app.evaluation import Confusion, by_the_server, class_labels, class_scores, worst_class
from models_app.models import Model, ModelVersion
from rounds import rules, usage
from rounds import selectors as rounds
from rounds.decisions import EVALUATION
from rounds.models import FederatedEvaluation
from rounds.round_state import evaluation_state

Stage = ModelVersion.Stage
SHOWN = 30  # versions of a table, before somebody asks for all
_BESIDE = 12  # classes whose matrix leaves room for something beside it
_NOBODY = UUID(int=0)
_IN_TABLE = ("publish", "reject", "roll-back")
_SERVING = ("publish", "roll-back")  # what changes which version is served


# --- Lists --------------------------------------------------------------------------------------


@page()
def models(request: HttpRequest) -> HttpResponse:
    """Every model with what it serves."""

    def build() -> dict[str, Any]:
        uses = usage.of_models()
        listed: Any = selectors.models()  # with `serving`, which no type knows
        rows = [
            {
                "model": model,
                "served": model.serving[0] if model.serving else None,
                "usage": uses.get(model.pk, usage.Usage()),
            }
            for model in listed
        ]
        return {"rows": rows}

    return respond(request, "models", build)


@page(read=OPERATORS)
def model_new(request: HttpRequest) -> HttpResponse:
    """Register a model from its files."""
    form = NewModelForm(request.POST or None, request.FILES or None, label_suffix="")
    if form.is_bound and form.is_valid() and (made := form.register(request.user.get_username())):
        messages.success(request, f"{made} is registered, and serves version 1.")
        return redirect("frontend:model", slug=made.slug)
    status = 422 if form.errors else 200
    return render(request, "frontend/model_new.html", {"form": form}, status=status)


# --- One model ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Line:
    """A version in a table: the row, its numbers, who made it, and what may be decided."""

    version: ModelVersion
    metrics: list[float | None]
    made_by: Any
    is_best: bool
    decisions: Mapping[str, Decision]


@page()
def model(request: HttpRequest, slug: str) -> HttpResponse:
    """What a model serves, where its versions came from, and what it is made of."""
    found, roles = selectors.model(slug), roles_of(request.user)

    def build() -> dict[str, Any]:
        versions = list(selectors.versions(slug))
        makers: dict[int | None, Any] = {made.version_id: made for made in usage.makers(found.pk)}
        served = next((one for one in versions if one.stage == Stage.PUBLISHED), None)
        names = _metric_names(versions)
        bests = usage.bests(found.pk)
        lines = [
            Line(
                version=one,
                metrics=[one.metrics.get(name) for name in names],
                made_by=makers.get(one.pk),
                is_best=one.pk in bests,
                decisions=_decisions(one, roles, _IN_TABLE),
            )
            for one in versions
        ]
        order = request.GET.get("order", "-number")
        shown = _ordered(lines, names, order)
        return {
            "model": found,
            "served": served,
            "waiting": [line for line in lines if line.version.stage == Stage.CANDIDATE][:3],
            "usage": usage.of_model(found.pk),
            "lineage": lineage(found, versions, makers),
            "columns": _columns(names, order),
            "names": names,
            "lines": shown if "all" in request.GET else shown[:SHOWN],
            "count": len(versions),
            "order": order,
        }

    frame = {
        "layers": summary.layers(found),
        "parameters": summary.parameters(found),
        "shape": summary.shape_words(found.input_spec["shape"]),
        "takes": trying.takes(found),
    }
    return respond(request, "model", build, **frame)


def lineage(
    model: Model, versions: Sequence[ModelVersion], makers: Mapping[int | None, Any]
) -> dict[str, Any]:
    """What the picture of a model's versions shows."""
    names = _metric_names(versions)
    return {
        "metric": next((name for name in ("accuracy", *names) if name in names), None),
        "versions": [
            {
                "number": one.number,
                "parent": one.parent.number if one.parent else None,
                "stage": one.stage,
                "origin": one.origin,
                "metrics": one.metrics,
                "made_by": _made_by(makers.get(one.pk)),
                "reason": one.reason,
                "href": reverse("frontend:version", args=(model.slug, one.number)),
            }
            for one in reversed(versions)
        ],
    }


def _made_by(made: Any) -> str:
    return f"round {made.number} of {made.run}" if made else ""


def _metric_names(versions: Sequence[ModelVersion]) -> list[str]:
    """The metrics that any version has: quality first, then the loss."""
    names = dict.fromkeys(name for one in versions for name in one.metrics)
    return sorted(names, key=lambda name: (name == "loss", name))


def _columns(names: Sequence[str], order: str) -> list[dict[str, str]]:
    """The sortable columns: their heading, their order, and how the table stands by them."""
    columns = []
    for key, title in [("number", "Version"), *((name, _title(name)) for name in names)]:
        way = {key: "ascending", f"-{key}": "descending"}.get(order, "none")
        columns.append(
            {"title": title, "way": way, "order": key if order == f"-{key}" else f"-{key}"}
        )
    return columns


def _title(name: str) -> str:
    return name.replace("_", " ").capitalize()


def _ordered(lines: Sequence[Line], names: Sequence[str], order: str) -> list[Line]:
    """The lines by a column; those without a value stand last, either way."""
    descending, key = order.startswith("-"), order.removeprefix("-")
    if key not in names:
        return sorted(lines, key=lambda line: line.version.number, reverse=order != "number")
    known = [line for line in lines if key in line.version.metrics]
    known.sort(key=lambda line: line.version.metrics[key], reverse=descending)
    return known + [line for line in lines if key not in line.version.metrics]


def _decisions(
    version: ModelVersion, roles: frozenset[str], names: Sequence[str] = tuple(VERSION)
) -> dict[str, Decision]:
    return possible({name: VERSION[name] for name in names}, version, roles)


# --- One version --------------------------------------------------------------------------------


@page()
def version(request: HttpRequest, slug: str, number: int) -> HttpResponse:
    """How good a version is, beside its parent and what is served, and whom it takes for whom."""

    def build() -> dict[str, Any]:
        found = selectors.version(slug, number)
        served = selectors.versions(slug).filter(stage=Stage.PUBLISHED).first()
        last = selectors.versions(slug).first()
        context = {
            "version": found,
            "model": found.model,
            "served": served,
            "made_by": usage.makers(found.model_id).filter(version=found).first(),
            "comparison": compared(found, served),
            "decisions": _decisions(found, roles_of(request.user)),
            "evaluation": _evaluation(found),
            "asking": possible(EVALUATION, found, roles_of(request.user)),
            "earlier": number - 1 if number > 1 else None,
            "later": number + 1 if last and number < last.number else None,
        }
        return context | (_confused(found.confusion, found.model.labels) if found.confusion else {})

    return respond(request, "version", build)


def _evaluation(found: ModelVersion) -> dict[str, Any]:
    """What participants measured of a version, as `evaluation.js` draws it."""
    asked = rounds.evaluations_of(found)
    done = asked.filter(state=FederatedEvaluation.State.DONE).first()
    latest = asked.first()
    somebody = reverse("frontend:participant", args=(_NOBODY,))
    return {
        "evaluation": evaluation_state(latest) if latest else None,
        "summary": done.summary if done else None,
        "metrics": by_the_server(found.metrics),
        "links": {"participant": somebody.replace(str(_NOBODY), "{uuid}")},
    }


def compared(found: ModelVersion, served: ModelVersion | None) -> list[dict[str, Any]]:
    """A version's metrics, each beside its parent's and the served version's."""
    return [
        {
            "name": _title(name),
            "value": found.metrics[name],
            "is_share": name == "accuracy",
            "parent": _against(found, found.parent, name),
            "served": _against(found, served, name) if served != found else None,
        }
        for name in _metric_names([found])
        if name in by_the_server(found.metrics)
    ]


def _against(found: ModelVersion, other: ModelVersion | None, name: str) -> dict[str, Any] | None:
    if other is None or name not in other.metrics:
        return None
    change = found.metrics[name] - other.metrics[name]
    better = -change if rules.smaller_is_better(name) else change
    word = "better" if better > 0 else "worse" if better < 0 else "the same"
    return {
        "number": other.number,
        "value": other.metrics[name],
        "change": change,
        "size": abs(change),
        "points": 100 * abs(change),
        "word": word,
    }


def _confused(counts: Confusion, labels: Sequence[str]) -> dict[str, Any]:
    scores = class_scores(counts, labels)
    known = [score for score in scores if score.samples]
    known.sort(key=lambda score: (score.accuracy or 0.0, score.label))
    bars = [
        {
            "label": score.label,
            "score": score.accuracy,
            "note": f"{score.correct} of {score.samples}",
        }
        for score in known
    ]
    return {
        "confusion": {
            "labels": class_labels(labels, len(counts)),
            "counts": counts,
        },
        "bars": {"scores": bars},
        "few": len(scores) <= _BESIDE,
        "worst": worst_class(scores),
        "examples": sum(score.samples for score in scores),
        "without": [score.label for score in scores if not score.samples],
    }


@page(write=OPERATORS)
def version_decide(request: HttpRequest, slug: str, number: int, verb: str) -> HttpResponse:
    """Publish, reject, roll back, or measure again."""
    decisions = VERSION | EVALUATION
    if verb not in decisions:
        raise Http404(f"Expected one of {', '.join(decisions)}. Received: {verb}")
    found, decision = selectors.version(slug, number), decisions[verb]
    served = request.GET.get("served", "")
    if verb in _SERVING and served:
        # Whoever decides has seen that version as the served one; should it be another by now,
        # nothing happens.
        expected = selectors.version(slug, served)
        decision = replace(decision, verb=partial(decision.verb, expected_served=expected))
    back = reverse("frontend:model", args=(slug,))
    if verb == "measure" or verb in EVALUATION:
        back = reverse("frontend:version", args=(slug, number))
    return decide(request, decision, found, name=str(found), back=back)


# --- Try it -------------------------------------------------------------------------------------


@page()
def try_it(request: HttpRequest, slug: str) -> HttpResponse:
    """Ask the served version about a photo, or about a row of numbers."""
    found = selectors.model(slug)
    if request.method == "POST":
        return _tried(request, found)
    context = {
        "model": found,
        "served": found.served,
        "takes": trying.takes(found),
        "shape": summary.shape_words(found.input_spec["shape"]),
        "count": found.input_spec["shape"][0] if len(found.input_spec["shape"]) == 1 else None,
        "megabytes": settings.MAX_PHOTO_BYTES // 2**20,
    }
    return render(request, "frontend/try.html", context)


def _tried(request: HttpRequest, model: Model) -> JsonResponse:
    """The answer of a worker, while the request waits in a thread of its own.

    The body is read here, for what Django makes of forms it may lay on the disk.
    """
    try:
        question = _question(request, model)
        if not connection.in_atomic_block:  # a test's own
            connection.close()  # twenty seconds are long for one that nobody uses
        answer = trying.ask(question, partial(tasks.ring, model_id=model.pk))
    except FedserverError as error:
        problem = {"code": error.code, "title": error.title, "detail": error.detail}
        return JsonResponse(problem | error.extra, status=error.status)
    return JsonResponse(answer, headers={"Cache-Control": "no-store"})


def _question(request: HttpRequest, model: Model) -> trying.Question:
    kind = request.content_type or ""
    if kind.startswith("image/"):
        content = request.read(settings.MAX_PHOTO_BYTES + 1)
        return trying.read_photo(content, invert="invert" in request.GET)
    if kind == "text/plain" and trying.takes(model) == "row":
        return trying.read_row(request.read(trying.ROW_BYTES).decode(errors="replace"), model)
    raise TryUnsupported(f"Expected a photo. Received: {kind or 'nothing'}")


urlpatterns = [
    path("models/", models, name="models"),
    path("models/new/", model_new, name="model-new"),
    path("models/<slug:slug>/", model, name="model"),
    path("models/<slug:slug>/try/", try_it, name="try"),
    path("models/<slug:slug>/versions/<int:number>/", version, name="version"),
    path(
        "models/<slug:slug>/versions/<int:number>/<slug:verb>/",
        version_decide,
        name="version-decide",
    ),
]
