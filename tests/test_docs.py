"""The documents keep up with the code."""

import ast
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def direct_dependencies() -> set[str]:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())
    lists = [declared["project"]["dependencies"], declared["build-system"]["requires"]]
    lists += declared["project"]["optional-dependencies"].values()
    lists += declared["dependency-groups"].values()
    return {re.split(r"[\[<>=~;! ]", line)[0] for lines in lists for line in lines}


def settings_read() -> set[str]:
    """The first argument of every `env.something("NAME", …)` in the settings."""
    tree = ast.parse((ROOT / "fedserver" / "settings.py").read_text())
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return {
        str(call.args[0].value)
        for call in calls
        if isinstance(call.func, ast.Attribute)
        and isinstance(call.func.value, ast.Name)
        and call.func.value.id == "env"
        and isinstance(call.args[0], ast.Constant)
    }


def explained(document: str) -> set[str]:
    """What stands in backquotes in the first column of a document's tables."""
    text = (ROOT / "docs" / document).read_text()
    rows = re.findall(r"^\|([^|]*)\|", text, re.MULTILINE)
    return {name for row in rows for name in re.findall(r"`([^`]+)`", row)}


def test_every_setting_is_explained() -> None:
    assert settings_read() - explained("settings.md") == set()


def test_no_setting_is_explained_that_is_not_read() -> None:
    elsewhere = {"FEDSERVER_DATA", "FEDSERVER_TOKEN", "FEDSERVER_URL", "FEDCLIENT_HOME"}
    assert explained("settings.md") - settings_read() == elsewhere


def test_every_direct_dependency_has_its_reason() -> None:
    assert explained("dependencies.md") == direct_dependencies()


@pytest.mark.parametrize("name", sorted(direct_dependencies() - {"fedserver", "hatchling"}))
def test_every_direct_dependency_is_locked(name: str) -> None:
    locked = (ROOT / "requirements" / "locked.txt").read_text()
    assert re.search(rf"^{re.escape(name)}==", locked, re.MULTILINE)


def test_the_links_between_documents_lead_somewhere() -> None:
    for document in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]:
        for target in re.findall(r"\]\((?!http)([^)#]+)", document.read_text()):
            assert (document.parent / target).exists(), f"{document.name} links to {target}"


def test_the_readme_names_the_two_commands() -> None:
    readme = (ROOT / "README.md").read_text()
    assert "\nmake demo\n" in readme
    assert "\nmake test\n" in readme
    assert (ROOT / ".ci" / "run").read_text().rstrip().endswith("make test")
