"""One table: the lines of the journal."""

from django.db import models
from django.db.models.functions import Now


class Event(models.Model):
    """One line: what happened, to what, by whom, when and why. Never changed, never deleted.

    It names rows by id and holds no foreign keys: a line outlives what it speaks of.
    """

    at = models.DateTimeField(db_default=Now(), db_index=True)
    kind = models.CharField(max_length=40, db_index=True)
    actor = models.CharField(max_length=150, blank=True, help_text="empty: the server itself")
    reason = models.TextField(blank=True)
    model = models.BigIntegerField(null=True, db_index=True)
    version = models.BigIntegerField(null=True)
    run = models.BigIntegerField(null=True, db_index=True)
    round = models.BigIntegerField(null=True, db_index=True)
    assignment = models.BigIntegerField(null=True)
    participant = models.BigIntegerField(null=True, db_index=True)
    data = models.JSONField(default=dict)

    class Meta:
        ordering = ("id",)

    def __str__(self) -> str:
        return f"{self.id} {self.kind}"
