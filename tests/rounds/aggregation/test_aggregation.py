"""The package's face: strategies by name, deltas applied, and what an import may cost."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from rounds.aggregation import FedAvg, OptionError, apply_delta, build, names

ROOT = Path(__file__).parents[3]


def in_new_process(code: str, **environment: str) -> str:
    """Runs code at the root of the house; returns what it printed."""
    command = [sys.executable, "-c", code]
    return subprocess.check_output(command, cwd=ROOT, env=environment, text=True)


def test_strategies_have_names() -> None:
    assert {"fedavg", "median"} <= set(names())
    assert names() == sorted(names())
    assert build("fedavg", {}) == build("fedavg") == FedAvg()
    assert build("fedavg", threads=2) == FedAvg(threads=2)


def test_an_unknown_strategy_is_an_error_of_the_field_strategy() -> None:
    with pytest.raises(OptionError, match=r"'fedavg'.*\. Received: 'fedsgd'") as refused:
        build("fedsgd", {})
    assert refused.value.field == "strategy"
    assert isinstance(refused.value, ValueError)


@pytest.mark.parametrize("option", ["momentum", "threads", "self"])
def test_an_unknown_option_is_an_error_of_its_own_field(option: str) -> None:
    with pytest.raises(OptionError, match=f"Received: '{option}'") as refused:
        build("fedavg", {option: 2})
    assert refused.value.field == f"strategy_options.{option}"


def test_a_delta_is_added_to_the_base() -> None:
    base, delta = np.array([1.0, 2.0, -3.0], "f4"), np.array([0.5, -2.0, 0.25], "f4")
    out = np.empty(3, np.float32)
    apply_delta(base, delta, out)
    assert out.tolist() == [1.5, 0.0, -2.75]
    assert base.tolist() == [1.0, 2.0, -3.0]


def test_a_delta_may_be_added_in_place() -> None:
    base = np.array([1.0], np.float32)
    apply_delta(base, np.array([2.0], np.float32), out=base)
    assert base.tolist() == [3.0]


floats = st.floats(width=32, min_value=-(2.0**126), max_value=2.0**126)


@given(st.lists(st.tuples(floats, floats), min_size=1, max_size=50))
def test_a_sum_is_that_of_float64_rounded_once(pairs: list[tuple[float, float]]) -> None:
    base, delta = np.array(pairs, np.float32).T.copy()
    out = np.empty_like(base)
    apply_delta(base, delta, out)
    expected = (base.astype(np.float64) + delta.astype(np.float64)).astype(np.float32)
    assert out.tobytes() == expected.tobytes()


def test_weights_that_leave_the_numbers_are_an_error() -> None:
    huge = np.full(3, np.finfo(np.float32).max)
    with pytest.raises(ValueError, match="Expected finite sums of base and delta"):
        apply_delta(huge, huge, np.empty_like(huge))


@pytest.mark.parametrize(
    ("base", "out", "named"),
    [
        (np.zeros(3, np.float32), np.zeros(2, np.float32), "base"),
        (np.zeros(2, np.float64), np.zeros(2, np.float32), "base"),
        (np.zeros(2, np.float32), np.zeros((2, 1), np.float32), "out"),
    ],
)
def test_arrays_that_do_not_fit_are_an_error(
    base: NDArray[np.float32], out: NDArray[np.float32], named: str
) -> None:
    with pytest.raises(ValueError, match=f"Expected {named} to be float32 of shape"):
        apply_delta(base, np.zeros(2, np.float32), out)


def test_naming_a_strategy_loads_no_compiler() -> None:
    code = (
        "import sys; from rounds.aggregation import build; build('fedavg'); "
        "print(sorted({'numba', 'django', 'safetensors', 'tensorflow'} & sys.modules.keys()))"
    )
    assert in_new_process(code) == "[]\n"


FOLD = """
import numpy as np
from rounds.aggregation import Contribution, build
update = Contribution(np.arange(200_000, dtype=np.float32), samples=3, key=1)
print(build("fedavg", threads=2).apply({}, [update]).delta.sum())
"""


def test_kernels_are_kept_where_the_environment_says(tmp_path: Path) -> None:
    first = in_new_process(FOLD, NUMBA_CACHE_DIR=str(tmp_path))
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.nb?")}
    assert any("weighted_mean" in path.name for path in kept)
    assert in_new_process(FOLD, NUMBA_CACHE_DIR=str(tmp_path)) == first
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.nb?")} == kept


def test_a_worker_forked_after_a_fold_folds_as_well() -> None:
    """Celery forks its workers: no threads of ours may be missing in the child."""
    forked = (
        FOLD
        + """
import os
if (child := os.fork()) == 0:
    print(build("fedavg", threads=2).apply({}, [update]).delta.sum())
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
"""
    )
    parent, child = in_new_process(forked, PYTHONUNBUFFERED="1").split()
    assert parent == child


def test_a_worker_that_warmed_up_compiles_nothing_for_its_first_fold() -> None:
    warmed = "import rounds.aggregation.warm, rounds.aggregation.walk as walk\n"
    ready = "print(walk._weighted_mean.signatures)\n"
    before, _, after = in_new_process(warmed + ready + FOLD + ready).splitlines()
    assert before == after != "[]"
