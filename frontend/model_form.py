"""The form that registers a model, as the API takes it."""

from fractions import Fraction
from typing import Any

from django import forms

from models_app import registry, uploads
from models_app.errors import FedserverError
from models_app.models import Model

FILES = ("package", "architecture", "weights", "evaluation")


class RatioField(forms.CharField):
    """A number as people write it: 0.5, 1e-3 or 1/255."""

    def to_python(self, value: Any) -> Any:
        text = str(super().to_python(value) or self.initial)
        try:
            return float(Fraction(text))
        except (ValueError, ZeroDivisionError, OverflowError):
            raise forms.ValidationError(
                f"Expected a number, or 1/255. Received: {text[:40]}"
            ) from None


class NewModelForm(forms.Form):
    """Upload a model. It is opened when the form is checked, so that a refusal is a form error."""

    slug = forms.CharField(
        max_length=80, label="Slug", help_text="Its name in addresses: letters, digits, - and _."
    )
    name = forms.CharField(
        max_length=200, required=False, help_text="For people. The slug, when it is left out."
    )
    description = forms.CharField(
        required=False, widget=forms.Textarea(attrs={"rows": 2}), help_text="What it is for."
    )
    package = forms.FileField(
        required=False,
        label="Keras file",
        help_text="A .keras file, with built-in layers only, as model.save writes it.",
    )
    architecture = forms.FileField(
        required=False, label="Keras JSON", help_text="As model.to_json gives it."
    )
    weights = forms.FileField(
        required=False,
        label="safetensors",
        help_text="All weights, named by their place among model.weights: 0, 1, 2, \u2026",
    )
    evaluation = forms.FileField(
        required=False,
        label="Evaluation set",
        help_text="An .npz file with held-out arrays x and y. Every version is measured on it; "
        "without one nothing says how good a version is.",
    )
    labels = forms.CharField(
        required=False,
        label="Names of its classes",
        widget=forms.Textarea(attrs={"rows": 4}),
        help_text="One a line, in the order of the outputs.",
    )
    scale = RatioField(
        initial="1", required=False, help_text="Raw value to input: 1/255 for images of bytes."
    )
    offset = RatioField(initial="0", required=False, help_text="Added after scaling.")
    loss = forms.CharField(required=False, help_text="If the file does not tell.")
    local = forms.CharField(
        required=False,
        label="Local layers",
        help_text="Patterns of layers that stay with each participant, such as head or encoder.*",
    )
    frozen = forms.CharField(
        required=False,
        label="Frozen layers",
        help_text="Patterns of layers that never change and travel once.",
    )

    SECTIONS = (
        ("What it is", ("slug", "name", "description")),
        ("Its file, or its two parts", ("package", "architecture", "weights")),
        ("How good it is", ("evaluation", "labels")),
        ("What it takes", ("scale", "offset", "loss")),
        ("What travels", ("local", "frozen")),
    )

    def sections(self) -> list[tuple[str, list[forms.BoundField]]]:
        """The fields under their headings."""
        return [(title, [self[name] for name in names]) for title, names in self.SECTIONS]

    def register(self, actor: str) -> Model | None:
        """Open the files and register the model; None, with errors at the fields, if refused."""
        given = self.cleaned_data
        files = {name: given[name] for name in FILES}
        try:
            registry.check_slug(given["slug"])
            options = {name: given[name] for name in ("loss", "scale", "offset")}
            with uploads.opened(files, **options) as package:
                return registry.create_model(
                    given["slug"],
                    package,
                    name=given["name"],
                    description=given["description"],
                    labels=[line.strip() for line in given["labels"].splitlines() if line.strip()],
                    local=given["local"].split(),
                    frozen=given["frozen"].split(),
                    actor=actor,
                )
        except FedserverError as error:
            self.add_error(error.field if error.field in self.fields else None, error.detail)
            return None

    def clean(self) -> dict[str, Any]:
        given = super().clean() or self.cleaned_data
        parts = given.get("architecture"), given.get("weights")
        if given.get("package") and any(parts):
            self.add_error("package", "Expected a Keras file or its two parts. Received: both")
        elif not given.get("package") and not any(parts):
            self.add_error("package", "Expected a Keras file, or its two parts. Received: neither")
        elif not given.get("package") and not all(parts):
            missing = "weights" if parts[0] else "architecture"
            self.add_error(missing, "Expected both parts. Received: one")
        return given
