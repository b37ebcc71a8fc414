"""Two pages that belong to no room: a welcome, and the answer for load balancers."""

from django.db import connection
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import render


def welcome(request: HttpRequest) -> HttpResponse:
    """Where everything is, until the dashboard stands here."""
    return render(request, "fedserver/welcome.html")


def healthz(request: HttpRequest) -> JsonResponse:
    """200 when this process serves and reaches its database."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
    return JsonResponse({"status": "ok"})
