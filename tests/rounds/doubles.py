"""Strategies that tests make up: each is FedAvg, and asks for what is tested."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import pytest
from numpy.typing import NDArray

from rounds import aggregation
from rounds.aggregation import Contribution, FedAvg, Requirements, Result, Setting, State, Strategy
from rounds.aggregation.contract import ANY_SETTING


@dataclass(frozen=True)
class Averaging(FedAvg):
    """FedAvg by another name."""

    title: ClassVar[str] = "Averaging"


@dataclass(frozen=True)
class Buffered(Strategy):
    """The mean of updates, each halved once for every version that it is behind."""

    title: ClassVar[str] = "Buffered"
    asynchronous: ClassVar[bool] = True

    def apply(
        self,
        state: State,
        contributions: Sequence[Contribution],
        *,
        setting: Setting = ANY_SETTING,
        out: NDArray[np.float32] | None = None,
    ) -> Result:
        ordered = sorted(contributions, key=lambda one: one.key)
        parts = np.stack([one.values * np.float32(0.5**one.staleness) for one in ordered])
        delta = parts.mean(axis=0, dtype=np.float32)
        return Result(state, delta, {"participants": len(parts)})


@dataclass(frozen=True)
class Remembering(Strategy):
    """FedAvg that counts its rounds in a control variate, and asks for steps and for control."""

    requires_: Mapping[str, Mapping[str, float]] = field(
        default_factory=lambda: {"control_variates": {}, "report_steps": {}}, init=False
    )
    title: ClassVar[str] = "Remembering"

    @property
    def requires(self) -> Requirements:
        return self.requires_

    def init(self, weights: NDArray[np.float32]) -> State:
        return {"control": np.zeros_like(weights)}

    def apply(self, state: State, contributions: Sequence[Contribution], **given: Any) -> Result:
        result = FedAvg().apply({}, contributions, **given)
        steps = sum(one.reports["steps"] for one in contributions)
        control = state["control"] + np.float32(steps)
        return Result({"control": control}, result.delta, result.diagnostics)


def add(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets runs name them: `averaging`, `buffered` and `remembering`."""
    for strategy in (Averaging, Buffered, Remembering):
        monkeypatch.setitem(aggregation._STRATEGIES, strategy.__name__.lower(), strategy)
