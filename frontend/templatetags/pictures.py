"""Small pictures in a page's text, drawn by the server: they need no script and say the same."""

from collections.abc import Sequence

from django import template
from django.utils.html import format_html
from django.utils.safestring import SafeString

register = template.Library()
WIDTH, HEIGHT, EDGE = 120, 32, 4
LEAST_SPAN = 0.01  # of values: what moves less is drawn as flat as it is


@register.simple_tag
def sparkline(values: Sequence[float | None], words: str) -> SafeString | str:
    """A line through the values in their order, with its last point marked.

    Args:
        values: At least two that are known, or nothing is drawn.
        words: What the picture says, for who does not see it.
    """
    points = [(index, value) for index, value in enumerate(values) if value is not None]
    if len(points) < 2:
        return ""
    low, high = min(value for _, value in points), max(value for _, value in points)
    span = max(high - low, LEAST_SPAN)
    middle = (high + low) / 2
    step = (WIDTH - 2 * EDGE) / (len(values) - 1)
    drawn = [
        (EDGE + index * step, HEIGHT / 2 - (value - middle) / span * (HEIGHT - 2 * EDGE))
        for index, value in points
    ]
    return format_html(
        '<svg class="sparkline" viewBox="0 0 {} {}" width="{}" height="{}" role="img" '
        'aria-label="{}"><polyline points="{}"/><circle cx="{}" cy="{}" r="3"/></svg>',
        *(WIDTH, HEIGHT, WIDTH, HEIGHT, words),
        " ".join(f"{x:.1f},{y:.1f}" for x, y in drawn),
        *(f"{place:.1f}" for place in drawn[-1]),
    )


@register.simple_tag
def filling(value: int, target: int, mark: int | None, words: str, state: str = "") -> SafeString:
    """A bar that fills up to a target, with a mark on its way.

    Args:
        value: How much there is.
        target: How much is wanted.
        mark: How much is enough; None for no mark.
        words: What the bar says, for who does not see it.
        state: The one whose colour it has.
    """
    whole = max(target, value, 1)
    marked = mark is not None and 0 < mark < whole
    line = '<rect class="mark" x="{}%" width="2" height="8"/>'
    return format_html(
        '<svg class="filling" data-state="{}" role="img" aria-label="{}" width="100%" height="8">'
        '<rect class="ground" width="100%" height="8" rx="4"/>'
        '<rect class="full" width="{}%" height="8" rx="4"/>{}</svg>',
        state,
        words,
        round(100 * value / whole),
        format_html(line, round(100 * (mark or 0) / whole)) if marked else "",
    )
