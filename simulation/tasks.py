"""Celery's door: a job in, done by a worker that keeps its model; the answer lies in the home.

A worker needs Keras, the home on a disk that it shares, and a queue of its own, for a simulation
must not stand in the way of a server's rounds: see docs/simulation.md.
"""

import os
from pathlib import Path
from typing import Any

from celery import shared_task

from simulation import errands, training

_kept: tuple[str, training.Workshop] | None = None


@shared_task
def work(home: str, errand: dict[str, Any], answer: str) -> None:
    """Do one job and write what came of it.

    Args:
        home: folder of the simulation.
        errand: the job, as `errands.as_json` writes it.
        answer: the file to write.
    """
    errands.answer(Path(answer), errands.read(errand), _workshop(home))


def _workshop(home: str) -> training.Workshop:
    global _kept
    if _kept is None or _kept[0] != home:
        os.environ.update(training.ONE_THREAD)  # TensorFlow is imported after this
        _kept = (home, training.Workshop(training.Recipe.read(Path(home))))
    return _kept[1]
