"""One text from relative ES modules."""

import json
from pathlib import Path

import pytest

import client_sdk
from client_sdk.notebook.modules import ModuleError, esm, imports_of

DRAWINGS = Path(client_sdk.__file__).parent / "drawings"


def written(folder: Path, **sources: str) -> Path:
    for name, source in sources.items():
        (folder / f"{name}.js").write_text(source)
    return folder / f"{next(iter(sources))}.js"


def modules_in(text: str) -> list[tuple[str, list[str | int]]]:
    first, _, _ = text.partition("\n")
    return json.loads(first.removeprefix("const MODULES = ").removesuffix(";"))


@pytest.mark.parametrize(
    ("source", "paths"),
    [
        ('import { h } from "./dom.js";', ["./dom.js"]),
        ("import dom, * as more from '../dom.js'", ["../dom.js"]),
        ('import {\n  a,\n  b as c,\n} from "./many.js";\n', ["./many.js"]),
        ('import "./effect.js";\nexport * from "./all.js";', ["./effect.js", "./all.js"]),
        ('export { default, one as two } from "./part.js";', ["./part.js"]),
        ('export * as parts from "./part.js";', ["./part.js"]),
        ('export const from = "./value.js";', []),
        ('export class Far {\n  // far from "./home.js"\n}', []),
        ('// import { h } from "./dom.js"\nconst text = \'import "./dom.js"\';', []),
        ("const here = import.meta.url;\nimport.meta.url;", []),
    ],
)
def test_every_way_to_import_is_understood(source: str, paths: list[str]) -> None:
    assert imports_of(source) == paths


def test_what_is_imported_comes_first_and_once(tmp_path: Path) -> None:
    entry = written(
        tmp_path,
        entry='import { a } from "./a.js";\nimport { b } from "./b.js";\nexport default a + b;',
        a='import { c } from "./c.js";\nexport const a = c;',
        b='import { c } from "./c.js";\nexport const b = c;',
        c="export const c = 1;",
    )
    made = [parts for _, parts in modules_in(esm(entry))]
    assert [str(parts[-1]).split("/")[-1] for parts in made] == [
        "c.js\n", "a.js\n", "b.js\n", "entry.js\n",
    ]  # fmt: skip
    assert made[1][:2] == ["import { c } from ", 0]
    assert [part for part in made[3] if isinstance(part, int)] == [1, 2]


def test_a_module_has_the_same_key_in_every_text(tmp_path: Path) -> None:
    shared = dict(modules_in(esm(DRAWINGS / "feed.js")))
    others = dict(modules_in(esm(DRAWINGS / "assignments.js")))
    both = shared.keys() & others.keys()
    names = {str(shared[key][-1]).rsplit("/", 1)[-1].strip() for key in both}
    assert names == {"dom.js", "numbers.js", "verdicts.js"}


def test_another_import_makes_another_module(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    entry = 'import { a } from "./a.js";\nexport default a;'
    one = written(tmp_path / "one", entry=entry, a="export const a = 1;")
    two = written(tmp_path / "two", entry=entry, a="export const a = 2;")
    assert modules_in(esm(one))[-1][0] != modules_in(esm(two))[-1][0]


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        ({"a": 'import "./b.js";'}, r"which a\.js imports.*b\.js"),
        ({"a": 'import "./b.js";', "b": 'import "./a.js";'}, r"circle.*a\.js → b\.js → a\.js"),
        ({"a": 'import uPlot from "uplot";'}, r"relative imports, in a\.js. Received: uplot"),
        ({"a": 'const b = await import("./b.js");'}, r"static imports, in a\.js.*import\("),
        ({"a": 'import { b /* */ } from "./b.js";'}, r"imports of names, in a\.js.*import \{ b"),
    ],
)
def test_a_module_that_cannot_be_had_is_named(
    tmp_path: Path, sources: dict[str, str], message: str
) -> None:
    with pytest.raises(ModuleError, match=message):
        esm(written(tmp_path, **sources))


def test_each_drawing_can_stand_alone() -> None:
    drawings = [one for one in DRAWINGS.glob("*.js") if "export default" in one.read_text()]
    assert len(drawings) > 5
    for drawing in drawings:
        assert "export default entry.default" in esm(drawing)
