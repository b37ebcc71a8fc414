"""The real server for a measurement: the embedded stack in a home of its own, gone afterwards.

    with server.running() as it:
        ...                     # Django is set up here on the same home

The settings read their home when they are imported, so nothing of the house that needs them is
imported before.
"""

import os
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

if TYPE_CHECKING:
    from client_sdk.keys import Key
    from fedserver.supervisor import Supervisor
    from models_app.models import Model
    from rounds.models import Assignment, Participant, Run

_FOREIGN = (
    "BLOBS_ENDPOINT",
    "BLOBS_URL",
    "DATABASE_URL",
    "FEDSERVER_ALLOWED_HOSTS",
    "FEDSERVER_HTTPS",
    "FEDSERVER_PROXIES",
    "REDIS_URL",
)


@contextmanager
def home(folder: Path | None = None) -> Iterator[Path]:
    """A fresh home with a database, and Django set up on it; once in a process.

    Args:
        folder: in which it is made; the system's place for temporary files by default.
    """
    path = Path(tempfile.mkdtemp(prefix="fedserver-benchmark-", dir=folder))
    for name in _FOREIGN:
        os.environ.pop(name, None)
    os.environ |= {
        "DJANGO_SETTINGS_MODULE": "fedserver.settings",
        "FEDSERVER_HOME": str(path),
        "FEDSERVER_ENROL_RATE": "100000/min",
        "FEDSERVER_TOKENS_RATE": "100000/min",
        "FEDCLIENT_HOME": str(path / "participants"),
    }
    try:
        import django

        django.setup()
        from fedserver import stack

        stack.prepare()
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


@dataclass(frozen=True)
class Server:
    """A server that runs: its address, and its programs."""

    url: str
    supervisor: "Supervisor"

    def pid(self, program: str) -> int:
        """The process of one of its programs: web, steps, evaluation, beat or valkey."""
        pid = self.supervisor.children[program].pid
        assert pid is not None
        return pid


@contextmanager
def running(folder: Path | None = None, only: Sequence[str] = ()) -> Iterator[Server]:
    """Web, workers, beat and Valkey under the supervisor, all ready; they end with the block.

    Args:
        folder: in which the home is made.
        only: names of the programs that run; all when empty.
    """
    with home(folder) as path:
        from fedserver import stack
        from fedserver.supervisor import Supervisor

        door = stack.Door.open("127.0.0.1", 0)
        programs = [one for one in stack.programs(door) if not only or one.name in only]
        with Supervisor(programs, logs=path / "logs") as supervisor:
            supervisor.start()
            yield Server(door.url, supervisor)


@contextmanager
def broker(home: Path) -> Iterator[None]:
    """Valkey alone, for functions that are called in this process."""
    from fedserver import valkey
    from fedserver.supervisor import Supervisor

    with Supervisor([valkey.program(home)], logs=home / "logs") as supervisor:
        supervisor.start()
        yield


def register(slug: str, tensors: Mapping[str, np.ndarray]) -> "Model":
    """A model of these weights, all federated, without an evaluation set: it needs no Keras."""
    from client_sdk import wire
    from models_app import registry
    from models_app.packages import Package

    names = {name: wire.tensor_name(number, "dense", name) for number, name in enumerate(tensors)}
    weights = [
        wire.WeightSpec(names[name], number, "dense", array.shape, "F32", wire.FEDERATED)
        for number, (name, array) in enumerate(tensors.items())
    ]
    package = Package(
        architecture={"class_name": "Sequential", "config": {"name": slug, "layers": []}},
        weights=weights,
        tensors={names[name]: array for name, array in tensors.items()},
        input_spec=wire.InputSpec((1,)),
        objective={"loss": "mean_squared_error", "from_logits": False},
    )
    return registry.create_model(slug, package)


