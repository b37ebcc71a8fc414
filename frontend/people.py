"""Signing in and out, and everyone's own profile with their personal tokens."""

from datetime import timedelta
from typing import Any

from django import forms
from django.conf import settings
from django.contrib import messages
from django.contrib.auth import views as auth
from django.contrib.auth.forms import AuthenticationForm
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import path, reverse, reverse_lazy
from django.utils import timezone
from django.utils.crypto import get_random_string
from django.utils.decorators import method_decorator
from rest_framework.throttling import BaseThrottle

from accounts import attempts
from accounts.address import address
from accounts.decisions import TOKEN
from accounts.models import PersonalToken
from accounts.roles import LADDER, Role, roles_of
from accounts.tokens import make_token
from frontend.decisions import DIALOG, decide
from frontend.page import page
from frontend.templatetags.fedserver import seconds
from journal import events

# --- Coming and going -------------------------------------------------------------------------

KNOWN, KNOWN_DAYS = "fedserver_known", 180  # a cookie: somebody has signed in here before
# One sentence for all that may be wrong: it tells nobody which names there are.
WRONG = "The name or the password is wrong, or the account is not active."


class SignInForm(AuthenticationForm):
    """A name and a password."""

    error_messages = {"invalid_login": WRONG, "inactive": WRONG}


class SignIn(auth.LoginView):
    """With a name and a password; then on to where one wanted to go, if that is a page of ours."""

    template_name = "frontend/sign_in.html"
    authentication_form = SignInForm
    next_page = "frontend:overview"
    redirect_authenticated_user = True

    def post(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        name = request.POST.get("username", "")
        who = name, address_of(request), known_browser(request, name)
        if wait := attempts.attempt(*who):
            return self._later(name, wait)
        form = self.get_form()
        if not form.is_valid():
            return self.form_invalid(form)
        attempts.forgive(*who)
        answer = self.form_valid(form)
        make_known(answer, name)
        return answer

    def _later(self, name: str, wait: int) -> HttpResponse:
        form = SignInForm(self.request, initial={"username": name[:150]})
        context = self.get_context_data(form=form, wait=seconds(wait))
        headers = {"Retry-After": str(wait)}
        return self.render_to_response(context, status=429, headers=headers)

    def get_context_data(self, **more: Any) -> dict[str, Any]:
        return super().get_context_data(
            address=address(self.request),
            first_owner=settings.FIRST_OWNER if settings.FIRST_OWNER.exists() else None,
            **more,
        )


def known_browser(request: HttpRequest, name: str) -> str:
    """By what a browser shows that somebody has signed in there as this name; empty if by nothing.

    It opens nothing: it only keeps others from using up the attempts that this browser has.
    """
    kept = timedelta(days=KNOWN_DAYS)
    shown = request.get_signed_cookie(KNOWN, "", salt=name.casefold(), max_age=kept)
    return str(shown)


def make_known(answer: HttpResponse, name: str) -> None:
    """Give the browser what `known_browser` looks for."""
    answer.set_signed_cookie(
        KNOWN,
        get_random_string(22),
        salt=name.casefold(),
        max_age=timedelta(days=KNOWN_DAYS),
        path=settings.SESSION_COOKIE_PATH,
        secure=settings.SESSION_COOKIE_SECURE,
        httponly=True,
        samesite="Lax",
    )


def address_of(request: Any) -> str:
    """Where a request comes from, through as many proxies as the settings say."""
    return BaseThrottle().get_ident(request) or ""


class SignOut(auth.LogoutView):
    """By POST only: nobody is signed out by an image of another site."""

    next_page = "frontend:sign-in"

    def post(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        user: int | None = request.user.pk
        answer = super().post(request, *args, **kwargs)
        if user is not None:
            events.recheck(user)  # pages that are still open hear nothing more
        return answer


@method_decorator(page(), name="dispatch")
class ChangePassword(auth.PasswordChangeView):
    """One's own password. Other browsers that are signed in as oneself are signed out."""

    template_name = "frontend/change_password.html"
    success_url = reverse_lazy("frontend:profile")

    def form_valid(self, form: Any) -> HttpResponse:
        with events.transaction() as journal:
            answer = super().form_valid(form)
            journal.record("person.password_changed", actor=self.request.user.get_username())
        events.recheck(form.user.pk)
        messages.success(self.request, "Your password is changed.")
        return answer


# --- The profile ------------------------------------------------------------------------------

ALLOWS = {
    Role.VIEWER: "looks at everything: runs, rounds, models, participants and the journal; and "
    "tries models out.",
    Role.OPERATOR: "creates models and runs, starts, pauses and stops them, closes and cancels "
    "rounds, publishes and rolls back versions, makes join codes, and suspends or revokes "
    "participants.",
    Role.OWNER: "looks after people, too: who may sign in, and with which role.",
}


@page()
def profile(request: HttpRequest) -> HttpResponse:
    """Who one is here, what one may do, and one's personal tokens."""
    roles = roles_of(request.user)
    tokens = PersonalToken.objects.filter(user=request.user.pk).order_by("-created_at")
    now = timezone.now()
    context = {
        "roles": [(str(role), ALLOWS[role]) for role in LADDER if role in roles],
        "tokens": [(one, one.expires_at is not None and one.expires_at <= now) for one in tokens],
    }
    return render(request, "frontend/profile.html", context)


class TokenForm(forms.Form):
    """What a new token is for, and how long it is good."""

    label = forms.CharField(
        label="What it is for",
        max_length=100,
        help_text="For your own memory: the notebook, script or machine that uses it.",
    )
    days = forms.TypedChoiceField(
        label="How long it is good",
        coerce=int,
        initial=90,
        choices=[
            (7, "a week"),
            (30, "30 days"),
            (90, "90 days"),
            (365, "a year"),
            (0, "until it is deleted"),
        ],
    )


@page()
def new_token(request: HttpRequest) -> HttpResponse:
    """Ask what it is for, make it, and show it: this once, for only its digest is kept."""
    form = TokenForm(request.POST if request.method == "POST" else None)
    if form.is_bound and form.is_valid():
        days = form.cleaned_data["days"]
        token, secret = make_token(
            request.user,
            label=form.cleaned_data["label"],
            expires_at=timezone.now() + timedelta(days=days) if days else None,
            actor=request.user.get_username(),
        )
        api = address(request, reverse("run-list"))
        context = {"token": token, "secret": secret, "api": api}
        answer = render(request, "frontend/token_made.html", context)
        answer["Cache-Control"] = "no-store"
        return answer
    template = "token_form.html" if DIALOG in request.headers else "token_new.html"
    return render(request, f"frontend/{template}", {"form": form})


@page()
def delete_token(request: HttpRequest, pk: int) -> HttpResponse:
    """One's own; others' do not exist."""
    token = PersonalToken.objects.select_related("user").filter(pk=pk, user=request.user.pk).first()
    if token is None:
        raise Http404("Expected one of your own tokens.")
    back = reverse("frontend:profile")
    return decide(request, TOKEN["delete"], token, name=f"The token {token.label}", back=back)


urlpatterns = [
    path("sign-in/", SignIn.as_view(), name="sign-in"),
    path("sign-out/", SignOut.as_view(), name="sign-out"),
    path("profile/", profile, name="profile"),
    path("profile/password/", ChangePassword.as_view(), name="change-password"),
    path("profile/tokens/new/", new_token, name="token-new"),
    path("profile/tokens/<int:pk>/delete/", delete_token, name="token-delete"),
]
