"""Decisions: every button that changes something has an address of its own.

    GET   says what will happen and asks for the reason
    POST  calls the verb, and goes back with a sentence that says it is done

In a page it is a link with `data-dialog`: with JavaScript the form opens in a dialog, without it
the link leads to the same form as a page. What the verb refuses is said in the form, and nothing
has changed.
"""

from typing import Any

from django.contrib import messages
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import render
from django.utils.http import url_has_allowed_host_and_scheme

from accounts.decisions import Decision, possible
from accounts.roles import roles_of
from frontend.page import refuse
from models_app.errors import FedserverError

__all__ = ["Decision", "decide", "possible"]
DIALOG = "Fedserver-Dialog"  # of a request: the form alone is wanted


def decide(
    request: HttpRequest, decision: Decision, row: Any, *, name: str, back: str
) -> HttpResponse:
    """Ask, or do it.

    Args:
        request: Of somebody who may look at the row.
        decision: What is decided.
        row: About what.
        name: What people call the row: "run 4, digits with fedavg".
        back: Where to go afterwards, unless `next` names an address of ours.
    """
    if roles_of(request.user).isdisjoint(decision.roles):
        return refuse(request, decision.roles)
    wished = request.GET.get("next", "")
    if url_has_allowed_host_and_scheme(wished, {request.get_host()}, request.is_secure()):
        back = wished
    form, status = decision.bound(request.POST if request.method == "POST" else None), 200
    if form.is_bound and form.is_valid():
        try:
            decision.verb(row, actor=request.user.get_username(), **form.cleaned_data)
        except FedserverError as error:
            form.add_error(error.field if error.field in form.fields else None, error.detail)
            status = error.status
        else:
            messages.success(request, decision.done.format(row=name))
            return HttpResponseRedirect(back)  # an address: `redirect` takes a word for a name
    template = "decision_form.html" if DIALOG in request.headers else "decision.html"
    context = {"decision": decision, "form": form, "name": name, "back": back}
    return render(request, f"frontend/{template}", context, status=status)
