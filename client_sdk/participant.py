"""The participant: who we are to a server, and each thing that we can ask of it.

`Participant.participate` puts these together; how is told in `client_sdk.participation`.
"""

from __future__ import annotations

import importlib.metadata
import itertools
import os
import platform
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from client_sdk import wire
from client_sdk.building import expect_room
from client_sdk.cache import BlobCache
from client_sdk.drift import CAPABILITIES
from client_sdk.errors import (
    IntegrityError,
    LoginRefused,
    ParticipantRevoked,
    ServerRefused,
    plain,
)
from client_sdk.events import Event, Summary
from client_sdk.held_out import Measured, told_of
from client_sdk.keys import Key
from client_sdk.ledger import Entry, Ledger, Today
from client_sdk.limits import Limits
from client_sdk.outbox import Outbox, Parcel
from client_sdk.own import OwnState
from client_sdk.participation import Participation
from client_sdk.profile import DEFAULT, Profile
from client_sdk.protocol import (
    Assignment,
    Blob,
    Evaluation,
    ModelCard,
    Wait,
    read_check_in,
    read_text,
)
from client_sdk.served import Prediction, Served, Shelf
from client_sdk.trainers import Data, TrainerLike, Trainers
from client_sdk.transport import Transport, check_address, log_wait, version
from client_sdk.wake import Wake

_LONG_POLL = 20.0  # seconds; proxies tend to cut at 30
_CARD_WITHIN = 3600.0  # seconds to go on asking for a model's description
_GRACE = 30.0  # seconds beyond the long poll before an answer is given up


