"""The first page: what is going on, and what needs somebody."""

from typing import Any

from django.http import HttpRequest, HttpResponse
from django.urls import path

from frontend.page import page, respond


@page()
def overview(request: HttpRequest) -> HttpResponse:
    """Every model, every active run, and what needs attention."""

    def build() -> dict[str, Any]:
        return {}

    return respond(request, "overview", build)


urlpatterns = [path("", overview, name="overview")]
