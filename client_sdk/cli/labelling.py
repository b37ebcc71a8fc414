"""photos: label photos on a page of this machine, and train with them."""

from __future__ import annotations

import argparse
from contextlib import suppress

from client_sdk.cli import codes
from client_sdk.cli.output import Output
from client_sdk.participant import Participant
from client_sdk.photos import default_folder, serve


def photos(options: argparse.Namespace, out: Output) -> int:
    """Serve the page until Ctrl-C."""
    with Participant.load(options.profile) as participant:
        folder = options.folder or default_folder(participant)

        def ready(link: str) -> None:
            out.say(f"Your photos, kept in {folder}:")
            out.say(f"  {link}")
            out.say("The link opens one browser, once. Ctrl-C ends it.")
            out.line({"url": link, "folder": folder})

        with suppress(KeyboardInterrupt):  # that is how it ends
            serve(
                participant,
                folder,
                options.port,
                not options.no_browser,
                model=options.model,
                on_ready=ready,
            )
    return codes.OK
