"""How updates become the next version: arrays in, arrays out, and nothing of the house.

A strategy is asked for by its name: one of ours, or one that an installed package offers as an
entry point of the group `fedserver.strategies`, whose name is the strategy's and whose value leads
to its class.

    contract             what a strategy is; expect: what several of them expect of a run
    averages             fedavg, qfedavg
    server optimizers    fedavgm; fedadagrad, fedadam, fedyogi share fedopt
    drift                fedprox, scaffold, fednova, feddyn, fedbn
    robust               median, trimmed_mean, geometric_median; krum, multi_krum, bulyan
    clipping             norm_clipping, adaptive_clipping
    asynchronous         fedbuff
    kernels              walk (block by block); by it sums, ranks, distances; warm loads them all

Importing this package is cheap: the kernels, and with them numba, are loaded by the first fold, so
that a web process may name strategies and check their options. Compiled kernels are kept in
`NUMBA_CACHE_DIR`, else beside the source if that can be written to, else in the user's cache
directory.
"""

import logging
from collections.abc import Mapping
from dataclasses import MISSING, fields
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from inspect import signature
from typing import Any, NamedTuple, get_args, get_type_hints

from rounds.aggregation.adaptive_clipping import AdaptiveClipping
from rounds.aggregation.bulyan import Bulyan
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
    in_order,
    number,
    reported,
    told,
    whole,
)
from rounds.aggregation.fedadagrad import FedAdagrad
from rounds.aggregation.fedadam import FedAdam
from rounds.aggregation.fedavg import FedAvg
from rounds.aggregation.fedavgm import FedAvgM
from rounds.aggregation.fedbn import FedBN
from rounds.aggregation.fedbuff import FedBuff
from rounds.aggregation.feddyn import FedDyn
from rounds.aggregation.fednova import FedNova
from rounds.aggregation.fedprox import FedProx
from rounds.aggregation.fedyogi import FedYogi
from rounds.aggregation.geometric_median import GeometricMedian
from rounds.aggregation.krum import Krum
from rounds.aggregation.median import Median
from rounds.aggregation.multi_krum import MultiKrum
from rounds.aggregation.norm_clipping import NormClipping
from rounds.aggregation.qfedavg import QFedAvg
from rounds.aggregation.scaffold import Scaffold
from rounds.aggregation.trimmed_mean import TrimmedMean

logger = logging.getLogger(__name__)

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
    "find",
    "in_order",
    "names",
    "number",
    "options",
    "reported",
    "strategy",
    "title",
    "told",
    "whole",
]

_STRATEGIES: dict[str, type[Strategy]] = {
    "adaptive_clipping": AdaptiveClipping,
    "bulyan": Bulyan,
    "fedadagrad": FedAdagrad,
    "fedadam": FedAdam,
    "fedavg": FedAvg,
    "fedavgm": FedAvgM,
    "fedbn": FedBN,
    "fedbuff": FedBuff,
    "feddyn": FedDyn,
    "fednova": FedNova,
    "fedprox": FedProx,
    "fedyogi": FedYogi,
    "geometric_median": GeometricMedian,
    "krum": Krum,
    "median": Median,
    "multi_krum": MultiKrum,
    "norm_clipping": NormClipping,
    "qfedavg": QFedAvg,
    "scaffold": Scaffold,
    "trimmed_mean": TrimmedMean,
}


GROUP = "fedserver.strategies"
"""The entry points by which a package offers strategies."""


def names() -> list[str]:
    """Returns the names that `build` knows, in alphabetical order, ours and those of packages."""
    return sorted({*_STRATEGIES, *_offered()})


def strategy(name: str) -> type[Strategy]:
    """Returns the class of that name: what it is called, what it is about, where it comes from.

    Raises:
        OptionError: there is none, or the package that offers it does not hold what it promises;
            its `field` is `strategy`.
    """
    if name in _STRATEGIES:
        return _STRATEGIES[name]
    offers = _offered().get(name, [])
    if not offers:
        raise OptionError("strategy", f"Expected one of {names()}. Received: {name!r}")
    if len(offers) > 1:
        packages = " and ".join(map(_package, offers))
        detail = f"Expected one package to offer {name!r}. Received: {packages}"
        raise OptionError("strategy", detail)
    return _load(offers[0])


def find(name: str) -> type[Strategy] | None:
    """The same, for those who only tell of it: None where `strategy` raises."""
    try:
        return strategy(name)
    except OptionError:
        return None


