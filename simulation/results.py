"""The curve of a simulation, and what `--json` writes."""

import json
import os
import platform
from collections import Counter
from collections.abc import Callable, Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from models_app.models import ModelVersion
from rounds.models import Assignment, Round, Run
from rounds.rules import smaller_is_better
from simulation.plan import Plan

_SOFTWARE = ("fedserver", "keras", "tensorflow-cpu", "tensorflow", "numpy", "scikit-learn")
_COSTS = "costs.jsonl"


def note(home: Path, round_: Round, wall_seconds: float, cpu_seconds: float) -> None:
    """Note what a round has cost. It is no part of the result, and a kill may lose it."""
    line = {
        "round": round_.number,
        "wall_seconds": round(wall_seconds, 3),
        "cpu_seconds": round(cpu_seconds, 3),
    }
    with (home / _COSTS).open("a") as file:
        file.write(json.dumps(line) + "\n")


def _costs(home: Path) -> dict[int, dict[str, Any]]:
    found: dict[int, dict[str, Any]] = {}
    if (home / _COSTS).is_file():
        for line in (home / _COSTS).read_text().splitlines():
            try:
                cost = json.loads(line)
            except ValueError:
                continue  # killed in the middle of it
            found[cost.pop("round")] = cost
    return found


class Curve:
    """A line for each round, the first for the version that it all began with.

    Lines of rounds that have ended are kept: they do not change.
    """

    def __init__(self, run: Run, home: Path) -> None:
        self._run, self._home = run, home
        self._kept: dict[int, dict[str, Any]] = {}
        self._clock = 0.0

    def lines(self, seconds_of: Callable[[Round], float]) -> list[dict[str, Any]]:
        """All lines up to now.

        Args:
            seconds_of: answers how long a round has taken on the virtual clock.
        """
        ended = self._run.rounds.exclude(phase__in=Round.ACTIVE).exclude(pk__in=self._kept)
        costs = _costs(self._home)
        for one in ended.select_related("version").order_by("number"):
            self._clock += seconds_of(one)
            self._kept[one.pk] = {
                "round": one.number,
                "phase": one.phase,
                **(_quality(one.version) if one.version else {"accuracy": None, "loss": None}),
                "virtual_seconds": round(self._clock, 6),
                **costs.get(one.number, {"wall_seconds": None, "cpu_seconds": None}),
                **_places(one),
            }
        first = ModelVersion.objects.get(model=self._run.model_id, number=1)
        return [{"round": 0, "virtual_seconds": 0.0, **_quality(first)}, *self._kept.values()]


def _quality(of: ModelVersion) -> dict[str, Any]:
    return {"accuracy": None, "loss": None, **of.metrics}


def _places(one: Round) -> dict[str, Any]:
    rows = list(one.assignments.values_list("state", "update__bytes"))
    states = Counter(state for state, _ in rows)
    names = ("accepted", "quarantined", "rejected", "failed", "late", "lost")
    return {
        **{name: states[Assignment.State(name)] for name in names},
        "bytes": sum(length or 0 for _, length in rows),
    }


def document(plan: Plan, run: Run, lines: list[dict[str, Any]]) -> dict[str, Any]:
    """Everything about a simulation that is worth keeping.

    Args:
        plan: what was asked for.
        run: that did it.
        lines: of its `Curve`.
    """
    run.refresh_from_db()
    measured = [line for line in lines[1:] if line["phase"] == Round.Phase.PUBLISHED]
    last = measured[-1] if measured else lines[0]
    reached = _reached(plan, measured)
    served = run.model.served
    assert served is not None
    return {
        "settings": plan.as_json(),
        "seed": plan.seed,
        "versions": _software(),
        "machine": {"processors": os.cpu_count(), "system": platform.platform()},
        "weights": sum(spec.size for spec in run.model.federated),
        "state": run.state,
        "reason": run.reason,
        "rounds": len(measured),
        "final_accuracy": last["accuracy"],
        "final_loss": last["loss"],
        "final_weights": served.weights,
        "rounds_to_target": reached and reached["round"],
        "virtual_seconds_to_target": reached and reached["virtual_seconds"],
        "virtual_seconds": lines[-1]["virtual_seconds"],
        "wall_seconds": _sum(line.get("wall_seconds") for line in lines),
        "cpu_seconds": _sum(line.get("cpu_seconds") for line in lines),
        "curve": lines,
    }


def _reached(plan: Plan, measured: list[dict[str, Any]]) -> dict[str, Any] | None:
    if plan.until is None:
        return None
    name, value = plan.until
    sign = -1 if smaller_is_better(name) else 1
    good = (one for one in measured if one.get(name) is not None)
    return next((one for one in good if sign * one[name] >= sign * value), None)


def _sum(values: Iterable[float | None]) -> float:
    return round(sum(value or 0.0 for value in values), 3)


def _software() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in _SOFTWARE:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def write(path: Path, content: dict[str, Any]) -> None:
    """Replace a JSON file by a whole one."""
    draft = path.with_name(f".{path.name}.new")
    draft.write_text(json.dumps(content, indent=2) + "\n")
    draft.replace(path)
