"""`manage.py simulate`: a federation of virtual participants, in one process or several."""

import fcntl
import json
import os
import signal
import sys
from argparse import ArgumentParser, ArgumentTypeError
from functools import partial
from pathlib import Path
from typing import IO, Any

from celery import Celery
from django.conf import settings
from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError
from platformdirs import user_cache_path

from models_app.errors import FedserverError
from rounds import aggregation
from rounds.errors import RulesInvalid
from rounds.models import Run
from rounds.rules import OPTIMIZERS
from simulation import federation
from simulation.attacks import ATTACKS
from simulation.plan import MODELS, Plan

BEGUN = {"lock", "plan.new"}  # what is there of one that was killed before it knew its plan
LOCK, BROKER = "FEDSERVER_SIMULATION_LOCK", "FEDSERVER_SIMULATION_BROKER"


PICTURES = (".png", ".svg", ".pdf")


class Command(BaseCommand):
    help = "Simulate a federation: hundreds of virtual participants on this machine."
    requires_system_checks = ()

    def add_arguments(self, parser: ArgumentParser) -> None:
        new = Plan()
        parser.usage = "manage.py simulate [--OPTION VALUE]...  (--help tells them all)"

        def add(name: str, help: str, **told: Any) -> None:  # noqa: A002
            default = " (%(default)s)" if told.get("default") else ""
            parser.add_argument(name, help=help + default, **told)

        data = "digits, mnist, cifar10 or a .npz file with x_train, y_train, x_test and y_test"
        add("--dataset", data, default=new.dataset)
        add(
            "--data",
            "where mnist and cifar10 lie; else FEDSERVER_DATA",
            type=Path,
            metavar="FOLDER",
        )
        shared = "how examples are shared out: iid, shards:K or dirichlet:ALPHA"
        add("--partition", shared, default=new.partition)
        many = "virtual participants"
        add("--participants", many, type=int, default=new.participants, metavar="N")
        add("--fraction", "of them, in each round", type=float, default=new.fraction)
        add("--epochs", "over a participant's examples", type=int, default=new.epochs, metavar="E")
        add("--batch", "examples in a step", type=int, default=new.batch, metavar="B")
        rate = {"type": float, "default": new.learning_rate, "metavar": "RATE"}
        add("--learning-rate", "of the participants", **rate)
        add("--optimizer", ", ".join(OPTIMIZERS), default=new.optimizer)
        add("--momentum", "of sgd and rmsprop", type=float, default=new.momentum)
        add("--model", f"{', '.join(MODELS)} or a .keras file", default=new.model)
        add("--rounds", "at most", type=int, default=new.rounds, metavar="N")
        strategies = "how updates become a version: " + ", ".join(aggregation.names())
        add("--strategy", strategies, default=new.strategy)
        several = {"type": _option, "action": "append", "default": [], "dest": "options"}
        add("--set", "an option of the strategy; again for another", metavar="KEY=VALUE", **several)
        attack = f"{', '.join(ATTACKS)}, by a share of the participants, of a strength"
        none = ("", 0.0, None)
        parser.add_argument(
            "--attack", type=_attack, default=none, metavar="NAME:SHARE[:S]", help=attack
        )
        add("--dropout", "share that vanish in a round", type=float, default=new.dropout)
        slow = "how unequal their speeds are; 0.9: the slowest takes ten times the median"
        add("--stragglers", slow, type=_stragglers, default=0.0, metavar="lognormal:SIGMA")
        step = {"type": float, "default": new.step_seconds, "metavar": "SECONDS"}
        add("--step-seconds", "virtual, that a step takes at the median", **step)
        add("--deadline", "virtual, of a round", type=float, metavar="SECONDS")
        add("--quorum", "fewest updates for a version", type=int, default=new.quorum, metavar="N")
        more = {"type": float, "default": new.over_selection, "metavar": "TIMES"}
        add("--over-selection", "invite more than are waited for", **more)
        places = "asynchronous: how many train at a time"
        add("--concurrency", places, type=int, default=0, metavar="N")
        add(
            "--buffer",
            "asynchronous: updates that make a version",
            type=int,
            default=0,
            metavar="N",
        )
        add("--until", "end when this is reached", type=_until, metavar="METRIC=VALUE")
        far = "set aside updates whose norm is above so many times the median"
        add("--quarantine", far, type=float, default=new.quarantine, metavar="TIMES")
        worse = "refuse versions whose accuracy is worse than their base's by more"
        add("--gate", worse, type=float, metavar="TOLERANCE")
        judges = "participants that evaluate each version"
        add("--evaluators", judges, type=int, default=0, metavar="N")
        kept = "of its examples that each keeps for that; 0.2 with evaluators"
        add("--held-out", kept, type=float, metavar="SHARE")
        add("--seed", "decides whatever is drawn", type=int, default=new.seed)
        add("--workers", "processes that train", type=int, default=1, metavar="N")
        add("--celery", "let the stack's Celery workers train", action="store_true")
        add("--home", "where it goes on after a kill", type=Path, metavar="FOLDER")
        add("--json", "write the results there", type=_target, metavar="FILE")
        add("--plot", "draw the curve there", type=_picture, metavar="FILE.png")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            plan = _plan(options)
            if LOCK not in os.environ:
                federation.check(plan)
                _begin_anew(options["home"] or _usual_home(plan), plan)
            self._simulate(plan, options)
        except RulesInvalid as error:
            raise CommandError(_as_option(error)) from error
        except (OSError, ValueError, FedserverError) as error:
            raise CommandError(str(error)) from error
        except KeyboardInterrupt:
            raise CommandError("stopped; the same command goes on", returncode=130) from None

    def _simulate(self, plan: Plan, options: dict[str, Any]) -> None:
        from simulation.engine import SimulationFailed
        from simulation.simulate import simulate

        signal.signal(signal.SIGTERM, signal.default_int_handler)  # it ends as by Ctrl-C
        call_command("migrate", interactive=False, verbosity=0)
        try:
            found = simulate(
                plan,
                Path(settings.FEDSERVER_HOME),
                data=options["data"],
                hands=_hands(options),
                json_file=options["json"],
                picture=options["plot"],
            )
        except SimulationFailed as error:
            raise CommandError(str(error)) from error
        if found["state"] == Run.State.FAILED:
            raise CommandError(found["reason"])


