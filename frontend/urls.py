"""The dashboard's addresses: each area's file names its own."""

from frontend import overview, people

app_name = "frontend"
urlpatterns = [
    *overview.urlpatterns,
    *people.urlpatterns,
]
