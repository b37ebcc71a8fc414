"""What a strategy is, what it is given and what it gives back."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import Field, dataclass, field, fields
from itertools import pairwise
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

State = Mapping[str, NDArray[Any]]
"""What a strategy remembers from one version to the next, as named arrays; never changed."""

NO_STATE: State = MappingProxyType({})

Requirements = Mapping[str, Mapping[str, float]]
"""What a strategy needs of participants beyond FedAvg: capabilities by name, and their settings.

    proximal                  {"mu": μ}     add μ (w - w₀) to each gradient
    control_variates          {}            add c - c_i to each gradient, and keep c_i
    dynamic_regularization    {"alpha": a}  add a (w - w₀) - h_i to each gradient, and keep h_i
    report_steps              {}            tell how many steps were taken: `steps`
    report_initial_loss       {}            tell the loss of w₀ on one's own data: `initial_loss`
"""

NOTHING: Requirements = MappingProxyType({})

_BLOCK = 1 << 16  # values; three such arrays fit in the second-level cache of a core


class OptionError(ValueError):
    """A strategy or an option of one that cannot be had.

    Args:
        field: where the fault lies: `strategy` or `strategy_options.<option>`.
        detail: what was expected, and what was received.
    """

    def __init__(self, field: str, detail: str) -> None:
        super().__init__(f"{field}: {detail}")
        self.field = field
        self.detail = detail


def number(
    default: float | None, about: str, *, least: float, most: float, above: bool = False
) -> Any:
    """A field that is an option of a strategy: a number, checked when the strategy is made.

    Args:
        default: what counts when a run says nothing; None if the strategy decides then.
        about: a sentence for people.
        least: the smallest number that makes sense.
        most: the largest.
        above: whether `least` itself makes no sense.
    """
    return field(default=default, metadata=_option(about, float, least, most, above=above))


def whole(default: int | None, about: str, *, least: int, most: int) -> Any:
    """A field that is an option of a strategy: a whole number (see `number`)."""
    return field(default=default, metadata=_option(about, int, least, most))


def _option(
    about: str, kind: type, least: float, most: float, *, above: bool = False
) -> dict[str, Any]:
    return {"help": about, "kind": kind, "least": least, "most": most, "above": above}


@dataclass(frozen=True, slots=True, eq=False)
class Contribution:
    """One participant's update to one round.

    Args:
        values: the delta, new minus base weights, shape (n,), float32, contiguous; a memory map
            as well as an array. It is only read.
        samples: how many samples it was trained on; its weight in a mean.
        key: the participant's id. Sums run in the order of keys, whatever order contributions
            are given in.
        staleness: how many versions were published since the one that it was trained from.
        reports: what the strategy required participants to tell, by name.
    """

    values: NDArray[np.float32]
    samples: int
    key: int
    staleness: int = 0
    reports: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Setting:
    """The run that a strategy works in, as far as it matters to the numbers.

    Args:
        hyperparameters: how participants train: `learning_rate`, `momentum`, `optimizer`, ….
        population: participants that could be selected.
        population_before: the same when the state was made, no more than now; None for as many.
        quorum: fewest contributions that there will be.
        asynchronous: whether participants train from versions of different age.
        statistics: spans of values (first, and one after the last) that no gradient trains, such
            as the moving means and variances of batch normalization. What is made for gradients,
            such as momentum, leaves them alone: they become their mean, weighted by samples.
    """

    hyperparameters: Mapping[str, Any] = field(default_factory=dict)
    population: int = 0
    population_before: int | None = None
    quorum: int = 1
    asynchronous: bool = False
    statistics: Sequence[tuple[int, int]] = ()


ANY_SETTING = Setting()


@dataclass(frozen=True, slots=True, eq=False)
class Result:
    """What a strategy made of a round.

    Args:
        state: what to hand to the next round's `apply`.
        delta: what to add to the base weights, shape (n,), float32 (see `apply_delta`).
        diagnostics: at least `participants`, `samples` and `delta_norm` (L2 norm of `delta`).
        shares: each contribution's share of the delta by its key, 0 for one left out, all
            together 1; empty if the strategy weighs values one by one and not contributions.
    """

    state: State
    delta: NDArray[np.float32]
    diagnostics: dict[str, float]
    shares: Mapping[int, float] = field(default_factory=dict)


class Strategy:
    """A pair of functions on immutable state; the same inputs give the same bytes.

    A strategy is a frozen dataclass: its fields are the options of a run, best made by `number`
    and `whole`, which give each its range and a sentence for people. `threads`, if it has it, is
    none of them.

    Attributes:
        title: what people call it.
        about: one sentence on when to choose it.
        paper: author, year and title of the method's source, with its arXiv number.
        family: one of `FAMILIES`, by which pages group strategies.
        asynchronous: whether it folds updates that were trained from versions of different age.
    """

    __slots__ = ()

    title: ClassVar[str]
    about: ClassVar[str] = ""
    paper: ClassVar[str] = ""
    family: ClassVar[str] = "average"
    asynchronous: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Checks the options that have a range. Raises OptionError for the first out of it."""
        for option in fields(self):  # type: ignore[arg-type]
            if "least" in option.metadata:
                _expect_in_range(option, getattr(self, option.name))

    @property
    def requires(self) -> Requirements:
        """What participants must be able to do; who cannot is not selected."""
        return NOTHING

    def check(self, setting: Setting) -> None:
        """Refuses a run that this strategy could not serve, before it exists.

        That `asynchronous` fits the run is seen to for all strategies by one rule of runs.

        Raises:
            OptionError: with the field at fault (`quorum`, `hyperparameters.optimizer`, …) and
                the sentence that says why.
        """

    def init(self, weights: NDArray[np.float32]) -> State:
        """Returns the state before the first round of a model with these weights, shape (n,)."""
        return NO_STATE

    def apply(
        self,
        state: State,
        contributions: Sequence[Contribution],
        *,
        setting: Setting = ANY_SETTING,
        out: NDArray[np.float32] | None = None,
    ) -> Result:
        """Folds one round's contributions.

        Args:
            state: what `init` or the previous round's `apply` returned.
            contributions: at least one, all of one length n, in any order.
            setting: of the run.
            out: where the delta goes, shape (n,), float32; a new array without it. A worker that
                gives the same one each round is spared the first touch of its pages.

        Returns:
            The next state, the delta and the diagnostics.

        Raises:
            ValueError: the contributions cannot be folded (see `in_order`), or what comes out
                is not finite.
        """
        raise NotImplementedError


