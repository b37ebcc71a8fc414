"""The base that all admin pages of the house share, and the admin's doors for people.

Rows change through verbs: an action or a button leads to a page that says what will happen to
which rows and asks for the reason, and that page calls the verb (`accounts/decisions.py`).
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from django.contrib import admin, messages
from django.contrib.admin.options import IS_POPUP_VAR
from django.contrib.admin.widgets import AdminSplitDateTime
from django.contrib.auth.admin import UserAdmin
from django.contrib.auth.models import Group, User
from django.contrib.auth.views import redirect_to_login
from django.core.exceptions import PermissionDenied, ValidationError
from django.db.models import DateTimeField, QuerySet
from django.forms import CheckboxSelectMultiple, Form, SplitDateTimeField
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import path, reverse
from django.utils.functional import cached_property
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.text import capfirst

from accounts.decisions import TOKEN, Decision, possible
from accounts.models import PersonalToken
from accounts.roles import OWNERS, VIEWERS, roles_of
from accounts.tokens import make_token

MOST_ROWS = 100  # that one decision is taken about

# --- Cells ------------------------------------------------------------------------------------


def row_link(page: str, pk: object, text: object) -> SafeString:
    """A link to a row's own page in the admin.

    Args:
        page: App and model, such as `rounds_run`.
        pk: The row's primary key.
        text: What is shown.
    """
    return format_html('<a href="{}">{}</a>', reverse(f"admin:{page}_change", args=[pk]), text)


def list_link(page: str, text: object, **narrowed: object) -> SafeString:
    """A link to a list in the admin, narrowed to what is asked for.

    Args:
        page: App and model, such as `rounds_round`.
        text: What is shown.
        **narrowed: Lookups, for example `run__id__exact=3`.
    """
    address = reverse(f"admin:{page}_changelist", query=narrowed)
    return format_html('<a href="{}">{}</a>', address, text)


class Linked:
    """A cell that leads to the row that a foreign key names.

    Args:
        path: Of the foreign key: its name, or a path to it such as `round__run`.
        title: Of the column; the last part of the path when empty.
    """

    def __init__(self, path: str, title: str = "") -> None:
        self.path = self.admin_order_field = path
        self.short_description = title or path.rpartition("__")[2].replace("_", " ")
        self.__name__ = f"{path}_link"

    def __call__(self, row: Any) -> SafeString | str:
        found = self.row(row)
        if found is None:
            return "-"
        meta = found._meta
        return row_link(f"{meta.app_label}_{meta.model_name}", found.pk, found)

    def row(self, row: Any) -> Any:
        """What the key names, or None."""
        for part in self.path.split("__"):
            row = getattr(row, part, None)
        return row

    def table(self, model: Any) -> Any:
        """The model that it leads to from this one."""
        for part in self.path.split("__"):
            model = model._meta.get_field(part).related_model
        return model

    @cached_property
    def plain(self) -> "Linked":
        """The same for those who may not go there."""
        return Named(self.path, self.short_description)


class Named(Linked):
    """A cell that only names the row."""

    def __call__(self, row: Any) -> str:
        return str(self.row(row) or "-")


def chip(name: str) -> Callable[[Any], SafeString]:
    """A cell that shows a state by its colour and its word."""

    def cell(row: Any) -> SafeString:
        return state_chip(getattr(row, name))

    cell.__name__ = f"{name}_chip"
    return admin.display(cell, description=name, ordering=name)


def dashboard(name: str, *args: object) -> str:
    """The address of a row's page in the dashboard.

    Args:
        name: Of the page, such as `run`.
        *args: What the address names.
    """
    return reverse(f"frontend:{name}", args=args)


def state_chip(state: str) -> SafeString:
    """A state, by its colour and its word."""
    return format_html('<span class="state" data-state="{}">{}</span>', state, state)


class ByWord(admin.AllValuesFieldListFilter):
    """Narrows a list to one of the words that a field holds; no word is one too."""

    def choices(self, changelist: Any) -> Any:
        for choice in super().choices(changelist):
            yield choice | {"display": choice["display"] or "none"}


class Moment(AdminSplitDateTime):
    """A date and a time, each of which says to a screen reader what it is."""

    def __init__(self, attrs: Any = None) -> None:
        super().__init__(attrs)
        for widget, word in zip(self.widgets, ("Date", "Time"), strict=True):
            widget.attrs["aria-label"] = word


# --- The base ---------------------------------------------------------------------------------


class Related(NamedTuple):
    """Rows that belong to a row: a list in the admin, narrowed to them.

    Args:
        text: On the link.
        page: App and model of the list, such as `rounds_round`.
        lookup: What narrows it, such as `run__id__exact`.
        by: The attribute of the row whose value the lookup takes.
    """

    text: str
    page: str
    lookup: str
    by: str = "pk"


def _roles(request: HttpRequest) -> frozenset[str]:
    """Those of who asks. A page of the admin wants to know them fifty times."""
    kept = vars(request)
    if "roles" not in kept:
        kept["roles"] = roles_of(request.user)
    found: frozenset[str] = kept["roles"]
    return found


class RoleAdmin(admin.ModelAdmin):
    """An admin page that viewers may read and whose rows change through verbs only.

    Subclasses widen `add_roles`, `change_roles` or `delete_roles` where a form is the right verb,
    name their `decisions`, the lists that are `related` to a row, and what the journal calls it,
    and say in `view_on_site` where the dashboard shows it.
    """

    view_roles: tuple[str, ...] = VIEWERS
    add_roles: tuple[str, ...] = ()
    change_roles: tuple[str, ...] = ()
    delete_roles: tuple[str, ...] = ()
    decisions: Mapping[str, Decision] = {}
    related: tuple[Related, ...] = ()
    in_journal = ""  # the subject's name in the journal
    state_name = ""  # the field that says where a row stands
    refusals: tuple[type[Exception], ...] = ()  # what verbs raise when they refuse
    lookups: tuple[str, ...] = ()  # that links of other pages narrow this list by
    view_on_site: Any = False
    show_full_result_count = False
    list_per_page = 50
    formfield_overrides = {DateTimeField: {"form_class": SplitDateTimeField, "widget": Moment}}

    # Who may

    def _holds(self, request: HttpRequest, allowed: Sequence[str]) -> bool:
        return not _roles(request).isdisjoint(allowed)

    def has_module_permission(self, request: HttpRequest) -> bool:
        return self._holds(request, self.view_roles)

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return self._holds(request, self.view_roles)

    def has_add_permission(self, request: HttpRequest) -> bool:
        return self._holds(request, self.add_roles)

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return self._holds(request, self.change_roles)

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return self._holds(request, self.delete_roles)

    def lookup_allowed(self, lookup: str, value: Any, request: HttpRequest) -> bool:
        return lookup in self.lookups or super().lookup_allowed(lookup, value, request)

    # Where else

    def get_list_display(self, request: HttpRequest) -> Any:
        columns = [self.opened(request, one) for one in super().get_list_display(request)]
        if callable(self.view_on_site):
            columns.insert(1, "on_dashboard")  # where it is seen without scrolling
        return columns

    def opened(self, request: HttpRequest, cell: Any) -> Any:
        """A cell as this person may have it: who may not look at rows is shown no way to them."""
        if not isinstance(cell, Linked):
            return cell
        room = self.admin_site.get_model_admin(cell.table(self.model))
        return cell if room.has_view_permission(request) else cell.plain

    @admin.display(description="dashboard")
    def on_dashboard(self, row: Any) -> SafeString:
        """A way to the row's page among the pages for everyone."""
        words = '<a href="{}">Open<span class="hidden-but-read"> {}</span></a>'
        return format_html(words, self.view_on_site(row), row)

    def changelist_view(self, request: HttpRequest, extra_context: Any = None) -> HttpResponse:
        title = capfirst(self.opts.verbose_name_plural)
        return super().changelist_view(request, {"title": title, **(extra_context or {})})

    def render_change_form(
        self,
        request: HttpRequest,
        context: Any,
        add: bool = False,
        change: bool = False,
        form_url: str = "",
        obj: Any = None,
    ) -> Any:
        if obj is not None:
            roles = _roles(request)
            context["decisions"] = [
                (one, self._decide_address(name, row=obj.pk))
                for name, one in possible(self.decisions, obj, roles).items()
            ]
            context["related"] = self._related_links(obj)
            context["state"] = self._state_of(obj)
        return super().render_change_form(request, context, add, change, form_url, obj)

    def _related_links(self, row: Any) -> list[SafeString]:
        links = [
            list_link(one.page, one.text, **{one.lookup: getattr(row, one.by)})
            for one in self.related
        ]
        if self.in_journal:
            links.append(list_link("journal_event", "journal", **{self.in_journal: row.pk}))
        return links

    def _state_of(self, row: Any) -> SafeString | str:
        return state_chip(getattr(row, self.state_name)) if self.state_name else ""

    # Decisions

    def get_urls(self) -> list[Any]:
        name = f"{self.opts.app_label}_{self.opts.model_name}_decide"
        view = self.admin_site.admin_view(self.decide_view)
        return [path("decide/<slug:verb>/", view, name=name), *super().get_urls()]

    def _decide_address(self, verb: str, **query: Any) -> str:
        name = f"admin:{self.opts.app_label}_{self.opts.model_name}_decide"
        return reverse(name, args=[verb], query=query)

    def get_actions(self, request: HttpRequest) -> Any:
        actions: dict[str, Any] = super().get_actions(request)
        if IS_POPUP_VAR in request.GET:
            return actions
        for name, decision in self.decisions.items():
            if self._holds(request, decision.roles):
                actions[name] = (partial(_ask, verb=name), name, decision.label)
        return actions

    def decide_view(self, request: HttpRequest, verb: str) -> HttpResponse:
        """Ask whether a decision about some rows is meant, and why; then take it."""
        decision = self.decisions.get(verb)
        if decision is None:
            raise Http404(f"Expected one of {', '.join(self.decisions)}. Received: {verb}")
        if not self._holds(request, decision.roles):
            raise PermissionDenied
        rows = self._asked_for(request)
        form = decision.bound(request.POST if request.method == "POST" else None)
        if form.is_valid() and self._carry_out(request, decision, rows, form):
            return HttpResponseRedirect(self._back(request, rows))
        return self._question(request, decision, rows, form)

    def _asked_for(self, request: HttpRequest) -> list[Any]:
        try:
            keys = [self.opts.pk.to_python(key) for key in request.GET.getlist("row")]
        except ValidationError:
            keys = []
        rows = list(self.get_queryset(request).filter(pk__in=keys[:MOST_ROWS]))
        if not rows:
            raise Http404("Expected rows that there are. Received: none of these")
        return rows

    def _carry_out(
        self, request: HttpRequest, decision: Decision, rows: list[Any], form: Form
    ) -> bool:
        """Call the verb for each row and say how each one went; False if none did."""
        refused = []
        actor = request.user.get_username()
        for row in rows:
            try:
                decision.verb(row, actor=actor, **form.cleaned_data)
            except self.refusals as error:
                refused.append(f"{row}: {error}")
            else:
                self.message_user(request, decision.done.format(row=row), messages.SUCCESS)
        if len(refused) == len(rows):
            for told in refused:
                form.add_error(None, told)
            return False
        for told in refused:
            self.message_user(request, told, messages.ERROR)
        return True

    def _question(
        self, request: HttpRequest, decision: Decision, rows: list[Any], form: Form
    ) -> HttpResponse:
        context = {
            **self.admin_site.each_context(request),
            "title": decision.label,
            "opts": self.opts,
            "decision": decision,
            "rows": [self._shown(decision, row) for row in rows],
            "form": form,
            "back": self._back(request, rows),
        }
        status = 409 if form.non_field_errors() else 200
        return TemplateResponse(request, "admin/decide.html", context, status=status)

    def _shown(self, decision: Decision, row: Any) -> dict[str, Any]:
        page = f"{self.opts.app_label}_{self.opts.model_name}"
        return {
            "link": row_link(page, row.pk, row),
            "state": self._state_of(row),
            "possible": decision.possible(row),
        }

    def _back(self, request: HttpRequest, rows: list[Any]) -> str:
        """The list as it was narrowed, or the page of the one row."""
        page = f"admin:{self.opts.app_label}_{self.opts.model_name}"
        alone = len(rows) == 1 and "list" not in request.GET
        if alone and self.get_queryset(request).filter(pk=rows[0].pk).exists():
            return reverse(f"{page}_change", args=[rows[0].pk])
        narrowed = request.GET.get("list", "")
        return reverse(f"{page}_changelist") + (f"?{narrowed}" if narrowed else "")


