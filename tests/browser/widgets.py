"""A page that hosts a widget as JupyterLab does, for tests that need no JupyterLab.

The widget is the real one, without a kernel: its values are carried to the page whenever the test
looks, and what the page says is handed to the widget.
"""

import time
from collections.abc import Callable
from typing import Any

from playwright.sync_api import Page

PATIENCE = 15.0
FRAME = """<!doctype html><html lang="en"><head><title>A notebook</title></head>
<body data-jp-theme-light="{light}" style="margin: 16px; background: {ground}">
<main><h1 style="color: {ink}">A notebook</h1><div id="first"></div><div id="second"></div></main>
</body></html>"""
SETUP = """async ([esm, css, values]) => {
  const sheet = document.createElement("style");
  sheet.textContent = css;
  document.head.append(sheet);
  const listeners = new Map();
  const told = [];
  const of = (event) => listeners.get(event) ?? listeners.set(event, new Set()).get(event);
  const model = {
    get: (name) => values[name],
    set: (name, value) => { values[name] = value; },
    save_changes: () => {},
    on: (event, listener) => of(event).add(listener),
    off: (event, listener) => of(event).delete(listener),
    send: (content) => told.push(content),
  };
  const url = URL.createObjectURL(new Blob([esm], { type: "text/javascript" }));
  const { default: widget } = await import(url);
  const ends = {};
  globalThis.host = {
    async open(id) {
      ends[id] = await widget.render({ model, el: document.getElementById(id) });
    },
    close: (id) => ends[id](),
    take(changed) {
      Object.assign(values, changed);
      for (const name of Object.keys(changed)) for (const one of [...of(`change:${name}`)]) one();
      return told.splice(0);
    },
  };
  await host.open("first");
}"""


class Host:
    """A widget on a page.

    Args:
        page: An empty one.
        widget: Any of `client_sdk.notebook`.
        light: Whether the page says that its theme is light.
    """

    def __init__(self, page: Page, widget: Any, *, light: bool = True) -> None:
        self.page = page
        self._widget = widget
        self._carried = self._values()
        ground, ink = ("#ffffff", "#111111") if light else ("#111111", "#ffffff")
        page.set_content(FRAME.format(light=str(light).lower(), ground=ground, ink=ink))
        page.evaluate(SETUP, [widget._esm, widget._css, self._carried])

    def open(self, place: str) -> None:
        """Another view of it, at `second`."""
        self.page.evaluate("(place) => host.open(place)", place)

    def close(self, place: str) -> None:
        """That view is taken away."""
        self.page.evaluate("(place) => host.close(place)", place)
        self.carry()

    def carry(self) -> None:
        """The widget's news to the page, and the page's to the widget."""
        values = self._values()
        changed = {
            name: value for name, value in values.items() if value is not self._carried[name]
        }
        self._carried = values
        for said in self.page.evaluate("(changed) => host.take(changed)", changed):
            self._widget._handle_custom_msg(said, [])

    def until(self, seen: Callable[[], bool], patience: float = PATIENCE) -> None:
        """Carry until something is so."""
        give_up = time.monotonic() + patience
        while not seen():
            assert time.monotonic() < give_up, self.page.locator("body").inner_text()
            self.carry()
            self.page.wait_for_timeout(50)

    def until_text(self, *texts: str) -> None:
        """Carry until the page says all of it."""
        body = self.page.locator("body")
        self.until(lambda: all(text in body.inner_text() for text in texts))

    def _values(self) -> dict[str, Any]:
        own = (name for name in self._widget.keys if not name.startswith("_"))
        return {
            name: getattr(self._widget, name)
            for name in own
            if name not in ("layout", "tabbable", "tooltip")
        }
