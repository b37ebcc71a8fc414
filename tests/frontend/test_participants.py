"""Participants and join codes in pages: who sees what, and what each button does."""

import html
import re
from collections.abc import Callable
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
import segno
from django.contrib.auth.models import User
from django.test import Client
from django.test.utils import override_script_prefix
from django.urls import reverse
from pytest_django import DjangoAssertNumQueries

from client_sdk import wire
from client_sdk.keys import Key
from frontend.page import LIVE
from frontend.participants import fingerprint
from journal.models import Event
from models_app.models import Model
from rounds import clock, enrolment, lifecycle, selectors
from rounds.errors import JoinCodeInvalid
from rounds.models import Assignment, JoinCode, Participant, Round, Run
from tests.rounds.conftest import Enrolled
from tests.rounds.updates import all_check_in, carry, upload

pytestmark = pytest.mark.django_db

Enrol = Callable[..., Enrolled]
LIST, NEW = "/participants/", "/join-codes/new/"


def signed_in(user: User) -> Client:
    client = Client()
    client.force_login(user)
    return client


@pytest.fixture
def operator(bob: User) -> Client:
    return signed_in(bob)


@pytest.fixture
def viewer(victor: User) -> Client:
    return signed_in(victor)


def read(client: Client, path: str, status: int = 200, **query: Any) -> str:
    """A page as people read it: its text in one line."""
    answer = client.get(path, query)
    assert answer.status_code == status
    return in_words(answer)


