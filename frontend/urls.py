"""The dashboard's addresses: each area's file names its own."""

from frontend import journal, overview, participants, people, rounds, runs

app_name = "frontend"
urlpatterns = [
    *journal.urlpatterns,
    *overview.urlpatterns,
    *participants.urlpatterns,
    *people.urlpatterns,
    *rounds.urlpatterns,
    *runs.urlpatterns,
]