def _expect_in_range(option: Field[Any], value: Any) -> None:
    kind, least, most, above = (option.metadata[key] for key in ("kind", "least", "most", "above"))
    if value is None and option.default is None:
        return
    numbers = (int,) if kind is int else (int, float)
    within = type(value) in numbers and least <= value <= most and math.isfinite(value)
    if not within or (above and value == least):
        what = f"a {'whole ' if kind is int else ''}number {'above' if above else 'from'}"
        detail = f"Expected {what} {least} to {most}. Received: {value!r}"
        raise OptionError(f"strategy_options.{option.name}", detail)


FAMILIES = ("average", "server optimizer", "drift", "robust", "clipping", "asynchronous")


def in_order(contributions: Sequence[Contribution]) -> list[Contribution]:
    """Checks the contributions of a round and brings them into the order in which they are summed.

    Args:
        contributions: in any order.

    Returns:
        The same, by ascending key.

    Raises:
        ValueError: there are none, two share a key, a sample count is negative or all are zero,
            or values are anything but contiguous float32 of one common length.
    """
    if not contributions:
        raise ValueError("Expected at least one contribution. Received: none")
    ordered = sorted(contributions, key=lambda one: one.key)
    for one, following in pairwise(ordered):
        if one.key == following.key:
            raise ValueError(f"Expected each key once. Received: {one.key} twice")
    for one in ordered:
        _check(one, length=ordered[0].values.size)
    if not any(one.samples for one in ordered):
        raise ValueError("Expected at least one sample in all. Received: 0")
    return ordered


