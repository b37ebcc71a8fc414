"""Decisions: what people may do to a row, as the admin and the dashboard ask whether it is meant.

The sentences stand here once for both; each room lists its own decisions in its `decisions.py`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from django import forms

from accounts.roles import OPERATORS, VIEWERS, Role
from accounts.tokens import delete_token


@dataclass(frozen=True)
class Decision:
    """Something that people decide about a row.

    Attributes:
        label: On the button, a verb: "Pause".
        happens: What will happen, in a sentence.
        verb: Takes the row, `actor` and `reason`, beside what `form` asks for.
        done: What is said afterwards; `{row}` stands for the row.
        possible: Whether it can be decided now, for the buttons: the verb itself refuses too.
        roles: Who may decide it.
        danger: It ends or loses something: the button is red.
        reason: The reason must be given.
        form: Asks for more than the reason.
    """

    label: str
    happens: str
    verb: Callable[..., object]
    done: str
    possible: Callable[[Any], bool] = lambda row: True
    roles: tuple[Role, ...] = OPERATORS
    danger: bool = False
    reason: bool = False
    form: type[forms.Form] = forms.Form

    def bound(self, data: Any = None) -> forms.Form:
        """The form, with the reason as its last field."""
        form = self.form(data)
        form.fields["reason"] = forms.CharField(
            label="Why" if self.reason else "Why (may be left out)",
            help_text="It goes into the journal, with your name.",
            required=self.reason,
            max_length=1000,
            widget=forms.Textarea(attrs={"rows": 2}),
        )
        return form


def possible(
    decisions: Mapping[str, Decision], row: Any, roles: frozenset[str]
) -> dict[str, Decision]:
    """Those that these roles may take about the row as it stands: its buttons."""
    return {
        name: one
        for name, one in decisions.items()
        if not roles.isdisjoint(one.roles) and one.possible(row)
    }


TOKEN = {
    "delete": Decision(
        label="Delete",
        happens="Whatever shows this token is refused from now on. It cannot be had back.",
        verb=delete_token,
        done="{row} is deleted.",
        roles=VIEWERS,
        danger=True,
    ),
}
