"""The form that creates a run: every rule with its default, in users' words, step by step."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

from django import forms

from frontend import strategies
from models_app import selectors as registry
from rounds import aggregation, rules
from rounds.amounts import units
from rounds.errors import RulesInvalid
from rounds.models import Run

_UNITS = {"s": 1, "sec": 1, "second": 1, "min": 60, "minute": 60, "h": 3600, "hour": 3600}
_UNITS |= {"d": 86_400, "day": 86_400} | {f"{unit}s": size for unit, size in _UNITS.items()}
_UNITS |= {"days": 86_400}
LONGEST_SPAN = 40  # characters; what is longer is no time, and may be no number either
_PIECE = re.compile(r"(\d+(?:\.\d+)?)\s*([a-z]*)\s*")


def read_span(text: str) -> int:
    """The seconds that are meant by "90", "5 min" or "1 h 30 min".

    Raises:
        ValueError: It is no time.
    """
    text, at, total = text.strip().lower(), 0, 0.0
    while at < len(text):
        piece = _PIECE.match(text, at) if len(text) <= LONGEST_SPAN else None
        if piece is None or piece[2] not in (*_UNITS, ""):
            raise ValueError(
                f"Expected a time like 90 s, 5 min or 1 h 30 min. Received: {text:.40}"
            )
        total += float(piece[1]) * _UNITS.get(piece[2], 1)
        at = piece.end()
    return round(total)


def write_span(seconds: int) -> str:
    """Seconds as `read_span` takes them: "1 h 30 min".

    Example:
        >>> write_span(300), write_span(5400), write_span(45)
        ('5 min', '1 h 30 min', '45 s')
    """
    return " ".join(units(seconds))


class SpanField(forms.CharField):
    """A time that people write with its unit."""

    def prepare_value(self, value: Any) -> Any:
        return write_span(value) if isinstance(value, int) else value

    def to_python(self, value: Any) -> Any:
        try:
            return read_span(super().to_python(value) or "")
        except ValueError as error:
            raise forms.ValidationError(str(error)) from error


class MetricField(forms.CharField):
    """The name of a metric, of which the page suggests the usual ones; it may be left out."""

    def __init__(self, **options: Any) -> None:
        widget = forms.TextInput(attrs={"list": "metrics", "autocomplete": "off"})
        super().__init__(required=False, max_length=40, widget=widget, **options)


def _number(whole: bool = True, *, least: float | None = None, **options: Any) -> forms.Field:
    """A number; what it may be is said by `rules`, and the browser knows the least of them."""
    kind = forms.IntegerField if whole else forms.FloatField
    attrs = {"step": "1" if whole else "any"} | ({} if least is None else {"min": least})
    return kind(widget=forms.NumberInput(attrs=attrs), **options)


class Step(NamedTuple):
    """A part of the form: its key, its title, what it is about, and its fields."""

    key: str
    title: str
    about: str
    names: tuple[str, ...]


STEPS = (
    Step(
        "model",
        "Model",
        "What is trained. Every round starts from the version that the model serves then.",
        ("model", "name", "rounds_planned"),
    ),
    Step(
        "strategy",
        "Strategy",
        "How the participants' updates become the next version.",
        ("kind", "strategy", "seed"),
    ),
    Step(
        "cohort",
        "Who trains",
        "Whom a round waits for, and how long.",
        (
            "concurrency",
            "buffer_size",
            "selection",
            "cohort_goal",
            "cohort_min",
            "selecting_seconds",
            "fraction",
            "over_selection",
        ),
    ),
    Step(
        "training",
        "Training",
        "What each participant does with its own data.",
        tuple(f"hyperparameters.{name}" for name in rules.HYPERPARAMETERS),
    ),
    Step(
        "closing",
        "Closing",
        "When a round stops waiting for updates, and which of them it trusts.",
        ("target", "quorum", "training_seconds", "quarantine_factor"),
    ),
    Step(
        "measuring",
        "Measuring",
        "How good a new version is, and when it is not served.",
        (
            "gate_metric",
            "gate_tolerance",
            "evaluators",
            "evaluators_min",
            "evaluation_seconds",
        ),
    ),
    Step(
        "ending",
        "Ending",
        "When the run ends before its last round, and what happens after a failed one.",
        (
            "until_metric",
            "until_value",
            "best_metric",
            "patience",
            "patience_delta",
            "keep_best",
            "retries",
            "retry_seconds",
        ),
    ),
)
_OPTIMIZERS = [(name, name) for name in rules.OPTIMIZERS]
# Fields that count only where others are chosen so; elsewhere they have their defaults.
_Choices = dict[str, tuple[str, ...]]
_IN_ROUNDS: _Choices = {"kind": ("synchronous",)}
_BUFFERED: _Choices = {"kind": ("asynchronous",)}
COUNTS: dict[str, _Choices] = {
    "concurrency": _BUFFERED,
    "buffer_size": _BUFFERED,
    "selection": _IN_ROUNDS,
    "cohort_goal": _IN_ROUNDS,
    "cohort_min": _IN_ROUNDS,
    "selecting_seconds": _IN_ROUNDS,
    "fraction": {**_IN_ROUNDS, "selection": ("random",)},
    "over_selection": {**_IN_ROUNDS, "selection": ("random", "first_come")},
    "hyperparameters.momentum": {"hyperparameters.optimizer": ("sgd", "rmsprop")},
    "target": _IN_ROUNDS,
}
# Fields that say more of another one, which may be left out: the page shows them once it is not.
FOLLOWS = {
    "until_value": "until_metric",
    "patience": "best_metric",
    "patience_delta": "patience",
    "keep_best": "best_metric",
    "gate_tolerance": "gate_metric",
    "evaluators_min": "evaluators",
    "evaluation_seconds": "evaluators",
}


# What the form begins with where a run has no default, for it counts in few runs.
SUGGESTED = {"concurrency": 10, "buffer_size": 5}


def questions() -> dict[str, forms.Field]:
    """Every field but the model and the strategies' own options, as people are asked for it."""
    return {
        "name": forms.CharField(
            label="Name",
            required=False,
            max_length=100,
            help_text="Left out: the model with the strategy.",
        ),
        "rounds_planned": _number(
            label="Rounds", least=1, help_text="How many versions it publishes, at most."
        ),
        "kind": forms.ChoiceField(
            label="Kind of run", choices=Run.Kind.choices, widget=forms.RadioSelect
        ),
        "strategy": forms.ChoiceField(
            label="Strategy",
            choices=lambda: [(name, name) for name in strategies.names()],
            widget=forms.RadioSelect,
        ),
        "seed": _number(
            label="Seed",
            least=0,
            help_text="The same seed, data and participants give the same versions.",
        ),
        "concurrency": _number(
            label="Train at a time",
            least=1,
            required=False,
            help_text="Participants. Whoever has sent its update makes room for the next.",
        ),
        "buffer_size": _number(
            label="Updates for a version",
            least=1,
            required=False,
            help_text="So many in the buffer make the next version, whoever they are from.",
        ),
        "selection": forms.ChoiceField(label="Who is chosen", choices=Run.Selection.choices),
        "cohort_goal": _number(
            label="Wait for",
            least=1,
            required=False,
            help_text="Participants. Left out: all that are enrolled. First come, first served "
            "needs a number.",
        ),
        "cohort_min": _number(
            label="Go on with at least",
            least=1,
            help_text="Participants, when the time to wait is over. With fewer the round fails.",
        ),
        "selecting_seconds": SpanField(
            label="Wait at most", help_text="For participants to check in: 90 s, 5 min, 1 h 30 min."
        ),
        "fraction": _number(
            False,
            label="Fraction",
            least=0,
            help_text="Of those who checked in, the share that is drawn: 0.5 for every second one.",
        ),
        "over_selection": _number(
            False,
            label="Over-selection",
            least=1,
            help_text="Invite so many times the number, for some will not finish.",
        ),
        "hyperparameters.epochs": _number(
            label="Epochs", least=1, help_text="Passes over a participant's data in one round."
        ),
        "hyperparameters.batch_size": _number(
            label="Batch size", least=1, help_text="Samples in one step."
        ),
        "hyperparameters.learning_rate": _number(
            False, label="Learning rate", least=0, help_text="How far one step goes."
        ),
        "hyperparameters.optimizer": forms.ChoiceField(label="Optimizer", choices=_OPTIMIZERS),
        "hyperparameters.momentum": _number(
            False, label="Momentum", least=0, help_text="Of sgd and rmsprop; 0 to below 1."
        ),
        "hyperparameters.max_steps": _number(
            label="Most steps",
            least=1,
            required=False,
            help_text="In one round, over all epochs. Left out: no limit.",
        ),
        "target": _number(
            label="Close when there are",
            least=1,
            required=False,
            help_text="Updates. Left out: as many as the round waits for.",
        ),
        "quorum": _number(
            label="Quorum",
            least=1,
            help_text="The fewest accepted updates that a version may be made of.",
        ),
        "training_seconds": SpanField(
            label="Close at the latest after",
            help_text="With the quorum the round goes on, without it it fails.",
        ),
        "quarantine_factor": _number(
            False,
            label="Quarantine above",
            least=0,
            help_text="Times the median norm: larger updates are not trusted. 0: trust all.",
        ),
        "gate_metric": MetricField(
            label="Gate",
            help_text="The metric by which a new version is held against the one before. "
            "Left out: none.",
        ),
        "gate_tolerance": _number(
            False,
            label="Tolerance",
            least=0,
            help_text="How much worse it may be and still be served, in the metric's own unit.",
        ),
        "evaluators": _number(
            label="Participants that measure it",
            least=0,
            help_text="Each new version, on data of their own that they do not train on: "
            "federated_accuracy and federated_loss. 0: nobody.",
        ),
        "evaluators_min": _number(
            label="Show nothing below",
            least=2,
            help_text="Reports. Of fewer nothing is shown or used, for it would tell of one.",
        ),
        "evaluation_seconds": SpanField(
            label="Time to measure", help_text="After it those count that have reported."
        ),
        "until_metric": MetricField(
            label="End early by",
            help_text="A metric of a new version, accuracy or loss. Left out: never.",
        ),
        "until_value": _number(
            False,
            label="Once it reaches",
            required=False,
            help_text="0.95 for an accuracy; a loss ends the run once it falls to the value.",
        ),
        "best_metric": MetricField(
            label="Compare versions by",
            help_text="The metric that says which version of the run is its best.",
        ),
        "patience": _number(
            label="Give up after",
            least=1,
            required=False,
            help_text="Rounds in a row without a better version. Left out: never.",
        ),
        "patience_delta": _number(
            False,
            label="Better by more than",
            least=0,
            help_text="In the metric's own unit: what counts as a better version.",
        ),
        "keep_best": forms.BooleanField(
            label="Serve the best version at the end",
            required=False,
            help_text="And not the last one.",
        ),
        "retries": _number(
            label="Retries",
            least=0,
            help_text="Failed rounds in a row that are tried again; one more fails the run.",
        ),
        "retry_seconds": SpanField(
            label="Try again after", help_text="Doubled at each failure in a row."
        ),
    }


