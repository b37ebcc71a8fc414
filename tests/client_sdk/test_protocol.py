"""What the server says, as the client reads it."""

from typing import Any

import pytest
from django.core.validators import validate_slug

from client_sdk.errors import ServerDistrusted
from client_sdk.protocol import Assignment, Blob


def assignment_of(model: str = "digits", **more: Any) -> Assignment:
    blob = {"sha256": "ab" * 32, "bytes": 8}
    return Assignment.from_json(
        {
            "id": 1,
            "run": 1,
            "round": 1,
            "model": model,
            "architecture_digest": "cd" * 32,
            "version": {"number": 1, "weights": blob},
            "hyperparameters": {},
            "seed": 0,
            **more,
        }
    )


@pytest.mark.parametrize("slug", ["digits", "_digits", "-digits", "9"])
def test_every_slug_that_a_server_takes_is_one_to_its_clients(slug: str) -> None:
    validate_slug(slug)
    assert assignment_of(slug).model == slug


@pytest.mark.parametrize("slug", ["", "..", ".hidden", "a/b", "a\\b", "a\0", "a" * 300])
def test_a_model_whose_name_could_leave_its_folder_is_refused(slug: str) -> None:
    with pytest.raises(ServerDistrusted, match="slug"):
        assignment_of(slug)


@pytest.mark.parametrize("nothing", [{}, {"requires": None, "control": None}, {"requires": {}}])
def test_most_strategies_ask_for_nothing(nothing: dict[str, Any]) -> None:
    assignment = assignment_of(**nothing)
    assert (assignment.requires, assignment.control) == ({}, None)


def test_what_a_strategy_asks_for_is_read_also_where_it_is_unknown_here() -> None:
    asked = {"proximal": {"mu": 1}, "control_variates": {}, "telepathy": {"range_km": 2.5}}
    control = {"sha256": "ef" * 32, "bytes": 40}
    assignment = assignment_of(requires=asked, control=control)
    assert assignment.requires == asked
    assert type(assignment.requires["proximal"]["mu"]) is float
    assert assignment.control == Blob("ef" * 32, 40)


@pytest.mark.parametrize(
    "wrong",
    [
        {"requires": ["proximal"]},
        {"requires": {"proximal": 0.1}},
        {"requires": {"proximal": {"mu": "0.1"}}},
        {"requires": {"proximal": {"mu": True}}},
        {"requires": {"proximal": {"mu": None}}},
        {"requires": {"proximal": {"mu": float("nan")}}},
        {"requires": {"Proximal": {}}},
        {"requires": {"": {}}},
        {"requires": {"proximal": {"m u": 1.0}}},
        {"requires": {"x" * 41: {}}},
        {"requires": {f"x{number}": {} for number in range(33)}},
        {"control": "ef" * 32},
        {"control": {"sha256": "../secret", "bytes": 40}},
        {"control": {"sha256": "ef" * 32}},
    ],
)
def test_what_a_sound_server_would_not_ask_for_is_not_read(wrong: dict[str, Any]) -> None:
    with pytest.raises(ServerDistrusted, match="Received: "):
        assignment_of(**wrong)
