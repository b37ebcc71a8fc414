"""What a run will do, in sentences: a pure function of its rules and of a few counts.

No data are looked at, and nothing is written. It counts as the round does, by the same functions
of `selection`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from models_app.evaluation import FEDERATED
from rounds import aggregation, capabilities, rules, selection
from rounds.amounts import size, span
from rounds.models import Run

Way = Run.Selection
FEW_NAMED = 3


@dataclass(frozen=True, slots=True)
class Facts:
    """What a preview knows beside the rules.

    Args:
        version: The number of the version that the model serves now; None if nobody asks.
        enrolled: How many active participants may train it; None if nobody asks.
        unable: Names of those who may train the model, but whose SDK cannot do what the run's
            strategy asks.
        weights_bytes: Of the weights that travel in each round, each way.
        fixed_bytes: Of the weights that travel once.
        evaluation_samples: In the model's held-out set; 0 if it has none.
        metrics: Of the version that is served now.
        busy: The name of a run of the model that is running or paused; empty if there is none.
    """

    version: int | None = None
    enrolled: int | None = None
    unable: Sequence[str] = ()
    weights_bytes: int = 0
    fixed_bytes: int = 0
    evaluation_samples: int = 0
    metrics: Mapping[str, Any] = field(default_factory=dict)
    busy: str = ""


class Line(NamedTuple):
    """One thing that a run does: what it is about, and what happens."""

    title: str
    text: str


class Cohort(NamedTuple):
    """How many a round waits for, invites, and waits for updates of; None: it depends."""

    waits_for: int | None
    invites: int | None
    target: int | None


def cohort(run: Run, enrolled: int | None) -> Cohort:
    """The numbers of one round, if all who are enrolled come.

    Args:
        run: Whose rules hold together.
        enrolled: How many may come; None if that is open.
    """
    if _is_buffered(run):
        return Cohort(None, run.concurrency, run.buffer_size)
    least = run.fewest
    if run.selection == Way.FIRST_COME:
        room = selection.room(run.cohort_goal, run.over_selection)
        invites = room if enrolled is None else min(room, max(enrolled, least))
        return Cohort(None, invites, rules.target(run, invites))
    if enrolled is None and run.cohort_goal is None:
        return Cohort(None, None, run.target)
    wanted = selection.wanted(
        run.selection,
        eligible=10**9 if enrolled is None else max(enrolled, least),
        goal=run.cohort_goal,
        fraction=run.fraction,
    )
    waits = max(wanted, least)
    invites = waits
    if run.selection == Way.RANDOM:
        invites = selection.chosen(
            waits,
            goal=run.cohort_goal,
            fraction=run.fraction,
            over_selection=run.over_selection,
            minimum=least,
        )
    return Cohort(waits, invites, rules.target(run, invites))


def lines(run: Run, facts: Facts) -> list[Line]:
    """What a run does, in the order in which it does it.

    Args:
        run: Whose rules hold together; it need not be saved.
        facts: What is known beside them.
    """
    numbers = cohort(run, facts.enrolled)
    told = [
        Line("Rounds", _rounds(run, facts)),
        Line("Who trains", _who(run, facts, numbers)),
        Line("Training", _training(run)),
        Line("Closing", _closing(run, numbers)),
        Line("Publishing", _publishing(run, facts)),
        Line("Evaluation", _evaluation(run)),
        Line("Ending", _ending(run)),
        Line("Failing", _failing(run)),
        Line("On the way", _traffic(run, facts, numbers)),
        Line("At the longest", _longest(run)),
    ]
    return [line for line in told if line.text]


def warnings(run: Run, facts: Facts) -> list[str]:
    """What will keep a run from doing what its rules say, as things stand."""
    return [
        *_about_participants(run, facts),
        *_about_strategy(run, facts),
        *_about_metrics(run, facts),
    ]


def unable(facts: Facts) -> str:
    """Who cannot do what a run's strategy asks, and what to do about it; "" if everybody can."""
    if not facts.unable:
        return ""
    able = facts.enrolled or 0
    everybody = _some(len(facts.unable) + able, "enrolled participant", "enrolled participants")
    return (
        f"{able} of the {everybody} can do what this strategy asks. {_named(facts.unable)} cannot, "
        f"until somebody runs {capabilities.UPGRADE} there."
    )


