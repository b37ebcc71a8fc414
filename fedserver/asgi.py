"""The ASGI application: participants' hot doors first, Django for everything else."""

import os

from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "fedserver.settings")
django_application = get_asgi_application()

from rounds.api.doors import ParticipantDoors  # noqa: E402  (needs the apps to be loaded)

application = ParticipantDoors(django_application)
