"""Federated evaluations: the participants' two doors, and the operators'.

Of an evaluation nobody is shown more than how many have reported, until there is a summary; a
participant's own report is shown to nobody.
"""

from typing import Any

from django.db.models import QuerySet
from drf_spectacular.utils import (
    OpenApiParameter,
    OpenApiResponse,
    extend_schema,
    extend_schema_view,
)
from rest_framework import serializers, status
from rest_framework.decorators import action
from rest_framework.generics import get_object_or_404
from rest_framework.request import Request
from rest_framework.response import Response

from models_app import selectors as registry
from rounds import federated_evaluation, selectors, tasks
from rounds.api.operator_views import ReadViewSet, actor_of, decision
from rounds.api.participant_views import FailureSerializer, ParticipantView
from rounds.api.serializers import ReasonSerializer, StrictSerializer
from rounds.models import FederatedEvaluation

# --- Participants -----------------------------------------------------------------------------


class ReportSerializer(StrictSerializer):
    """What a participant measured; `rounds.evaluation_summary` knows the ranges."""

    samples = serializers.JSONField(help_text="held-out examples, from 1")
    metrics = serializers.JSONField(help_text="means over them by name, finite")
    classes = serializers.JSONField(
        required=False,
        allow_null=True,
        default=None,
        help_text="for each class of the model [examples, recognised], or null",
    )


class ReceiptSerializer(serializers.Serializer[Any]):
    evaluation = serializers.IntegerField()
    samples = serializers.IntegerField()
    reported_at = serializers.DateTimeField()


class ReportView(ParticipantView):
    """What a participant measured on its own held-out data: numbers, and nothing else."""

    @extend_schema(request=ReportSerializer, responses={200: ReceiptSerializer})
    def post(self, request: Request, pk: int) -> Response:
        given = ReportSerializer(data=request.data)
        given.is_valid(raise_exception=True)
        mine = federated_evaluation.report(self.participant(request), pk, **given.validated_data)
        tasks.ring_evaluation(mine.evaluation)
        receipt = {"evaluation": pk, "samples": mine.samples, "reported_at": mine.reported_at}
        return Response(ReceiptSerializer(receipt).data)


class FailureView(ParticipantView):
    """The participant cannot measure it, or its own limits forbid it; it is not asked again."""

    @extend_schema(request=FailureSerializer, responses={204: OpenApiResponse()})
    def post(self, request: Request, pk: int) -> Response:
        given = FailureSerializer(data=request.data)
        given.is_valid(raise_exception=True)
        code, detail = given.validated_data["reason"], given.validated_data["detail"]
        federated_evaluation.fail(self.participant(request), pk, code=code, reason=detail[:500])
        return Response(status=status.HTTP_204_NO_CONTENT)


# --- Operators --------------------------------------------------------------------------------


class WorstSerializer(serializers.Serializer[Any]):
    uuid = serializers.UUIDField()
    name = serializers.CharField()


class MetricSummarySerializer(serializers.Serializer[Any]):
    """One metric over participants."""

    mean = serializers.FloatField(help_text="weighted by samples")
    deviation = serializers.FloatField(
        help_text="of participants from the mean, weighted by samples, over all of them"
    )
    worst = serializers.FloatField()
    worst_participant = WorstSerializer()
    participants = serializers.IntegerField(help_text="that told this metric")
    smaller_is_better = serializers.BooleanField()


class ClassSummarySerializer(serializers.Serializer[Any]):
    """One class over participants; null where fewer than `minimum` have examples of it."""

    label = serializers.CharField()  # type: ignore[assignment]
    examples = serializers.IntegerField(allow_null=True)
    recognised = serializers.IntegerField(allow_null=True)
    participants = serializers.IntegerField(allow_null=True)


class SummarySerializer(serializers.Serializer[Any]):
    """What at least `minimum` participants measured."""

    participants = serializers.IntegerField()
    samples = serializers.IntegerField()
    metrics = serializers.DictField(child=MetricSummarySerializer())
    classes = ClassSummarySerializer(many=True, allow_null=True)

    def to_representation(self, instance: Any) -> Any:
        return instance or None


class EvaluationSerializer(serializers.ModelSerializer[FederatedEvaluation]):
    """A federated evaluation: how far it is, and its summary."""

    model = serializers.CharField(source="version.model.slug", read_only=True)
    version = serializers.IntegerField(source="version.number", read_only=True)
    reports = serializers.IntegerField(source="report_count", read_only=True)
    summary = SummarySerializer(
        read_only=True, allow_null=True, help_text="null until enough participants have reported"
    )

    class Meta:
        model = FederatedEvaluation
        fields = (
            "id",
            "model",
            "version",
            "round",
            "state",
            "reason",
            "goal",
            "minimum",
            "reports",
            "deadline",
            "summary",
            "created_by",
            "opened_at",
            "ended_at",
        )
        read_only_fields = fields


class NewEvaluationSerializer(ReasonSerializer):
    """An evaluation to be asked for."""

    goal = serializers.IntegerField(required=False, default=10, help_text="reports that end it")
    minimum = serializers.IntegerField(
        required=False, default=3, help_text="fewest of which anything is shown, from 2"
    )
    seconds = serializers.IntegerField(
        required=False, default=300, help_text="how long to wait for them"
    )


_OF_VERSION = [
    OpenApiParameter("model_slug", str, "path"),
    OpenApiParameter("number", str, "path", description="a number, or `published`"),
]
_ID = OpenApiParameter("id", int, "path")


@extend_schema_view(
    list=extend_schema(parameters=_OF_VERSION),
    retrieve=extend_schema(parameters=[*_OF_VERSION, _ID]),
)
class EvaluationViewSet(ReadViewSet):
    """Federated evaluations of a version, newest first."""

    queryset = FederatedEvaluation.objects.none()
    serializer_class = EvaluationSerializer
    filterset_fields = ("state",)
    ordering_fields = ("id", "opened_at", "ended_at")

    def get_queryset(self) -> QuerySet[FederatedEvaluation]:
        if getattr(self, "swagger_fake_view", False):
            return FederatedEvaluation.objects.none()
        return selectors.evaluations().filter(version=self._version())

    @extend_schema(
        parameters=_OF_VERSION,
        request=NewEvaluationSerializer,
        responses={201: EvaluationSerializer},
    )
    def create(self, request: Request, **_: str) -> Response:
        """Ask participants to evaluate this version on data of their own."""
        given = NewEvaluationSerializer(data=request.data)
        given.is_valid(raise_exception=True)
        asked = federated_evaluation.request(
            self._version(), actor=actor_of(request), **given.validated_data
        )
        return self._render(asked.pk, status.HTTP_201_CREATED)

    @extend_schema(
        parameters=[*_OF_VERSION, _ID],
        request=ReasonSerializer,
        responses={200: EvaluationSerializer},
    )
    @action(detail=True, methods=["post"])
    def cancel(self, request: Request, **_: str) -> Response:
        """End it without a summary; a round that waits for it goes on."""
        found = get_object_or_404(self.get_queryset(), pk=self.kwargs["pk"])
        tasks.ring_evaluation(federated_evaluation.cancel(found.pk, **decision(request)))
        return self._render(found.pk)

    def _version(self) -> Any:
        return registry.version(self.kwargs["model_slug"], self.kwargs["number"])

    def _render(self, pk: int, code: int = status.HTTP_200_OK) -> Response:
        return Response(EvaluationSerializer(selectors.evaluations().get(pk=pk)).data, code)
