"""What strategies ask of participants beyond FedAvg: in words, and whether a participant can do it.

An SDK tells what it can do among its versions (`sdk["capabilities"]`), when it enrols and at its
first check-in. Who tells nothing can do what FedAvg asks, and no more.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from rounds import aggregation

CONTROL_VARIATES = "control_variates"
KEPT = (CONTROL_VARIATES, "dynamic_regularization")  # a participant keeps something for next time
# What a participant does then, after "each participant".
WORDS = {
    "proximal": "holds its training near the version that it began with (proximal term)",
    CONTROL_VARIATES: "corrects each step by control variates, and keeps its own",
    "dynamic_regularization": "corrects each step by a term of its own, which it keeps",
    "report_steps": "tells how many steps it took",
    "report_initial_loss": "tells its loss before training",
}
UPGRADE = "pip install --upgrade 'fedserver[client]'"
MOST, PATTERN = 32, r"[a-z][a-z0-9_]{0,39}"  # names that an SDK may tell, known to us or not


def required(strategy: str, options: Mapping[str, Any] | None = None) -> aggregation.Requirements:
    """What a strategy asks of participants; nothing if there is no such strategy, or none so set.

    Args:
        strategy: Its name.
        options: What a run sets of it.
    """
    try:
        return aggregation.build(strategy, options).requires
    except (aggregation.OptionError, TypeError):
        return {}


def told(sdk: Mapping[str, Any]) -> frozenset[str]:
    """The capabilities that an SDK has told of."""
    names = sdk.get("capabilities")
    return frozenset(map(str, names)) if isinstance(names, list) else frozenset()


def are_names(value: Any) -> bool:
    """Whether a value is a list of capabilities as an SDK may tell it."""
    return (
        isinstance(value, list)
        and len(value) <= MOST
        and all(isinstance(name, str) and re.fullmatch(PATTERN, name) for name in value)
    )


def column(names: Iterable[str]) -> str:
    """Capabilities in one text, in which any database finds each: ",proximal,report_steps,".

    The text of one of them is a part of the text of all, and of no other name's.
    """
    return "".join(f",{name}" for name in sorted(set(names))) + ","


def lacking(required: Iterable[str], sdk: Mapping[str, Any]) -> list[str]:
    """What is required and an SDK has not told of, in the order in which it is required.

    Example:
        >>> lacking({"control_variates": {}, "report_steps": {}}, {"capabilities": ["proximal"]})
        ['control_variates', 'report_steps']
    """
    known = told(sdk)
    return [name for name in required if name not in known]


def in_words(required: Iterable[str]) -> str:
    """What each participant does for a strategy: "tells its loss before training"; "" if nothing.

    Example:
        >>> in_words({"report_steps": {}, "report_initial_loss": {}})
        'tells how many steps it took, and tells its loss before training'
    """
    return ", and ".join(WORDS.get(name, name.replace("_", " ")) for name in required)
