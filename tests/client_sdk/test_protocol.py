"""What the server says, as the client reads it."""

import pytest
from django.core.validators import validate_slug

from client_sdk.errors import ServerDistrusted
from client_sdk.protocol import Assignment


def assignment_of(model: str) -> Assignment:
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
