"""What a run may be: each rule is refused with its field and the sentence that says why."""

import re
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from client_sdk import wire
from models_app.models import Model
from rounds import lifecycle, rules
from rounds.errors import RulesInvalid
from rounds.models import Run
from tests.rounds import doubles

NORMALIZED = {
    "class_name": "Sequential",
    "config": {
        "name": "net",
        "layers": [
            {"class_name": "Dense", "config": {"name": "dense"}},
            {
                "class_name": "Sequential",
                "config": {
                    "name": "body",
                    "layers": [{"class_name": "BatchNormalization", "config": {"name": "norm"}}],
                },
            },
        ],
    },
}
ASYNCHRONOUS: dict[str, Any] = {
    "kind": "asynchronous",
    "strategy": "buffered",
    "concurrency": 4,
    "buffer_size": 2,
}


@pytest.fixture(autouse=True)
def _doubles(monkeypatch: pytest.MonkeyPatch) -> None:
    doubles.add(monkeypatch)


def weight(ordinal: int, layer: str, role: str) -> dict[str, Any]:
    spec = wire.WeightSpec(f"{ordinal:04}.{layer}.w", ordinal, layer, (2,), "F32", role)
    return dict(spec.to_json())


def a_model(**roles: str) -> Model:
    """A dense layer and, within a nested model, a batch normalization."""
    manifest = [
        weight(0, "dense", roles.get("dense", wire.FEDERATED)),
        weight(1, "body.norm", roles.get("norm", wire.FEDERATED)),
    ]
    return Model(slug="net", architecture=NORMALIZED, weights_manifest=manifest)


def refusal(model: Model | None = None, **settings: Any) -> tuple[str | None, str]:
    """The field that is at fault, and the sentence."""
    with pytest.raises(RulesInvalid) as caught:
        rules.check(Run(model=model or a_model(), **settings))
    return caught.value.field, caught.value.detail


def test_an_asynchronous_run_says_how_many_train_and_how_many_updates_make_a_version() -> None:
    rules.check(Run(model=a_model(), **ASYNCHRONOUS))
    for name in ("concurrency", "buffer_size"):
        assert refusal(**ASYNCHRONOUS | {name: None})[0] == name
        assert refusal(**ASYNCHRONOUS | {name: 0})[0] == name
        only: dict[str, Any] = {name: 3}
        field, sentence = refusal(**only)
        assert field == name
        assert "only asynchronous runs have one" in sentence


def test_an_asynchronous_run_and_its_strategy_need_each_other() -> None:
    field, sentence = refusal(**ASYNCHRONOUS | {"strategy": "fedavg"})
    assert field == "kind"
    assert sentence == (
        "Expected synchronous, for fedavg folds updates of one version. Received: 'asynchronous'"
    )
    field, sentence = refusal(strategy="buffered")
    assert field == "kind"
    assert sentence.endswith("Received: 'synchronous'")
    assert "asynchronous, for buffered folds updates of different age" in sentence
    assert refusal(kind="sometimes")[0] == "kind"


def test_a_quorum_fits_into_the_buffer_and_the_cohort_is_not_asked_about() -> None:
    assert refusal(**ASYNCHRONOUS | {"quorum": 3})[0] == "quorum"
    rules.check(Run(model=a_model(), selection="first_come", **ASYNCHRONOUS))


def test_stopping_by_the_best_version_needs_a_metric() -> None:
    by: dict[str, Any]
    for by in ({"patience": 3}, {"keep_best": True}):
        field, sentence = refusal(**by)
        assert field == "best_metric"
        assert f"for {next(iter(by))} compares versions by it" in sentence
        rules.check(Run(model=a_model(), best_metric="accuracy", **by))
    assert refusal(patience=0, best_metric="loss")[0] == "patience"
    assert refusal(patience_delta=-1.0)[0] == "patience_delta"


