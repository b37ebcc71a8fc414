"""Sets the stage before Django reads its settings: a home of its own and the database asked for.

A plugin (`-p tests.stage`, in pyproject.toml) and no conftest, because pytest-django sets Django
up before it reads the first conftest.

With `-n` (pytest-xdist) several processes run the tests, and each sets a stage of its own: home,
database, broker and browser are nobody else's. The process that hands the tests out runs none.
"""

import os
import shutil
import signal
import tempfile
from collections.abc import Generator
from pathlib import Path

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadFileScheduling
from xdist.workermanage import WorkerController

from tests.postgres import Postgres, PostgresUnavailable

_postgres = pytest.StashKey[Postgres]()
_home = pytest.StashKey[Path]()
_missing = pytest.StashKey[dict[str, str]]()  # what cannot be had, and why
# The longest files, first of all: else one process is still at them when the others are done.
_LONGEST = (
    "tests/faults/",
    "tests/fedserver/test_up_and_demo.py",
    "tests/end_to_end/",
    "tests/jupyter/",
    "tests/browser/",
    "tests/simulation/test_killed.py",
    "tests/fedserver/test_jupyter.py",
    "tests/models_app/test_open_package.py",
)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--database",
        choices=["sqlite", "postgresql"],
        default="sqlite",
        help="the database to test on; postgresql starts a throw-away server",
    )


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> Generator[None]:
    home = Path(tempfile.mkdtemp(prefix="fedserver-tests-"))
    # What a shell starts in the background ignores Ctrl-C, and so does what it starts in turn.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    early_config.stash[_home] = home
    early_config.stash[_missing] = {}
    (home / "static").mkdir()  # WhiteNoise warns where it is missing
    os.environ["FEDSERVER_HOME"] = str(home)
    os.environ["DATABASE_URL"] = f"sqlite:///{home / 'db.sqlite3'}"
    if early_config.known_args_namespace.database == "postgresql" and not _hands_out(early_config):
        _start_postgres(early_config, home)
    # A bell that is rung must ring nowhere, unless the test asks for the `valkey` fixture.
    # A thread that served a test must not keep its connection, or no database could be dropped.
    os.environ["FEDSERVER_CONN_MAX_AGE"] = "0"
    os.environ["REDIS_URL"] = f"unix://{home / 'valkey.sock'}"
    return (yield)


def _hands_out(config: pytest.Config) -> bool:
    """Whether the tests run in other processes than this one."""
    asked = getattr(config.known_args_namespace, "numprocesses", None)
    return bool(asked) and "PYTEST_XDIST_WORKER" not in os.environ


@pytest.hookimpl(tryfirst=True, optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """One more than there are processors, as tests wait for browsers and servers; of many four, as
    each imports everything that is tested."""
    return min((os.cpu_count() or 1) + 1, 4)


class ByFile(LoadFileScheduling):
    """A file's tests in one process, as what they share is made once; so with Keras, JupyterLab."""

    def _split_scope(self, nodeid: str) -> str:
        file: str = super()._split_scope(nodeid)
        if "/test_keras_" in file:
            return "keras"  # imported by one process
        return "jupyter" if file.startswith("tests/jupyter/") else file


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> ByFile:
    config.option.loadscopereorder = False  # see _order
    return ByFile(config, log)


def _start_postgres(config: pytest.Config, home: Path) -> None:
    try:
        server = Postgres.start()
    except PostgresUnavailable as reason:
        config.stash[_missing]["PostgreSQL"] = str(reason)
        return
    config.stash[_postgres] = server
    os.environ["DATABASE_URL"] = server.url("postgres")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """On PostgreSQL only what touches the database runs; the rest has run on SQLite.

    Where PostgreSQL was asked for and cannot be had, nothing runs on SQLite in its name.
    """
    if "PYTEST_XDIST_WORKER" in os.environ:
        items.sort(key=_order)
    if config.option.database == "postgresql":
        others = [item for item in items if not _touches_the_database(item)]
        config.hook.pytest_deselected(items=others)
        items[:] = [item for item in items if _touches_the_database(item)]
    if reason := config.stash[_missing].get("PostgreSQL"):
        _skip(items, f"PostgreSQL: {reason}")


def _order(item: pytest.Item) -> int:
    """Keras, then the longest files, then the others; else as they were."""
    if "/test_keras_" in item.nodeid:
        return 0
    return 2 - item.nodeid.startswith(_LONGEST)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Chromium is looked for only where a test that needs it was chosen."""
    if pages := [item for item in session.items if item.get_closest_marker("browser")]:
        from tests.browser import chromium  # playwright costs half a second

        _, reason = chromium.find()
        if reason:
            session.config.stash[_missing]["Chromium"] = reason
            _skip(pages, f"Chromium: {reason}")


def _skip(items: list[pytest.Item], reason: str) -> None:
    for item in items:
        item.add_marker(pytest.mark.skip(reason=reason))


def _touches_the_database(item: pytest.Item) -> bool:
    fixtures = {"db", "transactional_db", "live_server", "database_url"}
    asked = set(getattr(item, "fixturenames", ()))
    return bool(item.get_closest_marker("django_db") or asked & fixtures)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: WorkerController) -> None:
    """What one of the processes could not have, nobody had."""
    node.config.stash[_missing].update(getattr(node, "workeroutput", {}).get("missing", {}))


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Under CI a skip for want of PostgreSQL or Chromium is a failure."""
    if (told := getattr(session.config, "workeroutput", None)) is not None:
        told["missing"] = session.config.stash[_missing]
    if session.config.stash[_missing] and os.environ.get("CI") == "true":
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    if missing := config.stash[_missing]:
        terminalreporter.section("not tested", yellow=True)
        for what, reason in missing.items():
            terminalreporter.line(f"Nothing ran on {what}: {reason}")


def pytest_unconfigure(config: pytest.Config) -> None:
    if server := config.stash.get(_postgres, None):
        server.stop()
    if home := config.stash.get(_home, None):
        shutil.rmtree(home, ignore_errors=True)
