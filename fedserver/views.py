"""What belongs to no room: the answer for load balancers, and two errors' pages."""

from typing import Any

from django.db import connection
from django.http import HttpRequest, HttpResponse, HttpResponsePermanentRedirect, JsonResponse
from django.templatetags.static import static
from django.views import defaults

from rounds.api import problems
from rounds.errors import NotFound


def healthz(request: HttpRequest) -> JsonResponse:
    """200 when this process serves and reaches its database."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
    return JsonResponse({"status": "ok"})


def favicon(request: HttpRequest) -> HttpResponse:
    """For what asks without looking at a page, such as the pages of the API."""
    return HttpResponsePermanentRedirect(static("frontend/icon.svg"))


def not_found(request: HttpRequest, exception: Exception) -> HttpResponse:
    """An address that leads nowhere: below the API a problem document, elsewhere a page."""
    if not _is_api(request):
        return defaults.page_not_found(request, exception)
    error = NotFound(f"Expected an address of the API. Received: {request.path:.200}")
    return _problem(problems.document(error))


def server_error(request: HttpRequest) -> HttpResponse:
    """A mistake of ours: below the API a problem document, elsewhere a page."""
    return _problem(problems.SERVER_FAILED) if _is_api(request) else defaults.server_error(request)


def _is_api(request: HttpRequest) -> bool:
    return request.path_info.startswith("/api/v")


def _problem(document: dict[str, Any]) -> JsonResponse:
    return JsonResponse(document, status=document["status"], content_type=problems.MEDIA_TYPE)
