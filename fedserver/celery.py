"""The Celery application. Celery is a doorbell: the database knows what is to be done."""

import os

from celery import Celery

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "fedserver.settings")

app = Celery("fedserver")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks(["rounds"])
