"""Which version of a run is its best, and how long it has waited for a better: pure functions."""

from collections.abc import Sequence
from typing import NamedTuple

from rounds import rules


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
