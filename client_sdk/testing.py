"""A server that lives in memory, for tests of programs that take part.

It speaks the participants' side of HTTP version 1 as the real one does: it verifies signatures,
parses updates strictly, answers in problem documents and serves ranges of blobs. Its rounds are
opened, judged and published by the test, and nothing happens by itself.

Use it in a process, through `FakeServer.transport`, or on a port of this machine, through
`FakeServer.serve`, for programs that are processes of their own.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import itertools
import json
import re
import secrets
import sys
import tempfile
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from client_sdk import drift, wire
from client_sdk.held_out import Measured
from client_sdk.trainers import Data, OnEpoch

Before = Callable[[httpx.Request], httpx.Response | None]

WEIGHTS = (
    wire.WeightSpec("0000.dense.kernel", 0, "dense", (3, 2), "F32", wire.FEDERATED),
    wire.WeightSpec("0001.dense.bias", 1, "dense", (2,), "F32", wire.FEDERATED),
    wire.WeightSpec("0002.norm.gamma", 2, "norm", (2,), "F32", wire.LOCAL),
    wire.WeightSpec("0003.dropout.seed", 3, "dropout", (2,), "U32", wire.FROZEN),
)


@dataclass(frozen=True, slots=True)
class ReceivedUpdate:
    """An update that a participant sent: who, for what, its deltas and its bytes."""

    participant: str
    assignment: int
    manifest: wire.UpdateManifest
    deltas: Mapping[str, np.ndarray]
    body: bytes


@dataclass(frozen=True, slots=True)
class ReceivedReport:
    """What a participant measured on held-out examples: who, for what, and what it told."""

    participant: str
    evaluation: int
    report: Mapping[str, Any]


@dataclass(slots=True)
class _Enrolled:
    name: str
    public_key: str
    state: str = "active"
    capabilities: tuple[str, ...] = ()


@dataclass(slots=True)
class _Model:
    weights: tuple[wire.WeightSpec, ...]
    document: dict[str, Any]
    round: dict[str, Any] | None = None
    versions: dict[int, dict[str, np.ndarray]] = field(default_factory=dict)


@dataclass(slots=True)
class _Place:
    participant: str
    document: dict[str, Any]
    state: str = "training"
    digest: str = ""

    def told(self) -> dict[str, Any]:
        return self.document | {"state": self.state}


class FakeServer:
    """The participants' side of a server, in memory.

    Args:
        weights: weights manifest of its model; a small one by default.
        model: slug of the model; `add_model` adds others.
        document: more of the model's description, such as a real architecture.

    Attributes:
        url: address that its transport answers for.
        transport: give this to `Participant.enrol` and `Participant.load`.
        updates: what participants sent, in order.
        progress: their reports of progress, as (assignment, report).
        failures: their reports of failure, as (assignment, reason, detail).
        withdrawals: what they gave back, as (assignment, reason).
        reports: what they measured when asked to evaluate, in order.
        evaluation_failures: what they did not measure, as (evaluation, reason).
        requests: every request as "METHOD path".
        retry_after, encoding, hyperparameters, quorum, cohort, requires: what its answers say from
            now on.
        control: control variates that its assignments come with, shape (n,); None for zeros.
        oldest_sdk: versions of the SDK before this one are refused, as (major, minor).
        before: functions that see each request first; one that answers takes it over. To play
            a server that is away, raise `httpx.ConnectError` there, or use `away`.

    Example:
        >>> from client_sdk import Participant
        >>> server = FakeServer()
        >>> alice = Participant.enrol(
        ...     server.url, server.join_code(), profile="alice", transport=server.transport
        ... )
        >>> server.open_round()
        1
        >>> summary = alice.participate((x, y), rounds=1, trainer=FakeTrainer(step=0.5))
        >>> server.updates[0].deltas["0001.dense.bias"]
        array([0.5, 0.5], dtype=float32)
    """

    def __init__(
        self,
        weights: Sequence[wire.WeightSpec] = WEIGHTS,
        *,
        model: str = "digits",
        document: Mapping[str, Any] | None = None,
    ) -> None:
        self.url = "https://fake.invalid"
        self.transport = httpx.MockTransport(self.handle)
        self.weights, self.model = tuple(weights), model
        self._models: dict[str, _Model] = {}
        self.blobs: dict[str, bytes] = {}
        self.updates: list[ReceivedUpdate] = []
        self.progress: list[tuple[int, dict[str, Any]]] = []
        self.failures: list[tuple[int, str, str]] = []
        self.withdrawals: list[tuple[int, str]] = []
        self.reports: list[ReceivedReport] = []
        self.evaluation_failures: list[tuple[int, str]] = []
        self.requests: list[str] = []
        self.before: list[Before] = []
        self.retry_after = 0.0
        self.encoding = "float32"
        self.quorum: int | None = 1
        self.cohort: int | None = None
        self.oldest_sdk = (0, 0)
        self.requires: dict[str, dict[str, float]] = {}
        self.control: np.ndarray | None = None
        self.hyperparameters: dict[str, Any] = {"epochs": 2, "batch_size": 8, "learning_rate": 0.1}
        self._codes: set[str] = set()
        self._used_codes: dict[str, str] = {}
        self._participants: dict[str, _Enrolled] = {}
        self._challenges: set[str] = set()
        self._tokens: dict[str, str] = {}
        self._rounds = itertools.count(1)
        self._ids = itertools.count(1)
        self._places: dict[int, _Place] = {}
        self._evaluations: dict[int, dict[str, Any]] = {}
        self._lock = threading.RLock()
        self.add_model(model, weights, document=document)

    @property
    def _document(self) -> dict[str, Any]:
        return self._models[self.model].document

    def _describe(
        self, slug: str, weights: Sequence[wire.WeightSpec], more: Mapping[str, Any]
    ) -> dict[str, Any]:
        document: dict[str, Any] = {
            "slug": slug,
            "name": slug,
            "description": "",
            "architecture": {"class_name": "Sequential", "config": {"name": slug}},
            "weights": [weight.to_json() for weight in weights],
            "input_spec": {"shape": [3], "dtype": "float32", "scale": 1.0, "offset": 0.0},
            "labels": [],
            "objective": {"loss": "sparse_categorical_crossentropy", "from_logits": True},
            "served": None,
            **more,
        }
        architecture = wire.canonical_json(document["architecture"])
        return document | {"architecture_digest": hashlib.sha256(architecture).hexdigest()}

    # --- What a test does to it ---

    def join_code(self) -> str:
        """A code that one participant can enrol with."""
        code = secrets.token_hex(4)
        self._codes.add(code)
        return code

    def add_model(
        self,
        slug: str,
        weights: Sequence[wire.WeightSpec] = WEIGHTS,
        *,
        document: Mapping[str, Any] | None = None,
    ) -> None:
        """Have a further model.

        Args:
            slug: its name.
            weights: its weights manifest.
            document: more of its description, such as a real architecture and labels.
        """
        told = self._describe(slug, weights, document or {})
        self._models[slug] = _Model(tuple(weights), told)

    def serve_version(
        self, values: Mapping[str, np.ndarray] | None = None, *, model: str | None = None
    ) -> int:
        """Serve a version that came of no round.

        Args:
            values: its weights; zeros where none are given.
            model: slug of the model; the first one when None.

        Returns:
            The version's number.
        """
        mine = self._models[model or self.model]
        number = self._keep_version(mine, values or {})
        mine.document["served"] = self._version(mine, number)
        return number

    def open_round(
        self, values: Mapping[str, np.ndarray] | None = None, *, model: str | None = None
    ) -> int:
        """Give every participant that checks in a place in a new round.

        Args:
            values: weights to start from; those of the served version when None, and zeros where
                there are none.
            model: slug of the model; the first one when None.

        Returns:
            The round's id.
        """
        mine, served = self._models[model or self.model], None
        if values is None and mine.document["served"]:
            served = int(mine.document["served"]["number"])
        base = self._keep_version(mine, values or {}) if served is None else served
        number = next(self._rounds)
        mine.round = {"id": number, "version": self._version(mine, base)}
        return number

    def close_round(self, *, model: str | None = None) -> None:
        """Take no more updates for the round that is open."""
        mine = self._models[model or self.model]
        for place in self._places_of(mine):
            if place.state == "training":
                place.state = "late"
        mine.round = None

    def open_evaluation(
        self, version: int | None = None, *, minimum: int = 2, model: str | None = None
    ) -> int:
        """Ask every participant that evaluates, once, to measure a version.

        Args:
            version: its number; the newest when None.
            minimum: the smallest cohort that they are told.
            model: slug of the model; the first one when None.

        Returns:
            The evaluation's id.
        """
        mine = self._models[model or self.model]
        if not mine.versions:
            self._keep_version(mine, {})
        number = next(self._ids)
        self._evaluations[number] = {
            "id": number,
            "model": mine.document["slug"],
            "architecture_digest": mine.document["architecture_digest"],
            "version": self._version(mine, version or len(mine.versions)),
            "goal": minimum,
            "minimum": minimum,
            "deadline": None,
            "seconds_left": None,
        }
        return number

    def close_evaluation(self, evaluation: int) -> None:
        """Take no more reports for it."""
        self._evaluations[evaluation]["closed"] = True

    def judge(self, assignment: int, state: str, code: str = "", reason: str = "") -> None:
        """Let an update that was uploaded be "accepted", "rejected", "quarantined" …"""
        place = self._places[assignment]
        place.state = state
        place.document |= {"code": code, "reason": reason}

    def publish(self, *, model: str | None = None) -> int:
        """End the open round: updates that nobody has judged are accepted, and their mean, by
        samples, makes a version that is served.

        Returns:
            The version's number.
        """
        mine = self._models[model or self.model]
        assert mine.round is not None
        places = {place.document["id"]: place for place in self._places_of(mine)}
        for place in places.values():
            if place.state == "uploaded":
                place.state = "accepted"
        accepted = [
            update
            for update in self.updates
            if update.assignment in places and places[update.assignment].state == "accepted"
        ]
        values = dict(mine.versions[mine.round["version"]["number"]])
        samples = sum(update.manifest.samples for update in accepted)
        for update in accepted:
            for name, delta in update.deltas.items():
                values[name] = values[name] + delta * (update.manifest.samples / samples)
        number = self.serve_version(values, model=mine.document["slug"])
        for place in places.values():
            place.document |= {"phase": "published", "published": number}
        self.close_round(model=mine.document["slug"])
        return number

    def fail(self, *, model: str | None = None) -> None:
        """End the open round without a version; its updates were accepted in vain."""
        mine = self._models[model or self.model]
        for place in self._places_of(mine):
            place.state = "accepted" if place.state == "uploaded" else place.state
            place.document["phase"] = "failed"
        self.close_round(model=mine.document["slug"])

    def capabilities(self, name: str) -> tuple[str, ...]:
        """What a participant, by name, has told that strategies may ask of it."""
        [found] = [one for one in self._participants.values() if one.name == name]
        return found.capabilities

    def _places_of(self, model: _Model) -> list[_Place]:
        open_ = model.round["id"] if model.round is not None else None
        return [one for one in self._places.values() if one.document["round"] == open_]

    def _keep_version(self, model: _Model, values: Mapping[str, np.ndarray]) -> int:
        number = len(model.versions) + 1
        model.versions[number] = {
            spec.name: np.asarray(values.get(spec.name, np.zeros(spec.shape)))
            for spec in model.weights
        }
        return number

    def _version(self, model: _Model, number: int) -> dict[str, Any]:
        values, weights = model.versions[number], model.weights
        fixed = any(weight.role != wire.FEDERATED for weight in weights)
        return {
            "number": number,
            "weights": self.keep(_blob(weights, values, wire.FEDERATED)),
            "fixed": self.keep(_blob(weights, values, wire.LOCAL, wire.FROZEN)) if fixed else None,
        }

    def keep(self, content: bytes) -> dict[str, Any]:
        """Serve a blob; answers with its {"sha256", "bytes"}."""
        digest = hashlib.sha256(content).hexdigest()
        self.blobs[digest] = content
        return {"sha256": digest, "bytes": len(content)}

    def away(self, times: int, status: int | None = None, retry_after: str = "") -> None:
        """Be away for the next requests.

        Args:
            times: how many.
            status: answer this; None to refuse the connection.
            retry_after: the answer's `Retry-After`.
        """
        left = itertools.count(times, -1)

        def before(request: httpx.Request) -> httpx.Response | None:
            if next(left) <= 0:
                return None
            if status is None:
                raise httpx.ConnectError("Connection refused", request=request)
            headers = {"Retry-After": retry_after} if retry_after else {}
            return httpx.Response(status, headers=headers)

        self.before.append(before)

    def suspend(self, participant: str, state: str = "suspended") -> None:
        """Let a participant, by id, be "suspended", "revoked" or "active" from now on."""
        self._participants[participant].state = state

    def end_tokens(self) -> None:
        """Let all tokens expire."""
        self._tokens.clear()

    def state(self, assignment: int) -> str:
        """State of an assignment."""
        return self._places[assignment].state

    # --- How requests reach it ---

    def handle(self, request: httpx.Request) -> httpx.Response:
        """Answer one request."""
        request.read()
        with self._lock:
            path = request.url.path.removeprefix("/api/v1/")
            self.requests.append(f"{request.method} {path}")
            for before in self.before:
                answer = before(request)
                if answer is not None:
                    return answer
            try:
                return self._route(request, path)
            except _Refused as refused:
                return refused.answer()

    @contextlib.contextmanager
    def serve(self, port: int = 0) -> Iterator[str]:
        """Listen on this machine; gives the address.

        Example:
            >>> with FakeServer().serve() as url:
            ...     httpx.get(f"{url}/api/v1/").json()["service"]
            'fedserver'
        """
        listener = _Listener(("127.0.0.1", port), _handler(self))
        thread = threading.Thread(target=listener.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.server_port}"
        finally:
            listener.shutdown()
            listener.server_close()
            thread.join()

    def _route(self, request: httpx.Request, path: str) -> httpx.Response:
        for method, pattern, name in _ROUTES:
            found = re.fullmatch(pattern, path)
            if found and request.method == method:
                answer: httpx.Response = getattr(self, name)(request, *found.groups())
                return answer
        raise _Refused(404, "not_found", "Expected a known path.")

    # --- The doors ---

    def _root(self, request: httpx.Request) -> httpx.Response:
        now = datetime.now(UTC).isoformat()
        told = {"service": "fedserver", "version": "0", "wire": [1], "time": now}
        return httpx.Response(200, json=told)

    def _enrol(self, request: httpx.Request) -> httpx.Response:
        body = json.loads(request.content)
        code, key = body["code"], body["public_key"]
        _verify(key, wire.enrol_message(code, body["name"], key), body["signature"])
        self._check_sdk(body.get("sdk"))
        known = self._used_codes.get(code)
        if known and self._participants[known].public_key == key:
            return httpx.Response(200, json=self._enrolled(known))
        if code not in self._codes:
            raise _Refused(403, "join_code_invalid", "Expected a valid join code.")
        participant = secrets.token_hex(16)
        self._codes.remove(code)
        self._used_codes[code] = participant
        able = tuple(body.get("sdk", {}).get("capabilities", ()))
        self._participants[participant] = _Enrolled(body["name"], key, capabilities=able)
        return httpx.Response(201, json=self._enrolled(participant))

    def _enrolled(self, participant: str) -> dict[str, Any]:
        name = self._participants[participant].name
        return {"participant": participant, "name": name, "model": self.model}

    def _challenge(self, request: httpx.Request) -> httpx.Response:
        challenge = secrets.token_urlsafe(16)
        self._challenges.add(challenge)
        return httpx.Response(200, json={"challenge": challenge, "expires_in": 60})

    def _log_in(self, request: httpx.Request) -> httpx.Response:
        body = json.loads(request.content)
        if body["challenge"] not in self._challenges:
            raise _Refused(401, "challenge_expired", "Expected a fresh challenge.")
        self._challenges.remove(body["challenge"])
        participant = self._participants.get(body["participant"])
        if participant is None:
            raise _Refused(401, "signature_invalid", "Expected a known participant.")
        _verify(participant.public_key, wire.token_message(body["challenge"]), body["signature"])
        _check_state(participant)
        token = secrets.token_urlsafe(16)
        self._tokens[token] = body["participant"]
        return httpx.Response(200, json={"token": token, "expires_in": 3600})

    def _who(self, request: httpx.Request) -> str:
        participant = self._tokens.get(request.headers.get("Authorization", "")[7:])
        if participant is None:
            raise _Refused(401, "token_invalid", "Expected a valid token.")
        _check_state(self._participants[participant])
        return participant

    def _check_sdk(self, sdk: Mapping[str, Any] | None) -> None:
        if sdk is None:
            return
        found = re.match(r"(\d+)\.(\d+)", str(sdk.get("version")))
        version = (int(found[1]), int(found[2])) if found else self.oldest_sdk
        if version < self.oldest_sdk or sdk.get("wire", wire.WIRE_VERSION) != wire.WIRE_VERSION:
            oldest = ".".join(map(str, self.oldest_sdk))
            detail = f"Expected an SDK from version {oldest}. Received: {sdk.get('version')}"
            raise _Refused(403, "sdk_unsupported", detail)

    def _check_in(self, request: httpx.Request) -> httpx.Response:
        who, body = self._who(request), json.loads(request.content)
        self._check_sdk(body.get("sdk"))
        if "sdk" in body:
            able = tuple(body["sdk"].get("capabilities", ()))
            self._participants[who].capabilities = able
        lacking = sorted(set(self.requires) - set(self._participants[who].capabilities))
        wanted = body.get("models")
        open_ = [
            one
            for slug, one in self._models.items()
            if one.round is not None and (wanted is None or slug in wanted)
        ]
        for model in open_ if not lacking else ():
            mine = [place for place in self._places_of(model) if place.participant == who]
            place = mine[0] if mine else self._invite(who, model)
            if place.state == "training":
                return httpx.Response(200, json={"action": "train", "assignment": place.told()})
        if body.get("evaluates") and (asked := self._evaluation_for(who, wanted)):
            return httpx.Response(200, json={"action": "evaluate", "evaluation": asked})
        wait = {"action": "wait", "retry_after": self.retry_after}
        if not open_:
            wait |= {"reason": "no_open_round", "run": None, "detail": "No round is open."}
        elif lacking:
            detail = f"Expected an SDK that can do {lacking[0]}."
            wait |= {"reason": "sdk_lacks", "run": 1, "detail": detail}
        else:
            wait |= {"reason": "round_in_progress", "run": 1, "detail": "The round goes on."}
        return httpx.Response(200, json=wait)

    def _evaluation_for(self, who: str, wanted: Sequence[str] | None) -> dict[str, Any] | None:
        done = {one.evaluation for one in self.reports if one.participant == who}
        done |= {evaluation for evaluation, _ in self.evaluation_failures}
        for number, asked in self._evaluations.items():
            known = wanted is None or asked["model"] in wanted
            if known and number not in done and not asked.get("closed"):
                return asked
        return None

    def _open_evaluation(self, request: httpx.Request, evaluation: str) -> dict[str, Any]:
        asked = self._evaluations.get(int(evaluation))
        if asked is None:
            raise _Refused(404, "evaluation_not_found", "Expected one that you were asked for.")
        if asked.get("closed"):
            raise _Refused(409, "evaluation_closed", "Expected an open evaluation.")
        return asked

    def _report(self, request: httpx.Request, evaluation: str) -> httpx.Response:
        who, report = self._who(request), json.loads(request.content)
        self._open_evaluation(request, evaluation)
        numbers = report["samples"] >= 1 and report["metrics"]
        if report.keys() != {"samples", "metrics", "classes"} or not numbers:
            raise _Refused(422, "report_invalid", "Expected samples, metrics and classes.")
        self.reports.append(ReceivedReport(who, int(evaluation), report))
        return httpx.Response(200, json={"evaluation": int(evaluation), "samples": 1})

    def _decline_report(self, request: httpx.Request, evaluation: str) -> httpx.Response:
        self._who(request)
        self._open_evaluation(request, evaluation)
        reason = json.loads(request.content)["reason"]
        self.evaluation_failures.append((int(evaluation), reason))
        return httpx.Response(204)

    def _invite(self, who: str, model: _Model) -> _Place:
        assert model.round is not None
        document = {
            "id": next(self._ids),
            "state": "training",
            "code": "",
            "reason": "",
            "run": 1,
            "round": model.round["id"],
            "phase": "training",
            "number": model.round["id"],
            "rounds": 100,
            "quorum": self.quorum,
            "cohort": self.cohort,
            "published": None,
            "model": model.document["slug"],
            "architecture_digest": model.document["architecture_digest"],
            "version": model.round["version"],
            "hyperparameters": self.hyperparameters,
            "seed": 7,
            "encoding": self.encoding,
            "deadline": None,
            "seconds_left": None,
            "requires": self.requires,
            "control": self._control(),
        }
        place = self._places[document["id"]] = _Place(who, document)
        return place

    def _control(self) -> dict[str, Any] | None:
        if self.control is None or "control_variates" not in self.requires:
            return None
        return self.keep(wire.dumps({"control": self.control.astype(np.float32)}))

    def _place(self, request: httpx.Request, assignment: str) -> _Place:
        place = self._places.get(int(assignment))
        if place is None or place.participant != self._who(request):
            raise _Refused(404, "assignment_not_found", "Expected one of your assignments.")
        return place

    def _open_place(self, request: httpx.Request, assignment: str) -> _Place:
        place = self._place(request, assignment)
        if place.state != "training":
            raise _Refused(409, "round_closed", "Expected an open assignment.")
        return place

    def _assignment(self, request: httpx.Request, assignment: str) -> httpx.Response:
        place = self._place(request, assignment)
        return httpx.Response(200, json=place.told())

    def _progress(self, request: httpx.Request, assignment: str) -> httpx.Response:
        self._open_place(request, assignment)
        self.progress.append((int(assignment), json.loads(request.content)))
        return httpx.Response(200, json={"state": "training", "seconds_left": None})

    def _update(self, request: httpx.Request, assignment: str) -> httpx.Response:
        place = self._place(request, assignment)
        if "Content-Length" not in request.headers:
            raise _Refused(411, "length_required", "Expected a Content-Length.")
        raw = wire.unb64(request.headers["Fedserver-Manifest"])
        key = self._participants[place.participant].public_key
        _verify(key, wire.update_message(raw), request.headers["Fedserver-Signature"])
        digest = hashlib.sha256(request.content).hexdigest()
        if place.state == "uploaded" and place.digest != digest:
            raise _Refused(409, "update_conflict", "Expected the same update again.")
        if place.state == "training":
            self._take_update(place, raw, request.content)
            place.state, place.digest = "uploaded", digest
        elif place.state != "uploaded":
            raise _Refused(409, "round_closed", "Expected an open round.")
        receipt = {"assignment": int(assignment), "digest": digest, "state": "uploaded"}
        return httpx.Response(200, json=receipt)

    def _take_update(self, place: _Place, raw: bytes, body: bytes) -> None:
        try:
            manifest = wire.UpdateManifest.from_bytes(raw)
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "update"
                path.write_bytes(body)
                model = self._models[place.document["model"]]
                specs = wire.tensors_of(model.weights, wire.FEDERATED)
                tensors = wire.open_tensors(path, specs)
                wire.norm(wire.open_flat(path, specs), specs)
                deltas = {name: np.array(value) for name, value in tensors.items()}
        except wire.WireError as error:
            raise _Refused(422, error.code, error.detail) from error
        told = (manifest.assignment, manifest.round, manifest.base, manifest.digest)
        document = place.document
        base, digest = document["version"]["weights"]["sha256"], hashlib.sha256(body).hexdigest()
        if told != (document["id"], document["round"], base, digest):
            raise _Refused(422, "manifest_invalid", "Expected the manifest of this update.")
        for name in document["requires"]:
            if name in wire.REPORTS and wire.REPORTS[name] not in manifest.reports:
                detail = f"Expected the report `{wire.REPORTS[name]}`."
                raise _Refused(422, "manifest_invalid", detail)
        self.updates.append(
            ReceivedUpdate(place.participant, document["id"], manifest, deltas, body)
        )

    def _failure(self, request: httpx.Request, assignment: str) -> httpx.Response:
        place = self._open_place(request, assignment)
        body = json.loads(request.content)
        self.failures.append((int(assignment), body["reason"], body["detail"]))
        place.state = "failed"
        place.document["code"] = body["reason"]
        return httpx.Response(200, json=place.told())

    def _withdraw(self, request: httpx.Request, assignment: str) -> httpx.Response:
        place, reason = self._open_place(request, assignment), request.url.params.get("reason", "")
        place.state, place.document["code"] = "withdrawn", reason or "withdrawn"
        self.withdrawals.append((int(assignment), reason))
        return httpx.Response(204)

    def _blob_door(self, request: httpx.Request, digest: str) -> httpx.Response:
        self._who(request)
        content = self.blobs.get(digest)
        if content is None:
            raise _Refused(404, "blob_not_found", "Expected the digest of a blob.")
        headers = {"ETag": f'"{digest}"', "Cache-Control": "immutable"}
        asked = re.fullmatch(r"bytes=(\d+)-", request.headers.get("Range", ""))
        if not asked or request.headers.get("If-Range", headers["ETag"]) != headers["ETag"]:
            return httpx.Response(200, headers=headers, content=content)
        start, length = int(asked[1]), len(content)
        if start >= length:
            return httpx.Response(416, headers={"Content-Range": f"bytes */{length}"})
        headers["Content-Range"] = f"bytes {start}-{length - 1}/{length}"
        return httpx.Response(206, headers=headers, content=content[start:])

    def _model(self, request: httpx.Request, slug: str) -> httpx.Response:
        self._who(request)
        if slug not in self._models:
            raise _Refused(404, "model_not_found", "Expected the slug of a model.")
        return httpx.Response(200, json=self._models[slug].document)

    def _list_models(self, request: httpx.Request) -> httpx.Response:
        self._who(request)
        found = [model.document for model in self._models.values()]
        told = {"count": len(found), "next": None, "previous": None, "results": found}
        return httpx.Response(200, json=told)

    def _me(self, request: httpx.Request) -> httpx.Response:
        who = self._who(request)
        state = self._participants[who].state
        return httpx.Response(200, json=self._enrolled(who) | {"state": state})

    def _rotate(self, request: httpx.Request) -> httpx.Response:
        who = self._who(request)
        body, participant = json.loads(request.content), self._participants[who]
        message = wire.rotate_message(body["public_key"])
        _verify(participant.public_key, message, body["signature"])
        participant.public_key = body["public_key"]
        self._tokens = {token: owner for token, owner in self._tokens.items() if owner != who}
        return httpx.Response(200, json={"participant": who})

    def _leave(self, request: httpx.Request) -> httpx.Response:
        del self._participants[self._who(request)]
        return httpx.Response(204)


_ROUTES = (
    ("GET", r"", "_root"),
    ("POST", r"enrol", "_enrol"),
    ("POST", r"challenges", "_challenge"),
    ("POST", r"tokens", "_log_in"),
    ("POST", r"check-in", "_check_in"),
    ("GET", r"assignments/(\d+)", "_assignment"),
    ("DELETE", r"assignments/(\d+)", "_withdraw"),
    ("POST", r"assignments/(\d+)/progress", "_progress"),
    ("PUT", r"assignments/(\d+)/update", "_update"),
    ("POST", r"assignments/(\d+)/failure", "_failure"),
    ("POST", r"evaluations/(\d+)/report", "_report"),
    ("POST", r"evaluations/(\d+)/failure", "_decline_report"),
    ("GET", r"blobs/([0-9a-f]{64})", "_blob_door"),
    ("GET", r"models", "_list_models"),
    ("GET", r"models/([^/]+)", "_model"),
    ("GET", r"participants/me", "_me"),
    ("POST", r"participants/me/rotate", "_rotate"),
    ("DELETE", r"participants/me", "_leave"),
)


def _blob(
    weights: Sequence[wire.WeightSpec], values: Mapping[str, np.ndarray], *roles: str
) -> bytes:
    dtypes = {"F32": np.float32, "U32": np.uint32, "I64": np.int64}
    return wire.dumps(
        {
            spec.name: np.asarray(values[spec.name], dtype=dtypes[spec.dtype])
            for spec in wire.tensors_of(weights, *roles)
        }
    )


class _Refused(Exception):
    def __init__(self, status: int, code: str, detail: str) -> None:
        super().__init__(detail)
        self.status, self.code, self.detail = status, code, detail

    def answer(self) -> httpx.Response:
        problem = {"type": "about:blank", "title": self.code, "status": self.status}
        return httpx.Response(
            self.status,
            json=problem | {"detail": self.detail, "code": self.code},
            headers={"Content-Type": "application/problem+json"},
        )


def _verify(public_key: str, message: bytes, signature: str) -> None:
    try:
        key = Ed25519PublicKey.from_public_bytes(wire.unb64(public_key))
        key.verify(wire.unb64(signature), message)
    except (InvalidSignature, wire.WireError) as error:
        raise _Refused(401, "signature_invalid", "Expected a valid signature.") from error


def _check_state(participant: _Enrolled) -> None:
    if participant.state != "active":
        detail = f"Expected an active participant. Received: {participant.state}"
        raise _Refused(403, f"participant_{participant.state}", detail)


class _Listener(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *args: Any) -> None:
        if not isinstance(sys.exception(), ConnectionError):  # who hangs up is no news
            super().handle_error(*args)


def _handler(server: FakeServer) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            url = f"http://127.0.0.1{self.path}"
            request = httpx.Request(self.command, url, headers=self.headers.items(), content=body)
            try:
                response = server.handle(request)
            except httpx.RequestError:
                self.close_connection = True
                return
            self.send_response(response.status_code)
            for name, value in response.headers.items():
                if name.lower() != "content-length":
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(response.content)))
            self.end_headers()
            self.wfile.write(response.content)

        do_GET = do_POST = do_PUT = do_DELETE = answer  # noqa: N815 - the names that it looks for

        def log_message(self, *_: object) -> None:
            pass

    return Handler


@dataclass(slots=True)
class FakeTrainer:
    """A trainer that needs no Keras: every federated value changes by `step`.

    Args:
        step: delta of every federated value; a NaN plays a training that diverged.
        epochs: how often `on_epoch` is called.
        weights: weights manifest of the model.
        calls: the weights that each training started from.
        measured: what every version comes to on held-out examples.
        evaluated: the weights of each version that was measured.
        asked: what a strategy asked of each: `requires`, `own` and `control`.
        capabilities: what a strategy may ask for.
    """

    step: float = 0.01
    epochs: int = 2
    weights: Sequence[wire.WeightSpec] = WEIGHTS
    calls: list[dict[str, np.ndarray]] = field(default_factory=list)
    measured: Mapping[str, float] = field(default_factory=lambda: {"loss": 0.5, "accuracy": 0.75})
    evaluated: list[dict[str, np.ndarray]] = field(default_factory=list)
    asked: list[dict[str, Any]] = field(default_factory=list)
    capabilities: Collection[str] = tuple(drift.CAPABILITIES)

    def train(
        self,
        weights: Mapping[str, np.ndarray],
        data: Data,
        hyperparameters: Mapping[str, Any],
        seed: int,
        on_epoch: OnEpoch | None = None,
        *,
        requires: drift.Requirements = drift.NOTHING,
        own: drift.Own | None = None,
        control: np.ndarray | None = None,
    ) -> FakeResult:
        """Change every value by the step, the local ones by one; what is asked is one batch."""
        steps = int(hyperparameters.get("epochs", 1))
        self.asked.append({"requires": requires, "own": own, "control": control})
        self.calls.append({name: np.array(value) for name, value in weights.items()})
        for epoch in range(1, self.epochs + 1):
            if on_epoch is not None:
                on_epoch(epoch, self.epochs, {"loss": 1 / epoch})
        federated = wire.tensors_of(self.weights, wire.FEDERATED)
        local = wire.tensors_of(self.weights, wire.LOCAL)
        deltas = {spec.name: np.full(spec.shape, self.step, np.float32) for spec in federated}
        return FakeResult(
            deltas=deltas,
            samples=len(data[0]) if isinstance(data, tuple | list) else len(data),
            metrics={"loss": 1 / self.epochs},
            local={spec.name: weights[spec.name] + np.float32(1) for spec in local},
            reports=drift.reports(requires, {"steps": steps, "initial_loss": 1.0}),
            own=drift.advance(
                requires,
                own,
                control,
                drift.joined(deltas),
                steps=steps,
                learning_rate=hyperparameters.get("learning_rate", 0.1),
            ),
        )

    def measure(
        self,
        weights: Mapping[str, np.ndarray],
        data: Data,
        *,
        check: Callable[[], object] | None = None,
    ) -> Measured:
        """What every version comes to, on as many examples as there are."""
        self.evaluated.append({name: np.array(value) for name, value in weights.items()})
        return Measured(_count(data), dict(self.measured))


def _count(data: Data) -> int:
    return len(data[0]) if isinstance(data, tuple | list) else len(data)


@dataclass(frozen=True, slots=True)
class FakeResult:
    """What `FakeTrainer` answers."""

    deltas: dict[str, np.ndarray]
    samples: int
    metrics: dict[str, float]
    local: dict[str, np.ndarray]
    reports: dict[str, float] = field(default_factory=dict)
    own: dict[str, np.ndarray] = field(default_factory=dict)