def start_run(slug: str, *, participants: int, rounds: int) -> "Run":
    """A run of rounds that wait for all participants and need all of them."""
    from models_app.models import Model
    from rounds import lifecycle

    run = lifecycle.create_run(
        Model.objects.get(slug=slug),
        rounds_planned=rounds,
        cohort_goal=participants,
        cohort_min=participants,
        over_selection=1.0,
        quorum=participants,
        quarantine_factor=0.0,
        hyperparameters={"epochs": 1, "batch_size": 32, "learning_rate": 0.01},
    )
    lifecycle.start_run(run.pk)
    return run


def wait_for(run: "Run", seconds: float = 120.0) -> None:
    """Returns when the run is completed.

    Raises:
        RuntimeError: it ended otherwise, or took too long.
    """
    ends = time.monotonic() + seconds
    while run.state == run.State.RUNNING or run.state == run.State.DRAFT:
        if time.monotonic() > ends:
            raise RuntimeError(f"Expected the run to end within {seconds:g} s. Received: no end")
        time.sleep(0.1)
        run.refresh_from_db()
    if run.state != run.State.COMPLETED:
        raise RuntimeError(f"Expected a completed run. Received: {run.state}, {run.reason}")


def join_code() -> str:
    """A code that is good for one participant."""
    from rounds import enrolment

    return enrolment.make_join_code()[1]


@dataclass(frozen=True)
class Member:
    """A participant without a process, and what only it has."""

    participant: "Participant"
    key: "Key"
    token: str

    def sign(self, mine: "Assignment", update: Path) -> tuple[str, str]:
        """The manifest of an update, and its signature, as an upload's headers say them."""
        from client_sdk import wire
        from models_app import blobs

        manifest = wire.UpdateManifest(
            assignment=mine.pk,
            round=mine.round_id,
            base=mine.round.base.weights,
            digest=blobs.digest_file(update),
            length=update.stat().st_size,
            samples=100,
        ).to_bytes()
        return wire.b64(manifest), self.key.sign(wire.update_message(manifest))


def members(count: int) -> list[Member]:
    """Participants who enrol, and are invited to the open round that waits for so many."""
    from client_sdk import wire
    from client_sdk.keys import Key
    from rounds import enrolment

    found = []
    for number in range(count):
        key, code, name = Key.generate(), join_code(), f"member-{number}"
        signature = key.sign(wire.enrol_message(code, name, key.public))
        one, _ = enrolment.enrol(code=code, name=name, public_key=key.public, signature=signature)
        challenge, _ = enrolment.make_challenge(one.uuid)
        answer = key.sign(wire.token_message(challenge))
        found.append(Member(one, key, enrolment.issue_token(one.uuid, challenge, answer)[0]))
    return found


def invite(everyone: Sequence[Member]) -> list["Assignment"]:
    """The places of all members in the open round, which waits for as many as they are."""
    from rounds import lifecycle

    for one in everyone:
        lifecycle.check_in(one.participant)
    places = [lifecycle.check_in(one.participant) for one in everyone]
    assert not any(isinstance(place, lifecycle.Wait) for place in places), places
    return cast("list[Assignment]", places)


@contextmanager
def growth(pid: int) -> Iterator[list[float]]:
    """Watches a process for as long as the block lasts.

    Yields:
        A list of one number: by how many MB its anonymous memory (Linux: RssAnon) had grown at
        its height, sampled every 5 ms; empty where the system does not tell.
    """
    found: list[float] = []
    done = threading.Event()

    def watch() -> None:
        before = anonymous_memory(pid)
        found.append(0.0)
        while not done.wait(0.005):
            found[0] = max(found[0], anonymous_memory(pid) - before)

    watcher = threading.Thread(target=watch)
    if Path(f"/proc/{pid}/status").exists():
        watcher.start()
    try:
        yield found
    finally:
        done.set()
        if watcher.ident:
            watcher.join()


def anonymous_memory(pid: int) -> float:
    """A process' anonymous memory in MB: mapped files do not count."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("RssAnon")).split()[1]) / 1e3


def load() -> dict[str, Any]:
    """How busy the machine is: to be told beside whatever was measured on it."""
    return {"processors": os.cpu_count(), "load": [round(one, 1) for one in os.getloadavg()]}
