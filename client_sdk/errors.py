"""Everything that can go wrong for a participant.

    ParticipantError                 base of all; catch this to catch any
    ├── ProfileError                 the profile on this machine
    │   ├── ProfileNotFound          no profile of this name: enrol first
    │   ├── ProfileExists            enrolled already: load it, or choose another name
    │   ├── ProfileInvalid           its files are damaged, or readable by others
    │   └── ProfileInUse             another process takes part with it
    ├── AddressRefused               plain http to another machine, or no address at all
    ├── ServerUnreachable            no answer within the patience that the caller has
    │   └── CertificateRefused       an answer, but not from whom it should come
    ├── ServerDistrusted             an answer that a sound server would not give
    │   ├── RedirectRefused          it sends us elsewhere
    │   ├── IntegrityError           a blob of another digest, size or shape than promised
    │   └── TooSlow                  it takes longer than any sound connection
    ├── CapabilityMissing            the strategy asks for what cannot be done here
    ├── Declined                     the participant itself does not want this assignment
    │   └── LimitReached             one of its own limits says so
    ├── ServerRefused                a problem document: status, code, detail, field
    │   ├── VersionRefused           this SDK and that server do not understand each other
    │   ├── EnrolmentRefused         the join code is unknown, expired or used up
    │   ├── LoginRefused             key or token not accepted
    │   ├── ParticipantSuspended     wait until an operator lifts it
    │   ├── ParticipantRevoked       for good
    │   ├── RoundClosed              the assignment no longer counts
    │   ├── UpdateConflict           another update was counted for this assignment
    │   └── UpdateRefused            this update is not acceptable
    └── TrainingFailed               several exchanges in a row came to nothing

The trainer adds its own below `ParticipantError`: see `client_sdk.training`.
Messages say what was expected and end with `Received: …`; none holds a secret or training data.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class ParticipantError(Exception):
    """Base of everything that this package raises on purpose."""


class ProfileError(ParticipantError):
    """Something is wrong with the profile on this machine."""


class ProfileNotFound(ProfileError):
    """There is no profile of this name."""


class ProfileExists(ProfileError):
    """A profile of this name is enrolled already."""


class ProfileInvalid(ProfileError):
    """The profile's files are damaged, or others can read its key."""


class ProfileInUse(ProfileError):
    """Another process takes part with this profile."""


class AddressRefused(ParticipantError):
    """The server's address is none, or would carry secrets in the clear."""


class ServerUnreachable(ParticipantError):
    """The server did not answer within the time that the caller was willing to wait."""


class CertificateRefused(ServerUnreachable):
    """The server could not prove that it is who its address says."""


class ServerDistrusted(ParticipantError):
    """The server answered what a sound server would not."""


class RedirectRefused(ServerDistrusted):
    """The server sent us to another address, where a token has no business."""


class IntegrityError(ServerDistrusted):
    """What the server sent has not the digest, size or shape that it announced."""


class TooSlow(ServerDistrusted):
    """The server keeps a request busy for longer than any sound connection needs."""


class CapabilityMissing(ParticipantError):
    """The run's strategy asks for what this SDK, or who trains here, cannot do."""


class Declined(ParticipantError):
    """The participant itself does not want this assignment.

    Raise it in `on_event`, up to the event "sending", to give an assignment back and go on with
    the next.

    Attributes:
        code: what the server is told; the message stays here.
    """

    code = "declined"


class LimitReached(Declined):
    """One of the participant's own limits forbids it.

    Args:
        limit: name of the limit, as in `client_sdk.limits.Limits`.
        expected: what it allows.
        received: what there is.
    """

    def __init__(self, limit: str, expected: str, received: object) -> None:
        super().__init__(f"Expected {expected}, by the limit {limit}. Received: {received}")
        self.limit = limit
        self.code = f"limit_{limit}"


class TrainingFailed(ParticipantError):
    """Several exchanges in a row came to nothing; the last reason is the cause."""


class ServerRefused(ParticipantError):
    """The server understood and said no.

    Args:
        status: HTTP status.
        code: stable short name of the reason, from the problem document.
        detail: sentence for people.
        field: the field at fault, where there is one.
    """

    def __init__(self, status: int, code: str, detail: str, field: str | None = None) -> None:
        super().__init__(f"{detail} [{code}]")
        self.status = status
        self.code = code
        self.detail = detail
        self.field = field


class VersionRefused(ServerRefused):
    """The server does not understand this version of the SDK, or it not the server."""


class EnrolmentRefused(ServerRefused):
    """The join code is unknown, expired, used up or revoked."""


class LoginRefused(ServerRefused):
    """The server does not accept this key or token."""


class ParticipantSuspended(ServerRefused):
    """An operator has suspended this participant; it may come back."""


class ParticipantRevoked(ServerRefused):
    """An operator has revoked this participant for good."""


class RoundClosed(ServerRefused):
    """The assignment no longer counts: its round is closed, or it is not ours."""


class EvaluationClosed(ServerRefused):
    """What we measured no longer counts: the evaluation has ended, or has a report of ours."""


class UpdateConflict(ServerRefused):
    """Another update was counted for this assignment already."""


class UpdateRefused(ServerRefused):
    """The server does not accept this update, now or later."""


_BY_CODE: dict[str, type[ServerRefused]] = {
    "sdk_unsupported": VersionRefused,
    "join_code_invalid": EnrolmentRefused,
    "signature_invalid": LoginRefused,
    "challenge_expired": LoginRefused,
    "token_invalid": LoginRefused,
    "token_expired": LoginRefused,
    "participant_suspended": ParticipantSuspended,
    "participant_revoked": ParticipantRevoked,
    "round_closed": RoundClosed,
    "assignment_not_found": RoundClosed,
    "evaluation_closed": EvaluationClosed,
    "evaluation_not_found": EvaluationClosed,
    "report_conflict": EvaluationClosed,
    "update_conflict": UpdateConflict,
}
_BY_STATUS: dict[int, type[ServerRefused]] = {
    401: LoginRefused,
    411: UpdateRefused,
    413: UpdateRefused,
    415: UpdateRefused,
}


def plain(text: str) -> str:
    """A server's words without what would move a terminal's cursor."""
    return "".join(letter if letter.isprintable() else " " for letter in text)


def refusal(status: int, problem: Mapping[str, Any]) -> ServerRefused:
    """The typed error of a problem document (RFC 9457); of {} where the body was none."""
    code = plain(str(problem.get("code") or f"http_{status}"))
    detail = plain(str(problem.get("detail") or problem.get("title") or f"HTTP status {status}"))
    field = problem.get("field")
    kind = _BY_CODE.get(code) or _BY_STATUS.get(status, ServerRefused)
    return kind(status, code[:100], detail[:1000], str(field) if field is not None else None)
