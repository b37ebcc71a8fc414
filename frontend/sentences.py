"""What each kind of event says, in a sentence: the table of the live feed, read for the pages.

The table and its rules stand in `client_sdk/drawings/sentences.js`; a test holds that both readers
of it tell the same.
"""

import json
import re
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from frontend.templatetags import fedserver
from journal.events import SUBJECTS

TABLE = Path(__file__).resolve().parent.parent / "client_sdk" / "drawings" / "sentences.js"
# Whose names people have chosen: those are not touched, not even at the beginning of a sentence.
_OWN_NAMES = ("actor", "model", "run", "participant")
# Where an event tells the name of its own subject.
_NAMED = {"model": "slug", "run": "name", "participant": "name", "assignment": "name"}
_FORMATS = {
    "share": fedserver.share,
    "metric": lambda value: f"{float(f'{value:.4g}'):g}",
    "count": fedserver.count,
    "size": fedserver.size,
    "seconds": fedserver.seconds,
}


class Piece(NamedTuple):
    """A part of a sentence, and which subject it names, if one."""

    text: str
    of: str | None = None


@cache
def table() -> dict[str, list[str]]:
    """The sentences of each kind, the fullest one first."""
    source = TABLE.read_text()
    start = source.index("SENTENCES = ") + len("SENTENCES = ")
    found: dict[str, list[str]] = json.JSONDecoder().raw_decode(source[start:])[0]
    return found


def tell(event: Mapping[str, Any], names: Mapping[str, str] | None = None) -> list[Piece]:
    """An event in words.

    Args:
        event: As `journal.events.as_json` gives it.
        names: What its subjects are called, as far as it is known: `{"run": "digits"}`.
    """
    for sentence in table().get(event["kind"], ()):
        if (told := _fill(sentence, event, names or {})) is not None:
            return told
    return [Piece(event["kind"])]


def tell_text(event: Mapping[str, Any], names: Mapping[str, str] | None = None) -> str:
    """The same as one text."""
    return "".join(piece.text for piece in tell(event, names))


def _fill(sentence: str, event: Mapping[str, Any], names: Mapping[str, str]) -> list[Piece] | None:
    pieces: list[Piece] = []
    for optional, tokens in _parsed(sentence):
        told = _fill_part(tokens, event, names)
        if told is None and not optional:
            return None
        pieces += told or []
    return pieces


@cache
def _parsed(sentence: str) -> list[tuple[bool, list[str]]]:
    """Its parts: whether each may be left out, and its tokens."""
    parts = [(part.startswith("["), part) for part in re.split(r"(\[[^\]]*\])", sentence)]
    return [
        (optional, list(filter(None, re.split(r"(\{[^}]*\})", part[1:-1] if optional else part))))
        for optional, part in parts
    ]


def _fill_part(
    tokens: Iterable[str], event: Mapping[str, Any], names: Mapping[str, str]
) -> list[Piece] | None:
    pieces: list[Piece] = []
    for token in tokens:
        piece = _value(token[1:-1], event, names) if token.startswith("{") else Piece(token)
        if piece is None:
            return None
        pieces.append(piece)
    return pieces


def _value(token: str, event: Mapping[str, Any], names: Mapping[str, str]) -> Piece | None:
    path, *words = token.split("|")
    key, _, form = path.partition(":")
    name = key[0].lower() + key[1:]
    is_subject = name == "actor" or name in SUBJECTS
    found = _subject(name, event, names) if is_subject else _dig(event["data"], name)
    if found is None or found == "":
        return None
    text = _word(found, words) if words else _FORMATS[form](found) if form else str(found)
    own = name in _OWN_NAMES and text != f"{name} {event.get(name)}"
    if key != name and not own:
        text = text[0].upper() + text[1:]
    return Piece(text, name if is_subject else None)


def _subject(name: str, event: Mapping[str, Any], names: Mapping[str, str]) -> str | None:
    if known := names.get(name):
        return known
    if name == "actor":
        return str(event["actor"])
    group, data = event["kind"].partition(".")[0], event["data"]
    if data.get(_NAMED.get(name, "")) and (group == name or name == "participant"):
        return str(data[_NAMED[name]])
    if group == name and data.get("number"):
        return f"{name} {data['number']}"
    return f"{name} {event[name]}" if event.get(name) else None


def _dig(data: Any, path: str) -> Any:
    for key in path.split("."):
        data = data.get(key) if isinstance(data, Mapping) else None
    return data


def _word(found: Any, words: list[str]) -> str:
    if "=" not in words[0]:
        return words[0] if found == 1 else words[1]
    meanings = dict(word.split("=", 1) for word in words)
    return meanings.get(str(found), meanings.get("", str(found)))
