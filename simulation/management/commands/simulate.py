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
from simulation.attacks import ATTACKS
from simulation.plan import MODELS, Plan

LOCK, BROKER = "FEDSERVER_SIMULATION_LOCK", "FEDSERVER_SIMULATION_BROKER"


class Command(BaseCommand):
    help = "Simulate a federation: hundreds of virtual participants on this machine."
    requires_system_checks = ()

    def add_arguments(self, parser: ArgumentParser) -> None:
        new = Plan()
        add = parser.add_argument
        add("--dataset", default=new.dataset, help="digits, mnist, cifar10 or a .npz file")
        add("--data", type=Path, metavar="FOLDER", help="where mnist and cifar10 lie")
        add("--partition", default=new.partition, help="iid, shards:K or dirichlet:ALPHA")
        add("--participants", type=int, default=new.participants, metavar="N")
        add("--fraction", type=float, default=new.fraction, help="of them, in each round")
        add("--epochs", type=int, default=new.epochs, metavar="E")
        add("--batch", type=int, default=new.batch, metavar="B", help="examples in a step")
        add("--learning-rate", type=float, default=new.learning_rate, metavar="RATE")
        add("--optimizer", default=new.optimizer)
        add("--momentum", type=float, default=new.momentum)
        add("--model", default=new.model, help=f"{', '.join(MODELS)} or a .keras file")
        add("--rounds", type=int, default=new.rounds, metavar="N", help="at most")
        add("--strategy", default=new.strategy, help="how updates become a version")
        add("--set", type=_option, action="append", default=[], metavar="KEY=VALUE", dest="options")
        attack_help = f"{', '.join(ATTACKS)}, by a share of the participants"
        none = ("", 0.0, None)
        add("--attack", type=_attack, default=none, metavar="NAME:SHARE[:S]", help=attack_help)
        add("--dropout", type=float, default=new.dropout, help="share that vanish in a round")
        add("--stragglers", type=_stragglers, default=0.0, metavar="lognormal:SIGMA")
        add("--step-seconds", type=float, default=new.step_seconds, help="virtual, at the median")
        add("--deadline", type=float, metavar="SECONDS", help="virtual, of a round")
        add("--quorum", type=int, default=new.quorum, metavar="N", help="fewest for a version")
        add("--over-selection", type=float, default=new.over_selection, metavar="TIMES")
        add("--concurrency", type=int, default=0, help="asynchronous: how many train at a time")
        add("--buffer", type=int, default=0, help="asynchronous: updates that make a version")
        add("--until", type=_until, metavar="METRIC=VALUE", help="end when this is reached")
        add("--quarantine", type=float, default=new.quarantine, metavar="TIMES")
        add("--gate", type=float, metavar="TOLERANCE", help="refuse versions that are worse")
        add("--evaluators", type=int, default=0, help="participants that evaluate each version")
        add("--held-out", type=float, metavar="SHARE", help="of its data that each keeps for that")
        add("--seed", type=int, default=new.seed, help="decides whatever is drawn")
        add("--workers", type=int, default=1, metavar="N", help="processes that train")
        add("--celery", action="store_true", help="let the stack's Celery workers train")
        add("--home", type=Path, metavar="FOLDER", help="where it goes on after a kill")
        add("--json", type=_target, metavar="FILE", help="write the results there")
        add("--plot", type=_target, metavar="FILE.png", help="draw the curve there")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            plan = _plan(options)
            if LOCK not in os.environ:
                _begin_anew(options["home"] or _usual_home(plan))
            self._simulate(plan, options)
        except (OSError, ValueError, FedserverError) as error:
            raise CommandError(str(error)) from error
        except KeyboardInterrupt:
            raise CommandError("stopped; the same command goes on", returncode=130) from None

    def _simulate(self, plan: Plan, options: dict[str, Any]) -> None:
        from simulation.engine import SimulationFailed
        from simulation.simulate import simulate

        signal.signal(signal.SIGTERM, signal.default_int_handler)  # it ends as by Ctrl-C
        home = Path(settings.FEDSERVER_HOME)
        _expect_the_same(plan, home)
        call_command("migrate", interactive=False, verbosity=0)
        try:
            simulate(
                plan,
                home,
                data=options["data"],
                hands=_hands(options),
                json_file=options["json"],
                picture=options["plot"],
            )
        except SimulationFailed as error:
            raise CommandError(str(error)) from error


def _plan(options: dict[str, Any]) -> Plan:
    given = {field: options[field] for field in Plan.__annotations__ if field in options}
    name, share, strength = options["attack"]
    given |= {"attack": name, "attackers": share, "strength": strength}
    if options["held_out"] is None:
        given["held_out"] = 0.2 if options["evaluators"] else 0.0
    return Plan(**given | {"options": dict(options["options"])})


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


def _begin_anew(home: Path) -> None:
    """Becomes the same command in the simulation's own home, whose lock it keeps.

    The settings have been read by now and name the server's home, so that only a new start helps.
    """
    home = home.resolve()
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    lock = _locked(home)
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
    draft = file.with_suffix(".new")
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


def _target(text: str) -> Path:
    """A file that can be written: to learn it after the training would lose the results."""
    path = Path(text)
    writable = os.access(path if path.exists() else path.parent, os.W_OK)
    if path.is_dir() or not path.parent.is_dir() or not writable:
        raise ArgumentTypeError(f"Expected a file that can be written. Received: {text}")
    return path
