"""`manage.py create_model`"""

from collections.abc import Callable
from io import StringIO
from pathlib import Path

import pytest
from django.contrib.auth.models import User
from django.core.management import CommandError, call_command

from models_app import registry
from models_app.models import Model

pytestmark = pytest.mark.django_db


@pytest.mark.alike
def test_alice_registers_a_model_from_its_parts(
    parts: dict[str, Path], tmp_path: Path, user: Callable[[str, str], User]
) -> None:
    user("alice", "owner")
    labels = tmp_path / "labels.txt"
    labels.write_text("odd\neven\n")
    out = StringIO()
    files = [text for name, path in parts.items() for text in (f"--{name}", str(path))]
    options = ["--input-scale", "1/4", "--local", "head", "--name", "Digits", "--owner", "alice"]
    call_command(
        "create_model", "digits", *files, *options, "--labels-file", str(labels), stdout=out
    )
    model = Model.objects.get(slug="digits")
    assert (model.name, model.labels, model.created_by) == ("Digits", ["odd", "even"], "alice")
    assert model.input_spec["scale"] == 0.25
    assert [weight.role for weight in model.weights] == ["federated"] * 2 + ["local"] * 2
    assert registry.served(model.pk).metrics.keys() == {"loss", "accuracy"}
    assert "digits: version 1 is published. loss" in out.getvalue()


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["digits"], "Expected a .keras file, or Keras JSON.*Received: neither"),
        (["digits", "--labels-file", "nowhere.txt"], "Expected a file for --labels-file"),
        (["digits", "--input-scale", "1/0"], "Expected a number, or 1/255. Received: 1/0"),
        (["digits", "--file", "nowhere.keras"], "Expected a file for --file"),
        (["two words"], "Expected letters"),
        (["digits", "--owner", "nobody"], "Expected the name of a user"),
    ],
)
def test_what_cannot_be_is_said_in_a_sentence(arguments: list[str], reason: str) -> None:
    with pytest.raises(CommandError, match=reason):
        call_command("create_model", *arguments)


def test_a_taken_slug_is_said_before_files_are_opened(digits: Model) -> None:
    with pytest.raises(CommandError, match="Received: digits"):
        call_command("create_model", "digits")
