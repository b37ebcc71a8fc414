"""Two pages that belong to no room: a welcome, and the answer for load balancers."""

from django.db import connection
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import render
from django.urls import reverse


def welcome(request: HttpRequest) -> HttpResponse:
    """Where everything is, until the dashboard stands here."""
    address = request.build_absolute_uri(reverse("welcome")).removesuffix("/")
    return render(request, "fedserver/welcome.html", {"address": address})


def healthz(request: HttpRequest) -> JsonResponse:
    """200 when this process serves and reaches its database."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
    return JsonResponse({"status": "ok"})