def _about_participants(run: Run, facts: Facts) -> list[str]:
    told, least = [], run.quorum if _is_buffered(run) else run.fewest
    if facts.unable:
        told.append(unable(facts))
    if facts.enrolled is not None and facts.enrolled < least:
        there = _some(facts.enrolled, "participant is", "participants are", none="Nobody is")
        able = " and able" if facts.unable else ""
        told.append(
            f"{there} enrolled{able} and a round needs {least}: until more enrol, rounds fail."
        )
    elif (
        facts.enrolled is not None and _is_buffered(run) and facts.enrolled < (run.buffer_size or 0)
    ):
        told.append(
            f"{facts.enrolled} can take part and each sends one update to a version: the buffer of "
            f"{run.buffer_size} is never full, and each version waits until its time is over."
        )
    told += _about_evaluators(run, facts)
    if facts.busy:
        told.append(f"{facts.busy} trains this model now; this run can start when it has ended.")
    return told


def _about_evaluators(run: Run, facts: Facts) -> list[str]:
    """Too few to evaluate, though there are some: those whom the strategy asks too much could."""
    there = (facts.enrolled or 0) + len(facts.unable)
    if facts.enrolled is None or not 0 < there < run.evaluators:
        return []
    are = _some(there, "participant is", "participants are")
    waits = f"until more enrol, each round waits the whole {span(run.evaluation_seconds)} for them"
    if there >= run.evaluators_min:
        asked = _some(run.evaluators, "evaluation", "evaluations")
        return [f"{are} enrolled and a round asks for {asked}: {waits}."]
    fails = ", and fails" if _judged_by_them(run) else ""
    least = run.evaluators_min
    return [
        f"Nothing is shown of fewer than {least} evaluations, and {are} enrolled: {waits}{fails}."
    ]


def _about_strategy(run: Run, facts: Facts) -> list[str]:
    told, kind, title = [], aggregation.find(run.strategy), aggregation.title(run.strategy)
    if kind is None:
        return [f"The strategy {run.strategy} is not installed here any more."]
    if kind.family == "robust" and run.quorum < 3:
        told.append(
            f"A round may publish with {_some(run.quorum, 'update', 'updates')}: among so few "
            f"nobody can tell who is wrong. {title} needs a quorum of 3, better of 5."
        )
    if kind.family == "robust" and 0 < run.quarantine_factor < 3:
        told.append(
            f"Updates above {run.quarantine_factor:g} times the median norm are quarantined before "
            f"{title} sees them, those of honest participants with unusual data among them. "
            "It bears outliers by itself: 5 or more, or 0, leaves the choice to it."
        )
    asked = capabilities.required(run.strategy, run.strategy_options)
    drawn = cohort(run, facts.enrolled).invites
    if any(name in asked for name in capabilities.KEPT) and drawn and facts.enrolled:
        times = run.rounds_planned * drawn / facts.enrolled
        if times < 2:
            told.append(
                f"Each participant trains about {_times(times)} in {run.rounds_planned} rounds, "
                f"and what it keeps for {title} counts from its second time on: plan more "
                "rounds, or a larger share of the participants in each."
            )
    return told


def _about_metrics(run: Run, facts: Facts) -> list[str]:
    """Metrics that rules go by, and that nobody will measure."""
    told = []
    uses = {"gate_metric": "", "best_metric": "go by it", "until_metric": "end by it"}
    asked = {getattr(run, name): use for name, use in uses.items() if getattr(run, name)}
    for metric, use in asked.items():
        if metric.startswith(FEDERATED):
            if not run.evaluators:
                told.append(
                    f"{metric} is what participants measure, and no evaluators are asked for."
                )
        elif not facts.evaluation_samples:
            if use:
                told.append(
                    f"The model has no evaluation set: {metric} is not known, and the run does not "
                    f"{use}."
                )
        elif facts.metrics and metric not in facts.metrics:
            known = ", ".join(facts.metrics)
            told.append(f"{metric} is not measured for this model; what is measured: {known}.")
    return told


# --- The sentences ----------------------------------------------------------------------------


def _is_buffered(run: Run) -> bool:
    return run.kind == Run.Kind.ASYNCHRONOUS


def _judged_by_them(run: Run) -> list[str]:
    """What participants measure and versions are judged by, each once."""
    judges = (run.gate_metric, run.until_metric, run.best_metric)
    return list(dict.fromkeys(one for one in judges if one.startswith(FEDERATED)))


def _rounds(run: Run, facts: Facts) -> str:
    text = f"Up to {_some(run.rounds_planned, 'round', 'rounds')}"
    if run.until_metric and run.until_value is not None:
        reaches = "falls to" if rules.smaller_is_better(run.until_metric) else "reaches"
        measured = "" if run.until_metric.startswith(FEDERATED) else " on the held-out set"
        text += f", fewer if the {run.until_metric}{measured} {reaches} "
        text += f"{run.until_value:g} before"
    if _is_buffered(run):
        text += ", each of which fills one buffer of updates"
    if facts.version is not None:
        text += f". The first one starts from version {facts.version}"
    if _is_buffered(run):
        return text + "."
    return text + ". Each one starts from the version that is served then."


