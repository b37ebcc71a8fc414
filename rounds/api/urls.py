"""The addresses of the API. Check-in, upload and download stand in front: see `doors.py`."""

from django.urls import path
from rest_framework.routers import SimpleRouter

from rounds.api import evaluations, operator_views
from rounds.api import participant_views as participant

router = SimpleRouter(trailing_slash=False)
router.register("runs", operator_views.RunViewSet)
router.register("rounds", operator_views.RoundViewSet)
router.register(r"rounds/(?P<round_id>[0-9]{1,18})/assignments", operator_views.AssignmentViewSet)
router.register("participants", operator_views.ParticipantViewSet)
router.register("join-codes", operator_views.JoinCodeViewSet)
router.register(
    r"models/(?P<model_slug>[-a-zA-Z0-9_]+)/versions/(?P<number>[0-9]+|published)/evaluations",
    evaluations.EvaluationViewSet,
)
router.register("events", operator_views.EventViewSet)

urlpatterns = [
    path("", participant.ServiceView.as_view(), name="service"),
    path("enrol", participant.EnrolView.as_view(), name="enrol"),
    path("challenges", participant.ChallengeView.as_view(), name="challenges"),
    path("tokens", participant.TokenView.as_view(), name="tokens"),
    path("assignments/<int:pk>", participant.AssignmentView.as_view(), name="assignment"),
    path("assignments/<int:pk>/progress", participant.ProgressView.as_view(), name="progress"),
    path("assignments/<int:pk>/failure", participant.FailureView.as_view(), name="failure"),
    path("evaluations/<int:pk>/report", evaluations.ReportView.as_view(), name="evaluation-report"),
    path(
        "evaluations/<int:pk>/failure",
        evaluations.FailureView.as_view(),
        name="evaluation-failure",
    ),
    path("participants/me", participant.MeView.as_view(), name="me"),
    path("participants/me/rotate", participant.RotateView.as_view(), name="rotate"),
    *router.urls,
]
