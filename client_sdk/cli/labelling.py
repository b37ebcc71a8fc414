"""photos: label photos on a page of this machine, and train with them."""

from __future__ import annotations

import argparse
import errno

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

        try:
            serve(
                participant,
                folder,
                options.port,
                not options.no_browser,
                model=options.model,
                on_ready=ready,
            )
        except KeyboardInterrupt:
            return codes.OK  # that is how it ends
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            expected = "a port that is free, or none for any"
            raise codes.UsageError(f"Expected {expected}. Received: {options.port}") from None
    return codes.OK
