"""The ASGI application: participants' hot doors, live sockets, Django for everything else.

A WebSocket with an Origin is opened by a browser, and only our own pages may open one. Participants
are programs and send none.
"""

import os
from contextlib import suppress
from typing import Any

from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "fedserver.settings")
django_application = get_asgi_application()

# What follows needs the apps to be loaded.
from channels.routing import ProtocolTypeRouter, URLRouter  # noqa: E402
from channels.security.websocket import (  # noqa: E402
    AllowedHostsOriginValidator,
    WebsocketDenier,
)
from channels.sessions import CookieMiddleware  # noqa: E402
from django.core.exceptions import SynchronousOnlyOperation  # noqa: E402
from django.core.signals import request_finished  # noqa: E402
from django.db import connections  # noqa: E402
from django.dispatch import receiver  # noqa: E402
from django.urls import path, re_path  # noqa: E402

from fedserver.prefix import BelowRoot  # noqa: E402
from journal.consumers import LiveConsumer  # noqa: E402
from rounds.api.doors import ParticipantDoors  # noqa: E402
from rounds.api.sockets import participant_socket  # noqa: E402


@receiver(request_finished)
def close_connections(**_: object) -> None:
    """Django gives each request a thread of its own, and nobody comes back to its connections.

    Kept for FEDSERVER_CONN_MAX_AGE, as those of the doors' lasting threads are, they would stay
    open until Python collects its garbage: hundreds of them, and PostgreSQL takes a hundred.
    """
    for connection in connections.all(initialized_only=True):
        if not connection.in_atomic_block:  # a test's own
            with suppress(SynchronousOnlyOperation):  # ended in an event loop: not its connection
                connection.close()


def for_programs(socket: Any) -> Any:
    """A socket for programs, which no page of another site may open."""
    of_browsers = AllowedHostsOriginValidator(socket)

    async def choose(scope: Any, receive: Any, send: Any) -> None:
        is_browser = any(name == b"origin" for name, _ in scope["headers"])
        await (of_browsers if is_browser else socket)(scope, receive, send)

    return choose


sockets = URLRouter(
    [
        path("ws/live/", AllowedHostsOriginValidator(CookieMiddleware(LiveConsumer.as_asgi()))),
        path("ws/participant/", for_programs(participant_socket)),
        re_path("", WebsocketDenier.as_asgi()),
    ]
)
application = BelowRoot(
    ProtocolTypeRouter({"http": ParticipantDoors(django_application), "websocket": sockets})
)
