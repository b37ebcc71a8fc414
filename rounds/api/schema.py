"""The OpenAPI schema's additions: problem documents, and the doors in front of Django."""

from copy import deepcopy
from typing import Any, ClassVar

from django.conf import settings
from drf_spectacular.extensions import OpenApiAuthenticationExtension
from drf_spectacular.openapi import AutoSchema
from rest_framework.permissions import AllowAny

from accounts.permissions import allowed_roles
from accounts.roles import LADDER, Role

PROBLEM = {
    "type": "object",
    "description": "RFC 9457 problem document",
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "code": {"type": "string", "description": "stable, for programs"},
        "field": {"type": "string", "description": "what is at fault, where something is"},
    },
    "required": ["title", "status", "code"],
}
_PROBLEM_RESPONSE = {
    "description": "A problem document",
    "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
}
ERRORS = ("400", "401", "403", "404", "409", "429")


class ProblemAutoSchema(AutoSchema):
    """Declares the problem documents once, for every operation."""

    def get_operation(self, *args: Any, **kwargs: Any) -> dict[str, Any] | None:
        operation = super().get_operation(*args, **kwargs)
        if operation is not None:
            _summarise(operation)
            for status in ERRORS:
                operation["responses"].setdefault(status, _PROBLEM_RESPONSE)
        return operation


def _summarise(operation: dict[str, Any]) -> None:
    """Show the description's first sentence in lists of operations, and the rest below it."""
    description = " ".join(operation.pop("description", "").split())
    first, _, rest = description.partition(". ")
    if first:
        operation["summary"] = first.removesuffix(".")
    if rest:
        operation["description"] = description


class _RoleScheme(OpenApiAuthenticationExtension):
    """A way to sign in, offered where one of its roles may pass."""

    roles: ClassVar[frozenset[str]] = frozenset(LADDER)
    definition: ClassVar[dict[str, str]] = {"type": "http", "scheme": "bearer"}

    def get_security_definition(self, auto_schema: Any) -> dict[str, str]:
        return self.definition

    def get_security_requirement(self, auto_schema: Any) -> Any:
        view = auto_schema.view
        allowed = allowed_roles(view, auto_schema.method)
        if AllowAny in view.permission_classes or not self.roles.isdisjoint(allowed):
            return {self.name: []}
        return []


class ParticipantToken(_RoleScheme):
    target_class = "rounds.api.authentication.ParticipantTokenAuthentication"
    name = "participantToken"
    roles = frozenset({Role.PARTICIPANT})


class PersonalToken(_RoleScheme):
    target_class = "accounts.authentication.PersonalTokenAuthentication"
    name = "personalToken"


class Session(_RoleScheme):
    target_class = "accounts.authentication.SessionAuthentication"
    name = "session"
    definition: ClassVar = {"type": "apiKey", "in": "cookie", "name": settings.SESSION_COOKIE_NAME}


def add_doors(result: dict[str, Any], **_: Any) -> dict[str, Any]:
    """Describe what `doors.py` serves: Django does not see it, readers of the schema must."""
    result["components"].setdefault("schemas", {})["Problem"] = PROBLEM
    for path, methods in deepcopy(DOORS).items():
        for operation in methods.values():
            _summarise(operation)
            operation["security"] = [{"participantToken": []}]
            for status in (*ERRORS, "411", "413", "415", "422"):
                operation["responses"].setdefault(status, _PROBLEM_RESPONSE)
        result["paths"].setdefault(path, {}).update(methods)
    return result


def _json(description: str) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": {}}}}


_BYTES = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
DOORS: dict[str, dict[str, dict[str, Any]]] = {
    "/api/v1/check-in": {
        "post": {
            "operationId": "check_in",
            "tags": ["check-in"],
            "description": "What to do: an assignment, or when to come back. The answer waits up "
            "to `wait` seconds. `sdk` has the versions of the program (`version`, `wire`, "
            "`python`, `keras`, `backend`); what does not fit is a 403 `sdk_unsupported`. Who "
            "holds the WebSocket `/ws/participant/` open is told when asking makes sense.",
            "requestBody": {
                "content": {
                    "application/json": {
                        "schema": {
                            "type": "object",
                            "properties": {
                                "wait": {"type": "number", "minimum": 0, "maximum": 25},
                                "models": {"type": "array", "items": {"type": "string"}},
                                "sdk": {"type": "object"},
                                "evaluates": {"type": "boolean", "default": False},
                            },
                            "additionalProperties": False,
                        }
                    }
                }
            },
            "responses": {"200": _json('{"action": "train", …} or {"action": "wait", …}')},
        }
    },
    "/api/v1/assignments/{id}/update": {
        "put": {
            "operationId": "upload_update",
            "tags": ["assignments"],
            "description": "The update as safetensors; its signed manifest goes in two headers.",
            "parameters": [
                {"name": "id", "in": "path", "required": True, "schema": {"type": "integer"}},
                *(
                    {"name": name, "in": "header", "required": True, "schema": {"type": "string"}}
                    for name in ("Fedserver-Manifest", "Fedserver-Signature")
                ),
            ],
            "requestBody": {"required": True, "content": _BYTES},
            "responses": {"200": _json("The receipt: the update is durable")},
        }
    },
    "/api/v1/blobs/{sha256}": {
        "get": {
            "operationId": "download_blob",
            "tags": ["blobs"],
            "description": "Weights of a version, whole or a range of them.",
            "parameters": [
                {"name": "sha256", "in": "path", "required": True, "schema": {"type": "string"}}
            ],
            "responses": {"200": {"description": "A version's weights", "content": _BYTES}},
        }
    },
}
