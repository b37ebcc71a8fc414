"""The way of an operator to a server: its lists, and what may be made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO

from client_sdk.admin.collections import Collection
from client_sdk.admin.errors import typed
from client_sdk.admin.files import opened
from client_sdk.admin.things import JoinCode, Model, Participant, Round, Run
from client_sdk.errors import ServerRefused
from client_sdk.following import personal

PATIENCE = 10.0  # seconds for what only reads; what changes something is asked for once


class Admin:
    """A server, as an operator or an owner sees it.

    Args:
        url: The server's address.
        token: A personal token (`fsu_…`), from the profile page of the dashboard or
            `manage.py personal_token`; None for the environment's `FEDSERVER_TOKEN`. It allows what
            its owner's role allows.

    Raises:
        AddressRefused: Plain http to another machine.
        TokenMissing: No token here, and none in the environment.

    Example:
        >>> admin = Admin("https://fed.example.org", "fsu_secret")
        >>> admin
        Admin('https://fed.example.org')
    """

    def __init__(self, url: str, token: str | None = None) -> None:
        self.transport, self.token = personal(url, token)
        self.url = self.transport.url

    def close(self) -> None:
        """Close the connections."""
        self.transport.close()

    def __repr__(self) -> str:
        return f"Admin({self.url!r})"

    # --- What there is ---

    @property
    def models(self) -> Models:
        """All models, by slug."""
        return Models(self, Model, "models", lambda one: Model(self, one))

    @property
    def runs(self) -> Runs:
        """All runs, by id."""
        return Runs(self, Run, "runs", lambda one: Run(self, one))

    @property
    def rounds(self) -> Collection[Round]:
        """The rounds of all runs, by id."""
        return Collection(self, Round, "rounds", lambda one: Round(self, one))

    @property
    def participants(self) -> Collection[Participant]:
        """All participants, by uuid."""
        return Collection(self, Participant, "participants", lambda one: Participant(self, one))

    @property
    def join_codes(self) -> JoinCodes:
        """All join codes, by id, without their secrets."""
        return JoinCodes(self, JoinCode, "join-codes", lambda one: JoinCode(self, one))

    # --- Requests ---

    def get(
        self,
        path: str,
        params: Mapping[str, Any] | None = None,
        *,
        patience: float | None = PATIENCE,
    ) -> Any:
        """A document of the API.

        Args:
            path: Below /api/v1/.
            params: Of its query.
            patience: Seconds to go on trying.

        Raises:
            NotFound: There is none.
            NotAllowed: The token's role does not allow it.
            LoginRefused: The token is not accepted.
            ServerUnreachable: When patience ends.
        """
        return self._ask("GET", path, params=_asked(params or {}), patience=patience)

    def post(self, path: str, body: Mapping[str, Any]) -> Any:
        """A decision, asked for once: its answer.

        Raises:
            NotNow: The state of things does not allow it.
            Invalid: A value makes no sense.
            ServerUnreachable: There was no answer; it may have happened all the same.
        """
        return self._ask("POST", path, json=dict(body), patience=0.0)

    def upload(self, path: str, fields: Mapping[str, Any], files: Mapping[str, BinaryIO]) -> Any:
        """A form with files."""
        return self._ask("POST", path, data=dict(fields), files=dict(files), patience=0.0)

    def _ask(self, method: str, path: str, **options: Any) -> Any:
        try:
            return self.transport.request(method, path, **options)
        except ServerRefused as refused:
            raise typed(refused) from None


class Runs(Collection[Run]):
    """Runs, and how one is made."""

    def create(self, model: str, *, start: bool = False, **rules: Any) -> Run:
        """Make a run: a draft, until it is started.

        Args:
            model: Slug of its model.
            start: Whether to start it at once.
            **rules: What differs from the defaults: `name`, `rounds_planned`, `strategy`,
                `cohort_goal`, `quorum`, `hyperparameters={"epochs": 2}` and what else the wizard
                of the dashboard asks for.

        Raises:
            Invalid: A rule makes no sense; `field` says which.
        """
        run = self._make(self._admin.post("runs", {"model": model, **rules}))
        return run.start() if start else run


class JoinCodes(Collection[JoinCode]):
    """Join codes, and how one is made."""

    def make(
        self,
        label: str = "",
        *,
        model: str | None = None,
        max_uses: int = 1,
        expires_at: datetime | None = None,
    ) -> JoinCode:
        """Make a join code. Its secret is `.code`, and nowhere to be had again.

        Args:
            label: For whom it is.
            model: The one model that its participants train; None for any.
            max_uses: How many may enrol with it.
            expires_at: Until when; None for a week.
        """
        until = expires_at.isoformat() if expires_at else None
        body = {"label": label, "model": model, "max_uses": max_uses, "expires_at": until}
        document = self._admin.post("join-codes", body)
        made = self._make(document)
        made.code = document["code"]
        made.document.pop("code")
        return made


class Models(Collection[Model]):
    """Models, and how one is made."""

    def create(
        self,
        slug: str,
        model: Any,
        *,
        evaluation: tuple[Any, Any] | Path | str | None = None,
        labels: Sequence[str] = (),
        name: str = "",
        **more: Any,
    ) -> Model:
        """Register a model; its weights become version 1, and are served.

        Args:
            slug: Its name in addresses.
            model: A compiled `keras.Model`, or the path of a `.keras` file.
            evaluation: The held-out set `(x, y)` by which versions are measured, or the path of
                an `.npz` file with `x` and `y`.
            labels: Names of the classes, in the order of the outputs.
            name: For people.
            **more: `description`, `loss`, `scale`, `offset`, `local` and `frozen` as the API
                has them.

        Raises:
            Invalid: The model cannot be used; the sentence says why.
            NotNow: There is one of this slug already.
        """
        given = {"slug": slug, "name": name or slug, "labels": list(labels), **more}
        fields = {key: value for key, value in given.items() if value not in (None, [], ())}
        with opened(model, evaluation) as files:
            document = self._admin.upload("models", fields, files)
        return self[document["slug"]]


def _asked(params: Mapping[str, Any]) -> dict[str, Any]:
    """Filters as an address has them."""
    return {
        name: str(value).lower() if isinstance(value, bool) else value
        for name, value in params.items()
        if value is not None
    }
