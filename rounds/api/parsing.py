"""JSON that comes in: of bounded nesting, for Python gives up in the middle of an endless one.

It stands alone, for REST framework imports it before its views are there.
"""

from collections.abc import Mapping
from typing import IO, Any, Final

from rest_framework import parsers
from rest_framework.exceptions import ParseError

MOST_LEVELS: Final = 100  # of lists and objects in each other


class JSONParser(parsers.JSONParser):
    """REST framework's, which lets a nest that is too deep for Python be a mistake of ours."""

    def parse(
        self,
        stream: IO[Any],
        media_type: str | None = None,
        parser_context: Mapping[str, Any] | None = None,
    ) -> Any:
        try:
            document = super().parse(stream, media_type, parser_context)
            bound_nesting(document)
        except (ValueError, RecursionError) as error:
            raise ParseError(f"Expected JSON. Received: {error}") from error
        return document


def bound_nesting(document: Any) -> None:
    """Refuse what is read but too deep to be shown, stored or told again. Raises ValueError."""
    level = [document]
    for _ in range(MOST_LEVELS):
        level = [inner for one in level for inner in _inside(one)]
        if not level:
            return
    if any(isinstance(one, dict | list) for one in level):
        raise ValueError(f"more than {MOST_LEVELS} levels of lists and objects")


def _inside(one: Any) -> list[Any]:
    if isinstance(one, dict):
        return list(one.values())
    return one if isinstance(one, list) else []
