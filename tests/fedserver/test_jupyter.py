"""What JupyterLab's proxy is told of the server, and the path below which that is shown."""

import os
import socket
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import psutil
import pytest
from django.contrib.auth.models import User
from django.test import Client, RequestFactory

from accounts.address import address
from fedserver import jupyter, stack
from fedserver.prefix import BelowRoot
from tests.fedserver.test_up_and_demo import ends_with, line_with, manage, still_alive

PREFIX = "/team/alice/fedserver"


# --- What the proxy is told ---


def test_jupyterlab_finds_us_and_learns_how_to_start_us(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FEDSERVER_URL", raising=False)
    (found,) = entry_points(group="jupyter_serverproxy_servers", name="fedserver")
    told = found.load()()
    assert Path(told["launcher_entry"]["icon_path"]).read_text().startswith("<svg")
    words = told["command"](port=4000, base_url="/team/alice/")
    assert words == [sys.executable, "-P", "-m", "fedserver.jupyter", "4000", PREFIX]


def test_a_server_that_runs_already_is_shown_instead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDSERVER_URL", "http://127.0.0.1:8000")
    told = jupyter.server()
    assert told["port"] == 8000
    assert "command" not in told


@pytest.mark.parametrize("url", ["https://127.0.0.1:8000", "http://fed.example:80", "8000"])
def test_no_server_of_another_machine_is_shown(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDSERVER_URL", url)
    with pytest.raises(ValueError, match="this machine"):
        jupyter.server()


def test_the_port_is_kept_while_it_is_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDSERVER_HOME", str(tmp_path))
    assert jupyter.kept_port() == 0
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        (tmp_path / "jupyter-port").write_text(f"{port}\n")
        assert jupyter.kept_port() == 0
    assert jupyter.kept_port() == port


@pytest.mark.parametrize(
    ("to", "told"),
    [
        (f"{PREFIX}/sign-in/?next={PREFIX}/runs/", f"./sign-in/?next={PREFIX}/runs/"),
        (f"{PREFIX}/", "./../"),
        ("http://127.0.0.1:8888/x", "http://127.0.0.1:8888/x"),
    ],
)
def test_redirects_are_relative(to: str, told: str) -> None:
    start = f"{PREFIX}/runs" if "sign-in" in to else f"{PREFIX}/runs/"
    response = SimpleNamespace(headers={"Location": to})
    jupyter.stay_below(response, SimpleNamespace(path=start))
    assert response.headers["Location"] == told


def test_without_a_redirect_nothing_is_rewritten() -> None:
    response = SimpleNamespace(headers={})
    jupyter.stay_below(response, SimpleNamespace(path=f"{PREFIX}/"))
    assert response.headers == {}


# --- The path ---


async def ask(path: str, *headers: tuple[bytes, bytes], root: str = PREFIX) -> dict[str, Any]:
    """What comes through `BelowRoot`: the scope, or the answer's status and text."""
    came: dict[str, Any] = {}

    async def application(scope: Any, receive: Any, send: Any) -> None:
        came.update(scope)

    async def receive() -> dict[str, Any]:
        return {}

    async def send(message: dict[str, Any]) -> None:
        came.update(message)

    scope = {"type": "http", "path": path, "root_path": root, "headers": list(headers)}
    await BelowRoot(application)(scope, receive, send)
    return came


async def test_a_prefix_that_was_not_taken_off_is_counted_once() -> None:
    for path in (f"{PREFIX}/runs/", f"{PREFIX}{PREFIX}/runs/"):
        assert (await ask(path))["path"] == f"{PREFIX}/runs/"
    assert (await ask("/runs/", root=""))["path"] == "/runs/"


async def test_a_server_that_does_not_know_its_prefix_says_what_to_set() -> None:
    told = await ask("/runs/", (b"x-forwarded-prefix", PREFIX.encode()), root="")
    assert told["status"] == 421
    assert f"FEDSERVER_ROOT_PATH={PREFIX}\n" in told["body"].decode()
    known = await ask(f"{PREFIX}/runs/", (b"x-forwarded-prefix", f"{PREFIX}/".encode()))
    assert known["path"] == f"{PREFIX}/runs/"


def test_participants_are_told_another_address_where_there_is_one(settings: Any) -> None:
    request = RequestFactory().get("/runs/")
    assert address(request) == "http://testserver"
    assert address(request, "/api/v1/runs") == "http://testserver/api/v1/runs"
    settings.ADDRESS = "http://127.0.0.1:8000"
    assert address(request, "/api/v1/runs") == "http://127.0.0.1:8000/api/v1/runs"


# --- The first owner ---


@pytest.mark.alike
def test_the_first_owner_is_made_once_and_told_until_the_password_is_another(
    db: None, settings: Any, tmp_path: Path, client: Client
) -> None:
    settings.FIRST_OWNER = tmp_path / "first-owner.txt"
    made = stack.first_owner()
    assert made is not None
    name, note = made
    assert stack.first_owner() == made
    assert f"cat {note}" in client.get("/sign-in/").content.decode()
    assert client.login(username=name, password=note.read_text().split()[1])
    owner = User.objects.get(username=name)
    owner.set_password("the horse is correct")
    owner.save()
    assert stack.first_owner() is None
    assert not note.exists()


def test_where_there_are_people_nobody_is_made(db: None, settings: Any, tmp_path: Path) -> None:
    User.objects.create_user("bob")
    settings.FIRST_OWNER = tmp_path / "first-owner.txt"
    assert stack.first_owner() is None
    assert User.objects.count() == 1


# --- As programs ---


@pytest.fixture
def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@pytest.mark.timeout(120)
def test_who_opens_the_card_is_told_why_there_is_no_server(tmp_path: Path, free_port: int) -> None:
    told = os.environ | {"FEDSERVER_HOME": str(tmp_path), "FEDSERVER_LOG_LEVEL": "ERROR"}
    with stack.lock(tmp_path / "up.lock"):
        command = jupyter.command(free_port, "/team/alice/")
        process = subprocess.Popen(command, env=told, stderr=subprocess.PIPE, text=True)
        with process:
            assert process.stderr
            assert "did not start" in process.stderr.readline()
            retried = httpx.HTTPTransport(retries=8)
            with httpx.Client(transport=retried, base_url=f"http://127.0.0.1:{free_port}") as asks:
                assert asks.get("/").status_code == 503  # the proxy looks whether we are there
                page = asks.get("/", headers={"X-Forwarded-Context": PREFIX})
            assert f"used by process {os.getpid()}" in page.text
            assert process.wait(timeout=30) == 1  # and JupyterLab starts another


@pytest.mark.timeout(240)
def test_make_jupyter_starts_the_server_jupyterlab_and_the_tutorials_and_ends_them(
    tmp_path: Path,
) -> None:
    home = tmp_path / "home"
    words = ("jupyter", "--port", "0", "--no-browser", "--base-url", "/team/alice/")
    own = {name: str(tmp_path / name.lower()) for name in ("JUPYTER_CONFIG_DIR", "IPYTHONDIR")}
    own |= {"JUPYTER_RUNTIME_DIR": str(tmp_path / "runtime")}
    own |= {"DATABASE_URL": f"sqlite:///{tmp_path / 'db.sqlite3'}"}
    with manage(home, *words, **own) as program:
        url, _, token = line_with(program, "JupyterLab is at").split()[3].partition("?token=")
        note = Path(line_with(program, "Sign in").split()[-1])
        participants = line_with(program, "Participants join").split()[-1]
        assert note.stat().st_mode & 0o077 == 0
        lab = url.removesuffix("lab")
        headers = {"Authorization": f"token {token}"}
        page = httpx.get(f"{lab}fedserver/", headers=headers, follow_redirects=True, timeout=30)
        assert str(page.url) == f"{lab}fedserver/sign-in/?next={PREFIX}/"
        assert f"fedclient join {participants} CODE" in page.text
        assert page.headers["X-Frame-Options"] == "SAMEORIGIN"
        assert "frame-ancestors 'self'" in page.headers["Content-Security-Policy"]
        contents = httpx.get(f"{lab}api/contents", headers=headers).json()["content"]
        names = {one["name"] for one in contents}
        assert names >= {"take_part.ipynb", "run_a_federation.ipynb", "federation.py"}
        assert httpx.get(f"{lab}fedserver/").status_code == 302  # to JupyterLab's own sign-in
        logs = "".join(file.read_text() for file in (home / "logs").iterdir())
        assert token not in logs
        assert note.read_text().split()[1] not in logs
        started = psutil.Process(program.pid).children(recursive=True)
        httpx.post(f"{lab}api/shutdown", headers=headers)  # as its menu does
        ends_with(program, 0)
        assert still_alive(started) == []
