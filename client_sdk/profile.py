"""A profile: who this machine is to which server, and what it must not lose.

    profiles/NAME/
        profile.json       server, participant, name
        key.pem            private key, 0600
        key.next.pem       while a rotation is under way
        lock               held by the process that takes part
        local/MODEL        weights that stay here, by model
        outbox/ASSIGNMENT/ an update that is trained and not yet acknowledged
        own/RUN/           what a strategy lets us keep of a run, from round to round

Profiles live in the user's configuration folder, or below FEDCLIENT_HOME; the blobs, which can
be fetched again, in the user's cache folder.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

import platformdirs

from client_sdk.errors import ProfileExists, ProfileInUse, ProfileInvalid, ProfileNotFound
from client_sdk.keys import Key, write_private

DEFAULT = "default"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_FILE, _KEY, _NEXT_KEY = "profile.json", "key.pem", "key.next.pem"


def home() -> Path:
    """Folder of all profiles: FEDCLIENT_HOME, or the user's configuration folder."""
    named = os.environ.get("FEDCLIENT_HOME")
    return Path(named).expanduser() if named else platformdirs.user_config_path("fedclient")


def names() -> list[str]:
    """Names of the profiles that are enrolled, sorted."""
    return sorted(path.parent.name for path in home().glob(f"profiles/*/{_FILE}"))


@dataclass(frozen=True, slots=True)
class Profile:
    """One enrolment, as it is kept on this machine.

    Args:
        profile: name of the profile on this machine.
        url: address of the server.
        participant: id that the server gave.
        name: name of the participant, as operators see it.

    Example:
        >>> Profile.load("default").url
        'https://fed.example.org'
    """

    profile: str
    url: str
    participant: str
    name: str

    @staticmethod
    def folder_of(profile: str) -> Path:
        """Folder of a profile, whether it exists or not.

        Raises:
            ProfileInvalid: for a name that could leave the folder of all profiles.
        """
        if not _NAME.fullmatch(profile):
            expected = "1 to 64 letters, digits, dots, dashes or underscores"
            raise ProfileInvalid(f"Expected a profile name of {expected}. Received: {profile!r}")
        return home() / "profiles" / profile

    @classmethod
    def begin(cls, profile: str) -> Key:
        """Make the folder of a new profile, and the key that it will enrol with.

        An enrolment that was cut off left its key: the same one is used again, so that the
        server recognises the participant and no join code is used twice.

        Raises:
            ProfileExists: when the profile is enrolled already.
        """
        folder = cls.folder_of(profile)
        if (folder / _FILE).exists():
            raise ProfileExists(
                f"Expected a profile that is not enrolled yet; this one can be loaded, or leave "
                f"first. Received: {profile!r}"
            )
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if (folder / _KEY).exists():
            return Key.load(folder / _KEY)
        key = Key.generate()
        key.save(folder / _KEY)
        return key

    @classmethod
    def abandon(cls, profile: str) -> None:
        """Forget a profile that was begun and is not enrolled."""
        folder = cls.folder_of(profile)
        if not (folder / _FILE).exists():
            shutil.rmtree(folder, ignore_errors=True)

    @classmethod
    def load(cls, profile: str = DEFAULT) -> Profile:
        """Read a profile.

        Raises:
            ProfileNotFound: when there is none of this name.
            ProfileInvalid: when its file is damaged.
        """
        path = cls.folder_of(profile) / _FILE
        if not path.exists():
            known = f"one of: {', '.join(names())}" if names() else "a profile that has joined"
            raise ProfileNotFound(
                f"Expected {known} (`fedclient join` makes one). Received: {profile!r}"
            )
        try:
            return cls(profile=profile, **json.loads(path.read_text("utf-8")))
        except (ValueError, TypeError):
            raise ProfileInvalid(f"Expected a profile in {path}. Received: another file") from None

    def save(self) -> None:
        """Write the profile, durable."""
        document = {name: value for name, value in asdict(self).items() if name != "profile"}
        write_private(self.folder / _FILE, json.dumps(document, indent=2).encode())

    def remove(self) -> None:
        """Forget the enrolment, with its key and all that it kept."""
        (self.folder / _FILE).unlink(missing_ok=True)
        shutil.rmtree(self.folder, ignore_errors=True)
        shutil.rmtree(self.cache_folder, ignore_errors=True)

    @property
    def folder(self) -> Path:
        """Where the profile lives."""
        return self.folder_of(self.profile)

    @property
    def cache_folder(self) -> Path:
        """Where its blobs live; everything in it can be fetched again."""
        if os.environ.get("FEDCLIENT_HOME"):
            return self.folder / "cache"
        return platformdirs.user_cache_path("fedclient") / self.profile

    # --- Keys ---

    def key(self) -> Key:
        """The key that the server knows, as far as this machine knows."""
        return Key.load(self.folder / _KEY)

    def next_key(self) -> Key | None:
        """The key of a rotation whose answer never came, if there was one."""
        path = self.folder / _NEXT_KEY
        return Key.load(path) if path.exists() else None

    def begin_rotation(self) -> Key:
        """Keep a new key beside the old one until the server has answered."""
        key = self.next_key()
        if key is None:
            key = Key.generate()
            key.save(self.folder / _NEXT_KEY)
        return key

    def finish_rotation(self) -> None:
        """The server knows the new key: the old one is gone."""
        (self.folder / _NEXT_KEY).replace(self.folder / _KEY)

    # --- One process at a time ---

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the profile for this process; the system lets go when the process dies.

        Raises:
            ProfileInUse: when another process holds it.
        """
        with open(self.folder / "lock", "a+b") as file:
            try:
                _lock(file)
            except OSError:
                raise ProfileInUse(
                    f"Expected to be the only process with this profile. Received: "
                    f"{self.profile!r} is in use"
                ) from None
            yield


if os.name == "posix":
    import fcntl

    def _lock(file: IO[bytes]) -> None:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)

else:  # pragma: no cover - Windows
    import msvcrt

    def _lock(file: IO[bytes]) -> None:
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
