"""The operators' doors: each parses, calls one verb or selector, and renders.

Viewers read and operators write; join codes are read by operators only.
"""

from typing import Any, Protocol

from django.core.cache import cache
from django.db.models import QuerySet
from django.http import Http404
from drf_spectacular.utils import OpenApiParameter, extend_schema, extend_schema_view
from redis.exceptions import RedisError
from rest_framework import mixins, status, viewsets
from rest_framework.decorators import action
from rest_framework.generics import get_object_or_404
from rest_framework.request import Request
from rest_framework.response import Response

from accounts.roles import OPERATORS
from journal import events
from journal.models import Event
from rounds import enrolment, lifecycle, selectors, tasks
from rounds.api import filters
from rounds.api import serializers as as_json
from rounds.models import Assignment, JoinCode, Participant, Round, Run
from rounds.round_state import round_state

ID = r"[0-9]{1,18}"


class RunVerb(Protocol):
    """One of `lifecycle`'s verbs of runs or rounds."""

    def __call__(self, pk: int, /, *, actor: str, reason: str) -> object: ...


class ParticipantVerb(Protocol):
    """One of `enrolment`'s verbs."""

    def __call__(self, participant: Participant, /, *, actor: str, reason: str) -> object: ...


def actor_of(request: Request) -> str:
    """Who asks, for the journal."""
    return request.user.get_username()


def decision(request: Request) -> dict[str, str]:
    """Who decides and why: what every verb takes."""
    given = as_json.ReasonSerializer(data=request.data)
    given.is_valid(raise_exception=True)
    return {"actor": actor_of(request), "reason": given.validated_data["reason"]}


class ReadViewSet(mixins.ListModelMixin, mixins.RetrieveModelMixin, viewsets.GenericViewSet[Any]):
    """A list, and its rows one by one."""

    lookup_value_regex = ID


# --- Runs -------------------------------------------------------------------------------------

_run_verb = extend_schema(request=as_json.ReasonSerializer, responses={200: as_json.RunSerializer})


class RunViewSet(ReadViewSet):
    """Federated trainings."""

    queryset = Run.objects.none()
    serializer_class = as_json.RunSerializer
    filterset_class = filters.RunFilter
    ordering_fields = ("id", "name", "created_at", "started_at", "ended_at")

    def get_queryset(self) -> QuerySet[Run]:
        return selectors.runs()

    @extend_schema(request=as_json.NewRunSerializer, responses={201: as_json.RunSerializer})
    def create(self, request: Request) -> Response:
        """Create a run: a draft, until it is started."""
        given = as_json.NewRunSerializer(data=request.data)
        given.is_valid(raise_exception=True)
        run = lifecycle.create_run(
            actor=actor_of(request), user=request.user, **given.validated_data
        )
        return self._render(run.pk, status.HTTP_201_CREATED)

    @_run_verb
    @action(detail=True, methods=["post"])
    def start(self, request: Request, pk: str) -> Response:
        """Draft to running: the first round opens."""
        return self._do(lifecycle.start_run, request)

    @_run_verb
    @action(detail=True, methods=["post"])
    def pause(self, request: Request, pk: str) -> Response:
        """Let the current round finish, and open no other."""
        return self._do(lifecycle.pause_run, request)

    @_run_verb
    @action(detail=True, methods=["post"])
    def resume(self, request: Request, pk: str) -> Response:
        """Go on after a pause."""
        return self._do(lifecycle.resume_run, request)

    @_run_verb
    @action(detail=True, methods=["post"])
    def stop(self, request: Request, pk: str) -> Response:
        """End the run at once; its round is cancelled."""
        return self._do(lifecycle.stop_run, request)

    @extend_schema(responses=as_json.RoundLineSerializer(many=True), filters=False)
    @action(detail=True, pagination_class=None)
    def report(self, request: Request, pk: str) -> Response:
        """What became of each round, in order."""
        lines = selectors.run_report(self.get_object())
        return Response(as_json.RoundLineSerializer(lines, many=True).data)

    @extend_schema(responses=as_json.RunHistorySerializer, filters=False)
    @action(detail=True, pagination_class=None)
    def history(self, request: Request, pk: str) -> Response:
        """Each round in numbers: metrics and their spread, durations, counts, bytes."""
        return Response(selectors.run_history(self.get_object()))

    def _do(self, verb: RunVerb, request: Request) -> Response:
        run = self.get_object()
        verb(run.pk, **decision(request))
        tasks.ring_run(run.pk)
        return self._render(run.pk)

    def _render(self, pk: int, code: int = status.HTTP_200_OK) -> Response:
        return Response(as_json.RunSerializer(selectors.runs().get(pk=pk)).data, code)


