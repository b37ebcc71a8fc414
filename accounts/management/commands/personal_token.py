"""`manage.py personal_token USERNAME`: a bearer token for scripts, printed once."""

from datetime import timedelta
from typing import Any

from django.contrib.auth import get_user_model
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone

from accounts.tokens import make_token


class Command(BaseCommand):
    help = "Make a personal API token for a user and print it, once."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("username")
        parser.add_argument("--label", default="command line", help="what will use it")
        parser.add_argument("--days", type=int, help="how long it is valid (default: for ever)")

    def handle(self, *args: Any, **options: Any) -> None:
        users = get_user_model().objects
        user = users.filter(username=options["username"]).first()
        if user is None:
            raise CommandError(f"Expected an existing user. Received: {options['username']}")
        days = options["days"]
        expires_at = timezone.now() + timedelta(days=days) if days else None
        _, secret = make_token(
            user, label=options["label"], expires_at=expires_at, actor="command line"
        )
        self.stdout.write(secret)
