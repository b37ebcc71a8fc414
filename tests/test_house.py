"""The promises of the house: who may import whom, each in a process of its own."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

HOUSE = Path(__file__).resolve().parent.parent
HEAVY = ("tensorflow", "keras", "numba", "sklearn", "boto3")
ROOMS = (
    "fedserver",
    "simulation",
    "frontend",
    "rounds",
    "models_app",
    "accounts",
    "journal",
    "client_sdk",
)


def modules_after(code: str) -> set[str]:
    """The top-level modules that are loaded after running `code` in a new process."""
    code += (
        "\nimport sys; print(','.join(sorted({name.partition('.')[0] for name in sys.modules})))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=HOUSE, capture_output=True, text=True, check=True
    )
    return set(done.stdout.strip().splitlines()[-1].split(","))


def test_the_web_process_imports_neither_tensorflow_nor_keras_nor_kernels() -> None:
    code = """
from fedserver.asgi import application
from django.urls import get_resolver
get_resolver().url_patterns
from django.contrib import admin
admin.autodiscover()
from rounds import aggregation
aggregation.build("fedavg", {})
"""
    # Nor Pillow: photos are opened by a worker.
    assert not modules_after(code) & {*HEAVY, "PIL"}


# What somebody imports at the top of a script or a notebook, or a shell with each `fedclient`.
OPEN_DOORS = (
    "client_sdk",
    "client_sdk.participant",
    "client_sdk.training",
    "client_sdk.cli",
    "client_sdk.admin",
    "client_sdk.notebook",
    "client_sdk.photos",
    "client_sdk.testing",
)
# What the extras bring, each imported when it is used and not before.
EXTRAS = {"PIL", "IPython", "anywidget", "jax", "matplotlib", "pandas", "starlette", "uvicorn"}


def test_the_sdk_imports_neither_django_nor_tensorflow_nor_the_server_nor_an_extra() -> None:
    loaded = modules_after("import " + ", ".join(OPEN_DOORS))
    assert not loaded & {*HEAVY, "django", "celery", "rest_framework", "redis"}
    assert not loaded & ({*ROOMS} - {"client_sdk"})
    assert not loaded & EXTRAS


def test_the_command_line_answers_before_it_imports_anything_that_takes_time() -> None:
    loaded = modules_after("import client_sdk.cli; client_sdk.cli.parser()")
    assert not loaded & {*HEAVY, *EXTRAS, "httpx", "numpy", "rich", "websockets"}


@pytest.mark.parametrize(
    "module",
    [
        "client_sdk.wire",
        "client_sdk.architecture",
        "client_sdk.photo",
        "rounds.aggregation",
        "rounds.selection",
    ],
)
def test_the_pure_floor_knows_no_framework(module: str) -> None:
    loaded = modules_after(f"import {module}")
    assert not loaded & {*HEAVY, "django", "celery", "rest_framework", "httpx"}


def test_the_worker_that_folds_imports_neither_tensorflow_nor_keras() -> None:
    code = """
import django, os
os.environ["DJANGO_SETTINGS_MODULE"] = "fedserver.settings"
django.setup()
import rounds.tasks
"""
    assert not modules_after(code) & {"tensorflow", "keras"}


def imports_of(file: Path) -> set[str]:
    """Every module of the house that a file names in an import, as dotted names."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found |= {node.module} | {f"{node.module}.{name.name}" for name in node.names}
    return {name for name in found if name.partition(".")[0] in ROOMS}


def files_of(room: str) -> list[Path]:
    return [file for file in (HOUSE / room).rglob("*.py") if "migrations" not in file.parts]


# The one part of the SDK that the server knows, as pure as the rest of its floor: what travels,
# and how a photo becomes numbers.
WIRE = ("client_sdk.wire", "client_sdk.architecture", "client_sdk.photo")
# A room, and the rooms that it may not name.
FORBIDDEN = {
    "client_sdk": {*ROOMS} - {"client_sdk"},
    "journal": {"fedserver", "simulation", "frontend", "rounds", "models_app"},
    "accounts": {"fedserver", "simulation", "frontend", "rounds", "models_app"},
    "models_app": {"fedserver", "simulation", "frontend", "rounds"},
    "rounds": {"fedserver", "simulation", "frontend"},
    "frontend": {"fedserver", "simulation"},
    "simulation": {"fedserver", "frontend"},
}


@pytest.mark.parametrize("room", FORBIDDEN)
def test_no_room_names_one_that_stands_above_it(room: str) -> None:
    for file in files_of(room):
        above = {name for name in imports_of(file) if name.partition(".")[0] in FORBIDDEN[room]}
        assert not above, f"{file.relative_to(HOUSE)} imports {above}"


@pytest.mark.parametrize("room", ["frontend", "rounds", "models_app", "accounts", "journal"])
def test_of_the_sdk_the_server_imports_the_wire_alone(room: str) -> None:
    for file in files_of(room):
        sdk = {name for name in imports_of(file) if name.startswith("client_sdk")}
        extra = {name for name in sdk if not name.startswith(WIRE)}
        assert extra <= {"client_sdk"}, f"{file.relative_to(HOUSE)} imports {extra}"


DOORS = ("api", "admin", "decisions", "tasks", "consumers", "management")


def test_rules_do_not_know_the_doors() -> None:
    """Lifecycle and its like are called by doors, and call none; any door may ask `tasks`."""
    for room in ("rounds", "models_app"):
        for file in files_of(room):
            parts = file.relative_to(HOUSE / room).with_suffix("").parts
            if parts[0] in DOORS:
                continue
            doors = {
                name
                for name in imports_of(file)
                if name.partition(".")[0] == room
                and name.split(".")[1:2][:1]
                and name.split(".")[1] in DOORS
            }
            assert not doors, f"{file.relative_to(HOUSE)} imports {doors}"


@pytest.mark.parametrize("room", ["client_sdk", "rounds", "rounds/aggregation", "simulation"])
def test_the_map_of_a_room_names_all_that_lies_there(room: str) -> None:
    home = HOUSE / room
    told = ast.get_docstring(ast.parse((home / "__init__.py").read_text())) or ""
    named = set(re.findall(r"\w+", told))
    files = {file.stem for file in home.glob("*.py") if not file.stem.startswith("__")}
    folders = {one.name for one in home.iterdir() if one.is_dir() and one.name != "__pycache__"}
    assert files | folders <= named


def test_nothing_is_ever_unpickled() -> None:
    for room in ROOMS:
        for file in files_of(room):
            source = file.read_text()
            for danger in ("import pickle", "pickle.load", "allow_pickle=True", "import dill"):
                assert danger not in source, f"{file.relative_to(HOUSE)}: {danger}"
