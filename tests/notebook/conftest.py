"""The people of these tests, and what their notebooks show a server."""

from collections.abc import Callable, Iterator

import pytest
from django.contrib.auth.models import User

from accounts.models import PersonalToken
from client_sdk.admin import Admin
from tests.rounds.conftest import alice, bob, enrolled, tiny_model, victor

__all__ = ["alice", "bob", "enrolled", "tiny_model", "victor"]  # fixtures, lent by the rounds

TokenOf = Callable[[User], str]


@pytest.fixture
def token_of() -> TokenOf:
    """`token_of(bob)`: a personal token."""
    return lambda user: PersonalToken.objects.issue(user, "a notebook")[1]


@pytest.fixture
def admin(server: str, bob: User, token_of: TokenOf) -> Iterator[Admin]:
    """What bob, an operator, has in his notebook."""
    made = Admin(server, token_of(bob))
    yield made
    made.close()