class Participant:
    """One party in federated training, with its key and its place on this machine.

    Get one with `Participant.enrol` the first time and with `Participant.load` ever after.

    Args:
        profile: an enrolment on this machine.
        transport: what carries the requests, for tests; the network when None.
        sleep: waits for seconds.

    Example:
        >>> from client_sdk.testing import FakeServer, FakeTrainer
        >>> server = FakeServer()
        >>> alice = Participant.enrol(
        ...     server.url, server.join_code(), profile="alice", transport=server.transport
        ... )
        >>> server.open_round()
        1
        >>> x, y = np.zeros((10, 3)), np.zeros(10)
        >>> alice.participate((x, y), rounds=1, trainer=FakeTrainer()).rounds
        1
    """

    def __init__(
        self,
        profile: Profile,
        *,
        transport: httpx.BaseTransport | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.profile = profile
        self.sleep = self.pause = sleep
        self.on_wait: Callable[[str, float], None] = log_wait
        self.now: Callable[[], datetime] = lambda: datetime.now().astimezone()
        self.networked = transport is None
        self.outbox = Outbox(profile.folder / "outbox")
        self.own = OwnState(profile.folder / "own")
        self.cache = BlobCache(profile.cache_folder)
        self.ledger = Ledger(profile.folder)
        self.today = Today(profile.folder, lambda: self.now())
        self._key = profile.key()
        self._assignment: Assignment | None = None
        self._card: ModelCard | None = None
        self._introduced: dict[str, Any] = {}  # what the server was told of this installation
        self._shelf = Shelf(self)
        self._transport = Transport(
            profile.url,
            login=self._login,
            transport=transport,
            on_wait=lambda reason, seconds: self.on_wait(reason, seconds),
            sleep=lambda seconds: self.pause(seconds),
        )

    def __repr__(self) -> str:
        return f"Participant(name={self.profile.name!r}, url={self.profile.url!r})"

    def __enter__(self) -> Participant:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._transport.close()

    # --- Coming and going ---

    @classmethod
    def enrol(
        cls,
        url: str,
        code: str,
        *,
        name: str = "",
        profile: str = DEFAULT,
        patience: float | None = 60.0,
        transport: httpx.BaseTransport | None = None,
    ) -> Participant:
        """Join with a code that an operator gave out.

        The key pair is made here and kept in the profile; only its public half is sent. When
        this is cut off half-way, calling it again with the same code goes on.

        Args:
            url: address of the server; https, unless it is this machine.
            code: the join code.
            name: what operators will see; this machine's name when empty.
            profile: name of the profile on this machine, for those that take part more than once.
            patience: seconds to wait for a server that is away; None for ever.
            transport: what carries the request, for tests.

        Raises:
            AddressRefused: for plain http to another machine.
            ProfileExists: when the profile is enrolled already.
            EnrolmentRefused: when the code is unknown, expired or used up.
            VersionRefused: when this SDK and that server do not understand each other.
            ServerUnreachable: when patience ends.

        Example:
            >>> alice = Participant.enrol(
            ...     "https://fed.example.org", "K7QF-2M9D", name="alice", profile="alice"
            ... )
            >>> alice
            Participant(name='alice', url='https://fed.example.org')
        """
        url = check_address(url)
        key, name = Profile.begin(profile), name or platform.node() or "participant"
        body = {
            "code": code,
            "name": name,
            "public_key": key.public,
            "signature": key.sign(wire.enrol_message(code, name, key.public)),
            "sdk": sdk_versions(CAPABILITIES),
        }
        Ledger(Profile.folder_of(profile)).note("enrolment", detail=f"{name}, {key.public}")
        with Transport(url, transport=transport) as server:
            try:
                told = server.post("enrol", body, authenticated=False, patience=patience)
            except ServerRefused:
                Profile.abandon(profile)  # nobody knows this key
                raise
        number = read_text(told, "participant")
        enrolled = Profile(profile, url, number, str(told.get("name") or name))
        enrolled.save()
        return cls(enrolled, transport=transport)

    @classmethod
    def load(
        cls, profile: str = DEFAULT, *, transport: httpx.BaseTransport | None = None
    ) -> Participant:
        """The participant that enrolled on this machine before.

        Raises:
            ProfileNotFound: when there is no profile of this name.

        Example:
            >>> Participant.load().profile.url
            'https://fed.example.org'
        """
        return cls(Profile.load(profile), transport=transport)

    def log_in(self, *, patience: float | None = 60.0) -> None:
        """Prove anew who we are, to learn whether the server still accepts us.

        Raises:
            LoginRefused: when it does not know us or our key.
            ParticipantSuspended: when an operator has suspended us.
            ParticipantRevoked: when an operator has revoked us.
        """
        self._transport.log_in(patience)

    def leave(self, *, patience: float | None = 60.0) -> None:
        """End the enrolment on the server, and forget it here with all that it kept.

        Whom the server has revoked has nothing to end there and is forgotten here.

        Raises:
            ProfileInUse: while another process takes part.
            ServerUnreachable: when patience ends; then nothing is forgotten.
        """
        with self.profile.locked():
            with suppress(ParticipantRevoked):
                self._transport.request("DELETE", "participants/me", patience=patience)
            self.close()
        self.profile.remove()

    def rotate_key(self, *, patience: float | None = 60.0) -> None:
        """Change to a new key; the old one signs for it and is then worth nothing.

        A rotation that is cut off is finished at the next login: until the server has answered,
        both keys are kept.
        """
        new = self.profile.begin_rotation()
        signature = self._key.sign(wire.rotate_message(new.public))
        body = {"public_key": new.public, "signature": signature}
        self.ledger.note("key", detail=new.public)
        try:
            self._transport.post("participants/me/rotate", body, patience=patience)
        except ServerRefused:
            # The first try may have got through, and its answer lost: then the login that
            # followed has shown it, and the new key is ours already.
            if self._key.public != new.public:
                raise
            return
        if self._key.public != new.public:
            self._adopt(new)
        self._transport.forget_token()

    def _login(self, server: Transport, patience: float | None) -> str:
        try:
            return self._token(server, self._key, patience)
        except LoginRefused:
            kept = self.profile.key()
            if kept.public != self._key.public:  # another process has changed to a new key
                token = self._token(server, kept, patience)
                self._key = kept
                return token
            pending = self.profile.next_key()
            if pending is None:
                raise
        token = self._token(server, pending, patience)
        self._adopt(pending)
        return token

    def _adopt(self, key: Key) -> None:
        self.profile.finish_rotation()
        self._key = key

    def _token(self, server: Transport, key: Key, patience: float | None) -> str:
        options: dict[str, Any] = {"authenticated": False, "patience": patience}
        who = {"participant": self.profile.participant}
        challenge = read_text(server.post("challenges", who, **options), "challenge")
        signed = {"challenge": challenge, "signature": key.sign(wire.token_message(challenge))}
        return read_text(server.post("tokens", who | signed, **options), "token")

    # --- One exchange, piece by piece ---

    def participate(
        self,
        data: Data,
        *,
        model: str | None = None,
        rounds: int | None = None,
        until: datetime | Callable[[], bool] | None = None,
        on_event: Callable[[Event], object] | None = None,
        trainer: TrainerLike | None = None,
        wait: float = _LONG_POLL,
        limits: Limits | Callable[[Limits], Limits] | None = None,
        loop: Any = None,
        callbacks: Sequence[Any] | None = None,
        progress: Callable[[Event], object] | bool | None = None,
        idle: float | None = None,
        stop: threading.Event | None = None,
        verdicts: float = 0.0,
        held_out: float | None = None,
        evaluation_data: Data | None = None,
    ) -> Summary:
        """Take part: train in every round that the server gives us, until told otherwise.

        With examples that are held out we evaluate versions too, when the server asks for it.

        The data stay here; what leaves are weight changes, a sample count, metrics and what the
        run's strategy asks for (`client_sdk.wire.REPORTS`), each listed by an event before it
        leaves and in `log` ever after. A server that is away is waited for. Ctrl-C and SIGTERM end
        it in good order, and so does `stop`.

        Args:
            data: examples (n, *shape) and labels (n, …), as the model's input specification
                has them before scaling; or what else `client_sdk.data.read` takes: a
                `tf.data.Dataset`, a `keras.utils.PyDataset`, a folder of images by class. A
                function without arguments is asked for them at the beginning of each round.
            model: only rounds of the model with this slug; None for any.
            rounds: stop after so many updates.
            until: stop at this time (with time zone), or when this says True; it is asked
                between exchanges.
            on_event: told each step; what it raises ends the participation, except
                `client_sdk.errors.Declined`, which gives one assignment back. What it raises at
                the event "sending" prevents what is listed there from leaving.
            trainer: trains in place of `client_sdk.training.Trainer`.
            wait: seconds that a check-in may wait at the server for work, at most 25, where no
                push tells of it.
            limits: in place of those of the profile; a function is told those of the profile
                anew for each round, and says what holds.
            loop: a `client_sdk.training.TrainingLoop` in place of ours.
            callbacks: Keras callbacks, handed to the training.
            progress: shows each step, beside `on_event`, and may not stop anything; None for
                what suits a terminal or a notebook, False for nothing.
            idle: end after so many seconds without an assignment.
            stop: set it, from any thread, to end as Ctrl-C does.
            verdicts: seconds to wait at the end for verdicts that are still out.
            held_out: share of the data that is never trained on, such as 0.1, to evaluate
                versions with; which examples these are is the same in every round. Nothing is
                evaluated where our limits let no metrics leave.
            evaluation_data: examples to evaluate with, of any kind that `data` may be, in place
                of a share.

        Returns:
            What came of it.

        Raises:
            ParticipantRevoked: when an operator has revoked us.
            VersionRefused: when this SDK and that server do not understand each other.
            ProfileInUse: when another process takes part with this profile.
            TrainingFailed: when three exchanges in a row failed.

        Example:
            >>> summary = alice.participate((images, labels), rounds=1)
            >>> summary.rounds, summary.samples
            (1, 10)
        """
        participation = Participation(
            self,
            data,
            model=model,
            rounds=rounds,
            until=until,
            on_event=on_event,
            trainers=Trainers(trainer, loop, callbacks),
            wait=wait,
            limits=limits,
            progress=progress,
            idle=idle,
            stop=stop,
            verdicts=verdicts,
            held_out=held_out,
            evaluation_data=evaluation_data,
        )
        return participation.run()

    @property
    def limits(self) -> Limits:
        """What this participant allows; kept in its profile, and set by assignment.

        Raises:
            ProfileInvalid: when their file is damaged.
        """
        return Limits.load(self.profile.folder / "limits.json")

    @limits.setter
    def limits(self, limits: Limits) -> None:
        limits.save(self.profile.folder / "limits.json")

    def log(self) -> list[Entry]:
        """What has left this machine, in the order in which it left.

        Example:
            >>> [entry.kind for entry in alice.log()][:2]
            ['enrolment', 'versions']
        """
        return self.ledger.entries()

    def check_in(
        self,
        *,
        wait: float = 0.0,
        model: str | Sequence[str] | None = None,
        patience: float | None = None,
        capabilities: Collection[str] = (),
        evaluates: bool = False,
    ) -> Assignment | Evaluation | Wait:
        """Ask what to do.

        Args:
            wait: seconds that the server may hold the answer until there is work, at most 25.
            model: only rounds of this model, or of these.
            patience: seconds to wait for a server that is away; None for ever.
            capabilities: what a strategy may ask for, of `client_sdk.drift.CAPABILITIES`: an
                assignment's `requires` names no other. Who trains by hand can do none of it.

            evaluates: whether we keep examples to evaluate versions with.

        Returns:
            An assignment, the same one until it is done, or a version to be evaluated; or when to
            ask again, and why.
        """
        body: dict[str, Any] = {"wait": wait}
        if evaluates:
            body["evaluates"] = True
        if model is not None:
            body["models"] = [model] if isinstance(model, str) else list(model)
        versions = sdk_versions(capabilities)
        if versions != self._introduced:
            body["sdk"] = versions
            self.ledger.note("versions", detail=_spelled(versions))
        timeout = httpx.Timeout(wait + _GRACE, connect=10.0)
        answer = self._transport.post("check-in", body, patience=patience, timeout=timeout)
        self._introduced = versions
        what = read_check_in(answer)
        if isinstance(what, Assignment):
            self._assignment = what
        return what

    def download(
        self,
        assignment: Assignment | Evaluation,
        *,
        patience: float | None = None,
        within: float | None = None,
        check: Callable[[], object] | None = None,
    ) -> tuple[ModelCard, dict[str, np.ndarray]]:
        """The model of an assignment, and the weights to train from or to evaluate.

        Everything is checked before anything is used: digests, sizes and shapes against the
        model's manifest, and that all values are finite. Local weights are our own, where we
        have trained before.

        Args:
            assignment: from `check_in`.
            patience: seconds to wait for a server that is away; None for ever.
            within: seconds for each blob; None for as many as its length may take.
            check: called as bytes come; what it raises breaks it off.

        Returns:
            The model, and its weights by name in the order of the manifest.

        Raises:
            IntegrityError: when something is not as it was announced.
            ModelRefused: when training it would take more memory than this machine has.
            TooSlow: when it takes longer than any sound connection.
        """
        options: dict[str, Any] = {"patience": patience, "within": within, "check": check}
        card = self.card(assignment, patience=patience, within=within)
        blobs = assignment.weights, assignment.fixed
        # What is evaluated may never be served: it is nothing to fall back on.
        keep = isinstance(assignment, Assignment)
        return card, self.tensors(card, assignment.version, *blobs, keep=keep, **options)

    def tensors(
        self,
        card: ModelCard,
        version: int,
        weights: Blob,
        fixed: Blob | None,
        *,
        keep: bool = True,
        **options: Any,
    ) -> dict[str, np.ndarray]:
        """The weights of a version by name, checked; it is kept for when the server is away.

        Args:
            card: the model.
            version: number of the version.
            weights: blob of its federated weights.
            fixed: blob of the others, where there are any.
            keep: whether to keep it.
            options: `patience`, `within` and `check`, as for `download`.
        """
        expect_room(card.weights)
        federated, others = card.tensors(wire.FEDERATED), card.tensors(wire.LOCAL, wire.FROZEN)
        path = self._fetch(weights, federated, options)
        if bool(others) != bool(fixed):
            expected = "a blob" if others else "no blob"
            raise IntegrityError(f"Expected {expected} of fixed weights. Received: the contrary")
        try:
            wire.norm(wire.open_flat(path, federated), federated)
            found = wire.open_tensors(path, federated)
            if fixed:
                path = self._fetch(fixed, others, options)
                found |= wire.open_tensors(path, others)
        except wire.WireError as error:
            raise IntegrityError(error.detail) from error
        found |= self._local_weights(card)
        if keep:
            self._shelf.remember(card, version, weights, fixed)
        self.cache.trim(*self._shelf.blobs())
        return {weight.name: found[weight.name] for weight in card.weights}

    def control(self, assignment: Assignment, card: ModelCard, **options: Any) -> np.ndarray | None:
        """The control variates of an assignment's strategy, checked; None for zeros.

        Args:
            assignment: from `check_in`.
            card: its model.
            options: as for `download`.

        Returns:
            Shape (n,), float32: for all federated weights, one after another.

        Raises:
            IntegrityError: when something is not as it was announced.
        """
        if assignment.control is None:
            return None
        size = sum(spec.size for spec in card.tensors(wire.FEDERATED))
        specs = [wire.TensorSpec("control", (size,))]
        path = self._fetch(assignment.control, specs, options)
        try:
            values = wire.open_flat(path, specs)
            wire.norm(values, specs)
        except wire.WireError as error:
            raise IntegrityError(error.detail) from error
        return values

    def card(
        self,
        assignment: Assignment | Evaluation,
        *,
        patience: float | None = None,
        within: float | None = None,
    ) -> ModelCard:
        """The description of an assignment's model; asked once for each architecture.

        Raises:
            IntegrityError: when it is of another architecture than the assignment.
        """
        wanted = (assignment.model, assignment.architecture_digest)
        if self._card is None or (self._card.slug, self._card.architecture_digest) != wanted:
            path = f"models/{assignment.model}"
            within = _CARD_WITHIN if within is None else within
            document = self._transport.get(path, patience=patience, within=within)
            card = ModelCard.from_json(document)
            if (card.slug, card.architecture_digest) != wanted:
                received = (card.slug, card.architecture_digest)
                raise IntegrityError(f"Expected the model {wanted}. Received: {received}")
            self._card = card
        return self._card

    def _fetch(self, blob: Blob, specs: list[wire.TensorSpec], options: Mapping[str, Any]) -> Path:
        # The model's own manifest is the server's word as well; the cache's limit is ours.
        limit = min(wire.update_length_limit(specs), self.cache.limit)
        if blob.length > limit:
            raise IntegrityError(
                f"Expected at most {limit} bytes of weights. Received: {blob.length}"
            )
        return self._transport.download(blob.sha256, blob.length, self.cache, **options)

    def listing(self, parcel: Parcel) -> Entry:
        """What leaves with an update, as the ledger will list it."""
        return Entry(at=datetime.now(UTC), kind="update", state="sending", **_leaving(parcel))

    def upload(
        self,
        parcel: Parcel,
        *,
        limits: Limits | None = None,
        patience: float | None = None,
        within: float | None = None,
        check: Callable[[], object] | None = None,
    ) -> dict[str, Any]:
        """Send an update from the outbox, signed; repeating it does no harm.

        It is written down in the ledger, and counted for the day, before its first byte leaves.

        Args:
            parcel: from the outbox.
            limits: in place of those of the profile.
            patience: seconds to wait for a server that is away; None for ever.
            within: seconds for all of it; None for as many as its length may take.
            check: called as it leaves, piece by piece; what it raises breaks it off.

        Returns:
            The server's receipt.

        Raises:
            LimitReached: when one of our own limits forbids it.
            RoundClosed: when it came too late.
            UpdateConflict: when another update was counted for the assignment.
            ServerRefused: when the server does not accept it.
        """
        limits = self.limits if limits is None else limits
        limits.check_samples(parcel.manifest.samples)
        limits.check_reports(parcel.manifest.reports)
        if not limits.share_metrics:
            parcel = self.outbox.without_metrics(parcel)
        raw, number = parcel.manifest.to_bytes(), parcel.manifest.assignment
        headers = {
            "Fedserver-Manifest": wire.b64(raw),
            "Fedserver-Signature": self._key.sign(wire.update_message(raw)),
        }

        tries = itertools.count()

        def about_to_leave() -> None:  # at each try: a day may have passed since the last
            limits.check_rounds(self.today.count(without=number))
            self.today.add(number)
            if next(tries) == 0:
                self.ledger.note("update", state="sending", **_leaving(parcel))

        try:
            receipt = self._transport.request(
                "PUT",
                f"assignments/{number}/update",
                file=parcel.update,
                headers=headers,
                patience=patience,
                within=within,
                before=about_to_leave,
                check=check,
            )
        except ServerRefused as refused:
            self.ledger.note(
                "update",
                assignment=number,
                state="refused",
                code=refused.code,
                reason=refused.detail,
            )
            raise
        self._keep_local(parcel)
        self.ledger.note("update", durable=False, assignment=number, state="uploaded")
        return receipt if isinstance(receipt, dict) else {}

    def assignment(self, assignment: int, *, patience: float | None = 0.0) -> dict[str, Any]:
        """What the server says of one of our assignments, as a document.

        Raises:
            RoundClosed: when it knows no such assignment of ours.
        """
        answer = self._transport.get(f"assignments/{assignment}", patience=patience)
        return answer if isinstance(answer, dict) else {}

    def report_progress(
        self, assignment: int, progress: Mapping[str, Any], *, patience: float | None = 0.0
    ) -> dict[str, Any]:
        """Tell how far an assignment is.

        Raises:
            RoundClosed: when it no longer counts.
        """
        # Not worth a sync of the disk: only a power cut could take the line away.
        told = {"detail": _words(progress), "metrics": dict(progress.get("metrics") or {})}
        self.ledger.note("progress", durable=False, **self._about(assignment), **told)
        path = f"assignments/{assignment}/progress"
        answer = self._transport.post(path, progress, patience=patience, timeout=5.0)
        return answer if isinstance(answer, dict) else {}

    def report_evaluation(
        self,
        evaluation: Evaluation,
        measured: Measured,
        *,
        limits: Limits | None = None,
        patience: float | None = None,
    ) -> None:
        """Tell what a version came to on our held-out examples; repeating it does no harm.

        It is written down in the ledger before it leaves.

        Args:
            evaluation: from `check_in`.
            measured: numbers, and nothing else.
            limits: in place of those of the profile.
            patience: seconds to wait for a server that is away; None for ever.

        Raises:
            LimitReached: when one of our own limits forbids it.
            EvaluationClosed: when it came too late.
            ServerRefused: when the server does not accept it.
        """
        limits = self.limits if limits is None else limits
        limits.check_evaluation(evaluation)
        limits.check_samples(measured.samples)
        self.ledger.note("evaluation", **told_of(evaluation, measured))
        path = f"evaluations/{evaluation.id}/report"
        self._transport.post(path, asdict(measured), patience=patience)

    def decline_evaluation(
        self, evaluation: Evaluation, reason: str, *, patience: float | None = None
    ) -> None:
        """Tell that we do not evaluate it, so that another is asked.

        Args:
            evaluation: from `check_in`.
            reason: a code that the server is told, and nothing else.
            patience: seconds to wait for a server that is away; None for ever.
        """
        model, version = evaluation.model, evaluation.version
        self.ledger.note(
            "failure", model=model, version=version, evaluation=evaluation.id, code=reason
        )
        path = f"evaluations/{evaluation.id}/failure"
        self._transport.post(path, {"reason": reason}, patience=patience)

    def report_failure(
        self,
        assignment: int,
        reason: str,
        detail: str,
        *,
        patience: float | None = None,
    ) -> None:
        """Tell that an assignment came to nothing, so that its round need not wait."""
        body = {"reason": reason, "detail": plain(detail)[:8000]}
        self.ledger.note("failure", **self._about(assignment), code=reason, detail=body["detail"])
        self._transport.post(f"assignments/{assignment}/failure", body, patience=patience)

    def withdraw(self, assignment: int, *, reason: str = "", patience: float | None = 5.0) -> None:
        """Give an assignment back, and forget what was trained for it.

        Args:
            assignment: its id.
            reason: a code that the server is told, such as `LimitReached.code`.
            patience: seconds to wait for a server that is away; None for ever.
        """
        path = f"assignments/{assignment}"
        if reason:
            self.ledger.note("failure", **self._about(assignment), code=reason)
            path += f"?reason={reason}"
        self._transport.request("DELETE", path, patience=patience)
        self.outbox.drop(assignment)

    def wake(self) -> Wake | None:
        """A connection by which the server tells that there is work; None without a network."""
        return Wake(self._transport) if self.networked else None

    def server(self, *, patience: float | None = 5.0) -> dict[str, Any]:
        """What the server says of itself: service, version, wire versions, time."""
        answer = self._transport.get("", authenticated=False, patience=patience)
        return answer if isinstance(answer, dict) else {}

    def _about(self, assignment: int) -> dict[str, Any]:
        """What the ledger says of an assignment beside its number."""
        mine = self._assignment
        if mine is None or mine.id != assignment:
            return {"assignment": assignment}
        return {
            "assignment": assignment,
            "model": mine.model,
            "run": mine.run,
            "round": mine.round,
            "number": mine.number,
            "version": mine.version,
        }

    # --- The served version ---

    def served(self, slug: str | None = None, *, patience: float | None = 10.0) -> Served:
        """The version of a model that the server serves, to be used here.

        Where the server is away, it is the newest version that is here; `Served.fresh` says so.

        Args:
            slug: the model; None for the only one of the server, or the one used last.
            patience: seconds to wait for a server that is away; None for ever.

        Raises:
            NoModel: when there are several models and none was used yet, or none is here.

        Example:
            >>> served = alice.served()
            >>> served.version, served.labels, served.fresh
            (1, [], True)
        """
        return self._shelf.served(slug, patience)

    def forget_served(self) -> None:
        """Let the next prediction ask for the served version anew; a round's verdict does."""
        self._shelf.forget()

    def model(self, slug: str | None = None) -> Any:
        """The served version as a compiled `keras.Model` of your own; see `Served.model`.

        The log (level INFO) says which version it is.
        """
        return self._shelf.lately(slug).model()

    def predict(self, images: Any, model: str | None = None) -> list[Prediction]:
        """What the served version says of each image.

        Args:
            images: raw examples (n, *shape), or photos as paths or as the bytes of their files.
            model: slug of the model; None as for `served`.

        Returns:
            For each, its label, the scores of all labels, and which version said so.

        Raises:
            TrainingDataRefused: when the model cannot take them; a broken photo is named.
        """
        return self._shelf.lately(model).predictions(images)

    def evaluate(self, data: Any, model: str | None = None) -> dict[str, float]:
        """Loss and accuracy of the served version on your own labelled data, which stay here.

        Args:
            data: as for `participate`.
            model: slug of the model; None as for `served`.
        """
        return self._shelf.lately(model).evaluate(data)

    # --- Weights that never leave ---

    def _local_weights(self, card: ModelCard) -> dict[str, np.ndarray]:
        specs, path = card.tensors(wire.LOCAL), self.profile.folder / "local" / card.slug
        if not specs or not path.exists():
            return {}
        try:
            # Copied: the file is replaced while the next round trains.
            return {name: np.array(value) for name, value in wire.open_tensors(path, specs).items()}
        except wire.WireError:
            return {}  # of an earlier architecture of this name: begin with the server's values

    def _keep_local(self, parcel: Parcel) -> None:
        folder = self.profile.folder / "local"
        folder.mkdir(exist_ok=True, mode=0o700)
        for path in parcel.local:
            path.replace(folder / path.name)


def _leaving(parcel: Parcel) -> dict[str, Any]:
    """What leaves with an update, by names of `Entry`."""
    manifest, about = parcel.manifest, parcel.about()
    told = {name: about[name] for name in ("model", "run", "number", "version") if name in about}
    return told | {
        "round": manifest.round,
        "assignment": manifest.assignment,
        "bytes": manifest.length,
        "tensors": tuple(about.get("tensors", ())),
        "samples": manifest.samples,
        "metrics": dict(manifest.metrics),
        "reports": dict(manifest.reports),
        "sha256": manifest.digest,
    }


def _words(progress: Mapping[str, Any]) -> str:
    epoch = f", epoch {progress['epoch']} of {progress['epochs']}" if "epoch" in progress else ""
    return f"{progress.get('activity', '')}{epoch}"


def _spelled(versions: Mapping[str, Any]) -> str:
    """Versions as the ledger lists them."""
    told = {name: " ".join(one) if isinstance(one, list) else one for name, one in versions.items()}
    return ", ".join(f"{name} {value or 'none'}" for name, value in told.items())


def sdk_versions(capabilities: Collection[str]) -> dict[str, Any]:
    """What this installation is, for operators; asks for Keras without importing it.

    Args:
        capabilities: what strategies may ask for, of who trains here.
    """
    versions: dict[str, Any] = {
        "version": version(),
        "wire": wire.WIRE_VERSION,
        "python": platform.python_version(),
        "capabilities": list(capabilities),
    }
    try:
        versions["keras"] = importlib.metadata.version("keras")
        versions["backend"] = os.environ.get("KERAS_BACKEND", "tensorflow")
    except importlib.metadata.PackageNotFoundError:
        pass
    return versions
