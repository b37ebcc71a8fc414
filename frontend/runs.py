"""Runs: the list, a run with its pictures, the wizard that creates one, and its history to keep."""

import csv
import dataclasses
import json
import pprint
import shlex
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from io import StringIO
from typing import Any

from django import forms
from django.contrib import messages
from django.core.paginator import Paginator
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.template.loader import render_to_string
from django.urls import path, reverse

from accounts.address import address
from accounts.roles import OPERATORS, roles_of
from frontend import advice, strategies
from frontend.decisions import decide, possible
from frontend.page import id_in, page, pages_beside, respond
from frontend.run_form import STEPS, RunForm, as_sent, questions, settings_of, write_span
from frontend.spreadsheet import harmless
from frontend.templatetags.fedserver import NOTHING
from journal import events
from models_app import selectors as registry
from models_app.errors import FedserverError
from models_app.evaluation import FEDERATED, by_participants
from rounds import attendance, lifecycle, preview, selectors, tasks
from rounds.decisions import RUN
from rounds.models import Run

PER_PAGE = 25
MOST_LINES = 100  # of the newest rounds, in the table
MOST_COMPARED = 5  # lines in one picture that can still be told apart
_CHOICES = {"selection": Run.Selection, "kind": Run.Kind}
ENDED = (Run.State.COMPLETED, Run.State.STOPPED, Run.State.FAILED)


def name_of(run: Run) -> str:
    """What people call a run; names need not be unique."""
    return f"{run.name} (run {run.pk})"


# --- The list ---------------------------------------------------------------------------------


@page()
def runs(request: HttpRequest) -> HttpResponse:
    """All runs, newest first, of one state or model if one is asked for."""
    state, model = request.GET.get("state", ""), request.GET.get("model", "")

    def build() -> dict[str, Any]:
        found = selectors.runs_with_rounds()
        found = found.filter(state=state) if state in Run.State.values else found
        found = found.filter(model__slug=model) if model else found
        shown = Paginator(found, PER_PAGE).get_page(request.GET.get("page"))
        accuracies = selectors.run_accuracies(list(shown))
        return {
            "shown": shown,
            "rows": [(run, accuracies[run.pk]) for run in shown],
            "filtered": bool(state or model),
            "others": pages_beside(request, shown),
        }

    def models() -> list[str]:
        return list(registry.models().values_list("slug", flat=True))

    return respond(
        request, "runs", build, states=Run.State.values, state=state, model=model, models=models
    )


# --- One run ----------------------------------------------------------------------------------


def _run(pk: int) -> Any:
    return get_object_or_404(selectors.runs_with_rounds(), pk=pk)


@page()
def run(request: HttpRequest, pk: int) -> HttpResponse:
    """A run: what it is set to do, where it stands, what became of its rounds."""
    compared = _compared(request, pk)
    read = cache(lambda: _run(pk))
    facts = cache(lambda: selectors.facts_for_preview(read()))

    def build() -> dict[str, Any]:
        shown = read()
        others = list(selectors.runs().filter(pk__in=compared)) if compared else []
        histories = selectors.run_histories([shown, *others])
        lines = histories[0]["rounds"]
        return {
            "run": shown,
            "round": shown.active[0] if shown.active else None,
            "decisions": possible(RUN, shown, roles_of(request.user)),
            "pictures": {"runs": histories},
            "best": histories[0]["best"],
            "waited": histories[0]["waited"],
            "buffered": shown.kind == Run.Kind.ASYNCHRONOUS,
            "lines": lines[::-1][:MOST_LINES],
            "more": max(0, len(lines) - MOST_LINES),
            "compared": others,
            "trouble": trouble(shown, lines),
            "warnings": warnings(shown, facts),
            "ended": shown.state in ENDED,
            "totals": totals(lines),
            "federated": federated(lines),
        }

    @cache
    def frame() -> dict[str, Any]:
        shown = read()
        return {
            "strategy": strategies.describe(shown.strategy, shown.strategy_options),
            "options": strategies.settings_of(shown.strategy, shown.strategy_options),
            "others": _comparable(shown),
            "sentences": preview.lines(shown, _lasting(shown, facts())),
            "rules": rules_of(shown),
            "compared_ids": compared,
        }

    return respond(request, "run", build, frame=frame)


def _compared(request: HttpRequest, pk: int) -> list[int]:
    """Ids of the runs that are asked for beside this one, each once."""
    asked = dict.fromkeys(map(id_in, request.GET.getlist("compare")))
    found = [one for one in asked if one is not None and one != pk]
    return found[:MOST_COMPARED]


def _comparable(run: Run) -> list[Run]:
    """The newest other runs that have begun, those of the same model first."""
    begun = selectors.runs().exclude(pk=run.pk).exclude(state=Run.State.DRAFT)
    return sorted(begun[:50], key=lambda one: (one.model_id != run.model_id, -one.pk))


def _lasting(run: Run, facts: preview.Facts) -> preview.Facts:
    """What is true of a run whenever it is looked at; for a draft also how things stand now."""
    if run.state == Run.State.DRAFT:
        return facts
    return dataclasses.replace(facts, version=None, enrolled=None)


