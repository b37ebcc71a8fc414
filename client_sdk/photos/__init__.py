"""The photo labeller: take photos, see what the model says, label them, and train with them.

    fedclient photos

The photos stay on this machine, as files in folders by label, without place, time or camera.

    gallery.py        the files
    recogniser.py     what the local model says of them, now and before
    taking_part.py    one round, in a thread
    labeller.py       all of it as state and messages, for whoever shows it
    app.py            shows it as a page of this machine
    neighbours.py     whether who asks for that page is its own user
    labeller.js       draws it: on that page, and in a notebook (client_sdk.notebook.photo_labeller)
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import platformdirs

from client_sdk import profile as profiles

if TYPE_CHECKING:
    from client_sdk.participant import Participant

__all__ = ["default_folder", "serve"]


def default_folder(participant: Participant) -> Path:
    """Where a participant's photos are kept when nobody says: among its pictures.

    Not in the profile, which is forgotten with all that it holds when the participant leaves.
    """
    if os.environ.get("FEDCLIENT_HOME"):
        return profiles.home() / "photos" / participant.profile.profile
    return platformdirs.user_pictures_path() / "fedserver" / participant.profile.profile


def serve(
    participant: Participant,
    folder: Path | str | None = None,
    port: int = 0,
    open_browser: bool = True,
    *,
    model: str | None = None,
    on_ready: Callable[[str], Any] = lambda _: None,
) -> None:
    """Serve the labeller on this machine until Ctrl-C or SIGTERM.

    Args:
        participant: who takes part.
        folder: of the photos by label; among the person's pictures when None.
        port: of 127.0.0.1; a free one when 0.
        open_browser: open the page in the person's browser.
        model: slug of the model; None for the one of the enrolment.
        on_ready: told the link, which lets one browser in, once.

    Raises:
        ImportError: where what only `fedserver[client]` brings is not installed.
        OSError: when the port is taken.
    """
    from client_sdk.photos.app import run
    from client_sdk.photos.gallery import Gallery
    from client_sdk.photos.labeller import Labeller

    gallery = Gallery(folder if folder is not None else default_folder(participant))
    labeller = Labeller(participant, gallery, model=model)
    run(labeller, port=port, open_browser=open_browser, on_ready=on_ready)
