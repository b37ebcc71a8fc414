"""`manage.py jupyter`: the server, and a JupyterLab that shows it and has the tutorials."""

import logging
import os
import secrets
import shutil
import sys
from argparse import ArgumentParser
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
from django.conf import settings
from django.contrib.auth import get_user_model
from django.core.management.base import BaseCommand, CommandError
from django.db import DatabaseError
from django.utils import timezone

from accounts.models import PersonalToken
from accounts.tokens import delete_token, make_token
from fedserver import stack
from fedserver.jupyter import prefix
from fedserver.supervisor import Program, ProgramFailed, Restart, State, Supervisor
from fedserver.valkey import BrokerMissing

LABEL = "notebooks of make jupyter"
DAYS = 30  # after which a token is worth nothing; each start makes another
TUTORIALS = settings.BASE_DIR / "tutorials"


class Command(BaseCommand):
    help = "The server, and a JupyterLab with the dashboard in its launcher and the tutorials."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--port", type=int, default=8888, help="JupyterLab's (%(default)s)")
        parser.add_argument(
            "--server-port", type=int, default=0, help="the server's (that of the last time)"
        )
        parser.add_argument("--base-url", default="/", help="JupyterLab's path (%(default)s)")
        parser.add_argument(
            "--notebooks",
            type=Path,
            default=settings.FEDSERVER_HOME / "notebooks",
            help="the folder to work in; missing tutorials are copied there (%(default)s)",
        )
        parser.add_argument("--no-browser", action="store_true", help="open no browser")

    def handle(self, *args: Any, **options: Any) -> None:
        logging.getLogger("httpx").setLevel(logging.WARNING)
        try:
            with stack.lock(settings.FEDSERVER_HOME / "up.lock"):
                self._serve(options)
        except (stack.HomeInUse, BrokerMissing, ProgramFailed, OSError, DatabaseError) as error:
            raise CommandError(str(error)) from error

    def _serve(self, options: dict[str, Any]) -> None:
        lab = _free(options["port"])
        door = _door(options["server_port"])
        os.environ["FEDSERVER_ROOT_PATH"] = prefix(options["base_url"])
        os.environ.setdefault("FEDSERVER_FRAME_OPTIONS", "SAMEORIGIN")
        os.environ.setdefault("FEDSERVER_ADDRESS", door.url)
        stack.prepare()
        owner = stack.first_owner()
        notebooks = _tutorials(options["notebooks"].resolve())
        jupyter_token = secrets.token_urlsafe(24)
        logs = settings.FEDSERVER_HOME / "logs"
        self.stdout.write("Starting the server and JupyterLab …")
        with Supervisor(stack.programs(door), logs=logs, warn=self.stderr.write) as house:
            house.start()
            if house.stopping:
                return
            house.add(_lab(lab, door, notebooks, jupyter_token, options))
            house.start()
            if not house.stopping:
                url = f"{_address(lab, options['base_url'])}lab?token={jupyter_token}"
                self.stdout.write(f"JupyterLab is at {url} (Ctrl-C ends all)")
                self._introduce(owner, door, logs)
            house.run(until=lambda: house.children["jupyter"].state is State.ENDED)
            self.stdout.write("ending …")

    def _introduce(self, owner: tuple[str, Path] | None, door: stack.Door, logs: Path) -> None:
        if owner is not None:
            name, note = owner
            self.stdout.write(f"Sign in to fedserver there as {name}; the password is in {note}")
        self.stdout.write(f"Participants join at {door.url}")
        self.stdout.write(f"Logs: {logs}   Data: {settings.FEDSERVER_HOME}")


def _free(port: int) -> int:
    """The port, if it is free; another one for 0."""
    door = stack.Door.open("127.0.0.1", port)
    with door.listener:
        return door.port


def _door(port: int) -> stack.Door:
    """Where the server listens: where it did the last time, for participants know it by that."""
    note = settings.FEDSERVER_HOME / "jupyter-port"
    try:
        door = stack.Door.open("127.0.0.1", port or int(note.read_text()))
    except (OSError, ValueError):
        if port:
            raise
        door = stack.Door.open("127.0.0.1", 0)
    note.write_text(f"{door.port}\n")
    return door


def _tutorials(folder: Path) -> Path:
    """The folder to work in, with a copy of each tutorial that is not there."""
    folder.mkdir(parents=True, exist_ok=True)
    for tutorial in [*TUTORIALS.glob("*.ipynb"), *TUTORIALS.glob("*.py")]:
        if not (folder / tutorial.name).exists():
            shutil.copyfile(tutorial, folder / tutorial.name)
    return folder


def _lab(
    port: int, door: stack.Door, notebooks: Path, token: str, options: dict[str, Any]
) -> Program:
    command = [sys.executable, "-m", "jupyter", "lab", f"--ServerApp.port={port}"]
    command += ["--ServerApp.port_retries=0", f"--ServerApp.base_url={options['base_url']}"]
    command += [f"--ServerApp.root_dir={notebooks}"]
    # Nothing here asks the internet, and no question about news covers the first page.
    command += ["--LabApp.news_url=None"]
    command += ["--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate"]
    command += ["--no-browser"] if options["no_browser"] else []
    command += ["--allow-root"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
    # Through the environment, which is this user's own: commands are everybody's to read.
    told = {
        "JUPYTER_TOKEN": token,
        "FEDSERVER_URL": door.url,
        "FEDSERVER_TOKEN": _token(),
        "FEDCLIENT_HOME": str(settings.FEDSERVER_HOME / "participants"),
        "TF_CPP_MIN_LOG_LEVEL": "2",  # it tells of the processor otherwise, in the first cell
    }
    status = f"{_address(port, options['base_url'])}api"

    def answers() -> bool:
        try:
            return httpx.get(status, timeout=1).is_success
        except httpx.TransportError:
            return False

    return Program("jupyter", command, told, ready=answers, restart=Restart.ON_FAILURE)


def _address(port: int, base_url: str) -> str:
    path = f"/{base_url.strip('/')}/".replace("//", "/")
    return f"http://127.0.0.1:{port}{path}"


def _token() -> str:
    """A token with which the notebooks act as an owner; those of earlier starts are deleted."""
    for old in PersonalToken.objects.filter(label=LABEL):
        delete_token(old, actor="command line", reason="another start")
    owner = get_user_model().objects.filter(is_superuser=True, is_active=True).first()
    if owner is None:
        raise CommandError(
            "Expected an owner (manage.py createsuperuser). Received: none of the people is one"
        )
    until = timezone.now() + timedelta(days=DAYS)
    return make_token(owner, label=LABEL, expires_at=until, actor="command line")[1]