def title(name: str) -> str:
    """What people call a strategy: its name, if it has no title or is not to be had any more."""
    return getattr(find(name), "title", name)


@cache
def _offered() -> dict[str, list[EntryPoint]]:
    """What installed packages offer, by name, looked up once; none of it is loaded."""
    found: dict[str, list[EntryPoint]] = {}
    for offer in entry_points(group=GROUP):
        if offer.name in _STRATEGIES:
            text = "%s offers a strategy by the name of ours, %r: it is never used"
            logger.warning(text, _package(offer), offer.name)
        else:
            found.setdefault(offer.name, []).append(offer)
    return found


def _load(offer: EntryPoint) -> type[Strategy]:
    """Imports a package's strategy. Raises OptionError, whatever goes wrong in the package."""
    try:
        found = offer.load()
    except (Exception, SystemExit) as error:
        what = f"{type(error).__name__}: {error}"
        raise _broken(offer, "a class that can be imported", what) from error
    if not (isinstance(found, type) and issubclass(found, Strategy)):
        raise _broken(offer, "a subclass of rounds.aggregation.Strategy", repr(found))
    if not hasattr(found, "__dataclass_fields__"):
        raise _broken(offer, "a dataclass, whose fields are its options", repr(found))
    try:
        get_type_hints(found)
    except Exception as error:
        what = f"{type(error).__name__}: {error}"
        raise _broken(offer, "a class whose annotations can be read", what) from error
    return found


def _broken(offer: EntryPoint, expected: str, received: str) -> OptionError:
    detail = f"Expected {offer.value} of {_package(offer)} to be {expected}. Received: {received}"
    return OptionError("strategy", detail)


def _package(offer: EntryPoint) -> str:
    return f"package {offer.dist.name} {offer.dist.version}" if offer.dist else "a package"


class Option(NamedTuple):
    """What a run may set of a strategy.

    Args:
        name: of the strategy's field.
        kind: `bool`, `int`, `float` or `str`.
        default: what counts when nobody says anything; None if the strategy decides.
        about: the field's metadata `help`, a sentence for people.
        least: the smallest number that makes sense; None if there is none.
        most: the largest.
    """

    name: str
    kind: type
    default: Any
    about: str
    least: float | None = None
    most: float | None = None


def options(name: str) -> list[Option]:
    """Returns what a run may set of the strategy of that name, in the order it is declared."""
    known = strategy(name)
    hints = get_type_hints(known)
    found = []
    for field in fields(known):  # type: ignore[arg-type]
        if field.init and field.name != "threads":
            kinds = [kind for kind in get_args(hints[field.name]) if kind is not type(None)]
            kind = kinds[0] if kinds else hints[field.name]
            default = None if field.default is MISSING else field.default
            limits = (field.metadata.get("least"), field.metadata.get("most"))
            found.append(Option(field.name, kind, default, field.metadata.get("help", ""), *limits))
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
    kind, given = strategy(name), options or {}
    known = sorted(signature(kind).parameters.keys() - {"threads"})
    for option in given:
        if option not in known:
            raise OptionError(
                f"strategy_options.{option}",
                f"Expected {_known(name, known)}. Received: {option!r}",
            )
    folding = {"threads": threads} if "threads" in signature(kind).parameters else {}
    try:
        made = kind(**given, **folding)
    except OptionError:
        raise
    except (TypeError, ValueError) as error:  # an option without a range, or a strategy's own rule
        raise OptionError("strategy_options", str(error)) from error
    except Exception as error:  # a package at fault: it is to spoil its own runs only
        detail = f"Expected {name} to be made. Received: {type(error).__name__}: {error}"
        raise OptionError("strategy", detail) from error
    _expect_requirements(name, made)
    return made


def _known(name: str, options: list[str]) -> str:
    if not options:
        return f"no options, for {name} has none"
    return f"options of {name} to be among {options}"


def _expect_requirements(name: str, made: Strategy) -> None:
    """What it asks of participants must be readable, for each that checks in is held against it."""
    try:
        told: Any = {one: dict(numbers) for one, numbers in made.requires.items()}
        fit = all(type(value) in (int, float) for one in told.values() for value in one.values())
    except Exception as error:
        told, fit = f"{type(error).__name__}: {error}", False
    if not fit:
        detail = f"Expected {name} to require numbers by name of capability. Received: {told!r}"
        raise OptionError("strategy", detail)
