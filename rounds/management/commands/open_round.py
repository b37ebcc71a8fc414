"""`manage.py open_round digits --rounds 5 --watch`: a run, created and started."""

import json
import time
from argparse import ArgumentParser, ArgumentTypeError
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from models_app import selectors as registry
from models_app.errors import FedserverError
from rounds import aggregation, lifecycle, rules, selectors, tasks
from rounds.models import Round, Run

ACTOR = "command line"
ENDED = (Run.State.COMPLETED, Run.State.STOPPED, Run.State.FAILED)
EVERY = 0.5  # seconds between two looks at the rounds

# What an option is called where it is not called like the rule.
RULES = {
    "rounds": "rounds_planned",
    "min": "cohort_min",
    "goal": "cohort_goal",
    "seconds_to_select": "selecting_seconds",
    "seconds_to_train": "training_seconds",
}


class Command(BaseCommand):
    help = "Open a round of a model (or several): create a run and start it."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("model", help="slug of the model to train")
        parser.add_argument("--name", help="of the run, for people")
        parser.add_argument("--rounds", type=int, default=1, help="how many (%(default)s)")
        parser.add_argument("--seed", type=int)
        parser.add_argument("--strategy", choices=aggregation.names())
        parser.add_argument(
            "--set",
            action="append",
            type=option,
            default=[],
            metavar="NAME=VALUE",
            help="an option of the strategy, e.g. server_learning_rate=0.1",
        )
        parser.add_argument("--watch", action="store_true", help="wait, and tell of each round")
        self._add_training(parser)
        self._add_cohort(parser)
        self._add_end(parser)

    @staticmethod
    def _add_training(parser: ArgumentParser) -> None:
        group = parser.add_argument_group("how participants train")
        group.add_argument("--epochs", type=int)
        group.add_argument("--batch-size", type=int)
        group.add_argument("--learning-rate", type=float)
        group.add_argument("--optimizer", choices=rules.OPTIMIZERS)
        group.add_argument("--momentum", type=float)
        group.add_argument("--max-steps", type=int)

    @staticmethod
    def _add_cohort(parser: ArgumentParser) -> None:
        group = parser.add_argument_group("who takes part")
        group.add_argument("--selection", choices=Run.Selection.values)
        group.add_argument("--fraction", type=float, help="of those who check in, for random")
        group.add_argument("--over-selection", type=float, help="invite so many times the goal")
        group.add_argument("--min", type=int, help="fewest to train with")
        group.add_argument("--goal", type=int, help="how many to wait for")
        group.add_argument("--target", type=int, help="updates that end the training")
        group.add_argument("--quorum", type=int, help="fewest updates to publish with (--min)")
        group.add_argument("--seconds-to-select", type=int)
        group.add_argument("--seconds-to-train", type=int)
        group.add_argument("--concurrency", type=int, help="asynchronous: so many at a time")
        group.add_argument("--buffer-size", type=int, help="asynchronous: updates of a version")

    @staticmethod
    def _add_end(parser: ArgumentParser) -> None:
        group = parser.add_argument_group("when it ends")
        group.add_argument("--until-metric", help="end once this")
        group.add_argument("--until-value", type=float, help="reaches this")
        group.add_argument("--best-metric", help="by what versions are compared")
        group.add_argument("--patience", type=int, help="end after so many rounds no better")
        group.add_argument("--patience-delta", type=float, help="better by less is no better")
        group.add_argument("--keep-best", action="store_true", default=None, help="serve the best")
        group.add_argument("--evaluators", type=int, help="participants that measure candidates")
        group.add_argument("--evaluators-min", type=int, help="of fewer nothing is used")

    def handle(self, **options: Any) -> None:
        try:
            run = lifecycle.create_run(
                registry.model(options["model"]), actor=ACTOR, **rules_of(options)
            )
            opened = lifecycle.start_run(run.pk, actor=ACTOR)
        except FedserverError as error:
            raise CommandError(_sentence(error)) from error
        tasks.ring(opened.pk)
        self.stdout.write(f"run {run.pk}: {run} has opened round {opened.number}")
        if options["watch"]:
            self._watch(run)

    def _watch(self, run: Run) -> None:
        told = 0
        while True:
            run.refresh_from_db()
            ended = run.state in ENDED  # asked first: a round that ends meanwhile is told next
            told = self._tell(run, told)
            if ended:
                break
            time.sleep(EVERY)
        if run.state != Run.State.COMPLETED:
            raise CommandError(f"The run is {run.state}: {run.reason or 'no reason was given'}")
        self.stdout.write(f"run {run.pk} is completed")

    def _tell(self, run: Run, told: int) -> int:
        """Print the rounds that have ended since; the number of the last one told."""
        found = selectors.rounds().filter(run=run, number__gt=told).exclude(phase__in=Round.ACTIVE)
        for one in found.order_by("number"):
            self.stdout.write(shown(selectors.round_line(one), one.reason))
            told = one.number
        return told


def rules_of(options: dict[str, Any]) -> dict[str, Any]:
    """The fields of a run, and its hyper-parameters, that the options name."""
    given = {RULES.get(name, name): value for name, value in options.items() if value is not None}
    settings = {name: given[name] for name in rules.FIELDS if name in given}
    settings.setdefault("quorum", given.get("cohort_min", Run._meta.get_field("quorum").default))
    hyperparameters = {name: given[name] for name in rules.HYPERPARAMETERS if name in given}
    strategy = settings.get("strategy", Run._meta.get_field("strategy").default)
    if aggregation.strategy(strategy).asynchronous:
        settings["kind"] = Run.Kind.ASYNCHRONOUS
    nested = {"hyperparameters": hyperparameters, "strategy_options": dict(options["set"])}
    return settings | nested


def option(text: str) -> tuple[str, Any]:
    """A name and its value, which is a number or a word: "tau=0.001"."""
    name, found, value = text.partition("=")
    if not (name and found):
        raise ArgumentTypeError(f"Expected NAME=VALUE. Received: {text}")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def shown(line: dict[str, Any], reason: str) -> str:
    """A round's line of `selectors.run_report` as a sentence."""
    words = [f"round {line['number']}", line["state"]]
    if line["version"] is not None:
        words.append(f"version {line['version']}")
    words.append(f"{line['accepted']} update{'' if line['accepted'] == 1 else 's'}")
    words += [f"{name} {line[name]:.4f}" for name in ("accuracy", "loss") if line[name] is not None]
    if line["seconds"] is not None:
        words.append(f"{line['seconds']:.1f} s")
    return "  ".join([*words, reason] if reason else words)


def _sentence(error: FedserverError) -> str:
    """The error's sentence, after the option that is at fault."""
    if not error.field:
        return error.detail
    rule = error.field.removeprefix("hyperparameters.")
    rule = rule.replace("strategy_options.", "set ")
    option = next((option for option, name in RULES.items() if name == rule), rule)
    return f"--{option.replace('_', '-')}: {error.detail}"
