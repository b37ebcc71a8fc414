"""What people decide about runs, rounds, participants and join codes, in the words of the pages."""

from collections.abc import Callable
from typing import Any

from django import forms

from accounts.decisions import Decision
from models_app.models import ModelVersion
from rounds import enrolment, federated_evaluation, lifecycle, rules, tasks
from rounds.errors import IllegalMove
from rounds.models import FederatedEvaluation, JoinCode, Participant, Round, Run

Verb = Callable[..., object]


def _ringing(
    told: Callable[[Any], object], ring: Callable[[Any], object]
) -> Callable[[Verb], Verb]:
    """Makes verbs of rows, which ring for the step that may be due, of verbs of what rows tell.

    Args:
        told: What the verb is given for a row.
        ring: The bell, which is given the row.
    """

    def of_row(verb: Verb) -> Verb:
        def carried(row: Any, **decision: Any) -> None:
            verb(told(row), **decision)
            ring(row)

        return carried

    return of_row


_of_run = _ringing(lambda run: run.pk, lambda run: tasks.ring_run(run.pk))
_of_round = _ringing(lambda round_: round_.pk, lambda round_: tasks.ring_run(round_.run_id))
# The rounds that it is in need not wait for it any more.
_of_participant = _ringing(lambda one: one, lambda one: tasks.ring_rounds_of(one))


RUN = {
    "start": Decision(
        label="Start",
        happens="The first round opens, and participants are invited as they check in.",
        verb=_of_run(lifecycle.start_run),
        done="{row} is running.",
        possible=lambda run: run.state == Run.State.DRAFT,
    ),
    "pause": Decision(
        label="Pause",
        happens="The round that is under way finishes, and no other opens until it is resumed.",
        verb=_of_run(lifecycle.pause_run),
        done="{row} is paused.",
        possible=lambda run: run.state == Run.State.RUNNING,
    ),
    "resume": Decision(
        label="Resume",
        happens="Its next round opens.",
        verb=_of_run(lifecycle.resume_run),
        done="{row} is running again.",
        possible=lambda run: run.state == Run.State.PAUSED,
    ),
    "stop": Decision(
        label="Stop",
        happens="It ends for good: its round is cancelled, and what participants are training now "
        "is lost. Versions that it has published stay.",
        verb=_of_run(lifecycle.stop_run),
        done="{row} is stopped.",
        possible=lambda run: run.state in (Run.State.DRAFT, Run.State.RUNNING, Run.State.PAUSED),
        danger=True,
        reason=True,
    ),
}

ROUND = {
    "close": Decision(
        label="Close now",
        happens="The training ends with the updates that are here; who has not uploaded is late. "
        "There must be as many as the quorum.",
        verb=_of_round(lifecycle.close_round),
        done="{row} is closed.",
        possible=lambda round_: round_.phase in Round.OPEN,
    ),
    "cancel": Decision(
        label="Cancel",
        happens="The round is abandoned, and all of its updates with it. A run that is running "
        "opens its next round at once.",
        verb=_of_round(lifecycle.cancel_round),
        done="{row} is cancelled.",
        possible=lambda round_: round_.phase in Round.ACTIVE,
        danger=True,
        reason=True,
    ),
}


class EvaluationForm(forms.Form):
    """How many participants are to evaluate a version, and for how long they are waited for."""

    goal = forms.IntegerField(
        label="Reports that end it", initial=10, min_value=2, help_text="as many participants"
    )
    minimum = forms.IntegerField(
        label="Smallest cohort",
        initial=3,
        min_value=2,
        help_text="of fewer nothing is shown or used, to anybody",
    )
    seconds = forms.IntegerField(
        label="Seconds to wait",
        initial=300,
        min_value=rules.EVALUATION_SECONDS[0],
        max_value=rules.EVALUATION_SECONDS[1],
    )


def _asked_of(version: ModelVersion) -> FederatedEvaluation | None:
    """The open evaluation of a version that an operator asked for or its round did."""
    return version.federated_evaluations.filter(state=FederatedEvaluation.State.OPEN).first()


def _cancel_evaluation(version: ModelVersion, **decision: Any) -> None:
    asked = _asked_of(version)
    if asked is None:
        raise IllegalMove(f"Expected an open evaluation of {version}. Received: none")
    tasks.ring_evaluation(federated_evaluation.cancel(asked.pk, **decision))


EVALUATION = {
    "evaluate": Decision(
        label="Ask participants",
        happens="Participants that keep data for it measure this version as they check in, and "
        "tell numbers: means, counts by class, and how many examples. What is served does not "
        "change.",
        verb=federated_evaluation.request,
        done="Participants are asked to evaluate {row}; this page shows how many have.",
        possible=lambda version: _asked_of(version) is None,
        form=EvaluationForm,
    ),
    "cancel-evaluation": Decision(
        label="Cancel the evaluation",
        happens="It ends without a summary. A round that waits for it goes on without.",
        verb=_cancel_evaluation,
        done="The evaluation of {row} is cancelled.",
        possible=lambda version: _asked_of(version) is not None,
        danger=True,
    ),
}

PARTICIPANT = {
    "suspend": Decision(
        label="Suspend",
        happens="No rounds and no requests until it is reinstated. It leaves the round that it is "
        "in, at once.",
        verb=_of_participant(enrolment.suspend),
        done="{row} is suspended.",
        possible=lambda one: one.state == Participant.State.ACTIVE,
    ),
    "reinstate": Decision(
        label="Reinstate",
        happens="It may take part again.",
        verb=enrolment.reinstate,
        done="{row} is active again.",
        possible=lambda one: one.state == Participant.State.SUSPENDED,
    ),
    "revoke": Decision(
        label="Revoke",
        happens="For good: its key and its tokens are worth nothing from now on. To come back, it "
        "has to enrol again with a new join code.",
        verb=_of_participant(enrolment.revoke),
        done="{row} is revoked.",
        possible=lambda one: one.state != Participant.State.REVOKED,
        danger=True,
        reason=True,
    ),
}


def _can_be_withdrawn(code: JoinCode) -> bool:
    return code.withdrawn_at is None


JOIN_CODE = {
    "withdraw": Decision(
        label="Withdraw",
        happens="Nobody may enrol with it from now on. Who has enrolled stays.",
        verb=enrolment.withdraw_join_code,
        done="{row} is withdrawn.",
        possible=_can_be_withdrawn,
        danger=True,
    ),
}
