"""What stays on alice's machine: her profile, her keys and her blobs."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path

import httpx
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from client_sdk import profile, wire
from client_sdk.cache import BlobCache
from client_sdk.errors import (
    EnrolmentRefused,
    ProfileExists,
    ProfileInUse,
    ProfileInvalid,
    ProfileNotFound,
    ServerUnreachable,
)
from client_sdk.keys import Key
from client_sdk.participant import Participant
from client_sdk.profile import Profile
from client_sdk.testing import FakeServer


def enrol(server: FakeServer, code: str, name: str = "alice") -> Participant:
    return Participant.enrol(
        server.url, code, name=name, profile=name, transport=server.transport, patience=0
    )


class TestEnrolment:
    def test_leaves_a_profile_that_can_be_loaded(self, server: FakeServer) -> None:
        alice = enrol(server, server.join_code())
        again = Participant.load("alice", transport=server.transport)
        assert again.profile == alice.profile
        assert again.check_in() is not None
        assert profile.names() == ["alice"]

    def test_of_several_on_one_machine(self, server: FakeServer) -> None:
        for name in ("charlie", "alice", "bob"):
            enrol(server, server.join_code(), name)
        assert profile.names() == ["alice", "bob", "charlie"]

    def test_needs_a_code_that_is_valid_and_leaves_nothing_behind(
        self, server: FakeServer, home: Path
    ) -> None:
        with pytest.raises(EnrolmentRefused):
            enrol(server, "guessed")
        assert list((home / "profiles").iterdir()) == []

    def test_with_a_used_code_is_refused(self, server: FakeServer) -> None:
        code = server.join_code()
        enrol(server, code)
        with pytest.raises(EnrolmentRefused):
            enrol(server, code, "bob")

    def test_is_not_done_twice(self, server: FakeServer) -> None:
        enrol(server, server.join_code())
        with pytest.raises(ProfileExists):
            enrol(server, server.join_code())

    def test_whose_answer_got_lost_is_finished_with_the_same_code(self, server: FakeServer) -> None:
        code = server.join_code()
        lost: list[int] = []

        def lose_the_answer(request: httpx.Request) -> httpx.Response | None:
            if request.url.path.endswith("/enrol") and not lost:
                lost.append(1)
                server.handle(request)
                raise httpx.ReadTimeout("timed out", request=request)
            return None

        server.before.append(lose_the_answer)
        with pytest.raises(ServerUnreachable):
            enrol(server, code)
        enrol(server, code)
        assert len(server._participants) == 1

    def test_ends_with_leaving_and_keeps_nothing(self, server: FakeServer, home: Path) -> None:
        alice = enrol(server, server.join_code())
        alice.leave()
        assert server._participants == {}
        assert profile.names() == []
        assert list((home / "profiles").iterdir()) == []

    def test_stays_when_the_server_cannot_be_told_of_leaving(self, server: FakeServer) -> None:
        alice = enrol(server, server.join_code())
        server.away(100)
        with pytest.raises(ServerUnreachable):
            alice.leave(patience=0)
        assert profile.names() == ["alice"]


class TestAProfile:
    @pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", "a\\b", ".hidden", "x" * 65])
    def test_cannot_be_named_out_of_its_folder(self, name: str) -> None:
        with pytest.raises(ProfileInvalid):
            Profile.folder_of(name)

    def test_that_is_not_there_is_told_with_those_that_are(self, server: FakeServer) -> None:
        enrol(server, server.join_code())
        with pytest.raises(ProfileNotFound, match="alice"):
            Profile.load("bob")

    @pytest.mark.parametrize("content", ["", "[]", "{}", '{"url": 1}', '{"profile": "x"}'])
    def test_that_is_damaged_is_told(self, server: FakeServer, content: str) -> None:
        alice = enrol(server, server.join_code())
        (alice.profile.folder / "profile.json").write_text(content)
        with pytest.raises(ProfileInvalid):
            Profile.load("alice")

    def test_is_its_owners_alone(self, server: FakeServer) -> None:
        folder = enrol(server, server.join_code()).profile.folder
        for path in (folder, folder / "key.pem", folder / "profile.json"):
            assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0

    def test_is_held_by_one_at_a_time(self, server: FakeServer) -> None:
        mine = enrol(server, server.join_code()).profile
        with mine.locked(), pytest.raises(ProfileInUse), mine.locked():
            pass
        with mine.locked():
            pass

    def test_lies_in_the_users_own_folders(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("FEDCLIENT_HOME")
        monkeypatch.setenv("XDG_CONFIG_HOME", "/somewhere/config")
        monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere/cache")
        mine = Profile("alice", "https://fed.example.org", "1", "alice")
        if os.name == "posix" and profile.home().is_relative_to("/somewhere"):
            assert mine.folder == Path("/somewhere/config/fedclient/profiles/alice")
            assert mine.cache_folder == Path("/somewhere/cache/fedclient/alice")


class TestAKey:
    def test_comes_back_as_it_went(self, tmp_path: Path) -> None:
        key = Key.generate()
        key.save(tmp_path / "key.pem")
        assert Key.load(tmp_path / "key.pem").public == key.public

    def test_signs_what_its_public_half_verifies(self) -> None:
        key = Key.generate()
        public = Ed25519PublicKey.from_public_bytes(wire.unb64(key.public))
        public.verify(wire.unb64(key.sign(b"message")), b"message")

    def test_does_not_show_its_private_half(self, tmp_path: Path) -> None:
        key = Key.generate()
        key.save(tmp_path / "key.pem")
        secret = (tmp_path / "key.pem").read_text().splitlines()[1]
        assert repr(key) == f"Key(public={key.public!r})"
        assert secret not in repr(key)

    def test_that_others_can_read_is_not_used(self, tmp_path: Path) -> None:
        Key.generate().save(tmp_path / "key.pem")
        (tmp_path / "key.pem").chmod(0o644)
        with pytest.raises(ProfileInvalid, match="Received: -rw-r--r--"):
            Key.load(tmp_path / "key.pem")

    def test_of_another_kind_is_not_used(self, tmp_path: Path) -> None:
        path = tmp_path / "key.pem"
        for content in (
            b"no key",
            rsa.generate_private_key(65537, 2048).private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            ),
        ):
            path.write_bytes(content)
            path.chmod(0o600)
            with pytest.raises(ProfileInvalid):
                Key.load(path)


class TestARotation:
    def test_makes_the_old_key_worthless(self, alice: Participant, server: FakeServer) -> None:
        before = alice.profile.key().public
        alice.rotate_key()
        assert alice.profile.key().public != before
        assert alice.profile.next_key() is None
        [enrolled] = server._participants.values()
        assert enrolled.public_key == alice.profile.key().public
        assert alice.check_in() is not None

    def test_is_followed_by_a_process_that_takes_part(
        self, alice: Participant, server: FakeServer
    ) -> None:
        alice.check_in()
        Participant.load("alice", transport=server.transport).rotate_key()
        assert alice.check_in() is not None

    def test_that_the_server_never_heard_of_changes_nothing(
        self, alice: Participant, server: FakeServer
    ) -> None:
        server.away(1)
        with pytest.raises(ServerUnreachable):
            alice.rotate_key(patience=0)
        assert Participant.load("alice", transport=server.transport).check_in() is not None

    def test_whose_answer_got_lost_is_finished_at_the_next_login(
        self, alice: Participant, server: FakeServer
    ) -> None:
        def lose_the_answer(request: httpx.Request) -> httpx.Response | None:
            if request.url.path.endswith("/rotate"):
                server._rotate(request)
                raise httpx.ReadTimeout("timed out", request=request)
            return None

        server.before.append(lose_the_answer)
        alice.check_in()
        with pytest.raises(ServerUnreachable):
            alice.rotate_key(patience=0)
        [enrolled] = server._participants.values()
        again = Participant.load("alice", transport=server.transport)
        assert again.check_in() is not None
        assert again.profile.key().public == enrolled.public_key

    def test_whose_answer_got_lost_is_finished_by_trying_again(
        self, alice: Participant, server: FakeServer
    ) -> None:
        lost: list[int] = []

        def lose_the_answer(request: httpx.Request) -> httpx.Response | None:
            if request.url.path.endswith("/rotate") and not lost:
                lost.append(1)
                server._rotate(request)
                raise httpx.ReadTimeout("timed out", request=request)
            return None

        server.before.append(lose_the_answer)
        alice.rotate_key()
        [enrolled] = server._participants.values()
        assert alice.profile.key().public == enrolled.public_key
        assert alice.check_in() is not None


class TestTheCache:
    def put(self, cache: BlobCache, content: bytes, age: float = 0.0) -> str:
        digest = hashlib.sha256(content).hexdigest()
        cache.path(digest).write_bytes(content)
        os.utime(cache.path(digest), (10**9 - age, 10**9 - age))
        return digest

    def test_finds_what_is_whole(self, tmp_path: Path) -> None:
        cache = BlobCache(tmp_path)
        digest = self.put(cache, b"weights")
        assert cache.find(digest, 7) == tmp_path / digest
        assert cache.find("ab" * 32, 7) is None

    def test_removes_what_has_rotted(self, tmp_path: Path) -> None:
        cache = BlobCache(tmp_path)
        digest = self.put(cache, b"weights")
        (tmp_path / digest).write_bytes(b"weighty")
        assert cache.find(digest, 7) is None
        assert list(tmp_path.iterdir()) == []

    def test_forgets_what_was_used_longest_ago(self, tmp_path: Path) -> None:
        cache = BlobCache(tmp_path, limit=20)
        old, middle, new = (self.put(cache, bytes([age]) * 10, age=age) for age in (30, 20, 10))
        cache.trim()
        assert {path.name for path in tmp_path.iterdir()} == {middle, new}
        assert old not in {path.name for path in tmp_path.iterdir()}

    def test_keeps_what_is_in_use(self, tmp_path: Path) -> None:
        cache = BlobCache(tmp_path, limit=5)
        digest = self.put(cache, b"weights that are in use")
        cache.trim(digest)
        assert cache.path(digest).exists()