def warnings(run: Run, read: Callable[[], preview.Facts]) -> list[str]:
    """What keeps a run that has not ended from doing what its rules say."""
    if run.state in ENDED:
        return []
    facts = read()
    if run.state != Run.State.DRAFT:
        facts = dataclasses.replace(facts, busy="")  # it is this run that keeps the model busy
    return preview.warnings(run, facts)


def trouble(run: Run, lines: Sequence[dict[str, Any]]) -> dict[str, str] | None:
    """Why the last round failed or the run did, and what to do about it; None if neither did."""
    ended = [line for line in lines if line["ended_at"]]
    last = ended[-1] if ended else None
    if last is None or last["phase"] != "failed":
        return {"reason": run.reason, "advice": ""} if run.state == Run.State.FAILED else None
    return {
        "round": last["number"],
        "id": last["id"],
        "reason": last["reason"],
        "advice": advice.for_round(last["code"]),
    }


def federated(lines: Sequence[dict[str, Any]]) -> list[tuple[str, str]]:
    """The metrics that participants measured of a run's versions, and what each is called."""
    found = {name for line in lines for name in by_participants(line["metrics"])}
    names = sorted(found, key=lambda name: (name.endswith("loss"), name))
    return [(name, name.removeprefix(FEDERATED).replace("_", " ").capitalize()) for name in names]


