"""A server that has seen a lot, made by the verbs: what the tests of every page look at.

digits   three rounds published by "spring", one cancelled, a rollback, a candidate; "autumn"
         has failed a round and trains in the next, with everybody in another state; four have
         measured version 4 on data of their own, and one has version 3
scans    a run that has failed for good, a paused one, a draft
people   alice is an owner, bob an operator, victor a viewer
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from uuid import UUID

import numpy as np
import pytest
from django.contrib.auth.models import User
from django.core.management import call_command
from pytest_django import DjangoDbBlocker

from accounts.roles import Role
from client_sdk import wire
from client_sdk.keys import Key
from models_app import registry
from models_app.evaluation import Evaluation
from models_app.models import Model
from models_app.packages import Package
from rounds import enrolment, federated_evaluation, intake, lifecycle
from rounds.errors import UpdateInvalid
from rounds.models import Assignment, JoinCode, Round, Run
from tests.browser.chromium import Chromium, Kept
from tests.models_app.conftest import two_layers
from tests.rounds.conftest import Enrolled, person, renewed_token
from tests.rounds.updates import admitted, carry, manifest_of, update_bytes
from tests.serving import serving

LABELS = [str(digit) for digit in range(10)]
IMAGE = (8, 8, 1)
NAMES = ("charlie", "dora", "emil", "frida", "gustav", "hanna", "ivan", "jana", "karla")
TRACEBACK = """Traceback (most recent call last):
  File "train.py", line 12, in <module>
    participant.participate((images, labels))
  File "client_sdk/training.py", line 88, in train
    history = model.fit(images, labels, epochs=epochs, callbacks=[progress])
