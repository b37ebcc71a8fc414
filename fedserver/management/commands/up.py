"""`manage.py up`: the whole server on this machine, until Ctrl-C."""

from argparse import ArgumentParser
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from django.db import DatabaseError

from fedserver import stack
from fedserver.supervisor import ProgramFailed, Supervisor
from fedserver.valkey import BrokerMissing


class Command(BaseCommand):
    help = "Serve: web, workers, beat and (unless REDIS_URL names a broker) an embedded Valkey."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--host", default="127.0.0.1", help="address to listen on (%(default)s)"
        )
        parser.add_argument("--port", type=int, default=8000, help="0: a free one (%(default)s)")
        parser.add_argument("--web", type=int, default=1, help="web processes (%(default)s)")
        parser.add_argument(
            "--workers", type=int, default=2, help="processes that fold updates (%(default)s)"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            with stack.lock(settings.FEDSERVER_HOME / "up.lock"):
                self._serve(options)
        except (stack.HomeInUse, BrokerMissing, ProgramFailed, OSError, DatabaseError) as error:
            raise CommandError(str(error)) from error

    def _serve(self, options: dict[str, Any]) -> None:
        door = self._door(options["host"], options["port"])
        stack.prepare()
        programs = stack.programs(door, web=options["web"], workers=options["workers"])
        logs = settings.FEDSERVER_HOME / "logs"
        loud = options["verbosity"] > 1
        say = self.stdout.write if options["verbosity"] else _nothing
        echo = self.stdout if loud else None
        with Supervisor(programs, logs=logs, say=say, warn=self.stderr.write, echo=echo) as house:
            house.start()
            if not house.stopping:
                self.stdout.write(f"fedserver serves at {door.url} (Ctrl-C ends it)")
                self.stdout.write(f"Logs: {logs}   Data: {settings.FEDSERVER_HOME}")
            house.run()
            say("ending …")

    def _door(self, host: str, port: int) -> stack.Door:
        try:
            return stack.Door.open(host, port)
        except (OSError, OverflowError) as error:
            raise CommandError(
                f"Expected a free address of this machine (--port 0 takes a free port)."
                f" Received: {host}:{port}, {error}"
            ) from error


def _nothing(sentence: str) -> None:
    """Says it to nobody."""
