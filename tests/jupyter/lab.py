"""A real JupyterLab with folders of its own, and a notebook in it as a person has it open."""

import json
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from playwright.sync_api import Locator, Page

from fedserver.supervisor import LEASH

ROOT = Path(__file__).parent.parent.parent
PREFIX = "/team/alice/"  # below which a hub would show it
PATIENCE = 60  # seconds that JupyterLab may take to start
# What the tests' own stage says of their server is not for the servers that start here.
NOT_OURS = ("FEDSERVER_HOME", "DATABASE_URL", "REDIS_URL", "FEDSERVER_CONN_MAX_AGE")
FOLDERS = {
    "JUPYTER_CONFIG_DIR": "config",
    "JUPYTER_DATA_DIR": "data",
    "JUPYTER_RUNTIME_DIR": "runtime",
    "JUPYTERLAB_SETTINGS_DIR": "settings",
    "JUPYTERLAB_WORKSPACES_DIR": "workspaces",
    "IPYTHONDIR": "ipython",
    "FEDCLIENT_HOME": "participants",
    "FEDSERVER_HOME": "fedserver",
}
SETTINGS = {
    # All cells are there, whether or not they are seen.
    "@jupyterlab/notebook-extension/tracker": {"windowingMode": "none"},
    # It looks for news outside this machine otherwise.
    "@jupyterlab/apputils-extension/notification": {"checkForUpdates": False, "fetchNews": "false"},
}
RUN_ALL = "async () => { await window.jupyterapp.commands.execute('notebook:run-all-cells'); }"
READY = """() => {
  const { context } = window.jupyterapp?.shell.currentWidget ?? {};
  return context?.isReady && context.sessionContext.session?.kernel?.status === "idle";
}"""
OUTPUTS = """() => window.jupyterapp.shell.currentWidget.content.widgets
  .map(({ model }) => model.outputs?.toJSON() ?? [])"""


class CellFailed(Exception):
    """A cell of a notebook raised; the text is what it raised, and where."""


class Lab:
    """JupyterLab below a prefix, on a free port that it keeps when it is started again.

    Args:
        home: The folder in which it has its own ones, notebooks among them.
        environment: Variables for it, and so for the kernels.
    """

    def __init__(self, home: Path, environment: Mapping[str, str] | None = None) -> None:
        self.home = home
        self.notebooks = home / "notebooks"
        self.token = secrets.token_urlsafe(16)
        self.log = home / "jupyter.log"
        self._environment = dict(environment or {})
        self._port = 0
        self._process: subprocess.Popen[bytes] | None = None
        self.notebooks.mkdir(parents=True)
        for plugin, settings in SETTINGS.items():
            file = (home / "settings" / plugin).with_suffix(".jupyterlab-settings")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(settings))

    @property
    def origin(self) -> str:
        """Its address without the prefix."""
        return f"http://127.0.0.1:{self._port}"

    @property
    def url(self) -> str:
        """Its address; with the prefix, which ends with a slash."""
        return self.origin + PREFIX

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def environment(self) -> dict[str, str]:
        """What it is told, which a server for its notebooks wants to be told too."""
        ours = {name: value for name, value in os.environ.items() if name not in NOT_OURS}
        own = {name: str(self.home / folder) for name, folder in FOLDERS.items()}
        return ours | own | {"JUPYTER_TOKEN": self.token} | self._environment

    def start(self) -> None:
        """Starts it and waits until it answers."""
        command = ["-m", "jupyter", "lab", "--no-browser", "--allow-root"]
        command += [f"--ServerApp.base_url={PREFIX}", f"--ServerApp.root_dir={self.notebooks}"]
        command += [f"--ServerApp.port={self._port}", "--LabApp.expose_app_in_browser=True"]
        leash = [sys.executable, "-I", "-S", str(LEASH), "SIGTERM"]  # it ends with the tests
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [*leash, sys.executable, *command],
                cwd=self.notebooks,
                env=self.environment,
                stdout=log,
                stderr=log,
            )
        give_up = time.monotonic() + PATIENCE
        while not self._answers():
            assert self._process.poll() is None, self.log.read_text()
            assert time.monotonic() < give_up, self.log.read_text()
            time.sleep(0.1)

    def stop(self) -> None:
        """Ends it as Ctrl-C does, with its kernels and with what it has started."""
        assert self._process is not None
        self._process.terminate()
        self._process.wait(timeout=30)

    def api(self, method: str, path: str, **options: Any) -> Any:
        """Asks its own API; the answer's document."""
        headers = {"Authorization": f"token {self.token}"}
        answer = httpx.request(method, f"{self.url}api/{path}", headers=headers, **options)
        answer.raise_for_status()
        return answer.json() if answer.content else None

    def end_kernels(self) -> None:
        """Ends what the notebooks of a test have left running."""
        for kernel in self.api("GET", "kernels"):
            self.api("DELETE", f"kernels/{kernel['id']}")

    def _answers(self) -> bool:
        try:
            self._port = self._port or self._own_port()
            return self._port > 0 and self.api("GET", "status") is not None
        except httpx.TransportError:
            return False

    def _own_port(self) -> int:
        """The port that it took; 0 as long as it has none."""
        for file in (self.home / "runtime").glob("jpserver-*.json"):
            return int(json.loads(file.read_text() or '{"port": 0}')["port"])
        return 0


