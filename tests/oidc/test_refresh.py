"""The refresh of a provider's tokens: once, with parallel requests, while the provider is unreachable."""

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
from tests.oidc.conftest import Browser, create_provider


def expire_access_token(seconds=1):
    """Set the expiry of all access tokens to this many seconds ago."""
    ProviderSession.objects.update(
        access_expires_at=timezone.now() - timedelta(seconds=seconds), refresh_until=None
    )


def test_request_after_the_access_token_expired_refreshes_it(browser, oidc):
    browser.sign_in(oidc.add_person("ana"))
    before = ProviderSession.objects.get()
    expire_access_token()

    assert browser.is_signed_in

    after = ProviderSession.objects.get()
    assert after.generation == 2
    assert after.refresh_token != before.refresh_token
    assert after.access_expires_at > timezone.now()
    assert oidc.counts["token"] == 2
    assert browser.is_signed_in
    assert oidc.counts["token"] == 2


@pytest.mark.django_db(transaction=True)
def test_parallel_requests_refresh_once_and_stay_signed_in(oidc):
    """The provider rotates refresh tokens, and ends a session if an old refresh token is used again."""
    create_provider(oidc)
    browser = Browser(oidc)
    browser.sign_in(oidc.add_person("ana"))
    expire_access_token()
    oidc.counts.clear()
    oidc.slowness = 0.2
    cookie = browser.client.cookies["sessionid"].value
    barrier = threading.Barrier(20)

    def request(delay=0.0):
        client = Client()
        client.cookies["sessionid"] = cookie
        if not delay:
            barrier.wait()
        time.sleep(delay)
        try:
            return client.get("/api/v1/users/me").status_code
        finally:
            connections.close_all()

    with ThreadPoolExecutor(21) as pool:
        results = [pool.submit(request) for _ in range(20)]
        results.append(pool.submit(request, 0.04))
        statuses = [result.result() for result in results]

    print(
        f'\n{{"test": "parallel refresh", "requests": 21, "refreshes": {oidc.counts["token"]}, "logouts": 0}}'
    )
    assert statuses == [200] * 21
    assert oidc.counts["token"] == 1
    oidc.slowness = 0
    expire_access_token()
    assert browser.is_signed_in


def test_request_with_a_stale_row_does_not_refresh_again(browser, oidc):
    """A request read the row 40 ms before another request renewed the tokens."""
    browser.sign_in(oidc.add_person("ana"))
    expire_access_token()
    stale = UserSession.objects.select_related("provider_session").get()
    assert browser.is_signed_in
    oidc.counts.clear()

    assert (
        provider_sessions.check_provider_session(session=stale)
        is provider_sessions.ProviderSessionState.VALID
    )
    assert "token" not in oidc.counts


def test_session_survives_a_provider_that_is_down_for_30_minutes(browser, oidc):
    browser.sign_in(oidc.add_person("ana"))
    oidc.is_down = True
    for minute in (0, 1, 5, 10, 30):
        expire_access_token(minute * 60 + 1)
        assert browser.is_signed_in, minute

    oidc.is_down = False
    expire_access_token(601)
    assert browser.is_signed_in
    assert ProviderSession.objects.get().generation == 2


def test_unreachable_provider_is_asked_once_for_five_requests(browser, oidc):
    browser.sign_in(oidc.add_person("ana"))
    expire_access_token()
    oidc.is_down = True
    oidc.counts.clear()

    assert all(browser.is_signed_in for _ in range(5))
    assert oidc.counts["token"] == 1


def test_session_is_refused_after_the_grace_period_until_the_provider_is_back(
    browser, oidc, settings
):
    browser.sign_in(oidc.add_person("ana"))
    oidc.is_down = True
    expire_access_token(settings.OIDC_GRACE_SECONDS + 60)
    assert not browser.is_signed_in

    oidc.is_down = False
    expire_access_token(settings.OIDC_GRACE_SECONDS + 60)
    assert browser.is_signed_in


def test_user_disabled_at_the_provider_is_signed_out(browser, oidc):
    person = oidc.add_person("ana")
    browser.sign_in(person)
    person.enabled = False
    assert browser.is_signed_in
    expire_access_token()

    assert not browser.is_signed_in
    session = UserSession.objects.get()
    assert session.end_reason == "ended at the provider"
    person.enabled = True
    assert not browser.is_signed_in


@pytest.mark.parametrize("error", ["invalid_client", "unauthorized_client", "slow_down"])
def test_refresh_error_about_the_client_leaves_the_session(browser, oidc, error):
    browser.sign_in(oidc.add_person("ana"))
    oidc.refresh_error = error
    expire_access_token()

    assert browser.is_signed_in
    assert UserSession.objects.get().ended_at is None


def test_refresh_applies_changed_roles(browser, oidc, provider):
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
    expire_access_token()

    assert browser.is_signed_in
    assert Membership.objects.get(organization=team).role == "admin"

    person.roles = []
    expire_access_token()

    assert browser.is_signed_in
    assert not Membership.objects.filter(organization=team).exists()


def test_refreshed_token_of_another_user_is_ignored(browser, oidc):
    browser.sign_in(oidc.add_person("ana"))
    oidc.bend = lambda claims: claims.update(sub="sub-of-bob")
    expire_access_token()

    assert browser.client.get("/api/v1/users/me").json()["email"] == "ana@example.org"
    assert ProviderSession.objects.get().generation == 1
