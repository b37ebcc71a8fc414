"""Personal tokens, made and deleted: both enter the journal."""

from datetime import datetime
from typing import Any

from accounts.models import PersonalToken
from journal import events


def make_token(
    user: Any, *, label: str, expires_at: datetime | None = None, actor: str
) -> tuple[PersonalToken, str]:
    """A new token, and its secret, which is nowhere to be had again.

    Args:
        user: As whom it acts.
        label: What uses it.
        expires_at: Until when it is good; None for as long as it is kept.
        actor: Who asks.
    """
    with events.transaction() as journal:
        token, secret = PersonalToken.objects.issue(user, label, expires_at)
        until: dict[str, Any] = {"expires_at": expires_at.isoformat()} if expires_at else {}
        journal.record(
            "token.created", actor=actor, label=label, **until, **_somebody_elses(user, actor)
        )
    return token, secret


def delete_token(token: PersonalToken, *, actor: str, reason: str = "") -> None:
    """It is worth nothing from now on. Once deleted, nothing happens."""
    with events.transaction() as journal:
        if PersonalToken.objects.filter(pk=token.pk).delete()[0]:
            journal.record(
                "token.deleted",
                actor=actor,
                reason=reason,
                label=token.label,
                **_somebody_elses(token.user, actor),
            )


def _somebody_elses(user: Any, actor: str) -> dict[str, Any]:
    """Whose it is, where that is not the one who acts."""
    return {} if user.get_username() == actor else {"user": user.get_username()}
