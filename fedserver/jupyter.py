"""The dashboard in a tab of JupyterLab, from a card in its launcher.

jupyter-server-proxy asks `server` what to show (an entry point, in pyproject.toml). Either a server
that runs already on this machine (`FEDSERVER_URL`), or one that starts when somebody opens the card
and ends with JupyterLab: this module as a program, `python -m fedserver.jupyter PORT PREFIX`.

What JupyterLab itself imports of this file knows no Django.
"""

import html
import os
import posixpath
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

NAME = "fedserver"  # of the entry point, and so of the path below JupyterLab's own
CODE = Path(__file__).resolve().parent.parent
ICON = CODE / "frontend" / "static" / "frontend" / "icon.svg"
SECONDS = 120.0  # that the first start may take: it makes the database
LOCAL = ("localhost", "127.0.0.1", "::1")


def server() -> dict[str, Any]:
    """What jupyter-server-proxy is told.

    Raises:
        ValueError: FEDSERVER_URL is no address on this machine.
    """
    told: dict[str, Any] = {
        "launcher_entry": {"title": NAME, "icon_path": str(ICON), "category": "Notebook"},
        "new_browser_tab": False,
        "absolute_url": False,
        "rewrite_response": stay_below,
    }
    if url := os.environ.get("FEDSERVER_URL"):
        return told | {"port": port_of(url)}
    return told | {"command": command, "timeout": SECONDS, "port": kept_port()}


def command(port: int, base_url: str) -> list[str]:
    """How the server is started.

    Args:
        port: Where jupyter-server-proxy will look for it.
        base_url: JupyterLab's own path, with a slash at its end.
    """
    # -P: what lies among the notebooks must not be taken for a module of ours.
    return [sys.executable, "-P", "-m", "fedserver.jupyter", str(port), prefix(base_url)]


def prefix(base_url: str) -> str:
    """The path below which JupyterLab shows the server."""
    return f"{base_url.rstrip('/')}/{NAME}"


def stay_below(response: Any, request: Any) -> None:
    """Makes a redirect's address relative, for newer proxies put the prefix before others again."""
    to = urlsplit(response.headers.get("Location", ""))
    if to.path.startswith("/") and not to.netloc:
        path = posixpath.relpath(to.path, posixpath.dirname(request.path))
        slash = "/" if to.path.endswith("/") else ""
        response.headers["Location"] = to._replace(path=f"./{path}{slash}").geturl()


def port_of(url: str) -> int:
    """The port of a server on this machine.

    Raises:
        ValueError: it is not on this machine, or does not speak http.
    """
    parts = urlsplit(url)
    if parts.scheme != "http" or parts.hostname not in LOCAL:
        raise ValueError(
            f"Expected an address on this machine, such as http://127.0.0.1:8000"
            f" (FEDSERVER_URL). Received: {url!r}"
        )
    return parts.port or 80


def kept_port() -> int:
    """The port of the last time, for participants know the server by it; 0 if it is not free."""
    home = Path(os.environ.get("FEDSERVER_HOME") or CODE / "var")
    with suppress(OSError, ValueError):
        port = int((home / "jupyter-port").read_text())
        with socket.create_server(("127.0.0.1", port)):
            return port
    return 0


# --- The program that starts when somebody opens the card -----------------------------------------


def main() -> None:
    port, root = int(sys.argv[1]), sys.argv[2]
    orphaned = leave_the_terminal()
    tell(port, root)
    import django

    try:
        django.setup()
        serve(port, until=orphaned)
    except Exception as error:  # whatever it is, the person before the tab has to be told
        warn(f"did not start. {type(error).__name__}: {error}")
        excuse(port, str(error), until=orphaned)
        sys.exit(1)  # and JupyterLab starts us again


def leave_the_terminal() -> Callable[[], bool]:
    """Lets Ctrl-C reach JupyterLab alone, which ends us then.

    Returns:
        Whether JupyterLab is gone without having done so, killed or crashed.
    """
    parent = os.getppid()
    with suppress(OSError):
        os.setsid()
    return lambda: os.getppid() != parent


def tell(port: int, root: str) -> None:
    """Sets what the settings shall find; what the person has set stays."""
    os.environ["DJANGO_SETTINGS_MODULE"] = "fedserver.settings"
    os.environ["FEDSERVER_ROOT_PATH"] = root
    os.environ.setdefault("FEDSERVER_FRAME_OPTIONS", "SAMEORIGIN")
    os.environ.setdefault("FEDSERVER_ADDRESS", f"http://127.0.0.1:{port}")


def serve(port: int, until: Callable[[], bool]) -> None:
    """The whole server, until a signal comes or something is true."""
    from django.conf import settings

    from fedserver import stack
    from fedserver.supervisor import Supervisor

    home: Path = settings.FEDSERVER_HOME
    os.chdir(home)  # for the programs too, whose modules must not be looked for among notebooks
    with stack.lock(home / "up.lock"):
        door = stack.Door.open("127.0.0.1", port)
        stack.prepare()
        stack.first_owner()
        (home / "jupyter-port").write_text(f"{port}\n")
        with Supervisor(stack.programs(door), logs=home / "logs", warn=warn) as house:
            house.start()
            house.run(until=until)


def warn(sentence: str) -> None:
    """Says it where JupyterLab itself does."""
    sys.stderr.write(f"fedserver: {sentence}\n")


# --- When it could not start ----------------------------------------------------------------------

EXCUSE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>fedserver</title>
<meta name="color-scheme" content="light dark">
<style>body {{ font: 1rem/1.5 system-ui, sans-serif; margin: 3rem auto; max-width: 40rem;
padding: 0 1rem }}</style>
<h1>fedserver did not start</h1><p>{reason}</p>
<p>If the server that runs there is the one to show: start JupyterLab again with its address in
<code>FEDSERVER_URL</code>. Otherwise put it right and <a href="">try again</a>.</p></html>"""


def excuse(port: int, reason: str, until: Callable[[], bool]) -> None:
    """Tells the person before the tab why there is no server: once, and then it is tried again."""
    shown = False

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            nonlocal shown
            # JupyterLab's own look whether we are there comes without it.
            shown = shown or "X-Forwarded-Context" in self.headers
            body = EXCUSE.format(reason=html.escape(reason)).encode()
            self.send_response(503)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Cache-Control", "no-store")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Nobody reads it."""

    with suppress(OSError), HTTPServer(("127.0.0.1", port), Answer) as answering:
        answering.timeout = 1
        while not (shown or until()):
            answering.handle_request()


if __name__ == "__main__":
    main()
