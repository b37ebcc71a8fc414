"""What a simulation's home keeps, and what goes when a round has ended: updates fill a disk."""

from collections.abc import Iterable
from pathlib import Path

from django.db.models import Max

from models_app import blobs
from models_app.models import ModelVersion
from rounds import clock
from rounds.models import Assignment, Round, Run, Update

Place = Assignment.State


class Kept:
    """The files of participants' own, and the blobs of versions.

    Args:
        home: of the simulation.
        run: whose participants and versions they are.
        own: whether participants keep anything for their next round.
    """

    def __init__(self, home: Path, run: Run, *, own: bool) -> None:
        self._folder, self._run, self._own = home / "own", run, own
        self._folder.mkdir(exist_ok=True)
        self._versions = self._stored_versions()

    def own_file(self, assignment: int) -> Path:
        """Where a participant keeps what an assignment leaves it."""
        return self._folder / f"{assignment}.safetensors"

    def owned(self, participants: Iterable[int]) -> dict[int, Path]:
        """What participants keep: of each the last that came with an update that was counted."""
        if not self._own:
            return {}
        counted = Assignment.objects.filter(
            participant__in=list(participants),
            state=Place.ACCEPTED,
            round__phase=Round.Phase.PUBLISHED,
        )
        last = counted.values_list("participant").annotate(last=Max("pk"))
        return {participant: self.own_file(pk) for participant, pk in last.order_by()}

    def tidy(self, round_: Round) -> None:
        """Delete the bytes that nobody needs any more now that a round has ended."""
        judged = Update.objects.filter(assignment__round=round_, deleted_at=None)
        judged = judged.exclude(assignment__state=Place.UPLOADED)
        for digest in judged.values_list("digest", flat=True):
            blobs.delete(digest)
        judged.update(deleted_at=clock.now())
        self._tidy_own(round_)
        if (version := round_.version) is not None:
            self._versions[version.pk] = (version.weights, version.strategy_state)
        self._tidy_versions()

    def _stored_versions(self) -> dict[int, tuple[str, str]]:
        rows = ModelVersion.objects.filter(model=self._run.model_id).exclude(number=1)
        stored = rows.values_list("pk", "weights", "strategy_state")
        return {pk: (weights, state) for pk, weights, state in stored if blobs.exists(weights)}

    def _tidy_own(self, round_: Round) -> None:
        if not self._own:
            return
        places = round_.assignments.exclude(state__in=Assignment.OPEN)
        owned = self.owned(places.values_list("participant", flat=True))
        older = Assignment.objects.filter(participant__in=owned).exclude(
            state__in=Assignment.UNJUDGED
        )
        for pk in older.values_list("pk", flat=True):
            if (file := self.own_file(pk)) not in owned.values():
                file.unlink(missing_ok=True)

    def _tidy_versions(self) -> None:
        """Keep the first version, the one that is served, and what somebody trains from."""
        open_ = Assignment.objects.filter(state__in=Assignment.OPEN, round__run=self._run)
        served = ModelVersion.objects.filter(
            model=self._run.model_id, stage=ModelVersion.Stage.PUBLISHED
        )
        needed = {*served.values_list("pk", flat=True), *open_.values_list("base", flat=True)}
        first = ModelVersion.objects.get(model=self._run.model_id, number=1)
        keep = {first.weights, first.strategy_state, ""}
        keep |= {digest for pk in needed & self._versions.keys() for digest in self._versions[pk]}
        for pk in self._versions.keys() - needed:
            for digest in self._versions.pop(pk):
                if digest not in keep:
                    blobs.delete(digest)
