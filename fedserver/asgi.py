"""The ASGI application: participants' hot doors and live sockets, Django for everything else."""

import os

from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "fedserver.settings")
django_application = get_asgi_application()

# What follows needs the apps to be loaded.
from channels.auth import AuthMiddlewareStack  # noqa: E402
from channels.routing import ProtocolTypeRouter, URLRouter  # noqa: E402
from channels.security.websocket import AllowedHostsOriginValidator  # noqa: E402
from django.urls import path  # noqa: E402

from journal.consumers import LiveConsumer  # noqa: E402
from rounds.api.doors import ParticipantDoors  # noqa: E402

sockets = URLRouter([path("ws/live/", LiveConsumer.as_asgi())])
application = ProtocolTypeRouter(
    {
        "http": ParticipantDoors(django_application),
        "websocket": AllowedHostsOriginValidator(AuthMiddlewareStack(sockets)),
    }
)
