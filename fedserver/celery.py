"""The Celery application. Celery is a doorbell: the database knows what is to be done."""

import os

from celery import Celery
from kombu.transport.redis import Channel

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "fedserver.settings")

# A worker whose broker dies would put messages back through the connection that is gone, fail, and
# leave an "emergency dump" of them in the temporary folder. The beat rings again anyway.
Channel.do_restore = False

app = Celery("fedserver")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks(["rounds", "models_app", "simulation"])
