"""What a run is said to do before it exists: each number counted by hand."""

import dataclasses
from typing import Any

import pytest

from models_app.models import Model
from rounds import amounts, preview
from rounds.models import Run
from rounds.preview import Cohort, Facts

FACTS = Facts(
    version=4,
    enrolled=12,
    weights_bytes=4_200_000,
    evaluation_samples=360,
    metrics={"accuracy": 0.9, "loss": 0.3},
)


def run(**rules: Any) -> Run:
    return Run(model=Model(slug="digits"), **rules)


def text(title: str, facts: Facts = FACTS, **rules: Any) -> str:
    return dict(preview.lines(run(**rules), facts))[title]


@pytest.mark.parametrize(
    ("rules", "enrolled", "expected"),
    [
        # Everyone: all are waited for, all are invited, all have to send.
        ({}, 12, Cohort(12, 12, 12)),
        ({}, None, Cohort(None, None, None)),
        ({"cohort_goal": 8}, 12, Cohort(8, 8, 8)),
        ({"cohort_goal": 8}, None, Cohort(8, 8, 8)),
        ({"cohort_goal": 8}, 5, Cohort(5, 5, 5)),
        ({"cohort_goal": 8, "target": 6}, 12, Cohort(8, 8, 6)),
        # Nobody enrolled: it waits for the fewest that it could train with.
        ({"cohort_min": 2, "quorum": 3}, 0, Cohort(3, 3, 3)),
        # Random: 8 / 0.5 are more than 12 can be; of 12, ceil(8 * 1.3) = 11 are drawn, 8 needed.
        ({"selection": "random", "fraction": 0.5, "cohort_goal": 8}, 12, Cohort(12, 11, 8)),
        ({"selection": "random", "fraction": 0.8, "cohort_goal": 8}, 12, Cohort(10, 10, 8)),
        # Random without a goal: ceil(0.5 * 12 = 6, times 1.3) = 8; ceil(8 / 1.3) = 7 are needed.
        ({"selection": "random", "fraction": 0.5}, 12, Cohort(12, 8, 7)),
        # First come: ceil(8 * 1.3) = 11 places, and 8 updates end the round.
        ({"selection": "first_come", "cohort_goal": 8}, 12, Cohort(None, 11, 8)),
        ({"selection": "first_come", "cohort_goal": 8}, 3, Cohort(None, 3, 3)),
    ],
)
def test_a_round_counts_so(rules: dict[str, Any], enrolled: int | None, expected: Cohort) -> None:
    assert preview.cohort(run(**rules), enrolled) == expected


def test_the_example_of_the_wizard() -> None:
    rules: dict[str, Any] = {"selection": "random", "fraction": 0.5, "cohort_goal": 8}
    assert text("Rounds", **rules) == (
        "Up to 10 rounds. The first one starts from version 4. "
        "Each one starts from the version that is served then."
    )
    assert text("Who trains", **rules) == (
        "Each round waits up to 5 minutes for all 12 enrolled participants; then 11 are drawn "
        "to train. If fewer have come in that time, it goes on with at least 2, or it fails."
    )
    assert text("Training", **rules) == (
        "Each participant trains 1 epoch over its own data in batches of 32 with sgd, "
        "learning rate 0.01."
    )
    assert text("Closing", **rules) == (
        "Training ends when 8 updates are here, or after 1 hour with at least 2; with fewer the "
        "round fails. An update is quarantined if its norm is more than 5 times the median of all."
    )
    assert text("Publishing", **rules) == (
        "FedAvg makes a new version of the updates; it is measured on 360 held-out samples and "
        "served unless its accuracy is more than 0.2 below that of the version before: then the "
        "round fails, and the old version stays."
    )
    assert text("Failing", **rules) == (
        "A failed round is tried again after 5 seconds, then 10 seconds, then 20 seconds; the run "
        "fails after 4 failed rounds in a row."
    )
    # 11 participants, 10 rounds, 4.2 MB each way: 924 MB.
    assert text("On the way", **rules) == (
        "About 4.2 MB down and 4.2 MB up for each participant in each round: about 924 MB in all, "
        "if 11 train in each round."
    )
    # 10 times 5 + 60 minutes are 650 minutes.
    assert text("At the longest", **rules) == (
        "If every wait runs out, a round takes 1 hour 5 minutes and 10 rounds take "
        "10 hours 50 minutes."
    )


def test_everyone_is_waited_for() -> None:
    assert "for all 12 enrolled participants; then everyone who is there" in text("Who trains")
    assert "for 8 of the 12 enrolled" in text("Who trains", cohort_goal=8)
    assert "for all enrolled participants" in text("Who trains", Facts())
    assert text("Who trains", cohort_goal=2).endswith("If fewer have come in that time, it fails.")


