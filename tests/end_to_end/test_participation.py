"""The real SDK against the real server: alice is killed wherever it hurts, and counts once."""

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings as django_settings

from client_sdk import Participant
from client_sdk.errors import ParticipantRevoked
from client_sdk.participation import Event
from client_sdk.protocol import Assignment as Told
from models_app import registry
from models_app.models import Model, ModelVersion
from rounds import clock, enrolment, lifecycle
from rounds.models import Assignment, ParticipantToken, Round, Run, Update
from rounds.models import Participant as Row
from tests.participant import Trainer, data_of, package
from tests.rounds.updates import carry
from tests.serving import serving

pytestmark = pytest.mark.timeout(120)

ALONE = {"cohort_goal": 1, "cohort_min": 1, "quorum": 1, "over_selection": 1.0}
MOMENTS = [
    "assigned",
    "downloading",
    "training",  # the weights are here
    "epoch",
    "uploading",  # the update is in the outbox
    "half-sent",
    "answered",  # the server has the update, alice does not know
    "uploaded",
]


@pytest.fixture
def model(transactional_db: None) -> Model:
    return registry.create_model("plain", package())


@pytest.fixture
def alice(model: Model, server: str, home: Path) -> Iterator[Participant]:
    """Enrolled at the real server, in this process or as one of her own: see `live`."""
    _, code = enrolment.make_join_code(label="alice")
    with Participant.enrol(server, code, name="alice", profile="alice") as participant:
        yield participant


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FEDCLIENT_HOME", str(tmp_path / "alice"))
    return tmp_path / "alice"


def start(model: Model, **rules: Any) -> Round:
    run = lifecycle.create_run(model, **{"rounds_planned": 1, **ALONE, **rules})
    return lifecycle.start_run(run.pk)


