"""What a strategy may ask of participants beyond plain training, in numbers.

Three strategies keep participants with unlike data from drifting apart, by one rule. Before the
optimizer takes a gradient g, it becomes

    g + pull (w - w₀) + shift

with w₀ the weights that the round began with, and

    FedProx   (Li et al. 2020, arXiv 1812.06127)           pull m,  shift 0
    SCAFFOLD  (Karimireddy et al. 2020, arXiv 1910.06378)  pull 0,  shift c - c_i
    FedDyn    (Acar et al. 2021, arXiv 2111.04263)         pull a,  shift -h_i

m and a are the strategy's settings; c is the server's, and comes with the version. c_i and h_i are
the participant's own: it keeps them from round to round, they never leave it, and when its update
Δ was counted they become

    c_i - c - Δ / (K η)        after K steps at the learning rate η (SCAFFOLD's option II)
    h_i - a Δ

Vectors are float32 of shape (n,): all federated weights one after another, in the order of the
manifest. Everything here is a pure function of arrays, for trainers of any kind.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from client_sdk.errors import CapabilityMissing
from client_sdk.wire import REPORTS

PROXIMAL: Final = "proximal"
CONTROL_VARIATES: Final = "control_variates"
DYNAMIC_REGULARIZATION: Final = "dynamic_regularization"

Requirements = Mapping[str, Mapping[str, float]]
"""What a strategy asks for: capabilities by name, and their settings."""

Vector = NDArray[np.float32]
Own = Mapping[str, Vector]
"""What a participant keeps of a run: a vector for each capability that keeps one."""

NOTHING: Final[Requirements] = MappingProxyType({})

# What this SDK can do, and the settings that each takes: the server is told the names, and what
# is asked for beyond them is refused.
CAPABILITIES: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        PROXIMAL: ("mu",),
        CONTROL_VARIATES: (),
        DYNAMIC_REGULARIZATION: ("alpha",),
        **dict.fromkeys(REPORTS, ()),
    }
)


def check(requires: Requirements, can: Collection[str] = CAPABILITIES) -> None:
    """Refuse what cannot be done here, before it is done by half.

    Args:
        requires: what the strategy asks for.
        can: capabilities of whoever trains.

    Raises:
        CapabilityMissing: for an unknown name, for other settings than it has, and for settings
            that are no numbers from 0.
    """
    for name, settings in requires.items():
        if name not in CAPABILITIES or name not in can:
            known = ", ".join(one for one in CAPABILITIES if one in can) or "nothing beyond FedAvg"
            raise CapabilityMissing(f"Expected a strategy that asks for {known}. Received: {name}")
        fits = sorted(settings) == sorted(CAPABILITIES[name]) and all(
            math.isfinite(value) and value >= 0 for value in settings.values()
        )
        if not fits:
            wanted = ", ".join(CAPABILITIES[name]) or "nothing"
            raise CapabilityMissing(
                f"Expected `{name}` with {wanted}, numbers from 0. Received: {dict(settings)}"
            )


def pulls(requires: Requirements) -> bool:
    """Whether gradients are pulled back to where the round began."""
    return PROXIMAL in requires or DYNAMIC_REGULARIZATION in requires


def shifts(requires: Requirements) -> bool:
    """Whether gradients are shifted."""
    return bool(keeps(requires))


def keeps(requires: Requirements) -> list[str]:
    """The capabilities for which a participant keeps a vector of its own."""
    return [name for name in (CONTROL_VARIATES, DYNAMIC_REGULARIZATION) if name in requires]


@dataclass(frozen=True, slots=True, eq=False)
class Correction:
    """What becomes of each gradient g in a round: g + pull (w - w₀) + shift.

    Args:
        pull: from 0.
        shift: shape (n,), float32; None for none.
    """

    pull: float = 0.0
    shift: Vector | None = None


def correction(
    requires: Requirements, own: Own | None, control: Vector | None, *, size: int
) -> Correction:
    """What becomes of each gradient in a round.

    Args:
        requires: what the strategy asks for.
        own: what this participant keeps of the run; zeros where there is nothing.
        control: c, the server's, shape (size,); None for zeros.
        size: number of federated values, n.

    Raises:
        ValueError: for a vector of another shape.
    """
    pull = 0.0
    if PROXIMAL in requires:
        pull += requires[PROXIMAL]["mu"]
    if DYNAMIC_REGULARIZATION in requires:
        pull += requires[DYNAMIC_REGULARIZATION]["alpha"]
    if not shifts(requires):
        return Correction(pull)
    shift = np.zeros(size, np.float32)
    if CONTROL_VARIATES in requires:
        shift += _vector("control", control, size)
    for name in keeps(requires):
        shift -= _vector(name, (own or {}).get(name), size)
    return Correction(pull, shift)


def advance(
    requires: Requirements,
    own: Own | None,
    control: Vector | None,
    delta: Vector,
    *,
    steps: int,
    learning_rate: float,
) -> dict[str, Vector]:
    """What the participant keeps from here on, if its update is counted.

    Args:
        requires, own, control: as for `correction`.
        delta: the update as it is sent, shape (n,), float32.
        steps: how many steps were taken, from 1.
        learning_rate: of these steps.

    Returns:
        A vector for each of `keeps(requires)`.

    Raises:
        ValueError: for a vector of another shape, and for a result that is not finite.
    """
    moved = {}
    for name in keeps(requires):
        before = _vector(name, (own or {}).get(name), delta.size).astype(np.float64)
        if name == CONTROL_VARIATES:
            before -= _vector("control", control, delta.size)
            before -= delta / np.float64(steps * learning_rate)
        else:
            before -= requires[name]["alpha"] * delta.astype(np.float64)
        with np.errstate(over="ignore"):
            moved[name] = before.astype(np.float32)
        if not np.isfinite(moved[name]).all():
            raise ValueError(f"Expected finite values to keep for {name}. Received: infinity")
    return moved


def reports(requires: Requirements, told: Mapping[str, float]) -> dict[str, float]:
    """Of what can be told (`steps`, `initial_loss`) that which the strategy asks for.

    Raises:
        KeyError: when it cannot.
    """
    return {REPORTS[name]: float(told[REPORTS[name]]) for name in requires if name in REPORTS}


def joined(tensors: Mapping[str, NDArray[np.float32]]) -> Vector:
    """Tensors one after another as one vector; those of an update are in manifest order."""
    parts = [np.ravel(values) for values in tensors.values()]
    return np.concatenate(parts) if parts else np.zeros(0, np.float32)


def _vector(name: str, values: Any, size: int) -> Vector:
    if values is None:
        return np.zeros(size, np.float32)
    found = np.asarray(values, np.float32)
    if found.shape != (size,):
        raise ValueError(f"Expected {name} of shape ({size},). Received: {found.shape}")
    return found
