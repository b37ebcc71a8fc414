"""How a participant comes, proves who it is, is seen, and leaves.

    make_join_code → enrol → challenge → token → authenticate …
    suspend · reinstate · revoke · rotate · leave

Codes, challenges and tokens are random and only their digests are kept. A participant is its
Ed25519 key: a code admits a key once, and a token is given for a challenge signed by that key.
"""

import secrets
from collections.abc import Collection
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from django.conf import settings
from django.core import signing
from django.db import IntegrityError
from django.db.models import F

from accounts.models import digest
from client_sdk import wire
from journal import events
from models_app.errors import FedserverError
from models_app.models import Model
from rounds import capabilities, clock, lifecycle
from rounds.errors import (
    ChallengeExpired,
    IllegalMove,
    JoinCodeInvalid,
    NotAuthenticated,
    ParticipantRevoked,
    ParticipantSuspended,
    RulesInvalid,
    SignatureInvalid,
    TokenExpired,
    TokenInvalid,
)
from rounds.models import JoinCode, Participant, ParticipantToken

State = Participant.State
_CHALLENGE_SALT = "fedserver.challenge"
NAME_LIMIT = 100
# Of the model that a participant is bound to: megabytes, which each of its requests would read.
_HEAVY = tuple(f"participant__model__{name}" for name in ("architecture", "weights_manifest"))


# --- Join codes -------------------------------------------------------------------------------


def make_join_code(
    *,
    label: str = "",
    model: Model | None = None,
    max_uses: int = 1,
    expires_at: datetime | None = None,
    actor: str = "",
    user: Any = None,
) -> tuple[JoinCode, str]:
    """A code to give out; it is returned once and only its digest is kept.

    Args:
        label: For whom it is.
        model: The one model that its participants train; None for any.
        max_uses: How many participants it admits.
        expires_at: Until when; None for a week.
        actor: Who asks, for the journal.
        user: The Django user who asks, if one does.

    Raises:
        RulesInvalid: A use count below 1, or an expiry that has passed.
    """
    now = clock.now()
    expires_at = expires_at or now + timedelta(days=7)
    if type(max_uses) is not int or not 1 <= max_uses <= 1_000_000:
        raise RulesInvalid(f"Expected 1 to 1000000 uses. Received: {max_uses!r}", field="max_uses")
    if expires_at <= now:
        raise RulesInvalid(
            f"Expected a time in the future. Received: {expires_at}", field="expires_at"
        )
    secret = "fsj_" + secrets.token_urlsafe(18)  # a code that began with "-" would be an option
    with events.transaction() as journal:
        code = JoinCode.objects.create(
            label=label,
            digest=digest(secret),
            model=model,
            max_uses=max_uses,
            expires_at=expires_at,
            created_by=user,
            created_at=now,
        )
        journal.record(
            "join_code.created",
            actor=actor,
            label=label,
            max_uses=max_uses,
            expires_at=expires_at.isoformat(),
        )
    return code, secret


def withdraw_join_code(code: JoinCode, *, actor: str = "", reason: str = "") -> None:
    """Nobody may enrol with it from now on; who has enrolled stays."""
    with events.transaction() as journal:
        if JoinCode.objects.filter(pk=code.pk, withdrawn_at=None).update(withdrawn_at=clock.now()):
            journal.record("join_code.withdrawn", actor=actor, reason=reason, label=code.label)


# --- Coming -----------------------------------------------------------------------------------


def enrol(
    *, code: str, name: str, public_key: str, signature: str, sdk: dict[str, Any] | None = None
) -> tuple[Participant, bool]:
    """Admit a key by a join code.

    The same key with the same code again is the same participant, and uses the code once: its
    first answer may have been lost.

    Args:
        code: The join code.
        name: What people call the participant.
        public_key: 32 raw bytes, base64url.
        signature: Of `wire.enrol_message`, by that key.
        sdk: Versions of the SDK, for people to see.

    Returns:
        The participant, and whether it is new.

    Raises:
        JoinCodeInvalid: Unknown, withdrawn, expired or used up; which, is not told.
        SignatureInvalid: The key did not sign.
        RulesInvalid: The name is empty or too long.
    """
    name = name.strip()
    if not 1 <= len(name) <= NAME_LIMIT or not name.isprintable():
        raise RulesInvalid(
            f"Expected a name of 1 to {NAME_LIMIT} printable characters. Received: {name!r:.150}",
            field="name",
        )
    verify(public_key, wire.enrol_message(code, name, public_key), signature)
    refusal = JoinCodeInvalid(
        "Expected a join code that is known, not used up, not expired. "
        f"Received: a code of {len(code)} characters",
        field="code",
    )
    with events.transaction() as journal:
        codes = JoinCode.objects.select_for_update(no_key=True)
        found = codes.filter(digest=digest(code)).first()
        if found is None:
            raise refusal
        if mine := Participant.objects.filter(public_key=public_key, join_code=found).first():
            return mine, False
        now = clock.now()
        usable = JoinCode.objects.filter(
            pk=found.pk, withdrawn_at=None, expires_at__gt=now, uses__lt=F("max_uses")
        )
        if not usable.update(uses=F("uses") + 1):
            raise refusal
        if Participant.objects.filter(public_key=public_key).exists():
            raise JoinCodeInvalid(
                "Expected a key that has not enrolled. Received: one that has", field="public_key"
            )
        participant = Participant.objects.create(
            name=name,
            public_key=public_key,
            model=found.model,
            join_code=found,
            **_told(sdk or {}),
            enrolled_at=now,
            last_seen_at=now,
        )
        journal.record("participant.enrolled", actor=name, participant=participant.pk, name=name)
    return participant, True


