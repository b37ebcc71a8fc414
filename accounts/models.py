"""Personal tokens: what a person's scripts and notebooks show instead of a password."""

import hashlib
import secrets
from datetime import datetime
from typing import Any

from django.conf import settings
from django.db import models
from django.db.models.functions import Now


def digest(secret: str) -> str:
    """What is stored of a random secret: its SHA-256 (256 random bits need no slow hash)."""
    return hashlib.sha256(secret.encode()).hexdigest()


class PersonalTokenManager(models.Manager["PersonalToken"]):
    def issue(
        self, user: Any, label: str, expires_at: datetime | None = None
    ) -> tuple["PersonalToken", str]:
        """A new token of `user`; the secret is returned once and not stored."""
        secret = "fsu_" + secrets.token_urlsafe(32)
        token = self.create(user=user, label=label, digest=digest(secret), expires_at=expires_at)
        return token, secret


class PersonalToken(models.Model):
    """A bearer token that acts as its user, until it expires or is deleted."""

    user = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="personal_tokens"
    )
    label = models.CharField(max_length=100, help_text="what uses it, for your own memory")
    digest = models.CharField(max_length=64, unique=True, editable=False)
    created_at = models.DateTimeField(db_default=Now(), editable=False)
    expires_at = models.DateTimeField(null=True, blank=True)
    last_used_at = models.DateTimeField(null=True, blank=True, editable=False)

    objects = PersonalTokenManager()

    def __str__(self) -> str:
        return f"{self.label} ({self.user})"
