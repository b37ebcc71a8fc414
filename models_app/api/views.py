"""The registry's doors: each parses, calls one verb or selector, and renders.

A model file is opened while the request waits: it takes 5 to 20 seconds of another process, and
the answer is the model or the reason why it was refused. Requests like this come from a few
people a few times a month, each waits in a thread of its own, and the web process neither imports
Keras nor reads the file; a queue would add a state to look after and nothing to gain.
"""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import django_filters
from django.db.models import QuerySet
from django.http import StreamingHttpResponse
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema, extend_schema_view
from rest_framework import mixins, status, viewsets
from rest_framework.decorators import action
from rest_framework.exceptions import ValidationError
from rest_framework.parsers import MultiPartParser
from rest_framework.request import Request
from rest_framework.response import Response

from accounts.roles import Role
from models_app import registry, selectors, uploads
from models_app.api.serializers import (
    DecisionSerializer,
    ModelSerializer,
    ModelSummarySerializer,
    NewModelSerializer,
    NewVersionSerializer,
    VersionDetailSerializer,
    VersionSerializer,
)
from models_app.errors import ModelNotFound
from models_app.models import Model, ModelVersion

READERS = (Role.PARTICIPANT, Role.VIEWER, Role.OPERATOR, Role.OWNER)
WRITERS = (Role.OPERATOR, Role.OWNER)
_CHUNK = 1 << 20
_FORMS = {"keras": "application/octet-stream", "safetensors": "application/octet-stream"}
_NUMBER = OpenApiParameter("number", str, "path", description="a number, or `published`")


def bound_to(request: Request) -> str | None:
    """The only model that a participant may see; None for everybody else."""
    user: Any = request.user
    return user.model_slug if getattr(user, "role", None) == Role.PARTICIPANT else None


class ModelFilter(django_filters.FilterSet):
    name = django_filters.CharFilter(lookup_expr="icontains")

    class Meta:
        model = Model
        fields = ("slug", "created_by", "architecture_digest")


class VersionFilter(django_filters.FilterSet):
    class Meta:
        model = ModelVersion
        fields = ("stage", "origin", "created_by")


class ModelViewSet(mixins.ListModelMixin, viewsets.GenericViewSet[Model]):
    """Models: what they are, and the version that each serves."""

    read_roles = READERS
    write_roles = WRITERS
    parser_classes = (MultiPartParser,)
    serializer_class = ModelSummarySerializer
    filterset_class = ModelFilter
    ordering_fields = ("slug", "created_at")
    lookup_field = "slug"
    lookup_value_regex = "[-a-zA-Z0-9_]+"
    queryset = Model.objects.none()

    def get_queryset(self) -> QuerySet[Model]:
        slug = bound_to(self.request)
        return selectors.models() if slug is None else selectors.models().filter(slug=slug)

    @extend_schema(responses=ModelSerializer)
    def retrieve(self, request: Request, slug: str) -> Response:
        """A model whole: architecture, weights manifest, input specification, served version."""
        refuse_other_model(request, slug)
        return Response(ModelSerializer(selectors.model(slug)).data)

    @extend_schema(request=NewModelSerializer, responses={201: ModelSerializer})
    def create(self, request: Request) -> Response:
        """Register a model; its weights become version 1 and are published."""
        form = NewModelSerializer(data=request.data)
        form.is_valid(raise_exception=True)
        given = form.validated_data
        options = {name: given[name] for name in ("loss", "scale", "offset")}
        described = ("name", "description", "labels", "local", "frozen")
        registry.check_slug(given["slug"])
        with uploads.opened(form.files(), **options) as package:
            model = registry.create_model(
                given["slug"],
                package,
                actor=str(request.user),
                **{name: given[name] for name in described},
            )
        return Response(ModelSerializer(model).data, status.HTTP_201_CREATED)


