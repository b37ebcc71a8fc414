"""`manage.py join_code --model digits --uses 5`: a code to enrol with, printed once."""

from argparse import ArgumentParser
from datetime import timedelta
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from models_app import selectors as registry
from models_app.errors import FedserverError
from rounds import clock, enrolment
from rounds.models import JoinCode

ACTOR = "command line"


class Command(BaseCommand):
    help = "Make a join code; print it, once, with the command that uses it."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--model", default="", help="slug of the one model to train (any)")
        parser.add_argument(
            "--uses", type=int, default=1, help="how many participants it admits (%(default)s)"
        )
        parser.add_argument(
            "--days", type=float, default=7, help="how long it is valid (%(default)s)"
        )
        parser.add_argument("--label", default="", help="for whom it is")
        parser.add_argument(
            "--url",
            default="http://127.0.0.1:8000",
            help="address at which participants reach this server, for the printed command"
            " (%(default)s)",
        )

    def handle(self, **options: Any) -> None:
        try:
            made, secret = self._make(options)
        except FedserverError as error:
            raise CommandError(error.detail) from error
        except OverflowError as error:
            raise CommandError(f"Expected fewer days. Received: {options['days']}") from error
        many = "1 participant" if made.max_uses == 1 else f"{made.max_uses} participants"
        self.stdout.write(secret)
        self.stdout.write(f"It admits {many} until {made.expires_at:%Y-%m-%d %H:%M} UTC:")
        self.stdout.write(f"fedclient join {options['url']} {secret}")

    @staticmethod
    def _make(options: dict[str, Any]) -> tuple[JoinCode, str]:
        return enrolment.make_join_code(
            label=options["label"],
            model=registry.model(options["model"]) if options["model"] else None,
            max_uses=options["uses"],
            expires_at=clock.now() + timedelta(days=options["days"]),
            actor=ACTOR,
        )
