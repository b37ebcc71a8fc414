"""Every strategy beside its paper's formula, and what was stored of that and of Flower's."""

import json
import math

import pytest

from benchmarks.learning import exactness
from rounds.aggregation import names

STORED = json.loads(exactness.STORED.read_text())
SPEED = json.loads(exactness.STORED.with_name("speed.json").read_text())


def test_every_strategy_is_its_papers_formula() -> None:
    rows = exactness.compare(exactness.cohorts(weights=70), with_flower=False)
    assert {row.strategy for row in rows} == set(names())
    assert [row for row in rows if not row.agrees] == []


def test_where_flower_is_another_we_give_what_a_calculation_by_hand_gives() -> None:
    for case in exactness.cases(with_flower=False):
        assert case.ours == pytest.approx(case.expected, rel=1e-6), case


def test_what_is_stored_has_every_strategy_beside_its_paper() -> None:
    rows = [exactness.Row(**row) for row in STORED["rows"]]
    beside_paper = [row for row in rows if row.reference == "the paper's formula in float64"]
    assert {row.strategy for row in beside_paper} == set(names())
    assert all(row.agrees for row in beside_paper)
    assert all(row.agrees == (row.relative_error <= STORED["tolerance"]) for row in rows)
    assert (STORED["tolerance"], STORED["seed"]) == (exactness.TOLERANCE, exactness.SEED)


def test_where_what_is_stored_differs_from_flowers_it_says_why_and_shows_a_case() -> None:
    rows = [exactness.Row(**row) for row in STORED["rows"]]
    cases = {case.strategy: case for case in (exactness.Case(**one) for one in STORED["cases"])}
    others = [row for row in rows if not row.agrees]
    assert all("Flower" in row.reference and row.note for row in others)
    assert {row.strategy for row in others} <= cases.keys()
    for case in cases.values():
        assert case.ours == pytest.approx(case.expected, rel=1e-6)
        assert not math.isclose(case.flower, case.expected, rel_tol=1e-2)


def test_what_is_stored_says_how_it_was_made() -> None:
    assert STORED["command"] == f"python -m {exactness.__name__}"
    assert {"numpy", "scipy", "numba", "flwr"} <= STORED["software"].keys()
    assert STORED["processor"]


def test_what_is_stored_of_speed_has_the_targets_beside_flower_in_one_run() -> None:
    assert SPEED["command"] == "python -m benchmarks.aggregation"
    assert {"numpy", "numba", "flwr"} <= SPEED["software"].keys()
    assert SPEED["processor"]
    assert SPEED["load"] >= 0
    timed = {row["strategy"]: row for row in SPEED["rows"] if row["updates"] == 50}
    for strategy in ("median", "trimmed_mean", "krum"):
        row = timed[strategy]
        assert row["weights"] == 1_663_370
        assert row["times"] == pytest.approx(row["flower_seconds"] / row["seconds"])
        assert row["times"] >= 5


def test_what_is_stored_of_memory_is_the_same_for_any_number_of_updates() -> None:
    for strategy in {row["strategy"] for row in SPEED["rows"]}:
        rows = [row for row in SPEED["rows"] if row["strategy"] == strategy]
        assert {row["updates"] for row in rows} >= {10, 50, 200}
        assert max(row["extra_memory_mb"] for row in rows) < 20
