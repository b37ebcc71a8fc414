"""Local training: weights and data in, deltas out.

A `Trainer` holds one model for as long as its architecture lasts. Each round it

1. puts the version's weights in place, resets the optimizer and the dropout seeds,
2. walks the epochs in an order that the seed decides,
3. hands back what changed, and what the strategy asks for beside.

An epoch is trained in slices of some tenths of a second: between them it can be stopped, told of
and looked at. Where one slice ends and the next begins changes no bit of the result. How a slice
is trained on each backend is told in `client_sdk.epochs`; a `TrainingLoop` of the user's own takes
its place. What strategies may ask for, and how it enters each step, is told in `client_sdk.drift`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from importlib.util import find_spec
from typing import Any, Final

import numpy as np

from client_sdk import drift, wire
from client_sdk.building import ModelRefused, output_elements
from client_sdk.corrected import corrected
from client_sdk.data import Batch, Examples, TrainingDataRefused, Walk, read_for
from client_sdk.epochs import Epoch, new_epoch
from client_sdk.errors import CapabilityMissing, ParticipantError
from client_sdk.held_out import Measured
from client_sdk.loop import Batches, TrainingLoop
from client_sdk.memory import amount, memory_limit
from client_sdk.network import SEED_STATE, Network, WeightsRefused
from client_sdk.wire import FEDERATED, LOCAL, tensors_of

__all__ = [
    "Hyperparameters",
    "HyperparametersRefused",
    "ModelRefused",
    "Trainer",
    "TrainingDataRefused",
    "TrainingDiverged",
    "TrainingLoop",
    "TrainingResult",
    "WeightsRefused",
]

# Keras is imported by the first trainer, but who lacks it learns so before a round counts on it.
if find_spec("keras") is None:
    raise ImportError("Expected Keras and a backend: pip install 'fedserver[client]'")

OPTIMIZERS = ("sgd", "adam", "adamw", "rmsprop", "adagrad")
_MOMENTUM = ("sgd", "rmsprop")
_SLICE: Final = 0.4  # seconds; Ctrl-C waits no longer for an answer
_FIRST_STEPS: Final = 8  # of a slice, before anything is known of how long a step takes
_SLICE_BYTES: Final = 64 << 20  # of examples as the model takes them

OnEpoch = Callable[[int, int, dict[str, float]], None]


class HyperparametersRefused(ParticipantError):
    """The run asks for a training that this SDK does not know, or this machine cannot do."""


class TrainingDiverged(ParticipantError):
    """The loss or the weights are no longer finite: there is nothing to send."""


@dataclass(frozen=True, slots=True)
class Hyperparameters:
    """How a run wants its participants to train.

    Args:
        learning_rate: above 0.
        epochs: passes over the data, from 1.
        batch_size: samples in a step, from 1; the last step of an epoch takes what is left.
        optimizer: one of `OPTIMIZERS`.
        momentum: of sgd and rmsprop, 0 to below 1; the others have their own.
        max_steps: most steps in a round, over all epochs; None for no limit.
    """

    learning_rate: float
    epochs: int = 1
    batch_size: int = 32
    optimizer: str = "sgd"
    momentum: float = 0.0
    max_steps: int | None = None

    def __post_init__(self) -> None:
        _expect(_is_count(self.epochs), "epochs", "an integer from 1", self.epochs)
        _expect(_is_count(self.batch_size), "batch_size", "an integer from 1", self.batch_size)
        rate, known = self.learning_rate, self.optimizer in OPTIMIZERS
        _expect(_is_number(rate) and rate > 0, "learning_rate", "a number above 0", rate)
        _expect(known, "optimizer", f"one of {', '.join(OPTIMIZERS)}", self.optimizer)
        fraction = _is_number(self.momentum) and 0 <= self.momentum < 1
        _expect(fraction, "momentum", "a number from 0 to below 1", self.momentum)
        capped = self.max_steps is None or _is_count(self.max_steps)
        _expect(capped, "max_steps", "an integer from 1, or null", self.max_steps)

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Hyperparameters:
        """Read an assignment's hyper-parameters.

        Raises:
            HyperparametersRefused: for values out of range, and for names that are unknown here:
                training without them would be another training than the one asked for.
        """
        unknown = sorted(set(document) - {field.name for field in fields(cls)})
        _expect(not unknown, "hyperparameters", "names that this SDK knows", unknown)
        rate = document.get("learning_rate")
        _expect(rate is not None, "learning_rate", "given", sorted(document))
        return cls(**document)


@dataclass(frozen=True, slots=True)
class TrainingResult:
    """What a round of local training brought.

    Args:
        deltas: new minus base, float32, for the federated tensors in manifest order.
        samples: number of samples trained on, the participant's weight in the mean.
        metrics: of the last epoch, over its batches as they were seen: `loss`, and `accuracy`
            where the objective has classes.
        local: new values of the tensors that stay with the participant.
        complete: False where time was up, or a callback ended it, before the last epoch was done.
        steps: how many steps the optimizer took.
        reports: what the strategy asks to be told: `steps`, `initial_loss`.
        own: what to keep for the run's next round, once this result is counted.
    """

    deltas: dict[str, np.ndarray]
    samples: int
    metrics: dict[str, float]
    local: dict[str, np.ndarray]
    complete: bool = True
    steps: int = 0
    reports: dict[str, float] = field(default_factory=dict)
    own: dict[str, np.ndarray] = field(default_factory=dict)


class Trainer:
    """A model that is built once and trained round after round.

    Args:
        model_document: what the server says of a model: `architecture` (Keras JSON), `weights`
            (manifest), `input_spec` and `objective`. It need not be trusted.
        loop: trains each epoch in our place.
        callbacks: Keras callbacks, told of training, epochs and batches as by `model.fit`; where
            one of them wants to know of batches, each is a slice by itself, which takes longer.
        memory: bytes that the model may take; `memory_limit` says when None.

    Example:
        >>> trainer = Trainer(document)
        >>> result = trainer.train(weights, (images, labels), {"learning_rate": 0.1}, seed=7)
        >>> result.samples, sorted(result.metrics)
        (3, ['accuracy', 'loss'])

    Raises:
        ModelRefused: when the model is not made of built-in Keras layers, does not fit its
            manifest or this machine, or has an unknown objective.
    """

    def __init__(
        self,
        model_document: Mapping[str, Any],
        *,
        loop: TrainingLoop | None = None,
        callbacks: Sequence[Any] | None = None,
        memory: int | None = None,
    ) -> None:
        self.network = Network(model_document, memory)
        self.model = self.network.model
        self.weights = self.network.weights
        self.loop = loop
        self.callbacks = list(callbacks or [])
        self._memory = memory_limit() if memory is None else memory
        self._compiled_for: tuple[Any, ...] | None = None
        self._optimizer: Any = None
        self._epoch: Epoch
        self._compile("sgd", 0.0, drift.NOTHING)

    @property
    def capabilities(self) -> Collection[str]:
        """What a strategy may ask for: names of `client_sdk.drift.CAPABILITIES`."""
        return drift.CAPABILITIES if self.loop is None else self.loop.capabilities

    def train(
        self,
        weights: Mapping[str, np.ndarray],
        data: Any,
        hyperparameters: Mapping[str, Any],
        seed: int,
        on_epoch: OnEpoch | None = None,
        *,
        check: Callable[[], None] | None = None,
        on_progress: Callable[[float], None] | None = None,
        seconds: float | None = None,
        requires: drift.Requirements = drift.NOTHING,
        own: drift.Own | None = None,
        control: np.ndarray | None = None,
    ) -> TrainingResult:
        """Train from a version's weights on the participant's data.

        Args:
            weights: all tensors of the version by name, the participant's own values in the
                place of the local ones.
            data: raw examples (n, *shape) and their labels: class numbers (n,), or values of
                the shape of the model's output; or anything else that `client_sdk.data` reads.
            hyperparameters: see `Hyperparameters`.
            seed: decides the order of the samples and the dropout. The same seed, weights and
                data give the same bits on the same machine.
            on_epoch: called after each epoch with its number (from 1), the number of epochs and
                the epoch's metrics. What it raises ends the training and reaches the caller.
            check: called a few times a second; what it raises ends the training and reaches
                the caller.
            on_progress: the same, told how much of the round is done, from 0 to 1.
            seconds: end after this time, in the middle of an epoch if need be, with what was
                learned by then; at least one batch is trained.
            requires: what the strategy asks for; without it training is as it always was.
            own: what the last result of this run that was counted gave to keep; None at first.
            control: the control variates of the version, shape (n,); None for zeros.

        Raises:
            CapabilityMissing: the strategy asks for what cannot be done here.
            TrainingDataRefused: no samples, another shape, values not finite, unknown classes.
            HyperparametersRefused: see `Hyperparameters.from_json`.
            WeightsRefused: a tensor is missing or has another shape.
            TrainingDiverged: loss or weights became infinite or NaN.
        """
        began = time.monotonic()
        plan = Hyperparameters.from_json(hyperparameters)
        examples = self._read(data)
        count = len(examples)
        _expect_samples(count)
        self._expect_batches_fit(min(plan.batch_size, count))
        drift.check(requires, self.capabilities)
        self.network.load(weights)
        self._compile(plan.optimizer, plan.momentum, requires)
        told = self._told_before(requires, examples, check)
        self._reset(plan.learning_rate, seed)
        self._steer(weights, requires, own, control)
        course = _Course(plan, examples, count, np.random.default_rng(seed))
        course.check, course.on_progress = check, on_progress
        course.deadline = math.inf if seconds is None else began + seconds
        metrics = self._walk(course, weights, on_epoch)
        deltas, steps = self._deltas(weights), self._steps(requires)
        kept: dict[str, np.ndarray] = {}
        if drift.keeps(requires):
            delta, rate = drift.joined(deltas), plan.learning_rate
            kept = drift.advance(requires, own, control, delta, steps=steps, learning_rate=rate)
        return TrainingResult(
            deltas=deltas,
            samples=course.samples,
            metrics=metrics,
            local=self._local(),
            complete=course.complete,
            steps=steps,
            reports=drift.reports(requires, {"steps": steps, **told}),
            own=kept,
        )

    def evaluate(self, weights: Mapping[str, np.ndarray], data: Any) -> dict[str, float]:
        """Loss, and accuracy where the objective has classes, of these weights on labelled data.

        Args and Raises: as for `train`.
        """
        examples = self._read(data)
        self.network.load(weights)
        return self.network.evaluate(examples)

    def measure(
        self,
        weights: Mapping[str, np.ndarray],
        data: Any,
        *,
        check: Callable[[], object] | None = None,
    ) -> Measured:
        """What `evaluate` says, with how many of each class there are and were recognised.

        Args:
            weights: as for `train`.
            data: examples that were held out.
            check: called between batches; what it raises ends it and reaches the caller.
        """
        examples = self._read(data)
        self.network.load(weights)
        return self.network.measure(examples, check)

    def predict(self, weights: Mapping[str, np.ndarray], x: np.ndarray) -> np.ndarray:
        """The model's outputs (n, …) for raw examples (n, *shape).

        Raises:
            TrainingDataRefused, WeightsRefused: as for `train`.
        """
        self.network.load(weights)
        return self.network.outputs(x)

    @property
    def traces(self) -> int:
        """How often a slice was made into a graph: once, for as long as the optimizer stays."""
        return self._epoch.traces

    # --- Before the first round, and when the run's optimizer changes ---

    def _compile(self, optimizer: str, momentum: float, requires: drift.Requirements) -> None:
        """Compile, unless the model is compiled for this optimizer already."""
        corrects = (drift.pulls(requires), drift.shifts(requires))
        compiled_for = (optimizer, momentum, corrects, self.network.generation)
        # A loop or a callback may have compiled it otherwise.
        ours = self._optimizer is not None and self.model.optimizer is self._optimizer
        if ours and self._compiled_for == compiled_for:
            return
        steered = list(self._steered.values())
        self.network.compile(_optimizer(optimizer, momentum, steered, corrects))
        self.model.optimizer.build(self.model.trainable_variables)
        # Every state of these optimizers starts as one number throughout: zeros, or Adagrad's 0.1.
        self._fresh = [float(state.numpy().flat[0]) for state in self.model.optimizer.variables]
        self._epoch, self._pace = new_epoch(self.network), _Pace()
        self._compiled_for, self._optimizer = compiled_for, self.model.optimizer

    # --- A round ---

    def _read(self, data: Any) -> Examples:
        """The data as examples; arrays are looked at whole, before a second is spent on them."""
        if isinstance(data, Examples):
            return data
        examples = read_for(data, self.network.input_spec, self.network.labels)
        if isinstance(data, (tuple, list)):
            self.network.inputs(examples[0][:1], finite=False)
            self.network.targets(examples[1])
        return examples

    def _expect_batches_fit(self, batch: int) -> None:
        needed = 4 * batch * output_elements(self.model)
        _expect(
            needed <= self._memory,
            "batch_size",
            f"small enough for {amount(self._memory)} of memory",
            f"{batch}, which takes {amount(needed)}",
        )

    def _reset(self, learning_rate: float, seed: int) -> None:
        """Start as a newly compiled model does, without compiling."""
        optimizer = self.model.optimizer
        for state, value in zip(optimizer.variables, self._fresh, strict=True):
            state.assign(np.full(state.shape, value, state.dtype))
        optimizer.learning_rate = learning_rate
        states = [v for v in self.network.variables.values() if v.name == SEED_STATE]
        draws = np.random.SeedSequence(seed).generate_state(len(states)) >> 1  # fits in int32
        for state, draw in zip(states, draws, strict=True):
            state.assign(np.array([draw, 0], state.dtype))

    def _told_before(
        self, requires: drift.Requirements, examples: Examples, check: Callable[[], None] | None
    ) -> dict[str, float]:
        """What is to be told of the weights that the round begins with."""
        if "report_initial_loss" not in requires:
            return {}
        loss = self.network.evaluate(examples, check)["loss"]
        if not math.isfinite(loss):
            raise TrainingDiverged(f"Expected a finite loss before training. Received: {loss}")
        return {"initial_loss": loss}

    def _steer(
        self,
        weights: Mapping[str, np.ndarray],
        requires: drift.Requirements,
        own: drift.Own | None,
        control: np.ndarray | None,
    ) -> None:
        """Say to the optimizer how gradients are corrected in this round."""
        if not (drift.pulls(requires) or drift.shifts(requires)):
            return
        federated = tensors_of(self.weights, FEDERATED)
        size = sum(spec.size for spec in federated)
        correction = drift.correction(requires, own, control, size=size)
        starts = [weights[name] for name in self._steered] if drift.pulls(requires) else []
        shifts = []
        if correction.shift is not None:
            parts = wire.split(correction.shift, federated)
            shifts = [parts[name] for name in self._steered]
        self.model.optimizer.steer(correction.pull, starts, shifts)

    @property
    def _steered(self) -> dict[str, Any]:
        """The variables whose gradients a strategy may correct: federated, and trained."""
        trained = {id(variable) for variable in self.model.trainable_variables}
        return {name: one for name, one in self._with_role(FEDERATED) if id(one) in trained}

    def _steps(self, requires: drift.Requirements) -> int:
        """How many steps were taken, also by a loop of the user's own."""
        steps = int(self._optimizer.iterations.numpy())
        if requires and (self.model.optimizer is not self._optimizer or not steps):
            raise CapabilityMissing(
                "Expected a training loop that steps with the optimizer of its model, or that "
                f"says by its `capabilities` what it cannot do. Received: {steps} such steps"
            )
        return steps

    def _walk(
        self, course: _Course, weights: Mapping[str, np.ndarray], on_epoch: OnEpoch | None
    ) -> dict[str, float]:
        told = self._told(course)
        metrics: dict[str, float] = {}
        if self.loop is not None:
            self.loop.begin(self.model, weights)
        told.on_train_begin()
        for epoch in range(1, course.epochs + 1):
            told.on_epoch_begin(epoch - 1)
            metrics = self._one_epoch(course, epoch, told)
            _expect_finite_loss(metrics, epoch)
            told.on_epoch_end(epoch - 1, metrics)
            if on_epoch is not None:
                on_epoch(epoch, course.epochs, metrics)
            course.complete &= epoch == course.epochs or not self.model.stop_training
            if not course.complete:
                break
        told.on_train_end(metrics)
        if self.loop is not None:
            self.loop.end(self.model)
        _expect_samples(course.samples)
        return metrics

    def _told(self, course: _Course) -> Any:
        """Keras' own list of the user's callbacks."""
        import keras

        self.model.stop_training = False
        course.batch_by_batch = any(_wants_batches(callback) for callback in self.callbacks)
        return keras.callbacks.CallbackList(
            list(self.callbacks),
            model=self.model,
            epochs=course.epochs,
            steps=course.per_epoch,
            verbose=0,
        )

    def _one_epoch(self, course: _Course, epoch: int, told: Any) -> dict[str, float]:
        course.begin_epoch()
        if self.loop is not None:
            batches = Batches(self._batches(course, told), epoch, course.epochs, course.per_epoch)
            found = self.loop.epoch(self.model, batches)
            return {str(name): float(value) for name, value in (found or {}).items()}
        self._epoch.begin()
        while (steps := course.steps(self._pace, self._example_bytes)) > 0:
            taken = course.take(steps)
            if taken is None:
                break
            x, y = self.network.inputs(taken[0]), self.network.targets(taken[1])
            number = course.step
            if course.batch_by_batch:
                told.on_train_batch_begin(number)
            began = time.monotonic()
            self._epoch.train(x, y, course.plan.batch_size)
            course.trained(len(x))
            self._pace.took(course.step - number, time.monotonic() - began)
            if course.batch_by_batch:
                told.on_train_batch_end(number, self._epoch.metrics())
                course.complete &= not self.model.stop_training
        return self._epoch.metrics()

    def _batches(self, course: _Course, told: Any) -> Iterator[Batch]:
        """The batches of an epoch, for a loop of the user's own."""
        while course.steps(None, 0) > 0 and (taken := course.take(1)) is not None:
            number = course.step
            told.on_train_batch_begin(number)
            yield self.network.inputs(taken[0]), self.network.targets(taken[1])
            course.trained(len(taken[0]))
            told.on_train_batch_end(number, {})
            course.complete &= not self.model.stop_training

    @property
    def _example_bytes(self) -> int:
        spec = self.network.input_spec
        lengths = (length or 1 for length in spec.shape)
        return math.prod(lengths) * np.dtype(spec.dtype).itemsize

    def _deltas(self, base: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        deltas = {}
        for name, variable in self._with_role(FEDERATED):
            deltas[name] = np.subtract(variable.numpy(), base[name], dtype=np.float32)
            if not np.isfinite(deltas[name]).all():
                raise TrainingDiverged(f"Expected finite weights. Received: NaN in `{name}`")
        return deltas

    def _local(self) -> dict[str, np.ndarray]:
        return {name: np.array(variable.numpy()) for name, variable in self._with_role(LOCAL)}

    def _with_role(self, role: str) -> list[tuple[str, Any]]:
        names = [weight.name for weight in self.weights if weight.role == role]
        return [(name, self.network.variables[name]) for name in names]


@dataclass(slots=True)
class _Course:
    """A round's training, and how far it is."""

    plan: Hyperparameters
    examples: Examples
    count: int
    random: np.random.Generator
    check: Callable[[], None] | None = None
    on_progress: Callable[[float], None] | None = None
    deadline: float = math.inf
    batch_by_batch: bool = False
    complete: bool = True
    samples: int = 0  # that were seen in the fullest epoch
    step: int = 0  # of this epoch
    per_epoch: int = field(init=False)
    epochs: int = field(init=False)
    _total: int = field(init=False)
    _left: int = field(init=False)
    _seen: int = 0
    _walk: Walk | None = None

    def __post_init__(self) -> None:
        self.per_epoch = math.ceil(self.count / self.plan.batch_size)
        self._total = self.plan.epochs * self.per_epoch
        if self.plan.max_steps is not None:
            self._total = min(self._total, self.plan.max_steps)
        self._left = self._total
        self.epochs = math.ceil(self._left / self.per_epoch)

    def begin_epoch(self) -> None:
        """Go back to the first example, in another order."""
        self._walk, self._seen, self.step = self.examples.walk(self.random), 0, 0

    def steps(self, pace: _Pace | None, example_bytes: int) -> int:
        """How many steps the next slice may have; 0 where the epoch ends here."""
        if self.check is not None:
            self.check()
        if self.on_progress is not None:
            self.on_progress(1 - self._left / self._total)
        seconds_left = self.deadline - time.monotonic()
        if seconds_left <= 0 < self._left < self._total:
            self.complete = False
        if not self.complete:
            return 0
        if pace is None or self.batch_by_batch:
            return min(1, self._left)
        fit = _SLICE_BYTES // max(1, example_bytes * min(self.plan.batch_size, self.count))
        return min(pace.steps(seconds_left), max(1, fit), self._left)

    def take(self, steps: int) -> Batch | None:
        """The examples of the next steps; None after the last."""
        assert self._walk is not None
        return self._walk.take(steps * self.plan.batch_size)

    def trained(self, count: int) -> None:
        """So many examples are behind us."""
        steps = math.ceil(count / self.plan.batch_size)
        self.step += steps
        self._left -= steps
        self._seen += count
        self.samples = max(self.samples, self._seen)


class _Pace:
    """How many steps make a slice."""

    def __init__(self) -> None:
        self._seconds: float | None = None  # of a step
        self._slices = 0

    def steps(self, seconds_left: float) -> int:
        """Steps that take about the time of a slice, and no longer than what is left."""
        if not self._slices:
            return 1  # it is compiled in the first, which says nothing of the next
        if self._seconds is None:
            return _FIRST_STEPS
        return max(1, int(min(_SLICE, seconds_left) / self._seconds))

    def took(self, steps: int, seconds: float) -> None:
        """What a slice took."""
        self._slices += 1
        if self._slices > 1:
            self._seconds = max(seconds / max(steps, 1), 1e-6)


def _wants_batches(callback: Any) -> bool:
    import keras

    names = ("on_batch_begin", "on_batch_end", "on_train_batch_begin", "on_train_batch_end")
    plain = keras.callbacks.Callback
    return any(getattr(type(callback), name) is not getattr(plain, name) for name in names)


def _optimizer(
    name: str, momentum: float, variables: Sequence[Any], corrects: tuple[bool, bool]
) -> Any:
    """A Keras optimizer; each round sets its learning rate.

    Args:
        name: one of `OPTIMIZERS`.
        momentum: of those that have one.
        variables: whose gradients are corrected.
        corrects: whether they are pulled, and whether they are shifted.
    """
    import keras

    kinds = {kind.lower(): kind for kind in ("SGD", "Adam", "AdamW", "RMSprop", "Adagrad")}
    options = {"momentum": momentum} if name in _MOMENTUM else {}
    kind = getattr(keras.optimizers, kinds[name])
    if any(corrects):
        kind = corrected(kind, variables, pulls=corrects[0], shifts=corrects[1])
    return kind(learning_rate=1.0, **options)


def _expect_samples(count: int) -> None:
    if count == 0:
        raise TrainingDataRefused("Expected at least one example. Received: none")


def _expect_finite_loss(metrics: Mapping[str, float], epoch: int) -> None:
    loss = metrics.get("loss", 0.0)  # a loop of the user's own need not tell
    if not math.isfinite(loss):
        raise TrainingDiverged(
            f"Expected a finite loss in epoch {epoch}; a lower learning rate may help. "
            f"Received: {loss}"
        )


def _expect(holds: bool, name: str, expected: str, received: object) -> None:
    if not holds:
        raise HyperparametersRefused(f"Expected `{name}` to be {expected}. Received: {received!r}")


def _is_count(value: object) -> bool:
    return type(value) is int and value >= 1


def _is_number(value: object) -> bool:
    return type(value) in (int, float) and math.isfinite(value)  # type: ignore[arg-type]