def _who(run: Run, facts: Facts, numbers: Cohort) -> str:
    if _is_buffered(run):
        return _who_buffered(run.concurrency or 0, facts)
    wait, least = span(run.selecting_seconds), run.fewest
    if run.selection == Way.FIRST_COME:
        return (
            f"Each round invites the first {numbers.invites} of {_enrolled(facts)} who come, for "
            f"up to {wait}, and each of them trains at once. After that time it goes on with at "
            f"least {least}, or it fails."
        )
    then = "everyone who is there trains"
    if run.selection == Way.RANDOM:
        drawn = numbers.invites
        share = f"{run.fraction:.0%} of them, times {run.over_selection:g}"
        then = f"{share if drawn is None else drawn} are drawn to train"
    whom = "all enrolled participants"
    if numbers.waits_for == facts.enrolled == 1:
        whom = "the one enrolled participant"
    elif numbers.waits_for == facts.enrolled is not None:
        whom = f"all {facts.enrolled} enrolled participants"
    elif numbers.waits_for is not None:
        whom = f"{numbers.waits_for} of {_enrolled(facts)}"
    goes_on = f"it goes on with at least {least}, or it fails"
    if numbers.waits_for == least:
        goes_on = "it fails"
    return (
        f"Each round waits up to {wait} for {whom}; then {then}. If fewer have come in that time, "
        f"{goes_on}."
    )


def _who_buffered(places: int, facts: Facts) -> str:
    starts = "Each one starts at once, from the version that is served then"
    enrolled = facts.enrolled
    if enrolled is None or enrolled > places:
        return (
            f"At most {places} of {_enrolled(facts)} train at a time. {starts}, and makes room for "
            "the next when it has sent its update."
        )
    if not enrolled:
        return f"Nobody is enrolled yet; there is room for {places} at a time. {starts}."
    whom = "The one enrolled participant trains"
    if enrolled > 1:
        whom = f"All {enrolled} enrolled participants train at the same time"
    room = f", for there is room for {places}" if enrolled < places else ""
    return f"{whom}{room}. {starts}; who has sent its update goes on with the next version."


def _enrolled(facts: Facts) -> str:
    if facts.enrolled is None:
        return "the enrolled participants"
    return f"the {_some(facts.enrolled, 'enrolled participant', 'enrolled participants')}"


def _training(run: Run) -> str:
    asked = rules.hyperparameters(run.hyperparameters)
    text = (
        f"Each participant trains {_some(asked['epochs'], 'epoch', 'epochs')} over its own data "
        f"in batches of {asked['batch_size']} with {asked['optimizer']}, "
        f"learning rate {asked['learning_rate']:g}"
    )
    if asked["momentum"]:
        text += f", momentum {asked['momentum']:g}"
    if asked["max_steps"] is not None:
        text += f", at most {_some(asked['max_steps'], 'step', 'steps')}"
    beyond = capabilities.in_words(capabilities.required(run.strategy, run.strategy_options))
    return text + (f", {beyond}." if beyond else ".")


def _closing(run: Run, numbers: Cohort) -> str:
    if _is_buffered(run):
        return (
            f"Every {_some(run.buffer_size or 0, 'update makes', 'updates make')} a version, and "
            "nobody waits for the slowest: who still trains goes on, and sends its update to a "
            f"later one. After {span(run.training_seconds)} a version is made of at least "
            f"{run.quorum}; with fewer the round fails, and who has trained for longer loses its "
            f"place. {_quarantine(run)}"
        )
    ends = "all who were invited have sent their updates"
    if numbers.target is not None:
        ends = f"{_some(numbers.target, 'update is', 'updates are')} here"
    elif run.selection == Way.RANDOM:
        ends = f"one update for each {run.over_selection:g} who were invited is here"
    text = (
        f"Training ends when {ends}, or after {span(run.training_seconds)} with at least "
        f"{run.quorum}; with fewer the round fails. "
    )
    return text + _quarantine(run)


def _quarantine(run: Run) -> str:
    if not run.quarantine_factor:
        return "No update is quarantined for its size."
    return (
        f"An update is quarantined if its norm is more than {run.quarantine_factor:g} times the "
        "median of all."
    )


