"""The operators' side: what a dashboard does, as objects for scripts and notebooks.

    from client_sdk.admin import Admin

    admin = Admin("https://fed.example.org", token)
    run = admin.runs.create("digits", name="spring", rounds_planned=3)
    run.start(reason="the new scanners are in")
    await run.finished()
    run.history().plot()

Importing this imports neither pandas nor a notebook's libraries: what needs them does, when it is
asked for.
"""

from client_sdk.admin.admin import Admin
from client_sdk.admin.collections import Collection
from client_sdk.admin.errors import Invalid, NotAllowed, NotFound, NotNow
from client_sdk.admin.history import History
from client_sdk.admin.things import (
    Assignment,
    Evaluation,
    JoinCode,
    Model,
    Participant,
    Round,
    Run,
    Version,
)

__all__ = [
    "Admin",
    "Assignment",
    "Collection",
    "Evaluation",
    "History",
    "Invalid",
    "JoinCode",
    "Model",
    "NotAllowed",
    "NotFound",
    "NotNow",
    "Participant",
    "Round",
    "Run",
    "Version",
]
