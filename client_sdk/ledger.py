"""The ledger: what left this machine, written down before it leaves.

    ledger.jsonl   a line of JSON for each thing that left, its owner's alone to read
    today.json     how many updates have left on this day

A line is on the disk before the first byte of an update is sent: whoever kills the process, or
cuts the power, in between finds an update listed that perhaps did not leave, and never one that
left unlisted. What is learned later (that it arrived, what became of it) is a line of its own;
reading puts them together. The ledger holds names, counts, sizes and metrics, and never data.

It forgets the oldest lines when it grows beyond `LIMIT`. The day's count has a file of its own,
so that nothing that is forgotten there can lift the limit of rounds per day.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import UTC, date, datetime
from pathlib import Path
from types import NoneType
from typing import Any

from client_sdk.errors import ProfileInvalid
from client_sdk.keys import sync_folder, write_private

KINDS = {
    "enrolment": "the join code, a name and a public key",
    "versions": "versions of this SDK, Python and Keras, and what strategies may ask of it, at the "
    "first check-in of a process",
    "progress": "how far a training is, and its metrics; one entry for each assignment",
    "update": "weight changes, with a count, metrics and what the strategy asks for, signed",
    "evaluation": "metrics of a version on held-out examples, with a count of these and of each "
    "class",
    "failure": "that an assignment came to nothing, or was declined, and a code that says why",
    "key": "a new public key",
}

LIMIT = 16 << 20  # bytes
_NAMES_LIMIT = 100_000  # characters of tensors' names in an entry
_OPEN = ("sending", "uploaded")  # updates of which the server has said nothing final


@dataclass(frozen=True, slots=True)
class Entry:
    """One thing that left this machine.

    Args:
        at: when it was written down, just before it left.
        kind: one of `KINDS`.
        model: slug of the model; `run`, `round`, `number` (of the round in its run) and
            `assignment` as the server numbers them; `version` is the one trained from.
        bytes: length of what left.
        tensors: names of the weights whose changes left.
        samples: examples trained on, as the server was told.
        metrics: numbers that left, by name; `reports` those that the strategy asked for.
        evaluation: what was measured for, as the server numbers it; `classes` says for each class
            how many examples of it there were, and how many of these were recognised.
        sha256: of the bytes that left.
        detail: words that left: a reason, a name, versions.
        state: of an update "sending", "uploaded" once the server has it, and then its verdict:
            "accepted", "rejected", "quarantined", "late", …; `code` and `reason` say why, and
            `published` is the number of the version that came of its round.
        times: how often it was sent, or told anew.
    """

    at: datetime
    kind: str
    model: str = ""
    run: int | None = None
    round: int | None = None
    number: int | None = None
    assignment: int | None = None
    version: int | None = None
    bytes: int = 0
    tensors: tuple[str, ...] = ()
    samples: int | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    reports: Mapping[str, float] = field(default_factory=dict)
    evaluation: int | None = None
    classes: tuple[tuple[int, int], ...] = ()
    sha256: str = ""
    detail: str = ""
    state: str = ""
    code: str = ""
    reason: str = ""
    published: int | None = None
    times: int = 1

    def to_json(self) -> dict[str, Any]:
        """As a JSON object, without what it has nothing to say about."""
        told = {name: value for name, value in asdict(self).items() if value not in _NOTHING}
        told["at"] = self.at.isoformat(timespec="milliseconds")
        if self.times == 1:
            del told["times"]
        return told

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Entry:
        """Read what `to_json` wrote; names that are unknown here are let go.

        Raises:
            ValueError: for what it did not write.
        """
        known = {name: document[name] for name in _FIELDS & document.keys()}
        known |= {"at": datetime.fromisoformat(document["at"])}
        known |= {"tensors": tuple(document.get("tensors", ()))}
        known |= {"classes": tuple(tuple(one) for one in document.get("classes", ()))}
        odd = [name for name in known if not isinstance(known[name], _TYPES[name])]
        if odd or known["at"].tzinfo is None:
            raise ValueError(f"Expected an entry of a ledger. Received: other values of {odd}")
        return cls(**known)


_NOTHING: tuple[Any, ...] = ("", None, 0, (), {})
_FIELDS = {one.name for one in fields(Entry)}
_TYPES: dict[str, tuple[type, ...]] = dict.fromkeys(_FIELDS, (str,)) | {
    "at": (datetime,),
    "bytes": (int,),
    "times": (int,),
    "classes": (tuple,),
    "tensors": (tuple,),
    "metrics": (dict,),
    "reports": (dict,),
}
_TYPES |= dict.fromkeys(
    ("run", "round", "number", "assignment", "version", "samples", "evaluation", "published"),
    (int, NoneType),
)


class Ledger:
    """What left this machine, newest last.

    Args:
        folder: the profile's.
        limit: bytes to keep, about.

    Example:
        >>> ledger.note("key", detail="a new public key")
        >>> ledger.entries()[-1].kind
        'key'
    """

    def __init__(self, folder: Path, limit: int = LIMIT) -> None:
        self.path = folder / "ledger.jsonl"
        self.limit = limit
        self._lock = threading.Lock()

    def note(self, kind: str, *, durable: bool = True, **told: Any) -> None:
        """Write down what is about to leave, or what was learned of it.

        Args:
            kind: one of `KINDS`.
            durable: whether it must outlive a power cut, and not only the process.
            told: fields of `Entry`.
        """
        entry = Entry(at=datetime.now(UTC), kind=kind, **told)
        names = sum(len(name) for name in entry.tensors)
        if names > _NAMES_LIMIT:
            entry = replace(entry, tensors=(*_first(entry.tensors), "…"))
        line = _line(entry)
        with self._open(len(line)) as descriptor:
            new = os.fstat(descriptor).st_size == 0
            torn = b"" if _ends_well(descriptor) else b"\n"  # the last writer was killed
            _write(descriptor, torn + line)
            if durable:
                os.fsync(descriptor)
            if new and durable:
                sync_folder(self.path.parent)

    def entries(self) -> list[Entry]:
        """All that is kept, in the order in which it began; lines about one thing are one entry."""
        try:
            content = self.path.read_bytes()
        except FileNotFoundError:
            return []
        return list(_fold(_entries(content.splitlines())).values())

    def open_updates(self) -> list[Entry]:
        """Updates of which it is not known here what became of them."""
        return [one for one in self.entries() if one.kind == "update" and one.state in _OPEN]

    @contextmanager
    def _open(self, length: int) -> Iterator[int]:
        """The file, held against other threads and processes, with room for so many bytes."""
        with self._lock:
            descriptor = self._held()
            try:
                if os.fstat(descriptor).st_size + length > self.limit:
                    self._shorten()
                    os.close(descriptor)
                    descriptor = self._held()
                yield descriptor
            finally:
                os.close(descriptor)

    def _shorten(self) -> None:
        """Keep the newest half, in a new file."""
        kept, size = [], 0
        for entry in reversed(self.entries()):
            line = _line(entry)
            size += len(line)
            if size > self.limit // 2:
                break
            kept.append(line)
        write_private(self.path, b"".join(reversed(kept)))

    def _held(self) -> int:
        while True:
            descriptor = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
            if os.name != "posix":  # pragma: no cover - Windows
                return descriptor
            os.fchmod(descriptor, 0o600)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            here = os.stat(self.path) if self.path.exists() else None
            if here is not None and here.st_ino == os.fstat(descriptor).st_ino:
                return descriptor
            os.close(descriptor)  # shortened by another process while we waited


if os.name == "posix":
    import fcntl


def _line(entry: Entry) -> bytes:
    text = json.dumps(entry.to_json(), ensure_ascii=False, allow_nan=False)
    return text.encode("utf-8", "replace") + b"\n"


def _first(names: Iterable[str]) -> Iterator[str]:
    left = _NAMES_LIMIT
    for name in names:
        left -= len(name)
        if left < 0:
            return
        yield name


def _ends_well(descriptor: int) -> bool:
    size = os.fstat(descriptor).st_size
    if not size:
        return True
    os.lseek(descriptor, size - 1, os.SEEK_SET)
    return os.read(descriptor, 1) == b"\n"


def _write(descriptor: int, content: bytes) -> None:
    while content:
        content = content[os.write(descriptor, content) :]


def _entries(lines: Iterable[bytes]) -> Iterator[Entry]:
    for line in lines:
        try:
            yield Entry.from_json(json.loads(line))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            continue  # torn when its writer was killed: what it was to list had not left


def _fold(entries: Iterable[Entry]) -> dict[object, Entry]:
    """One entry for all lines about one thing; a later word replaces an earlier one."""
    found: dict[object, Entry] = {}
    for place, entry in enumerate(entries):
        about = entry.assignment is not None and entry.kind in ("update", "progress")
        key: object = (entry.kind, entry.assignment) if about else place
        before = found.get(key)
        found[key] = entry if before is None else _merge(before, entry)
    return found


def _merge(before: Entry, later: Entry) -> Entry:
    told = {
        name: getattr(later, name)
        for name in _FIELDS - {"at", "kind", "times"}
        if getattr(later, name) not in _NOTHING
    }
    again = later.kind == "progress" or later.state == "sending"
    if later.state == "sending" and before.state not in ("sending", "refused"):
        del told["state"]  # sent once more, though the server has it
    return replace(before, times=before.times + (later.times if again else 0), **told)


class Today:
    """How many updates have left on this day of the machine's calendar.

    Counted before an update leaves, so that whoever is killed in between has counted one too
    many and never one too few. The same update sent again counts once a day.

    Args:
        folder: the profile's.
        now: the local time.
    """

    def __init__(self, folder: Path, now: Callable[[], datetime]) -> None:
        self._path = folder / "today.json"
        self._now = now

    def count(self, without: int | None = None) -> int:
        """How many have left today.

        Args:
            without: an assignment that is not to be counted.

        Raises:
            ProfileInvalid: when the file is damaged: to count anew would lift the limit.
        """
        _, rounds, last = self._read()
        return rounds - (without is not None and last == without)

    def add(self, assignment: int) -> None:
        """Count an update that is about to leave."""
        day, rounds, last = self._read()
        rounds += last != assignment
        told = {"day": day.isoformat(), "rounds": rounds, "assignment": assignment}
        write_private(self._path, json.dumps(told).encode())

    def _read(self) -> tuple[date, int, int | None]:
        today = self._now().date()
        try:
            told = json.loads(self._path.read_text("utf-8"))
            day, rounds, last = date.fromisoformat(told["day"]), told["rounds"], told["assignment"]
            if not (isinstance(rounds, int) and isinstance(last, int)):
                raise ValueError
        except FileNotFoundError:
            return today, 0, None
        except (OSError, ValueError, KeyError, TypeError):
            expected = f"the day's count in {self._path}"
            raise ProfileInvalid(f"Expected {expected}. Received: another file") from None
        # A day after today: the clock was set back, as after each start of a machine that keeps no
        # time. What has left stays counted until that day is over.
        return (today, 0, None) if day < today else (day, rounds, last)
