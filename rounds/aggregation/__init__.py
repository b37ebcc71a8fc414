"""How updates become the next version: arrays in, arrays out, and nothing of the house.

A strategy is asked for by its name. Importing this package is cheap: the kernels, and with them
numba, are loaded by the first fold, so that a web process may name strategies and check their
options. Compiled kernels are kept in `NUMBA_CACHE_DIR`, else beside the source if that can be
written to, else in the user's cache directory.
"""

from collections.abc import Mapping
from dataclasses import MISSING, fields
from inspect import signature
from typing import Any, NamedTuple, get_args, get_type_hints

from rounds.aggregation.contract import (
    FAMILIES,
    Contribution,
    OptionError,
    Requirements,
    Result,
    Setting,
    State,
    Strategy,
    apply_delta,
)
from rounds.aggregation.fedavg import FedAvg
from rounds.aggregation.median import Median

__all__ = [
    "FAMILIES",
    "Contribution",
    "FedAvg",
    "Option",
    "OptionError",
    "Requirements",
    "Result",
    "Setting",
    "State",
    "Strategy",
    "apply_delta",
    "build",
    "names",
    "options",
    "strategy",
]

_STRATEGIES: dict[str, type[Strategy]] = {"fedavg": FedAvg, "median": Median}


def names() -> list[str]:
    """Returns the names that `build` knows, in alphabetical order."""
    return sorted(_STRATEGIES)


def strategy(name: str) -> type[Strategy]:
    """Returns the class of that name: what it is called, what it is about, where it comes from."""
    return _STRATEGIES[name]


class Option(NamedTuple):
    """What a run may set of a strategy.

    Args:
        name: of the strategy's field.
        kind: `bool`, `int`, `float` or `str`.
        default: what counts when nobody says anything; None if the strategy decides.
        about: the field's metadata `help`, a sentence for people.
    """

    name: str
    kind: type
    default: Any
    about: str


def options(name: str) -> list[Option]:
    """Returns what a run may set of the strategy of that name, in the order it is declared."""
    strategy = _STRATEGIES[name]
    hints = get_type_hints(strategy)
    found = []
    for field in fields(strategy):  # type: ignore[arg-type]
        if field.init and field.name != "threads":
            kinds = [kind for kind in get_args(hints[field.name]) if kind is not type(None)]
            kind = kinds[0] if kinds else hints[field.name]
            default = None if field.default is MISSING else field.default
            found.append(Option(field.name, kind, default, field.metadata.get("help", "")))
    return found


def build(
    name: str, options: Mapping[str, Any] | None = None, *, threads: int | None = None
) -> Strategy:
    """Makes the strategy of that name.

    Args:
        name: one of `names()`.
        options: what a run sets of the strategy, by name; `None` and empty mean its defaults.
        threads: how many threads fold; one per processor by default. It never changes a bit of
            the result, which is why it is no option of a run.

    Returns:
        A strategy, immutable and free to be shared between threads.

    Raises:
        OptionError: the name or one of the options is unknown, or an option's value makes no
            sense; its `field` is `strategy` or `strategy_options.<option>`.
    """
    if name not in _STRATEGIES:
        raise OptionError("strategy", f"Expected one of {names()}. Received: {name!r}")
    strategy, given = _STRATEGIES[name], options or {}
    known = sorted(signature(strategy).parameters.keys() - {"threads"})
    for option in given:
        if option not in known:
            raise OptionError(
                f"strategy_options.{option}",
                f"Expected options of {name} to be among {known}. Received: {option!r}",
            )
    folding = {"threads": threads} if "threads" in signature(strategy).parameters else {}
    return strategy(**given, **folding)