def _publishing(run: Run, facts: Facts) -> str:
    made = f"{aggregation.title(run.strategy)} makes a new version of the updates; "
    samples = _some(facts.evaluation_samples, "held-out sample", "held-out samples")
    side = "above" if rules.smaller_is_better(run.gate_metric) else "below"
    gate = (
        f"unless its {run.gate_metric} is more than {run.gate_tolerance:g} {side} that of the "
        "version before: then the round fails, and the old version stays."
    )
    theirs = "participants measure it on held-out data of their own"
    if run.evaluators and run.gate_metric.startswith(FEDERATED):
        ours = f"it is measured on {samples}, and " if facts.evaluation_samples else ""
        return (
            f"{made}{ours}{theirs}. The gate compares what they tell. The version is served {gate}"
        )
    if not facts.evaluation_samples:
        if not run.evaluators:
            return made + "it is served unmeasured, for the model has no evaluation set."
        why = "no gate compares it"
        if run.gate_metric:
            why = f"its gate compares {run.gate_metric}, and the model has no evaluation set"
        return f"{made}{theirs}, and it is served whatever they tell, for {why}."
    made += f"it is measured on {samples} and served"
    return f"{made} {gate}" if run.gate_metric else f"{made} if all its metrics are finite."


def _evaluation(run: Run) -> str:
    if not run.evaluators:
        return ""
    fails = ""
    if judges := _judged_by_them(run):
        fails = f", and the round fails, for nobody knows the {' and '.join(judges)} then"
    return (
        f"{_some(run.evaluators, 'participant measures', 'participants measure')} each new version "
        f"on data of their own, for up to {span(run.evaluation_seconds)}. Of fewer than "
        f"{run.evaluators_min} reports nothing is shown or used{fails}."
    )


def _ending(run: Run) -> str:
    """How it ends before its rounds are done, but for `until`; "" if it does not."""
    if not run.best_metric:
        return ""
    text = f"Versions are compared by their {run.best_metric}"
    if run.patience:
        better = "better"
        if run.patience_delta:
            better += f" by more than {run.patience_delta:g}"
        rounds = _some(run.patience, "round was no", "rounds in a row were no")
        text += f"; the run ends when {rounds} {better}"
    if run.keep_best:
        text += "; at its end it serves the best one, and not the last"
    return text + "."


def _failing(run: Run) -> str:
    if not run.retries:
        return "The first failed round fails the run."
    return (
        f"A failed round is tried again after {_pauses(run)}; the run fails after "
        f"{run.retries + 1} failed rounds in a row."
    )


def _pauses(run: Run) -> str:
    """The first three of them, and how long they become."""
    pauses = [rules.back_off(run, failures) for failures in range(1, run.retries + 1)]
    first = list(dict.fromkeys(pauses[:3]))
    told = ", then ".join(map(span, first))
    if len(first) == len(pauses):
        return told
    if pauses[-1] == first[-1]:
        return f"{told} each time"
    limited = pauses[-1] < 2 * pauses[-2]
    return f"{told}, and so on" + (f" up to {span(pauses[-1])}" if limited else "")


def _traffic(run: Run, facts: Facts, numbers: Cohort) -> str:
    each = size(facts.weights_bytes)
    text = f"About {each} down and {each} up for each participant in each round"
    if facts.fixed_bytes:
        text += f", and {size(facts.fixed_bytes)} down once"
    if _is_buffered(run):
        each_version = 2 * facts.weights_bytes * (run.buffer_size or 0)
        return text + f": about {size(each_version)} for each version."
    if numbers.invites is None:
        return text + "."
    total = numbers.invites * (2 * facts.weights_bytes * run.rounds_planned + facts.fixed_bytes)
    return text + f": about {size(total)} in all, if {numbers.invites} train in each round."


def _longest(run: Run) -> str:
    each = run.training_seconds + (0 if _is_buffered(run) else run.selecting_seconds)
    each += run.evaluation_seconds if run.evaluators else 0
    rounds = _some(run.rounds_planned, "round", "rounds")
    return (
        f"If every wait runs out, a round takes {span(each)} and {rounds} take"
        f"{'s' * (run.rounds_planned == 1)} {span(each * run.rounds_planned)}."
    )


# --- Words for numbers ------------------------------------------------------------------------


def _some(count: int, one: str, many: str, *, none: str = "") -> str:
    if not count and none:
        return none
    return f"{count} {one if count == 1 else many}"


def _times(count: float) -> str:
    return "once" if round(count, 1) == 1 else f"{count:.1f} times"


def _named(names: Sequence[str]) -> str:
    """Names in a sentence: all of a few, and how many more there are."""
    if len(names) > FEW_NAMED + 1:
        return f"{', '.join(names[:FEW_NAMED])} and {len(names) - FEW_NAMED} more"
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))
