"""The operators' objects against the real server."""

import ast
import asyncio
import doctest
import importlib
import re
from collections.abc import Callable
from pathlib import Path
from types import FunctionType
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
from django.contrib.auth.models import User

from client_sdk import admin as sdk
from client_sdk.admin import Admin, Invalid, NotAllowed, NotFound, NotNow
from client_sdk.admin.files import opened
from client_sdk.errors import AddressRefused, LoginRefused, ServerUnreachable
from client_sdk.following import TokenMissing
from journal.models import Event
from models_app import registry
from models_app.evaluation import Evaluation
from models_app.models import Model
from rounds import federated_evaluation, lifecycle
from rounds.models import Round
from tests.notebook.conftest import TokenOf
from tests.rounds.conftest import Enrolled, tiny_package
from tests.rounds.test_federated_evaluation import measure
from tests.rounds.test_lifecycle import everyone_uploads
from tests.rounds.updates import carry

Enrol = Callable[..., Enrolled]

RULES: dict[str, Any] = {"cohort_goal": 2, "cohort_min": 2, "quorum": 2, "over_selection": 1.0}


def published(round_: Round, *everyone: Enrolled) -> None:
    """A round from its opening to its version, as measured on a held-out set."""
    everyone_uploads(*everyone)
    carry(round_)
    assert round_.version is not None
    accuracy = 0.1 * round_.number
    metrics = {"accuracy": accuracy, "loss": 1 - accuracy}
    registry.record_metrics(round_.version, Evaluation(metrics, None))


def test_bob_runs_a_federation(admin: Admin, tiny_model: Model, enrolled: Enrol) -> None:
    charlie, dora = enrolled("charlie"), enrolled("dora")
    run = admin.runs.create("tiny", name="spring", rounds_planned=2, **RULES)
    assert (run.state, run.over) == ("draft", False)
    assert run.start(reason="the new scanners are in").state == "running"
    told = Event.objects.get(kind="run.started")
    assert (told.actor, told.reason) == ("bob", "the new scanners are in")

    published(Round.objects.get(run=run.id), charlie, dora)
    [first, second] = run.rounds
    assert (first.number, first.phase, first.cohort["accepted"]) == (1, "published", 2)
    assert second.cancel(reason="a wrong setting").phase == "cancelled"
    assert [one.name for one in first.assignments] == ["charlie", "dora"]

    assert run.refresh().published == 1
    assert run.pause(reason="lunch").state == "paused"
    assert run.resume().state == "running"
    assert run.stop(reason="enough").over
    assert [one.id for one in admin.runs.where(state="stopped", model="tiny")] == [run.id]


