"""The three roles of people, each holding all that the one before it may do.

A viewer reads, an operator runs rounds and admits participants, an owner manages models too.
Everyone who can sign in is a viewer; the Django groups `operator` and `owner` give more, and a
superuser is an owner.
"""

from enum import StrEnum
from typing import Any


class Role(StrEnum):
    VIEWER = "viewer"
    OPERATOR = "operator"
    OWNER = "owner"
    PARTICIPANT = "participant"  # no person: a device or site, with a token of its own


VIEWERS = (Role.VIEWER,)
OPERATORS = (Role.OPERATOR,)
OWNERS = (Role.OWNER,)
LADDER = (Role.VIEWER, Role.OPERATOR, Role.OWNER)


def roles_of(user: Any) -> frozenset[str]:
    """All the roles that a request's user holds.

    Args:
        user: A Django user, an anonymous user, or a participant (which names its own `role`).

    Returns:
        Names of roles; empty for an anonymous or inactive user.
    """
    if role := getattr(user, "role", None):
        return frozenset({role})
    if not (user.is_authenticated and user.is_active):
        return frozenset()
    if user.is_superuser:
        return frozenset(LADDER)
    groups = set(user.groups.values_list("name", flat=True))
    highest = max((LADDER.index(role) for role in LADDER if role in groups), default=0)
    return frozenset(LADDER[: highest + 1])