def verify(public_key: str, message: bytes, signature: str) -> None:
    """Check an Ed25519 signature.

    Raises:
        SignatureInvalid: The key or the signature is malformed, or does not fit the message.
    """
    try:
        raw = wire.unb64(public_key)
        Ed25519PublicKey.from_public_bytes(raw).verify(wire.unb64(signature), message)
    except (InvalidSignature, ValueError) as error:
        raise SignatureInvalid(
            "Expected an Ed25519 signature by the participant's key. "
            f"Received: one of {len(signature)} characters that does not verify",
            field="signature",
        ) from error


# --- Proving ----------------------------------------------------------------------------------


def make_challenge(uuid: UUID) -> tuple[str, int]:
    """Something fresh to sign, and for how many seconds it is good. Nothing is stored for it."""
    challenge = signing.dumps(
        {"participant": str(uuid), "nonce": secrets.token_urlsafe(16)}, salt=_CHALLENGE_SALT
    )
    return challenge, settings.CHALLENGE_SECONDS


def issue_token(uuid: UUID, challenge: str, signature: str) -> tuple[str, int]:
    """A token for a signed challenge; each challenge buys one.

    Returns:
        The token, and for how many seconds it is good.

    Raises:
        ChallengeExpired: Too old, forged, another's, or used.
        SignatureInvalid: Not signed by the participant's key.
        ParticipantSuspended, ParticipantRevoked: It may not have one.
    """
    expired = ChallengeExpired(
        "Expected a fresh challenge of this participant. Received: an old or foreign one",
        field="challenge",
    )
    try:
        told = signing.loads(challenge, salt=_CHALLENGE_SALT, max_age=settings.CHALLENGE_SECONDS)
    except signing.BadSignature as error:
        raise expired from error
    participant = Participant.objects.filter(uuid=uuid).first()
    if told["participant"] != str(uuid) or participant is None:
        raise expired
    verify(participant.public_key, wire.token_message(challenge), signature)
    _expect_active(participant)
    secret = "fsp_" + secrets.token_urlsafe(32)
    try:
        ParticipantToken.objects.create(
            participant=participant,
            digest=digest(secret),
            challenge=digest(challenge),
            expires_at=clock.now() + timedelta(seconds=settings.TOKEN_SECONDS),
        )
    except IntegrityError as error:
        raise expired from error
    return secret, settings.TOKEN_SECONDS


def authenticate(token: str) -> Participant:
    """The participant that a token stands for.

    Raises:
        NotAuthenticated: No token was shown.
        TokenInvalid, TokenExpired: It is unknown or old.
        ParticipantSuspended, ParticipantRevoked: Effective at once.
    """
    if not token:
        raise NotAuthenticated("Expected `Authorization: Bearer <token>`. Received: no token")
    tokens = ParticipantToken.objects.select_related("participant__model")
    try:
        found = tokens.defer(*_HEAVY).get(digest=digest(token))
    except ParticipantToken.DoesNotExist:
        raise _unknown_token() from None
    _expect_good(found, clock.now())
    return found.participant


def watch(digests: Collection[str]) -> dict[str, FedserverError]:
    """Look at many tokens whose participants are connected, and mark those as seen.

    Args:
        digests: Of the tokens; a few hundred at most, for one statement names them all.

    Returns:
        What `authenticate` would raise, for those for which it would.
    """
    now = clock.now()
    refusals: dict[str, FedserverError] = {one: _unknown_token() for one in digests}
    here = []
    tokens = ParticipantToken.objects.select_related("participant").filter(digest__in=digests)
    for token in tokens.only("digest", "expires_at", "participant__state"):
        try:
            _expect_good(token, now)
        except FedserverError as error:
            refusals[token.digest] = error
        else:
            del refusals[token.digest]
            here.append(token.participant_id)
    Participant.objects.filter(pk__in=here).update(last_seen_at=now)
    return refusals


