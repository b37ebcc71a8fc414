"""How the pages say states, times and numbers."""

from datetime import datetime
from typing import Any

from django import template
from django.urls import NoReverseMatch, reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString, mark_safe

register = template.Library()
NOTHING = "\u2013"  # a dash, for what is not known


@register.simple_tag(takes_context=True)
def place(context: Any, name: str, label: str) -> SafeString:
    """An entry of the navigation, marked where one is."""
    try:
        address = reverse(f"frontend:{name}")
    except NoReverseMatch:
        return SafeString("")
    path = context["request"].path
    here = path == address if name == "overview" else path.startswith(address)
    current = mark_safe(' aria-current="page"') if here else ""
    return format_html('<li><a href="{}"{}>{}</a></li>', address, current, label)


@register.filter
def state(value: str, word: str = "") -> SafeString:
    """A state as a chip: its colour and its word."""
    return format_html('<span class="state" data-state="{}">{}</span>', value, word or value)


@register.filter
def when(value: datetime | None) -> SafeString | str:
    """A moment: exact in its title, and "3 min ago" once a script looks after it."""
    if value is None:
        return "never"
    exact = value.strftime("%Y-%m-%d %H:%M:%S UTC")
    return format_html('<time datetime="{}" data-ago>{}</time>', value.isoformat(), exact)


@register.filter
def until(value: datetime | None) -> SafeString | str:
    """A moment to come: exact, and "4 min 12 s left" once a script looks after it."""
    if value is None:
        return NOTHING
    exact = value.strftime("%Y-%m-%d %H:%M:%S UTC")
    return format_html('<time datetime="{}" data-until>{}</time>', value.isoformat(), exact)


@register.filter
def seconds(value: float | None) -> str:
    """A duration in two units at most: "0.4 s", "12 s", "3 min 5 s", "2 h", "4 d 3 h"."""
    if value is None:
        return NOTHING
    if value < 10:
        return f"{value:.1f} s"
    left, parts = round(value), []
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "min"), (1, "s")):
        count, left = divmod(left, size)
        if count:
            parts.append(f"{count} {unit}")
    return " ".join(parts[:2])


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
    if value is None:
        return NOTHING
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" or value >= 100 else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"
