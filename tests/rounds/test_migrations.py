"""What an older server has written is read by this one."""

from collections.abc import Iterator
from typing import Any

import pytest
from django.db import connection
from django.db.migrations.executor import MigrationExecutor

from rounds.models import Assignment

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.timeout(120)]

BEFORE = ("rounds", "0003_asynchronous_runs_and_stopping_rules")


def migrate(*targets: tuple[str, str]) -> Any:
    """The database as it was after these migrations: its apps."""
    executor = MigrationExecutor(connection)
    executor.migrate(list(targets))
    return MigrationExecutor(connection).loader.project_state(list(targets)).apps


@pytest.fixture
def now() -> Iterator[tuple[str, str]]:
    """The newest migration; the database is brought to it again, whatever happens."""
    (newest,) = MigrationExecutor(connection).loader.graph.leaf_nodes("rounds")
    yield newest
    migrate(newest)


def test_an_assignment_of_an_older_server_trains_from_its_rounds_base(now: tuple[str, str]) -> None:
    old = migrate(BEFORE)
    documents: dict[str, Any] = {"architecture": {}, "input_spec": {}, "objective": {}}
    models = old.get_model("models_app", "Model").objects
    model = models.create(slug="tiny", weights_manifest=[], **documents)
    versions = old.get_model("models_app", "ModelVersion").objects
    first, second = (
        versions.create(model=model, number=number, weights=f"{number}" * 64, weights_bytes=36)
        for number in (1, 2)
    )
    run = old.get_model("rounds", "Run").objects.create(model=model, quorum=1)
    charlie = old.get_model("rounds", "Participant").objects.create(name="charlie")
    rounds = old.get_model("rounds", "Round").objects
    made = [
        rounds.create(run=run, number=number, base=base, quorum=1, phase="published")
        for number, base in ((1, first), (2, second))
    ]
    for one in made:
        old.get_model("rounds", "Assignment").objects.create(round=one, participant=charlie)
    migrate(now)
    found = Assignment.objects.order_by("round__number")
    assert [one.base_id for one in found] == [first.pk, second.pk]
    assert [one.invited_in_id for one in found] == [one.pk for one in made]
    assert [one.staleness for one in found] == [0, 0]
