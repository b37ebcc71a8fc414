"""fedclient, as a person types it."""

from __future__ import annotations

import argparse
import dataclasses
import io
import ipaddress
import json
import re
import ssl
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from http.server import ThreadingHTTPServer
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from client_sdk import cli, errors, profile, testing
from client_sdk.cli import (
    codes,
    diagnosis,
    joining,
    output,
    records,
    taking_part,
    times,
    watching,
)
from client_sdk.cli.parser import LIMITS
from client_sdk.held_out import Split
from client_sdk.limits import Limits
from client_sdk.participant import Participant
from client_sdk.profile import Profile
from client_sdk.testing import FakeServer, FakeTrainer

Run = Callable[..., tuple[int, str, str]]
Json = Callable[..., tuple[int, Any]]


@pytest.fixture
def url(server: FakeServer) -> Iterator[str]:
    with server.serve() as url:
        yield url


@pytest.fixture(autouse=True)
def no_keras(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("client_sdk.training.Trainer", lambda *_, **__: FakeTrainer())
    if "keras" not in sys.modules:  # it is imported ahead of a round: seconds, for nothing
        stub = ModuleType("keras")
        stub.__spec__ = ModuleSpec("keras", None)
        monkeypatch.setitem(sys.modules, "keras", stub)


@pytest.fixture(autouse=True)
def no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joining, "PATIENCE", 0.0)
    monkeypatch.setattr(diagnosis, "PATIENCE", 2.0)
    monkeypatch.setattr(diagnosis, "_PUSH", 0.05)
    monkeypatch.setattr(taking_part, "_VERDICT", 0.0)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Type a command: exit code, standard output, standard error."""

    def typed(*words: object) -> tuple[int, str, str]:
        try:
            code = cli.main([str(word) for word in words])
        except SystemExit as ended:
            code = int(ended.code or 0)
        told = capsys.readouterr()
        assert "Traceback" not in told.err
        return code, told.out, told.err

    return typed


@pytest.fixture
def run_json(run: Run) -> Json:
    """Type a command with --json: exit code and what came, which is nothing but JSON."""

    def typed(*words: object) -> tuple[int, Any]:
        code, out, _ = run(*words, "--json")
        return code, json.loads(out)

    return typed


@pytest.fixture
def joined(server: FakeServer, url: str, run: Run) -> Profile:
    """Alice, who has joined."""
    assert run("join", url, server.join_code(), "--name", "alice")[0] == cli.OK
    return Profile.load()


@pytest.fixture
def npz(tmp_path: Path) -> Path:
    path = tmp_path / "data.npz"
    np.savez(path, x=np.zeros((10, 3)), y=np.zeros(10))
    return path


def lines(out: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.splitlines()]


# --- Coming and going ---


def test_alice_joins_trains_and_leaves(server: FakeServer, url: str, npz: Path, run: Run) -> None:
    code, out, _ = run("join", url, server.join_code(), "--name", "alice")
    assert code == cli.OK
    assert out.startswith(f"Enrolled as alice at {url}.\n")
    server.open_round()
    code, out, err = run("train", "--data", npz, "--rounds", 1)
    assert code == cli.OK
    assert "10 examples.\nTaking part as alice. Ctrl-C ends it.\n" in out
    assert "epoch 2/2  loss 0.5000" in out
    assert out.endswith("1 update from 10 samples.\n")
    assert err == ""
    assert len(server.updates) == 1
    assert run("leave", "--yes")[:2] == (
        cli.OK,
        f"Left {url}, it accepts this key no more; nothing is kept here.\n",
    )
    assert profile.names() == []


def test_status_says_who_we_are_and_whether_we_are_accepted(
    server: FakeServer, joined: Profile, run: Run, run_json: Json
) -> None:
    code, out, _ = run("status")
    assert code == cli.OK
    assert re.search(r"^participant +alice ", out, re.MULTILINE)
    assert re.search(r"^accepted +yes$", out, re.MULTILINE)
    code, told = run_json("status")
    assert (code, told["accepted"], told["name"]) == (cli.OK, True, "alice")
    assert told["limits"]["share_metrics"] is True
    assert (told["taking_part"], told["updates_sent"]) == (False, 0)

    server.suspend(joined.participant)
    code, out, err = run("status")
    assert code == cli.REFUSED
    assert "participant" in out
    assert "suspended" in err
    code, told = run_json("status")
    assert (code, told["accepted"], told["error"]["kind"]) == (
        cli.REFUSED,
        False,
        "participant_suspended",
    )


def test_status_tells_that_another_process_takes_part(joined: Profile, run_json: Json) -> None:
    with joined.locked():
        assert run_json("status")[1]["taking_part"] is True


def test_the_profiles_of_a_machine_are_listed_with_the_damaged_one(
    server: FakeServer, url: str, joined: Profile, home: Path, run: Run, run_json: Json
) -> None:
    run("join", url, server.join_code(), "--name", "bob", "--profile", "second")
    (home / "profiles" / "second" / "profile.json").write_text("no JSON")
    assert run("profiles", "--names")[1] == "default\nsecond\n"
    assert "damaged" in run("profiles")[1]
    code, told = run_json("profiles")
    assert code == cli.OK
    assert [one["name"] for one in told["profiles"]] == ["alice", None]


def test_a_machine_without_profiles_says_what_makes_one(run: Run) -> None:
    code, out, _ = run("profiles")
    assert code == cli.OK
    assert "fedclient join" in out


def test_a_new_key_is_accepted_at_once(joined: Profile, run: Run, run_json: Json) -> None:
    before = joined.key().public
    assert run_json("rotate-key") == (cli.OK, {"profile": "default", "rotated": True})
    assert joined.key().public != before
    assert run("status")[0] == cli.OK


@pytest.mark.parametrize(
    ("answer", "left"), [("", False), ("n", False), ("maybe", False), ("y", True), ("Yes ", True)]
)
def test_leaving_asks_first(
    answer: str, left: bool, joined: Profile, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = io.StringIO(f"{answer}\n")
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stdin", terminal)
    code, out, _ = run("leave")
    assert code == (cli.OK if left else cli.FAILED)
    assert ("Nothing was changed." in out) is not left
    assert (profile.names() == []) is left


@pytest.mark.parametrize("more", [[], ["--json"]])
def test_where_nobody_can_be_asked_leaving_needs_a_word(
    more: list[str], joined: Profile, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    code, out, err = run("leave", *more)
    assert code == cli.USAGE
    assert "--yes" in out + err
    assert profile.names() == ["default"]


def test_a_server_that_is_gone_for_good_can_be_forgotten_here(
    server: FakeServer, joined: Profile, run: Run, run_json: Json
) -> None:
    server.away(1000)
    assert run("leave", "--yes")[0] == cli.UNREACHABLE
    assert profile.names() == ["default"]
    code, told = run_json("leave", "--yes", "--here-only")
    assert (code, told["server_told"]) == (cli.OK, False)
    assert profile.names() == []


def test_nobody_is_forgotten_who_takes_part(joined: Profile, run: Run) -> None:
    with joined.locked():
        assert run("leave", "--yes")[0] == cli.NO_PROFILE
        assert run("leave", "--yes", "--here-only")[0] == cli.NO_PROFILE
    assert profile.names() == ["default"]


def test_whom_the_server_has_revoked_may_leave_and_join_again(
    server: FakeServer, url: str, joined: Profile, run: Run
) -> None:
    server.suspend(joined.participant, "revoked")
    assert run("status")[0] == cli.REFUSED
    assert run("leave", "--yes")[0] == cli.OK
    assert run("join", url, server.join_code())[0] == cli.OK


# --- Exit codes ---


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["status"], cli.NO_PROFILE, "a profile that has joined"),
        (["leave", "--yes", "--profile", "bob"], cli.NO_PROFILE, "bob"),
        (["log", "--profile", "../bob"], cli.NO_PROFILE, "profile name"),
        (["limits"], cli.NO_PROFILE, "fedclient join"),
        (["predict", "cat.jpg"], cli.NO_PROFILE, "fedclient join"),
        (["join", "http://fed.example.org", "CODE"], cli.USAGE, "https"),
        (["join", "http://127.0.0.1:9", "CODE"], cli.UNREACHABLE, "refused"),
    ],
)
def test_what_goes_wrong_is_said_in_a_line(
    words: list[str], code: int, said: str, run: Run, run_json: Json
) -> None:
    found, out, err = run(*words)
    assert found == code
    assert out == ""
    assert said in err
    assert len(err.splitlines()) == 1
    found, told = run_json(*words)
    assert found == code
    assert said in told["error"]["message"]
    assert told["error"]["exit_code"] == code


def test_a_wrong_code_is_refused(url: str, run: Run, run_json: Json) -> None:
    code, _, err = run("join", url, "guessed")
    assert code == cli.REFUSED
    assert "join code" in err
    assert run_json("join", url, "guessed")[1]["error"]["kind"] == "join_code_invalid"


def test_a_second_enrolment_in_one_profile_is_refused(
    server: FakeServer, url: str, joined: Profile, run: Run
) -> None:
    assert run("join", url, server.join_code())[0] == cli.NO_PROFILE


def test_a_server_that_cannot_be_trusted_has_its_own_code(
    server: FakeServer, joined: Profile, run: Run
) -> None:
    import httpx

    server.before.append(lambda _: httpx.Response(302, headers={"Location": "https://evil"}))
    assert run("status")[0] == cli.DISTRUSTED


def test_a_server_that_wants_another_version_has_its_own_code(
    server: FakeServer, joined: Profile, run: Run, run_json: Json
) -> None:
    import httpx

    problem = {"code": "sdk_unsupported", "detail": "Expected SDK 2. Received: 1", "status": 426}

    def refuse(request: httpx.Request) -> httpx.Response | None:
        asked = request.url.path.endswith("/tokens")
        return httpx.Response(426, json=problem) if asked else None

    server.before.append(refuse)
    assert run("status")[0] == cli.VERSIONS
    assert run_json("status")[1]["error"]["kind"] == "sdk_unsupported"
    code, told = run_json("test")
    assert code == cli.VERSIONS
    assert "--upgrade" in told["checks"][-1]["advice"]


def test_what_is_not_installed_is_said_and_not_traced(
    joined: Profile, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Another test may have imported them.
    for name in list(sys.modules):
        if name == "client_sdk.photos.app" or name.startswith("starlette."):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "starlette", None)
    code, _, err = run("photos", "--no-browser")
    assert (code, "pip install 'fedserver[client]'" in err) == (cli.MISSING, True)


def test_a_folder_that_cannot_be_written_is_said(
    url: str, server: FakeServer, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FEDCLIENT_HOME", str(tmp_path / "file"))
    code, _, err = run("join", url, server.join_code())
    assert code == cli.FAILED
    assert "file" in err


USAGE = [
    [],
    ["dance"],
    ["train"],
    ["train", "--data", "x", "--rounds", "0"],
    ["train", "--data", "x", "--rounds", "many"],
    ["train", "--data", "x", "--rounds", "²"],
    ["train", "--data", "x", "--until", "whenever"],
    ["train", "--data", "x", "--seconds-per-round", "nan"],
    ["train", "--data", "x", "--round", "1"],
    ["photos", "--port", "70000"],
    ["limits", "clear", "dreams"],
    ["completion", "cmd.exe"],
    ["log", "--since", "99999999999999w"],
]


@pytest.mark.parametrize("words", USAGE)
def test_wrong_usage_is_explained(words: list[str], run: Run, run_json: Json) -> None:
    code, out, err = run(*words)
    assert (code, out) == (cli.USAGE, "")
    assert not re.search(r"invalid _\w+ value", err)
    code, told = run_json(*words)
    assert (code, told["error"]["kind"]) == (cli.USAGE, "usage")


def test_interrupted_elsewhere_than_in_a_round(
    run: Run, run_json: Json, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(joining.profile, "names", interrupt)
    assert run("profiles")[0] == cli.INTERRUPTED
    assert run_json("profiles") == (
        cli.INTERRUPTED,
        {"error": {"kind": "interrupted", "message": "interrupted", "exit_code": 130}},
    )


def test_every_exit_code_is_documented() -> None:
    names = [name for name in vars(codes) if name.isupper() and not name.startswith("_")]
    numbers = {getattr(codes, name) for name in names if name != "MEANINGS"}
    document = (Path(__file__).parents[2] / "docs" / "fedclient.md").read_text()
    rows = {int(code) for code in re.findall(r"^\| (\d+) \|", document, re.MULTILINE)}
    shown = {int(code) for code in re.findall(r"^ *(\d+)  ", codes.told(), re.MULTILINE)}
    assert numbers == rows == shown == set(codes.MEANINGS)


def test_every_error_of_the_sdk_has_an_exit_code_of_its_kind() -> None:
    expected = {
        errors.EnrolmentRefused(403, "join_code_invalid", ""): cli.REFUSED,
        errors.VersionRefused(426, "sdk_unsupported", ""): cli.VERSIONS,
        errors.CertificateRefused(): cli.UNREACHABLE,
        errors.RedirectRefused(): cli.DISTRUSTED,
        errors.ProfileInUse(): cli.NO_PROFILE,
        errors.TrainingFailed(): cli.FAILED,
        codes.DataUnreadable(): cli.BAD_DATA,
        OSError(): cli.FAILED,
    }
    assert {error: codes.exit_code(error) for error in expected} == expected


# --- Test ---


def checks_of(told: Any) -> dict[str, str]:
    return {check["name"]: check["state"] for check in told["checks"]}


def test_all_is_well_and_each_check_says_so(joined: Profile, run: Run, run_json: Json) -> None:
    code, out, _ = run("test")
    assert code == cli.OK
    assert out.endswith("Ready to take part.\n")
    code, told = run_json("test")
    assert (code, told["ok"], told["url"]) == (cli.OK, True, joined.url)
    # The server in memory has no WebSockets: that is worth a warning and fails nothing.
    names = "installation profile server certificate service versions clock accepted"
    assert checks_of(told) == {**dict.fromkeys(names.split(), "ok"), "push": "warning"}


def test_a_server_can_be_looked_at_before_one_has_a_code(
    url: str, run: Run, run_json: Json
) -> None:
    assert run("test", url)[1].endswith("Ready to join.\n")
    code, told = run_json("test", url)
    assert code == cli.OK
    assert "accepted" not in checks_of(told)


def last(told: Any) -> tuple[str, str, str]:
    check = told["checks"][-1]
    return check["name"], check["state"], check["advice"]


@pytest.mark.parametrize(
    ("address", "code", "name", "advice"),
    [
        ("http://127.0.0.1:9", cli.UNREACHABLE, "server", "running"),
        ("https://nowhere.invalid", cli.UNREACHABLE, "server", "DNS"),
    ],
)
def test_a_server_that_is_not_there(
    address: str, code: int, name: str, advice: str, run: Run, run_json: Json
) -> None:
    found, told = run_json("test", address)
    assert found == code
    assert last(told)[:2] == (name, "failed")
    assert advice in last(told)[2]
    assert advice in run("test", address)[1]


def test_https_where_http_is_spoken(url: str, run_json: Json) -> None:
    code, told = run_json("test", url.replace("http:", "https:"))
    assert code == cli.UNREACHABLE
    assert "https" in last(told)[2]


@pytest.mark.parametrize(
    ("answer", "code", "name"),
    [
        ({"status_code": 302, "headers": {"Location": "https://other"}}, 7, "service"),
        ({"status_code": 200, "text": "<html>It works!</html>"}, 7, "service"),
        ({"status_code": 200, "json": ["fedserver"]}, 7, "service"),
        ({"status_code": 200, "json": {"service": "fedserver", "wire": [2]}}, 9, "versions"),
        ({"status_code": 200, "json": {"service": "fedserver", "wire": "1"}}, 9, "versions"),
    ],
)
def test_something_else_answers(
    answer: dict[str, Any], code: int, name: str, server: FakeServer, url: str, run_json: Json
) -> None:
    import httpx

    server.before.append(lambda _: httpx.Response(**answer))
    found, told = run_json("test", url)
    assert found == code
    assert last(told)[:2] == (name, "failed")
    assert last(told)[2]


@pytest.mark.parametrize(("minutes", "way"), [(10, "behind"), (-10, "ahead of")])
def test_clocks_that_are_apart_are_a_warning(
    minutes: int, way: str, server: FakeServer, url: str, run_json: Json
) -> None:
    import httpx

    theirs = datetime.now(UTC) + timedelta(minutes=minutes)
    told = {"service": "fedserver", "wire": [1], "time": theirs.isoformat()}
    server.before.append(lambda _: httpx.Response(200, json=told))
    code, found = run_json("test", url)
    assert code == cli.OK
    name, state, advice = last(found)
    assert (name, state) == ("clock", "warning")
    assert way in found["checks"][-1]["detail"]
    assert "timedatectl" in advice


def test_a_date_without_a_zone_is_taken_for_the_worlds() -> None:
    import httpx

    answer = httpx.Response(200, headers={"Date": "Mon, 01 Jan 2024 00:00:00 -0000"})
    assert diagnosis._clock(diagnosis._Found(answer=answer)).state == "warning"


def test_whom_the_server_does_not_accept_is_told_what_to_do(
    server: FakeServer, joined: Profile, run_json: Json
) -> None:
    for state, advice in (("suspended", "reinstate"), ("revoked", "fedclient leave")):
        server.suspend(joined.participant, state)
        code, told = run_json("test")
        assert code == cli.REFUSED
        assert last(told)[:2] == ("accepted", "failed")
        assert advice in last(told)[2]


def test_who_has_not_joined_is_told_how(run_json: Json) -> None:
    code, told = run_json("test")
    assert code == cli.NO_PROFILE
    assert "fedclient join" in last(told)[2]


def test_without_keras_the_rest_is_looked_at_all_the_same(
    url: str, run_json: Json, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KERAS_BACKEND", "abacus")
    code, told = run_json("test", url)
    assert code == cli.MISSING
    assert checks_of(told)["installation"] == "failed"
    assert checks_of(told)["versions"] == "ok"


# --- Certificates ---


def certificate(folder: Path, days: int) -> Path:
    """A certificate of an authority of one's own for this machine, with its key, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "St. Mary's Hospital")])
    here = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=days))
        .add_extension(here, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    form = (Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path = folder / "certificate.pem"
    path.write_bytes(made.public_bytes(Encoding.PEM) + key.private_bytes(*form))
    return path


@pytest.fixture
def https(tmp_path: Path) -> Iterator[Callable[[int], str]]:
    """A server with a certificate for so many days: its address."""
    with ExitStack() as stack:

        def serve(days: int) -> str:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate(tmp_path, days))
            listener = ThreadingHTTPServer(("127.0.0.1", 0), testing._handler(FakeServer()))
            listener.handle_error = lambda *_: None  # type: ignore[method-assign]
            listener.socket = context.wrap_socket(listener.socket, server_side=True)
            threading.Thread(target=listener.serve_forever, args=(0.02,), daemon=True).start()
            stack.callback(listener.server_close)
            stack.callback(listener.shutdown)
            return f"https://127.0.0.1:{listener.server_port}"

        yield serve


def test_a_certificate_that_nobody_knows_is_not_trusted(
    https: Callable[[int], str], run_json: Json
) -> None:
    code, told = run_json("test", https(100))
    assert code == cli.UNREACHABLE
    name, state, advice = last(told)
    assert (name, state) == ("certificate", "failed")
    assert "SSL_CERT_FILE" in advice


@pytest.mark.parametrize(("days", "state"), [(100, "ok"), (5, "warning")])
def test_a_certificate_of_ones_own_authority_is_trusted_where_it_is_named(
    days: int,
    state: str,
    https: Callable[[int], str],
    run_json: Json,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    address = https(days)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "certificate.pem"))
    code, told = run_json("test", address)
    assert code == cli.OK
    found = next(check for check in told["checks"] if check["name"] == "certificate")
    assert found["state"] == state
    assert "St. Mary's Hospital" in found["detail"]


