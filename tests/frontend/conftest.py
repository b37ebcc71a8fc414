"""The people and rows of the rounds' tests, looked at through pages."""

from tests.rounds.conftest import alice, bell_at_once, bob, enrolled, tiny_model, victor

__all__ = ["alice", "bell_at_once", "bob", "enrolled", "tiny_model", "victor"]
