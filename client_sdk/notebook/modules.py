"""Relative ES modules as one text, which is what a widget of anywidget is made of.

The sources go into the text in the order of their dependencies. In the browser each becomes a Blob
URL with its imports rewritten to those of the others, and the text exports the entry's default. No
bundler is needed, and no file has to be built and kept. A module that several widgets share is one
module in the page, as where a server hands the files out: its Blob URL is kept by its content.
"""

import hashlib
import json
import re
from functools import cache
from pathlib import Path

# Imports stand at the beginning of a line, with nothing but names before the path.
_IMPORT = re.compile(
    r"""^(?:import\s*(?:[\w$*{},\s]+?\bfrom)?|export\s*(?:\*(?:\s*as\s+[\w$]+)?|\{[^}]*\})\s*from)"""
    r"""\s*(?P<quote>["'])(?P<path>[^"'\n]+)(?P=quote)""",
    re.MULTILINE,
)
_ANY_IMPORT = re.compile(r"^import\b(?!\s*\.)[^\n]*", re.MULTILINE)
_DYNAMIC = re.compile(r"""\bimport\(\s*["'`]\.[^\n]*""")

_LOADER = """\
const kept = (globalThis[Symbol.for("fedserver.modules")] ??= new Map());
const urls = [];
for (const [key, parts] of MODULES) {
  if (!kept.has(key)) {
    const named = (part) => (typeof part === "number" ? JSON.stringify(urls[part]) : part);
    const text = parts.map(named);
    kept.set(key, URL.createObjectURL(new Blob(text, { type: "text/javascript" })));
  }
  urls.push(kept.get(key));
}
const entry = await import(urls.at(-1));
export default entry.default;
"""

Part = str | int  # source text, or the place of the module whose URL stands here


class ModuleError(ValueError):
    """A module that cannot be read, or an import that cannot be resolved."""


@cache
def esm(entry: Path) -> str:
    """The text of a module and of all that it imports.

    Imports must be static, with relative paths, at the beginning of a line. `import.meta.url` is
    that of a Blob: nothing can be found relative to it.

    Args:
        entry: The module whose default export the text has.

    Returns:
        An ES module that imports nothing, for `anywidget.AnyWidget._esm`.

    Raises:
        ModuleError: A module is missing, imports itself by way of others, or imports something
            that is not a file beside it.

    Example:
        >>> from pathlib import Path
        >>> import client_sdk
        >>> text = esm(Path(client_sdk.__file__).parent / "drawings" / "feed.js")
        >>> text.endswith("export default entry.default;\\n")
        True
    """
    gathered: dict[Path, tuple[str, list[Part]]] = {}
    _gather(entry.resolve(), (), gathered)
    return f"const MODULES = {json.dumps(list(gathered.values()))};\n{_LOADER}"


@cache
def css(*sheets: Path, within: str = "") -> str:
    """Style sheets as one text, in this order.

    A page of notebooks is not ours: what should hold in our widgets alone goes into a selector.

    Args:
        *sheets: Files.
        within: The selector inside of which all of it holds, such as `.fedserver`; "" for none.

    Returns:
        For `anywidget.AnyWidget._css`.
    """
    text = "\n".join(sheet.read_text("utf-8") for sheet in sheets)
    return f"{within} {{\n{text}\n}}\n" if within else text


def imports_of(source: str) -> list[str]:
    """The paths that a module's text imports, in their order."""
    return [found["path"] for found in _IMPORT.finditer(source)]


def _gather(
    module: Path, importers: tuple[Path, ...], gathered: dict[Path, tuple[str, list[Part]]]
) -> None:
    if module in gathered:
        return
    if module in importers:
        circle = [*importers[importers.index(module) :], module]
        names = " → ".join(one.name for one in circle)
        raise ModuleError(f"Expected imports without a circle. Received: {names}")
    source = _source(module, importers)
    parts: list[Part] = []
    end = 0
    for found in _IMPORT.finditer(source):
        imported = _resolved(module, found["path"])
        _gather(imported, (*importers, module), gathered)
        parts += [source[end : found.start("quote")], list(gathered).index(imported)]
        end = found.end()
    name = f"{module.parent.name}/{module.name}"
    parts.append(f"{source[end:]}\n//# sourceURL=fedserver/{name}\n")
    gathered[module] = (_key(parts, gathered), parts)


def _key(parts: list[Part], gathered: dict[Path, tuple[str, list[Part]]]) -> str:
    """What tells a module from every other: its text, and those of what it imports."""
    keys = [key for key, _ in gathered.values()]
    whole = [keys[part] if isinstance(part, int) else part for part in parts]
    return hashlib.sha256("\0".join(whole).encode()).hexdigest()[:20]


def _source(module: Path, importers: tuple[Path, ...]) -> str:
    try:
        source = module.read_text("utf-8")
    except OSError as error:
        of = f", which {importers[-1].name} imports" if importers else ""
        raise ModuleError(f"Expected a module that can be read{of}. Received: {module}") from error
    understood = {found.start() for found in _IMPORT.finditer(source)}
    for line in _ANY_IMPORT.finditer(source):
        if line.start() not in understood and not line[0].startswith("import("):
            raise ModuleError(f"Expected imports of names, in {module.name}. Received: {line[0]}")
    if dynamic := _DYNAMIC.search(source):
        raise ModuleError(f"Expected static imports, in {module.name}. Received: {dynamic[0]}")
    return source


def _resolved(module: Path, path: str) -> Path:
    if not path.startswith(("./", "../")):
        raise ModuleError(f"Expected relative imports, in {module.name}. Received: {path}")
    return (module.parent / path).resolve()