def _plan(options: dict[str, Any]) -> Plan:
    given = {field: options[field] for field in Plan.__annotations__ if field in options}
    name, share, strength = options["attack"]
    given |= {"attack": name, "attackers": share, "strength": strength}
    if options["held_out"] is None:
        given["held_out"] = 0.2 if options["evaluators"] else 0.0
    plan = Plan(**given | {"options": dict(options["options"])})
    if plan.model not in MODELS and not Path(plan.model).is_file():
        raise CommandError(f"--model: Expected a file that is there. Received: {plan.model!r}")
    if options["workers"] < 1 or (options["celery"] and options["workers"] > 1):
        expected = "none with --celery, whose workers train" if options["celery"] else "at least 1"
        raise CommandError(f"--workers: Expected {expected}. Received: {options['workers']}")
    return plan


# Fields of a run whose options here have other names.
OPTIONS = {
    "batch_size": "batch",
    "buffer_size": "buffer",
    "gate_tolerance": "gate",
    "quarantine_factor": "quarantine",
    "rounds_planned": "rounds",
    "until_metric": "until",
    "until_value": "until",
}


def _as_option(error: RulesInvalid) -> str:
    """What is said of a field of the run, of the option that it came from."""
    room, _, name = (error.field or "").rpartition(".")
    if name == "kind":
        return f"{error.detail}; --concurrency and --buffer make a simulation asynchronous"
    if room == "strategy_options":
        return f"--set {name}: {error.detail}"
    return f"--{OPTIONS.get(name, name).replace('_', '-')}: {error.detail}"


def _hands(options: dict[str, Any]) -> Any:
    from simulation import errands, training

    if not options["celery"]:
        return partial(training.pool, workers=options["workers"])
    app = Celery("simulation", broker=os.environ[BROKER])
    app.config_from_object("django.conf:settings", namespace="CELERY")
    app.conf.broker_url = os.environ[BROKER]
    return partial(errands.CeleryPool, app=app)


