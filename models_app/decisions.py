"""What people decide about versions, in the words of the pages."""

from typing import Any

from accounts.decisions import Decision
from models_app import registry, tasks
from models_app.models import ModelVersion

Stage = ModelVersion.Stage


def _roll_back(version: ModelVersion, **decision: Any) -> ModelVersion:
    return registry.roll_back(version.model, version, **decision)


def _measure(version: ModelVersion, **decision: Any) -> None:
    registry.ask_measurement(version, **decision)
    tasks.ring_measure(version.pk)


VERSION = {
    "publish": Decision(
        label="Publish",
        happens="It is served from now on, to participants and to everyone who asks the model; "
        "the version that was served is archived.",
        verb=registry.publish,
        done="{row} is published.",
        possible=lambda version: version.stage == Stage.CANDIDATE,
    ),
    "reject": Decision(
        label="Reject",
        happens="It will not be served, ever.",
        verb=registry.reject,
        done="{row} is rejected.",
        possible=lambda version: version.stage == Stage.CANDIDATE,
        danger=True,
        reason=True,
    ),
    "roll-back": Decision(
        label="Roll back to it",
        happens="Its weights are served again, as a new version; the version that was served is "
        "archived.",
        verb=_roll_back,
        done="The model serves what {row} holds.",
        possible=lambda version: version.stage == Stage.ARCHIVED,
        danger=True,
        reason=True,
    ),
    "measure": Decision(
        label="Measure again",
        happens="A worker measures it on the held-out set: its metrics and who is taken for whom "
        "are written down anew. What is served does not change.",
        verb=_measure,
        done="{row} is being measured; this page shows it when it is done.",
        possible=lambda version: bool(version.model.evaluation_set),
    ),
}
