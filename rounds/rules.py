"""The rules of a run, checked before it exists: pure functions of its settings."""

import math
from collections.abc import Mapping
from typing import Any

from rounds import aggregation
from rounds.errors import RulesInvalid
from rounds.models import Run

# What may be said of a run when it is created, beside its model.
FIELDS = (
    "name",
    "kind",
    "strategy",
    "strategy_options",
    "hyperparameters",
    "seed",
    "rounds_planned",
    "until_metric",
    "until_value",
    "best_metric",
    "patience",
    "patience_delta",
    "keep_best",
    "concurrency",
    "buffer_size",
    "selection",
    "fraction",
    "over_selection",
    "cohort_goal",
    "cohort_min",
    "selecting_seconds",
    "target",
    "quorum",
    "training_seconds",
    "quarantine_factor",
    "gate_metric",
    "gate_tolerance",
    "evaluators",
    "evaluators_min",
    "evaluation_seconds",
    "retries",
    "retry_seconds",
)
OPTIMIZERS = ("sgd", "adam", "adamw", "rmsprop", "adagrad")
HYPERPARAMETERS: dict[str, Any] = {
    "epochs": 1,
    "batch_size": 32,
    "learning_rate": 0.01,
    "optimizer": "sgd",
    "momentum": 0.0,
    "max_steps": None,
}


def hyperparameters(given: Mapping[str, Any]) -> dict[str, Any]:
    """The participants' hyper-parameters, complete and checked.

    Args:
        given: Some of `epochs`, `batch_size`, `learning_rate`, `optimizer`, `momentum` and
            `max_steps`; what is missing gets its default.

    Returns:
        All of them.

    Raises:
        RulesInvalid: One is unknown or out of its range; its `field` says which.
    """
    _object("hyperparameters", given)
    if unknown := given.keys() - HYPERPARAMETERS.keys():
        raise _invalid("hyperparameters", f"one of {sorted(HYPERPARAMETERS)}", sorted(unknown)[0])
    values = HYPERPARAMETERS | dict(given)
    for name, least, most in (("epochs", 1, 10_000), ("batch_size", 1, 1_000_000)):
        _whole(f"hyperparameters.{name}", values[name], least, most)
    if values["max_steps"] is not None:
        _whole("hyperparameters.max_steps", values["max_steps"], 1, 10**9)
    _number("hyperparameters.learning_rate", values["learning_rate"], 0.0, 1000.0, above=True)
    _number("hyperparameters.momentum", values["momentum"], 0.0, 1.0)
    if values["optimizer"] not in OPTIMIZERS:
        raise _invalid("hyperparameters.optimizer", f"one of {OPTIMIZERS}", values["optimizer"])
    return values


def setting(run: Run, *, population: int = 0) -> aggregation.Setting:
    """The run as its strategy knows it.

    Args:
        run: With complete hyper-parameters.
        population: Participants that could be selected; 0 where nobody has counted.
    """
    return aggregation.Setting(
        hyperparameters=run.hyperparameters,
        population=population,
        quorum=run.quorum,
        asynchronous=run.kind == Run.Kind.ASYNCHRONOUS,
    )


def smaller_is_better(metric: str) -> bool:
    """Whether less of a metric is better: of a loss or an error it is."""
    return metric.endswith(("loss", "error"))


def check(run: Run) -> None:
    """Refuses a run whose rules contradict each other or could never be met.

    Args:
        run: Not saved yet.

    Raises:
        RulesInvalid: With the field and the sentence that says why.
    """
    run.hyperparameters = hyperparameters(run.hyperparameters)
    _object("strategy_options", run.strategy_options)
    try:
        strategy = aggregation.build(run.strategy, run.strategy_options)
        strategy.check(setting(run))
    except aggregation.OptionError as error:
        raise RulesInvalid(error.detail, field=error.field) from error
    _whole("rounds_planned", run.rounds_planned, 1, 1_000_000)
    _whole("cohort_min", run.cohort_min, 1, 1_000_000)
    _whole("quorum", run.quorum, 1, 1_000_000)
    _whole("retries", run.retries, 0, 1000)
    for name in ("selecting_seconds", "training_seconds", "retry_seconds"):
        _whole(name, getattr(run, name), 1, 30 * 86_400)
    _number("fraction", run.fraction, 0.0, 1.0, above=True)
    _number("over_selection", run.over_selection, 1.0, 10.0)
    _number("quarantine_factor", run.quarantine_factor, 0.0, 1e6)
    _number("gate_tolerance", run.gate_tolerance, 0.0, 1e6)
    _whole("seed", run.seed, 0, 2**62)
    if run.selection not in Run.Selection.values:
        raise _invalid("selection", f"one of {Run.Selection.values}", run.selection)
    _check_counts(run)
    if run.until_value is not None:
        _number("until_value", run.until_value, -1e30, 1e30)
    if bool(run.until_metric) != (run.until_value is not None):
        raise _invalid("until_value", "a value exactly when until_metric is set", run.until_value)


def _check_counts(run: Run) -> None:
    goal, target = run.cohort_goal, run.target
    if run.selection == Run.Selection.FIRST_COME and goal is None:
        raise _invalid("cohort_goal", "a number, for first_come has to know when to stop", goal)
    if goal is not None:
        _whole("cohort_goal", goal, run.cohort_min, 1_000_000)
    if target is not None:
        _whole("target", target, run.quorum, 1_000_000)
        if goal is not None and target > math.ceil(goal * run.over_selection):
            raise _invalid("target", f"no more than are invited for the goal of {goal}", target)
    if goal is not None and run.quorum > goal:
        raise _invalid("quorum", f"no more than the goal of {goal}", run.quorum)


def _whole(field: str, value: Any, least: int, most: int) -> None:
    if type(value) is not int or not least <= value <= most:
        raise _invalid(field, f"a whole number from {least} to {most}", value)


def _number(field: str, value: Any, least: float, most: float, *, above: bool = False) -> None:
    number = type(value) in (int, float) and math.isfinite(value)
    if not number or not least <= value <= most or (above and value == least):
        raise _invalid(field, f"a number {'above' if above else 'from'} {least} to {most}", value)


def _object(field: str, value: Any) -> None:
    if not isinstance(value, Mapping):
        raise _invalid(field, "names and their values", value)


def _invalid(field: str, expected: str, received: Any) -> RulesInvalid:
    return RulesInvalid(f"Expected {expected}. Received: {received!r}", field=field)