# --- Data ---


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 no archive", b"x,y\n1,2\n"])
def test_data_of_another_kind_are_refused(
    tmp_path: Path, content: bytes, joined: Profile, run: Run
) -> None:
    path = tmp_path / "data.npz"
    path.write_bytes(content)
    code, _, err = run("train", "--data", path)
    assert code == cli.BAD_DATA
    assert "Received: " in err


def test_data_that_are_a_pickle_are_not_opened(tmp_path: Path, joined: Profile, run: Run) -> None:
    path = tmp_path / "data.npz"
    np.savez(path, x=np.array([object()]), y=np.zeros(1))
    assert run("train", "--data", path)[0] == cli.BAD_DATA


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"images": np.zeros(1)}, "Received: images"),
        ({"x": np.zeros((3, 2)), "y": np.zeros(4)}, "x [3, 2], y [4]"),
        ({"x": np.zeros(()), "y": np.zeros(())}, "as many examples as labels"),
    ],
)
def test_data_of_other_names_or_shapes_are_refused(
    arrays: dict[str, np.ndarray], said: str, tmp_path: Path, joined: Profile, run: Run
) -> None:
    np.savez(tmp_path / "data.npz", **arrays)  # type: ignore[arg-type]
    code, _, err = run("train", "--data", tmp_path / "data.npz")
    assert code == cli.BAD_DATA
    assert said in err


