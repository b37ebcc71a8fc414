"""The room in Django's admin: every row to be read, and the verbs as actions and forms."""

from collections.abc import Callable
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from accounts.address import address
from accounts.admin import (
    ByWord,
    Linked,
    Moment,
    Related,
    RoleAdmin,
    chip,
    dashboard,
    list_link,
    row_link,
)
from accounts.roles import OPERATORS
from models_app import selectors as registry
from models_app.errors import FedserverError
from rounds import (
    aggregation,
    capabilities,
    decisions,
    enrolment,
    lifecycle,
    rules,
    selectors,
)
from rounds.models import (
    Assignment,
    CheckIn,
    EvaluationReport,
    FederatedEvaluation,
    JoinCode,
    Participant,
    ParticipantToken,
    Round,
    Run,
    Update,
)


class ByModel(admin.AllValuesFieldListFilter):
    """Narrows a list to one model; what it is put on is the model's slug."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.title = "model"


CREATOR, JOIN_CODE = Linked("created_by"), Linked("join_code")


class VerbAdmin(RoleAdmin):
    """A list whose rows change through verbs."""

    refusals = (FedserverError,)


class VerbForm(forms.ModelForm):
    """A form whose row a verb makes: what the verb refuses is shown at its field."""

    request: HttpRequest  # set by the admin, for each request

    def make(self, **given: Any) -> Any:
        """Call the verb.

        Args:
            **given: What the form's fields hold, with `actor` and `user`.
        """
        raise NotImplementedError

    def clean(self) -> dict[str, Any]:
        given = super().clean() or self.cleaned_data
        if self.errors:
            return given
        user = self.request.user
        try:
            self.instance = self.make(**given, actor=user.get_username(), user=user)
        except FedserverError as error:
            name = (error.field or "").partition(".")[0]
            self.add_error(name if name in self.fields else None, error.detail)
        return given

    def _post_clean(self) -> None:
        """The verb has checked and made the row."""

    def save(self, commit: bool = True) -> Any:
        self.save_m2m: Callable[[], None] = lambda: None
        return self.instance


class MakingAdmin(VerbAdmin):
    """A list whose rows are made by a form that calls a verb."""

    add_roles = OPERATORS
    add_form: type[VerbForm]

    def get_form(
        self, request: HttpRequest, obj: Any = None, change: bool = False, **kwargs: Any
    ) -> Any:
        if obj is None:
            kwargs["form"] = type("Form", (self.add_form,), {"request": request})
        return super().get_form(request, obj, change, **kwargs)

    def formfield_for_foreignkey(self, db_field: Any, request: HttpRequest, **kwargs: Any) -> Any:
        if db_field.name == "model":
            kwargs["queryset"] = registry.models()  # without their heavy columns
        return super().formfield_for_foreignkey(db_field, request, **kwargs)

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        """The form's verb has saved it."""


# --- Join codes -------------------------------------------------------------------------------


class NewJoinCodeForm(VerbForm):
    """A join code to be made."""

    expires_at = forms.SplitDateTimeField(
        required=False, widget=Moment, help_text="empty: in a week"
    )

    class Meta:
        model = JoinCode
        fields = ("label", "model", "max_uses", "expires_at")

    def make(self, **given: Any) -> JoinCode:
        code, self.secret = enrolment.make_join_code(**given)
        return code


