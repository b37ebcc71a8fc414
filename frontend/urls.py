"""The dashboard's addresses: each area's file names its own."""

from frontend import overview, people, runs

app_name = "frontend"
urlpatterns = [
    *overview.urlpatterns,
    *people.urlpatterns,
    *runs.urlpatterns,
]
