"""The real SDK is told by the real server that there is work, whatever becomes of either."""

import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings as django_settings

from client_sdk import Participant
from client_sdk.errors import ProfileInUse
from client_sdk.participation import Event
from models_app.models import Model
from rounds import enrolment, lifecycle
from rounds.models import Assignment, Round, Update
from rounds.models import Participant as Row
from tests.end_to_end.conftest import live, start, take_part, told
from tests.rounds.updates import carry
from tests.serving import serving
from tests.waiting import until

pytestmark = [pytest.mark.timeout(120), pytest.mark.alike]


class TakingPart:
    """Somebody who takes part in a thread until the block ends; `kinds` is what she tells.

    Args:
        participant: Who.
        then: Told the kind of each event and how often it has come, in her thread.
        **options: Of `participate`.
    """

    def __init__(
        self,
        participant: Participant,
        then: Callable[[str, int], object] = lambda kind, times: None,
        **options: Any,
    ) -> None:
        self.kinds: list[str] = []
        self._then = then
        self._stop = threading.Event()
        told = {"on_event": self._note, "stop": self._stop, **options}
        self._thread = threading.Thread(target=take_part, args=(participant,), kwargs=told)

    def __enter__(self) -> "TakingPart":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(30)
        assert not self._thread.is_alive()

    def wait_until(self, kind: str, times: int = 1) -> None:
        until(lambda: self.kinds.count(kind) >= times)

    def _note(self, event: Event) -> None:
        self.kinds.append(event.kind)
        self._then(event.kind, self.kinds.count(event.kind))


@pytest.fixture
def check_ins(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Who has checked in, in order."""
    names: list[str] = []
    really = lifecycle.check_in

    def counted(participant: Row, *rest: Any, **more: Any) -> Any:
        names.append(participant.name)
        return really(participant, *rest, **more)

    monkeypatch.setattr(lifecycle, "check_in", counted)
    return names


class TestAlice:
    def test_who_waits_asks_no_more_and_is_there_when_a_round_opens(
        self, model: Model, alice: Participant, check_ins: list[str]
    ) -> None:
        with TakingPart(alice) as it:
            it.wait_until("waiting", 2)
            asked = len(check_ins)
            threading.Event().wait(1.5)  # the long poll of `take_part` would ask in every second
            assert len(check_ins) <= asked + 1  # once, if she was told that she is connected
            round_ = start(model)
            it.wait_until("uploaded")
            assert carry(round_).phase == Round.Phase.PUBLISHED
            it.wait_until("receipt")

    def test_who_is_suspended_while_she_waits_learns_it_and_is_back_in_time(
        self, model: Model, alice: Participant
    ) -> None:
        with TakingPart(alice) as it:
            it.wait_until("waiting", 2)
            enrolment.suspend(Row.objects.get(), actor="bob")
            it.wait_until("suspended")

    def test_killed_while_she_waits_is_there_for_the_round(
        self, model: Model, alice: Participant
    ) -> None:
        assert live("waiting").returncode == -signal.SIGKILL
        round_ = start(model)
        assert "uploaded" in told(live())
        assert carry(round_).phase == Round.Phase.PUBLISHED
        assert Update.objects.count() == 1


class Flickering:
    """A server that goes and comes back."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self.port = self._stack.enter_context(serving())
        self._back = threading.Timer(0, lambda: None)

    def restart(self) -> None:
        """Cut all connections, and be back in a moment."""
        self._stack.close()
        self._back = threading.Timer(0.2, lambda: self._stack.enter_context(serving(self.port)))
        self._back.start()

    def close(self) -> None:
        with suppress(RuntimeError):  # never started
            self._back.join()
        self._stack.close()


@pytest.fixture
def flickering(transactional_db: None, valkey: str) -> Iterator[Flickering]:
    server = Flickering()
    yield server
    server.close()


# Alice tells of these in an exchange, one after the other.
MOMENTS = ("assigned", "downloading", "training", "epoch", "uploading", "uploaded")


def test_a_server_that_restarts_at_each_step_costs_waiting_and_no_training(
    flickering: Flickering, model: Model, home: Path
) -> None:
    _, code = enrolment.make_join_code(label="alice")
    url = f"http://127.0.0.1:{flickering.port}"
    run = start(model, rounds_planned=len(MOMENTS)).run

    def restart(kind: str, times: int) -> None:
        # In the first round at the first moment, in the second at the second, and so on.
        number = MOMENTS.index(kind) + 1 if kind in MOMENTS else 0
        if number and times == (2 * number - 1 if kind == "epoch" else number):
            flickering.restart()

    with (
        Participant.enrol(url, code, name="alice", profile="alice") as alice,
        TakingPart(alice, restart, rounds=len(MOMENTS)) as it,
    ):
        for number in range(1, len(MOMENTS) + 1):
            it.wait_until("uploaded", number)
            until_there_are_updates(number)
            assert carry(run.rounds.get(number=number)).phase == Round.Phase.PUBLISHED
    assert it.kinds.count("training") == it.kinds.count("assigned") == len(MOMENTS)
    assert not {"failed", "closed", "resumed"} & set(it.kinds)
    assert set(Assignment.objects.values_list("state", flat=True)) == {"accepted"}


class TestProfiles:
    def test_one_is_used_by_one_process_at_a_time_and_free_when_that_is_killed(
        self, model: Model, alice: Participant
    ) -> None:
        with another_process("alice") as other:
            assert wait_for_line(other, "waiting")
            with pytest.raises(ProfileInUse):
                take_part(alice, rounds=1)
            other.kill()
            other.wait(10)
        round_ = start(model)
        assert take_part(alice, rounds=1).rounds == 1
        assert carry(round_).phase == Round.Phase.PUBLISHED

    def test_two_on_one_machine_are_two_participants(
        self, model: Model, alice: Participant, server: str
    ) -> None:
        _, code = enrolment.make_join_code(label="bob")
        Participant.enrol(server, code, name="bob", profile="bob").close()
        run = lifecycle.create_run(model, rounds_planned=1)  # a quorum of two
        round_ = lifecycle.start_run(run.pk)
        with another_process("bob") as other:
            assert take_part(alice, rounds=1).rounds == 1
            assert wait_for_line(other, "uploaded")
        assert carry(round_).phase == Round.Phase.PUBLISHED
        samples = Update.objects.values_list("samples", flat=True)
        assert sorted(samples) == [len("bob"), len("alice")]
        logs = [[one.assignment for one in who.log() if one.kind == "update"] for who in (alice,)]
        with Participant.load("bob") as bob:
            logs.append([one.assignment for one in bob.log() if one.kind == "update"])
        assert logs[0] != logs[1]
        assert [len(entries) for entries in logs] == [1, 1]


@contextmanager
def another_process(name: str) -> Iterator["subprocess.Popen[str]"]:
    """Somebody who takes part on this machine until the block ends."""
    command = [sys.executable, "-m", "tests.participant", name]
    with subprocess.Popen(
        command, cwd=django_settings.BASE_DIR, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def wait_for_line(process: "subprocess.Popen[str]", kind: str) -> bool:
    """Read what it tells until it tells this; False if it ends without."""
    assert process.stdout is not None
    return any(line.split()[0] == kind for line in process.stdout)


def until_there_are_updates(number: int) -> None:
    until(lambda: Update.objects.count() == number)
