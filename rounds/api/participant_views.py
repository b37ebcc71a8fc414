"""The participants' doors that are not hot: enrolment, tokens, and the life of an assignment."""

from typing import Any

from django.utils import timezone
from drf_spectacular.utils import OpenApiResponse, extend_schema
from redis.exceptions import RedisError
from rest_framework import serializers
from rest_framework.permissions import AllowAny
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.throttling import ScopedRateThrottle
from rest_framework.views import APIView

from accounts.roles import Role
from rounds import enrolment, handshake, lifecycle, tasks
from rounds.api import documents
from rounds.api.serializers import ByNameField, SdkField, StrictSerializer
from rounds.models import Assignment, Participant

PARTICIPANTS = (Role.PARTICIPANT,)
REASON = r"^[a-z][a-z0-9_]*$"


class Throttle(ScopedRateThrottle):
    """REST framework's throttle, which lets everyone pass while its counter's store is away."""

    def allow_request(self, request: Request, view: APIView) -> bool:
        try:
            return super().allow_request(request, view)
        except RedisError:
            return True


class SdkSerializer(serializers.Serializer[Any]):
    oldest = serializers.CharField(help_text="the oldest version that is served")


class ServiceSerializer(serializers.Serializer[Any]):
    service = serializers.CharField()
    version = serializers.CharField(help_text="of the server")
    wire = serializers.ListField(
        child=serializers.IntegerField(), help_text="versions of the wire format that are spoken"
    )
    sdk = SdkSerializer()
    time = serializers.DateTimeField()


class ServiceView(APIView):
    """What is served here, and to whom: for a client that wants to know whether it fits."""

    permission_classes = (AllowAny,)
    authentication_classes = ()

    @extend_schema(responses={200: ServiceSerializer})
    def get(self, request: Request) -> Response:
        return Response(
            {
                "service": "fedserver",
                "version": documents.SERVER_VERSION,
                "wire": list(handshake.WIRES),
                "sdk": {"oldest": handshake.OLDEST_SDK},
                "time": timezone.now().isoformat(),
            }
        )


class EnrolSerializer(StrictSerializer):
    code = serializers.CharField(max_length=200)
    name = serializers.CharField(max_length=enrolment.NAME_LIMIT)
    public_key = serializers.CharField(max_length=43, min_length=43)
    signature = serializers.CharField(max_length=86, min_length=86)
    sdk = SdkField(required=False)


class EnrolledSerializer(serializers.Serializer[Any]):
    participant = serializers.UUIDField()
    name = serializers.CharField()
    model = serializers.CharField(allow_null=True)


class EnrolView(APIView):
    """A join code and a public key make a participant."""

    permission_classes = (AllowAny,)
    authentication_classes = ()
    throttle_classes = (Throttle,)
    throttle_scope = "enrol"

    @extend_schema(
        request=EnrolSerializer, responses={200: EnrolledSerializer, 201: EnrolledSerializer}
    )
    def post(self, request: Request) -> Response:
        given = EnrolSerializer(data=request.data)
        given.is_valid(raise_exception=True)
        handshake.check(given.validated_data.get("sdk", {}))
        participant, new = enrolment.enrol(**given.validated_data)
        answer = {
            "participant": str(participant.uuid),
            "name": participant.name,
            "model": participant.model.slug if participant.model else None,
        }
        return Response(answer, status=201 if new else 200)


class ChallengeSerializer(StrictSerializer):
    participant = serializers.UUIDField()


class ChallengeView(APIView):
    """Something fresh to sign."""

    permission_classes = (AllowAny,)
    authentication_classes = ()
    throttle_classes = (Throttle,)
    throttle_scope = "tokens"

    @extend_schema(
        request=ChallengeSerializer,
        responses={200: OpenApiResponse(description="challenge, expires_in (seconds)")},
    )
    def post(self, request: Request) -> Response:
        given = ChallengeSerializer(data=request.data)
        given.is_valid(raise_exception=True)
        challenge, seconds = enrolment.make_challenge(given.validated_data["participant"])
        return Response({"challenge": challenge, "expires_in": seconds})


class TokenSerializer(StrictSerializer):
    participant = serializers.UUIDField()
    challenge = serializers.CharField(max_length=1000)
    signature = serializers.CharField(max_length=86, min_length=86)


class TokenView(APIView):
    """A signed challenge buys a short-lived token."""

    permission_classes = (AllowAny,)
    authentication_classes = ()
    throttle_classes = (Throttle,)
    throttle_scope = "tokens"

    @extend_schema(
        request=TokenSerializer,
        responses={200: OpenApiResponse(description="token, expires_in (seconds)")},
    )
    def post(self, request: Request) -> Response:
        given = TokenSerializer(data=request.data)
        given.is_valid(raise_exception=True)
        told = given.validated_data
        token, seconds = enrolment.issue_token(
            told["participant"], told["challenge"], told["signature"]
        )
        return Response({"token": token, "expires_in": seconds})


