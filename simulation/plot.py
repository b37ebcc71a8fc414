"""The curve of a simulation as a picture. Needs matplotlib: import this module for nothing else."""

from pathlib import Path
from typing import Any


def draw(found: dict[str, Any], file: Path) -> None:
    """Draw accuracy by round, and by virtual time where participants are not alike.

    Args:
        found: what `results.document` gave.
        file: a `.png`, or another kind that matplotlib writes.

    Raises:
        ValueError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure  # without pyplot: no window, no state of the process
        from matplotlib.ticker import MaxNLocator
    except ImportError:
        raise ValueError(
            "--plot: Expected matplotlib: pip install 'fedserver[simulation]'. Received: none"
        ) from None
    lines = [line for line in found["curve"] if line["accuracy"] is not None]
    settings = found["settings"]
    timed, until = bool(settings["stragglers"]), settings["until"]
    figure = Figure(figsize=(12 if timed else 6, 4), layout="constrained")
    axes = figure.subplots(1, 2 if timed else 1, squeeze=False, sharey=True)[0]
    for axis, name, label in zip(
        axes, ("round", "virtual_seconds"), ("round", "virtual seconds"), strict=False
    ):
        axis.plot([line[name] for line in lines], [line["accuracy"] for line in lines])
        axis.set_xlabel(label)
        axis.grid(alpha=0.3)
        if until and until[0] == "accuracy":
            axis.axhline(until[1], linestyle=":", color="gray")
    axes[0].set_ylabel("accuracy on held-out examples")
    axes[0].xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.suptitle(f"{settings['strategy']} on {settings['dataset']}, {settings['partition']}")
    draft = file.with_name(f".new.{file.name}")
    figure.savefig(draft, dpi=150)
    draft.replace(file)
