"""join, status, profiles, rotate-key, leave: who this machine is to which server."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from client_sdk import errors, profile
from client_sdk.cli import codes
from client_sdk.cli.output import Output, jsonable, problem
from client_sdk.participant import Participant
from client_sdk.profile import Profile

PATIENCE = 10.0  # seconds: a person is waiting
_WIDTH = len("updates sent")  # of the names that `status` shows, some of them only later


def join(options: argparse.Namespace, out: Output) -> int:
    """Enrol with a join code."""
    joined = Participant.enrol(
        options.url,
        options.code,
        name=options.name,
        profile=options.profile,
        patience=PATIENCE,
    )
    with joined:
        mine = joined.profile
    out.say(f"Enrolled as {mine.name} at {mine.url}.")
    out.say(f"The key is in {mine.folder}; it never leaves this machine.")
    out.say("Next: `fedclient limits` for what you allow, then `fedclient train --data DIR`.")
    out.result(_who(mine))
    return codes.OK


def _who(mine: Profile) -> dict[str, Any]:
    return {
        "profile": mine.profile,
        "folder": str(mine.folder),
        "participant": mine.participant,
        "name": mine.name,
        "url": mine.url,
    }


def status(options: argparse.Namespace, out: Output) -> int:
    """Who we are, what we allow, and whether the server accepts us."""
    with Participant.load(options.profile) as participant:
        mine = participant.profile
        here = _who(mine) | _here(participant)
        out.fields(_lines(mine, here), width=_WIDTH)
        try:
            told = participant.server(patience=PATIENCE)
            here["server"] = told
            out.fields({"version": told.get("version", "unknown")}, width=_WIDTH)
            participant.log_in(patience=PATIENCE)
        except errors.ParticipantError as error:
            code = codes.exit_code(error)
            out.complain(str(error))
            out.result(here | {"accepted": False, "error": problem(error, code)})
            return code
    out.fields({"accepted": "yes"}, width=_WIDTH)
    out.result(here | {"accepted": True})
    return codes.OK


def _here(participant: Participant) -> dict[str, Any]:
    """What is known without asking the server."""
    sent = participant.log()
    return {
        "taking_part": _in_use(participant.profile),
        "limits": jsonable(participant.limits),
        "updates_sent": sum(1 for entry in sent if entry.kind == "update"),
        "last_sent": jsonable(sent[-1].at) if sent else None,
    }


def _lines(mine: Profile, here: dict[str, Any]) -> dict[str, object]:
    return {
        "profile": f"{mine.profile}  ({mine.folder})",
        "participant": f"{mine.name}  ({mine.participant})",
        "server": mine.url,
        "taking part": "yes" if here["taking_part"] else "no",
        "updates sent": here["updates_sent"],
    }


def _in_use(mine: Profile) -> bool:
    try:
        with mine.locked():
            return False
    except errors.ProfileInUse:
        return True


def profiles(options: argparse.Namespace, out: Output) -> int:
    """The enrolments on this machine."""
    names = profile.names()
    if options.names:
        for name in names:
            out.say(name)
        out.result({"profiles": names})
        return codes.OK
    found = [_one(name) for name in names]
    out.result({"folder": str(profile.home()), "profiles": found})
    if found:
        rows = [[one["profile"], one["name"] or "damaged", one["url"] or ""] for one in found]
        out.table(["profile", "participant", "server"], rows)
    else:
        out.say(f"No profile in {profile.home()}; `fedclient join` makes one.")
    return codes.OK


def _one(name: str) -> dict[str, Any]:
    try:
        return _who(Profile.load(name))
    except errors.ProfileError:
        folder = str(Profile.folder_of(name))
        return {"profile": name, "folder": folder, "participant": None, "name": None, "url": None}


def rotate_key(options: argparse.Namespace, out: Output) -> int:
    """Change to a new key."""
    with Participant.load(options.profile) as participant:
        participant.rotate_key(patience=PATIENCE)
        mine = participant.profile
    out.say(f"{mine.name} has a new key at {mine.url}; the old one is worth nothing now.")
    out.result({"profile": mine.profile, "rotated": True})
    return codes.OK


def leave(options: argparse.Namespace, out: Output) -> int:
    """End the enrolment, once it is sure that this is meant."""
    mine = Profile.load(options.profile)
    if not options.yes and not _sure(mine, out):
        out.say("Nothing was changed.")
        return codes.FAILED
    if options.here_only:
        with mine.locked():
            pass
        mine.remove()
    else:
        with Participant.load(options.profile) as participant:
            participant.leave(patience=PATIENCE)
    told = "it was not told" if options.here_only else "it accepts this key no more"
    out.say(f"Left {mine.url}, {told}; nothing is kept here.")
    out.result({"profile": mine.profile, "left": True, "server_told": not options.here_only})
    return codes.OK


def _sure(mine: Profile, out: Output) -> bool:
    if out.as_json or not sys.stdin.isatty():
        raise codes.UsageError("Expected --yes where nobody can be asked. Received: none")
    out.say(f"{mine.name} leaves {mine.url}: the key, the weights that are kept for it, its limits")
    out.say("and its log are deleted here. To come back takes a new join code.")
    sys.stdout.write("Leave? [y/N] ")
    sys.stdout.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")