def in_words(answer: Any) -> str:
    text = re.sub(r"<(script|style).*?</\1>", "", answer.content.decode(), flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", text)).split())


def names(client: Client, **query: Any) -> list[str]:
    """Whom the list shows, in its order."""
    answer = client.get(LIST, query)
    assert answer.status_code == 200
    return [one.name for one, _ in answer.context["rows"]]


def started(model: Model, **rules: Any) -> Round:
    return lifecycle.start_run(lifecycle.create_run(model, actor="bob", **rules).pk, actor="bob")


@pytest.fixture
def autumn(tiny_model: Model, enrolled: Enrol) -> dict[str, Enrolled]:
    """Two rounds: all three are accepted, then emil fails; and one that bob cancelled."""
    people = {name: enrolled(name) for name in ("charlie", "dora", "emil")}
    first = started(tiny_model, rounds_planned=9, name="autumn")
    run = first.run
    all_check_in(*people.values())
    for name, samples in (("charlie", 10), ("dora", 30), ("emil", 40)):
        upload(people[name], samples=samples)
    carry(first)

    second = run.rounds.get(number=2)
    all_check_in(*people.values())
    upload(people["charlie"], value=1.0, samples=20)
    upload(people["dora"], value=4.0, samples=20)
    lifecycle.fail(
        people["emil"].participant,
        second.assignments.get(participant=people["emil"].participant).pk,
        code="out_of_memory",
        reason="Its memory is full.",
        detail="MemoryError: <3 GiB>",
    )
    carry(second)

    third = run.rounds.get(number=3)
    all_check_in(*people.values())
    upload(people["charlie"])
    lifecycle.cancel_round(third.pk, actor="bob", reason="wrong rate")
    return people


def path_of(one: Enrolled, verb: str = "") -> str:
    return f"/participants/{one.participant.uuid}/" + (f"{verb}/" if verb else "")


# --- The list ---------------------------------------------------------------------------------


def test_nobody_sees_participants_without_signing_in(client: Client) -> None:
    answer = client.get(LIST)
    assert answer.status_code == 302
    assert answer.headers["Location"].startswith("/sign-in/")


def test_an_empty_list_says_what_to_do_next(operator: Client, viewer: Client) -> None:
    assert f'href="{NEW}"' in operator.get(LIST).content.decode()
    assert "Nobody has enrolled yet" in read(operator, LIST)
    assert "ask an operator" in read(viewer, LIST)
    assert NEW not in viewer.get(LIST).content.decode()


def test_the_list_says_how_well_each_takes_part(
    viewer: Client, autumn: dict[str, Enrolled]
) -> None:
    text = read(viewer, LIST)
    # 120 samples were accepted in all: 10 and 20 of charlie, 30 and 20 of dora, 40 of emil.
    assert "charlie any model online" in text
    assert "2 of 2 accepted 30 25.0 % of all" in text
    assert "2 of 2 accepted 50 41.7 % of all" in text
    assert "1 of 2 accepted; 1 failed 40 33.3 % of all" in text
    assert "3 enrolled 3 online now 0 suspended 0 revoked" in text


def test_late_counts_where_too_few_had_come_in(tiny_model: Model, enrolled: Enrol) -> None:
    charlie, dora, emil = (enrolled(name) for name in ("charlie", "dora", "emil"))
    round_ = started(tiny_model, rounds_planned=1, retries=0)
    all_check_in(charlie, dora, emil)
    upload(charlie)
    Round.objects.filter(pk=round_.pk).update(deadline=clock.now() - timedelta(seconds=1))
    lifecycle.step(round_.pk)
    came_to = selectors.attendances([one.participant for one in (charlie, dora)])
    assert came_to[dora.participant.pk].words == "0 of 1 accepted; 1 late"
    assert came_to[charlie.participant.pk].words == "none has ended yet"
    assert came_to[charlie.participant.pk].void == 1


def test_online_is_who_is_active_and_was_seen_within_a_minute(
    viewer: Client, enrolled: Enrol
) -> None:
    charlie, dora, emil, frida = (enrolled(name) for name in ("charlie", "dora", "emil", "frida"))
    at = {dora: clock.now() - timedelta(seconds=61), frida: None}
    for one, seen in at.items():
        Participant.objects.filter(pk=one.participant.pk).update(last_seen_at=seen)
    enrolment.suspend(emil.participant)
    assert names(viewer, online="yes") == ["charlie"]
    assert names(viewer, online="no") == ["dora", "emil", "frida"]
    assert [one.name for one in selectors.online()] == [charlie.participant.name]
    assert "offline never" in read(viewer, LIST)


def test_the_list_is_narrowed_by_what_its_address_says(
    operator: Client, viewer: Client, enrolled: Enrol, tiny_model: Model
) -> None:
    charlie, dora = enrolled("charlie"), enrolled("dora", model=tiny_model)
    enrolment.suspend(dora.participant)
    uuid, code = str(charlie.participant.uuid), dora.participant.join_code_id
    assert names(viewer, q="CHAR") == names(viewer, q=uuid[:11]) == ["charlie"]
    assert names(viewer, q="zz") == names(viewer, q="no-hex") == []
    assert names(viewer, state="suspended") == ["dora"]
    assert names(viewer, model="tiny") == ["dora"]
    assert names(viewer, model="any") == ["charlie"]
    assert names(operator, code=code) == ["dora"]
    assert "None of them is like that" in read(viewer, LIST, q="zz")
    # What makes no sense does not narrow, nor does what is not the asker's business.
    assert len(names(viewer, state="happy", model="none such", order="age", page="x")) == 2
    assert len(names(viewer, code=code)) == 2
    assert len(names(operator, code="x")) == 2


def test_the_list_in_each_order(viewer: Client, autumn: dict[str, Enrolled]) -> None:
    assert names(viewer) == ["charlie", "dora", "emil"]
    assert names(viewer, order="new") == ["emil", "dora", "charlie"]
    assert names(viewer, order="samples") == ["dora", "emil", "charlie"]
    assert names(viewer, order="unreliable") == ["emil", "charlie", "dora"]
    assert names(viewer, order="rounds") == ["charlie", "dora", "emil"]
    dora = autumn["dora"].participant
    Participant.objects.filter(pk=dora.pk).update(last_seen_at=clock.now())
    assert names(viewer, order="seen")[0] == "dora"


def many(number: int) -> None:
    code, _ = enrolment.make_join_code(label="all", max_uses=1000)
    Participant.objects.bulk_create(
        Participant(name=f"site {one:03}", public_key=f"{one:043}", join_code=code)
        for one in range(number)
    )


def test_long_lists_have_pages_that_keep_what_was_asked_for(viewer: Client) -> None:
    many(60)
    assert len(names(viewer)) == 50
    first = viewer.get(LIST, {"q": "site", "order": "new"})
    assert first.context["others"] == {"after": "?q=site&order=new&page=2"}
    assert "1 to 50 of 60 participants" in in_words(first)
    assert len(names(viewer, q="site", page=2)) == 10


@pytest.mark.usefixtures("valkey")  # an empty one: nobody has drawn the live part before
@pytest.mark.parametrize("number", [3, 60])
def test_the_list_costs_the_same_however_many_there_are(
    operator: Client,
    viewer: Client,
    tiny_model: Model,
    django_assert_num_queries: DjangoAssertNumQueries,
    number: int,
) -> None:
    many(number)
    run = lifecycle.create_run(tiny_model)
    round_ = Round.objects.create(run=run, number=1, base=tiny_model.versions.get(), quorum=1)
    Assignment.objects.bulk_create(
        Assignment(
            round=round_, invited_in=round_, base=round_.base, participant=one, state="accepted"
        )
        for one in Participant.objects.all()
    )
    # Session, user, role (thrice); the journal's end; the clock, how many, the rows, their
    # outcomes and all samples; the clock and the counts; models to choose from.
    with django_assert_num_queries(14):
        assert viewer.get(LIST).status_code == 200
    # And the codes to choose from; the clock, the codes, who has enrolled with them.
    with django_assert_num_queries(18):
        assert operator.get(LIST).status_code == 200
    with django_assert_num_queries(13):
        answer = viewer.get(LIST, headers={LIVE: "0"})
    assert "<html" not in answer.content.decode()
    assert "site 002" in answer.content.decode()


# --- One participant --------------------------------------------------------------------------


def test_a_participants_page_tells_who_it_is_and_what_became_of_its_rounds(
    operator: Client, viewer: Client, autumn: dict[str, Enrolled]
) -> None:
    emil = autumn["emil"]
    enrolment.note_sdk(emil.participant, {"version": "0.1.0", "keras": "3.15", "backend": "jax"})
    text = read(viewer, path_of(emil))
    assert "1 of 2 accepted; 1 failed Not counted: 1 that was not used" in text
    assert "fedclient 0.1.0, jax, Keras 3.15" in text
    assert fingerprint(emil.participant.public_key) in text
    assert "Its memory is full. What it told MemoryError: <3 GiB>" in text
    assert "round 1 autumn accepted" in text
    assert "round 3 autumn not used" in read(viewer, path_of(autumn["charlie"]))
    # Its update of 3 is as long as everybody's in the first round.
    assert "3 1.00 \u00d7 median" in text
    assert "The round was cancelled: wrong rate" in text
    assert "with the join code emil" in read(operator, path_of(emil))
    assert "with the join code" not in text


def test_norms_are_told_in_medians_of_their_cohort(
    viewer: Client, autumn: dict[str, Enrolled]
) -> None:
    # In the second round charlie sent 1s and dora 4s, in nine weights: norms of 3 and 12.
    answer = viewer.get(path_of(autumn["dora"]))
    second = answer.context["history"][1]
    assert (second.update.norm, second.norm_ratio) == (12.0, 12 / 7.5)
    norms, loss = answer.context["pictures"].curves
    assert [dot.outcome for dot in norms.dots] == ["accepted", "accepted"]
    assert (norms.low, norms.high) == (0.0, 2.0)
    assert loss.words == "loss by round: from 0.5 to 0.5, 0.5 at last"


def test_who_has_been_in_no_round_has_a_page_too(viewer: Client, enrolled: Enrol) -> None:
    text = read(viewer, path_of(enrolled("charlie")))
    assert "in no round yet" in text
    assert "It has had a place in no round yet." in text


def test_a_traceback_is_text_and_never_markup(viewer: Client, autumn: dict[str, Enrolled]) -> None:
    page = viewer.get(path_of(autumn["emil"])).content.decode()
    assert "MemoryError: &lt;3 GiB&gt;" in page


@pytest.mark.parametrize("number", [1, 20])
def test_a_participants_page_costs_the_same_however_long_its_history(
    viewer: Client,
    tiny_model: Model,
    enrolled: Enrol,
    django_assert_num_queries: DjangoAssertNumQueries,
    number: int,
) -> None:
    charlie, run = enrolled("charlie"), lifecycle.create_run(tiny_model)
    for one in range(number):
        base = tiny_model.versions.get()
        round_ = Round.objects.create(run=run, number=one, base=base, quorum=1, phase="failed")
        Assignment.objects.create(
            round=round_,
            invited_in=round_,
            base=base,
            participant=charlie.participant,
            state="lost",
        )
    with django_assert_num_queries(15):
        assert viewer.get(path_of(charlie)).status_code == 200


def test_what_is_not_there_is_not_found(operator: Client, enrolled: Enrol) -> None:
    assert operator.get(f"/participants/{uuid4()}/").status_code == 404
    assert operator.get(path_of(enrolled("charlie"), "praise")).status_code == 404
    assert operator.get("/join-codes/7/withdraw/").status_code == 404
    assert operator.get("/join-codes/1/praise/").status_code == 404


# --- Decisions about one ----------------------------------------------------------------------


def test_bob_suspends_charlie_with_a_reason_and_reinstates_him(
    operator: Client, enrolled: Enrol
) -> None:
    charlie = enrolled("charlie")
    assert path_of(charlie, "suspend") in operator.get(path_of(charlie)).content.decode()
    assert "No rounds and no requests" in read(operator, path_of(charlie, "suspend"))
    answer = operator.post(path_of(charlie, "suspend"), {"reason": "odd updates"}, follow=True)
    assert "charlie is suspended." in in_words(answer)
    assert answer.context["participant"].state == "suspended"
    assert list(answer.context["decisions"]) == ["reinstate", "revoke"]
    line = Event.objects.get(kind="participant.suspended")
    assert (line.actor, line.reason) == ("bob", "odd updates")

    operator.post(path_of(charlie, "reinstate"), {"reason": ""})
    assert Participant.objects.get().state == "active"


def test_charlie_is_revoked_with_a_reason_only_and_then_for_good(
    operator: Client, enrolled: Enrol
) -> None:
    charlie = enrolled("charlie")
    refused = operator.post(path_of(charlie, "revoke"), {"reason": ""})
    assert "reason" in refused.context["form"].errors
    assert Participant.objects.get().state == "active"
    answer = operator.post(path_of(charlie, "revoke"), {"reason": "stolen"}, follow=True)
    assert not answer.context["decisions"]
    again = operator.post(path_of(charlie, "suspend"), {"reason": "and again"})
    assert again.status_code == 409
    assert "Received: revoked" in in_words(again)


def test_victor_is_shown_no_button_and_refused_all_the_same(
    viewer: Client, enrolled: Enrol
) -> None:
    charlie, (code, _) = enrolled("charlie"), enrolment.make_join_code(label="for dora")
    page = viewer.get(path_of(charlie)).content.decode()
    assert "suspend/" not in page
    assert "revoke/" not in page
    assert "for dora" not in read(viewer, LIST)
    for path in (path_of(charlie, "suspend"), NEW, f"/join-codes/{code.pk}/withdraw/"):
        assert viewer.get(path).status_code == 403
        assert viewer.post(path, {"reason": "no"}).status_code == 403
    assert Participant.objects.get().state == "active"
    assert JoinCode.objects.filter(withdrawn_at=None).count() == JoinCode.objects.count()


def test_a_round_that_waited_for_emil_alone_goes_on_when_bob_suspends_him(
    operator: Client,
    tiny_model: Model,
    enrolled: Enrol,
    bell_at_once: None,
    django_capture_on_commit_callbacks: Any,
) -> None:
    people = [enrolled(name) for name in ("charlie", "dora", "emil")]
    round_ = started(tiny_model, rounds_planned=1)
    all_check_in(*people)
    for one in people[:2]:
        upload(one)
    with django_capture_on_commit_callbacks(execute=True):
        operator.post(path_of(people[2], "suspend"), {"reason": "asleep"})
    round_.refresh_from_db()
    assert round_.phase == "published"
    assert Run.objects.get().state == "completed"


# --- Making a join code -----------------------------------------------------------------------


def form(client: Client, **values: Any) -> dict[str, Any]:
    """The form as it comes, with some of its fields changed."""
    asked = client.get(NEW).context["form"]
    return {name: asked[name].value() or "" for name in asked.fields} | values


def secret_in(answer: Any) -> str:
    found = re.search(r"fsj_[\w-]{24}", answer.content.decode())
    assert found, in_words(answer)
    return found[0]


def test_bob_makes_a_code_that_is_shown_once(operator: Client, tiny_model: Model) -> None:
    sent = form(operator, label="St. Mary's", model="tiny", max_uses=3)
    answer = operator.post(NEW, sent)
    assert answer.status_code == 200
    assert "no-store" in answer.headers["Cache-Control"]
    secret, text = secret_in(answer), in_words(answer)
    assert f"fedclient join http://testserver {secret}" in text
    assert f'Participant.enrol( "http://testserver", "{secret}", )' in text
    assert "Admits 3 participants until" in text
    assert "for tiny only" in text
    code = JoinCode.objects.get()
    assert (code.label, code.max_uses, code.created_by_id) == ("St. Mary's", 3, answer_user(answer))
    assert secret not in read(operator, LIST)

    again = operator.post(NEW, sent)  # as a reload of the answer does
    assert again.status_code == 409
    assert "fsj_" not in again.content.decode()
    assert JoinCode.objects.count() == 1


def answer_user(answer: Any) -> int:
    return answer.context["user"].pk


def test_two_forms_open_at_once_make_a_code_each(operator: Client) -> None:
    first, second = form(operator), form(operator)
    secrets = {secret_in(operator.post(NEW, sent)) for sent in (first, second)}
    assert len(secrets) == JoinCode.objects.count() == 2


def test_a_form_that_is_not_ours_makes_no_code(operator: Client) -> None:
    assert operator.post(NEW, form(operator, key="made up")).status_code == 409
    assert operator.post(NEW, {}).status_code == 409
    assert not JoinCode.objects.exists()


def test_the_qr_code_holds_the_link_to_the_page_for_participants(operator: Client) -> None:
    answer = operator.post(NEW, form(operator))
    link = f"http://testserver/join/#{secret_in(answer)}"
    assert answer.context["link"] == link
    expected = segno.make(link, micro=False, error="m")
    assert str(answer.context["qr"]) in answer.content.decode()
    assert str(answer.context["qr"]) == expected.svg_inline(
        border=4, light="#fff", dark="#000", omitsize=True
    )
    assert expected.default_border_size == 4  # the quiet zone that the standard asks for


def test_the_address_is_the_one_that_the_browser_uses(operator: Client) -> None:
    sent = form(operator)
    with override_script_prefix("/user/bob/fed/"):
        answer = operator.post(NEW, sent, secure=True, headers={"host": "127.0.0.1:8443"})
    base, secret = "https://127.0.0.1:8443/user/bob/fed", secret_in(answer)
    assert f"fedclient join {base} {secret}" in in_words(answer)
    assert answer.context["link"] == f"{base}/join/#{secret}"


def test_bob_is_told_when_the_client_will_not_speak_to_his_address(operator: Client) -> None:
    assert "plain http" in in_words(operator.post(NEW, form(operator)))
    at_home = operator.post(NEW, form(operator), headers={"host": "localhost:8000"})
    assert "plain http" not in in_words(at_home)
    assert "plain http" not in in_words(operator.post(NEW, form(operator), secure=True))


@pytest.mark.parametrize(
    ("expires", "seconds"), [("hour", 3600), ("day", 86_400), ("week", 604_800), ("month", 2592e3)]
)
def test_how_long_a_code_is_good_for(operator: Client, expires: str, seconds: float) -> None:
    operator.post(NEW, form(operator, expires=expires))
    left = JoinCode.objects.get().expires_at - clock.now()
    assert abs(left.total_seconds() - seconds) < 10


def test_until_an_exact_moment(operator: Client) -> None:
    tomorrow = (clock.now() + timedelta(days=1)).replace(second=0, microsecond=0)
    sent = form(operator, expires="exact", expires_at=f"{tomorrow:%Y-%m-%dT%H:%M}")
    assert operator.post(NEW, sent).status_code == 200
    assert JoinCode.objects.get().expires_at == tomorrow


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("max_uses", {"max_uses": "0"}),
        ("max_uses", {"max_uses": "9999999"}),
        ("max_uses", {"max_uses": "many"}),
        ("model", {"model": "no-such"}),
        ("label", {"label": "x" * 101}),
        ("expires", {"expires": "never"}),
        ("expires_at", {"expires": "exact"}),
        ("expires_at", {"expires": "exact", "expires_at": "soon"}),
        ("expires_at", {"expires": "exact", "expires_at": "2020-01-01T00:00"}),
    ],
)
def test_a_refused_value_is_told_at_its_field(
    operator: Client, field: str, values: dict[str, Any]
) -> None:
    sent = form(operator, **values)
    answer = operator.post(NEW, sent)
    assert answer.status_code == 400
    assert list(answer.context["form"].errors) == [field]
    assert not JoinCode.objects.exists()
    # The same form, put right, makes its code.
    good = {"max_uses": 1, "model": "", "label": "", "expires": "day", "expires_at": ""}
    assert operator.post(NEW, sent | good).status_code == 200