class Notebook:
    """A notebook that is open in JupyterLab.

    Args:
        page: The page, with the notebook before everything else.
    """

    def __init__(self, page: Page) -> None:
        self.page = page

    def run(self, patience: float = 60) -> None:
        """Runs all cells, and waits until they are done.

        Args:
            patience: Seconds that they may take.

        Raises:
            CellFailed: One of them raised.
        """
        self.begin()
        self.finish(patience)

    def begin(self) -> None:
        """Lets all cells run, and does not wait for them."""
        self.page.wait_for_function(READY, timeout=PATIENCE * 1000)
        self.page.evaluate(f"window.ran = false; ({RUN_ALL})().finally(() => window.ran = true)")

    def finish(self, patience: float = 60) -> None:
        """Waits until all cells are done; as `run`."""
        self.page.wait_for_function("window.ran", timeout=patience * 1000)
        for outputs in self.outputs():
            for output in outputs:
                if output["output_type"] == "error":
                    raise CellFailed("\n".join(output["traceback"]))

    def cell(self, number: int) -> Locator:
        """The cell of this number, from 0 on; of any kind."""
        return self.page.locator(".jp-Notebook:visible .jp-Cell").nth(number)

    def output(self, number: int) -> Locator:
        """What stands below the cell of this number, widgets among it."""
        return self.cell(number).locator(".jp-OutputArea")

    def outputs(self) -> list[list[dict[str, Any]]]:
        """What each cell has put out, as a notebook's file has it."""
        found: list[list[dict[str, Any]]] = self.page.evaluate(OUTPUTS)
        return found


def show(lab: Lab, page: Page, notebook: Path | Sequence[str]) -> Notebook:
    """Opens a notebook in JupyterLab, with a kernel of its own, and runs nothing yet.

    Args:
        lab: Where.
        page: A page that nobody needs any more.
        notebook: Its file in the folder `lab.notebooks`, or the code of its cells.
    """
    if not isinstance(notebook, Path):
        import nbformat  # takes longer than everything else here

        cells = [nbformat.v4.new_code_cell(code) for code in notebook]
        path = lab.notebooks / f"{secrets.token_hex(4)}.ipynb"
        kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
        nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel}), path)
        notebook = path
    file = notebook.relative_to(lab.notebooks)
    workspace = secrets.token_hex(4)
    page.goto(f"{lab.url}lab/workspaces/{workspace}/tree/{file}?token={lab.token}")
    page.wait_for_function(READY, timeout=PATIENCE * 1000)
    return Notebook(page)


@contextmanager
def running(home: Path, **environment: str) -> Iterator[Lab]:
    """A JupyterLab until the block ends."""
    lab = Lab(home, environment)
    lab.start()
    try:
        yield lab
    finally:
        lab.stop()
