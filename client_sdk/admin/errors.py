"""What a server refuses an operator, as a tree below the SDK's own.

ServerRefused                (client_sdk.errors: status, code, detail, field)
├── LoginRefused     401     the token is unknown or has expired
├── NotAllowed       403     the token's role may not do this
├── NotFound         404     there is nothing of this id
├── NotNow           409     not in this state: a run that is paused cannot be paused
└── Invalid          400/422 a value that makes no sense; `field` says which
"""

from __future__ import annotations

from client_sdk.errors import LoginRefused, ServerRefused

__all__ = ["Invalid", "LoginRefused", "NotAllowed", "NotFound", "NotNow", "typed"]


class NotAllowed(ServerRefused):
    """The role of the token's owner does not allow this."""


class NotFound(ServerRefused):
    """There is nothing of this id, slug or number."""


class NotNow(ServerRefused):
    """Its state, or that of something else, does not allow this now."""


class Invalid(ServerRefused):
    """A value makes no sense; `field` names it."""


_BY_STATUS: dict[int, type[ServerRefused]] = {
    400: Invalid,
    401: LoginRefused,
    403: NotAllowed,
    404: NotFound,
    409: NotNow,
    422: Invalid,
}


def typed(refused: ServerRefused) -> ServerRefused:
    """The operator's error of what was refused."""
    kind = _BY_STATUS.get(refused.status, type(refused))
    made = kind(refused.status, refused.code, refused.detail, refused.field)
    if refused.field:
        made.args = (f"{refused.field}: {refused.detail} [{refused.code}]",)
    return made