MemoryError: Unable to allocate 3.73 GiB for an array with shape (1000000, 1000)
"""
RULES = {"cohort_min": 2, "quorum": 2, "hyperparameters": {"epochs": 5}}


@dataclass
class Scene:
    """What the pages show."""

    alice: User
    bob: User
    victor: User
    digits: Model
    spring: Run
    autumn: Run
    draft: Run
    code: JoinCode
    people: dict[str, Enrolled]

    @property
    def training(self) -> Round:
        """The round that trains, with everybody in another state."""
        return self.autumn.rounds.get(phase=Round.Phase.TRAINING)

    @property
    def published(self) -> Round:
        """The round with the most ways to end."""
        return self.spring.rounds.get(number=3)

    def uuid_of(self, name: str) -> UUID:
        return self.people[name].participant.uuid

    def report(self, name: str, epoch: int) -> None:
        """A participant of the round that trains tells of an epoch."""
        who = self.people[name].participant
        mine = self.training.assignments.get(participant=who)
        tell(self.people[name], mine, epoch)


def make() -> Scene:
    """Everything, in about a second."""
    alice, bob = person("alice", Role.OWNER), person("bob", Role.OPERATOR)
    victor = person("victor", Role.VIEWER)
    digits = registry.create_model(
        "digits", package(), name="Handwritten digits", labels=LABELS, actor="alice"
    )
    registry.record_metrics(registry.served(digits.pk), measured(0))
    people = {name: enrolled(name) for name in NAMES}
    spring = finished_run(digits, people)
    registry.import_version(digits.pk, package(seed=9), actor="alice", reason="trained on site")
    second = digits.versions.get(number=2)
    registry.roll_back(digits, second, actor="alice", reason="version 4 takes sevens for ones")
    autumn = active_run(digits, people)
    evaluations(digits, people)
    draft = other_runs(people)
    enrolment.suspend(people["hanna"].participant, actor="bob", reason="its clock is wrong")
    enrolment.revoke(people["ivan"].participant, actor="alice", reason="the device was stolen")
    code, _ = enrolment.make_join_code(label="clinics", max_uses=5, actor="bob")
    lost, _ = enrolment.make_join_code(label="sent to the wrong address", actor="bob")
    enrolment.withdraw_join_code(lost, actor="bob", reason="sent to the wrong address")
    return Scene(alice, bob, victor, digits, spring, autumn, draft, code, people)


def package(seed: int = 0) -> Package:
    """A small classifier of images, as if opened from a file; without an evaluation set."""
    draw = np.random.default_rng(seed)
    weights = [
        wire.WeightSpec("0000.dense.kernel", 0, "dense", (64, 10), "F32", wire.FEDERATED),
        wire.WeightSpec("0001.dense.bias", 1, "dense", (10,), "F32", wire.FEDERATED),
    ]
    return Package(
        architecture=two_layers(64, 16, 10),
        weights=weights,
        tensors={one.name: draw.standard_normal(one.shape, dtype=np.float32) for one in weights},
        input_spec=wire.InputSpec(IMAGE),
        objective={"loss": "sparse_categorical_crossentropy", "from_logits": False},
        outputs=10,
    )


def measured(step: int) -> Evaluation:
    """What an evaluation finds after so many rounds of learning."""
    right = 10 + 7 * step
    confusion = np.full((10, 10), (40 - right) // 9) + np.diag([right] * 10)
    accuracy = float(np.trace(confusion) / confusion.sum())
    return Evaluation({"loss": 2.3 * math.exp(-step / 2), "accuracy": accuracy}, confusion.tolist())


def enrolled(name: str) -> Enrolled:
    """A participant that a join code of its own has admitted."""
    _, code = enrolment.make_join_code(label=name, actor="bob")
    key = Key.generate()
    participant, _ = enrolment.enrol(
        code=code,
        name=name,
        public_key=key.public,
        signature=key.sign(wire.enrol_message(code, name, key.public)),
        sdk={"fedserver": "0.1.0", "python": "3.11.7", "keras": "3.15.1"},
    )
    return Enrolled(participant, key, renewed_token(participant, key))


def finished_run(model: Model, people: dict[str, Enrolled]) -> Run:
    """Three rounds published, one cancelled; not everybody did well in each."""
    run = lifecycle.create_run(
        model, name="spring", rounds_planned=3, cohort_goal=6, target=8, actor="bob", **RULES
    )
    there = list(people.values())[:6]
    lifecycle.start_run(run.pk, actor="bob", reason="the new scanners are in")
    gather(run, there)
    lifecycle.cancel_round(active(run).pk, actor="bob", reason="frida's site is offline")
    for step in range(1, 4):
        gather(run, there)
        round_ = active(run)
        for place, one in enumerate(there):
            take_part(one, mine(round_, one), step, place)
        lifecycle.close_round(round_.pk, actor="bob" if step == 3 else "", reason="enough came")
        carry(round_)
        assert round_.version is not None, (round_.phase, round_.reason)
        registry.record_metrics(round_.version, measured(step))
    run.refresh_from_db()
    assert run.state == Run.State.COMPLETED
    return run


def take_part(one: Enrolled, mine: Assignment, step: int, place: int) -> None:
    """Most upload; in the second round each in its own way, and two are not done in the third."""
    name = one.participant.name
    if (step, name) == (3, "gustav"):
        return  # lost: nothing is ever heard of it
    for epoch in range(1, 6):
        tell(one, mine, epoch)
    if (step, name) == (2, "emil"):
        lifecycle.withdraw(one.participant, mine.pk, reason="The night shift begins.")
    elif (step, name) == (2, "frida"):
        fail(one, mine)
    elif (step, name) == (3, "hanna"):
        pass  # late
    else:
        upload(one, mine, value=50.0 if (step, name) == (2, "gustav") else 0.1, place=place)


def active_run(model: Model, people: dict[str, Enrolled]) -> Run:
    """A first round without a quorum, and a second one in which everybody is in another state."""
    run = lifecycle.create_run(
        model, name="autumn", rounds_planned=5, cohort_goal=9, actor="bob", **RULES
    )
    there = list(people.values())
    lifecycle.start_run(run.pk, actor="bob")
    gather(run, there)
    failed = active(run)
    for one in there:
        fail(one, mine(failed, one))
    carry(failed)
    Run.objects.filter(pk=run.pk).update(next_round_at=None)  # nobody waits for the pause
    lifecycle.advance(run.pk)
    gather(run, there)
    round_ = active(run)
    parts = {name: mine(round_, one) for name, one in people.items()}
    upload(people["charlie"], parts["charlie"], value=0.1, place=0)
    tell(people["dora"], parts["dora"], 2)
    doing(people["emil"], parts["emil"], Assignment.Activity.DOWNLOADING, 0.4)
    doing(people["frida"], parts["frida"], Assignment.Activity.UPLOADING, 0.7)
    fail(people["gustav"], parts["gustav"])
    refuse(people["jana"], parts["jana"])
    return run


def evaluations(model: Model, people: dict[str, Enrolled]) -> None:
    """Four have measured version 4 on data of their own; of version 3 one report is here."""
    there = list(people.values())[:4]
    for number, reporting in ((4, there), (3, there[:1])):
        version = model.versions.get(number=number)
        asked = federated_evaluation.request(version, goal=4, actor="bob", reason="for the board")
        for place, one in enumerate(reporting):
            federated_evaluation.ask(one.participant, [model.slug])
            samples, right = 40 + 20 * place, 3 - place // 2
            federated_evaluation.report(
                one.participant,
                asked.pk,
                samples=samples,
                metrics={"loss": 0.4 + place / 10, "accuracy": 0.9 - place / 12},
                classes=[[4, right]] * 9 + [[4 * (place > 2), 0]],
            )
        federated_evaluation.step(asked.pk)


def other_runs(people: dict[str, Enrolled]) -> Run:
    """Another model, with a run that has failed, a paused one and a draft, which is returned."""
    scans = registry.create_model("scans", package(seed=3), name="Scans", actor="alice")
    few = {"cohort_goal": 2, "over_selection": 1.0, "retries": 0, **RULES}
    run = lifecycle.create_run(scans, name="trial", actor="bob", **few)
    there = [people["charlie"], people["dora"]]
    lifecycle.start_run(run.pk, actor="bob")
    gather(run, there)
    for one in there:
        fail(one, mine(active(run), one))
    carry(active(run))
    run = lifecycle.create_run(scans, name="second trial", actor="bob", **few)
    lifecycle.start_run(run.pk, actor="bob")
    lifecycle.pause_run(run.pk, actor="bob", reason="until the scanner is repaired")
    return lifecycle.create_run(scans, name="third trial", actor="bob", **few)


def gather(run: Run, there: Sequence[Enrolled]) -> None:
    """Everybody checks in, and those who were chosen are invited."""
    for one in there:
        lifecycle.check_in(one.participant, [run.model.slug])
    assert active(run).phase == Round.Phase.TRAINING


def active(run: Run) -> Round:
    return run.rounds.get(phase__in=Round.ACTIVE)


def mine(round_: Round, one: Enrolled) -> Assignment:
    return round_.assignments.get(participant=one.participant)


def tell(one: Enrolled, mine: Assignment, epoch: int) -> None:
    """An epoch of five is over."""
    loss = 2.0 / epoch + len(one.participant.name) / 20
    doing(one, mine, Assignment.Activity.TRAINING, epoch / 5, epoch=epoch, epochs=5, loss=loss)


def doing(
    one: Enrolled,
    mine: Assignment,
    activity: str,
    fraction: float,
    *,
    epoch: int | None = None,
    epochs: int | None = None,
    **metrics: float,
) -> None:
    lifecycle.report(
        one.participant,
        mine.pk,
        activity=activity,
        fraction=fraction,
        epoch=epoch,
        epochs=epochs,
        metrics=metrics,
    )


def fail(one: Enrolled, mine: Assignment) -> None:
    lifecycle.fail(
        one.participant,
        mine.pk,
        code="training_failed",
        reason="MemoryError: Unable to allocate 3.73 GiB",
        detail=TRACEBACK,
    )


def upload(one: Enrolled, mine: Assignment, *, value: float, place: int) -> None:
    """An update that is `value` everywhere, of a participant that learned as well as its place."""
    body = update_bytes(mine.round.run.model, value)
    told = manifest_of(mine, body, samples=120 + 40 * place)
    told["metrics"] = {"loss": 0.4 + place / 10, "accuracy": 0.9 - place / 20}
    manifest = wire.UpdateManifest(**told).to_bytes()
    admission = intake.admit(
        one.participant,
        mine.pk,
        length=len(body),
        manifest=wire.b64(manifest),
        signature=one.key.sign(wire.update_message(manifest)),
    )
    settle(admission, body)


def refuse(one: Enrolled, mine: Assignment) -> None:
    """One that is not finite, time and again, until it is rejected."""
    body = update_bytes(mine.round.run.model, math.nan)
    for _ in range(intake.MAX_REFUSALS):
        try:
            settle(admitted(one, mine, body), body)
        except UpdateInvalid:
            continue
        raise AssertionError("Expected a refusal")


def settle(admission: intake.Admission, body: bytes) -> None:
    landing = intake.Landing(len(body))
    try:
        landing.write(body)
        intake.settle(admission, landing)
    finally:
        landing.close()


# --- Fixtures for a file whose tests share one scene ----------------------------------------------


@pytest.fixture(scope="module")
def database(django_db_setup: None, django_db_blocker: DjangoDbBlocker) -> Iterator[None]:
    """As `transactional_db`: the database, emptied after all tests of a file, not after each."""
    with django_db_blocker.unblock():
        yield
        call_command("flush", interactive=False, verbosity=0)


@pytest.fixture(scope="module")
def scene(transactional_db: None, valkey_server: str) -> Scene:
    """One scene for all tests of a file; they look and change little."""
    return make()


@pytest.fixture(scope="module")
def server(scene: Scene) -> Iterator[str]:
    """One server for all tests of a file."""
    with serving() as port:
        yield f"http://127.0.0.1:{port}"


@pytest.fixture(scope="module")
def kept(server: str, chromium: Chromium) -> Iterator[Kept]:
    """The browser's contexts, handed on from test to test of a file."""
    kept = Kept()
    yield kept
    with chromium.turn():
        kept.close()