def _ask(
    room: RoleAdmin, request: HttpRequest, chosen: QuerySet[Any], *, verb: str
) -> HttpResponse | None:
    """An action: on to the page that asks whether the decision is meant."""
    keys = list(chosen.order_by().values_list("pk", flat=True)[: MOST_ROWS + 1])
    if len(keys) > MOST_ROWS:
        told = f"Expected at most {MOST_ROWS} rows at once. Received: more."
        room.message_user(request, told, messages.ERROR)
        return None
    address = room._decide_address(verb, row=keys, list=request.GET.urlencode())
    return HttpResponseRedirect(address)


# --- Signing in -------------------------------------------------------------------------------


def sign_in(request: HttpRequest, extra_context: Any = None) -> HttpResponse:
    """There is one page to sign in on, the dashboard's; who is no staff is told so."""
    if not request.user.is_authenticated:
        return redirect_to_login(request.GET.get("next") or reverse("admin:index"))
    context = {**admin.site.each_context(request), "title": "The admin is for staff"}
    return TemplateResponse(request, "admin/no_staff.html", context, status=403)


admin.site.login = sign_in  # type: ignore[method-assign]


# --- People -----------------------------------------------------------------------------------

admin.site.unregister(User)
admin.site.unregister(Group)  # the roles are what they are; people get them on their own page