def test_who_comes_first_trains_at_once() -> None:
    told = text("Who trains", selection="first_come", cohort_goal=8, selecting_seconds=90)
    assert told == (
        "Each round invites the first 11 of the 12 enrolled participants who come, for up to "
        "1 minute 30 seconds, and each of them trains at once. After that time it goes on with at "
        "least 2, or it fails."
    )


def test_evaluators_have_their_time_too() -> None:
    # 5 minutes to select, an hour to train and 7 days to evaluate; of buffers nobody is selected.
    week: dict[str, Any] = {"evaluators": 10, "evaluation_seconds": 604_800, "rounds_planned": 2}
    assert text("At the longest", **week) == (
        "If every wait runs out, a round takes 7 days 1 hour and 2 rounds take 14 days 2 hours."
    )
    told = text("At the longest", **BUFFERED, evaluators=10, evaluation_seconds=1800)
    assert "a round takes 1 hour 30 minutes and 10 rounds take 15 hours." in told
    nobody = text("At the longest", evaluation_seconds=604_800)
    assert "a round takes 1 hour 5 minutes and" in nobody


def test_a_run_may_end_early() -> None:
    told = text("Rounds", until_metric="accuracy", until_value=0.95, rounds_planned=1)
    assert told.startswith("Up to 1 round, fewer if the accuracy on the held-out set reaches 0.95")
    assert "loss on the held-out set falls to 0.1" in text(
        "Rounds", until_metric="loss", until_value=0.1
    )


def test_hyperparameters_are_told_as_they_are() -> None:
    asked = {"epochs": 3, "momentum": 0.9, "max_steps": 100, "learning_rate": 0.001}
    assert text("Training", hyperparameters=asked) == (
        "Each participant trains 3 epochs over its own data in batches of 32 with sgd, "
        "learning rate 0.001, momentum 0.9, at most 100 steps."
    )


def test_what_is_switched_off_is_said_too() -> None:
    assert text("Closing", quarantine_factor=0.0).endswith("No update is quarantined for its size.")
    assert text("Publishing", gate_metric="").endswith("if all its metrics are finite.")
    assert text("Failing", retries=0) == "The first failed round fails the run."
    assert "and so on; the run fails after 6" in text("Failing", retries=5)
    assert "served unmeasured" in text("Publishing", Facts(enrolled=3))
    assert "loss is more than 0.2 above" in text("Publishing", gate_metric="loss")


@pytest.mark.parametrize(
    ("retries", "seconds", "told"),
    [
        (1, 5, "5 seconds"),
        (5, 5, "5 seconds, then 10 seconds, then 20 seconds, and so on"),
        # The tenth pause is 5 * 2**9 = 2560 seconds, the eleventh would be more than an hour.
        (10, 5, "5 seconds, then 10 seconds, then 20 seconds, and so on"),
        (11, 5, "5 seconds, then 10 seconds, then 20 seconds, and so on up to 1 hour"),
        (4, 450, "7 minutes 30 seconds, then 15 minutes, then 30 minutes, and so on"),
        (3, 1500, "25 minutes, then 50 minutes, then 1 hour"),
        (4, 1500, "25 minutes, then 50 minutes, then 1 hour each time"),
        # Who asks for more than an hour gets it, and it is not doubled.
        (1, 86_400, "1 day"),
        (3, 86_400, "1 day each time"),
    ],
)
def test_pauses_are_doubled_up_to_an_hour(retries: int, seconds: int, told: str) -> None:
    assert text("Failing", retries=retries, retry_seconds=seconds) == (
        f"A failed round is tried again after {told}; the run fails after {retries + 1} failed "
        "rounds in a row."
    )


BUFFERED: dict[str, Any] = {
    "kind": "asynchronous",
    "strategy": "fedbuff",
    "concurrency": 20,
    "buffer_size": 10,
}


def test_a_buffered_run_waits_for_nobody() -> None:
    assert preview.cohort(run(**BUFFERED), 12) == Cohort(None, 20, 10)
    assert text("Rounds", **BUFFERED) == (
        "Up to 10 rounds, each of which fills one buffer of updates. The first one starts from "
        "version 4."
    )
    assert text("Who trains", **BUFFERED) == (
        "All 12 enrolled participants train at the same time, for there is room for 20. Each one "
        "starts at once, from the version that is served then; who has sent its update goes on "
        "with the next version."
    )
    assert text("Closing", **BUFFERED).startswith(
        "Every 10 updates make a version, and nobody waits for the slowest: who still trains goes "
        "on, and sends its update to a later one. After 1 hour a version is made of at least 2"
    )
    assert text("On the way", **BUFFERED).endswith("about 84.0 MB for each version.")
    assert text("At the longest", **BUFFERED).endswith("takes 1 hour and 10 rounds take 10 hours.")