def told(ordered: Sequence[Contribution], norm: float, **more: float) -> dict[str, float]:
    """The diagnostics that every strategy has, and its own.

    Args:
        ordered: the contributions of the round.
        norm: L2 norm of the delta.
        **more: what this strategy has to say.
    """
    samples = float(sum(one.samples for one in ordered))
    return {"participants": float(len(ordered)), "samples": samples, "delta_norm": norm, **more}


def everybody(setting: Setting, present: int) -> tuple[int, int]:
    """How many there are, of whom so many are present, and how many the state was made for."""
    now = max(setting.population, present)
    return now, now if setting.population_before is None else setting.population_before


def reported(ordered: Sequence[Contribution], name: str, *, least: float = 0.0) -> list[float]:
    """What each participant told by that name, in the order of the contributions.

    Args:
        ordered: the contributions of a round.
        name: of the report.
        least: the smallest number that makes sense.

    Raises:
        ValueError: one of them did not tell it, or told less.
    """
    for one in ordered:
        if name not in one.reports:
            received = f"{sorted(one.reports)} from contribution {one.key}"
            raise ValueError(f"Expected a report of {name} with each update. Received: {received}")
        if not one.reports[name] >= least:
            received = f"{one.reports[name]} from contribution {one.key}"
            raise ValueError(f"Expected {name} of at least {least:g}. Received: {received}")
    return [float(one.reports[name]) for one in ordered]


def _check(one: Contribution, *, length: int) -> None:
    values = one.values
    if values.dtype != np.float32 or values.shape != (length,):
        raise ValueError(
            f"Expected float32 values of shape ({length},) from contribution {one.key}. "
            f"Received: {values.dtype} of shape {values.shape}"
        )
    if not (values.flags.c_contiguous and values.flags.aligned):
        raise ValueError(
            f"Expected contiguous, aligned values from contribution {one.key}. "
            f"Received: strides {values.strides}, aligned {values.flags.aligned}"
        )
    if one.samples < 0:
        raise ValueError(
            f"Expected a count of samples from contribution {one.key}. Received: {one.samples}"
        )


def apply_delta(
    base: NDArray[np.float32], delta: NDArray[np.float32], out: NDArray[np.float32]
) -> None:
    """Writes the next weights: `out = float32(float64(base) + float64(delta))`.

    Args:
        base: the weights of the base version, shape (n,), float32.
        delta: a result's delta, shape (n,), float32.
        out: where the sum goes, shape (n,), float32; `base` itself if it may be overwritten.

    Raises:
        ValueError: shapes or dtypes differ, or a sum is not finite (what `out` then holds is of
            no use).
    """
    for name, array in (("base", base), ("delta", delta), ("out", out)):
        if array.dtype != np.float32 or array.shape != (delta.size,):
            raise ValueError(
                f"Expected {name} to be float32 of shape ({delta.size},). "
                f"Received: {array.dtype} of shape {array.shape}"
            )
    # A float32 sum is the float64 sum rounded once more: 53 bits are enough for 2 * 24 + 2
    # (Figueroa 1995, When is double rounding innocuous?), so nothing is gained by widening.
    with np.errstate(over="ignore", invalid="ignore"):
        for start in range(0, out.size, _BLOCK):
            part = out[start : start + _BLOCK]
            np.add(base[start : start + _BLOCK], delta[start : start + _BLOCK], out=part)
            finite = np.isfinite(part)  # now, while the sums are in the cache
            if not finite.all():
                raise ValueError(
                    f"Expected finite sums of base and delta. Received: {part[~finite][0]}"
                )