def totals(lines: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What all rounds of a run come to."""
    states = ("accepted", "quarantined", "rejected", "failed", "late", "lost", "withdrawn")
    counts = {
        state: sum(line["counts"][state] - line["void"].get(state, 0) for line in lines)
        for state in states
    }
    counts[attendance.VOID] = sum(sum(line["void"].values()) for line in lines)
    published = [line for line in lines if line["phase"] == "published"]
    return {
        "accuracy": published[-1]["accuracy"] if published else None,
        "loss": published[-1]["loss"] if published else None,
        "counts": counts,
        "others": [(attendance.word(one), counts[one]) for one in list(counts)[1:] if counts[one]],
        "seconds": sum(line["seconds"]["total"] or 0 for line in lines),
        "received": sum(line["bytes_received"] for line in lines),
        "sent": sum(line["bytes_sent_estimate"] for line in lines),
    }


def rules_of(run: Run) -> list[tuple[str, list[tuple[str, Any]]]]:
    """A run's rules as a table: the wizard's steps, and in each the labels and values."""
    settings, asked = settings_of(run), questions()
    table = []
    for step in STEPS:
        names = [name for name in step.names if name != "model"]
        if step.key == "strategy":
            names += [name for name in settings if name.startswith("options.")]
        rows = [(_label(asked, name), _said(name, settings[name])) for name in names]
        table.append((step.title, rows))
    return table


def _label(asked: Mapping[str, forms.Field], name: str) -> str:
    if name in asked:
        return str(asked[name].label)
    return strategies.label_of(name.rpartition(".")[2])


def _said(name: str, value: Any) -> Any:
    if value in (None, ""):
        return NOTHING
    if name.endswith("_seconds"):
        return write_span(value)
    if name in _CHOICES:
        return _CHOICES[name](value).label
    return value


@page(write=OPERATORS)
def run_decide(request: HttpRequest, pk: int, verb: str) -> HttpResponse:
    """Start, pause, resume or stop a run."""
    if verb not in RUN:
        raise Http404(verb)
    shown = _run(pk)
    back = reverse("frontend:run", args=[pk])
    return decide(request, RUN[verb], shown, name=name_of(shown), back=back)


# --- A history to keep ------------------------------------------------------------------------


@page()
def run_history(request: HttpRequest, pk: int, kind: str) -> HttpResponse:
    """The numbers of a run as a file: `json` as the API gives them, `csv` a line for each round."""
    if kind not in ("json", "csv"):
        raise Http404(kind)
    history = selectors.run_history(_run(pk))
    if kind == "json":
        answer: HttpResponse = JsonResponse(history, json_dumps_params={"indent": 2})
    else:
        answer = HttpResponse(as_csv(history), content_type="text/csv; charset=utf-8")
    answer["Content-Disposition"] = f'attachment; filename="run-{pk}-history.{kind}"'
    return answer


def as_csv(history: dict[str, Any]) -> str:
    """A run's history as a table: a line for each round, nested values as `seconds_training`."""
    metrics = sorted({name for line in history["rounds"] for name in line["participants"]})
    rows = [_flat(line, metrics) for line in history["rounds"]]
    file = StringIO()
    writer = csv.DictWriter(file, fieldnames=list(rows[0]) if rows else ["number"])
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


def _flat(line: dict[str, Any], metrics: Sequence[str]) -> dict[str, Any]:
    names = ("number", "id", "phase", "code", "base", "version", "accuracy", "loss", "samples")
    flat = {name: line[name] for name in names}
    flat |= {f"staleness_{name}": value for name, value in line["staleness"].items()}
    for metric in metrics:
        spread = line["participants"].get(metric, {})
        for part in ("mean", "min", "q1", "median", "q3", "max", "worst"):
            flat[f"participants_{metric}_{part}"] = spread.get(part)
    for group in ("counts", "seconds"):
        flat |= {f"{group}_{name}": value for name, value in line[group].items()}
    last = ("bytes_received", "bytes_sent_estimate", "opened_at", "ended_at", "reason")
    flat |= {name: line[name] for name in last}
    return {name: harmless(value) for name, value in flat.items()}


# --- The wizard -------------------------------------------------------------------------------


@page(read=OPERATORS)
def run_new(request: HttpRequest) -> HttpResponse:
    """Create a run, step by step, or as one long form where there is no JavaScript."""
    if request.method == "POST":
        form = RunForm(request.POST)
        made = None
        if form.is_valid() and "look" not in request.POST:
            made = _create(request, form, start="start" in request.POST)
        if made is not None:
            return redirect("frontend:run", made.pk)
    else:
        form = RunForm(initial=_prefilled(request))
    context = {"form": form, **_looked_at(request, form), "rollback": _rollback(request)}
    return render(request, "frontend/run_new.html", context, status=400 if form.errors else 200)


def _create(request: HttpRequest, form: RunForm, *, start: bool) -> Run | None:
    """The run, as the form asks for it; None if it is refused, and then nothing was made."""
    actor = request.user.get_username()
    try:
        with events.transaction():
            made = lifecycle.create_run(
                form.cleaned_data["model"], actor=actor, user=request.user, **form.settings()
            )
            if start:
                lifecycle.start_run(made.pk, actor=actor)
    except FedserverError as error:
        form.refuse(error.field, error.detail)
        return None
    if start:
        tasks.ring_run(made.pk)
    messages.success(request, f"{name_of(made)} {'is running' if start else 'is a draft'}.")
    return made


def _prefilled(request: HttpRequest) -> dict[str, Any]:
    """What the form begins with: the model that is named, or all of the run that is named."""
    like = id_in(request.GET.get("like", ""))
    found = selectors.runs().filter(pk=like).first() if like is not None else None
    if found is not None:
        return settings_of(found)
    return {"model": request.GET.get("model", "")}


def _rollback(request: HttpRequest) -> dict[str, Any] | None:
    """The older version that somebody wants to start from: it has to be served first."""
    slug, number = request.GET.get("model", ""), request.GET.get("version", "")
    if not slug or not number:
        return None
    version = registry.version(slug, number)
    served = registry.version(slug, "published")
    return None if version == served else {"version": version, "served": served}


@page(read=OPERATORS)
def run_preview(request: HttpRequest) -> HttpResponse:
    """What the fields as they stand would do: its page's script asks as somebody types."""
    form = RunForm(request.GET)
    form.is_valid()
    told = _looked_at(request, form)
    html = render_to_string("frontend/run_new_preview.html", told)
    return JsonResponse({"errors": form.errors, "html": html, "unable": told.get("unable", "")})


def _looked_at(request: HttpRequest, form: RunForm) -> dict[str, Any]:
    """The preview of a form, and the same request for programs."""
    if not form.is_bound:
        model = registry.models().filter(slug=form.initial.get("model", "")).first()
        if model is None:
            return {"lines": None}
        form = RunForm(as_sent(form.initial))
    if not form.is_valid() or form.run is None:
        return {"lines": None, "wrong": form.wrong() if form["model"].value() else []}
    facts = selectors.facts_for_preview(form.run)
    runs = address(request, reverse("run-list"))
    return {
        "lines": preview.lines(form.run, facts),
        "warnings": preview.warnings(form.run, facts),
        "unable": preview.unable(facts),
        "curl": as_curl(runs, form.request()),
        "python": as_python(runs, form.request()),
    }


def as_curl(address: str, body: dict[str, Any]) -> str:
    """The request that creates the run, for a shell."""
    return (
        f"curl --fail-with-body -X POST {shlex.quote(address)} \\\n"
        "  -H 'Authorization: Bearer YOUR_TOKEN' \\\n"
        "  -H 'Content-Type: application/json' \\\n"
        f"  -d {shlex.quote(json.dumps(body, ensure_ascii=False))}"
    )


def as_python(address: str, body: dict[str, Any]) -> str:
    """The request that creates the run and the one that starts it, for a notebook."""
    rules = pprint.pformat(body, sort_dicts=False, width=72)
    return (
        "import httpx\n\n"
        'api = httpx.Client(headers={"Authorization": "Bearer YOUR_TOKEN"})\n'
        f"runs = {address!r}\n"
        f"rules = {rules}\n"
        "run = api.post(runs, json=rules).raise_for_status().json()\n"
        "api.post(f\"{runs}/{run['id']}/start\").raise_for_status()\n"
        'print(run["id"])'
    )


urlpatterns = [
    path("runs/", runs, name="runs"),
    path("runs/new/", run_new, name="run-new"),
    path("runs/new/preview/", run_preview, name="run-preview"),
    path("runs/<int:pk>/", run, name="run"),
    path("runs/<int:pk>/history.<str:kind>", run_history, name="run-history"),
    path("runs/<int:pk>/<slug:verb>/", run_decide, name="run-decide"),
]
