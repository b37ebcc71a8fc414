"""The one permission of the API: a view says which roles may read and which may write."""

from typing import Any

from rest_framework.permissions import SAFE_METHODS, BasePermission
from rest_framework.request import Request

from accounts.roles import OPERATORS, VIEWERS, roles_of


class HasRole(BasePermission):
    """Allows a request when its user holds a role that the view names.

    A view sets `read_roles` and `write_roles` (tuples of role names); without them viewers read
    and operators write. An action of a view may be stricter through `action_roles`, a mapping of
    action name to roles.
    """

    message = "Your role does not allow this."

    def has_permission(self, request: Request, view: Any) -> bool:
        allowed = allowed_roles(view, str(request.method))
        return not roles_of(request.user).isdisjoint(allowed)


def allowed_roles(view: Any, method: str) -> tuple[str, ...]:
    """The roles of which a user needs one, for a request of this method to this view."""
    if method in SAFE_METHODS:
        allowed = getattr(view, "read_roles", VIEWERS)
    else:
        allowed = getattr(view, "write_roles", OPERATORS)
    return getattr(view, "action_roles", {}).get(getattr(view, "action", None), allowed)