@admin.register(JoinCode)
class JoinCodeAdmin(MakingAdmin):
    """Join codes. The code itself is shown once, when it is made."""

    view_roles = OPERATORS
    add_form = NewJoinCodeForm
    decisions = decisions.JOIN_CODE
    related = (Related("who enrolled with it", "rounds_participant", "join_code__id__exact"),)
    list_display = (
        "__str__",
        Linked("model"),
        "used",
        "expires_at",
        "withdrawn_at",
        CREATOR,
        "created_at",
    )
    list_filter = ("expires_at", "withdrawn_at", ("model__slug", ByModel))
    search_fields = ("label", "model__slug", "created_by__username")
    date_hierarchy = "created_at"
    lookups = ("model__id__exact", "created_by__id__exact")

    def get_queryset(self, request: HttpRequest) -> QuerySet[JoinCode]:
        return selectors.join_codes()

    def get_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        return (*NewJoinCodeForm.Meta.fields, *self.get_readonly_fields(request, obj))

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        made = ("used", "withdrawn_at", self.opened(request, CREATOR), "created_at")
        return made if obj else ()

    @admin.display(description="used", ordering="uses")
    def used(self, code: JoinCode) -> str:
        return f"{code.uses} of {code.max_uses}"

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        told = "The code is shown only now. A participant joins with: {}"
        command = format_html("<code>fedclient join {} {}</code>", address(request), form.secret)
        messages.warning(request, format_html(told, command))


# --- Participants -----------------------------------------------------------------------------


@admin.register(Participant)
class ParticipantAdmin(VerbAdmin):
    """Who trains."""

    decisions = decisions.PARTICIPANT
    in_journal = "participant"
    state_name = "state"
    related = (
        Related("assignments", "rounds_assignment", "participant__id__exact"),
        Related("updates", "rounds_update", "assignment__participant__id__exact"),
        Related("check-ins", "rounds_checkin", "participant__id__exact"),
        Related("tokens", "rounds_participanttoken", "participant__id__exact"),
    )
    list_display = (
        "name",
        chip("state"),
        Linked("model"),
        "invited",
        "accepted",
        "sdk_version",
        "can",
        "last_seen_at",
        "enrolled_at",
        JOIN_CODE,
    )
    list_filter = ("state", ("model__slug", ByModel), "last_seen_at", "enrolled_at")
    search_fields = ("name", "uuid", "public_key")
    date_hierarchy = "enrolled_at"
    lookups = ("join_code__id__exact", "model__id__exact")
    exclude = ("join_code", "capabilities")

    def get_queryset(self, request: HttpRequest) -> QuerySet[Participant]:
        return selectors.participants()

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        return ("uuid", "can", "invited", "accepted", self.opened(request, JOIN_CODE))

    def view_on_site(self, participant: Participant) -> str:
        return dashboard("participant", participant.uuid)

    @admin.display(ordering="invited_count")
    def invited(self, participant: Any) -> SafeString:
        narrowed = {"participant__id__exact": participant.pk}
        return list_link("rounds_assignment", participant.invited_count, **narrowed)

    @admin.display(description="SDK")
    def sdk_version(self, participant: Participant) -> str:
        return str(participant.sdk.get("version", "-"))

    @admin.display(description="can", ordering="capabilities")
    def can(self, participant: Participant) -> str:
        """What its SDK can do for strategies, beyond training."""
        told = sorted(capabilities.told(participant.sdk))
        return ", ".join(name.replace("_", " ") for name in told) or "-"

    @admin.display(ordering="accepted_count")
    def accepted(self, participant: Any) -> int:
        return int(participant.accepted_count)


@admin.register(ParticipantToken)
class ParticipantTokenAdmin(RoleAdmin):
    """Which participants hold a token now, and until when."""

    list_display = ("__str__", Linked("participant"), "expires_at")
    fields = ("participant", "expires_at")
    list_select_related = ("participant",)
    list_filter = ("expires_at",)
    search_fields = ("participant__name",)
    date_hierarchy = "expires_at"


# --- Runs -------------------------------------------------------------------------------------


FEW_LINES = forms.Textarea(attrs={"rows": 3, "cols": 60})


class NewRunForm(VerbForm):
    """A run to be created, with every rule at its default."""

    name = forms.CharField(max_length=100, required=False)
    strategy = forms.ChoiceField(
        choices=lambda: [(name, name) for name in aggregation.names()], initial="fedavg"
    )
    strategy_options = forms.JSONField(required=False, initial=dict, widget=FEW_LINES)
    hyperparameters = forms.JSONField(
        required=False, initial=rules.HYPERPARAMETERS, widget=FEW_LINES
    )

    class Meta:
        model = Run
        fields = ("model", *rules.FIELDS)

    def make(self, **given: Any) -> Run:
        for name in ("hyperparameters", "strategy_options"):
            given[name] = given[name] if given[name] is not None else {}
        return lifecycle.create_run(**given)


