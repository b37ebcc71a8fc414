"""Curves as SVG: small, on no ground, in colours that are read on light and on dark."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("svg")

from matplotlib import pyplot as plt

INK = "#7d8590"  # a grey of the same contrast to white as to a dark page
COLOURS = ("#3b82d6", "#d9632a", "#2f9e6e", "#b565c9", "#c49a1a", "#d0476b", "#5aa7b5")


@dataclass(frozen=True, slots=True)
class Line:
    """One curve.

    Args:
        label: in the legend; lines of one label share a colour, and stand there once.
        x, y: points; None where nothing was measured.
    """

    label: str
    x: Sequence[float]
    y: Sequence[float | None]


@dataclass(frozen=True, slots=True)
class Panel:
    """One frame of a picture.

    Args:
        title, x_label, y_label: beside it.
        lines: in it.
        target: where a dashed line is drawn.
        bottom: least value shown.
    """

    title: str
    x_label: str
    y_label: str
    lines: Sequence[Line]
    target: float | None = None
    bottom: float = 0.0


def draw(path: Path, panels: Iterable[Panel], columns: int = 2) -> None:
    """Write a picture of panels side by side; the same numbers give the same bytes."""
    wanted = list(panels) or [Panel("not run", "", "", ())]
    rows = -(-len(wanted) // columns)
    style: dict[str, Any] = {
        "svg.fonttype": "none",
        "svg.hashsalt": path.name,
        "font.family": "sans-serif",
        "font.size": 9,
        "path.simplify_threshold": 0.5,
        **{f"{part}.color": INK for part in ("text", "xtick", "ytick")},
        **{f"axes.{part}": INK for part in ("edgecolor", "labelcolor", "titlecolor")},
        "axes.spines.top": False,
        "axes.spines.right": False,
    }
    with mpl.rc_context(style):
        figure, axes = plt.subplots(
            rows, columns, figsize=(4.2 * columns, 3.1 * rows), squeeze=False, layout="constrained"
        )
        for axis, panel in zip(axes.flat, wanted, strict=False):
            _fill(axis, panel)
        for axis in list(axes.flat)[len(wanted) :]:
            axis.remove()
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, transparent=True, metadata={"Date": None, "Creator": None})
        plt.close(figure)
    path.write_text("\n".join(line.rstrip() for line in path.read_text().splitlines()) + "\n")


def _fill(axis: Any, panel: Panel) -> None:
    labels = list(dict.fromkeys(line.label for line in panel.lines))
    for line in panel.lines:
        points = [(x, y) for x, y in zip(line.x, line.y, strict=True) if y is not None]
        axis.plot(
            *zip(*points, strict=True),
            color=COLOURS[labels.index(line.label) % len(COLOURS)],
            linewidth=1.2,
            label=line.label,
        )
    if panel.target is not None:
        axis.axhline(panel.target, color=INK, linewidth=0.8, linestyle="--")
    top = max((y for line in panel.lines for y in line.y if y is not None), default=1.0)
    axis.set_ylim(panel.bottom, top + 0.04 * (top - panel.bottom))
    axis.set(title=panel.title, xlabel=panel.x_label, ylabel=panel.y_label)
    axis.grid(color=INK, alpha=0.2, linewidth=0.5)
    if not panel.lines:
        return
    handles = dict(zip(*reversed(axis.get_legend_handles_labels()), strict=True))
    axis.legend(handles.values(), handles, frameon=False, fontsize=8, loc="best")