@pytest.mark.parametrize("name", ["gate_metric", "until_metric", "best_metric"])
def test_a_metric_that_nobody_measures_is_refused(name: str) -> None:
    settings: dict[str, Any] = {name: "acuracy", "until_value": 0.9}
    field, sentence = refusal(**settings)
    assert field == name
    assert sentence == (
        "Expected one of accuracy, loss, mean_absolute_error, or of participants' such as "
        "federated_accuracy. Received: 'acuracy'"
    )
    rules.check(Run(model=a_model(), evaluators=3, best_metric="federated_their_own"))


KNOWN = (
    "Expected one of accuracy, loss, mean_absolute_error, or of participants' such as "
    "federated_accuracy. Received: "
)
MISNAMED: list[tuple[Any, str]] = [
    ("federated_", f"{KNOWN}'federated_'"),
    ("federated_accuracy ", f"{KNOWN}'federated_accuracy '"),
    ("federated_ accuracy", f"{KNOWN}'federated_ accuracy'"),
    ("federated_a\0b", f"{KNOWN}'federated_a\\x00b'"),
    ("loss ", f"{KNOWN}'loss '"),
    (" ", f"{KNOWN}' '"),
    (f"federated_{'a' * 31}", "Expected at most 40 characters. Received: 41"),
    (f"federated_{'a' * 200}", "Expected at most 40 characters. Received: 210"),
    (None, "Expected a text. Received: None"),
    (5, "Expected a text. Received: 5"),
]


@pytest.mark.parametrize("name", ["gate_metric", "until_metric", "best_metric"])
@pytest.mark.parametrize(("metric", "sentence"), MISNAMED)
def test_what_can_be_no_metrics_name_is_refused(name: str, metric: Any, sentence: str) -> None:
    settings: dict[str, Any] = {name: metric, "evaluators": 3}
    assert refusal(**settings) == (name, sentence)
    if name == "until_metric":
        assert refusal(**settings, until_value=0.9) == (name, sentence)


def test_names_that_just_fit_are_taken() -> None:
    longest = f"federated_{'a' * 30}"
    rules.check(Run(model=a_model(), evaluators=3, gate_metric=longest, name="n" * 100))
    rules.check(Run(model=a_model(), evaluators=3, best_metric="federated_their own"))
    rules.check(Run(model=a_model(), gate_metric="", until_metric="", best_metric="", name=""))


def test_a_run_whose_name_does_not_fit_is_refused() -> None:
    assert refusal(name="n" * 101) == ("name", "Expected at most 100 characters. Received: 101")
    assert refusal(name=7) == ("name", "Expected a text. Received: 7")


@pytest.mark.parametrize("value", [None, 1, "yes"])
def test_the_best_is_kept_or_it_is_not(value: Any) -> None:
    field, sentence = refusal(keep_best=value, best_metric="loss")
    assert (field, sentence) == ("keep_best", f"Expected true or false. Received: {value!r}")


@pytest.mark.django_db
def test_a_run_of_rules_that_no_column_holds_is_refused_and_not_written(tiny_model: Model) -> None:
    """Through the verb, where no form has looked at them before."""
    wrong: list[tuple[str, Any]] = [
        ("name", "n" * 500),
        ("best_metric", "federated_" + "a" * 200),
        ("until_metric", None),
        ("gate_metric", 5),
        ("keep_best", None),
    ]
    for field, value in wrong:
        with pytest.raises(RulesInvalid, match=r"^Expected .* Received: ") as refused:
            lifecycle.create_run(tiny_model, **{field: value})
        assert refused.value.field == field
    assert not Run.objects.exists()


@pytest.mark.parametrize("metric", ["accuracy", "federated_accuracy"])
def test_an_accuracy_in_percent_is_never_reached(metric: str) -> None:
    settings: dict[str, Any] = {"until_metric": metric, "evaluators": 3}
    assert refusal(**settings, until_value=95) == (
        "until_value",
        "Expected a number from 0.0 to 1.0. Received: 95",
    )
    rules.check(Run(model=a_model(), **settings, until_value=0.95))


def test_what_would_be_ignored_is_refused() -> None:
    assert refusal(patience_delta=0.1)[0] == "patience_delta"
    for name in ("cohort_goal", "target"):
        field, sentence = refusal(**ASYNCHRONOUS | {name: 9})
        assert field == name
        assert "only synchronous runs have one. Received: 9" in sentence