def test_a_folder_without_images_and_none_at_all_are_refused(
    tmp_path: Path, joined: Profile, run: Run
) -> None:
    assert run("train", "--data", tmp_path)[0] == cli.BAD_DATA
    code, _, err = run("train", "--data", tmp_path / "nothing.npz")
    assert (code, "No such file" in err) == (cli.BAD_DATA, True)


def image(folder: Path, name: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(b"\xff\xd8\xff")


def test_watched_data_are_read_anew_when_they_have_changed(tmp_path: Path, npz: Path) -> None:
    said: list[tuple[str, int]] = []
    watched = watching.Watched(npz, lambda text, count: said.append((text, count)))
    first = watched()
    assert watched() is first
    np.savez(npz, x=np.zeros((12, 3)), y=np.zeros(12))
    assert len(watched()[0]) == 12  # type: ignore[index]
    npz.write_bytes(b"half of an npz")
    assert len(watched()[0]) == 12  # type: ignore[index]
    assert [count for _, count in said] == [10, 12, 12]
    assert [text.partition(",")[0] for text, _ in said[:2]] == ["10 examples", "12 examples"]
    assert said[-1][0].endswith("the data of before are used")


def test_a_folder_that_fills_and_empties_is_watched(tmp_path: Path) -> None:
    said: list[int] = []
    watched = watching.Watched(tmp_path / "photos", lambda _, count: said.append(count))
    assert not watched.look()
    image(tmp_path / "photos" / "cat", "one.jpg")
    assert watched() == tmp_path / "photos"
    image(tmp_path / "photos" / "dog", "two.jpg")
    assert watched() == tmp_path / "photos"
    for path in (tmp_path / "photos").rglob("*.jpg"):
        path.unlink()
    with pytest.raises(errors.Declined):
        watched()
    assert said == [0, 1, 2, 0]


def test_who_watches_waits_until_there_is_something(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    naps: list[float] = []

    def nap(seconds: float) -> None:
        naps.append(seconds)
        if len(naps) == 3:
            image(tmp_path / "cat", "one.jpg")

    monkeypatch.setattr(watching.time, "sleep", nap)
    watching.Watched(tmp_path, lambda *_: None).wait()
    assert len(naps) == 3


# --- Train ---


def test_training_tells_programs_a_line_for_each_event(
    server: FakeServer, joined: Profile, npz: Path, run: Run
) -> None:
    server.open_round()
    code, out, _ = run("train", "--data", npz, "--rounds", 1, "--json")
    assert code == cli.OK
    told = lines(out)
    kinds = [one["event"] for one in told]
    assert kinds[:2] == ["data", "started"]
    assert kinds[-1] == "ended"
    assert {"assigned", "epoch", "sending", "uploaded"} <= set(kinds)
    assert all(datetime.fromisoformat(one["at"]).tzinfo for one in told)
    epoch = next(one for one in told if one["event"] == "epoch")
    assert (epoch["epoch"], epoch["metrics"]) == (1, {"loss": 1.0})
    assert epoch["assignment"]["model"] == "digits"
    assert (told[-1]["rounds"], told[-1]["samples"], told[-1]["exit_code"]) == (1, 10, 0)


def test_alice_is_told_how_much_is_held_out(
    server: FakeServer, joined: Profile, tmp_path: Path, run: Run
) -> None:
    x = np.arange(300.0).reshape(100, 3)
    np.savez(tmp_path / "data.npz", x=x, y=np.zeros(100))
    held_out = int(Split(0.2, joined.participant).of(x).sum())
    server.open_round()
    words = ("train", "--data", tmp_path / "data.npz", "--rounds", 1, "--held-out", 0.2)
    code, out, _ = run(*words)
    assert code == cli.OK
    train = 100 - held_out
    assert out.startswith(f"100 examples: {train} to train with, {held_out} held out.\n")
    assert f"update sent, {train} samples" in out
    assert out.endswith(f"1 update from {train} samples.\n")


def test_of_photos_that_are_watched_the_share_is_told(tmp_path: Path) -> None:
    said: list[str] = []
    image(tmp_path / "photos" / "cat", "one.jpg")
    split = Split(0.25, "alice")
    watching.Watched(tmp_path / "photos", lambda text, _: said.append(text), split).look()
    assert said == ["1 image, about 25% of them held out"]


def test_what_came_of_an_update_that_was_not_needed_is_said_in_the_log(
    server: FakeServer, joined: Profile, npz: Path, run: Run
) -> None:
    server.open_round()
    run("train", "--data", npz, "--rounds", 1)
    entry = dataclasses.replace(
        Participant.load().log()[-1],
        state="rejected",
        code="run_completed",
        reason="The run is completed.",
        published=11,
    )
    assert records._more(entry).startswith(
        "not used, The run is completed, version 11 came without it, loss"
    )


def test_training_tells_programs_what_goes_wrong(run: Run, joined: Profile) -> None:
    code, out, _ = run("train", "--data", "nothing.npz", "--json")
    assert code == cli.BAD_DATA
    assert lines(out)[-1]["error"]["kind"] == "data_unreadable"


def test_limits_given_to_train_hold_for_this_call(
    server: FakeServer, joined: Profile, npz: Path, run: Run, run_json: Json
) -> None:
    server.open_round()
    assert run("train", "--data", npz, "--rounds", 1, "--no-share-metrics")[0] == cli.OK
    assert server.updates[0].manifest.metrics == {}
    assert run_json("limits")[1]["share_metrics"] is True


def test_training_ends_at_a_time(joined: Profile, npz: Path, run: Run) -> None:
    assert run("train", "--data", npz, "--until", "2020-01-01")[0] == cli.OK


def test_data_that_do_not_fit_have_their_own_exit_code(
    server: FakeServer, joined: Profile, npz: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    from client_sdk.training import TrainingDataRefused

    class Strict:
        def train(self, *_: object, **__: object) -> None:
            raise TrainingDataRefused("Expected images. Received: numbers")

    monkeypatch.setattr("client_sdk.training.Trainer", lambda *_, **__: Strict())
    for _ in range(3):
        server.open_round()
    server.before.append(lambda request: _new_round(server, request.url.path))
    code, _, err = run("train", "--data", npz)
    assert code == cli.BAD_DATA
    assert "Expected images" in err


def _new_round(server: FakeServer, path: str) -> None:
    if path.endswith("check-in"):
        server.open_round()


# --- Log and limits ---


def test_what_left_is_listed(server: FakeServer, joined: Profile, npz: Path, run: Run) -> None:
    server.requires = {"report_steps": {}, "report_initial_loss": {}}
    server.open_round()
    run("train", "--data", npz, "--rounds", 1)
    code, out, _ = run("log")
    assert code == cli.OK
    update = next(line for line in out.splitlines() if " update" in line)
    assert "digits" in update
    assert "loss 0.5000, steps 2  initial_loss 1" in update


def test_programs_read_the_log(
    server: FakeServer, joined: Profile, npz: Path, run: Run, run_json: Json
) -> None:
    server.open_round()
    run("train", "--data", npz, "--rounds", 1)
    code, told = run_json("log")
    assert code == cli.OK
    update = next(one for one in told["entries"] if one["kind"] == "update")
    assert update["tensors"] == ["0000.dense.kernel", "0001.dense.bias"]
    assert update["samples"] == 10
    assert datetime.fromisoformat(update["at"]).tzinfo
    assert run_json("log", "--since", "1d")[1] == told
    assert run_json("log", "--since", "2099-01-01")[1]["entries"] == []
    assert "Nothing has left" in run("log", "--since", "2099-01-01")[1]


def test_limits_are_set_shown_and_lifted(joined: Profile, run: Run, run_json: Json) -> None:
    words = ["--rounds-per-day", 4, "--seconds-per-round", 90, "--models", "digits,cats"]
    code, told = run_json("limits", "set", *words, "--no-share-metrics")
    assert code == cli.OK
    assert told == {
        "samples_at_least": 1,
        "rounds_per_day": 4,
        "cohort_at_least": None,
        "seconds_per_round": 90.0,
        "models": ["digits", "cats"],
        "share_metrics": False,
    }
    assert run_json("limits") == run_json("limits", "show") == (cli.OK, told)
    out = run("limits")[1]
    assert re.search(r"^rounds-per-day +4$", out, re.MULTILINE)
    assert re.search(r"^cohort-at-least +no limit$", out, re.MULTILINE)
    assert run_json("limits", "clear", "models", "rounds-per-day")[1]["models"] is None
    assert run_json("limits", "clear")[1] == json.loads(json.dumps(output.jsonable(Limits())))


def test_to_set_no_limit_is_no_use(joined: Profile, run: Run) -> None:
    code, _, err = run("limits", "set")
    assert (code, "--rounds-per-day" in err) == (cli.USAGE, True)


def test_every_limit_has_an_option() -> None:
    assert set(LIMITS) == set(Limits.__dataclass_fields__)


# --- The shape of JSON ---


def documented(command: str) -> set[str]:
    """The names that the document gives for a command's object."""
    document = (Path(__file__).parents[2] / "docs" / "fedclient.md").read_text()
    row = re.search(rf"^\| `{command}` \| (.*) \|$", document, re.MULTILINE)
    assert row is not None, command
    return set(re.findall(r"`(\w+)`", row[1]))


def test_what_programs_get_is_documented(
    server: FakeServer, url: str, npz: Path, run: Run, run_json: Json
) -> None:
    who = run_json("join", url, server.join_code(), "--name", "alice")[1]
    assert set(who) == documented("join")
    assert set(run_json("status")[1]) == documented("join") | documented("status")
    told = run_json("test")[1]
    assert set(told) | set(told["checks"][0]) == documented("test")
    server.open_round()
    run("train", "--data", npz, "--rounds", 1)
    told = run_json("log")[1]
    assert set(told) | {name for one in told["entries"] for name in one} <= documented("log")
    for command in ("profiles", "rotate-key", ("leave", "--yes")):
        words = (command,) if isinstance(command, str) else command
        assert set(run_json(*words)[1]) == documented(words[0])
    assert set(run_json("completion", "bash")[1]) == documented("completion")


def test_a_port_that_is_taken_is_said(url: str, joined: Profile, run: Run) -> None:
    code, _, err = run("photos", "--no-browser", "--port", url.rpartition(":")[2])
    assert (code, "a port that is free" in err) == (cli.USAGE, True)


# --- Times ---

NOW = datetime(2027, 1, 31, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("typed", "ahead", "meant"),
    [
        ("90m", True, "2027-01-31T13:30:00+00:00"),
        ("7d", False, "2027-01-24T12:00:00+00:00"),
        ("2027-02-01T08:00:00+01:00", True, "2027-02-01T07:00:00+00:00"),
    ],
)
def test_times_as_people_type_them(typed: str, ahead: bool, meant: str) -> None:
    assert times.read(typed, NOW, ahead=ahead).isoformat() == meant


def test_a_clock_time_is_the_next_one_or_the_last_one() -> None:
    noon = NOW.astimezone().strftime("%H:%M")
    assert times.read(noon, NOW, ahead=True) - NOW == timedelta(days=1)
    assert times.read(noon, NOW, ahead=False) == NOW


# --- Words ---


def test_json_may_stand_before_the_command_and_after_it(run: Run) -> None:
    assert run("--json", "profiles")[1] == run("profiles", "--json")[1] != run("profiles")[1]


def test_every_command_says_what_it_does() -> None:
    def walk(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
        yield parser
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                for one in action.choices.values():
                    yield from walk(one)

    for parser in walk(cli.parser()):
        told = parser.format_help()
        assert (parser.description or "nothing") in told
        assert "--json" in told


def test_values_become_json() -> None:
    told = output.jsonable(
        {"nan": float("nan"), "number": np.float32(0.5), "set": {"b", "a"}, "path": Path("x")}
    )
    assert told == {"nan": None, "number": 0.5, "set": ["a", "b"], "path": "x"}


def test_the_profile_of_the_command_line_is_the_sdks() -> None:
    assert cli.parser().parse_args(["status"]).profile == profile.DEFAULT


def test_a_participant_is_loaded_by_the_name_given(server: FakeServer, url: str, run: Run) -> None:
    run("join", url, server.join_code(), "--profile", "second", "--name", "bob")
    assert "bob" in run("--profile", "second", "status")[1]
    assert Participant.load("second").profile.name == "bob"
