"""Updates as a participant makes them, without training anything."""

import hashlib
from typing import Any

import numpy as np

from client_sdk import wire
from models_app import blobs
from models_app.models import Model
from rounds import intake, lifecycle
from rounds.models import Assignment, Round
from tests.rounds.conftest import Enrolled


def update_bytes(model: Model, value: float) -> bytes:
    """A delta that is `value` everywhere."""
    return wire.dumps(
        {spec.name: np.full(spec.shape, value, dtype=np.float32) for spec in model.federated}
    )


def manifest_of(assignment: Assignment, body: bytes, samples: int = 10) -> dict[str, Any]:
    """The true manifest of a body, as fields, for tests to tamper with."""
    return {
        "wire": 1,
        "assignment": assignment.pk,
        "round": assignment.invited_in_id,
        "base": assignment.base.weights,
        "digest": wire_digest(body),
        "length": len(body),
        "samples": samples,
        "encoding": "float32",
        "metrics": {"loss": 0.5},
    }


def wire_digest(body: bytes) -> str:
    """SHA-256 in hexadecimal."""
    return hashlib.sha256(body).hexdigest()


def admitted(
    one: Enrolled, assignment: Assignment, body: bytes, samples: int = 10, **others: Any
) -> intake.Admission:
    """What the server knows before the body comes; keyword arguments are fields of the manifest."""
    fields = manifest_of(assignment, body, samples) | others
    manifest = wire.UpdateManifest(**fields).to_bytes()
    return intake.admit(
        one.participant,
        assignment.pk,
        length=len(body),
        manifest=wire.b64(manifest),
        signature=one.key.sign(wire.update_message(manifest)),
    )


def send(
    one: Enrolled, assignment: Assignment, body: bytes, samples: int = 10, **others: Any
) -> dict[str, Any]:
    """An upload, without HTTP."""
    admission = admitted(one, assignment, body, samples, **others)
    if admission.receipt is not None:
        return admission.receipt
    landing = intake.Landing(len(body))
    try:
        landing.write(body)
        return intake.settle(admission, landing)
    finally:
        landing.close()


def upload(one: Enrolled, value: float = 1.0, samples: int = 10) -> dict[str, Any]:
    """The open assignment of a participant, done with a delta that is `value` everywhere."""
    told = lifecycle.check_in(one.participant)
    assert isinstance(told, Assignment), told
    return send(one, told, update_bytes(told.round.run.model, value), samples)


def all_check_in(*everyone: Enrolled) -> list[Any]:
    """Everybody asks what to do, and asks again once all have come."""
    for one in everyone:
        lifecycle.check_in(one.participant)
    return [lifecycle.check_in(one.participant) for one in everyone]


def carry(round_: Round) -> Round:
    """Step a round as long as there is more, and read it again."""
    while lifecycle.step(round_.pk):
        pass
    round_.refresh_from_db()
    return round_


def served_weights(model: Model) -> np.ndarray:
    """The federated weights that the model serves now, shape (n,)."""
    served = Model.objects.get(pk=model.pk).served
    assert served is not None
    return wire.open_flat(blobs.path(served.weights), model.federated)
