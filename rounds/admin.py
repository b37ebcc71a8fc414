"""The room in Django's admin: every row to be read, and the verbs as actions and forms."""

from collections.abc import Callable
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.contrib.admin.helpers import ActionForm
from django.contrib.admin.widgets import AdminSplitDateTime
from django.db.models import QuerySet
from django.http import HttpRequest
from django.urls import reverse
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from accounts.admin import RoleAdmin, list_link, row_link
from accounts.roles import OPERATORS
from models_app import selectors as registry
from models_app.errors import FedserverError
from rounds import aggregation, enrolment, lifecycle, rules, selectors, tasks
from rounds.models import (
    Assignment,
    CheckIn,
    JoinCode,
    Participant,
    ParticipantToken,
    Round,
    Run,
    Update,
)


class ReasonForm(ActionForm):
    """Why an action is taken; it goes into the journal."""

    reason = forms.CharField(required=False, max_length=1000)


class ByModel(admin.AllValuesFieldListFilter):
    """Narrows a list to one model; what it is put on is the model's slug."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.title = "model"


class VerbAdmin(RoleAdmin):
    """A list whose actions are verbs."""

    action_form = ReasonForm

    def carry_out(
        self, request: HttpRequest, chosen: QuerySet[Any], verb: Callable[..., object], done: str
    ) -> None:
        """Call a verb for each chosen row, and say how each one went.

        Args:
            request: Of the action; its `reason` goes to the verb.
            chosen: The rows.
            verb: Takes a row, `actor` and `reason`.
            done: What a row is afterwards.
        """
        reason = request.POST.get("reason", "")[:1000]
        for row in chosen:
            try:
                verb(row, actor=request.user.get_username(), reason=reason)
            except FedserverError as error:
                self.message_user(request, f"{row}: {error.detail}", messages.ERROR)
            else:
                self.message_user(request, f"{row} is {done}.", messages.SUCCESS)


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
        required=False, widget=AdminSplitDateTime, help_text="empty: in a week"
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
    list_display = ("__str__", "model", "used", "expires_at", "withdrawn_at", "created_by")
    list_filter = ("expires_at", "withdrawn_at", ("model__slug", ByModel))
    search_fields = ("label", "model__slug", "created_by__username")
    date_hierarchy = "created_at"
    actions = ("withdraw",)

    def get_queryset(self, request: HttpRequest) -> QuerySet[JoinCode]:
        return selectors.join_codes()

    def get_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        made = ("used", "withdrawn_at", "created_by", "created_at", "participants")
        return (*NewJoinCodeForm.Meta.fields, *(made if obj else ()))

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        return ("used", "withdrawn_at", "created_by", "created_at", "participants") if obj else ()

    @admin.display(description="used", ordering="uses")
    def used(self, code: JoinCode) -> str:
        return f"{code.uses} of {code.max_uses}"

    @admin.display
    def participants(self, code: JoinCode) -> SafeString:
        return list_link("rounds_participant", "who enrolled with it", join_code__id__exact=code.pk)

    @admin.action(description="Withdraw", permissions=["act"])
    def withdraw(self, request: HttpRequest, chosen: QuerySet[JoinCode]) -> None:
        self.carry_out(request, chosen, enrolment.withdraw_join_code, "withdrawn")

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        address = request.build_absolute_uri(reverse("service")).removesuffix("/api/v1/")
        told = "The code is shown only now. A participant joins with: {}"
        command = format_html("<code>fedclient join {} {}</code>", address, form.secret)
        messages.warning(request, format_html(told, command))


# --- Participants -----------------------------------------------------------------------------


@admin.register(Participant)
class ParticipantAdmin(VerbAdmin):
    """Who trains."""

    list_display = (
        "name",
        "state",
        "model",
        "invited",
        "accepted",
        "last_seen_at",
        "enrolled_at",
        "uuid",
    )
    list_filter = ("state", ("model__slug", ByModel), "last_seen_at")
    search_fields = ("name", "uuid", "public_key")
    date_hierarchy = "enrolled_at"
    exclude = ("join_code",)
    readonly_fields = ("uuid", "invited", "accepted", "code_link", "events")
    actions = ("suspend", "reinstate", "revoke")

    def get_queryset(self, request: HttpRequest) -> QuerySet[Participant]:
        return selectors.participants()

    @admin.display(ordering="invited_count")
    def invited(self, participant: Any) -> SafeString:
        narrowed = {"participant__id__exact": participant.pk}
        return list_link("rounds_assignment", participant.invited_count, **narrowed)

    @admin.display(ordering="accepted_count")
    def accepted(self, participant: Any) -> int:
        return int(participant.accepted_count)

    @admin.display(description="join code")
    def code_link(self, participant: Participant) -> SafeString | str:
        code = participant.join_code
        return row_link("rounds_joincode", code.pk, code) if code else "-"

    @admin.display
    def events(self, participant: Participant) -> SafeString:
        return list_link("journal_event", "its journal", participant=participant.pk)

    @admin.action(description="Suspend", permissions=["act"])
    def suspend(self, request: HttpRequest, chosen: QuerySet[Participant]) -> None:
        self.carry_out(request, chosen, enrolment.suspend, "suspended")

    @admin.action(description="Reinstate", permissions=["act"])
    def reinstate(self, request: HttpRequest, chosen: QuerySet[Participant]) -> None:
        self.carry_out(request, chosen, enrolment.reinstate, "active again")

    @admin.action(description="Revoke, for good", permissions=["act"])
    def revoke(self, request: HttpRequest, chosen: QuerySet[Participant]) -> None:
        self.carry_out(request, chosen, enrolment.revoke, "revoked")


@admin.register(ParticipantToken)
class ParticipantTokenAdmin(RoleAdmin):
    """Which participants hold a token now, and until when."""

    list_display = fields = ("participant", "expires_at")
    list_select_related = ("participant",)
    list_filter = ("expires_at",)
    search_fields = ("participant__name",)


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
        {"fields": ("model", "name", "strategy", "strategy_options", "hyperparameters", "seed")},
    ),
    ("How long", {"fields": ("rounds_planned", "until_metric", "until_value")}),
    (
        "Who trains",
        {
            "fields": (
                ("selection", "fraction", "over_selection"),
                ("cohort_goal", "cohort_min", "selecting_seconds"),
            )
        },
    ),
    ("Updates", {"fields": (("target", "quorum", "training_seconds"), "quarantine_factor")}),
    (
        "The gate, and failures",
        {"fields": (("gate_metric", "gate_tolerance"), ("retries", "retry_seconds"))},
    ),
)
STANDING = (
    "state",
    "reason",
    "report",
    "failures",
    "next_round_at",
    "created_by",
    "created_at",
    "started_at",
    "ended_at",
    "events",
)


@admin.register(Run)
class RunAdmin(MakingAdmin):
    """Federated trainings: created by a form, led by actions."""

    add_form = NewRunForm
    list_display = ("id", "name", "model", "state", "progress", "reason", "created_at")
    list_filter = ("state", ("model__slug", ByModel), "strategy")
    search_fields = ("name", "model__slug", "created_by__username")
    date_hierarchy = "created_at"
    actions = ("start", "pause", "resume", "stop")

    def get_queryset(self, request: HttpRequest) -> QuerySet[Run]:
        return selectors.runs()

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        return (("Where it stands", {"fields": STANDING}), *RULES) if obj else RULES

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        return ("report", "events") if obj else ()

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
        return format_html("<table><tr>{}</tr>{}</table>", heads, rows)

    @admin.display
    def events(self, run: Run) -> SafeString:
        return list_link("journal_event", "its journal", run=run.pk)

    @admin.action(description="Start", permissions=["act"])
    def start(self, request: HttpRequest, chosen: QuerySet[Run]) -> None:
        self.carry_out(request, chosen, of_run(lifecycle.start_run), "running")

    @admin.action(description="Pause", permissions=["act"])
    def pause(self, request: HttpRequest, chosen: QuerySet[Run]) -> None:
        self.carry_out(request, chosen, of_run(lifecycle.pause_run), "paused")

    @admin.action(description="Resume", permissions=["act"])
    def resume(self, request: HttpRequest, chosen: QuerySet[Run]) -> None:
        self.carry_out(request, chosen, of_run(lifecycle.resume_run), "running again")

    @admin.action(description="Stop", permissions=["act"])
    def stop(self, request: HttpRequest, chosen: QuerySet[Run]) -> None:
        self.carry_out(request, chosen, of_run(lifecycle.stop_run), "stopped")


def of_run(verb: Callable[..., object]) -> Callable[..., None]:
    """A verb of a run's id as one of its row, which rings for the step that may be due."""

    def carried(run: Run, **decision: str) -> None:
        verb(run.pk, **decision)
        tasks.ring_run(run.pk)

    return carried