@extend_schema_view(
    list=extend_schema(parameters=[OpenApiParameter("model_slug", str, "path")]),
)
class VersionViewSet(mixins.ListModelMixin, viewsets.GenericViewSet[ModelVersion]):
    """Versions of one model, newest first."""

    read_roles = READERS
    write_roles = WRITERS
    action_roles = {"export": (Role.VIEWER, Role.OPERATOR, Role.OWNER)}
    parser_classes = (*viewsets.GenericViewSet.parser_classes, MultiPartParser)
    serializer_class = VersionSerializer
    filterset_class = VersionFilter
    ordering_fields = ("number", "created_at", "published_at")
    lookup_field = "number"
    lookup_value_regex = r"[0-9]+|published"
    queryset = ModelVersion.objects.none()

    def get_queryset(self) -> QuerySet[ModelVersion]:
        if getattr(self, "swagger_fake_view", False):
            return ModelVersion.objects.none()
        refuse_other_model(self.request, self.slug)
        return selectors.versions(selectors.model(self.slug).slug)

    @property
    def slug(self) -> str:
        return str(self.kwargs["model_slug"])

    @extend_schema(parameters=[_NUMBER], responses=VersionDetailSerializer)
    def retrieve(self, request: Request, model_slug: str, number: str) -> Response:
        """A version by its number, or the one that is `published`, with its confusion matrix."""
        return Response(VersionDetailSerializer(self._version(number)).data)

    @extend_schema(request=NewVersionSerializer, responses={201: VersionSerializer})
    def create(self, request: Request, model_slug: str) -> Response:
        """Import weights that were trained elsewhere, as a candidate."""
        form = NewVersionSerializer(data=request.data)
        form.is_valid(raise_exception=True)
        model = selectors.model(model_slug)
        with uploads.opened(form.files(), **selectors.opening_options(model)) as package:
            version = registry.import_version(
                model.pk,
                package,
                actor=str(request.user),
                reason=form.validated_data["reason"],
            )
        return Response(VersionSerializer(version).data, status.HTTP_201_CREATED)

    @extend_schema(
        parameters=[_NUMBER], request=DecisionSerializer, responses={200: VersionSerializer}
    )
    @action(detail=True, methods=["post"])
    def publish(self, request: Request, model_slug: str, number: str) -> Response:
        """Serve this candidate; what was served is archived."""
        version = self._version(number)
        return self._decided(registry.publish(version, **self._decision(request)))

    @extend_schema(
        parameters=[_NUMBER], request=DecisionSerializer, responses={200: VersionSerializer}
    )
    @action(detail=True, methods=["post"])
    def reject(self, request: Request, model_slug: str, number: str) -> Response:
        """Decide that this candidate will not be served."""
        decision = self._decision(request)
        decision.pop("expected_served")
        return self._decided(registry.reject(self._version(number), **decision))

    @extend_schema(
        parameters=[_NUMBER], request=DecisionSerializer, responses={201: VersionSerializer}
    )
    @action(detail=True, methods=["post"], url_path="roll-back")
    def roll_back(self, request: Request, model_slug: str, number: str) -> Response:
        """Serve this archived version again, as a new version with the same weights."""
        version = self._version(number)
        again = registry.roll_back(version.model, version, **self._decision(request))
        return self._decided(again, status.HTTP_201_CREATED)

    @extend_schema(
        parameters=[_NUMBER, OpenApiParameter("as", str, enum=list(_FORMS), default="keras")],
        responses={(200, "application/octet-stream"): OpenApiTypes.BINARY},
    )
    @action(detail=True)
    def export(self, request: Request, model_slug: str, number: str) -> StreamingHttpResponse:
        """The version as a file: `.keras` for Keras, `.safetensors` for everything else."""
        form = request.query_params.get("as", "keras")
        if form not in _FORMS:
            raise ValidationError({"as": f"Expected one of {', '.join(_FORMS)}. Received: {form}"})
        version = self._version(number)
        path = registry.export(version, form, actor=str(request.user))
        name = f"{model_slug}-v{version.number}.{form}"
        return download(path, name, _FORMS[form])

    def _version(self, number: str) -> ModelVersion:
        refuse_other_model(self.request, self.slug)
        return selectors.version(self.slug, number)

    def _decision(self, request: Request) -> dict[str, Any]:
        form = DecisionSerializer(data=request.data)
        form.is_valid(raise_exception=True)
        expected = form.validated_data.get("expected_served")
        return {
            "actor": str(request.user),
            "reason": form.validated_data["reason"],
            "expected_served": selectors.version(self.slug, expected) if expected else None,
        }

    @staticmethod
    def _decided(version: ModelVersion, code: int = status.HTTP_200_OK) -> Response:
        return Response(VersionSerializer(version).data, code)


def refuse_other_model(request: Request, slug: str) -> None:
    """For a participant, other models than its own do not exist.

    Raises:
        ModelNotFound: The participant is bound to another model.
    """
    if bound_to(request) not in (None, slug):
        raise ModelNotFound(f"Expected the slug of a model. Received: {slug}")


def download(path: Path, name: str, media_type: str) -> StreamingHttpResponse:
    """Stream a file of the spool, which is deleted at once: the open handle keeps its bytes."""
    file = path.open("rb")
    size = path.stat().st_size
    path.unlink()

    async def chunks() -> AsyncIterator[bytes]:
        with file:
            while chunk := await asyncio.to_thread(file.read, _CHUNK):
                yield chunk

    response = StreamingHttpResponse(chunks(), content_type=media_type)
    response["Content-Length"] = size
    response["Content-Disposition"] = f'attachment; filename="{name}"'
    return response