# --- Rounds -----------------------------------------------------------------------------------

_round_verb = extend_schema(
    request=as_json.ReasonSerializer, responses={200: as_json.RoundSerializer}
)


class RoundViewSet(ReadViewSet):
    """Rounds of all runs."""

    queryset = Round.objects.none()
    serializer_class = as_json.RoundSerializer
    filterset_class = filters.RoundFilter
    ordering_fields = ("id", "run", "number", "opened_at", "ended_at")

    def get_queryset(self) -> QuerySet[Round]:
        return selectors.rounds()

    @extend_schema(responses=as_json.RoundStateSerializer)
    @action(detail=True)
    def state(self, request: Request, pk: str) -> Response:
        """The round as one document: rows, latest events, and the cursor to follow it from."""
        return Response(_shared_state(int(pk)))

    @_round_verb
    @action(detail=True, methods=["post"])
    def close(self, request: Request, pk: str) -> Response:
        """End the training now, with the updates that are here; there must be a quorum."""
        return self._do(lifecycle.close_round, request)

    @_round_verb
    @action(detail=True, methods=["post"])
    def cancel(self, request: Request, pk: str) -> Response:
        """Abandon the round; a running run opens its next one at once."""
        return self._do(lifecycle.cancel_round, request)

    def _do(self, verb: RunVerb, request: Request) -> Response:
        round_ = self.get_object()
        verb(round_.pk, **decision(request))
        tasks.ring_run(round_.run_id)
        return Response(as_json.RoundSerializer(selectors.rounds().get(pk=round_.pk)).data)


def _shared_state(round_id: int) -> dict[str, Any]:
    """The document, read once a second however many ask: its cursor says how old it is."""
    key = f"round-state:{round_id}"
    try:
        state: dict[str, Any] | None = cache.get(key)
        if state is None:
            state = _state_or_404(round_id)
            cache.set(key, state, 1)
    except RedisError:
        return _state_or_404(round_id)
    return state


def _state_or_404(round_id: int) -> dict[str, Any]:
    try:
        return round_state(round_id)
    except Round.DoesNotExist as error:
        raise Http404 from error


_of_round = extend_schema(parameters=[OpenApiParameter("round_id", int, "path")])


@extend_schema_view(list=_of_round, retrieve=_of_round)
class AssignmentViewSet(ReadViewSet):
    """The assignments of one round: who was invited, and what became of it."""

    queryset = Assignment.objects.none()
    serializer_class = as_json.AssignmentSerializer
    filterset_class = filters.AssignmentFilter
    ordering_fields = ("id", "participant__name", "uploaded_at", "ended_at")

    def get_queryset(self) -> QuerySet[Assignment]:
        if getattr(self, "swagger_fake_view", False):
            return Assignment.objects.none()
        return selectors.assignments().filter(
            round=get_object_or_404(Round, pk=self.kwargs["round_id"])
        )


# --- Participants -----------------------------------------------------------------------------

_participant_verb = extend_schema(
    request=as_json.ReasonSerializer, responses={200: as_json.ParticipantSerializer}
)


