"""What a participation tells while it goes on, and what came of it at its end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from client_sdk.protocol import Assignment
from client_sdk.receipts import Receipt

KINDS = {
    "waiting": "nothing to do; `reason`, `detail`, `seconds`",
    "offline": "the server is away; `reason`, `seconds` until the next try",
    "suspended": "an operator has suspended us; `seconds` until the next try",
    "limited": "our own limits allow no round for now; `limit`, `detail`, `seconds`",
    "assigned": "a place in a round",
    "resumed": "its update is in the outbox already",
    "downloading": "fetching the model's weights; `bytes`",
    "downloaded": "they are here; `bytes`",
    "training": "local training begins; `samples`",
    "progress": "somewhere within the training; `fraction` of it is done",
    "epoch": "an epoch is done; `epoch`, `epochs`, `metrics`",
    "evaluating": "measuring a version on examples that are held out; `evaluation`, `model`, "
    "`version`, `samples`",
    "evaluated": "the server has what was measured; `evaluation`, `model`, `version`, `samples`, "
    "`metrics`",
    "sending": "what is about to leave, as the ledger lists it; what is raised here prevents it",
    "uploading": "sending the update; `bytes`",
    "uploaded": "the server has it; `samples`, `metrics`, `receipt`",
    "receipt": "what became of an update that was sent; `receipt`",
    "declined": "given back, because we do not want it; `limit`, `reason`, `detail`",
    "closed": "the round is closed, our part no longer counts; `reason`",
    "failed": "the exchange came to nothing; `reason`, `detail`",
    "interrupted": "Ctrl-C, SIGTERM, or the caller's `stop`",
}


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened while taking part; `KINDS` lists what can.

    Args:
        kind: short name.
        assignment: what it is about, if anything.
        data: more, by name; never training data.
    """

    kind: str
    assignment: Assignment | None = None
    data: Mapping[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class Summary:
    """What came of a participation.

    Args:
        rounds: updates that the server has acknowledged.
        samples: examples trained on, summed over them.
        failures: exchanges that came to nothing through a fault.
        declined: assignments that our own limits gave back.
        evaluations: versions measured on held-out examples, and told of.
        metrics: of the last update, as they were here.
        receipts: one for each update, with the verdict where it is known.
        ended: "rounds", "until", "idle", "stopped" or "interrupted".
    """

    rounds: int = 0
    samples: int = 0
    failures: int = 0
    declined: int = 0
    evaluations: int = 0
    metrics: dict[str, float] = field(default_factory=dict)
    receipts: list[Receipt] = field(default_factory=list)
    ended: str = ""
