"""The people, participants and the tiny model that the tests of rounds are about."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest
from django.contrib.auth.models import Group, User

from accounts.roles import Role
from client_sdk import wire
from client_sdk.keys import Key
from fedserver.celery import app as celery_app
from models_app import registry
from models_app.models import Model
from models_app.packages import Package
from rounds import enrolment
from rounds.models import Participant


def person(name: str, role: Role) -> User:
    """A user of the admin in the group of a role; tests sign in by force, for hashing is slow."""
    user = User.objects.create_user(name, is_staff=True)
    # Tests with real transactions empty the table that a migration filled.
    user.groups.add(Group.objects.get_or_create(name=role)[0])
    return user


@pytest.fixture
def alice(db: None) -> User:
    """An owner."""
    return person("alice", Role.OWNER)


@pytest.fixture
def bob(db: None) -> User:
    """An operator."""
    return person("bob", Role.OPERATOR)


@pytest.fixture
def victor(db: None) -> User:
    """A viewer."""
    return person("victor", Role.VIEWER)


@pytest.fixture
def bell_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who rings waits until what was rung for is done, as if a worker stood behind the door."""
    monkeypatch.setitem(celery_app.conf, "task_always_eager", True)


def tiny_package() -> Package:
    """A dense layer of two inputs and three outputs, as if opened from a file: no Keras needed."""
    weights = [
        wire.WeightSpec("0000.dense.kernel", 0, "dense", (2, 3), "F32", wire.FEDERATED),
        wire.WeightSpec("0001.dense.bias", 1, "dense", (3,), "F32", wire.FEDERATED),
    ]
    kernel = np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], dtype=np.float32)
    return Package(
        architecture={"class_name": "Sequential", "config": {"name": "tiny", "layers": []}},
        weights=weights,
        tensors={weights[0].name: kernel, weights[1].name: np.zeros(3, dtype=np.float32)},
        input_spec=wire.InputSpec((2,)),
        objective={"loss": "sparse_categorical_crossentropy", "from_logits": True},
        outputs=3,
    )


@pytest.fixture
def tiny_model(db: None) -> Model:
    """A model of nine federated weights that serves version 1 and has no evaluation set.

    Its kernel is [[1, 2, 3], [4, 5, 6]] and its bias is zero.
    """
    return registry.create_model("tiny", tiny_package(), name="Tiny", labels=["a", "b", "c"])


class Enrolled(NamedTuple):
    """A participant with what only it has: its key, and a token that is good now."""

    participant: Participant
    key: Key
    token: str


def renewed_token(participant: Participant, key: Key) -> str:
    """A new token for a signed challenge."""
    challenge, _ = enrolment.make_challenge(participant.uuid)
    signature = key.sign(wire.token_message(challenge))
    token, _ = enrolment.issue_token(participant.uuid, challenge, signature)
    return token


@pytest.fixture
def enrolled(db: None) -> Callable[..., Enrolled]:
    """A factory of participants: `enrolled("charlie")`, or `enrolled("charlie", model=…)`."""

    def enrol(name: str, model: Model | None = None) -> Enrolled:
        _, code = enrolment.make_join_code(label=name, model=model)
        key = Key.generate()
        signature = key.sign(wire.enrol_message(code, name, key.public))
        participant, _ = enrolment.enrol(
            code=code, name=name, public_key=key.public, signature=signature
        )
        return Enrolled(participant, key, renewed_token(participant, key))

    return enrol
