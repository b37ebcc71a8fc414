"""Jobs that Celery's workers do: sent by the broker, answered by a file in the simulation's home.

The message is a doorbell. One that is lost, with its worker, is sent again after a while; a job
that is done twice has the same bytes.
"""

import json
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Executor, Future
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

from celery import Celery

from simulation.training import Base, Job, Judgement, Judging, Outcome, Recipe, Workshop

QUEUE: Final = "simulation"
AGAIN: Final = 600.0  # seconds without an answer
PAUSE: Final = 0.005  # seconds between two looks

Errand = Job | Judging


def as_json(errand: Errand) -> dict[str, Any]:
    """A job as plain data."""
    kind = "train" if isinstance(errand, Job) else "judge"
    return {"kind": kind, **json.loads(json.dumps(asdict(errand), default=str))}


def read(document: Mapping[str, Any]) -> Errand:
    """A job from what `as_json` gave."""
    base = document["base"]
    version = Base(Path(base["weights"]), _path(base["fixed"]), _path(base["control"]))
    who, own = document["participant"], _path(document["own"])
    if document["kind"] == "judge":
        return Judging(who, version, own)
    target, kept = Path(document["target"]), _path(document["kept"])
    return Job(who, version, document["seed"], target, own, kept)


def _path(file: str | None) -> Path | None:
    return None if file is None else Path(file)


def answer(file: Path, errand: Errand, workshop: Workshop) -> None:
    """Do a job, and write what came of it as a whole file."""
    done = workshop.train(errand) if isinstance(errand, Job) else workshop.judge(errand)
    draft = file.with_name(f"{file.name}.{uuid4().hex}")
    draft.write_text(json.dumps(asdict(done)))
    draft.replace(file)


class CeleryPool(Executor):
    """Sends each job to whatever workers listen.

    Args:
        recipe: laid into the home, where workers read it.
        app: a Celery application with the broker of the stack.
    """

    def __init__(self, recipe: Recipe, app: Celery) -> None:
        recipe.write()
        self._home, self._app = recipe.home, app

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        (errand,) = args
        file = self._home / "spool" / f"{uuid4().hex}.json"
        file.parent.mkdir(exist_ok=True)

        def send() -> None:
            arguments = [str(self._home), as_json(errand), str(file)]
            self._app.send_task("simulation.tasks.work", arguments, queue=QUEUE)

        return _Answer(file, send, Outcome if isinstance(errand, Job) else Judgement)


class _Answer(Future[Any]):
    """What a worker will have written."""

    def __init__(self, file: Path, send: Callable[[], None], kind: type[Any]) -> None:
        super().__init__()
        self._file, self._send, self._kind = file, send, kind
        send()

    def result(self, timeout: float | None = None) -> Any:
        if not self.done():
            sent = time.monotonic()
            while not self._file.exists():
                time.sleep(PAUSE)
                if time.monotonic() - sent > AGAIN:
                    self._send()
                    sent = time.monotonic()
            self.set_result(self._kind(**json.loads(self._file.read_text())))
            self._file.unlink()
        return super().result(timeout)