RULES = (
    (
        None,
        {
            "fields": (
                *("model", "name", "kind", "strategy"),
                *("strategy_options", "hyperparameters", "seed"),
            )
        },
    ),
    (
        "How long",
        {
            "fields": (
                "rounds_planned",
                ("until_metric", "until_value"),
                ("best_metric", "patience", "patience_delta"),
                "keep_best",
            )
        },
    ),
    (
        "Who trains",
        {
            "fields": (
                ("selection", "fraction", "over_selection"),
                ("cohort_goal", "cohort_min", "selecting_seconds"),
            )
        },
    ),
    (
        "Who trains in an asynchronous run",
        {"fields": (("concurrency", "buffer_size"),)},
    ),
    ("Updates", {"fields": (("target", "quorum", "training_seconds"), "quarantine_factor")}),
    (
        "Measuring, and failures",
        {
            "fields": (
                ("gate_metric", "gate_tolerance"),
                ("evaluators", "evaluators_min", "evaluation_seconds"),
                ("retries", "retry_seconds"),
            )
        },
    ),
)
STANDING = (
    "state",
    "reason",
    "report",
    "failures",
    "next_round_at",
    CREATOR,
    "created_at",
    "started_at",
    "ended_at",
)


@admin.register(Run)
class RunAdmin(MakingAdmin):
    """Federated trainings: created by a form, led by decisions."""

    add_form = NewRunForm
    decisions = decisions.RUN
    in_journal = "run"
    state_name = "state"
    related = (
        Related("rounds", "rounds_round", "run__id__exact"),
        Related("assignments", "rounds_assignment", "round__run__id__exact"),
        Related("updates", "rounds_update", "assignment__round__run__id__exact"),
        Related("versions", "models_app_modelversion", "made_by__run__id__exact"),
    )
    list_display = (
        "id",
        "name",
        Linked("model"),
        chip("state"),
        "strategy",
        "progress",
        "reason",
        CREATOR,
        "created_at",
    )
    list_display_links = ("id", "name")
    list_filter = ("state", ("model__slug", ByModel), "kind", "strategy", "created_at")
    search_fields = ("name", "model__slug", "created_by__username", "reason")
    date_hierarchy = "created_at"
    lookups = ("model__id__exact", "created_by__id__exact")

    def get_queryset(self, request: HttpRequest) -> QuerySet[Run]:
        return selectors.runs()

    def view_on_site(self, run: Run) -> str:
        return dashboard("run", run.pk)

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        standing = [self.opened(request, cell) for cell in STANDING]
        return (("Where it stands", {"fields": standing}), *RULES) if obj else RULES

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        return ("report",) if obj else ()

    @admin.display(ordering="published")
    def progress(self, run: Any) -> SafeString:
        text = f"{run.published} of {run.rounds_planned}"
        return list_link("rounds_round", text, run__id__exact=run.pk)

    @admin.display
    def report(self, run: Run) -> SafeString:
        """What became of its rounds, as a table."""
        columns = ("number", "state", "version", "accepted", "rejected", "accuracy", "loss")
        heads = format_html_join("", "<th>{}</th>", ((name,) for name in columns))
        lines = [[line[name] for name in columns] for line in selectors.run_report(run)]
        cells = "<tr>" + "<td>{}</td>" * len(columns) + "</tr>"
        rows = format_html_join("", cells, [[_shown(value) for value in line] for line in lines])
        table = (
            '<div class="scroller" role="region" tabindex="0" aria-label="Its rounds">'
            "<table><tr>{}</tr>{}</table></div>"
        )
        return format_html(table, heads, rows)


