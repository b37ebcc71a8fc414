"""`manage.py create_model digits --file digits.keras --evaluation held_out.npz`"""

from argparse import ArgumentParser, ArgumentTypeError
from fractions import Fraction
from pathlib import Path
from typing import Any

from django.contrib.auth import get_user_model
from django.core.management.base import BaseCommand, CommandError

from models_app import packages, registry
from models_app.errors import FedserverError
from models_app.models import Model


class Command(BaseCommand):
    help = "Register a Keras model; its weights become version 1 and are published."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("slug", help="its name in addresses")
        self._add_files(parser)
        self._add_description(parser)
        roles = parser.add_argument_group(
            "roles of weights", "patterns (* ? []) of layer names, through nested models with dots"
        )
        for role, what in (("local", "stay with each participant"), ("frozen", "never change")):
            roles.add_argument(
                f"--{role}", action="append", default=[], metavar="PATTERN", help=f"these {what}"
            )

    @staticmethod
    def _add_files(parser: ArgumentParser) -> None:
        files = parser.add_argument_group("files")
        files.add_argument("--file", type=Path, help="a .keras file")
        files.add_argument("--architecture", type=Path, help="Keras JSON, with --weights")
        files.add_argument("--weights", type=Path, help="safetensors, with --architecture")
        files.add_argument("--evaluation", type=Path, help=".npz with held-out x and y")

    @staticmethod
    def _add_description(parser: ArgumentParser) -> None:
        parser.add_argument("--name", default="", help="its name for people")
        parser.add_argument("--description", default="", help="what it is for")
        labels = parser.add_mutually_exclusive_group()
        labels.add_argument("--labels", default="", help="names of the classes: cat,dog")
        labels.add_argument("--labels-file", type=Path, help="names of the classes, one a line")
        parser.add_argument(
            "--input-scale",
            type=_ratio,
            default=1.0,
            help="raw value to input: 1/255 for images of bytes (1)",
        )
        parser.add_argument(
            "--input-offset", type=_ratio, default=0.0, help="added after scaling (0)"
        )
        parser.add_argument("--loss", default="", help="if the file does not tell")
        parser.add_argument("--owner", default="", help="user name of who creates it")

    def handle(self, **options: Any) -> None:
        self._expect_readable(options)
        try:
            model = self._create(options)
        except FedserverError as error:
            raise CommandError(error.detail) from error
        first = registry.served(model.pk)
        self.stdout.write(f"{model.slug}: version 1 is published. {_shown(first.metrics)}".strip())

    def _create(self, options: dict[str, Any]) -> Model:
        registry.check_slug(options["slug"])
        with packages.open_package(
            package=options["file"],
            architecture=options["architecture"],
            weights=options["weights"],
            evaluation=options["evaluation"],
            loss=options["loss"],
            scale=options["input_scale"],
            offset=options["input_offset"],
        ) as package:
            return registry.create_model(
                options["slug"],
                package,
                name=options["name"],
                description=options["description"],
                labels=_labels(options),
                local=options["local"],
                frozen=options["frozen"],
                actor=options["owner"],
            )

    @staticmethod
    def _expect_readable(options: dict[str, Any]) -> None:
        for name in ("file", "architecture", "weights", "evaluation", "labels_file"):
            if options[name] and not options[name].is_file():
                option = name.replace("_", "-")
                raise CommandError(f"Expected a file for --{option}. Received: {options[name]}")
        owner = options["owner"]
        if owner and not get_user_model().objects.filter(username=owner).exists():
            raise CommandError(f"Expected the name of a user. Received: {owner}")


def _ratio(text: str) -> float:
    """A number as people write it: 0.5, 1e-3 or 1/255."""
    try:
        return float(Fraction(text))
    except (ValueError, ZeroDivisionError, OverflowError):
        raise ArgumentTypeError(f"Expected a number, or 1/255. Received: {text}") from None


def _labels(options: dict[str, Any]) -> list[str]:
    if options["labels_file"]:
        lines = options["labels_file"].read_text().splitlines()
        return [line.strip() for line in lines if line.strip()]
    return [label.strip() for label in options["labels"].split(",") if label.strip()]


def _shown(metrics: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in metrics.items())
