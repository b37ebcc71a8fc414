"""Decisions: every button that changes something has an address of its own.

    GET   says what will happen and asks for the reason
    POST  calls the verb, and goes back with a sentence that says it is done

In a page it is a link with `data-dialog`: with JavaScript the form opens in a dialog, without it
the link leads to the same form as a page. What the verb refuses is said in the form, and nothing
has changed.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from django import forms
from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils.http import url_has_allowed_host_and_scheme

from accounts.roles import OPERATORS, Role, roles_of
from frontend.page import refuse
from models_app.errors import FedserverError

DIALOG = "Fedserver-Dialog"  # of a request: the form alone is wanted


@dataclass(frozen=True)
class Decision:
    """Something that people decide about a row.

    Attributes:
        label: On the button, a verb: "Pause".
        happens: What will happen, in a sentence.
        verb: Takes the row, `actor` and `reason`, beside what `form` asks for.
        done: What is said afterwards; `{row}` stands for the row.
        possible: Whether it can be decided now, for the buttons: the verb itself refuses too.
        roles: Who may decide it.
        danger: It ends or loses something: the button is red.
        reason: The reason must be given.
        form: Asks for more than the reason.
    """

    label: str
    happens: str
    verb: Callable[..., object]
    done: str
    possible: Callable[[Any], bool] = lambda row: True
    roles: tuple[Role, ...] = OPERATORS
    danger: bool = False
    reason: bool = False
    form: type[forms.Form] = forms.Form

    def bound(self, data: Any = None) -> forms.Form:
        """The form, with the reason as its last field."""
        form = self.form(data)
        form.fields["reason"] = forms.CharField(
            label="Why" if self.reason else "Why (may be left out)",
            help_text="It goes into the journal, with your name.",
            required=self.reason,
            max_length=1000,
            widget=forms.Textarea(attrs={"rows": 2}),
        )
        return form


def possible(
    decisions: dict[str, Decision], row: Any, roles: frozenset[str]
) -> dict[str, Decision]:
    """Those that these roles may take about the row as it stands: its buttons."""
    return {
        name: one
        for name, one in decisions.items()
        if not roles.isdisjoint(one.roles) and one.possible(row)
    }


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
            return redirect(back)
    template = "decision_form.html" if DIALOG in request.headers else "decision.html"
    context = {"decision": decision, "form": form, "name": name, "back": back}
    return render(request, f"frontend/{template}", context, status=status)
