"""Strategies of other packages: the example of the documents, installed, and packages at fault."""

import logging
import re
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from rounds import aggregation
from rounds.aggregation import FedAvg, OptionError, Strategy
from tests.rounds.aggregation.strategy_contract import MeanContract, cohort, update
from tests.rounds.aggregation.test_aggregation import in_new_process

PAGE = Path(__file__).parents[3] / "docs" / "strategies.md"
Install = Callable[[str, str, str], None]


def example() -> tuple[str, str]:
    """The module and the pyproject.toml of "A strategy of your own"."""
    _, own = PAGE.read_text().split("## A strategy of your own")
    blocks = dict(re.findall(r"^```(\w+)\n(.*?)^```$", own, re.MULTILINE | re.DOTALL))
    return blocks["python"], blocks["toml"]


def lay_out(site: Path, module: str, pyproject: str) -> None:
    """Leaves in a folder what an installer leaves there of a package with one module."""
    project = tomllib.loads(pyproject)["project"]
    info = site / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir()
    told = f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    (info / "METADATA").write_text(told)
    lines = [f"[{group}]" for group in project["entry-points"]]
    for points in project["entry-points"].values():
        lines += [f"{name} = {value}" for name, value in points.items()]
        for value in points.values():
            (site / f"{value.partition(':')[0]}.py").write_text(module)
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n")


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of installed packages, on the path of this process; found anew with each test."""
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)
    aggregation._offered.cache_clear()
    yield tmp_path
    aggregation._offered.cache_clear()
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", None)).startswith(str(tmp_path)):
            del sys.modules[name]


def package(name: str, point: str) -> str:
    return f"""
[project]
name = "{name}"
version = "2.1"
[project.entry-points."fedserver.strategies"]
{point}
"""


class TestTheExampleKeepsTheContract(MeanContract):
    @pytest.fixture(autouse=True)
    def installed(self, site: Path) -> None:
        lay_out(site, *example())

    def strategy(self, *, threads: int | None = None) -> Strategy:
        return aggregation.build("power_mean", threads=threads)

    def test_it_is_a_strategy_like_any_other(self) -> None:
        assert {"power_mean", "fedavg", "krum"} <= set(aggregation.names())
        assert aggregation.strategy("power_mean").title == "Power mean"
        (option,) = aggregation.options("power_mean")
        assert option == ("power", float, 0.5, "1 is FedAvg, 0 is one vote each.", 0.0, 1.0)

    def test_its_options_are_checked(self) -> None:
        with pytest.raises(OptionError, match=r"from 0\.0 to 1\.0") as refused:
            aggregation.build("power_mean", {"power": 2})
        assert refused.value.field == "strategy_options.power"

    def test_it_does_what_it_says(self) -> None:
        alice, bob = update([1.0], samples=1, key=1), update([5.0], samples=9, key=2)
        # Of weights 1 and 3, for these are the roots: (1 + 15) / 4.
        result = self.strategy().apply({}, [alice, bob])
        assert result.delta.tolist() == [4.0]
        assert result.diagnostics["largest_share"] == 0.75
        fedavg = FedAvg().apply({}, cohort(50)).delta
        whole = aggregation.build("power_mean", {"power": 1}).apply({}, cohort(50)).delta
        np.testing.assert_allclose(whole, fedavg, rtol=1e-6)


def test_the_example_has_no_more_than_thirty_lines() -> None:
    module, _ = example()
    assert len([line for line in module.splitlines() if line.strip()]) <= 30


def test_a_new_process_finds_the_package_and_loads_it_when_it_is_asked_for(tmp_path: Path) -> None:
    lay_out(tmp_path, *example())
    code = """