@pytest.mark.parametrize(
    ("enrolled", "begins"),
    [
        (40, "At most 20 of the 40 enrolled participants train at a time. "),
        (20, "All 20 enrolled participants train at the same time. "),
        (4, "All 4 enrolled participants train at the same time, for there is room for 20. "),
        (1, "The one enrolled participant trains, for there is room for 20. "),
        (0, "Nobody is enrolled yet; there is room for 20 at a time. "),
        (None, "At most 20 of the enrolled participants train at a time. "),
    ],
)
def test_a_buffered_run_trains_with_those_who_are_there(enrolled: int | None, begins: str) -> None:
    told = text("Who trains", dataclasses.replace(FACTS, enrolled=enrolled), **BUFFERED)
    assert told.startswith(begins)
    assert ("makes room for the next" in told) is (enrolled is None or enrolled > 20)


def test_what_a_strategy_asks_of_everybody_is_a_part_of_the_training() -> None:
    assert text("Training", strategy="qfedavg").endswith(
        "learning rate 0.01, tells its loss before training."
    )


def test_a_run_may_look_for_its_best_version() -> None:
    assert "Ending" not in dict(preview.lines(run(), FACTS))
    assert text("Ending", best_metric="loss", patience=5, patience_delta=0.01, keep_best=True) == (
        "Versions are compared by their loss; the run ends when 5 rounds in a row were no better "
        "by more than 0.01; at its end it serves the best one, and not the last."
    )


def test_participants_may_measure_each_version() -> None:
    assert "Evaluation" not in dict(preview.lines(run(), FACTS))
    assert text("Evaluation", evaluators=8) == (
        "8 participants measure each new version on data of their own, for up to 5 minutes. Of "
        "fewer than 3 reports nothing is shown or used."
    )


def test_a_gate_may_compare_what_participants_tell() -> None:
    theirs: dict[str, Any] = {"evaluators": 10, "gate_metric": "federated_accuracy"}
    gate = (
        "participants measure it on held-out data of their own. The gate compares what they tell. "
        "The version is served unless its federated_accuracy is more than 0.2 below that of the "
        "version before: then the round fails, and the old version stays."
    )
    made = "FedAvg makes a new version of the updates; "
    assert text("Publishing", Facts(enrolled=12), **theirs) == f"{made}{gate}"
    assert text("Publishing", Facts(evaluation_samples=10), **theirs) == (
        f"{made}it is measured on 10 held-out samples, and {gate}"
    )
    loss = text("Publishing", evaluators=10, gate_metric="federated_loss")
    assert "its federated_loss is more than 0.2 above" in loss


def test_a_gate_that_compares_nothing_serves_whatever_participants_tell() -> None:
    assert text("Publishing", Facts(enrolled=12), evaluators=10) == (
        "FedAvg makes a new version of the updates; participants measure it on held-out data of "
        "their own, and it is served whatever they tell, for its gate compares accuracy, and the "
        "model has no evaluation set."
    )
    without = text("Publishing", Facts(enrolled=12), evaluators=10, gate_metric="")
    assert without.endswith("whatever they tell, for no gate compares it.")
    assert "served unless its accuracy is more than 0.2" in text("Publishing", evaluators=10)


def test_a_round_fails_if_too_few_tell_what_it_is_judged_by() -> None:
    judged: dict[str, Any] = dict.fromkeys(("gate_metric", "best_metric"), "federated_loss")
    told = (
        "Of fewer than 3 reports nothing is shown or used, and the round fails, for nobody knows "
    )
    assert text("Evaluation", evaluators=8, **judged).endswith(f"{told}the federated_loss then.")
    judged["best_metric"] = "federated_accuracy"
    both = f"{told}the federated_loss and federated_accuracy then."
    assert text("Evaluation", evaluators=8, **judged).endswith(both)


def test_what_travels_once_is_counted_once() -> None:
    facts = Facts(enrolled=2, weights_bytes=1_000_000, fixed_bytes=500_000)
    # 2 participants: 2 MB in each of 3 rounds, and 0.5 MB once, are 13 MB.
    assert text("On the way", facts, rounds_planned=3) == (
        "About 1.0 MB down and 1.0 MB up for each participant in each round, and 500 kB down "
        "once: about 13.0 MB in all, if 2 train in each round."
    )