def _shown(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


# --- Rounds -----------------------------------------------------------------------------------


@admin.register(Round)
class RoundAdmin(VerbAdmin):
    """Rounds of all runs."""

    decisions = decisions.ROUND
    in_journal = "round"
    state_name = "phase"
    related = (
        Related("assignments", "rounds_assignment", "round__id__exact"),
        Related("check-ins", "rounds_checkin", "round__id__exact"),
        Related("updates", "rounds_update", "assignment__round__id__exact"),
    )
    list_display = (
        "__str__",
        chip("phase"),
        Linked("run"),
        "invited",
        "uploaded",
        "accepted",
        "samples",
        "from_version",
        "made",
        "reason",
        "opened_at",
        "ended_at",
    )
    ordering = ("-id",)
    list_filter = ("phase", ("run__model__slug", ByModel), ("code", ByWord), "opened_at")
    search_fields = ("run__name", "run__model__slug", "code", "reason")
    date_hierarchy = "opened_at"
    lookups = ("run__id__exact", "base__id__exact", "run__model__id__exact")
    exclude = ("run", "base", "version", "lease", "diagnostics")
    readonly_fields = ("run_link", "from_version", "made", "invited", "accepted", "told")

    def get_queryset(self, request: HttpRequest) -> QuerySet[Round]:
        return selectors.rounds()

    def view_on_site(self, round_: Round) -> str:
        return dashboard("round", round_.pk)

    @admin.display(description="run", ordering="run")
    def run_link(self, round_: Round) -> SafeString:
        return row_link("rounds_run", round_.run_id, round_.run)

    @admin.display(description="trains from")
    def from_version(self, round_: Round) -> SafeString:
        return row_link("models_app_modelversion", round_.base_id, f"v{round_.base.number}")

    @admin.display(description="made")
    def made(self, round_: Round) -> SafeString | str:
        version = round_.version
        return (
            row_link("models_app_modelversion", version.pk, f"v{version.number}")
            if version
            else "-"
        )

    @admin.display(ordering="invited_count")
    def invited(self, round_: Any) -> SafeString:
        return list_link("rounds_assignment", round_.invited_count, round__id__exact=round_.pk)

    @admin.display(ordering="uploaded_count")
    def uploaded(self, round_: Any) -> int:
        return int(round_.uploaded_count)

    @admin.display(ordering="accepted_count")
    def accepted(self, round_: Any) -> int:
        return int(round_.accepted_count)

    @admin.display(ordering="samples")
    def samples(self, round_: Any) -> int:
        return round_.samples or 0

    @admin.display(description="what its strategy told")
    def told(self, round_: Round) -> SafeString | str:
        """The strategy's diagnostics, as a table."""
        found = [
            (name.replace("_", " "), _shown(value))
            for name, value in round_.diagnostics.items()
            if not isinstance(value, dict)
        ]
        rows = format_html_join("", "<tr><th>{}</th><td>{}</td></tr>", found)
        return format_html("<table>{}</table>", rows) if found else "-"


@admin.register(CheckIn)
class CheckInAdmin(RoleAdmin):
    """Who was there when a round was selecting."""

    list_display = ("id", Linked("participant"), Linked("round"), "at")
    list_select_related = ("participant", "round__run")
    list_filter = ("at",)
    search_fields = ("participant__name", "round__run__name")
    date_hierarchy = "at"


@admin.register(Assignment)
class AssignmentAdmin(RoleAdmin):
    """Everyone's places in rounds."""

    in_journal = "assignment"
    state_name = "state"
    list_display = (
        "id",
        "participant_link",
        "round_link",
        chip("state"),
        "doing",
        "samples",
        "norm",
        "staleness",
        "reason",
        "last_seen_at",
    )
    list_filter = (
        "state",
        ("code", ByWord),
        ("round__run__model__slug", ByModel),
        "invited_at",
    )
    search_fields = ("participant__name", "participant__uuid", "round__run__name", "reason")
    date_hierarchy = "invited_at"
    lookups = ("round__run__id__exact",)
    exclude = ("participant", "round")
    readonly_fields = ("participant_link", "round_link", "update_link")

    def get_queryset(self, request: HttpRequest) -> QuerySet[Assignment]:
        return selectors.assignments()

    def view_on_site(self, one: Assignment) -> str:
        return dashboard("round", one.round_id)

    @admin.display(description="participant", ordering="participant__name")
    def participant_link(self, one: Assignment) -> SafeString:
        return row_link("rounds_participant", one.participant_id, one.participant)

    @admin.display(description="round", ordering="round")
    def round_link(self, one: Assignment) -> SafeString:
        return row_link("rounds_round", one.round_id, one.round)

    @admin.display(description="update")
    def update_link(self, one: Assignment) -> SafeString | str:
        return row_link("rounds_update", one.pk, one.update.digest) if _has_update(one) else "-"

    @admin.display
    def doing(self, one: Assignment) -> str:
        return f"{one.activity} {one.fraction:.0%}" if one.activity else "-"

    @admin.display(ordering="update__samples")
    def samples(self, one: Assignment) -> int | str:
        return one.update.samples if _has_update(one) else "-"

    @admin.display(ordering="update__norm")
    def norm(self, one: Assignment) -> str:
        return f"{one.update.norm:.4g}" if _has_update(one) else "-"


def _has_update(one: Assignment) -> bool:
    return hasattr(one, "update")


@admin.register(Update)
class UpdateAdmin(RoleAdmin):
    """What was uploaded: its digest, length, samples and norm; its bytes stay where they are."""

    list_display = (
        "short_digest",
        Linked("assignment"),
        Linked("assignment__participant"),
        Linked("assignment__round"),
        "samples",
        "norm",
        "bytes",
        "received_at",
        "deleted_at",
    )
    list_select_related = ("assignment__participant", "assignment__round__run")
    list_filter = ("received_at", "assignment__state", "deleted_at")
    search_fields = ("digest", "assignment__participant__name")
    date_hierarchy = "received_at"
    lookups = (
        "assignment__participant__id__exact",
        "assignment__round__id__exact",
        "assignment__round__run__id__exact",
    )
    exclude = ("assignment",)
    readonly_fields = ("assignment_link", "participant_link", "round_link")

    @admin.display(description="digest", ordering="digest")
    def short_digest(self, update: Update) -> str:
        return update.digest[:12]

    @admin.display(description="assignment")
    def assignment_link(self, update: Update) -> SafeString:
        return row_link("rounds_assignment", update.assignment_id, update.assignment)

    @admin.display(description="participant")
    def participant_link(self, update: Update) -> SafeString:
        who = update.assignment.participant
        return row_link("rounds_participant", who.pk, who)

    @admin.display(description="round")
    def round_link(self, update: Update) -> SafeString:
        return row_link("rounds_round", update.assignment.round_id, update.assignment.round)


# --- Federated evaluations --------------------------------------------------------------------


@admin.register(FederatedEvaluation)
class FederatedEvaluationAdmin(RoleAdmin):
    """Versions that participants measure on data of their own."""

    state_name = "state"
    related = (Related("reports", "rounds_evaluationreport", "evaluation__id__exact"),)
    list_display = (
        "id",
        Linked("version"),
        Linked("round"),
        chip("state"),
        "goal",
        "minimum",
        "reason",
        "opened_at",
        "ended_at",
    )
    list_select_related = ("version__model", "round__run")
    list_filter = ("state", ("version__model__slug", ByModel), "opened_at")
    search_fields = ("version__model__slug", "reason", "created_by")
    date_hierarchy = "opened_at"


@admin.register(EvaluationReport)
class EvaluationReportAdmin(RoleAdmin):
    """Who was asked to measure a version, and who has; what a single one found is nobody's."""

    list_display = (
        "id",
        Linked("participant"),
        Linked("evaluation"),
        "code",
        "reason",
        "asked_at",
        "reported_at",
    )
    list_select_related = ("participant", "evaluation__version__model")
    list_filter = (("code", ByWord), "asked_at")
    search_fields = ("participant__name", "reason")
    date_hierarchy = "asked_at"
    lookups = ("evaluation__id__exact",)
    exclude = ("samples", "metrics", "classes")
