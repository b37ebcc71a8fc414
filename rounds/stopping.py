"""Whether a run is done, which version is its best, and how long it waits for a better: pure."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from rounds import rules
from rounds.models import Run


class Done(NamedTuple):
    """Why a run is done: for programs, and in a sentence; and how many rounds it published."""

    because: str
    reason: str
    rounds: int


def done(run: Run, values: Sequence[float | None], metrics: Mapping[str, Any]) -> Done | None:
    """Whether a run has done what it was to do, by the first of its rules that says so.

    Args:
        run: Whose rules they are.
        values: Of each version that it published, in order, the metric that they are compared
            by; None where it was not measured.
        metrics: Of the last one.
    """
    if is_reached(run, metrics):
        reached = f"{run.until_metric} reached {metrics[run.until_metric]:.4g}"
        sentence = f"{reached}; the run was to end at {run.until_value:g}."
        return Done("until", sentence, len(values))
    stands = standing(values, run.best_metric, run.patience_delta)
    if run.patience is not None and stands.best is not None and stands.waited >= run.patience:
        enough = f"by more than {run.patience_delta:g} " if run.patience_delta else ""
        in_a_row = f"{stands.waited} rounds in a row" if stands.waited > 1 else "one round"
        sentence = f"{run.best_metric} was no better {enough}for {in_a_row}."
        return Done("patience", sentence, len(values))
    if len(values) >= run.rounds_planned:
        all_ = f"All {len(values)} rounds are" if len(values) > 1 else "The one round is"
        return Done("rounds", f"{all_} published{_short_of(run, metrics)}.", len(values))
    return None


def _short_of(run: Run, metrics: Mapping[str, Any]) -> str:
    """What the last version lacks of the value at which the run was to end, or an empty string."""
    if run.until_value is None:
        return ""
    value = metrics.get(run.until_metric)
    told = "was not measured" if value is None else f"is {value:.4g}"
    return f"; {run.until_metric} {told} and was to reach {run.until_value:g}"


def is_reached(run: Run, metrics: Mapping[str, Any]) -> bool:
    """Whether metrics are as good as the value at which a run is to end."""
    value = metrics.get(run.until_metric)
    if value is None or run.until_value is None:
        return False
    if rules.smaller_is_better(run.until_metric):
        return bool(value <= run.until_value)
    return bool(value >= run.until_value)


class Standing(NamedTuple):
    """How a run stands by the metric that its versions are compared by.

    Args:
        best: The place of the best version among those given, of equals the first; None if none
            was measured.
        waited: Versions since one last was better than those before it by enough to count.
    """

    best: int | None
    waited: int


def standing(values: Sequence[float | None], metric: str, delta: float = 0.0) -> Standing:
    """The best of a run's published versions, and how many came since one that was better.

    Args:
        values: The metric of each published version in order; None where it was not measured,
            which is no better than anything.
        metric: Its name, which says whether less of it is better.
        delta: How much better a version has to be to count as better; as Keras' `min_delta`,
            held against the last one that did.

    Example:
        >>> standing([0.70, 0.81, 0.80, 0.815], "accuracy", delta=0.01)
        Standing(best=3, waited=2)
    """
    sign = -1.0 if rules.smaller_is_better(metric) else 1.0
    best = counted = None
    waited = 0
    for place, value in enumerate(values):
        better = value is not None and (best is None or sign * value > sign * (values[best] or 0.0))
        if better:
            best = place
        if value is not None and (counted is None or sign * value > counted + delta):
            counted, waited = sign * value, 0
        else:
            waited += 1
    return Standing(best, waited)
