"""The real SDK against the real server: alice is killed wherever it hurts, and counts once."""

import signal
import threading
from datetime import timedelta
from pathlib import Path

import pytest

from client_sdk import Participant
from client_sdk.errors import ParticipantRevoked
from client_sdk.participation import Event
from client_sdk.protocol import Assignment as Told
from models_app.models import Model, ModelVersion
from rounds import clock, enrolment, lifecycle
from rounds.models import Assignment, ParticipantToken, Round, Run, Update
from rounds.models import Participant as Row
from tests.end_to_end.conftest import live, start, take_part, told
from tests.participant import Trainer, data_of
from tests.rounds.updates import carry
from tests.serving import serving
from tests.waiting import until

pytestmark = pytest.mark.timeout(120)

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
        assert told(second)[:3] == ["receipt", "assigned", "downloading"]
        carry(run.rounds.get(number=2))
        assert [one.phase for one in run.rounds.all()] == [Round.Phase.PUBLISHED] * 2
        assert Update.objects.count() == 2
        # She was not there when the verdict fell, and has learned it all the same.
        sent = [one for one in alice.log() if one.kind == "update"]
        assert ("accepted", 2) in [(one.state, one.published) for one in sent]
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
        until(lambda: kinds.count("offline") >= 2)
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
        until(lambda: "offline" in kinds)
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
