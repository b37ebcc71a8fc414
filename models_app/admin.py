"""The registry in Django's admin: what is served, and the verbs that change it."""

from collections.abc import Callable
from typing import Any

from django import forms
from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.safestring import SafeString

from accounts.admin import Linked, Related, RoleAdmin, chip, dashboard, list_link, row_link
from accounts.roles import OPERATORS
from models_app import decisions, registry, selectors, uploads
from models_app.errors import FedserverError
from models_app.models import Model, ModelVersion

FILES = ("package", "architecture_file", "weights_file", "evaluation")


class NewModelForm(forms.ModelForm):
    """Upload a model. It is opened when the form is checked, so that a refusal is a form error."""

    package = forms.FileField(required=False, label="Keras file", help_text="a .keras file, or")
    architecture_file = forms.FileField(required=False, label="Architecture", help_text="JSON and")
    weights_file = forms.FileField(required=False, label="Weights", help_text="safetensors")
    evaluation = forms.FileField(required=False, help_text=".npz with held-out arrays x and y")
    class_names = forms.CharField(
        required=False, widget=forms.Textarea(attrs={"rows": 4}), help_text="one a line"
    )
    scale = forms.FloatField(initial=1.0, help_text="raw value to input: 0.00392157 for images")
    offset = forms.FloatField(initial=0.0, help_text="added after scaling")
    loss = forms.CharField(required=False, help_text="if the file does not tell")
    local = forms.CharField(required=False, help_text="patterns of layers that stay with each one")
    frozen = forms.CharField(required=False, help_text="patterns of layers that never change")

    class Meta:
        model = Model
        fields = ("slug", "name", "description")

    actor = ""  # set by the admin for each request

    def clean(self) -> dict[str, Any]:
        given = super().clean() or self.cleaned_data
        if not self.errors:
            try:
                self.instance = self._register(given)
            except FedserverError as error:
                known = error.field if error.field in self.fields else None
                self.add_error(known, error.detail)
        return given

    def _register(self, given: dict[str, Any]) -> Model:
        registry.check_slug(given["slug"])
        files = {name.removesuffix("_file"): given[name] for name in FILES if given[name]}
        options = {name: given[name] for name in ("loss", "scale", "offset")}
        with uploads.opened(files, **options) as package:
            return registry.create_model(
                given["slug"],
                package,
                name=given["name"],
                description=given["description"],
                labels=[line.strip() for line in given["class_names"].splitlines() if line.strip()],
                local=given["local"].split(),
                frozen=given["frozen"].split(),
                actor=self.actor,
            )

    def _post_clean(self) -> None:
        """Nothing is left to copy or to check: the registry has made the row."""

    def save(self, commit: bool = True) -> Model:
        self.save_m2m: Callable[[], None] = lambda: None
        return self.instance


@admin.register(Model)
class ModelAdmin(RoleAdmin):
    """Models, and the upload of a new one. Names may be edited; weights come through verbs."""

    in_journal = "model"
    related = (
        Related("versions", "models_app_modelversion", "model__id__exact"),
        Related("runs", "rounds_run", "model__id__exact"),
        Related("rounds", "rounds_round", "run__model__id__exact"),
        Related("participants for it alone", "rounds_participant", "model__id__exact"),
    )
    list_display = ("slug", "name", "served_version", "quality", "version_count", "created_at")
    search_fields = ("slug", "name", "description", "architecture_digest")
    list_filter = ("created_at", "created_by")
    date_hierarchy = "created_at"
    add_roles = OPERATORS
    change_roles = OPERATORS
    readonly_fields = (
        "slug",
        "architecture_digest",
        "input_spec",
        "objective",
        "evaluation_samples",
        "roles",
        "created_by",
        "created_at",
    )
    fields = ("slug", "name", "description", "labels", *readonly_fields[1:])

    def get_queryset(self, request: HttpRequest) -> QuerySet[Model]:
        return selectors.models()

    def view_on_site(self, model: Model) -> str:
        return dashboard("model", model.slug)

    def get_form(
        self, request: HttpRequest, obj: Any = None, change: bool = False, **kw: Any
    ) -> Any:
        if obj is not None:
            return super().get_form(request, obj, change, **kw)
        return type("Upload", (NewModelForm,), {"actor": request.user.get_username()})

    def get_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        return self.fields if obj else [*NewModelForm.base_fields]

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        return self.readonly_fields if obj else ()

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        if change:
            obj.save(update_fields=["name", "description", "labels"])

    @admin.display(description="serves")
    def served_version(self, model: Any) -> SafeString | str:
        return version_link(model.serving[0]) if model.serving else "-"

    @admin.display
    def quality(self, model: Any) -> str:
        return shown_metrics(model.serving[0].metrics) if model.serving else "-"

    @admin.display(description="versions", ordering="version_count")
    def version_count(self, model: Any) -> SafeString:
        narrowed = {"model__id__exact": model.pk}
        return list_link("models_app_modelversion", model.version_count, **narrowed)

    @admin.display(description="weights")
    def roles(self, model: Model) -> str:
        counts: dict[str, int] = {}
        for weight in model.weights:
            counts[weight.role] = counts.get(weight.role, 0) + weight.tensor.size
        return ", ".join(f"{count:,} {role}" for role, count in counts.items())


@admin.register(ModelVersion)
class ModelVersionAdmin(RoleAdmin):
    """Versions, to be read; what is served changes by decisions."""

    decisions = decisions.VERSION
    refusals = (FedserverError,)
    in_journal = "version"
    state_name = "stage"
    related = (
        Related("rounds that train from it", "rounds_round", "base__id__exact"),
        Related("the round that made it", "rounds_round", "version__id__exact"),
        Related("versions made from it", "models_app_modelversion", "parent__id__exact"),
    )
    list_display = (
        "name",
        chip("stage"),
        Linked("model"),
        "origin",
        "quality",
        "parent_link",
        "created_at",
        "reason",
    )
    list_filter = ("stage", "origin", "model", "created_at")
    search_fields = ("model__slug", "model__name", "weights", "reason")
    date_hierarchy = "created_at"
    lookups = ("made_by__run__id__exact",)

    def get_queryset(self, request: HttpRequest) -> QuerySet[ModelVersion]:
        heavy = ("model__architecture", "model__weights_manifest")
        return super().get_queryset(request).select_related("model", "parent").defer(*heavy)

    def view_on_site(self, version: ModelVersion) -> str:
        return dashboard("version", version.model.slug, version.number)

    @admin.display(description="version", ordering="number")
    def name(self, version: ModelVersion) -> str:
        return str(version)

    @admin.display
    def quality(self, version: ModelVersion) -> str:
        return shown_metrics(version.metrics)

    @admin.display(description="parent")
    def parent_link(self, version: ModelVersion) -> SafeString | str:
        return version_link(version.parent) if version.parent else "-"


def version_link(version: ModelVersion) -> SafeString:
    return row_link("models_app_modelversion", version.pk, f"v{version.number}")


def shown_metrics(metrics: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in metrics.items()) or "-"