class ParticipantView(APIView):
    """A door that only participants may pass."""

    read_roles = write_roles = PARTICIPANTS

    def participant(self, request: Request) -> Participant:
        participant: Participant = request.user.participant  # type: ignore[union-attr]
        return participant


class WithdrawalSerializer(StrictSerializer):
    reason = serializers.RegexField(REASON, max_length=64, default=lifecycle.WITHDRAWN)
    detail = serializers.CharField(max_length=500, allow_blank=True, default="")


ASSIGNMENT = OpenApiResponse(description="The assignment, with all that is needed to do it")


class AssignmentView(ParticipantView):
    """One of the participant's own assignments."""

    @extend_schema(responses={200: ASSIGNMENT})
    def get(self, request: Request, pk: int) -> Response:
        mine = lifecycle.own_assignment(self.participant(request), pk)
        return Response(documents.assignment(mine))

    @extend_schema(parameters=[WithdrawalSerializer], responses={204: None})
    def delete(self, request: Request, pk: int) -> Response:
        """Give the assignment back, undone. Operators see why, and the round asks no second time.

        A `reason` of the participant's own limits is one of `limit_cohort_at_least`,
        `limit_models`, `limit_rounds_per_day`, `limit_samples_at_least`, `limit_share_metrics`
        and `limit_seconds_per_round`; others are taken as they are.
        """
        given = WithdrawalSerializer(data=request.query_params.dict())
        given.is_valid(raise_exception=True)
        why = given.validated_data
        mine = lifecycle.withdraw(
            self.participant(request), pk, code=why["reason"], detail=why["detail"]
        )
        tasks.ring(mine.round_id)
        return Response(status=204)


class ProgressSerializer(StrictSerializer):
    activity = serializers.ChoiceField(choices=Assignment.Activity.choices)
    fraction = serializers.FloatField(min_value=0.0, max_value=1.0)
    epoch = serializers.IntegerField(min_value=0, max_value=10_000, required=False)
    epochs = serializers.IntegerField(min_value=1, max_value=10_000, required=False)
    metrics = ByNameField(child=serializers.FloatField(), required=False)


class ProgressView(ParticipantView):
    """How far the participant is."""

    @extend_schema(
        request=ProgressSerializer,
        responses={200: OpenApiResponse(description="state, seconds_left")},
    )
    def post(self, request: Request, pk: int) -> Response:
        given = ProgressSerializer(data=request.data)
        given.is_valid(raise_exception=True)
        mine = lifecycle.report(self.participant(request), pk, **given.validated_data)
        told = documents.assignment(mine)
        return Response({"state": told["state"], "seconds_left": told["seconds_left"]})


class FailureSerializer(StrictSerializer):
    reason = serializers.RegexField(REASON, max_length=64)
    detail = serializers.CharField(max_length=8000, allow_blank=True, required=False, default="")


class FailureView(ParticipantView):
    """The participant cannot do it, and says why.

    A reason that is one of its own limits (see DELETE) is no failure: it withdraws.
    """

    @extend_schema(request=FailureSerializer, responses={200: ASSIGNMENT})
    def post(self, request: Request, pk: int) -> Response:
        given = FailureSerializer(data=request.data)
        given.is_valid(raise_exception=True)
        code, detail = given.validated_data["reason"], given.validated_data["detail"]
        last_line = detail.strip().rpartition("\n")[2][:500]
        mine = lifecycle.fail(
            self.participant(request), pk, code=code, reason=last_line or code, detail=detail
        )
        tasks.ring(mine.round_id)
        return Response(documents.assignment(mine))


class RotateSerializer(StrictSerializer):
    public_key = serializers.CharField(max_length=43, min_length=43)
    signature = serializers.CharField(max_length=86, min_length=86)


class MeView(ParticipantView):
    """The participant itself."""

    @extend_schema(responses={200: OpenApiResponse(description="participant, name, model, state")})
    def get(self, request: Request) -> Response:
        mine = self.participant(request)
        return Response(
            {
                "participant": str(mine.uuid),
                "name": mine.name,
                "model": mine.model.slug if mine.model else None,
                "state": mine.state,
            }
        )

    @extend_schema(responses={204: None})
    def delete(self, request: Request) -> Response:
        """Leave, for good."""
        participant = self.participant(request)
        enrolment.leave(participant)
        tasks.ring_rounds_of(participant)
        return Response(status=204)


class RotateView(ParticipantView):
    """A new key, signed for by the old one."""

    @extend_schema(request=RotateSerializer, responses={204: None})
    def post(self, request: Request) -> Response:
        given = RotateSerializer(data=request.data)
        given.is_valid(raise_exception=True)
        enrolment.rotate(self.participant(request), **given.validated_data)
        return Response(status=204)
