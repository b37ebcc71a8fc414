"""The rules of a run, checked before it exists: pure functions of its settings."""

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from client_sdk import wire
from models_app.evaluation import FEDERATED
from models_app.models import Model
from rounds import aggregation, selection
from rounds.errors import RulesInvalid
from rounds.models import Run

# What versions are measured by on the server's held-out set; participants' metrics have a prefix.
METRICS = ("accuracy", "loss", "mean_absolute_error")
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
MONTH = 30 * 86_400  # seconds
MAX_BACK_OFF = 3600  # seconds
EVALUATION_SECONDS = 10, MONTH  # the shortest time for evaluations, and the longest
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
        whole(f"hyperparameters.{name}", values[name], least, most)
    if values["max_steps"] is not None:
        whole("hyperparameters.max_steps", values["max_steps"], 1, 10**9)
    _number("hyperparameters.learning_rate", values["learning_rate"], 1e-12, 1000.0)
    _number("hyperparameters.momentum", values["momentum"], 0.0, 0.9999)
    if values["optimizer"] not in OPTIMIZERS:
        raise _invalid("hyperparameters.optimizer", f"one of {OPTIMIZERS}", values["optimizer"])
    return values


def choose(run: Run, there: Iterable[int], seed: int) -> list[int]:
    """Who of those who checked in trains, by the run's rules: see `selection.choose`.

    Args:
        run: Whose selection is `all` or `random`.
        there: Ids of participants.
        seed: The round's.
    """
    return selection.choose(
        there,
        selection=run.selection,
        goal=run.cohort_goal,
        fraction=run.fraction,
        over_selection=run.over_selection,
        minimum=run.fewest,
        seed=seed,
    )


def target(run: Run, invited: int) -> int:
    """How many updates end a round's training, by the run's rules: see `selection.target`."""
    return run.buffer_size or selection.target(
        invited,
        selection=run.selection,
        target=run.target,
        goal=run.cohort_goal,
        over_selection=run.over_selection,
        quorum=run.quorum,
    )


def most_steps(run: Run, samples: int) -> int:
    """How many steps a participant can have taken with so many samples: epochs of batches."""
    asked = run.hyperparameters
    steps = asked["epochs"] * math.ceil(samples / asked["batch_size"])
    return min(steps, asked["max_steps"] or steps)


def back_off(run: Run, failures: int) -> int:
    """How many seconds pass before a failed round is tried again, after so many in a row.

    Each pause is twice as long as the one before, up to an hour, or to a first one that is longer.
    """
    return min(run.retry_seconds * 2 ** (failures - 1), max(run.retry_seconds, MAX_BACK_OFF))


def setting(
    run: Run, *, population: int = 0, population_before: int | None = None
) -> aggregation.Setting:
    """The run as its strategy knows it.

    Args:
        run: With complete hyper-parameters.
        population: Participants that could be selected; 0 where nobody has counted.
        population_before: The same when the strategy's state was made; None for as many.
    """
    return aggregation.Setting(
        hyperparameters=run.hyperparameters,
        population=population,
        population_before=population_before,
        quorum=run.quorum,
        asynchronous=run.kind == Run.Kind.ASYNCHRONOUS,
        statistics=_statistics(run.model),
    )


def _statistics(model: Model) -> list[tuple[int, int]]:
    """Where the federated weights hold statistics, which training follows by no gradient."""
    spans, end = [], 0
    for tensor in model.federated:
        end += tensor.size
        if tensor.name.endswith((".moving_mean", ".moving_variance")):
            spans.append((end - tensor.size, end))
    return spans


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
    check_rules(run)
    _check_weights(run)


