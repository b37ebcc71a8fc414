"""The model, the participants and the run of a simulation: made once, in one transaction."""

import hashlib
import json
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from client_sdk import drift, wire
from client_sdk.keys import Key
from journal import events
from models_app import blobs, registry
from models_app.models import Model
from models_app.packages import Package, open_package
from rounds import capabilities, enrolment, handshake, lifecycle, rules
from rounds.models import Participant, Run
from simulation import datasets, training
from simulation.datasets import Dataset
from simulation.plan import Plan

ACTOR = "simulation"


def found(plan: Plan, home: Path, data: Path | None = None) -> Run:
    """The simulation's run: the one that is here, or a new one that has started.

    Args:
        plan: what is asked for.
        home: where the examples are laid for the processes that train.
        data: the folder of mnist and cifar10; see `datasets.load`.
    """
    run = Run.objects.select_related("model").first()
    if run is not None:
        return run
    dataset = datasets.load(plan.dataset, plan.seed, data)
    training.shares(plan, dataset.y_train)  # refuses what cannot be shared out so
    training.lay_out(home, dataset.x_train, dataset.y_train)
    package = _package(plan, dataset)
    with events.transaction():
        local: list[str] = []
        if plan.strategy == "fedbn":
            local += rules.layers_of("BatchNormalization", package.architecture)
        model = registry.create_model(
            "simulated", package, labels=dataset.labels, local=local, actor=ACTOR
        )
        _enrol(plan)
        run = lifecycle.create_run(model, actor=ACTOR, **_rules(plan))
        lifecycle.start_run(run.pk, actor=ACTOR)
    return run


def check(plan: Plan) -> None:
    """Refuse what no run may be, before anything is loaded.

    Raises:
        RulesInvalid: with the field of the run.
    """
    rules.check_rules(Run(model=Model(weights_manifest=[]), **_rules(plan)))


def document(model: Model) -> dict[str, Any]:
    """The model as participants are told it."""
    return {
        "architecture": model.architecture,
        "weights": model.weights_manifest,
        "input_spec": model.input_spec,
        "objective": model.objective,
        "labels": model.labels,
    }


def key(plan: Plan, name: str) -> Key:
    """A participant's key, derived and not drawn, so that it need not be kept."""
    secret = hashlib.sha256(f"{plan.seed}:{name}".encode()).digest()
    return Key(Ed25519PrivateKey.from_private_bytes(secret))


def _package(plan: Plan, dataset: Dataset) -> Package:
    """The model with its evaluation set, as if an administrator's file had been opened."""
    evaluation = blobs.new_spool_file()
    wire.dump(evaluation, {"x": dataset.x_test, "y": dataset.y_test})
    spec = wire.InputSpec.from_json(dataset.input_spec)
    if plan.model.endswith(".keras"):
        with open_package(package=Path(plan.model), scale=dataset.scale) as opened:
            model, objective, outputs = opened, opened.objective, opened.outputs
            tensors = {name: value.copy() for name, value in model.tensors.items()}
        weights, architecture = model.weights, model.architecture
    else:
        training.import_tensorflow()
        from models_app import keras_bridge  # before networks: it says which backend
        from simulation import networks

        shape, outputs = dataset.x_train.shape[1:], len(dataset.labels)
        built = networks.build(plan.model, shape, outputs, plan.seed)
        weights, tensors = keras_bridge.manifest(built), keras_bridge.read_state(built)
        architecture, objective = json.loads(built.to_json()), networks.OBJECTIVE
    return Package(
        architecture=architecture,
        weights=weights,
        tensors=tensors,
        input_spec=spec,
        objective=objective,
        outputs=outputs,
        evaluation=evaluation,
        evaluation_samples=len(dataset.y_test),
    )


def _enrol(plan: Plan) -> None:
    """All participants at once: one code, one insert."""
    code, _ = enrolment.make_join_code(label=ACTOR, max_uses=plan.participants, actor=ACTOR)
    able = list(drift.CAPABILITIES)
    names = [f"participant-{number:04}" for number in range(1, plan.participants + 1)]
    Participant.objects.bulk_create(
        Participant(
            name=name,
            public_key=key(plan, name).public,
            join_code=code,
            sdk={"version": handshake.OLDEST_SDK, "wire": wire.WIRE_VERSION, "capabilities": able},
            capabilities=capabilities.column(able),
        )
        for name in names
    )


_NEVER = 30 * 86_400  # seconds; the virtual clock ends what the real one must not


def _rules(plan: Plan) -> dict[str, Any]:
    chosen: dict[str, Any] = {
        "name": ACTOR,
        "strategy": plan.strategy,
        "strategy_options": plan.options,
        "hyperparameters": plan.hyperparameters,
        "seed": plan.seed,
        "rounds_planned": plan.rounds,
        "selection": Run.Selection.RANDOM,
        "fraction": plan.fraction,
        "over_selection": plan.over_selection,
        "cohort_min": 1,
        "quorum": plan.quorum,
        "selecting_seconds": _NEVER,
        "training_seconds": _NEVER,
        "quarantine_factor": plan.quarantine,
        "gate_metric": "" if plan.gate is None else "accuracy",
        "gate_tolerance": plan.gate or 0.0,
        "retry_seconds": 1,
        "retries": 100,
    }
    if plan.until:
        chosen |= {"until_metric": plan.until[0], "until_value": plan.until[1]}
    if plan.asynchronous:
        chosen |= {
            "kind": Run.Kind.ASYNCHRONOUS,
            "concurrency": plan.concurrency,
            "buffer_size": plan.buffer,
        }
    if plan.evaluators:
        chosen |= {"evaluators": plan.evaluators, "evaluators_min": min(plan.evaluators, 3)}
        chosen |= {"evaluation_seconds": _NEVER}
    return chosen
