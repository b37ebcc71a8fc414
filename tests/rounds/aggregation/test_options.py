"""What a strategy says of its own options, for forms."""

from dataclasses import dataclass, field

import pytest

from rounds import aggregation
from rounds.aggregation import FedAvg, Option


@dataclass(frozen=True, slots=True)
class Tuned(FedAvg):
    """The mean, with knobs."""

    beta: float = field(default=0.9, metadata={"help": "How much it remembers."})
    trim: int | None = None
    nesterov: bool = False


def test_the_mean_has_no_options_to_set() -> None:
    assert aggregation.options("fedavg") == []


def test_options_are_told_with_their_kind_and_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(aggregation._STRATEGIES, "tuned", Tuned)
    assert aggregation.options("tuned") == [
        Option("beta", float, 0.9, "How much it remembers."),
        Option("trim", int, None, ""),
        Option("nesterov", bool, False, ""),
    ]
    told = {one.name: one.default for one in aggregation.options("tuned")}
    assert aggregation.build("tuned", told) == Tuned()
