"""The plug board: settings, urls, ASGI and Celery applications. No rule lives here."""

from fedserver.celery import app as celery_app

__all__ = ["celery_app"]
