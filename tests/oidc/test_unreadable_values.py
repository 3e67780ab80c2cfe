"""Tokens of sessions and client secrets that cannot be decrypted: a new sign-in repairs the one, staff the other."""

from datetime import timedelta

import pytest
from django.utils import timezone

from accounts.models import IdentityProvider, ProviderSession
from accounts.oidc import providers
from accounts.services import identity_providers

SEALED = [b"", b"\x03old" + b"x" * 40, b"\xff" * 60]


@pytest.mark.parametrize("column", ["sealed_access_token", "sealed_refresh_token", "sealed_id_token"])  # fmt: skip
@pytest.mark.parametrize("sealed", [b"\xff" * 60, b"\x03old" + b"x" * 40])
def test_session_with_an_unreadable_token_works_until_its_refresh_and_then_ends(browser, oidc, column, sealed):  # fmt: skip
    ana = oidc.add_person("ana")
    browser.sign_in(ana)
    ProviderSession.objects.update(**{column: sealed})
    assert browser.is_signed_in
    ProviderSession.objects.update(access_expires_at=timezone.now() - timedelta(seconds=1))

    assert not browser.is_signed_in
    browser.sign_in(ana)
    assert browser.is_signed_in


@pytest.mark.parametrize("sealed", [b"\xff" * 60, b"\x03old" + b"x" * 40])
def test_sign_out_works_with_unreadable_tokens(browser, oidc, sealed):
    browser.sign_in(oidc.add_person("ana"))
    ProviderSession.objects.update(
        sealed_access_token=sealed, sealed_refresh_token=sealed, sealed_id_token=sealed
    )

    assert browser.client.post("/sign-out").status_code in (200, 302)
    assert not browser.is_signed_in


@pytest.mark.parametrize("sealed", [b"\xff" * 60, b"\x03old" + b"x" * 40])
def test_unreadable_client_secret_is_reported_and_can_be_replaced(browser, oidc, provider, sealed):
    secret = provider.client_secret
    IdentityProvider.objects.update(sealed_client_secret=sealed)
    broken = IdentityProvider.objects.get()

    with pytest.raises(providers.ProviderUnavailable, match="enter it again on the provider's page"):  # fmt: skip
        providers.send_as_client(broken, oidc.issuer, {})
    response = browser.sign_in(oidc.add_person("ana"))
    assert response.status_code < 500 or "not" in response.content.decode()
    assert not browser.is_signed_in

    identity_providers.save_provider(provider=broken, client_secret=secret)
    browser.sign_in(oidc.add_person("eva"))
    assert browser.is_signed_in


def test_unreadable_client_secret_of_the_environment_is_stored_again(db, settings):
    preset = {
        "slug": "keycloak",
        "name": "Keycloak",
        "kind": "keycloak",
        "issuer": "https://id.example.org/realms/a",
        "client_id": "server",
        "client_secret": "client-secret",
    }
    settings.OIDC_PRESETS = [preset]
    identity_providers.find_provider(slug="keycloak")
    IdentityProvider.objects.update(sealed_client_secret=b"\xff" * 60)

    assert identity_providers.find_provider(slug="keycloak").client_secret == "client-secret"
