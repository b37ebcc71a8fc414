"""The journal in the admin: to be read, searched, and followed to what it speaks of."""

from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.html import format_html_join
from django.utils.safestring import SafeString

from accounts.admin import RoleAdmin, list_link, row_link
from journal.events import KINDS
from journal.models import Event

# Where a line's subjects are shown. Names only: the journal imports nothing of the house.
PAGES = {
    "model": "models_app_model",
    "version": "models_app_modelversion",
    "run": "rounds_run",
    "round": "rounds_round",
    "assignment": "rounds_assignment",
    "participant": "rounds_participant",
}


class ByKind(admin.SimpleListFilter):
    """Narrows the journal to one kind of event; which there are, is known without asking it."""

    title = parameter_name = "kind"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(kind, kind) for kind in KINDS]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Event]) -> QuerySet[Event]:
        kind = self.value()
        return queryset.filter(kind=kind) if kind else queryset


@admin.register(Event)
class EventAdmin(RoleAdmin):
    """Lines of the journal, newest first."""

    list_display = ("id", "at", "kind", "subjects", "by", "reason")
    list_filter = ("at", ByKind)
    search_fields = ("kind", "actor", "reason")
    date_hierarchy = "at"
    ordering = ("-id",)
    fields = ("id", "at", "kind", "subjects", "by", "reason", "data")
    readonly_fields = ("subjects", "by")

    @admin.display
    def subjects(self, event: Event) -> SafeString:
        """What it speaks of. A row may be gone by now; the admin then says so."""
        told = ((name, page, getattr(event, name)) for name, page in PAGES.items())
        links = ((row_link(page, pk, f"{name} {pk}"),) for name, page, pk in told if pk is not None)
        return format_html_join(", ", "{}", links)

    @admin.display(description="actor", ordering="actor")
    def by(self, event: Event) -> SafeString | str:
        """Who did it, and so what else they did; the server itself has no name."""
        if not event.actor:
            return "the server"
        return list_link("journal_event", event.actor, actor__exact=event.actor)
