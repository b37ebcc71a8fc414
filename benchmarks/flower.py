"""Flower in an environment of its own, for side by side measurements.

Nothing of it enters the project's environment: it is installed once, with uv or else with pip,
into the user's cache directory (`FLOWER_ENV` names another place), and run as another program.
"""

import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

REQUIREMENT = "flwr>=1.20"


def environment() -> Path:
    """Returns the environment's folder, made and filled if it is not there yet."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = Path(os.environ.get("FLOWER_ENV") or cache / "fedserver-benchmarks" / "flower")
    if not (folder / "complete").exists():
        print(f"Installing {REQUIREMENT} into {folder} …", file=sys.stderr, flush=True)
        _install(folder)
        (folder / "complete").touch()
    return folder


def program(name: str = "python") -> str:
    """Returns the path of one of the environment's programs, such as `flwr`."""
    return str(environment() / "bin" / name)


def version() -> str:
    """Returns the installed version of Flower."""
    code = "import importlib.metadata; print(importlib.metadata.version('flwr'))"
    return subprocess.check_output([program(), "-c", code], text=True).strip()


def _install(folder: Path) -> None:
    """Compiles bytecode too: an import must not be slow for want of it."""
    shutil.rmtree(folder, ignore_errors=True)
    uv = shutil.which("uv", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if uv:
        _run(uv, "venv", "--quiet", "--python", sys.executable, str(folder))
        python = str(folder / "bin" / "python")
        pip = [uv, "pip", "install", "--quiet", "--compile-bytecode", "--python", python]
    else:
        venv.create(folder, with_pip=True)
        pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet"]
    _run(*pip, REQUIREMENT)


def _run(*command: str) -> None:
    """Keeps standard output free for results."""
    subprocess.run(command, check=True, stdout=sys.stderr)
