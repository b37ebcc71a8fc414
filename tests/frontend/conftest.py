"""The people and rows of the rounds' tests, looked at through pages."""

from tests.rounds.conftest import alice, bob, enrolled, tiny_model, victor

__all__ = ["alice", "bob", "enrolled", "tiny_model", "victor"]
