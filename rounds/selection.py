"""Who trains: pure and seeded, so that a selection can be checked afterwards."""

import hashlib
import math
from collections.abc import Iterable


def derive_seed(*parts: object) -> int:
    """A seed in [0, 2**31) that depends on all parts and on nothing else.

    Args:
        *parts: What it is derived from, for example a run's seed and a round's number.
    """
    text = ":".join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4]) >> 1


def wanted(selection: str, *, eligible: int, goal: int | None, fraction: float) -> int:
    """How many check-ins a round waits for before it selects.

    Args:
        selection: `all` or `random`.
        eligible: How many participants could check in.
        goal: How many the run wants to train; None for as many as there are.
        fraction: For `random`, the share of those who checked in that is chosen.

    Returns:
        At least 1; never more than could come.
    """
    if goal is None:
        return max(1, eligible)
    come = goal / fraction if selection == "random" else goal
    return max(1, math.ceil(min(eligible, come)))


def choose(
    candidates: Iterable[int],
    *,
    selection: str,
    goal: int | None,
    fraction: float,
    over_selection: float,
    minimum: int,
    seed: int,
) -> list[int]:
    """The participants that train, out of those who checked in.

    `all` takes everyone. `random` takes the goal (else the fraction of the candidates, and never
    fewer than the minimum) times the over-selection: the candidates with the smallest
    SHA-256(seed, id), which is a uniform draw that any language can repeat.

    Args:
        candidates: Ids of the participants that checked in.
        selection: `all` or `random`.
        goal: How many to choose; None for the fraction.
        fraction: In (0, 1].
        over_selection: At least 1.
        minimum: Fewest to choose, while there are as many.
        seed: The round's seed.

    Returns:
        Ids in ascending order.

    Example:
        >>> choose([3, 1, 2], selection="all", goal=None, fraction=1, over_selection=1,
        ...        minimum=1, seed=0)
        [1, 2, 3]
    """
    pool = sorted(candidates)
    if selection == "all":
        return pool
    count = chosen(
        len(pool),
        goal=goal,
        fraction=fraction,
        over_selection=over_selection,
        minimum=minimum,
    )
    return sorted(sorted(pool, key=lambda one: _rank(seed, one))[:count])


def chosen(
    there: int, *, goal: int | None, fraction: float, over_selection: float, minimum: int
) -> int:
    """How many of those who checked in are drawn; the arguments are those of `choose`."""
    count = goal if goal is not None else math.ceil(fraction * there)
    return min(there, math.ceil(max(count, minimum) * over_selection))


def room(goal: int | None, over_selection: float) -> int:
    """How many a round that takes who comes first invites."""
    return math.ceil((goal or 0) * over_selection)


def target(
    invited: int,
    *,
    selection: str,
    target: int | None,
    goal: int | None,
    over_selection: float,
    quorum: int,
) -> int:
    """How many updates end the training of a round before its deadline.

    Args:
        invited: How many train.
        selection: `all`, `random` or `first_come`.
        target: What the run says of it; None for the goal, or for all who are not spare.
        goal: How many the run wants to train; None for as many as there are.
        over_selection: At least 1.
        quorum: The fewest that a version may be made of.

    Returns:
        From the quorum up to the number of those invited; the quorum, if that is more.
    """
    wished = target or (invited if selection == "all" else goal)
    if wished is None:  # random without a goal: what the fraction gave, less the over-selection
        wished = math.ceil(invited / over_selection)
    return max(quorum, min(wished, invited))


def _rank(seed: int, candidate: int) -> bytes:
    return hashlib.sha256(f"{seed}:{candidate}".encode()).digest()
