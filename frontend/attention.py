"""What needs somebody: each a sentence, why, and the next step. Read by `rounds.overview`."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from operator import attrgetter
from typing import Any

from django.urls import reverse

from frontend import advice
from journal import events
from models_app.models import ModelVersion
from rounds import clock, overview
from rounds.models import JoinCode, Round, Run

Phase = Round.Phase


@dataclass(frozen=True)
class Notice:
    """Something that needs somebody.

    Attributes:
        kind: How bad it is, as notices are coloured: `error`, `warning` or `info`.
        what: The sentence.
        why: What is known of the reason.
        href: Where the next step is taken.
        step: The next step, as the link's words.
        at: When it happened.
        until: What is waited for.
    """

    kind: str
    what: str
    why: str = ""
    href: str = ""
    step: str = ""
    at: datetime | None = None
    until: datetime | None = None


def notices(runs: Sequence[Run], rounds: Mapping[int, Any], online: int) -> list[Notice]:
    """All that needs somebody, the most urgent first.

    Args:
        runs: The active ones.
        rounds: Their active rounds, by the run's id.
        online: How many participants are there.
    """
    now = clock.now()
    failed, lost = list(overview.failed_runs(now)), list(overview.failed_rounds(now))
    told_of = {run.pk for run in failed} | {run.pk for run in runs if run.failures}
    return [
        *_broker(),
        *map(_waiting, overview.waiting_rounds(now)),
        *map(_gave_up, failed),
        *(_retrying(run, lost) for run in runs if run.failures),
        *_too_few(runs, rounds, online),
        *_failed_rounds(one for one in lost if one.run_id not in told_of),
        *_failing(overview.failing()),
        *_set_aside(overview.quarantined(now)),
        *map(_undecided, overview.undecided_versions()),
        *_unseen(list(overview.unseen(now))),
        *(_join_code(code, now) for code in overview.expiring_join_codes(now)),
    ]


def _broker() -> Iterator[Notice]:
    if not events.is_heard():
        yield Notice(
            "error",
            "The broker does not answer",
            "Nothing is told live, and rounds stand still until it is back. It is the Valkey or "
            "Redis that REDIS_URL names; without that setting manage.py up brings one of its own.",
        )


def _waiting(round_: Round) -> Notice:
    evaluating = round_.phase == Phase.EVALUATING
    since = round_.evaluating_at if evaluating else round_.aggregating_at
    return Notice(
        "error",
        f"{_name(round_)} waits for a worker",
        f"No {'evaluation worker, one with Keras, ' if evaluating else 'worker '}has taken it. "
        "manage.py up starts workers; see that they run, and what their logs say.",
        reverse("frontend:round", args=[round_.pk]),
        "Open the round",
        at=since,
    )


def _gave_up(run: Run) -> Notice:
    return Notice(
        "error",
        f"{run} failed for good",
        run.reason,
        reverse("frontend:run", args=[run.pk]),
        "See its rounds, and start another run",
        at=run.ended_at,
    )


def _retrying(run: Run, lost: Iterable[Round]) -> Notice:
    last = next((one for one in lost if one.run_id == run.pk), None)
    address = reverse("frontend:run", args=[run.pk])
    rounds = _counted(run.failures, "round")
    return Notice(
        "warning",
        f"{run} is trying again after {rounds} failed{' in a row' if run.failures > 1 else ''}",
        _why(last) if last else "",
        reverse("frontend:round", args=[last.pk]) if last else address,
        "See the round that failed" if last else "See the run",
        until=run.next_round_at,
    )


def _why(round_: Round) -> str:
    return f"{round_.reason} {advice.for_round(round_.code)}".strip()


def _too_few(runs: Iterable[Run], rounds: Mapping[int, Any], online: int) -> Iterator[Notice]:
    for run in runs:
        round_, needed = rounds.get(run.pk), run.fewest
        if round_ and round_.phase == Phase.SELECTING and online < needed:
            yield Notice(
                "warning",
                f"{_name(round_)} waits for {_counted(needed, 'participant')}, and "
                f"{_counted(online, 'is', 'are') if online else 'none is'} online",
                "",
                reverse("frontend:participants"),
                "See who is there, or let more join",
                until=round_.deadline,
            )


def _failed_rounds(lost: Iterable[Round]) -> Iterator[Notice]:
    by_run: dict[int, list[Round]] = defaultdict(list)
    for round_ in lost:
        by_run[round_.run_id].append(round_)
    for found in by_run.values():
        last = found[0]
        one = len(found) == 1
        yield Notice(
            "warning",
            f"{_name(last)} failed" if one else f"{len(found)} rounds of {last.run} failed lately",
            _why(last) if one else f"The last one: {_why(last)}",
            reverse("frontend:round", args=[last.pk]),
            "See what happened",
            at=last.ended_at,
        )


def _failing(found: Iterable[Any]) -> Iterator[Notice]:
    for round_, some, names in _by_round(found):
        yield Notice(
            "warning",
            f"{names} failed in {_name(round_, begins=False)}, which is under way",
            some[0].reason,
            reverse("frontend:round", args=[round_.pk]),
            "See what happened to them",
            at=some[0].ended_at,
        )


def _set_aside(found: Iterable[Any]) -> Iterator[Notice]:
    for round_, some, names in _by_round(found):
        one = some[0].total == 1
        updates = "The update" if one else f"{some[0].total} updates"
        yield Notice(
            "warning",
            f"{updates} of {names} {'was' if one else 'were'} set aside in "
            f"{_name(round_, begins=False)}",
            some[0].reason,
            reverse("frontend:round", args=[round_.pk]),
            "Look at the round",
            at=some[0].ended_at,
        )


def _by_round(found: Iterable[Any]) -> Iterator[tuple[Round, list[Any], str]]:
    """Each round, some of its assignments, and whose all of them are."""
    for round_, some in groupby(found, key=attrgetter("round")):
        assignments = list(some)
        names = [one.participant.name for one in assignments]
        yield round_, assignments, _enumerated(names, assignments[0].total)


def _undecided(version: ModelVersion) -> Notice:
    return Notice(
        "info",
        f"Version {version.number} of {version.model.slug} waits for a decision",
        "It is a candidate, and no round will decide about it.",
        reverse("frontend:version", args=[version.model.slug, version.number]),
        "Publish or reject it",
        at=version.created_at,
    )


def _unseen(found: Sequence[Any]) -> Iterator[Notice]:
    if found:
        total: int = found[0].total
        names = _enumerated([one.name for one in found], total)
        yield Notice(
            "info",
            f"{names} {'was' if total == 1 else 'were'} not seen for a day",
            "They count as active: rounds that wait for everyone wait for them, too.",
            reverse("frontend:participants"),
            "See who is missing",
        )


def _join_code(code: JoinCode, now: datetime) -> Notice:
    expired = code.expires_at <= now
    free = _counted(code.max_uses - code.uses, "place")
    name = f"The join code {code.label}" if code.label else "A join code"
    return Notice(
        "info",
        f"{name} {'has expired' if expired else 'expires soon'}, with {free} free",
        "",
        reverse("frontend:participants"),
        "Make another one",
        at=code.expires_at if expired else None,
        until=None if expired else code.expires_at,
    )


def _name(round_: Round, *, begins: bool = True) -> str:
    return f"{'Round' if begins else 'round'} {round_.number} of {round_.run}"


def _enumerated(names: Sequence[str], total: int) -> str:
    """Some names of so many, as in a sentence: "charlie, dora and 3 more"."""
    if total > len(names):
        return f"{', '.join(names)} and {total - len(names)} more"
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def _counted(number: int, one: str, many: str = "") -> str:
    return f"{number} {one if number == 1 else many or one + 's'}"
