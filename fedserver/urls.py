"""Where each address leads."""

from django.contrib import admin
from django.urls import include, path
from drf_spectacular.views import SpectacularAPIView

from fedserver import docs, views

admin.site.site_header = admin.site.site_title = "fedserver"
admin.site.index_title = "Everything there is"

urlpatterns = [
    path("", include("frontend.urls")),
    path("healthz", views.healthz, name="healthz"),
    path("favicon.ico", views.favicon),
    path("admin/", admin.site.urls),
    path("api/v1/", include("rounds.api.urls")),
    path("api/v1/", include("models_app.api.urls")),
    path("api/schema", SpectacularAPIView.as_view(), name="schema"),
    path("api/docs", docs.swagger, name="api-docs"),
    path("api/redoc", docs.redoc, name="api-redoc"),
]

handler404 = "fedserver.views.not_found"
handler500 = "fedserver.views.server_error"