# --- Join codes that were made ----------------------------------------------------------------


def test_bob_sees_what_became_of_each_code_and_who_came_with_it(
    operator: Client, enrolled: Enrol
) -> None:
    enrolled("charlie")
    old, _ = enrolment.make_join_code(label="old")
    JoinCode.objects.filter(pk=old.pk).update(expires_at=clock.now())
    gone, _ = enrolment.make_join_code(label="gone")
    enrolment.withdraw_join_code(gone)
    enrolment.make_join_code(label="for many", max_uses=9)
    text = read(operator, LIST)
    assert "for many any model open 0 of 9 nobody yet" in text
    assert "old any model expired 0 of 1" in text
    assert "gone any model withdrawn 0 of 1" in text
    assert "charlie any model used up 1 of 1 charlie" in text
    shown = selectors.latest_join_codes().shown
    assert [code.label for code in shown] == ["for many", "gone", "old", "charlie"]
    assert selectors.latest_join_codes(limit=3).more == 1


def test_bob_withdraws_a_code_and_nobody_enrols_with_it(operator: Client) -> None:
    code, secret = enrolment.make_join_code(label="for dora")
    path = f"/join-codes/{code.pk}/withdraw/"
    assert path in operator.get(LIST).content.decode()
    answer = operator.post(path, {"reason": "wrong list"}, follow=True)
    assert "join code “for dora” is withdrawn." in in_words(answer)
    assert path not in operator.get(LIST).content.decode()
    key = Key.generate()
    with pytest.raises(JoinCodeInvalid):
        enrolment.enrol(
            code=secret,
            name="dora",
            public_key=key.public,
            signature=key.sign(wire.enrol_message(secret, "dora", key.public)),
        )


# --- The page for participants ----------------------------------------------------------------


def test_how_to_join_is_told_without_signing_in(client: Client) -> None:
    text = read(client, reverse("frontend:join"))
    assert "fedclient join http://testserver CODE" in text
    assert "fedclient train --data mine.npz" in text