@admin.register(User)
class PersonAdmin(RoleAdmin, UserAdmin):
    """The people who may sign in, and their roles; owners look after them."""

    view_roles = add_roles = change_roles = delete_roles = OWNERS
    list_display = ("username", "role", "is_active", "is_staff", "last_login", "date_joined")
    list_filter = ("is_active", "is_staff", "groups", "last_login")
    date_hierarchy = "date_joined"
    fieldsets = (
        (None, {"fields": ("username", "password")}),
        ("Who it is", {"fields": ("first_name", "last_name", "email")}),
        (
            "What they may do",
            {
                "fields": ("is_active", "is_staff", "groups"),
                "description": "Staff may sign in here. The groups operator and owner are the "
                "roles of the same name; everyone else only looks.",
            },
        ),
        ("When", {"fields": ("last_login", "date_joined")}),
    )
    readonly_fields = ("last_login", "date_joined")
    filter_horizontal = ()
    related = (
        Related("personal tokens", "accounts_personaltoken", "user__id__exact"),
        Related("runs", "rounds_run", "created_by__id__exact"),
        Related("join codes", "rounds_joincode", "created_by__id__exact"),
        Related("what they did", "journal_event", "actor__exact", "username"),
    )

    def get_queryset(self, request: HttpRequest) -> QuerySet[User]:
        return super().get_queryset(request).prefetch_related("groups")

    def formfield_for_manytomany(self, db_field: Any, request: HttpRequest, **kwargs: Any) -> Any:
        kwargs["widget"] = CheckboxSelectMultiple()
        return super().formfield_for_manytomany(db_field, request, **kwargs)

    def get_deleted_objects(self, objs: Any, request: HttpRequest) -> Any:
        """Their personal tokens go with them, which otherwise only a decision deletes."""
        deleted, counts, lacking, protected = super().get_deleted_objects(objs, request)
        return deleted, counts, lacking - {PersonalToken._meta.verbose_name}, protected

    @admin.display
    def role(self, user: User) -> str:
        """The highest one that they hold."""
        names = {group.name for group in user.groups.all()}
        if user.is_superuser or "owner" in names:
            return "owner"
        return "operator" if "operator" in names else "viewer"


OWNER = Linked("user")


@admin.register(PersonalToken)
class PersonalTokenAdmin(RoleAdmin):
    """Everyone's own tokens; owners see all."""

    list_display = ("label", OWNER, "created_at", "expires_at", "last_used_at")
    search_fields = ("label", "user__username")
    list_filter = ("expires_at", "last_used_at")
    list_select_related = ("user",)
    date_hierarchy = "created_at"
    fields = ("label", "expires_at")
    add_roles = VIEWERS
    decisions = TOKEN

    def get_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        made = (self.opened(request, OWNER), "created_at", "last_used_at")
        return (*self.fields, *made) if obj else self.fields

    def get_queryset(self, request: HttpRequest) -> Any:
        tokens = super().get_queryset(request)
        return tokens if self._holds(request, OWNERS) else tokens.filter(user=request.user)

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        user = request.user
        token, secret = make_token(
            user, label=obj.label, expires_at=obj.expires_at, actor=user.get_username()
        )
        obj.pk = token.pk
        obj.user, obj.digest = token.user, token.digest
        messages.warning(request, f"Copy this token now, it is shown only once: {secret}")
