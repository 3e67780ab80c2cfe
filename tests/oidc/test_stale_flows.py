"""Sign-in flows that are over: the callback opened again, too late, in another tab or with the back button."""

import pytest
import time_machine
from django.test import Client

from accounts.sign_in import flows
from tests.oidc.conftest import Browser, create_provider, redirect_path


def messages_of(browser):
    return browser.client.get("/settings/sign-in").content.decode()


def test_callback_opened_again_redirects_to_the_target(browser, oidc):
    answer = oidc.authorize(browser.start("/settings"), oidc.add_person("ana"))
    browser.finish(answer)

    again = browser.finish(answer)

    assert redirect_path(again) == "/settings"
    assert "You are already signed in." in messages_of(browser)
    assert browser.is_signed_in


def test_callback_of_the_existing_clients_opened_again_redirects_to_the_site(oidc, db):
    create_provider(oidc, slug="keycloak")
    browser = Browser(oidc, slug="keycloak")
    answer = oidc.authorize(browser.start(), oidc.add_person("ana"))
    browser.finish(answer)

    assert redirect_path(browser.finish(answer)) == "/"


@pytest.mark.parametrize(
    "answer",
    [
        {"state": "unknown", "code": "x"},
        {"state": "unknown", "error": "access_denied"},
        {"state": "unknown"},
        {},
        {"state": "\ud800", "code": "x"},
        {"state": "x" * 5_000},
    ],
)
def test_unknown_state_redirects_a_signed_in_user_and_is_400_for_others(browser, oidc, answer):
    answer = {name: value.encode(errors="surrogatepass") for name, value in answer.items()}

    assert browser.finish(answer).status_code == 400
    browser.sign_in(oidc.add_person("ana"))

    assert redirect_path(browser.finish(answer)) == "/"
    assert browser.is_signed_in


def test_second_of_two_tabs_is_signed_in_too(browser, oidc):
    person = oidc.add_person("ana")
    first, second = browser.start("/settings"), browser.start("/settings/sign-in")

    browser.finish(oidc.authorize(first, person))
    response = browser.finish(oidc.authorize(second, person))

    assert redirect_path(response) == "/settings/sign-in"
    assert browser.is_signed_in


def test_expired_flow_says_what_to_do_and_redirects_a_signed_in_user(browser, oidc):
    person = oidc.add_person("ana")
    with time_machine.travel("2026-01-01T00:00:00Z", tick=False) as clock:
        answer = oidc.authorize(browser.start("/settings"), person)
        clock.shift(flows.FLOW_SECONDS + 1)
        late = browser.finish(answer)

    assert late.status_code == 400
    assert "Start again." in late.text
    assert 'href="/sign-in"' in late.text


@pytest.mark.parametrize("is_late", [False, True])
def test_link_that_is_over_redirects_to_the_settings_with_advice(oidc, provider, alice, is_late):
    browser = Browser(oidc)
    browser.client.force_login(alice)
    page = browser.client.post("/settings/sign-in/acme/connect").content.decode()
    url = page.partition('href="')[2].partition('"')[0].replace("&amp;", "&")
    url = (
        url
        if url.startswith(oidc.issuer)
        else page[page.index(oidc.issuer) :].partition('"')[0].replace("&amp;", "&")
    )
    answer = oidc.authorize(url, oidc.add_person("ana"))
    if is_late:
        session = browser.client.session
        for data in session[flows.STATES_KEY].values():
            data["started_at"] -= flows.FLOW_SECONDS + 1
        session.save()
    else:
        browser.finish(answer)

    response = browser.finish(answer)

    assert redirect_path(response) == "/settings/sign-in"
    assert "connect it again" in messages_of(browser)
    assert alice.identities.exists() != is_late


def test_target_of_an_ended_flow_stays_on_this_site(browser, oidc):
    answer = oidc.authorize(browser.start("https://evil.example/"), oidc.add_person("ana"))
    browser.finish(answer)

    assert redirect_path(browser.finish(answer)) == "/"
    assert "evil" not in browser.finish(answer).headers["Location"]


def test_session_keeps_a_few_ended_flows_only(browser, oidc):
    browser.sign_in(oidc.add_person("ana"))
    for _ in range(15):
        browser.client.get("/oidc/acme/sign-in")
    for state in list(browser.client.session.get(flows.STATES_KEY, {})):
        browser.finish({"state": state, "error": "access_denied"})

    assert len(browser.client.session[flows.ENDED_KEY]) <= flows.ENDED_MAX


def test_sign_in_form_of_a_second_tab_redirects_once_the_first_has_signed_in(alice):
    client = Client(enforce_csrf_checks=True)
    client.get("/sign-in")
    old = client.cookies["XSRF-TOKEN"].value
    form = {"email": "alice@example.com", "password": "correct horse battery"}
    client.post("/sign-in", form | {"csrfmiddlewaretoken": old})

    response = client.post("/sign-in", form | {"csrfmiddlewaretoken": old})

    assert (response.status_code, response.headers.get("Location")) == (302, "/")


def test_sign_in_form_without_a_token_is_403_for_others(alice):
    client = Client(enforce_csrf_checks=True)

    assert client.post("/sign-in", {"email": "a", "password": "b"}).status_code == 403
