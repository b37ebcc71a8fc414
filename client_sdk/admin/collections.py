"""Lists of a server's things: read page by page, narrowed by filters, shown as frames."""

from __future__ import annotations

import html
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, Generic, TypeVar
from urllib.parse import quote

from client_sdk.admin.errors import NotFound

if TYPE_CHECKING:
    import pandas as pd

    from client_sdk.admin.admin import Admin
    from client_sdk.admin.things import Thing

T = TypeVar("T", bound="Thing")

_PAGE = 200
LEFT = 'style="text-align: left"'  # where JupyterLab has it otherwise
_SHOWN = 20  # rows of a collection's own picture; a frame has all


class Collection(Generic[T]):
    """Things of one kind on a server. Nothing is read before it is needed, and nothing is kept.

    Iterating gives all of them, oldest first, `[key]` one by its id, slug, number or uuid, and
    `where` those that a filter leaves.

    Args:
        admin: Whose.
        kind: What is in it.
        path: Of the list, below /api/v1/.
        make: What makes one of them of its document.
        filters: What it is narrowed to.

    Example:
        >>> [run.name for run in admin.runs.where(state="running")]
        ['spring']
        >>> admin.runs.frame()["state"].tolist()
        ['running']
    """

    def __init__(
        self,
        admin: Admin,
        kind: type[T],
        path: str,
        make: Callable[[Mapping[str, Any]], T],
        filters: Mapping[str, Any] | None = None,
    ) -> None:
        self._admin = admin
        self._kind = kind
        self._path = path
        self._make = make
        self._filters = dict(filters or {})

    def where(self, **filters: Any) -> Collection[T]:
        """Those of them that fit.

        Args:
            **filters: As the API has them (`docs/api.md`), such as `state`, `model` or `name`.

        Returns:
            Another collection.
        """
        return type(self)(
            self._admin, self._kind, self._path, self._make, {**self._filters, **filters}
        )

    def documents(self) -> Iterator[dict[str, Any]]:
        """All of them as the API gives them."""
        asked = {"ordering": self._kind.order, **self._filters, "page_size": _PAGE}
        page = 1
        while True:
            answer = self._admin.get(self._path, {**asked, "page": page})
            yield from answer["results"]
            if not answer["next"]:
                return
            page += 1

    def __iter__(self) -> Iterator[T]:
        return map(self._make, self.documents())

    def __len__(self) -> int:
        return int(self._admin.get(self._path, {**self._filters, "page_size": 1})["count"])

    def __bool__(self) -> bool:
        return len(self) > 0

    def __getitem__(self, key: object) -> T:
        """One of them.

        Raises:
            NotFound: There is none of this key.
        """
        return self._make(self._admin.get(f"{self._path}/{quote(str(key), safe='')}"))

    def __contains__(self, key: object) -> bool:
        """Whether there is one of this key."""
        try:
            self[key]
        except NotFound:
            return False
        return True

    def named(self, name: str) -> T:
        """The one of this name; of several the newest.

        Raises:
            NotFound: There is none.
        """
        found = [one for one in self.where(name=name) if one.document.get("name") == name]
        if not found:
            what = self._kind.__name__.lower()
            raise NotFound(404, "not_found", f"Expected the name of a {what}. Received: {name!r}")
        return found[-1]

    def last(self) -> T | None:
        """The newest, if there is any."""
        asked = {**self._filters, "ordering": f"-{self._kind.order}", "page_size": 1}
        found = self._admin.get(self._path, asked)["results"]
        return self._make(found[0]) if found else None

    def frame(self) -> pd.DataFrame:
        """All of them as a pandas frame, a row each.

        Returns:
            With their keys as index, times as times, and nested values in columns such as
            `metrics.accuracy`.
        """
        frame = frame_of(self.documents(), self._kind.key, self._kind.columns())
        first = [name for name in self._kind.shown if name in frame.columns]
        return frame[[*first, *(name for name in frame.columns if name not in first)]]

    def __repr__(self) -> str:
        narrowed = "".join(f", {name}={value!r}" for name, value in self._filters.items())
        return f"<{len(self)} of /{self._path}{narrowed}: iterate, or .frame()>"

    def _repr_html_(self) -> str:
        count = len(self)
        asked = {**self._filters, "ordering": f"-{self._kind.order}", "page_size": _SHOWN}
        things = [self._make(one) for one in self._admin.get(self._path, asked)["results"]]
        names = self._kind.shown
        head = "".join(f"<th {LEFT}>{html.escape(name.replace('_', ' '))}</th>" for name in names)
        rows = "".join(
            "<tr>" + "".join(f"<td {LEFT}>{one.cell(name)}</td>" for name in names) + "</tr>"
            for one in things
        )
        more = (
            f", the newest {len(things)} here; all are in .frame()" if count > len(things) else ""
        )
        what = self._kind.__name__.lower().replace("joincode", "join code")
        return (
            f"<table><caption {LEFT}>{count} {what}{'' if count == 1 else 's'}"
            f"{more}</caption><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
        )


def frame_of(
    documents: Iterator[dict[str, Any]], key: str, columns: tuple[str, ...]
) -> pd.DataFrame:
    """Documents as a frame.

    Args:
        documents: Of one kind.
        key: What the rows are found by.
        columns: Which it has at least, even without rows.
    """
    import pandas as pd

    rows = list(documents)
    frame = pd.json_normalize(rows) if rows else pd.DataFrame(columns=list(columns))
    for name in frame.columns:
        if is_time(name):
            frame[name] = pd.to_datetime(frame[name], utc=True, format="ISO8601")
    return frame.set_index(key)


def is_time(name: str) -> bool:
    """Whether a value of this name is a moment."""
    return name.endswith("_at") or name == "deadline"


def moment(value: str | None) -> datetime | None:
    """A time of the API."""
    return None if value is None else datetime.fromisoformat(value)
