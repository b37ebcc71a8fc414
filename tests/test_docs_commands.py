"""Every command in the documents exists, with every option that it is given there."""

import re
import shlex
from argparse import ArgumentParser
from collections.abc import Iterator
from pathlib import Path

import pytest
from django.core.management import get_commands, load_command_class
from django.core.management.base import BaseCommand

from client_sdk import cli

ROOT = Path(__file__).parent.parent
BLOCK = re.compile(r"^( *)```\w*\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
SPAN = re.compile(r"`([^`\n]+)`")
PROGRAMS = ("manage.py", "fedclient")


def commands() -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """Document, program and words of each command in the code of the documents."""
    for document in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]:
        text = document.read_text()
        lines = [line for _, block in BLOCK.findall(text) for line in block.splitlines()]
        for line in [*lines, *SPAN.findall(BLOCK.sub("", text))]:
            yield from _of_line(document.name, line)


def _of_line(document: str, line: str) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """The command of a shell's line; None of a line that shows what is printed, or is another's."""
    try:
        words = shlex.split(line.removeprefix("ExecStart="), comments=True)
    except ValueError:  # prose, with an apostrophe
        return
    if words and words[0] == "make" and len(words) > 1 and words[1] in ("demo", "up"):
        options = [word.removeprefix("ARGS=") for word in words[2:] if word.startswith("ARGS=")]
        yield document, "manage.py", (words[1], *shlex.split(" ".join(options)))
        return
    programs = [at for at, word in enumerate(words[:2]) if Path(word).name in PROGRAMS]
    if programs and len(words) > programs[-1] + 1:
        at = programs[-1]
        end = next((n for n, word in enumerate(words) if word in ("|", ">", "&&")), None)
        yield document, Path(words[at]).name, tuple(words[at + 1 : end])


def parser_of(program: str, words: tuple[str, ...]) -> tuple[ArgumentParser, tuple[str, ...]]:
    if program == "fedclient":
        return cli.parser(), words
    name = words[0]
    app = get_commands()[name]
    command = app if isinstance(app, BaseCommand) else load_command_class(app, name)
    return command.create_parser("manage.py", name), words[1:]


FOUND = sorted(set(commands()))


@pytest.mark.parametrize(
    ("document", "program", "words"), FOUND, ids=[f"{one[0]}: {' '.join(one[2])}" for one in FOUND]
)
def test_a_command_of_the_documents_is_one(
    document: str, program: str, words: tuple[str, ...]
) -> None:
    parser, arguments = parser_of(program, words)
    parser.parse_args(arguments)


def test_the_documents_have_commands_of_each_kind() -> None:
    named = {words[0] for _, _, words in FOUND}
    expected = {"up", "demo", "create_model", "join_code", "open_round", "personal_token"}
    assert expected | {"join", "train"} <= named
