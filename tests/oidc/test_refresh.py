"""Tokens kept fresh: once, under parallel requests, through a provider's absence."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from django.db import connections
from django.test import Client
from django.utils import timezone

from accounts.models import Membership, Organization, ProviderSession, UserSession
from accounts.services import provider_sessions
from tests.oidc.conftest import Browser, make_row


def run_out(seconds=1):
    ProviderSession.objects.update(
        access_expires_at=timezone.now() - timedelta(seconds=seconds), refresh_until=None
    )


def test_refreshes_when_the_access_token_has_run_out(browser, oidc):
    browser.sign_in(oidc.add_person("ana"))
    before = ProviderSession.objects.get()
    run_out()

    assert browser.is_signed_in

    after = ProviderSession.objects.get()
    assert after.generation == 2
    assert after.refresh_token != before.refresh_token
    assert after.access_expires_at > timezone.now()
    assert oidc.counts["token"] == 2
    assert browser.is_signed_in
    assert oidc.counts["token"] == 2


@pytest.mark.django_db(transaction=True)
def test_parallel_requests_refresh_once_and_sign_nobody_out(oidc):
    """The provider rotates refresh tokens and ends a session whose old one comes back."""
    make_row(oidc)
    browser = Browser(oidc)
    browser.sign_in(oidc.add_person("ana"))
    run_out()
    oidc.counts.clear()
    oidc.slowness = 0.2
    cookie = browser.client.cookies["sessionid"].value
    barrier = threading.Barrier(20)

    def request(late=0.0):
        client = Client()
        client.cookies["sessionid"] = cookie
        if not late:
            barrier.wait()
        time.sleep(late)
        try:
            return client.get("/api/v1/users/me").status_code
        finally:
            connections.close_all()

    with ThreadPoolExecutor(21) as pool:
        waiting = [pool.submit(request) for _ in range(20)]
        late = pool.submit(request, 0.04)
        statuses = [found.result() for found in waiting]
        statuses.append(late.result())

    print(
        f'\n{{"test": "parallel refresh", "requests": 21, "refreshes": {oidc.counts["token"]}, "logouts": 0}}'
    )
    assert statuses == [200] * 21
    assert oidc.counts["token"] == 1
    oidc.slowness = 0
    run_out()
    assert browser.is_signed_in


def test_stale_row_in_hand_does_not_refresh_again(browser, oidc):
    """A request read the row 40 ms before another one renewed it."""
    browser.sign_in(oidc.add_person("ana"))
    run_out()
    stale = UserSession.objects.select_related("provider_session").get()
    assert browser.is_signed_in
    oidc.counts.clear()

    assert (
        provider_sessions.check_provider_session(session=stale)
        is provider_sessions.ProviderSessionState.VALID
    )
    assert "token" not in oidc.counts


def test_provider_down_for_ten_minutes_signs_nobody_out(browser, oidc):
    browser.sign_in(oidc.add_person("ana"))
    oidc.is_down = True
    for minute in (0, 1, 5, 10, 30):
        run_out(minute * 60 + 1)
        assert browser.is_signed_in, minute

    oidc.is_down = False
    run_out(601)
    assert browser.is_signed_in
    assert ProviderSession.objects.get().generation == 2


def test_absent_provider_is_asked_once_in_a_while(browser, oidc):
    browser.sign_in(oidc.add_person("ana"))
    run_out()
    oidc.is_down = True
    oidc.counts.clear()

    assert all(browser.is_signed_in for _ in range(5))
    assert oidc.counts["token"] == 1


def test_after_the_grace_the_session_pauses_and_comes_back_with_the_provider(
    browser, oidc, settings
):
    browser.sign_in(oidc.add_person("ana"))
    oidc.is_down = True
    run_out(settings.OIDC_GRACE_SECONDS + 60)
    assert not browser.is_signed_in

    oidc.is_down = False
    run_out(settings.OIDC_GRACE_SECONDS + 60)
    assert browser.is_signed_in


def test_person_disabled_at_the_provider_is_signed_out(browser, oidc):
    person = oidc.add_person("ana")
    browser.sign_in(person)
    person.enabled = False
    assert browser.is_signed_in
    run_out()

    assert not browser.is_signed_in
    session = UserSession.objects.get()
    assert session.end_reason == "ended at the provider"
    person.enabled = True
    assert not browser.is_signed_in


@pytest.mark.parametrize("error", ["invalid_client", "unauthorized_client", "slow_down"])
def test_refusal_that_is_not_about_the_person_signs_nobody_out(browser, oidc, error):
    browser.sign_in(oidc.add_person("ana"))
    oidc.refresh_error = error
    run_out()

    assert browser.is_signed_in
    assert UserSession.objects.get().ended_at is None


def test_roles_follow_at_the_refresh(browser, oidc, provider):
    team = Organization.objects.create(name="team")
    provider.claim_rules = [
        {
            "claim": "realm_access.roles",
            "value": "team",
            "organization": str(team.pk),
            "role": "admin",
        }
    ]
    provider.save()
    person = oidc.add_person("ana")
    browser.sign_in(person)
    person.roles = ["team"]
    run_out()

    assert browser.is_signed_in
    assert Membership.objects.get(organization=team).role == "admin"


def test_refreshed_token_of_somebody_else_is_not_taken(browser, oidc):
    browser.sign_in(oidc.add_person("ana"))
    oidc.bend = lambda claims: claims.update(sub="sub-of-bob")
    run_out()

    assert browser.is_signed_in  # as who it was
    assert ProviderSession.objects.get().generation == 1
