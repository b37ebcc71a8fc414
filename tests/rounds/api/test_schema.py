"""The OpenAPI schema: valid, without a warning, and true of what is served."""

from collections.abc import Iterator
from io import StringIO
from typing import Any

import hypothesis
import pytest
import schemathesis
from django.contrib.auth.models import User
from django.core.management import call_command
from django.core.signals import request_finished, request_started
from django.core.wsgi import get_wsgi_application
from django.db import close_old_connections, transaction
from drf_spectacular.generators import SchemaGenerator
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from accounts.models import PersonalToken
from rounds.api.schema import DOORS
from tests.rounds.api.conftest import Scene

pytestmark = [pytest.mark.django_db, pytest.mark.alike]

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]


def test_the_schema_is_valid_and_without_a_warning() -> None:
    call_command("spectacular", "--validate", "--fail-on-warn", stdout=StringIO())


def test_every_operation_says_in_a_line_what_it_does() -> None:
    paths = SchemaGenerator().get_schema(public=True)["paths"]
    silent = [
        f"{method} {path}"
        for path, methods in paths.items()
        for method, operation in methods.items()
        if not operation.get("summary") or len(operation["summary"]) > 90
    ]
    assert silent == []


@pytest.fixture
def app() -> Iterator[Any]:
    """Django as a WSGI application that leaves the test's transaction open."""
    signals = (request_started, request_finished)
    for signal in signals:
        signal.disconnect(close_old_connections)
    yield get_wsgi_application()
    for signal in signals:
        signal.connect(close_old_connections)


@pytest.fixture
def schema(app: Any) -> Any:
    """The schema, without the doors that stand in front of Django and the registry's uploads."""
    document: dict[str, Any] = SchemaGenerator().get_schema(public=True)
    elsewhere = ("/api/v1/models", *DOORS)
    document["paths"] = {
        path: methods
        for path, methods in document["paths"].items()
        if not path.startswith(elsewhere)
    }
    schema = schemathesis.openapi.from_dict(document)
    schema.app = app
    schema.config.generation.update(modes=list(schemathesis.GenerationMode))
    return schema


def test_whatever_is_asked_the_api_answers_as_its_schema_says(
    schema: Any, scene: Scene, alice: User
) -> None:
    _, secret = PersonalToken.objects.issue(alice, "test")
    for result in schema.get_all_operations():
        operation = result.ok()
        participants = {"participantToken": []} in operation.definition.raw["security"]
        token = scene.charlie.token if participants else secret
        ask_anything(operation, {"Authorization": f"Bearer {token}"})


def ask_anything(operation: Any, headers: dict[str, str]) -> None:
    """Knock with a few bodies and parameters, right ones and wrong ones."""

    @hypothesis.given(case=operation.as_strategy())
    @hypothesis.settings(
        max_examples=10,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    def ask(case: Any) -> None:
        with transaction.atomic():
            case.call_and_validate(headers=headers, checks=CHECKS)
            transaction.set_rollback(True)

    ask()
