"""The server dies in every phase of a round while participants take part, and comes back."""

import pytest

from client_sdk import Participant
from models_app.models import ModelVersion
from rounds.models import Assignment, Round, Run, Update
from tests.faults.conftest import NAMES, Blow, Federation

pytestmark = [pytest.mark.timeout(240), pytest.mark.alike]

# A line of the journal from each phase, and how many of them a round has.
PHASES = (
    ("round.opened", 1),  # selecting; the first line of a round, written with the one before's end
    ("assignment.training", len(NAMES)),
    ("assignment.uploaded", len(NAMES)),  # one has sent its update, the others have not
    ("round.aggregating", 1),
    ("round.evaluating", 1),
)
ROUNDS = len(PHASES)


def verdicts() -> list[tuple[str, int | None, int]]:
    """What the participants have in their own books of what they sent."""
    found = []
    for name in NAMES:
        with Participant.load(name) as participant:
            entries = [one for one in participant.log() if one.kind == "update"]
        found += [(one.state, one.published, one.assignment or 0) for one in entries]
    return found


def test_a_server_that_dies_in_every_phase_counts_everything_once(federation: Federation) -> None:
    # In the first round in the first phase, in the second in the second, and so on.
    blows = [
        Blow(kind, number * in_a_round + 1, federation.crash)
        for number, (kind, in_a_round) in enumerate(PHASES)
    ]
    run = federation.train("shaken", ROUNDS, blows)
    assert run.state == Run.State.COMPLETED, run.reason
    assert [one.phase for one in run.rounds.all()] == [Round.Phase.PUBLISHED] * ROUNDS
    assert ModelVersion.objects.filter(model=run.model_id).count() == ROUNDS + 1
    states = Assignment.objects.values_list("state", flat=True)
    assert list(states) == [Assignment.State.ACCEPTED] * ROUNDS * len(NAMES)
    sent = sorted(Update.objects.values_list("assignment", flat=True))
    assert len(sent) == ROUNDS * len(NAMES)
    # Whose answer died with the server asks again, maybe after the run has ended.
    federation.until(lambda: len(federation.acknowledged()) >= len(sent))
    # Nobody trained twice, whatever died while the result was under way.
    assert sorted(federation.told("training")) == sorted(federation.acknowledged()) == sent
    federation.until(lambda: all(published for _, published, _ in verdicts()))
    assert sorted(one for _, _, one in verdicts()) == sent
    assert {state for state, _, _ in verdicts()} == {"accepted"}
    assert {published for _, published, _ in verdicts()} == set(range(2, ROUNDS + 2))
