"""What is held out is never trained on, and is what versions are measured by."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from client_sdk import Limits, Participant
from client_sdk.data import ArrayExamples, read_for
from client_sdk.errors import Declined
from client_sdk.events import Event
from client_sdk.held_out import Measured, Split, parts
from client_sdk.testing import WEIGHTS, FakeServer, FakeTrainer
from client_sdk.wire import InputSpec

X = np.random.default_rng(7).normal(size=(200, 3))
Y = np.arange(200) % 2


class TestSplit:
    def test_an_example_stays_where_it_is_whatever_is_added_and_however_it_is_ordered(self) -> None:
        split = Split(0.2, "alice")
        held_out = split.of(X)
        assert 20 <= held_out.sum() <= 60
        order = np.random.default_rng(1).permutation(200)
        np.testing.assert_array_equal(split.of(X[order]), held_out[order])
        np.testing.assert_array_equal(split.of(X[:50]), held_out[:50])
        np.testing.assert_array_equal(split.the_rest(X), ~held_out)
        assert split.of(X[:0]).shape == (0,)

    def test_everybody_holds_out_others(self) -> None:
        assert (Split(0.2, "alice").of(X) != Split(0.2, "bob").of(X)).any()

    @pytest.mark.parametrize("share", [0, 1, -0.1, 1.5, float("nan"), "0.1", True])
    def test_a_share_is_between_none_and_all(self, share: Any) -> None:
        with pytest.raises(ValueError, match="Expected a share above 0 and below 1"):
            Split(share, "alice")


class TestParts:
    def walked(self, examples: Any, seed: int | None = None) -> np.ndarray:
        walk = examples.walk(None if seed is None else np.random.default_rng(seed))
        taken = []
        while (batch := walk.take(16)) is not None:
            taken.append(batch[0])
        return np.concatenate(taken)

    def test_of_arrays(self) -> None:
        split = Split(0.2, "alice")
        whole = ArrayExamples(X, Y)
        train, test = whole.part(split.the_rest), whole.part(split.of)
        assert len(train) + len(test) == 200
        held_out = split.of(X)
        np.testing.assert_array_equal(self.walked(test), X[held_out])
        np.testing.assert_array_equal(train[1], Y[~held_out])
        shuffled = self.walked(train, seed=3)
        np.testing.assert_array_equal(np.sort(shuffled, axis=0), np.sort(X[~held_out], axis=0))
        assert not np.array_equal(shuffled, X[~held_out])

    def test_of_a_folder_of_images(self, tmp_path: Path) -> None:
        pillow = pytest.importorskip("PIL.Image")
        for label in ("cat", "dog"):
            (tmp_path / label).mkdir()
            for number in range(15):
                shade = np.full((4, 4), number + 100 * (label == "dog"), np.uint8)
                pillow.fromarray(shade).save(tmp_path / label / f"{number}.png")
        whole = read_for(tmp_path, InputSpec((4, 4, 1)), ["cat", "dog"])
        split = Split(0.3, "alice")
        train, test = whole.part(split.the_rest), whole.part(split.of)
        assert len(train) + len(test) == 30
        assert len(test) > 0
        seen = {one.tobytes() for one in self.walked(train, seed=1)}
        assert not seen & {one.tobytes() for one in self.walked(test)}

    def test_either_a_share_or_examples_of_their_own(self) -> None:
        with pytest.raises(ValueError, match="both"):
            parts((X, Y), 0.1, (X, Y), "alice")
        assert parts((X, Y), None, None, "alice")[1] is None


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeServer:
    monkeypatch.setenv("FEDCLIENT_HOME", str(tmp_path))
    return FakeServer()


@pytest.fixture
def alice(server: FakeServer) -> Participant:
    return Participant.enrol(
        server.url, server.join_code(), name="alice", profile="alice", transport=server.transport
    )


def evaluate(alice: Participant, trainer: Any = None, **options: Any) -> tuple[Any, list[Event]]:
    """Alice takes part until there is nothing to do."""
    events: list[Event] = []

    def on_event(event: Event) -> None:
        events.append(event)

    options = dict[str, Any](held_out=0.2, on_event=on_event, progress=False) | options
    idle = lambda: any(one.kind == "waiting" and one.data["seconds"] for one in events)  # noqa: E731
    data = options.pop("data", (X, Y))
    summary = alice.participate(data, trainer=trainer or FakeTrainer(), until=idle, **options)
    return summary, events


class TestParticipation:
    def test_alice_measures_the_version_and_tells_numbers(
        self, server: FakeServer, alice: Participant
    ) -> None:
        server.open_evaluation(server.serve_version(), minimum=3)
        summary, events = evaluate(alice)
        [told] = server.reports
        held_out = int(Split(0.2, alice.profile.participant).of(X).sum())
        metrics = {"loss": 0.5, "accuracy": 0.75}
        assert told.report == {"samples": held_out, "metrics": metrics, "classes": None}
        assert summary.evaluations == 1
        kinds = [event.kind for event in events]
        assert kinds.index("evaluating") < kinds.index("sending") < kinds.index("evaluated")
        about = events[kinds.index("evaluated")].data
        assert (about["model"], about["version"], about["samples"]) == ("digits", 1, held_out)
        [entry] = [one for one in alice.log() if one.kind == "evaluation"]
        assert (entry.samples, dict(entry.metrics), entry.evaluation) == (held_out, metrics, 1)

    def test_what_is_held_out_is_not_trained_on(
        self, server: FakeServer, alice: Participant
    ) -> None:
        seen: list[np.ndarray] = []

        class Watching(FakeTrainer):
            def train(self, weights: Any, data: Any, *args: Any, **options: Any) -> Any:
                seen.append(data[0])
                return super().train(weights, data, *args, **options)

        server.open_round()
        alice.participate((X, Y), rounds=1, trainer=Watching(), held_out=0.2)
        held_out = Split(0.2, alice.profile.participant).of(X)
        np.testing.assert_array_equal(seen[0], X[~held_out])
        assert server.updates[0].manifest.samples == (~held_out).sum()

    def test_busy_alice_trains_first_and_evaluates_with_weights_of_her_own(
        self, server: FakeServer, alice: Participant
    ) -> None:
        server.open_round()
        server.open_evaluation()
        trainer = FakeTrainer()
        summary, events = evaluate(alice, trainer)
        assert (summary.rounds, summary.evaluations) == (1, 1)
        kinds = [event.kind for event in events]
        assert kinds.index("uploaded") < kinds.index("evaluating")
        # The local weights are those that her training has left here, and not the server's zeros.
        assert WEIGHTS[2].role == "local"
        np.testing.assert_array_equal(trainer.evaluated[0][WEIGHTS[2].name], [1.0, 1.0])

    def test_examples_of_their_own(self, server: FakeServer, alice: Participant) -> None:
        server.open_evaluation()
        evaluate(alice, held_out=None, evaluation_data=(X[:7], Y[:7]))
        assert server.reports[0].report["samples"] == 7

    def test_classes_are_listed_before_they_leave(
        self, server: FakeServer, alice: Participant
    ) -> None:
        class Counting(FakeTrainer):
            def measure(self, weights: Any, data: Any, *, check: Any = None) -> Measured:
                return Measured(9, {"loss": 0.5}, [[4, 3], [5, 5]])

        server.open_evaluation()
        evaluate(alice, Counting())
        assert server.reports[0].report["classes"] == [[4, 3], [5, 5]]
        [entry] = [one for one in alice.log() if one.kind == "evaluation"]
        assert entry.classes == ((4, 3), (5, 5))

    def test_what_is_raised_at_the_list_prevents_it(
        self, server: FakeServer, alice: Participant
    ) -> None:
        evaluation = server.open_evaluation()

        def on_event(event: Event) -> None:
            if event.kind == "sending":
                raise Declined("not this")

        alice.participate(
            (X, Y),
            trainer=FakeTrainer(),
            held_out=0.2,
            on_event=on_event,
            progress=False,
            until=lambda: bool(server.evaluation_failures),
        )
        assert server.reports == []
        assert server.evaluation_failures == [(evaluation, "declined")]

    @pytest.mark.parametrize(
        ("limits", "reason"),
        [
            (Limits(cohort_at_least=5), "limit_cohort_at_least"),
            (Limits(samples_at_least=150), "limit_samples_at_least"),
        ],
    )
    def test_her_limits_hold(
        self, limits: Limits, reason: str, server: FakeServer, alice: Participant
    ) -> None:
        evaluation = server.open_evaluation(minimum=4)
        summary, _ = evaluate(alice, limits=limits)
        assert server.evaluation_failures == [(evaluation, reason)]
        assert (server.reports, summary.declined) == ([], 1)

    def test_without_metrics_that_may_leave_she_is_not_asked(
        self, server: FakeServer, alice: Participant
    ) -> None:
        server.open_evaluation()
        summary, _ = evaluate(alice, limits=Limits(share_metrics=False))
        assert (summary.evaluations, server.reports, server.evaluation_failures) == (0, [], [])

    def test_a_measurement_that_fails_is_told_by_a_code_alone(
        self, server: FakeServer, alice: Participant
    ) -> None:
        class Broken(FakeTrainer):
            def measure(self, weights: Any, data: Any, *, check: Any = None) -> Measured:
                raise RuntimeError("row 17 says: secret")

        evaluation = server.open_evaluation()
        evaluate(alice, Broken())
        assert server.evaluation_failures == [(evaluation, "training_failed")]
        assert "secret" not in str([one.to_json() for one in alice.log()])

    def test_one_that_has_closed_meanwhile_is_let_go(
        self, server: FakeServer, alice: Participant
    ) -> None:
        evaluation = server.open_evaluation()

        class Slow(FakeTrainer):
            def measure(self, weights: Any, data: Any, *, check: Any = None) -> Measured:
                server.close_evaluation(evaluation)
                return super().measure(weights, data, check=check)

        summary, events = evaluate(alice, Slow())
        assert summary.evaluations == 0
        assert "closed" in [event.kind for event in events]

    def test_a_trainer_that_cannot_measure_is_refused_at_once(self, alice: Participant) -> None:
        class Plain:
            def train(self, *_: Any, **__: Any) -> Any: ...

        with pytest.raises(ValueError, match="measure"):
            alice.participate((X, Y), trainer=Plain(), held_out=0.1)
