"""Two tables: models, and the numbered versions of their weights. Constraints, no workflow."""

from functools import cached_property
from typing import Any

from django.db import models
from django.db.models import Q
from django.db.models.functions import Now

from client_sdk import wire


class Model(models.Model):
    """A shared Keras model: what it is. What it has learned is in its versions."""

    slug = models.SlugField(max_length=80, unique=True)
    name = models.CharField(max_length=200)
    description = models.TextField(blank=True)
    architecture = models.JSONField(help_text="Keras JSON")
    architecture_digest = models.CharField(max_length=64, help_text="SHA-256 of the canonical JSON")
    weights_manifest = models.JSONField(help_text="every weight: name, layer, shape, dtype, role")
    input_spec = models.JSONField(help_text="shape, dtype, scale and offset of one input")
    labels = models.JSONField(default=list, blank=True, help_text="names of the classes")
    objective = models.JSONField(help_text="the loss, and whether outputs are logits")
    evaluation_set = models.CharField(max_length=64, blank=True, help_text="blob of x and y")
    evaluation_samples = models.PositiveIntegerField(default=0)
    created_by = models.CharField(max_length=150, blank=True)
    created_at = models.DateTimeField(db_default=Now())

    class Meta:
        ordering = ("slug",)

    def __str__(self) -> str:
        return self.slug

    @cached_property
    def weights(self) -> list[wire.WeightSpec]:
        """The weights manifest, read."""
        return wire.read_weights(self.weights_manifest)

    @property
    def federated(self) -> list[wire.TensorSpec]:
        """The tensors of a version's `weights` blob."""
        return wire.tensors_of(self.weights, wire.FEDERATED)

    @property
    def fixed(self) -> list[wire.TensorSpec]:
        """The tensors of a version's `fixed` blob: frozen ones, and local ones at their start."""
        return wire.tensors_of(self.weights, wire.LOCAL, wire.FROZEN)

    @property
    def served(self) -> "ModelVersion | None":
        """The one published version."""
        return self.versions.filter(stage=ModelVersion.Stage.PUBLISHED).first()


class ModelVersion(models.Model):
    """One numbered, immutable set of weights. Only `registry` writes its stage and metrics."""

    class Origin(models.TextChoices):
        INITIAL = "initial"
        IMPORTED = "imported"
        ROUND = "round"
        ROLLBACK = "rollback"

    class Stage(models.TextChoices):
        CANDIDATE = "candidate"
        PUBLISHED = "published"
        REJECTED = "rejected"
        ARCHIVED = "archived"

    model = models.ForeignKey(Model, on_delete=models.PROTECT, related_name="versions")
    number = models.PositiveIntegerField()
    parent = models.ForeignKey(
        "self", on_delete=models.PROTECT, null=True, blank=True, related_name="children"
    )
    origin = models.CharField(max_length=10, choices=Origin)
    stage = models.CharField(max_length=10, choices=Stage, default=Stage.CANDIDATE)
    weights = models.CharField(max_length=64, db_index=True, help_text="blob, federated tensors")
    weights_bytes = models.PositiveBigIntegerField()
    fixed = models.CharField(max_length=64, blank=True, db_index=True, help_text="blob of the rest")
    fixed_bytes = models.PositiveBigIntegerField(default=0)
    strategy_state = models.CharField(max_length=64, blank=True, help_text="blob")
    metrics = models.JSONField(default=dict, blank=True)
    confusion = models.JSONField(
        null=True, blank=True, help_text="held-out examples by true class (rows) and given class"
    )
    reason = models.TextField(blank=True, help_text="why it is in its stage")
    created_by = models.CharField(max_length=150, blank=True)
    created_at = models.DateTimeField(db_default=Now())
    published_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ("model", "-number")
        constraints = (
            models.UniqueConstraint(fields=("model", "number"), name="one_version_per_number"),
            models.UniqueConstraint(
                fields=("model",),
                condition=Q(stage="published"),
                name="one_published_version_per_model",
            ),
        )

    def __str__(self) -> str:
        return f"{self.model.slug} v{self.number}"

    def blob_of(self, part: str) -> dict[str, Any] | None:
        """A blob as documents name it: `{"sha256": …, "bytes": …}`, or None."""
        sha256 = getattr(self, part)
        return {"sha256": sha256, "bytes": getattr(self, f"{part}_bytes")} if sha256 else None