_CHOICES = {str(one.value): str(one.label) for one in (*Run.Kind, Run.Selection.FIRST_COME)}
_NOTHING = re.compile(r"Received: (?:None|'')$")


@cache
def _called() -> dict[str, str]:
    """What the form calls the fields and choices that a refusal may name."""
    names = {name.rpartition(".")[2]: field.label for name, field in questions().items()}
    # Names that are also words are left alone, but for one that the rules use as a name only.
    labels = {name: str(label) for name, label in names.items() if "_" in name}
    return labels | {"patience": str(names["patience"])} | _CHOICES


def in_its_words(detail: str, strategy: str = "") -> str:
    """A refusal of the rules as the form says it: its fields and choices by their labels.

    Args:
        detail: Which programs get as it is.
        strategy: The one that is chosen.

    Example:
        >>> in_its_words("Expected a value exactly when until_metric is set. Received: None")
        'Expected a value exactly when “End early by” is set. Received: nothing'
    """
    called = {name: f"“{label}”" for name, label in _called().items()}
    called |= {strategy: aggregation.title(strategy)} if strategy else {}
    names = re.compile(rf"('?)\b({'|'.join(map(re.escape, called))})\b\1")
    told = names.sub(lambda found: called[found[2]], detail)
    return _NOTHING.sub("Received: nothing", told)