class ParticipantViewSet(ReadViewSet):
    """The devices and sites that train."""

    queryset = Participant.objects.none()
    serializer_class = as_json.ParticipantSerializer
    filterset_class = filters.ParticipantFilter
    ordering_fields = ("id", "name", "enrolled_at", "last_seen_at")
    lookup_field = "uuid"
    lookup_value_regex = "[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"

    def get_queryset(self) -> QuerySet[Participant]:
        return selectors.participants()

    @_participant_verb
    @action(detail=True, methods=["post"])
    def suspend(self, request: Request, uuid: str) -> Response:
        """No rounds and no requests, until it is reinstated; effective at once."""
        return self._do(enrolment.suspend, request)

    @_participant_verb
    @action(detail=True, methods=["post"])
    def reinstate(self, request: Request, uuid: str) -> Response:
        """A suspended participant may take part again."""
        return self._do(enrolment.reinstate, request)

    @_participant_verb
    @action(detail=True, methods=["post"])
    def revoke(self, request: Request, uuid: str) -> Response:
        """For good: its key and its tokens are worth nothing from now on."""
        return self._do(enrolment.revoke, request)

    def _do(self, verb: ParticipantVerb, request: Request) -> Response:
        participant = self.get_object()
        verb(participant, **decision(request))
        tasks.ring_rounds_of(participant)
        return Response(as_json.ParticipantSerializer(self.get_object()).data)


# --- Join codes -------------------------------------------------------------------------------


class JoinCodeViewSet(ReadViewSet):
    """What participants enrol with."""

    read_roles = OPERATORS
    queryset = JoinCode.objects.none()
    serializer_class = as_json.JoinCodeSerializer
    filterset_class = filters.JoinCodeFilter
    ordering_fields = ("id", "label", "created_at", "expires_at")

    def get_queryset(self) -> QuerySet[JoinCode]:
        return selectors.join_codes()

    @extend_schema(
        request=as_json.NewJoinCodeSerializer, responses={201: as_json.MadeJoinCodeSerializer}
    )
    def create(self, request: Request) -> Response:
        """Make a join code. Its secret, `code`, is in this answer and nowhere else."""
        given = as_json.NewJoinCodeSerializer(data=request.data)
        given.is_valid(raise_exception=True)
        made, secret = enrolment.make_join_code(
            actor=actor_of(request), user=request.user, **given.validated_data
        )
        made.code = secret  # type: ignore[attr-defined]
        answer = as_json.MadeJoinCodeSerializer(made).data
        return Response(answer, status.HTTP_201_CREATED, headers={"Cache-Control": "no-store"})

    @extend_schema(request=as_json.ReasonSerializer, responses={200: as_json.JoinCodeSerializer})
    @action(detail=True, methods=["post"])
    def withdraw(self, request: Request, pk: str) -> Response:
        """Nobody may enrol with it from now on; who has enrolled stays."""
        enrolment.withdraw_join_code(self.get_object(), **decision(request))
        return Response(as_json.JoinCodeSerializer(self.get_object()).data)


# --- Events -----------------------------------------------------------------------------------


class EventViewSet(viewsets.GenericViewSet[Event]):
    """The journal since a cursor: the same events as the live socket sends."""

    queryset = Event.objects.none()
    serializer_class = as_json.EventsSerializer
    pagination_class = None  # the cursor is the page
    filter_backends = ()

    @extend_schema(
        parameters=[as_json.EventQuerySerializer], responses={200: as_json.EventsSerializer}
    )
    def list(self, request: Request) -> Response:
        """Lines after the cursor, oldest first, and the cursor to go on from."""
        asked = as_json.EventQuerySerializer(data=request.query_params.dict())
        asked.is_valid(raise_exception=True)
        subjects = dict(asked.validated_data)
        after, limit = subjects.pop("after"), subjects.pop("limit")
        lines = list(events.replay(after, **subjects)[:limit])
        following = lines[-1].pk if lines else after
        return Response({"events": [events.as_json(line) for line in lines], "next": following})
