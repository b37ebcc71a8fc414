"""What the page on learning says is what is stored, and what is stored can be believed."""

import json
import time
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.learning import experiments, report, stored
from benchmarks.learning.__main__ import columns, moment
from benchmarks.learning.experiments import Cell
from benchmarks.learning.stored import Result

STORED = sorted(stored.FOLDER.glob("*/*-seed*.json"))
IDS = [f"{path.parent.name}/{path.stem}" for path in STORED]
GREATEST = 100_000  # bytes of a file


@pytest.fixture(params=STORED, ids=IDS)
def kept(request: pytest.FixtureRequest) -> Result:
    return stored.load(request.param)


def test_a_result_lies_under_its_own_name_and_is_small(kept: Result) -> None:
    assert kept.path in STORED
    assert kept.path.stat().st_size < GREATEST


def test_a_result_says_what_was_run_and_on_what(kept: Result) -> None:
    jobs = [job for cell in experiments.cells() for job in stored.jobs_of(cell)]
    ours = [job for job in jobs if (job.experiment, job.name) == (kept.experiment, kept.cell)]
    commands = {f"python manage.py simulate {job.options}" for job in ours}
    assert kept.command in commands
    assert kept.settings["seed"] == kept.seed
    assert {"python", "keras", "numpy"} <= set(kept.software)
    assert kept.commit
    assert not kept.commit.endswith("+"), "made by code that nobody can look up"


def test_a_results_numbers_are_those_of_its_curve(kept: Result) -> None:
    curve = kept.curve
    assert {len(column) for column in curve.values()} == {len(curve["round"])}
    measured = [value for value in curve["accuracy"][1:] if value is not None]
    assert len(measured) == kept.rounds
    assert kept.final_accuracy == pytest.approx(measured[-1], abs=1e-4)
    if kept.settings["until"]:
        _, target = kept.settings["until"]
        reached = [
            number
            for number, value in zip(curve["round"][1:], curve["accuracy"][1:], strict=True)
            if value is not None and value >= target
        ]
        assert kept.rounds_to_target == (reached[0] if reached else None)
    assert kept.ended == "target" if kept.rounds_to_target else kept.ended in ("rounds", "stopped")


def test_every_number_of_the_page_is_the_files() -> None:
    page = report.PAGE.read_text()
    assert report.filled(page) == page


def test_every_cell_is_there_or_said_to_be_missing() -> None:
    page = report.PAGE.read_text()
    for cell in experiments.cells():
        assert stored.results_of(cell) or report.MISSING in page, cell.name


def test_the_papers_four_cells_are_asked_for_with_the_papers_numbers() -> None:
    assert {cell.name: cell.paper for cell in experiments.MCMAHAN} == {
        "2nn-iid": 87,
        "2nn-shards": 664,
        "cnn-iid": 20,
        "cnn-shards": 229,
    }
    assert all(len(cell.seeds) == 3 for cell in experiments.MCMAHAN if "2nn" in cell.name)


# --- How the runner decides ---------------------------------------------------------------------

CELL = Cell("tried", "cell", "--rounds 9", (0.1, 0.2), (1, 2))


def simulated(rate: float, seed: int, *, reached: int | None, ended: str = "target") -> Result:
    job = CELL.job(rate, seed)
    return Result(
        experiment=job.experiment,
        cell=job.name,
        seed=seed,
        command="",
        settings={"learning_rate": rate},
        software={},
        processor="",
        commit="abc",
        ended=ended,
        rounds=1,
        rounds_to_target=reached,
        clock_to_target=None,
        final_accuracy=0.5,
        cpu_seconds_per_round=1.0,
        curve={"round": [0, 1], "accuracy": [0.1, rate]},
    )


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(stored, "FOLDER", tmp_path)
    return tmp_path


def due() -> list[tuple[str, int]]:
    return [(job.name, job.seed) for job in stored.due([CELL])]


def test_the_grid_is_tried_with_the_first_seed_and_the_best_goes_on(folder: Path) -> None:
    assert due() == [("cell-lr0.1", 1), ("cell-lr0.2", 1)]
    simulated(0.1, 1, reached=5).save()
    simulated(0.2, 1, reached=7).save()
    assert stored.chosen(CELL) == 0.1
    assert due() == [("cell-lr0.1", 2)]


def test_where_no_rate_reaches_the_target_the_most_accurate_goes_on(folder: Path) -> None:
    for rate in CELL.grid:
        simulated(rate, 1, reached=None, ended="rounds").save()
    assert stored.chosen(CELL) == 0.2


def test_what_was_stopped_is_due_before_further_seeds_and_decides_nothing(folder: Path) -> None:
    simulated(0.1, 1, reached=5).save()
    simulated(0.2, 1, reached=None, ended="stopped").save()
    assert stored.chosen(CELL) == 0.1
    assert due() == [("cell-lr0.2", 1), ("cell-lr0.1", 2)]


def test_a_result_is_read_as_it_was_saved(folder: Path) -> None:
    one = simulated(0.1, 1, reached=5)
    one.save()
    assert stored.load(one.path) == one
    assert json.loads(one.path.read_text())["curve"]["accuracy"] == [0.1, 0.1]


def test_the_page_tells_an_open_cell_from_one_that_failed() -> None:
    one = simulated(0.1, 1, reached=None, ended="stopped")
    assert report.reached(one) == "stopped after 1, best 10.00 %"
    assert report.reached(replace(one, ended="rounds")) == "not after 1, best 10.00 %"
    assert report.reached(replace(one, rounds_to_target=4)) == "4"


def test_a_curve_becomes_columns_without_those_that_say_nothing() -> None:
    rows = [
        {"round": 0, "accuracy": 0.1},
        {"round": 1, "accuracy": 0.123456, "cpu_seconds": 3, "quarantined": 0, "late": 1},
        {"round": 2, "accuracy": 0.123456, "cpu_seconds": 4, "quarantined": 0, "late": 2},
    ]
    assert columns(rows) == {
        "round": [0, 1, 2],
        "accuracy": [0.1, 0.1235, 0.1235],
        "late": [None, 1, 2],
    }


def test_a_time_of_day_is_the_next_one() -> None:
    assert 0 < moment("03:20") - time.time() <= 86_400


def test_an_unknown_experiment_is_refused() -> None:
    with pytest.raises(ValueError, match="mcmahan"):
        experiments.cells(["mnist"])
    assert [cell.name for cell in experiments.cells(["mcmahan/cnn-iid"])] == ["cnn-iid"]