def defaults() -> dict[str, Any]:
    """What a run is, where nobody says anything: by the names of the form's fields."""
    usual, nested = Run(), ("strategy_options", "hyperparameters")
    found = {name: getattr(usual, name) for name in rules.FIELDS if name not in nested}
    asked = {f"hyperparameters.{name}": value for name, value in rules.HYPERPARAMETERS.items()}
    return found | asked | {"name": ""}


def settings_of(run: Run) -> dict[str, Any]:
    """A run's rules by the names of the form's fields, for one that is to be like it."""
    usual = defaults()
    found = usual | {name: getattr(run, name) for name in usual if "." not in name}
    asked = {f"hyperparameters.{name}": value for name, value in run.hyperparameters.items()}
    options = {
        option_name(run.strategy, name): value for name, value in run.strategy_options.items()
    }
    return found | asked | options | {"model": run.model.slug}


def as_sent(initial: Mapping[str, Any]) -> dict[str, Any]:
    """Values as the form's page would send them: those given, and the defaults of all others."""
    values = defaults() | dict(initial)
    sent: dict[str, Any] = {}
    for name, value in values.items():
        sent[name] = write_span(value) if name.endswith("_seconds") else value
        sent[name] = "" if value is None else sent[name]
    return sent


def _what_counts(data: Mapping[str, Any]) -> dict[str, Any]:
    """What was sent, but the defaults for what does not count with the choices as they are."""
    given = {name: data[name] for name in data}  # of a QueryDict the last value of each name
    usual = as_sent({})
    for name, conditions in COUNTS.items():
        choices = ((given.get(other, usual[other]), those) for other, those in conditions.items())
        if not all(choice in those for choice, those in choices):
            given[name] = usual[name]
    mine = option_name(given.get("strategy", ""), "")
    for strategy in strategies.names():
        for option in aggregation.options(strategy):
            name = option_name(strategy, option.name)
            if not name.startswith(mine):
                given[name] = "" if option.default is None else option.default
    return given