@pytest.mark.parametrize(
    ("facts", "rules", "part"),
    [
        (Facts(enrolled=0), {}, "Nobody is enrolled and a round needs 2"),
        (Facts(enrolled=1), {}, "1 participant is enrolled and a round needs 2"),
        (Facts(enrolled=2), {"quorum": 3}, "2 participants are enrolled and a round needs 3"),
        (Facts(busy="autumn (run 4)"), {}, "autumn (run 4) trains this model now"),
        (Facts(), {"until_metric": "accuracy", "until_value": 0.9}, "no evaluation set"),
        (FACTS, {"gate_metric": "auc"}, "auc is not measured"),
        (Facts(), {"best_metric": "loss"}, "the run does not go by it"),
        (FACTS, {"best_metric": "federated_loss"}, "no evaluators are asked for"),
        (
            FACTS,
            {"evaluators": 20, "evaluators_min": 15},
            "Nothing is shown of fewer than 15 evaluations, and 12 participants are enrolled: "
            "until more enrol, each round waits the whole 5 minutes for them.",
        ),
        (
            FACTS,
            {"evaluators": 20, "evaluators_min": 15, "best_metric": "federated_loss"},
            "each round waits the whole 5 minutes for them, and fails.",
        ),
        (
            Facts(enrolled=5),
            {"evaluators": 10, "evaluation_seconds": 86_400},
            "5 participants are enrolled and a round asks for 10 evaluations: until more enrol, "
            "each round waits the whole 1 day for them.",
        ),
        (Facts(enrolled=6), {**BUFFERED, "buffer_size": 8}, "the buffer of 8 is never full"),
        (FACTS, {"strategy": "median"}, "Median needs a quorum of 3"),
        (
            FACTS,
            {"strategy": "median", "quorum": 5, "quarantine_factor": 2.0},
            "quarantined before Median sees them",
        ),
        (
            FACTS,
            {"strategy": "scaffold", "selection": "random", "fraction": 0.1, "over_selection": 1.0},
            "trains about 1.7 times in 10 rounds",
        ),
        (FACTS, {"strategy": "ours"}, "ours is not installed here"),
        (
            Facts(enrolled=9, unable=("dora", "emil", "frida", "gustav", "hanna")),
            {"strategy": "fedprox"},
            "9 of the 14 enrolled participants can do what this strategy asks. dora, emil, frida "
            "and 2 more cannot",
        ),
    ],
)
def test_what_will_not_work_is_said_before(facts: Facts, rules: dict[str, Any], part: str) -> None:
    (warning,) = preview.warnings(run(**rules), facts)
    assert part in warning


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (("dora",), "dora"),
        (("dora", "emil"), "dora and emil"),
        (("dora", "emil", "frida", "gustav"), "dora, emil, frida and gustav"),
    ],
)
def test_names_are_listed_as_people_list_them(names: tuple[str, ...], told: str) -> None:
    assert f"asks. {told} cannot" in preview.unable(Facts(enrolled=0, unable=names))


def test_nothing_is_warned_of_without_need() -> None:
    assert preview.warnings(run(**BUFFERED), FACTS) == []
    assert preview.warnings(run(strategy="krum", quorum=5), FACTS) == []
    assert preview.warnings(run(), FACTS) == []
    assert preview.warnings(run(evaluators=12), FACTS) == []
    assert preview.warnings(run(), Facts()) == []


def test_who_cannot_do_what_the_strategy_asks_can_evaluate() -> None:
    """Four can train and dora cannot, but all five can evaluate."""
    facts = Facts(enrolled=4, unable=("dora",))
    (warning,) = preview.warnings(run(strategy="fedprox", evaluators=5), facts)
    assert "dora cannot" in warning
    _, few = preview.warnings(run(strategy="fedprox", evaluators=6), facts)
    assert few.startswith("5 participants are enrolled and a round asks for 6 evaluations")


def test_times_and_sizes_are_said_as_people_say_them() -> None:
    assert [amounts.span(seconds) for seconds in (1, 60, 300, 3905, 90_000, 0)] == [
        "1 second",
        "1 minute",
        "5 minutes",
        "1 hour 5 minutes",
        "1 day 1 hour",
        "0 seconds",
    ]
    assert [amounts.size(count) for count in (0, 999, 4_200, 150_000, 4_200_000, 10**12)] == [
        "0 bytes",
        "999 bytes",
        "4.2 kB",
        "150 kB",
        "4.2 MB",
        "1.0 TB",
    ]
