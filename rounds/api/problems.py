"""Errors as RFC 9457 problem documents: the one handler of the API."""

import logging
from http import HTTPStatus
from typing import Any

from django.core.exceptions import PermissionDenied
from django.http import Http404
from rest_framework import exceptions
from rest_framework.response import Response
from rest_framework.views import exception_handler as framework_handler

from models_app.errors import FedserverError

logger = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"
# A mistake of ours: what it was, only the log tells.
SERVER_FAILED = {
    "type": "urn:fedserver:problem:server_error",
    "title": "The server failed",
    "status": 500,
    "detail": "The server made a mistake, and has noted it in its log.",
    "code": "server_error",
}


def document(error: FedserverError) -> dict[str, Any]:
    """The problem document of one of the house's errors."""
    problem: dict[str, Any] = {
        "type": f"urn:fedserver:problem:{error.code}",
        "title": error.title,
        "status": error.status,
        "detail": error.detail,
        "code": error.code,
    }
    if error.field is not None:
        problem["field"] = error.field
    return problem | error.extra


def headers(error: FedserverError) -> dict[str, str]:
    """The headers that go with the problem document of one of the house's errors."""
    found = {"WWW-Authenticate": 'Bearer realm="fedserver"'} if error.status == 401 else {}
    again = error.extra.get("retry_after")
    return found if again is None else found | {"Retry-After": str(again)}


def exception_handler(error: Exception, context: dict[str, Any]) -> Response | None:
    """What REST framework calls for every error of a view.

    Args:
        error: One of the house's, of Django's, or of REST framework's.
        context: The view and its request.

    Returns:
        The problem document; None for a mistake of ours, which then is a 500 and is logged.
    """
    if isinstance(error, FedserverError):
        return _render(document(error), error.status, headers(error))
    if isinstance(error, Http404):
        error = exceptions.NotFound()
    elif isinstance(error, PermissionDenied):
        error = exceptions.PermissionDenied()
    response = framework_handler(error, context)
    if response is None or not isinstance(error, exceptions.APIException):
        return response
    problem = _of_framework(error, response.status_code)
    return _render(problem, response.status_code, dict(response.items()))


def _of_framework(error: exceptions.APIException, status: int) -> dict[str, Any]:
    code = str(error.default_code)
    if isinstance(error.get_codes(), str):
        code = str(error.get_codes())
    problem: dict[str, Any] = {
        "type": f"urn:fedserver:problem:{code}",
        "title": _title(error, status),
        "status": status,
        "code": code,
    }
    if isinstance(error, exceptions.ValidationError):
        field, detail = _first(error.detail)
        problem |= {"detail": detail, "errors": error.detail}
        if field and field != "non_field_errors":
            problem["field"] = field
        return problem
    if isinstance(error, exceptions.Throttled):
        problem["retry_after"] = getattr(error, "wait", None)
    return problem | {"detail": str(error.detail)}


def _title(error: exceptions.APIException, status: int) -> str:
    """REST framework's sentence for this kind; some of them are templates and not for readers."""
    title = str(error.default_detail)
    return HTTPStatus(status).phrase if "{" in title else title


def _first(detail: Any) -> tuple[str, str]:
    """The first field that is wrong, with its message, in a tree of validation errors."""
    if isinstance(detail, dict):
        name, inner = next(iter(detail.items()))
        field, message = _first(inner)
        return (f"{name}.{field}" if field else str(name)), message
    if isinstance(detail, list):
        return _first(detail[0]) if detail else ("", "")
    return "", str(detail)


def _render(
    problem: dict[str, Any], status: int, headers: dict[str, str] | None = None
) -> Response:
    kept = {k: v for k, v in (headers or {}).items() if k in ("WWW-Authenticate", "Retry-After")}
    if status == 401:
        kept.setdefault("WWW-Authenticate", 'Bearer realm="fedserver"')
    return Response(problem, status=status, headers=kept, content_type=MEDIA_TYPE)
