"""The admin's doors for people, and the base that all admin pages of the house share."""

from typing import Any

from django.contrib import admin, messages
from django.contrib.auth.admin import UserAdmin
from django.contrib.auth.models import User
from django.http import HttpRequest
from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString

from accounts.models import PersonalToken
from accounts.roles import OPERATORS, OWNERS, VIEWERS, roles_of


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


class RoleAdmin(admin.ModelAdmin):
    """An admin page that viewers may read and whose rows change through verbs only.

    Subclasses widen `add_roles`, `change_roles` or `delete_roles` where a form is the right verb.
    """

    view_roles: tuple[str, ...] = VIEWERS
    add_roles: tuple[str, ...] = ()
    change_roles: tuple[str, ...] = ()
    delete_roles: tuple[str, ...] = ()
    action_roles: tuple[str, ...] = OPERATORS
    show_full_result_count = False

    def _holds(self, request: HttpRequest, allowed: tuple[str, ...]) -> bool:
        return not roles_of(request.user).isdisjoint(allowed)

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

    def has_act_permission(self, request: HttpRequest) -> bool:
        """What `@admin.action(permissions=["act"])` asks."""
        return self._holds(request, self.action_roles)


admin.site.unregister(User)


@admin.register(User)
class PersonAdmin(RoleAdmin, UserAdmin):
    """The people who may sign in, and their roles; owners look after them."""

    view_roles = add_roles = change_roles = delete_roles = OWNERS
    list_display = ("username", "is_active", "is_staff", "is_superuser", "last_login")
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


@admin.register(PersonalToken)
class PersonalTokenAdmin(RoleAdmin):
    """Everyone's own tokens; owners see all."""

    list_display = ("label", "user", "created_at", "expires_at", "last_used_at")
    search_fields = ("label", "user__username")
    list_filter = ("expires_at",)
    fields = ("label", "expires_at")
    add_roles = VIEWERS
    delete_roles = VIEWERS

    def get_queryset(self, request: HttpRequest) -> Any:
        tokens = super().get_queryset(request)
        return tokens if self._holds(request, OWNERS) else tokens.filter(user=request.user)

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        token, secret = PersonalToken.objects.issue(request.user, obj.label, obj.expires_at)
        obj.pk = token.pk
        obj.user, obj.digest = token.user, token.digest
        messages.warning(request, f"Copy this token now, it is shown only once: {secret}")