def option_name(strategy: str, option: str) -> str:
    """The name of a strategy's option in the form, where each strategy has its own."""
    return f"options.{strategy}.{option}"


@dataclass(frozen=True)
class ShownStep:
    """A step with its fields, as the page shows it; `hidden` are those in the picker's cards."""

    step: Step
    fields: list[Any]
    hidden: list[Any]

    @property
    def has_errors(self) -> bool:
        return any(field.errors for field in (*self.fields, *self.hidden))


@dataclass(frozen=True)
class Card:
    """A strategy to be picked, with the fields of its options."""

    strategy: strategies.Described
    chosen: bool
    fields: list[Any]


@dataclass(frozen=True)
class Drawer:
    """The strategies of one family."""

    family: strategies.Family
    cards: list[Card]

    @property
    def is_open(self) -> bool:
        return any(card.chosen for card in self.cards)


class RunForm(forms.Form):
    """A run to be created; what makes no sense is said at the field that is at fault."""

    def __init__(self, data: Any = None, **options: Any) -> None:
        initial = defaults() | (options.get("initial") or {})
        initial |= {name: one for name, one in SUGGESTED.items() if initial[name] is None}
        options["initial"] = initial
        super().__init__(None if data is None else _what_counts(data), label_suffix="", **options)
        self.fields["model"] = forms.ModelChoiceField(
            registry.models().prefetch_related(None),
            label="Model",
            to_field_name="slug",
            empty_label=None if registry.models().count() == 1 else "Choose one",
        )
        self.fields |= questions()
        for strategy in strategies.names():
            for option in aggregation.options(strategy):
                self.fields[option_name(strategy, option.name)] = _option_field(option)
        for name, conditions in COUNTS.items():
            told = (f"{other}={','.join(those)}" for other, those in conditions.items())
            self.fields[name].widget.attrs["data-when"] = " ".join(told)
        for name, other in FOLLOWS.items():
            self.fields[name].widget.attrs["data-follows"] = other
        self.run: Run | None = None

    def steps(self) -> Iterator[ShownStep]:
        """The steps, each with its fields; the strategies' options are in `drawers`."""
        options = [self[name] for name in self.fields if name.startswith("options.")]
        for step in STEPS:
            hidden = options if step.key == "strategy" else []
            yield ShownStep(step, [self[name] for name in step.names], hidden)

    def drawers(self) -> Iterator[Drawer]:
        """The strategies by family, each with its options."""
        chosen = self["strategy"].value()
        for family in strategies.families():
            cards = [
                Card(
                    strategy=one,
                    chosen=one.name == chosen,
                    fields=[self[option_name(one.name, option.name)] for option in one.options],
                )
                for one in family.strategies
            ]
            yield Drawer(family, cards)

    def wrong(self) -> list[tuple[str, str, str]]:
        """What is to be mended: the label, the sentence, and the id of where it is."""
        told = []
        for name, errors in self.errors.items():
            field = self[name] if name in self.fields else None
            place = (str(field.label), field.id_for_label or field.auto_id) if field else ("", "")
            told.append((place[0], " ".join(map(str, errors)), place[1]))
        return told

    def clean(self) -> dict[str, Any]:
        given = super().clean() or {}
        if not self.errors:
            self.run = Run(model=given["model"], **self.settings())
            self.run.name = self.run.name or f"{self.run.model.slug} with {self.run.strategy}"
            try:
                rules.check(self.run)
            except RulesInvalid as error:
                self.refuse(error.field, error.detail)
        return given

    def refuse(self, field: str | None, detail: str) -> None:
        """Say what is wrong, at the field that is at fault if the form has it."""
        chosen = self.cleaned_data.get("strategy", "")
        detail = in_its_words(detail, chosen)
        if field and field.startswith("strategy_options."):
            option = field.removeprefix("strategy_options.")
            field = option_name(chosen, option)
            label = f"Expected “{strategies.label_of(option)}” "
            detail = re.sub(rf"^Expected {re.escape(option)} ", label, detail)
        self.add_error(field if field in self.fields else None, detail)

    def settings(self) -> dict[str, Any]:
        """The fields of `Run` that were given, complete."""
        given = self.cleaned_data
        settings = {name: given[name] for name in defaults() if "." not in name}
        settings["hyperparameters"] = _below("hyperparameters.", given)
        options = _below(option_name(given["strategy"], ""), given)
        settings["strategy_options"] = {k: v for k, v in options.items() if v not in (None, "")}
        return settings

    def request(self) -> dict[str, Any]:
        """The same as the body of `POST /api/v1/runs`: the model, and what is no default."""
        usual, settings = defaults(), self.settings()
        asked = settings.pop("hyperparameters")
        options = settings.pop("strategy_options")
        body = {name: value for name, value in settings.items() if value != usual[name]}
        asked = {k: v for k, v in asked.items() if v != usual[f"hyperparameters.{k}"]}
        declared = {one.name: one.default for one in aggregation.options(settings["strategy"])}
        options = {k: v for k, v in options.items() if v != declared[k]}
        nested = {"strategy_options": options, "hyperparameters": asked}
        body |= {name: value for name, value in nested.items() if value}
        return {"model": self.cleaned_data["model"].slug} | body


def _below(prefix: str, given: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name.removeprefix(prefix): value for name, value in given.items() if name.startswith(prefix)
    }


def _option_field(option: aggregation.Option) -> forms.Field:
    """A field for an option that a strategy declares, by the kind of its default."""
    common: dict[str, Any] = {
        "label": strategies.label_of(option.name),
        "help_text": option.about,
        "initial": option.default,
        "required": False,
    }
    if option.kind is bool:
        return forms.BooleanField(**common)
    if option.kind in (int, float):
        return _number(option.kind is int, least=option.least, **common)
    return forms.CharField(**common)
