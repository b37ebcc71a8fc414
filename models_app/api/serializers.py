"""What the registry's API reads and writes."""

from collections.abc import Mapping
from typing import Any

from django.core.files.uploadedfile import UploadedFile
from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from models_app.models import Model, ModelVersion

FILES = ("package", "architecture", "weights", "evaluation")


class BlobSerializer(serializers.Serializer[dict[str, Any]]):
    """A file to fetch from `/api/v1/blobs/{sha256}`."""

    sha256 = serializers.CharField()
    bytes = serializers.IntegerField()


class VersionSerializer(serializers.ModelSerializer[ModelVersion]):
    """A version: where its weights come from, how good they are, which blobs hold them."""

    # REST framework takes declared fields out of the class: its own `parent` is untouched.
    parent = serializers.SerializerMethodField()  # type: ignore[assignment]
    weights = serializers.SerializerMethodField()
    fixed = serializers.SerializerMethodField()
    metrics = serializers.DictField(child=serializers.FloatField(), read_only=True)

    class Meta:
        model = ModelVersion
        fields: tuple[str, ...] = (
            "number",
            "parent",
            "origin",
            "stage",
            "weights",
            "fixed",
            "metrics",
            "reason",
            "created_by",
            "created_at",
            "published_at",
        )
        read_only_fields = fields

    def get_parent(self, version: ModelVersion) -> int | None:
        return version.parent.number if version.parent else None

    @extend_schema_field(BlobSerializer)
    def get_weights(self, version: ModelVersion) -> dict[str, Any] | None:
        return version.blob_of("weights")

    @extend_schema_field(BlobSerializer(allow_null=True))
    def get_fixed(self, version: ModelVersion) -> dict[str, Any] | None:
        return version.blob_of("fixed")


class VersionDetailSerializer(VersionSerializer):
    """A version with its confusion matrix, which would make lists long."""

    confusion = serializers.ListField(
        child=serializers.ListField(child=serializers.IntegerField()),
        read_only=True,
        allow_null=True,
        help_text="held-out examples by true class (rows) and given class (columns)",
    )

    class Meta(VersionSerializer.Meta):
        fields = (*VersionSerializer.Meta.fields, "confusion")
        read_only_fields = fields


class ModelSummarySerializer(serializers.ModelSerializer[Model]):
    """A model in a list."""

    served = serializers.SerializerMethodField()
    versions = serializers.IntegerField(source="version_count", read_only=True)

    class Meta:
        model = Model
        fields = (
            "slug",
            "name",
            "description",
            "architecture_digest",
            "input_spec",
            "labels",
            "objective",
            "evaluation_samples",
            "created_by",
            "created_at",
            "versions",
            "served",
        )
        read_only_fields = fields

    @extend_schema_field(VersionSerializer(allow_null=True))
    def get_served(self, model: Any) -> Mapping[str, Any] | None:
        return VersionSerializer(model.serving[0]).data if model.serving else None


class ModelSerializer(serializers.ModelSerializer[Model]):
    """A model whole: all that a participant needs to build it."""

    weights = serializers.JSONField(source="weights_manifest", read_only=True)
    served = VersionSerializer(read_only=True, allow_null=True)

    class Meta:
        model = Model
        fields = (
            "slug",
            "name",
            "description",
            "architecture",
            "architecture_digest",
            "weights",
            "input_spec",
            "labels",
            "objective",
            "evaluation_samples",
            "created_by",
            "created_at",
            "served",
        )
        read_only_fields = fields


class PackageSerializer(serializers.Serializer[dict[str, Any]]):
    """A model file: `.keras`, or Keras JSON with safetensors."""

    package = serializers.FileField(required=False, help_text="a .keras file")
    architecture = serializers.FileField(required=False, help_text="Keras JSON")
    weights = serializers.FileField(
        required=False, help_text="safetensors, named as the manifest or by ordinals"
    )

    def files(self) -> dict[str, UploadedFile]:
        """The uploads, by name."""
        return {name: self.validated_data[name] for name in FILES if name in self.validated_data}


class NewModelSerializer(PackageSerializer):
    """A model to be registered; its weights become version 1."""

    slug = serializers.SlugField(max_length=80)
    name = serializers.CharField(max_length=200, required=False, default="")
    description = serializers.CharField(required=False, default="", allow_blank=True)
    labels = serializers.ListField(child=serializers.CharField(max_length=200), default=list)
    evaluation = serializers.FileField(required=False, help_text=".npz with arrays x and y")
    scale = serializers.FloatField(default=1.0, help_text="raw value to input: 1/255 for images")
    offset = serializers.FloatField(default=0.0, help_text="added after scaling")
    loss = serializers.CharField(required=False, default="", allow_blank=True)
    local = serializers.ListField(
        child=serializers.CharField(), default=list, help_text="layers that stay with each one"
    )
    frozen = serializers.ListField(
        child=serializers.CharField(), default=list, help_text="layers that never change"
    )


class NewVersionSerializer(PackageSerializer):
    """Weights trained elsewhere, of the model's own architecture."""

    reason = serializers.CharField(required=False, default="", allow_blank=True)


class DecisionSerializer(serializers.Serializer[dict[str, Any]]):
    """Why, and what must be served until now for the decision to hold."""

    reason = serializers.CharField(required=False, default="", allow_blank=True)
    expected_served = serializers.IntegerField(
        required=False, min_value=1, help_text="number of the version that must be served still"
    )
