"""A run in numbers, round by round, as a frame and as a picture."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from client_sdk.admin.collections import frame_of

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

_COLUMNS = ("number", "phase", "version", "accuracy", "loss", "samples", "opened_at", "ended_at")


class History:
    """What `run.history()` answers.

    Args:
        document: As the API gives it: `document["rounds"]` has a line for each round.
    """

    def __init__(self, document: Mapping[str, Any]) -> None:
        self.document = dict(document)

    @property
    def metrics(self) -> list[str]:
        """By what its versions were measured, accuracy and loss first."""
        lines = self.document["rounds"]
        measured = {name for one in lines for name in (*one["metrics"], *one["participants"])}
        first = [name for name in ("accuracy", "loss") if name in measured]
        return first + sorted(measured - set(first))

    def frame(self) -> pd.DataFrame:
        """A row for each round, by its number.

        Returns:
            Among others with `accuracy` and `loss` of the version on the held-out set, `phase`,
            `counts.accepted`, `seconds.total`, and the participants' own metrics as
            `participants.loss.mean`.
        """
        return frame_of(iter(self.document["rounds"]), "number", _COLUMNS)

    def plot(self, *metrics: str) -> list[Axes]:
        """Curves as on the dashboard, drawn by matplotlib.

        Args:
            *metrics: Which ones; accuracy and loss, or what there is, if none is named.

        Returns:
            matplotlib's axes, one for each metric.
        """
        from matplotlib import pyplot as plt

        wanted = list(metrics) or self.metrics[:2] or ["accuracy"]
        figure, grid = plt.subplots(
            1, len(wanted), figsize=(5.5 * len(wanted), 3.6), squeeze=False, layout="constrained"
        )
        figure.suptitle(f"{self.document['name']} (run {self.document['id']})")
        for axes, metric in zip(grid[0], wanted, strict=True):
            self._draw(axes, metric)
        return list(grid[0])

    def _draw(self, axes: Axes, metric: str) -> None:
        lines = self.document["rounds"]
        spread = [one for one in lines if metric in one["participants"]]
        numbers = [one["number"] for one in spread]

        def of(part: str) -> list[float]:
            return [one["participants"][metric][part] for one in spread]

        axes.fill_between(numbers, of("min"), of("max"), color="C0", alpha=0.12, linewidth=0)
        axes.fill_between(
            numbers, of("q1"), of("q3"), color="C0", alpha=0.22, linewidth=0, label="middle half"
        )
        axes.plot(numbers, of("mean"), "--", color="C0", linewidth=1, label="participants' mean")
        held_out = self._held_out(metric)
        axes.plot(
            [number for number, _ in held_out], [value for _, value in held_out],
            "o-", color="C0", linewidth=2.5, markersize=4, label="held-out set",
        )  # fmt: skip
        refused = [
            (one["number"], one["metrics"][metric])
            for one in lines
            if one["phase"] != "published" and metric in one["metrics"]
        ]
        if refused:
            axes.plot(*zip(*refused, strict=True), "x", color="C3", label="refused")
        axes.set(xlabel="round", ylabel=metric.replace("_", " "))
        axes.locator_params(axis="x", integer=True)
        axes.legend()

    def _held_out(self, metric: str) -> list[tuple[int, float]]:
        start = (self.document["start"] or {}).get("metrics", {})
        published = [
            (one["number"], one["metrics"][metric])
            for one in self.document["rounds"]
            if one["phase"] == "published" and metric in one["metrics"]
        ]
        return ([(0, start[metric])] if metric in start else []) + published

    def __repr__(self) -> str:
        name, count = self.document["name"], len(self.document["rounds"])
        return f"<History of {name!r}, {count} rounds: .frame(), .plot()>"

    def _repr_html_(self) -> str:
        return str(self.frame()._repr_html_())  # type: ignore[operator]
