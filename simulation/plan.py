"""What is asked of a simulation, checked before a second is spent on it."""

import hashlib
import json
import math
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from simulation.attacks import ATTACKS

MODELS: Final = ("small", "2nn", "cnn", "bn")
GREATEST_SEED: Final = 10**9  # TensorFlow's are of 32 bits, and the layers' count on from it


@dataclass(frozen=True, slots=True)
class Plan:
    """One simulation: whatever decides its numbers, and nothing else.

    Args:
        dataset: "digits", "mnist", "cifar10" or the path of an `.npz` file.
        partition: "iid", "shards:K" or "dirichlet:A".
        participants: how many there are.
        fraction: share of them that each round selects.
        epochs, batch, learning_rate, optimizer, momentum: how they train.
        model: one of `MODELS`, or the path of a `.keras` file.
        rounds: published rounds after which it ends.
        strategy: how updates become the next version, with its `options`.
        attack: one of `ATTACKS`, by `attackers` of the participants; empty for none.
        strength: of the attack; None for its own.
        dropout: share of the selected that vanish in a round.
        stragglers: sigma of the log-normal time that participants take; 0 where all are alike.
        step_seconds: virtual seconds that a step takes a participant of median speed.
        deadline: virtual seconds after which a round waits for nobody; None for no end.
        quorum: fewest updates that make a version; robust strategies say how many they need.
        over_selection: invites this many times the fraction.
        concurrency, buffer: how many train at a time, and updates that make a version; both 0
            for a run in rounds.
        until: metric and value at which it ends; None to run all rounds.
        quarantine: multiple of the median norm above which updates are set aside; 0 for never.
        gate: how much worse than its base a version's accuracy may be; None for no gate.
        evaluators: participants that evaluate each candidate on data of their own.
        held_out: share of its examples that each participant keeps for that.
        seed: decides whatever is drawn.
    """

    dataset: str = "digits"
    partition: str = "iid"
    participants: int = 100
    fraction: float = 0.1
    epochs: int = 1
    batch: int = 10
    learning_rate: float = 0.1
    optimizer: str = "sgd"
    momentum: float = 0.0
    model: str = "small"
    rounds: int = 20
    strategy: str = "fedavg"
    options: dict[str, Any] = field(default_factory=dict)
    attack: str = ""
    attackers: float = 0.0
    strength: float | None = None
    dropout: float = 0.0
    stragglers: float = 0.0
    step_seconds: float = 0.01
    deadline: float | None = None
    quorum: int = 1
    over_selection: float = 1.0
    concurrency: int = 0
    buffer: int = 0
    until: tuple[str, float] | None = None
    quarantine: float = 0.0
    gate: float | None = None
    evaluators: int = 0
    held_out: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        _expect(self.participants >= 1, "participants", "at least 1", self.participants)
        _expect(0 < self.fraction <= 1, "fraction", "above 0 and up to 1", self.fraction)
        _expect(self.quorum >= 1, "quorum", "at least 1", self.quorum)
        if not self.buffer:
            cohort = math.ceil(self.fraction * self.participants)
            of_them = f"at most {cohort}, a fraction of {self.fraction:g} of {self.participants}"
            _expect(self.quorum <= cohort, "quorum", of_them, self.quorum)
        finite = self.strength is None or math.isfinite(self.strength)
        _expect(finite, "attack", "a finite strength", self.strength)
        in_time = self.deadline is None or self.deadline > 0
        _expect(in_time, "deadline", "above 0", self.deadline)
        _expect(0 <= self.dropout < 1, "dropout", "from 0 to below 1", self.dropout)
        _expect(0 <= self.attackers < 1, "attack", "a share from 0 to below 1", self.attackers)
        _expect(self.stragglers >= 0, "stragglers", "a sigma from 0", self.stragglers)
        _expect(self.step_seconds > 0, "step-seconds", "above 0", self.step_seconds)
        known = self.model in MODELS or self.model.endswith(".keras")
        _expect(known, "model", f"one of {', '.join(MODELS)} or a .keras file", self.model)
        known = self.attack in ("", *ATTACKS)
        _expect(known, "attack", f"one of {', '.join(ATTACKS)}", self.attack)
        both = bool(self.concurrency) == bool(self.buffer)
        _expect(both, "buffer", "given together with concurrency", self.buffer)
        fit = self.buffer <= self.participants
        _expect(fit, "buffer", "at most all participants: each fills a place of it", self.buffer)
        lie = self.attack == "little_is_enough" and self.asynchronous
        _expect(not lie, "attack", "rounds, in which attackers can agree", self.attack)
        several = self.evaluators == 0 or 2 <= self.evaluators <= self.participants
        _expect(several, "evaluators", "from 2 to all participants", self.evaluators)
        _expect(0 <= self.held_out < 1, "held-out", "from 0 to below 1", self.held_out)
        data = bool(self.held_out) >= bool(self.evaluators)
        _expect(data, "held-out", "a share above 0 for those who evaluate", self.held_out)
        _expect(0 <= self.seed <= GREATEST_SEED, "seed", f"0 to {GREATEST_SEED}", self.seed)

    @property
    def asynchronous(self) -> bool:
        """Whether rounds are buffers that nobody waits for."""
        return bool(self.buffer)

    @property
    def hyperparameters(self) -> dict[str, Any]:
        """As a run takes them."""
        return {
            "epochs": self.epochs,
            "batch_size": self.batch,
            "learning_rate": self.learning_rate,
            "optimizer": self.optimizer,
            "momentum": self.momentum,
            "max_steps": None,
        }

    def as_json(self) -> dict[str, Any]:
        """Plain data, from which `from_json` makes the same plan."""
        return asdict(self) | {"until": list(self.until) if self.until else None}

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> "Plan":
        until = document["until"]
        return replace(cls(**(document | {"until": None})), until=tuple(until) if until else None)

    @property
    def digest(self) -> str:
        """SHA-256 of all of it, and of the files that it names."""
        text = json.dumps(self.as_json(), sort_keys=True)
        found = hashlib.sha256(text.encode())
        for name in (self.dataset, self.model):
            if name.endswith((".npz", ".keras")) and Path(name).is_file():
                found.update(Path(name).read_bytes())
        return found.hexdigest()


def _expect(holds: bool, name: str, expected: str, received: object) -> None:
    if not holds:
        raise ValueError(f"--{name}: Expected {expected}. Received: {received!r}")
