"""How the pages say states, times and numbers."""

from datetime import datetime
from typing import Any

from django import template
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString, mark_safe

from rounds import aggregation, amounts

register = template.Library()
NOTHING = "\u2013"  # a dash, for what is not known


@register.simple_tag(takes_context=True)
def place(context: Any, name: str, label: str, *also: str) -> SafeString:
    """An entry of the navigation, marked where one is.

    Args:
        context: With the request.
        name: Of its address.
        label: What is shown.
        *also: First parts of other addresses that belong to it, such as `rounds`.
    """
    root, address = reverse("frontend:overview"), reverse(f"frontend:{name}")
    path = context["request"].path
    here = (address, *(f"{root}{part}/" for part in also))
    current = path == root if address == root else path.startswith(here)
    mark = mark_safe(' aria-current="page"') if current else ""
    return format_html('<li><a href="{}"{}>{}</a></li>', address, mark, label)


@register.filter
def state(value: str, word: str = "") -> SafeString:
    """A state as a chip: its colour and its word."""
    return format_html('<span class="state" data-state="{}">{}</span>', value, word or value)


@register.filter
def strategy(name: str) -> str:
    """What people call a strategy."""
    return aggregation.title(name)


@register.filter
def when(value: datetime | None) -> SafeString | str:
    """A moment: "3 min ago", and exact in its title. A script keeps it true."""
    if value is None:
        return "never"
    passed = (timezone.now() - value).total_seconds()
    told = "just now" if passed < 5 else f"{amounts.units(passed)[0]} ago"
    return _time(value, "data-ago", told)


@register.filter
def until(value: datetime | None) -> SafeString | str:
    """A moment to come: "4 min 12 s left", and exact in its title. A script counts it down."""
    if value is None:
        return NOTHING
    left = (value - timezone.now()).total_seconds()
    told = "any moment now" if left < 1 else f"{' '.join(amounts.units(left)[:2])} left"
    return _time(value, "data-until", told)


def _time(value: datetime, kind: str, told: str) -> SafeString:
    exact = value.strftime("%Y-%m-%d %H:%M:%S UTC")
    return format_html(
        '<time datetime="{}" {} title="{}">{}</time>', value.isoformat(), kind, exact, told
    )


@register.filter
def seconds(value: float | None) -> str:
    """A duration in two units at most: "0.4 s", "12 s", "3 min 5 s", "2 h", "4 d 3 h"."""
    if value is None:
        return NOTHING
    if value < 10:
        return f"{round(value, 1):g} s"
    return " ".join(amounts.units(round(value))[:2])


@register.filter
def metric(value: float | None) -> str:
    """A metric with four digits, or a dash."""
    return NOTHING if value is None else f"{value:.4g}"


@register.filter
def share(value: float | None) -> str:
    """A share of one as a percentage: "93.4 %"."""
    return NOTHING if value is None else f"{100 * value:.1f} %"


@register.filter
def count(value: int | None) -> str:
    """A whole number with thin spaces between thousands."""
    return NOTHING if value is None else f"{value:,}".replace(",", "\u202f")


@register.filter
def size(value: float | None) -> str:
    """A number of bytes in decimal units: "4.2 MB"."""
    return NOTHING if value is None else amounts.size(value, "B")