def check_rules(run: Run) -> None:
    """The same, as far as it can be said without the model's weights. Raises RulesInvalid."""
    _text("name", run.name)
    run.hyperparameters = hyperparameters(run.hyperparameters)
    _object("strategy_options", run.strategy_options)
    if run.kind not in Run.Kind.values:
        raise _invalid("kind", f"one of {Run.Kind.values}", run.kind)
    try:
        strategy = aggregation.build(run.strategy, run.strategy_options)
        strategy.check(setting(run))
    except aggregation.OptionError as error:
        raise RulesInvalid(error.detail, field=error.field) from error
    except Exception as error:  # of a package's strategy: whoever chose it has to know
        what = f"{type(error).__name__}: {error}"
        raise _invalid("strategy", f"{run.strategy} to check the rules of a run", what) from error
    _check_kind(run, strategy)
    whole("rounds_planned", run.rounds_planned, 1, 1_000_000)
    whole("cohort_min", run.cohort_min, 1, 1_000_000)
    whole("quorum", run.quorum, 1, 1_000_000)
    whole("retries", run.retries, 0, 1000)
    for name in ("selecting_seconds", "training_seconds", "retry_seconds"):
        whole(name, getattr(run, name), 1, MONTH)
    _number("fraction", run.fraction, 0.0, 1.0, above=True)
    _number("over_selection", run.over_selection, 1.0, 10.0)
    _number("quarantine_factor", run.quarantine_factor, 0.0, 1e6)
    if 0 < run.quarantine_factor < 1:  # below the median: half of all would be set aside
        raise _invalid("quarantine_factor", "0 for none, or 1 at least", run.quarantine_factor)
    _number("gate_tolerance", run.gate_tolerance, 0.0, 1e6)
    whole("seed", run.seed, 0, 2**62)
    if run.selection not in Run.Selection.values:
        raise _invalid("selection", f"one of {Run.Selection.values}", run.selection)
    _check_counts(run)
    _check_stopping(run)
    _check_evaluations(run)


def _check_kind(run: Run, strategy: aggregation.Strategy) -> None:
    """An asynchronous run needs a strategy that weighs old updates, and says how many train."""
    is_asynchronous = run.kind == Run.Kind.ASYNCHRONOUS
    if is_asynchronous != strategy.asynchronous:
        wanted = Run.Kind.ASYNCHRONOUS if strategy.asynchronous else Run.Kind.SYNCHRONOUS
        folds = "of different age" if strategy.asynchronous else "of one version"
        why = f"{wanted}, for {run.strategy} folds updates {folds}"
        raise _invalid("kind", why, str(run.kind))
    for name in ("concurrency", "buffer_size"):
        value = getattr(run, name)
        if is_asynchronous:
            whole(name, value, 1, 1_000_000)
        elif value is not None:
            raise _invalid(name, "no number, for only asynchronous runs have one", value)
    size = run.buffer_size
    if size is not None and run.quorum > size:
        raise _invalid("quorum", f"no more than the buffer size of {size}", run.quorum)


def _check_weights(run: Run) -> None:
    """FedBN averages everything but batch normalization, which stays with each participant."""
    if run.strategy != "fedbn":
        return
    names = set(layers_of("BatchNormalization", run.model.architecture))
    travels = [one.layer for one in run.model.weights if one.role == wire.FEDERATED]
    if wrong := [layer for layer in dict.fromkeys(travels) if names & set(layer.split("."))]:
        expected = "a model whose BatchNormalization layers are local"
        raise _invalid("strategy", expected, f"{', '.join(wrong)} federated in {run.model.slug}")
    if all(one.role != wire.LOCAL for one in run.model.weights):
        expected = "a model with local layers; without any, fedbn is fedavg"
        raise _invalid("strategy", expected, run.model.slug)


def layers_of(kind: str, config: Any) -> Iterator[str]:
    """The names of all layers of a class in a model's architecture, those inside others too.

    Args:
        kind: The class, such as "BatchNormalization".
        config: The architecture, or any part of it.
    """
    if isinstance(config, dict):
        if config.get("class_name") == kind:
            yield str(config.get("config", {}).get("name", ""))
        config = list(config.values())
    if isinstance(config, list):
        for part in config:
            yield from layers_of(kind, part)


