"""What a cockpit that is open shows, held against what is in the database."""

import json
import time
from collections.abc import Iterator
from typing import Any

from playwright.sync_api import Page

from rounds.round_state import round_state

STATE = "() => document.querySelector('fs-round').state"
PATIENCE = 10  # seconds that news may take
OF_ITS_TIME = ("now", "cursor")  # when it was read, and up to where


def expect_the_truth(page: Page, round_id: int, *, patience: float = PATIENCE) -> None:
    """The state that an open cockpit has folded is the one that would be read now.

    Args:
        page: Of a round's cockpit.
        round_id: Of the round.
        patience: Seconds until which the last news must have come.
    """
    give_up = time.monotonic() + patience
    while True:
        folded = plain(page.evaluate(STATE))
        read = plain(round_state(round_id))
        if folded == read:
            return
        if time.monotonic() > give_up:
            assert folded == read, "\n".join(differences(folded, read))
        page.wait_for_timeout(100)


def plain(state: dict[str, Any]) -> dict[str, Any]:
    """A document as JSON has it, without what tells when it was read."""
    kept = {name: value for name, value in state.items() if name not in OF_ITS_TIME}
    document: dict[str, Any] = json.loads(json.dumps(kept))
    return document


def differences(folded: Any, read: Any, path: str = "") -> Iterator[str]:
    """Where two documents differ, a line each."""
    if isinstance(folded, dict) and isinstance(read, dict):
        for name in sorted({*folded, *read}):
            yield from differences(folded.get(name), read.get(name), f"{path}.{name}")
    elif isinstance(folded, list) and isinstance(read, list) and len(folded) == len(read):
        for place, (one, other) in enumerate(zip(folded, read, strict=True)):
            yield from differences(one, other, f"{path}[{place}]")
    elif folded != read:
        yield f"{path}: folded {folded!r}, read {read!r}"
