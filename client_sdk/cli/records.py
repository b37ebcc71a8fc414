"""log and limits: what has left this machine, and what may."""

from __future__ import annotations

import argparse
import dataclasses
from typing import Any

from client_sdk.cli import codes, times
from client_sdk.cli.output import Output
from client_sdk.cli.parser import LIMITS, spelled
from client_sdk.cli.taking_part import limits_of
from client_sdk.ledger import Entry
from client_sdk.limits import Limits
from client_sdk.participant import Participant
from client_sdk.progress import numbers, size
from client_sdk.receipts import verdict


def log(options: argparse.Namespace, out: Output) -> int:
    """What has left this machine."""
    with Participant.load(options.profile) as participant:
        entries = [
            one for one in participant.log() if options.since is None or one.at >= options.since
        ]
    out.result({"profile": options.profile, "entries": [one.to_json() for one in entries]})
    if entries:
        head = ["at", "what", "model", "round", "bytes", "tensors", "samples", "more"]
        out.table(head, map(_row, entries), right=["round", "bytes", "tensors", "samples"])
    else:
        out.say("Nothing has left this machine.")
    return codes.OK


def _row(entry: Entry) -> list[str]:
    return [
        times.short(entry.at),
        entry.kind + (f" x{entry.times}" if entry.times > 1 else ""),
        entry.model,
        _maybe(entry.number or entry.round),
        size(entry.bytes) if entry.bytes else "",
        _maybe(len(entry.tensors) or None),
        _maybe(entry.samples),
        _more(entry),
    ]


def _maybe(value: object) -> str:
    return "" if value is None else str(value)


def _more(entry: Entry) -> str:
    came = "came of it" if entry.state == "accepted" else "came without it"
    came = f"version {entry.published} {came}" if entry.published else ""
    asked = {name: f"{value:.4f}".rstrip("0").rstrip(".") for name, value in entry.reports.items()}
    told = numbers(entry.metrics), "  ".join(f"{name} {value}" for name, value in asked.items())
    why = (entry.reason or entry.code).rstrip(".")
    parts = (verdict(entry.state, entry.code), why, came, *told, entry.detail)
    return ", ".join(part for part in parts if part)


def show(options: argparse.Namespace, out: Output) -> int:
    """The limits that are kept."""
    with Participant.load(options.profile) as participant:
        limits = participant.limits
    return _show(limits, out)


def _show(limits: Limits, out: Output) -> int:
    kept = {name: getattr(limits, name) for name in LIMITS}
    out.fields(dict(zip(spelled(kept), map(_spell, kept.values()), strict=True)))
    out.result(kept)
    return codes.OK


def _spell(value: Any) -> str:
    if value is None:
        return "no limit"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):
        return ", ".join(value) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)


def change(options: argparse.Namespace, out: Output) -> int:
    """Set limits; the others stay as they are."""
    if not any(hasattr(options, name) for name in LIMITS):
        expected = ", ".join(f"--{name}" for name in spelled(LIMITS))
        raise codes.UsageError(f"Expected one of {expected}. Received: none")
    with Participant.load(options.profile) as participant:
        participant.limits = limits_of(options, participant.limits)
        return _show(participant.limits, out)


def clear(options: argparse.Namespace, out: Output) -> int:
    """Lift limits that were set."""
    defaults = Limits()
    names = options.names or LIMITS
    with Participant.load(options.profile) as participant:
        lifted = {name: getattr(defaults, name) for name in names}
        participant.limits = dataclasses.replace(participant.limits, **lifted)
        return _show(participant.limits, out)
