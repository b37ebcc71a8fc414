"""The dashboard's addresses: each area's file names its own."""

from frontend import journal, overview, participants, people, registry, rounds, runs, strategies

app_name = "frontend"
urlpatterns = [
    *journal.urlpatterns,
    *overview.urlpatterns,
    *participants.urlpatterns,
    *people.urlpatterns,
    *registry.urlpatterns,
    *rounds.urlpatterns,
    *runs.urlpatterns,
    *strategies.urlpatterns,
]
