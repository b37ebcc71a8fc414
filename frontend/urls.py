"""The dashboard's addresses: each area's file names its own."""

from frontend import overview, participants, people, runs

app_name = "frontend"
urlpatterns = [
    *overview.urlpatterns,
    *participants.urlpatterns,
    *people.urlpatterns,
    *runs.urlpatterns,
]