import sys
from rounds import aggregation
print("power_mean" in aggregation.names(), "power_mean" in sys.modules)
print(aggregation.build("power_mean").title, "power_mean" in sys.modules, "numba" in sys.modules)
"""
    said = in_new_process(code, PYTHONPATH=str(tmp_path))
    assert said == "True False\nPower mean True False\n"


@pytest.mark.parametrize(
    ("module", "why"),
    [
        ("import nowhere", "can be imported. Received: ModuleNotFoundError: No module named 'nowh"),
        ("1 / 0", "can be imported. Received: ZeroDivisionError"),
        ("", "can be imported. Received: AttributeError"),
        ("import sys; sys.exit('no licence')", "can be imported. Received: SystemExit: no licence"),
        ("Mean = dict", "a subclass of rounds.aggregation.Strategy. Received: <class 'dict'>"),
        ("Mean = 3", "a subclass of rounds.aggregation.Strategy. Received: 3"),
        (
            "from rounds.aggregation import Strategy\nclass Mean(Strategy): pass",
            "a dataclass, whose fields are its options",
        ),
        (
            "from dataclasses import dataclass\nfrom rounds.aggregation import FedAvg\n"
            "@dataclass(frozen=True)\nclass Mean(FedAvg):\n    power: 'Nowhere' = 1.0",
            "annotations can be read. Received: NameError",
        ),
    ],
)
def test_a_package_at_fault_is_named_and_hinders_no_other(
    site: Path, module: str, why: str
) -> None:
    lay_out(site, module, package("acme-means", 'acme = "acme_means:Mean"'))
    assert "acme" in aggregation.names()
    for ask in (aggregation.build, aggregation.options, aggregation.strategy):
        with pytest.raises(OptionError) as refused:
            ask("acme")
        assert refused.value.field == "strategy"
        assert "acme_means:Mean of package acme-means 2.1" in refused.value.detail
        assert why in refused.value.detail
    assert aggregation.build("fedavg") == FedAvg()


def test_a_name_of_ours_cannot_be_taken(site: Path, caplog: pytest.LogCaptureFixture) -> None:
    module, _ = example()
    lay_out(site, module, package("evil-mean", 'fedavg = "evil_mean:PowerMean"'))
    with caplog.at_level(logging.WARNING):
        assert aggregation.build("fedavg") == FedAvg()
        assert aggregation.names().count("fedavg") == 1
    assert "package evil-mean 2.1 offers a strategy by the name of ours, 'fedavg'" in caplog.text


def test_a_name_that_two_packages_offer_is_nobodys(site: Path) -> None:
    module, _ = example()
    lay_out(site, module, package("one", 'mine = "one:PowerMean"'))
    lay_out(site, module, package("other", 'mine = "other:PowerMean"'))
    with pytest.raises(OptionError, match="one package to offer 'mine'") as refused:
        aggregation.build("mine")
    assert {"one 2.1", "other 2.1"} <= set(re.findall(r"package (\S+ \S+)", refused.value.detail))


def test_what_a_strategy_of_others_raises_of_its_options_is_told(site: Path) -> None:
    module = """
from dataclasses import dataclass
from rounds.aggregation import Strategy

@dataclass(frozen=True)
class Picky(Strategy):
    title = "Picky"
    share: float = 0.5
    def __post_init__(self):
        if self.share > 1:
            raise ValueError("Expected a share.")
"""
    lay_out(site, module, package("picky", 'picky = "picky:Picky"'))
    with pytest.raises(OptionError, match="Expected a share") as refused:
        aggregation.build("picky", {"share": 2})
    assert refused.value.field == "strategy_options"


@pytest.mark.parametrize(
    ("method", "why"),
    [
        ("def __post_init__(self): raise KeyError('home')", "to be made. Received: KeyError"),
        ("requires = ['report_steps']", "to require numbers by name of capability"),
        ("requires = {'proximal': {'mu': 'much'}}", "to require numbers by name of capability"),
        ("requires = property(lambda self: 1 / 0)", "Received: 'ZeroDivisionError"),
    ],
)
def test_a_strategy_at_fault_is_refused_before_anybody_checks_in(
    site: Path, method: str, why: str
) -> None:
    module = f"""
from dataclasses import dataclass
from rounds.aggregation import Strategy

@dataclass(frozen=True)
class Odd(Strategy):
    title = "Odd"
    {method}
"""
    lay_out(site, module, package("odd", 'odd = "odd:Odd"'))
    with pytest.raises(OptionError, match=re.escape(why)) as refused:
        aggregation.build("odd")
    assert refused.value.field == "strategy"


# --- The page of documents ----------------------------------------------------------------------


def rows() -> dict[str, str]:
    """The lines of the table of all strategies, by name."""
    _, table = PAGE.read_text().split("## All strategies")
    table, _ = table.split("## Averages")
    return dict(re.findall(r"^\| `(\w+)` (\|.*)$", table, re.MULTILINE))


def test_the_page_tells_of_every_strategy_with_its_options_and_paper() -> None:
    assert rows().keys() == aggregation._STRATEGIES.keys()
    for name, row in rows().items():
        told = dict(re.findall(r"`(\w+)`(?: ([\d.e-]+))?[,| ]", row.split("|")[3]))
        declared = {one.name: one.default for one in aggregation.options(name)}
        assert told.keys() == declared.keys(), name
        for option, default in declared.items():
            assert told[option] == ("" if default is None else str(default)), (name, option)
        number = aggregation.strategy(name).paper.rpartition("arXiv ")[2]
        assert f"[{number}](https://arxiv.org/abs/{number})" in row
        asked = row.split("|")[2].strip()
        assert bool(aggregation.build(name).requires) <= bool(asked), name
