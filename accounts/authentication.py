"""How the API knows a person: a personal token, or the session of the admin and dashboard."""

from datetime import timedelta
from importlib import import_module
from types import SimpleNamespace
from typing import Any

from django.conf import settings
from django.contrib.auth import get_user
from django.contrib.auth.models import AnonymousUser
from django.db.models import Q
from django.utils import timezone
from rest_framework import authentication, exceptions
from rest_framework.request import Request

from accounts.models import PersonalToken, digest
from accounts.roles import roles_of


def bearer(request: Request) -> str:
    """The bearer token of a request, or an empty string."""
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


class PersonalTokenAuthentication(authentication.BaseAuthentication):
    """`Authorization: Bearer fsu_…`, made with `manage.py personal_token` or in the admin."""

    def authenticate(self, request: Request) -> tuple[Any, PersonalToken] | None:
        secret = bearer(request)
        if not secret.startswith("fsu_"):
            return None
        now = timezone.now()
        token = PersonalToken.objects.select_related("user").filter(digest=digest(secret)).first()
        if token is None or not token.user.is_active:
            raise exceptions.AuthenticationFailed("This token is unknown.", "token_invalid")
        if token.expires_at and token.expires_at <= now:
            raise exceptions.AuthenticationFailed("This token has expired.", "token_expired")
        if token.last_used_at is None or token.last_used_at < now - timedelta(minutes=1):
            PersonalToken.objects.filter(pk=token.pk).update(last_used_at=now)
        return token.user, token

    def authenticate_header(self, request: Request) -> str:
        return 'Bearer realm="fedserver"'


def holder_of(secret: str) -> Any:
    """The person whose personal token this is, while it is good; nobody has no roles."""
    tokens = PersonalToken.objects.select_related("user").filter(digest=digest(secret))
    token = tokens.filter(Q(expires_at=None) | Q(expires_at__gt=timezone.now())).first()
    return token.user if token else AnonymousUser()


def roles_shown(secret: str, session_key: str) -> frozenset[str]:
    """The roles of the person whom a personal token or a session belongs to; empty for nobody.

    It is asked before a large body is read; who it is and what they may do, the view asks again.
    """
    if secret:
        return roles_of(holder_of(secret))
    store = import_module(settings.SESSION_ENGINE).SessionStore(session_key or None)
    return roles_of(get_user(SimpleNamespace(session=store)))  # type: ignore[arg-type]


class SessionAuthentication(authentication.SessionAuthentication):
    """The browser's session, with Django's protection against forged requests."""
