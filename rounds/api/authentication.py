"""How the API knows a participant: the token that it got for a signed challenge."""

from dataclasses import dataclass

from rest_framework.authentication import BaseAuthentication
from rest_framework.request import Request

from accounts.authentication import bearer
from accounts.roles import Role
from rounds import enrolment
from rounds.models import Participant


@dataclass(frozen=True, slots=True)
class Principal:
    """A participant in the place of a request's user."""

    participant: Participant
    role: str = Role.PARTICIPANT
    is_authenticated: bool = True
    is_active: bool = True

    @property
    def model_slug(self) -> str | None:
        """The one model that it may see, or None for any."""
        return self.participant.model.slug if self.participant.model else None

    @property
    def pk(self) -> str:
        return f"participant-{self.participant.pk}"

    def __str__(self) -> str:
        return self.participant.name


class ParticipantTokenAuthentication(BaseAuthentication):
    """`Authorization: Bearer fsp_…`; every other bearer token is left to the next class."""

    def authenticate(self, request: Request) -> tuple[Principal, None] | None:
        token = bearer(request)
        if not token or token.startswith("fsu_"):
            return None
        return Principal(enrolment.authenticate(token)), None

    def authenticate_header(self, request: Request) -> str:
        return 'Bearer realm="fedserver"'