def _check_stopping(run: Run) -> None:
    for name in ("gate_metric", "until_metric", "best_metric"):
        _metric(name, getattr(run, name))
    if type(run.keep_best) is not bool:
        raise _invalid("keep_best", "true or false", run.keep_best)
    if run.until_value is not None:
        share = run.until_metric.removeprefix(FEDERATED) == "accuracy"
        _number("until_value", run.until_value, *((0.0, 1.0) if share else (-1e30, 1e30)))
    if bool(run.until_metric) != (run.until_value is not None):
        raise _invalid("until_value", "a value exactly when until_metric is set", run.until_value)
    if run.patience is not None:
        whole("patience", run.patience, 1, 1_000_000)
    _number("patience_delta", run.patience_delta, 0.0, 1e30)
    if run.patience_delta and run.patience is None:
        raise _invalid("patience_delta", "0, for only patience counts by it", run.patience_delta)
    if (run.patience is not None or run.keep_best) and not run.best_metric:
        by = "patience" if run.patience is not None else "keep_best"
        raise _invalid("best_metric", f"a metric, for {by} compares versions by it", "")


def _metric(field: str, value: Any) -> None:
    """Refuses what nobody measures by that name; an empty one is none. Raises RulesInvalid."""
    _text(field, value)
    if not value or value in METRICS:
        return
    theirs = value.removeprefix(FEDERATED) if value.startswith(FEDERATED) else ""
    if not theirs or theirs != theirs.strip() or not theirs.isprintable():
        known = f"one of {', '.join(METRICS)}, or of participants' such as {FEDERATED}accuracy"
        raise _invalid(field, known, value)


def _text(field: str, value: Any) -> None:
    """Refuses what is no text that the field's column holds. Raises RulesInvalid."""
    if not isinstance(value, str):
        raise _invalid(field, "a text", value)
    longest = getattr(Run._meta.get_field(field), "max_length", None)
    if longest is not None and len(value) > longest:
        raise _invalid(field, f"at most {longest} characters", len(value))


def _check_evaluations(run: Run) -> None:
    whole("evaluators", run.evaluators, 0, 1_000_000)
    whole("evaluators_min", run.evaluators_min, 2, 1_000_000)
    whole("evaluation_seconds", run.evaluation_seconds, *EVALUATION_SECONDS)
    for name in ("gate_metric", "until_metric", "best_metric"):
        metric = getattr(run, name)
        if metric.startswith(FEDERATED) and not run.evaluators:
            raise _invalid("evaluators", f"participants that evaluate, for {name} is {metric}", 0)
    if run.evaluators and run.evaluators < run.evaluators_min:
        least = f"at least the smallest cohort of {run.evaluators_min}, or 0"
        raise _invalid("evaluators", least, run.evaluators)


def _check_counts(run: Run) -> None:
    goal, target = run.cohort_goal, run.target
    if run.kind == Run.Kind.ASYNCHRONOUS:
        # It has no cohort: who comes trains, and the buffer says when it is enough.
        for name in ("cohort_goal", "target"):
            if (value := getattr(run, name)) is not None:
                raise _invalid(name, "no number, for only synchronous runs have one", value)
        return
    if run.selection == Run.Selection.FIRST_COME and goal is None:
        raise _invalid("cohort_goal", "a number, for first_come has to know when to stop", goal)
    if goal is not None:
        whole("cohort_goal", goal, run.cohort_min, 1_000_000)
    if target is not None:
        whole("target", target, run.quorum, 1_000_000)
        if goal is not None and target > math.ceil(goal * run.over_selection):
            raise _invalid("target", f"no more than are invited for the goal of {goal}", target)
    if goal is not None and run.quorum > goal:
        raise _invalid("quorum", f"no more than the goal of {goal}", run.quorum)


def whole(field: str, value: Any, least: int, most: int) -> None:
    """Refuses what is no whole number in a range. Raises RulesInvalid, with the field."""
    if type(value) is not int or not least <= value <= most:
        raise _invalid(field, f"a whole number from {least} to {most}", value)


def _number(field: str, value: Any, least: float, most: float, *, above: bool = False) -> None:
    # In this order: a whole number may be too large to be asked whether it is finite.
    within = type(value) in (int, float) and least <= value <= most and math.isfinite(value)
    if not within or (above and value == least):
        raise _invalid(field, f"a number {'above' if above else 'from'} {least} to {most}", value)


def _object(field: str, value: Any) -> None:
    if not isinstance(value, Mapping):
        raise _invalid(field, "names and their values", value)


def _invalid(field: str, expected: str, received: Any) -> RulesInvalid:
    return RulesInvalid(f"Expected {expected}. Received: {received!r}", field=field)
