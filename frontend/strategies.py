"""The strategies as pages tell of them: by what somebody wants, with a picture, in few words."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import path

from frontend.page import page
from rounds import aggregation, capabilities


class Words(NamedTuple):
    """What a family of strategies is for: the question that it answers, and its answer."""

    title: str
    about: str


FAMILIES = {
    "average": Words(
        "Begin here",
        "The next version is a mean of the updates. Most trainings need no more.",
    ),
    "server optimizer": Words(
        "Learn in fewer rounds",
        "The server takes the mean for a gradient, and an optimizer of its own takes the step.",
    ),
    "drift": Words(
        "Participants have different data, or do different amounts of work",
        "Each one's training pulls to its own optimum; these hold it to the common one.",
    ),
    "robust": Words(
        "Somebody may send wrong updates",
        "Order and distance decide what counts: a few updates, however wrong, decide nothing.",
    ),
    "clipping": Words(
        "No update may weigh too much",
        "Updates that are too long are cut to a length, and then averaged.",
    ),
    "asynchronous": Words(
        "Some are much slower than others",
        "Updates are folded as they come, and nobody waits for the slowest.",
    ),
}
# Whose picture is in strategy_pictures.html, the plainest first; others get their family's.
DRAWN = (
    *("fedavg", "qfedavg", "fedavgm", "fedadagrad", "fedadam", "fedyogi"),
    *("fedprox", "scaffold", "fednova", "feddyn", "fedbn"),
    *("median", "trimmed_mean", "geometric_median", "krum", "multi_krum", "bulyan"),
    *("norm_clipping", "adaptive_clipping", "fedbuff"),
)
_PICTURES = {
    "average": "fedavg",
    "server optimizer": "fedadam",
    "drift": "fedprox",
    "robust": "median",
    "clipping": "norm_clipping",
    "asynchronous": "fedbuff",
}
# As the papers write them; other options are called by their names.
LABELS = {
    "mu": "Proximal term μ",
    "alpha": "Regularization α",
    "q": "Fairness q",
    "tau": "Adaptivity τ",
    "beta_1": "Momentum β₁",
    "beta_2": "Memory of squares β₂",
    "trim": "Share cut at each end",
    "attackers": "Attackers to bear",
    "keep": "Updates to keep",
    "quantile": "Quantile of norms",
    "clip_norm": "Longest norm",
}
_ARXIV = re.compile(r"arXiv:? ?(\d{4}\.\d{4,5})")


@dataclass(frozen=True)
class Described:
    """A strategy, for people.

    Attributes:
        name: As the API calls it.
        title: As people call it.
        about: When to choose it.
        paper: Where it comes from.
        href: Where that paper is; empty if that is not known.
        asks: What each participant does for it beyond training; empty for nothing.
        asynchronous: Whether it is for runs in which nobody waits.
        family: One of `FAMILIES`.
        picture: Of which strategy the picture is.
        options: What a run may set of it.
    """

    name: str
    title: str
    about: str = ""
    paper: str = ""
    href: str = ""
    asks: str = ""
    asynchronous: bool = False
    family: str = "average"
    picture: str = "fedavg"
    options: list[aggregation.Option] = field(default_factory=list)


class Family(NamedTuple):
    """Strategies for one purpose."""

    key: str
    words: Words
    strategies: list[Described]


def describe(name: str, options: Mapping[str, Any] | None = None) -> Described:
    """A strategy as pages tell of it; of one that is not installed any more, its name.

    Args:
        name: Of the strategy.
        options: That a run sets of it; its defaults if None.
    """
    kind = aggregation.find(name)
    if kind is None:
        return Described(name, name, "It is not installed here.")
    found = _ARXIV.search(kind.paper)
    return Described(
        name=name,
        title=aggregation.title(name),
        about=kind.about,
        paper=kind.paper,
        href=f"https://arxiv.org/abs/{found[1]}" if found else "",
        asks=capabilities.in_words(capabilities.required(name, options)),
        asynchronous=kind.asynchronous,
        family=kind.family if kind.family in FAMILIES else "average",
        picture=name if name in DRAWN else _PICTURES.get(kind.family, "fedavg"),
        options=aggregation.options(name),
    )


def names() -> list[str]:
    """The strategies that can be had."""
    return [name for name in aggregation.names() if aggregation.find(name)]


def families() -> list[Family]:
    """All strategies that can be had, by what they are for; of a family the plainest first."""
    known = [describe(name) for name in names()]
    grouped = [
        Family(key, words, sorted((one for one in known if one.family == key), key=_place))
        for key, words in FAMILIES.items()
    ]
    return [family for family in grouped if family.strategies]


def _place(one: Described) -> tuple[int, str]:
    """Where it stands in its family: those of one's own come last."""
    return DRAWN.index(one.name) if one.name in DRAWN else len(DRAWN), one.title.lower()


def label_of(option: str) -> str:
    """What people call an option of a strategy."""
    return LABELS.get(option, option.replace("_", " ").capitalize())


def settings_of(name: str, options: Mapping[str, Any]) -> list[tuple[str, Any, str]]:
    """What a run sets of its strategy, and what it leaves: label, value and what it is about."""
    known = describe(name).options
    told = [(label_of(one.name), options.get(one.name, one.default), one.about) for one in known]
    if not known:
        told = [(label_of(option), value, "") for option, value in options.items()]
    return [(label, "by itself" if value is None else value, about) for label, value, about in told]


@page()
def strategies(request: HttpRequest) -> HttpResponse:
    """Which strategy to choose: each with its picture, what it asks, its options and its paper."""
    shown = [
        (family, [(one, [(label_of(o.name), o) for o in one.options]) for one in family.strategies])
        for family in families()
    ]
    return render(request, "frontend/strategies.html", {"families": shown})


urlpatterns = [path("strategies/", strategies, name="strategies")]