def test_a_quarantine_of_most_updates_is_refused() -> None:
    assert refusal(quarantine_factor=0.5)[0] == "quarantine_factor"
    assert refusal(quarantine_factor=-1.0)[0] == "quarantine_factor"
    for factor in (0.0, 1.0):
        rules.check(Run(model=a_model(), quarantine_factor=factor))


def test_fewer_evaluators_than_may_be_shown_would_evaluate_for_nothing() -> None:
    field, sentence = refusal(evaluators=2, evaluators_min=3)
    assert field == "evaluators"
    assert "at least the smallest cohort of 3, or 0" in sentence
    rules.check(Run(model=a_model(), evaluators=0, evaluators_min=3))
    rules.check(Run(model=a_model(), evaluators=3, evaluators_min=3))
    assert refusal(evaluators_min=1)[0] == "evaluators_min"
    field, sentence = refusal(gate_metric="federated_accuracy")
    assert field == "evaluators"
    assert "for gate_metric is federated_accuracy" in sentence


def test_fedbn_keeps_batch_normalization_with_the_participants(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(rules.aggregation._STRATEGIES, "fedbn", rules.aggregation.FedAvg)
    field, sentence = refusal(strategy="fedbn")
    assert field == "strategy"
    assert sentence == (
        "Expected a model whose BatchNormalization layers are local. "
        "Received: 'body.norm federated in net'"
    )
    assert "fedbn is fedavg" in refusal(a_model(norm="frozen"), strategy="fedbn")[1]
    rules.check(Run(model=a_model(norm="local"), strategy="fedbn"))


def normalized() -> Model:
    """A model with two layers of batch normalization, the first of which stays at home."""
    names = ["norm.gamma", "norm.beta", "norm.moving_mean", "norm.moving_variance", "dense.kernel"]
    manifest = [
        dict(wire.WeightSpec(f"{number:04}.{name}", number, "norm", (3,), "F32", role).to_json())
        for role, first in ((wire.LOCAL, 0), (wire.FEDERATED, 5))
        for number, name in enumerate(names, start=first)
    ]
    return Model(slug="net", architecture=NORMALIZED, weights_manifest=manifest)


def test_strategies_are_told_where_statistics_are() -> None:
    assert rules.setting(Run(model=normalized())).statistics == [(6, 9), (9, 12)]
    assert rules.setting(Run(model=a_model())).statistics == []


def test_every_rule_is_explained_in_the_docs() -> None:
    text = (Path(__file__).parents[2] / "docs" / "runs.md").read_text()
    cells = re.findall(r"^\| (`[^|]+) \|", text, re.MULTILINE)
    explained = [name for cell in cells for name in re.findall(r"`(\w+)`", cell)]
    assert sorted(explained) == sorted(rules.FIELDS)


def test_a_strategy_that_fails_at_checking_is_refused_with_what_it_raised(
    tiny_model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any) -> None:
        raise KeyError("home")

    monkeypatch.setattr(doubles.Buffered, "check", fails)
    with pytest.raises(RulesInvalid, match="KeyError: 'home'") as refused:
        rules.check(Run(model=tiny_model, **ASYNCHRONOUS))
    assert refused.value.field == "strategy"


def test_asynchronous_updates_of_batch_normalization_are_refused() -> None:
    """A difference of -0.9 to a variance of 1, twice from the same version, would make it -0.8."""
    run = Run(model=normalized(), strategy="fedbuff", kind="asynchronous", concurrency=2)
    run.buffer_size = 1
    with pytest.raises(RulesInvalid, match="Received: 2 of them") as refused:
        rules.check(run)
    assert refused.value.field == "strategy"


@pytest.mark.parametrize(("momentum", "fits"), [(0.9999, True), (1.0, False)])
def test_momentum_that_never_ends_is_refused(momentum: float, fits: bool) -> None:
    with nullcontext() if fits else pytest.raises(RulesInvalid, match=r"to 0\.9999"):
        rules.hyperparameters({"momentum": momentum})
