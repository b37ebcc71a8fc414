"""What people and programs are told to call this server."""

from django.conf import settings
from django.http import HttpRequest
from django.urls import get_script_prefix


def address(request: HttpRequest, path: str = "") -> str:
    """The server's address, or that of one of its paths, to type elsewhere.

    Args:
        request: Of the browser that shows it. What it calls us is right, unless the settings say
            otherwise (FEDSERVER_ADDRESS): JupyterLab's proxy lets nobody else in.
        path: As `reverse` gives it.
    """
    root = get_script_prefix().rstrip("/")
    base = settings.ADDRESS or request.build_absolute_uri(root or "/").rstrip("/")
    return base + path.removeprefix(root)