def _unknown_token() -> FedserverError:
    return TokenInvalid("Expected a token of this server. Received: an unknown one")


def _expect_good(token: ParticipantToken, now: datetime) -> None:
    _expect_active(token.participant)
    if token.expires_at <= now:
        raise TokenExpired(f"Expected a fresh token. Received: one until {token.expires_at}")


def _expect_active(participant: Participant) -> None:
    if participant.state == State.SUSPENDED:
        raise ParticipantSuspended("An operator suspended this participant; ask them why.")
    if participant.state == State.REVOKED:
        raise ParticipantRevoked("This participant was revoked; enrol again with a new code.")


def tidy_tokens() -> int:
    """Delete tokens that have expired; how many."""
    return ParticipantToken.objects.filter(expires_at__lt=clock.now()).delete()[0]


# --- Staying and leaving ----------------------------------------------------------------------


def note_sdk(participant: Participant, sdk: dict[str, Any]) -> None:
    """Remember the versions that a participant's SDK tells, for people to see."""
    Participant.objects.filter(pk=participant.pk).update(**_told(sdk))


def _told(sdk: dict[str, Any]) -> dict[str, Any]:
    """The columns that hold what an SDK told."""
    return {"sdk": sdk, "capabilities": capabilities.column(capabilities.told(sdk))}


def suspend(participant: Participant, *, actor: str = "", reason: str = "") -> None:
    """No rounds and no requests until reinstated. Raises IllegalMove."""
    _become(participant, State.SUSPENDED, (State.ACTIVE,), "suspended", actor, reason)


def reinstate(participant: Participant, *, actor: str = "", reason: str = "") -> None:
    """A suspended participant may take part again. Raises IllegalMove."""
    _become(participant, State.ACTIVE, (State.SUSPENDED,), "reinstated", actor, reason)


def revoke(participant: Participant, *, actor: str = "", reason: str = "") -> None:
    """For good: its key and its tokens are worth nothing from now on. Raises IllegalMove."""
    legal = (State.ACTIVE, State.SUSPENDED)
    _become(participant, State.REVOKED, legal, "revoked", actor, reason)


def leave(participant: Participant) -> None:
    """The participant goes by itself: as `revoke`, but in its own name."""
    legal = (State.ACTIVE, State.SUSPENDED)
    _become(participant, State.REVOKED, legal, "left", participant.name, "It left by itself.")


def _become(
    participant: Participant, to: str, legal: tuple[str, ...], kind: str, actor: str, reason: str
) -> None:
    with events.transaction() as journal:
        moved = Participant.objects.filter(pk=participant.pk, state__in=legal).update(state=to)
        if not moved:
            state = Participant.objects.values_list("state", flat=True).get(pk=participant.pk)
            raise IllegalMove(f"Expected a participant that is {legal}. Received: {state}")
        participant.state = to
        if to != State.ACTIVE:
            sentence = f"The participant was {kind}." if kind != "left" else reason
            lifecycle.dismiss(participant, journal, code=f"participant_{kind}", reason=sentence)
        if to == State.REVOKED:
            participant.tokens.all().delete()
        journal.record(
            f"participant.{kind}",
            actor=actor,
            reason=reason,
            participant=participant.pk,
            name=participant.name,
        )


def rotate(participant: Participant, *, public_key: str, signature: str) -> None:
    """Replace the participant's key; its tokens die.

    Args:
        participant: Which.
        public_key: The new one.
        signature: Of `wire.rotate_message`, by the old key.

    Raises:
        SignatureInvalid: Not signed by the old key, or the new one is no key.
        RulesInvalid: The new key is in use.
    """
    verify(participant.public_key, wire.rotate_message(public_key), signature)
    try:
        Ed25519PublicKey.from_public_bytes(wire.unb64(public_key))
    except ValueError as error:
        raise SignatureInvalid(
            f"Expected 32 bytes in base64url. Received: {public_key!r:.60}", field="public_key"
        ) from error
    try:
        with events.transaction() as journal:
            Participant.objects.filter(pk=participant.pk).update(public_key=public_key)
            participant.tokens.all().delete()
            journal.record(
                "participant.rotated",
                actor=participant.name,
                participant=participant.pk,
                name=participant.name,
            )
    except IntegrityError as error:
        raise RulesInvalid(
            "Expected a key that nobody uses. Received: one in use", field="public_key"
        ) from error
