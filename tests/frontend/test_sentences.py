"""Every kind of event has a sentence, and no sentence asks for what its event cannot tell."""

import re
from typing import Any

import pytest

from frontend import sentences
from journal.events import KINDS, SUBJECTS

PLACE = re.compile(r"\{([^}|:]+)")


def event(kind: str, actor: str = "", reason: str = "", **fields: object) -> dict[str, object]:
    subjects = {name: fields.pop(name) for name in SUBJECTS if name in fields}
    return {"id": 1, "kind": kind, "actor": actor, "reason": reason, **subjects, "data": fields}


def test_every_kind_has_a_sentence_and_no_other_has_one() -> None:
    assert set(sentences.table()) == set(KINDS)


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_sentence_asks_for_declared_data_only(kind: str) -> None:
    for sentence in sentences.table()[kind]:
        assert not sentence.endswith(".")
        for place in PLACE.findall(sentence):
            name = place[0].lower() + place[1:]
            known = name in (*SUBJECTS, "actor") or name.partition(".")[0] in KINDS[kind]
            assert known, f"{kind}: {place}"


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_line_with_its_subjects_alone_is_still_told(kind: str) -> None:
    subjects: dict[str, Any] = dict.fromkeys(SUBJECTS, 7)
    assert re.fullmatch(r"[^{}\[\]]+", sentences.tell_text(event(kind, actor="bob", **subjects)))


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (event("run.paused", "bob", run=4), "bob paused run 4"),
        (event("run.paused", run=4), "Run 4 was paused"),
        (
            event("assignment.uploaded", "charlie", name="charlie", samples=1, bytes=4_200_000),
            "charlie uploaded its update: 1 sample, 4.2 MB",
        ),
        (
            event("assignment.uploaded", "charlie", name="charlie", samples=12_345),
            "charlie uploaded its update: 12\u202f345 samples",
        ),
        (event("round.opened", number=3, base=2, round=9), "Round 3 opened, from version 2"),
        (
            event("round.published", number=3, version_number=4, metrics={"accuracy": 0.9341}),
            "Round 3 published version 4, accuracy 93.4 %",
        ),
        (
            event("round.published", number=3, version_number=4, metrics={}),
            "Round 3 published version 4",
        ),
        (
            event("run.retrying", run=4, failures=2, seconds=75),
            "Run 4 tries again in 1 min 15 s, after 2 failed rounds in a row",
        ),
        (
            event("version.created", "alice", number=5, origin="imported"),
            "Version 5 was made from a file by alice",
        ),
        (event("assignment.rejected", name="dora", code="x"), "The update of dora was rejected"),
        (
            event("assignment.rejected", name="dora", code="run_completed"),
            "The update of dora was not used",
        ),
        (event("assignment.late", name="dora", code="not_in_time"), "dora was late"),
        (event("assignment.late", name="dora", code="run_paused"), "dora was not needed any more"),
        (event("something.new"), "something.new"),
    ],
)
def test_what_is_told(line: dict[str, object], told: str) -> None:
    assert sentences.tell_text(line) == told


def test_names_that_are_known_replace_numbers_and_are_marked_as_what_they_name() -> None:
    line = event("round.cancelled", "bob", number=3, round=9, run=4)
    told = sentences.tell(line, {"round": "round 3 of digits with fedavg"})
    assert told == [
        ("bob", "actor"),
        (" cancelled ", None),
        ("round 3 of digits with fedavg", "round"),
    ]
