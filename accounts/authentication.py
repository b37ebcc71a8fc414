"""How the API knows a person: a personal token, or the session of the admin and dashboard."""

from datetime import timedelta
from typing import Any

from django.utils import timezone
from rest_framework import authentication, exceptions
from rest_framework.request import Request

from accounts.models import PersonalToken, digest


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


class SessionAuthentication(authentication.SessionAuthentication):
    """The browser's session, with Django's protection against forged requests."""