def live(until: str = "") -> "subprocess.CompletedProcess[str]":
    """Alice as a process of her own, killed at a moment, or done after one round."""
    return subprocess.run(
        [sys.executable, "-m", "tests.participant", "alice", until, "1"],
        cwd=django_settings.BASE_DIR,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def told(process: "subprocess.CompletedProcess[str]") -> list[str]:
    return [line.split()[0] for line in process.stdout.splitlines()]


def take_part(alice: Participant, **options: Any) -> Any:
    return alice.participate(data_of("alice"), trainer=Trainer(), wait=1, **options)


class TestKilledAlice:
    @pytest.mark.parametrize("moment", MOMENTS)
    def test_is_counted_once(self, moment: str, model: Model, alice: Participant) -> None:
        round_ = start(model)
        first = live(moment)
        assert first.returncode == -signal.SIGKILL, first.stderr
        arrived = moment in ("answered", "uploaded")
        assert Update.objects.exists() == arrived
        if not arrived:
            second = live()
            assert second.returncode == 0, second.stderr
            kept = moment in ("uploading", "half-sent")
            assert ("resumed" in told(second)) == kept
            assert ("training" in told(second)) == (not kept)
        assert carry(round_).phase == Round.Phase.PUBLISHED
        assert [one.state for one in Assignment.objects.all()] == [Assignment.State.ACCEPTED]
        assert Update.objects.count() == 1
        assert ModelVersion.objects.count() == 2

    @pytest.mark.parametrize("moment", ["answered", "uploaded"])
    def test_does_not_send_again_what_has_arrived(
        self, moment: str, model: Model, alice: Participant
    ) -> None:
        run = start(model, rounds_planned=2).run
        live(moment)
        carry(run.rounds.get(number=1))
        second = live()
        assert second.returncode == 0, second.stderr
        assert told(second)[:2] == ["assigned", "downloading"]
        carry(run.rounds.get(number=2))
        assert [one.phase for one in run.rounds.all()] == [Round.Phase.PUBLISHED] * 2
        assert Update.objects.count() == 2
        assert list(alice.outbox.folder.iterdir()) == []

    def test_does_not_send_into_the_next_round_what_came_too_late_for_its_own(
        self, model: Model, alice: Participant
    ) -> None:
        run = start(model, training_seconds=3600, retry_seconds=1).run
        assert live("uploading").returncode == -signal.SIGKILL
        assert [path.name for path in alice.outbox.folder.iterdir()] != []
        Round.objects.update(deadline=clock.now() - timedelta(seconds=1))
        assert carry(run.rounds.get()).code == "quorum_not_met"
        Run.objects.update(next_round_at=clock.now())
        assert lifecycle.advance(run.pk)
        second = live()
        assert "resumed" not in told(second)
        assert carry(run.rounds.get(number=2)).phase == Round.Phase.PUBLISHED
        assert [one.assignment.round.number for one in Update.objects.all()] == [2]


class TestAServerThatIsAway:
    def test_costs_waiting_only(self, model: Model, home: Path) -> None:
        _, code = enrolment.make_join_code(label="alice")
        round_ = start(model)
        kinds: list[str] = []
        with serving() as port:
            alice = Participant.enrol(f"http://127.0.0.1:{port}", code, name="a", profile="alice")

        def note(event: Event) -> None:
            kinds.append(event.kind)

        thread = threading.Thread(
            target=take_part, args=(alice,), kwargs={"rounds": 1, "on_event": note}
        )
        thread.start()
        wait_for(lambda: kinds.count("offline") >= 2)
        with serving(port):
            thread.join(30)
        alice.close()
        assert set(kinds[: kinds.index("assigned")]) == {"offline"}
        assert kinds[-1] == "uploaded"
        assert carry(round_).phase == Round.Phase.PUBLISHED

    def test_in_the_middle_of_an_exchange_costs_no_second_training(
        self, model: Model, home: Path
    ) -> None:
        _, code = enrolment.make_join_code(label="alice")
        round_ = start(model)
        kinds: list[str] = []
        trained, back = threading.Event(), threading.Event()

        def stop_before_the_upload(event: Event) -> None:
            kinds.append(event.kind)
            if event.kind == "uploading":
                trained.set()
                back.wait(30)

        with serving() as port:
            alice = Participant.enrol(f"http://127.0.0.1:{port}", code, name="a", profile="alice")
            thread = threading.Thread(
                target=take_part,
                args=(alice,),
                kwargs={"rounds": 1, "on_event": stop_before_the_upload},
            )
            thread.start()
            assert trained.wait(30)
        back.set()
        wait_for(lambda: "offline" in kinds)
        with serving(port):
            thread.join(30)
        alice.close()
        assert kinds.count("training") == kinds.count("uploaded") == 1
        assert carry(round_).phase == Round.Phase.PUBLISHED


class TestWhatOperatorsDoMeanwhile:
    def test_a_token_that_ends_before_the_upload_is_renewed(
        self, model: Model, alice: Participant
    ) -> None:
        round_ = start(model)

        def expire(event: Event) -> None:
            if event.kind == "uploading":
                ParticipantToken.objects.update(expires_at=clock.now() - timedelta(seconds=1))

        assert take_part(alice, rounds=1, on_event=expire).rounds == 1
        assert carry(round_).phase == Round.Phase.PUBLISHED

    def test_a_round_that_is_cancelled_in_training_stops_alice_and_the_next_one_counts(
        self, model: Model, alice: Participant
    ) -> None:
        run = start(model).run
        kinds: list[str] = []

        def cancel(event: Event) -> None:
            kinds.append(event.kind)
            if event.kind == "uploading" and kinds.count("uploading") == 1:
                lifecycle.cancel_round(run.rounds.get(number=1).pk, actor="bob")

        assert take_part(alice, rounds=1, on_event=cancel).rounds == 1
        assert "closed" in kinds
        assert carry(run.rounds.get(number=2)).phase == Round.Phase.PUBLISHED
        assert [one.assignment.round.number for one in Update.objects.all()] == [2]

    def test_revoked_in_training_alice_stops_and_her_update_does_not_count(
        self, model: Model, alice: Participant
    ) -> None:
        start(model)

        def revoke(event: Event) -> None:
            if event.kind == "uploading":
                enrolment.revoke(Row.objects.get(), actor="bob")

        with pytest.raises(ParticipantRevoked):
            take_part(alice, rounds=1, on_event=revoke)
        assert not Update.objects.exists()
        assert Assignment.objects.get().state == Assignment.State.FAILED

    def test_an_interrupted_alice_gives_her_place_back(
        self, model: Model, alice: Participant
    ) -> None:
        start(model)

        def press_control_c(event: Event) -> None:
            if event.kind == "epoch":
                raise KeyboardInterrupt

        assert take_part(alice, on_event=press_control_c).ended == "interrupted"
        assert Assignment.objects.get().state == Assignment.State.WITHDRAWN


def test_what_was_uploaded_is_what_was_trained_and_becomes_the_next_version(
    model: Model, alice: Participant
) -> None:
    round_ = start(model)
    given = alice.check_in()
    assert isinstance(given, Told)
    _, before = alice.download(given)
    result = Trainer().train(before, data_of("alice"), given.hyperparameters, given.seed)
    assert take_part(alice, rounds=1).samples == len("alice")
    carry(round_)
    start(model)
    following = alice.check_in()
    assert isinstance(following, Told)
    _, after = alice.download(following)
    for name, delta in result.deltas.items():
        # One participant: the mean is its delta. The server adds in float64 and rounds once.
        expected = (before[name].astype("float64") + delta).astype("float32")
        assert (after[name] == expected).all()


def wait_for(true: Any, seconds: float = 30) -> None:
    until = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < until, "Expected it within seconds. Received: nothing"
        time.sleep(0.01)