def of_round(verb: Callable[..., object]) -> Callable[..., None]:
    """A verb of a round's id as one of its row, which rings for the step that may be due."""

    def carried(round_: Round, **decision: str) -> None:
        verb(round_.pk, **decision)
        tasks.ring_run(round_.run_id)

    return carried


def _shown(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


# --- Rounds -----------------------------------------------------------------------------------


@admin.register(Round)
class RoundAdmin(VerbAdmin):
    """Rounds of all runs."""

    list_display = (
        "__str__",
        "phase",
        "invited",
        "uploaded",
        "accepted",
        "samples",
        "made",
        "reason",
        "ended_at",
    )
    ordering = ("-id",)
    list_filter = ("phase", ("run__model__slug", ByModel), "code")
    search_fields = ("run__name", "run__model__slug", "code", "reason")
    date_hierarchy = "opened_at"
    exclude = ("run", "base", "version", "lease")
    readonly_fields = ("run_link", "from_version", "made", "invited", "accepted", "events")
    actions = ("close", "cancel")

    def get_queryset(self, request: HttpRequest) -> QuerySet[Round]:
        return selectors.rounds()

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

    @admin.display
    def events(self, round_: Round) -> SafeString:
        return list_link("journal_event", "its journal", round=round_.pk)

    @admin.action(description="Close now, with the updates that are here", permissions=["act"])
    def close(self, request: HttpRequest, chosen: QuerySet[Round]) -> None:
        self.carry_out(request, chosen, of_round(lifecycle.close_round), "closed")

    @admin.action(description="Cancel", permissions=["act"])
    def cancel(self, request: HttpRequest, chosen: QuerySet[Round]) -> None:
        self.carry_out(request, chosen, of_round(lifecycle.cancel_round), "cancelled")


@admin.register(CheckIn)
class CheckInAdmin(RoleAdmin):
    """Who was there when a round was selecting."""

    list_display = ("participant", "round", "at")
    list_select_related = ("participant", "round__run")
    list_filter = ("at",)
    search_fields = ("participant__name", "round__run__name")
    date_hierarchy = "at"


@admin.register(Assignment)
class AssignmentAdmin(RoleAdmin):
    """Everyone's places in rounds."""

    list_display = (
        "id",
        "participant_link",
        "round_link",
        "state",
        "doing",
        "samples",
        "norm",
        "reason",
        "last_seen_at",
    )
    list_filter = ("state", "code", ("round__run__model__slug", ByModel))
    search_fields = ("participant__name", "participant__uuid", "round__run__name", "reason")
    date_hierarchy = "invited_at"
    exclude = ("participant", "round")
    readonly_fields = ("participant_link", "round_link", "update_link")

    def get_queryset(self, request: HttpRequest) -> QuerySet[Assignment]:
        return selectors.assignments()

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

    list_display = ("assignment_link", "samples", "norm", "bytes", "received_at", "deleted_at")
    list_select_related = ("assignment__participant", "assignment__round__run")
    list_filter = ("received_at", "assignment__state")
    search_fields = ("digest", "assignment__participant__name")
    date_hierarchy = "received_at"
    exclude = ("assignment",)
    readonly_fields = ("assignment_link",)

    @admin.display(description="assignment")
    def assignment_link(self, update: Update) -> SafeString:
        return row_link("rounds_assignment", update.assignment_id, update.assignment)