def _usual_home(plan: Plan) -> Path:
    return user_cache_path("fedserver") / "simulations" / plan.digest[:16]


def _begin_anew(home: Path, plan: Plan) -> None:
    """Becomes the same command in the simulation's own home, whose lock it keeps.

    The settings have been read by now and name the server's home, so that only a new start helps.
    """
    home = home.resolve()
    try:
        home.mkdir(parents=True, exist_ok=True, mode=0o700)
        there = {one.name for one in home.iterdir()}
    except OSError as error:
        why = error.strerror
        raise CommandError(
            f"--home: Expected a folder to write in. Received: {home} ({why})"
        ) from None
    if "plan.json" not in there and (others := sorted(there - BEGUN)):
        raise CommandError(
            "--home: Expected an empty folder, or one that a simulation was begun in. "
            f"Received: {home}, which has {others[0]}"
        )
    lock = _locked(home)
    _expect_the_same(plan, home)
    os.set_inheritable(lock.fileno(), True)
    environment = os.environ | {
        "DATABASE_URL": f"sqlite:///{home / 'db.sqlite3'}",
        "FEDSERVER_DURABLE": "0",
        "FEDSERVER_HOME": str(home),
        "REDIS_URL": "",  # nobody is told of it live
        "BLOBS_URL": "",
        "TF_CPP_MIN_LOG_LEVEL": "2",
        BROKER: settings.CELERY_BROKER_URL,  # the stack's, for its workers
        LOCK: str(lock.fileno()),
    }
    from simulation.training import ONE_THREAD

    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment | ONE_THREAD)  # noqa: S606


def _locked(home: Path) -> IO[str]:
    lock = (home / "lock").open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise CommandError(
            f"Expected a home that no other simulation uses. Received: {home}"
        ) from None
    return lock


def _expect_the_same(plan: Plan, home: Path) -> None:
    """A home belongs to one plan: it is written down when it is first used."""
    file = home / "plan.json"
    if file.exists():
        before = Plan().as_json() | json.loads(file.read_text())
        now = plan.as_json()
        if changed := [name for name in now if now[name] != before[name]]:
            raise CommandError(
                f"Expected the settings that {home} was begun with. "
                f"Received: other {', '.join(changed)}"
            )
        return
    draft = home / "plan.new"
    draft.write_text(json.dumps(plan.as_json(), indent=2) + "\n")
    draft.replace(file)


def _option(text: str) -> tuple[str, Any]:
    name, sign, value = text.partition("=")
    if not name or not sign:
        raise ArgumentTypeError(f"Expected KEY=VALUE. Received: {text}")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def _attack(text: str) -> tuple[str, float, float | None]:
    name, *numbers = text.split(":")
    try:
        share, *strength = map(float, numbers)
        if len(strength) <= 1:
            return name, share, strength[0] if strength else None
    except ValueError:
        pass
    raise ArgumentTypeError(f"Expected NAME:SHARE, or NAME:SHARE:STRENGTH. Received: {text}")


def _stragglers(text: str) -> float:
    kind, _, sigma = text.partition(":")
    try:
        if kind == "lognormal":
            return float(sigma)
    except ValueError:
        pass
    raise ArgumentTypeError(f"Expected lognormal:SIGMA. Received: {text}")


def _until(text: str) -> tuple[str, float]:
    name, _, value = text.partition("=")
    try:
        return name, float(value)
    except ValueError:
        raise ArgumentTypeError(f"Expected METRIC=VALUE. Received: {text}") from None


def _picture(text: str) -> Path:
    """A file that a picture can be written to, by its ending."""
    if (path := Path(text)).suffix.lower() not in PICTURES:
        endings = ", ".join(PICTURES)
        raise ArgumentTypeError(f"Expected a file that ends in {endings}. Received: {text}")
    return _target(str(path))


def _target(text: str) -> Path:
    """A file that can be written: to learn it after the training would lose the results."""
    path = Path(text)
    writable = os.access(path if path.exists() else path.parent, os.W_OK)
    if path.is_dir() or not path.parent.is_dir() or not writable:
        raise ArgumentTypeError(f"Expected a file that can be written. Received: {text}")
    return path