def test_lists_are_frames_whatever_their_length(
    admin: Admin, tiny_model: Model, enrolled: Enrol, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("client_sdk.admin.collections._PAGE", 2)
    assert admin.runs.frame().empty
    assert "state" in admin.runs.frame().columns
    for name in ("charlie", "dora", "emil", "frida", "gustav"):
        enrolled(name)
    frame = admin.participants.frame()
    assert list(frame["name"]) == ["charlie", "dora", "emil", "frida", "gustav"]
    assert frame.index.name == "uuid"
    assert str(frame["enrolled_at"].dtype).startswith("datetime64")
    assert len(admin.participants) == 5
    assert "5 of /participants" in repr(admin.participants)
    assert "5 participants" in admin.participants._repr_html_()
    assert list(frame.columns)[:2] == ["name", "state"]
    assert list(admin.models.frame().index) == ["tiny"]
    assert admin.models.frame().loc["tiny", "served.number"] == 1
    assert list(admin.models["tiny"].versions.frame()["stage"]) == ["published"]


def test_a_history_is_a_frame_and_a_picture(
    admin: Admin, tiny_model: Model, enrolled: Enrol, monkeypatch: pytest.MonkeyPatch
) -> None:
    mpl.use("agg")
    charlie, dora = enrolled("charlie"), enrolled("dora")
    run = admin.runs.create("tiny", name="spring", start=True, rounds_planned=3, **RULES)
    for _ in range(2):
        published(Round.objects.filter(run=run.id).latest("number"), charlie, dora)
    history = run.history()
    frame = history.frame()
    assert list(frame["accuracy"].dropna()) == [0.1, 0.2]
    assert list(frame["counts.accepted"])[:2] == [2, 2]
    assert frame.loc[1, "participants.loss.mean"] == 0.5
    accuracy, loss = history.plot()
    assert (accuracy.get_ylabel(), loss.get_ylabel()) == ("accuracy", "loss")
    held_out = np.asarray(accuracy.get_lines()[-1].get_ydata())
    assert held_out.tolist() == [0.1, 0.2]
    assert "accuracy" in history._repr_html_()
    assert admin.runs.create("tiny", name="draft").history().plot()


def test_bob_asks_participants_to_evaluate_a_version(
    admin: Admin, tiny_model: Model, enrolled: Enrol
) -> None:
    version = admin.models["tiny"].versions[1]
    asked = version.evaluate("before the board meets", goal=2, minimum=2, seconds=60)
    assert (asked.state, asked.over, asked.reports, asked.summary) == ("open", False, 0, None)
    with pytest.raises(NotNow):
        version.evaluate()
    with pytest.raises(Invalid) as refused:
        version.evaluate(minimum=1)
    assert refused.value.field == "minimum"
    for name, accuracy in (("charlie", 0.5), ("dora", 0.7)):
        measure(enrolled(name), accuracy)
    federated_evaluation.step(asked.id)
    done = asyncio.run(asked.finished(timeout=20))
    assert done.summary is not None
    assert done.summary["metrics"]["accuracy"]["mean"] == pytest.approx(0.6)
    assert version.refresh().metrics["federated_accuracy"] == pytest.approx(0.6)
    assert [one.id for one in version.evaluations] == [asked.id]
    with pytest.raises(NotNow):
        done.cancel()


def test_people_are_admitted_and_sent_away(admin: Admin, enrolled: Enrol) -> None:
    code = admin.join_codes.make("clinics", max_uses=3)
    assert code.code is not None
    assert code.code not in repr(code) + code._repr_html_() + str(code.document)
    assert admin.join_codes[code.id].code is None
    assert code.withdraw(reason="sent to the wrong address").withdrawn_at is not None

    enrolled("charlie")
    charlie = admin.participants.named("charlie")
    assert charlie.suspend(reason="its clock is wrong").state == "suspended"
    assert charlie.reinstate().state == "active"
    assert charlie.revoke(reason="it was stolen").state == "revoked"
    with pytest.raises(NotFound, match="name of a participant"):
        admin.participants.named("nobody")


def test_alice_serves_an_older_version_again(
    server: str, alice: User, token_of: TokenOf, tiny_model: Model, enrolled: Enrol
) -> None:
    admin = Admin(server, token_of(alice))
    run = admin.runs.create("tiny", start=True, rounds_planned=1, **RULES)
    published(Round.objects.get(run=run.id), enrolled("charlie"), enrolled("dora"))
    model = admin.models["tiny"]
    assert model.served_number == 2
    with pytest.raises(NotNow, match="stale_base"):
        model.versions[1].roll_back(reason="version 2 takes a for b", expected_served=1)
    again = model.versions[1].roll_back(reason="version 2 takes a for b", expected_served=2)
    assert (again.number, again.stage, again.parent) == (3, "published", 1)
    assert model.refresh().served_number == 3
    for _ in range(2):
        registry.import_version(tiny_model.pk, tiny_package(), actor="alice", reason="on site")
    assert model.versions[4].publish(reason="it is better", expected_served=3).stage == "published"
    assert model.versions[5].reject(reason="it is worse").stage == "rejected"


def test_a_model_goes_as_files(tmp_path: Path) -> None:
    (tmp_path / "digits.keras").write_bytes(b"a model")
    with opened(tmp_path / "digits.keras", (np.ones((2, 3)), np.zeros(2))) as files:
        assert files["package"].read() == b"a model"
        assert np.load(files["evaluation"])["x"].shape == (2, 3)
    with opened(_Saves(), tmp_path / "digits.keras") as files:
        assert files["package"].read() == b"saved"
        assert files["evaluation"].read() == b"a model"


class _Saves:
    """What a `keras.Model` does with a path."""

    def save(self, path: Path) -> None:
        path.write_bytes(b"saved")


def test_what_the_server_refuses_is_a_typed_error(
    admin: Admin, server: str, victor: User, token_of: TokenOf, tiny_model: Model
) -> None:
    with pytest.raises(Invalid, match="quorum: Expected a whole number") as invalid:
        admin.runs.create("tiny", quorum=0)
    assert invalid.value.field == "quorum"
    with pytest.raises(Invalid, match="qourum"):
        admin.runs.create("tiny", qourum=3)
    run = admin.runs.create("tiny")
    with pytest.raises(NotNow):
        run.pause()
    with pytest.raises(NotFound):
        admin.runs[987654]
    with pytest.raises(NotAllowed):
        Admin(server, token_of(victor)).runs.create("tiny")
    with pytest.raises(LoginRefused, match="token_invalid"):
        list(Admin(server, "fsu_nonsense").runs)
    with pytest.raises(AddressRefused):
        Admin("http://fed.example.org", "fsu_secret")
    assert "fsu_" not in repr(admin)


async def test_who_waits_is_told_at_once_and_keeps_nobody_waiting(
    admin: Admin, tiny_model: Model
) -> None:
    run = await asyncio.to_thread(admin.runs.create, "tiny", name="spring", start=True, **RULES)
    [round_] = await asyncio.to_thread(list, run.rounds)
    waiting = asyncio.create_task(round_.finished())
    also = asyncio.create_task(run.finished(timeout=20))
    ticks = 0
    while ticks < 30:  # the loop goes on
        await asyncio.sleep(0.01)
        ticks += 1
    assert not waiting.done()
    await asyncio.to_thread(lifecycle.cancel_round, round_.id, actor="bob", reason="a test")
    assert (await asyncio.wait_for(waiting, 20)).phase == "cancelled"
    assert not also.done()
    await asyncio.to_thread(run.stop, reason="enough")
    assert (await also).state == "stopped"
    assert (await run.finished()).over  # again, and it has ended already


async def test_who_waits_for_what_goes_on_is_told_so(admin: Admin, tiny_model: Model) -> None:
    run = await asyncio.to_thread(admin.runs.create, "tiny", name="spring")
    with pytest.raises(TimeoutError, match=f"Expected runs/{run.id} to end within 0.3 s"):
        await run.finished(timeout=0.3)
    run.id = 987654
    with pytest.raises(NotFound):
        await run.finished(timeout=20)


def test_a_server_that_is_away_is_told(admin: Admin, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("client_sdk.admin.admin.PATIENCE", 0.0)
    away = Admin("http://127.0.0.1:9", "fsu_secret")
    with pytest.raises(ServerUnreachable, match="Expected an answer from"):
        away.get("runs", patience=0.0)
    with pytest.raises(ServerUnreachable):
        away.runs.create("tiny")


def test_the_examples_run(admin: Admin, tiny_model: Model, enrolled: Enrol) -> None:
    admin.runs.create("tiny", name="spring", start=True, **RULES)
    enrolled("alice")
    finder, runner = doctest.DocTestFinder(exclude_empty=True), doctest.DocTestRunner(verbose=False)
    for name in ("collections", "admin", "things"):  # things pause what the others count
        module = importlib.import_module(f"{sdk.__name__}.{name}")
        found = finder.find(module, extraglobs={"admin": admin})
        assert found
        for example in found:
            assert runner.run(example).failed == 0, example.name


async def test_the_document_tells_the_truth(admin: Admin, tiny_model: Model) -> None:
    mpl.use("agg")
    text = (Path(__file__).parent.parent.parent / "docs" / "jupyter.md").read_text()
    _, _, chapter = text.partition("## For operators")
    blocks = re.findall(r"^```python\n(.*?)^```$", chapter, re.MULTILINE | re.DOTALL)
    assert len(blocks) == 4
    names: dict[str, Any] = {"url": admin.url, "token": admin.token}
    for block in blocks:
        code = compile(
            block.replace('"digits"', '"tiny"'),
            "jupyter.md",
            "exec",
            ast.PyCF_ALLOW_TOP_LEVEL_AWAIT,
        )
        if "await" in block:
            ending = asyncio.to_thread(names["run"].stop, reason="enough")
            waiting = FunctionType(code, names)()
            await asyncio.gather(waiting, ending)
        else:
            await asyncio.to_thread(exec, code, names)
    assert names["run"].over


def test_a_key_is_looked_for(admin: Admin, tiny_model: Model) -> None:
    assert "tiny" in admin.models
    assert "nothing" not in admin.models
    assert "../runs" not in admin.models


def test_the_environment_may_hold_the_token(
    server: str, bob: User, token_of: TokenOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FEDSERVER_TOKEN", raising=False)
    with pytest.raises(TokenMissing, match="here or in FEDSERVER_TOKEN"):
        Admin(server)
    monkeypatch.setenv("FEDSERVER_TOKEN", token_of(bob))
    monkeypatch.delenv("FEDSERVER_URL", raising=False)
    assert len(Admin(server).runs) == 0


def test_the_environments_token_is_shown_to_its_own_server_alone(
    server: str, bob: User, token_of: TokenOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEDSERVER_TOKEN", token_of(bob))
    monkeypatch.setenv("FEDSERVER_URL", server.replace("127.0.0.1", "localhost"))
    assert len(Admin(server).runs) == 0
    for other in ("https://fed.example.org", "http://127.0.0.1:1", "http://[::1"):
        with pytest.raises(TokenMissing, match=r"FEDSERVER_URL\) alone"):
            Admin(other)
    assert Admin("https://fed.example.org", "fsu_of_that_server").url == "https://fed.example.org"
