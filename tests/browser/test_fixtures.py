"""The browser tests' own eyes: what they would have to notice, they do."""

from collections.abc import Callable

import pytest
from django.contrib.auth.models import User
from playwright.sync_api import BrowserContext, Page, Route

from tests.browser.conftest import Console, SignIn

STRICT = {"Content-Security-Policy": "default-src 'self'", "Content-Type": "text/html"}
BARE = "<!doctype html><html lang=en><title>Page</title><main><h1>Page</h1>{}</main>"


@pytest.fixture
def show(contexts: Callable[..., BrowserContext]) -> Callable[[str], Page]:
    """`show(html)`: a page with a strict policy that no server serves."""
    context = contexts("http://127.0.0.1:1")

    def answer(html: str) -> Page:
        def fulfil(route: Route) -> None:
            route.fulfill(status=200, headers=STRICT, body=BARE.format(html))

        context.route("**/page", fulfil)
        page = context.new_page()
        page.goto("/page")
        return page

    return answer


def test_bob_is_who_he_is_to_the_server(
    bob: User, signed_in: SignIn, watch_console: Console
) -> None:
    watch_console.expect("favicon.ico")
    page = signed_in(bob)
    page.goto("/admin/password_change/")
    assert "Password change" in page.title()


def test_axe_sees_a_picture_without_words_under_a_strict_policy(
    show: Callable[[str], Page], axe: Callable[[Page], None]
) -> None:
    axe(show("<p>Some words.</p>"))
    with pytest.raises(AssertionError, match="image-alt"):
        axe(show('<img src="/page">'))


@pytest.mark.parametrize(
    ("html", "complaint"),
    [
        ("<script>1</script>", "policy violation: script-src-elem inline"),
        ('<p style="color: red">', "policy violation: style-src-attr inline"),
        ('<img alt="" src="http://elsewhere.example/a.png">', "left the server"),
    ],
    ids=["an inline script", "an inline style", "a picture from elsewhere"],
)
def test_a_page_that_does_what_it_must_not_is_noticed(
    show: Callable[[str], Page], watch_console: Console, html: str, complaint: str
) -> None:
    page = show(html)
    page.wait_for_timeout(50)
    assert any(complaint in one for one in watch_console.unexpected())
    watch_console.expect("")


def test_an_exception_in_a_page_is_noticed(
    show: Callable[[str], Page], watch_console: Console
) -> None:
    page = show("")
    page.evaluate("() => { setTimeout(() => { throw new Error('over') }) }")
    page.wait_for_timeout(50)
    watch_console.expect("uncaught: .*over")
    assert watch_console.complaints
