"""How this server authenticates as a client at a provider's token endpoint (RFC 6749, section 2.3.1)."""

from datetime import timedelta

import pytest
from django.utils import timezone

from accounts.models import ProviderSession
from accounts.oidc import providers
from accounts.services import provider_sessions
from tests.oidc.conftest import Browser, create_provider

BASIC, POST = "client_secret_basic", "client_secret_post"
METHODS = "token_endpoint_auth_methods_supported"


@pytest.fixture
def announce(oidc, monkeypatch):
    """Set the methods that the discovery document announces; None leaves them out."""
    document = oidc._discovery()

    def change(methods):
        fields = {} if methods is None else {METHODS: methods}
        monkeypatch.setattr(oidc, "_discovery", lambda: document | fields)
        providers.clear_caches()

    return change


def refresh(browser):
    ProviderSession.objects.update(access_expires_at=timezone.now() - timedelta(seconds=1))
    before = ProviderSession.objects.get().generation
    assert browser.is_signed_in
    return ProviderSession.objects.get().generation - before


@pytest.mark.parametrize(
    ("announced", "accepted"),
    [
        (None, BASIC),
        (None, POST),
        ([BASIC], BASIC),
        ([POST], POST),
        ([BASIC, POST], BASIC),
        ([BASIC, POST], POST),
        (["private_key_jwt", BASIC], BASIC),
        (BASIC, BASIC),
        ([], BASIC),
        ([None, 7, POST], POST),
    ],
)
def test_sign_in_and_refresh_use_a_method_that_the_client_is_registered_for(
    browser, oidc, announce, announced, accepted
):
    announce(announced)
    oidc.client_methods = (accepted,)

    assert browser.sign_in(oidc.add_person("ana")).headers["Location"] == "/"
    assert refresh(browser) == 1


def test_method_that_worked_is_used_first_for_later_requests(browser, oidc, announce):
    announce([BASIC, POST])
    oidc.client_methods = (POST,)
    browser.sign_in(oidc.add_person("ana"))
    before = oidc.counts["token"]

    refresh(browser)

    assert (before, oidc.counts["token"]) == (2, 3)


@pytest.mark.parametrize("secret", ["a b", "a+b", "p%:&=/?", "ä€𝄞", "x" * 500, ":"])
@pytest.mark.parametrize("accepted", [BASIC, POST])
def test_secret_with_any_characters_is_sent_intact(oidc, db, announce, secret, accepted):
    announce([accepted])
    oidc.client_methods, oidc.client_secret = (accepted,), secret
    create_provider(oidc)

    assert Browser(oidc).sign_in(oidc.add_person("ana")).headers["Location"] == "/"


def test_client_without_a_secret_sends_its_id_only(oidc, db, announce):
    announce([BASIC, "none"])
    oidc.client_methods = ("none",)
    row = create_provider(oidc)
    row.client_secret = ""
    row.save()

    assert Browser(oidc).sign_in(oidc.add_person("ana")).headers["Location"] == "/"


@pytest.mark.parametrize(
    ("announced", "accepted"),
    [
        (["private_key_jwt", "client_secret_jwt"], "client_secret_jwt"),
        ([BASIC, POST, "client_secret_jwt"], "client_secret_jwt"),
        (["none"], "none"),
        (["private_key_jwt", "none"], "none"),
    ],
)
def test_announced_method_without_the_secret_in_the_request_works(
    oidc, db, announce, announced, accepted
):
    announce(announced)
    oidc.client_methods, oidc.client_secret = (accepted,), "s" * 40
    create_provider(oidc)
    browser = Browser(oidc)

    assert browser.sign_in(oidc.add_person("ana")).headers["Location"] == "/"
    assert refresh(browser) == 1


def test_sign_out_at_the_provider_uses_the_same_method(browser, oidc, announce):
    announce([BASIC])
    oidc.client_methods = (BASIC,)
    browser.sign_in(oidc.add_person("ana"))

    assert provider_sessions.end_at_provider(provider_session=ProviderSession.objects.get())
    assert not oidc.sessions


def test_wrong_secret_is_tried_once_per_method_and_refused(browser, oidc, announce):
    announce([BASIC, POST])
    oidc.client_secret = "another"

    response = browser.sign_in(oidc.add_person("ana"))

    assert response.status_code == 400
    assert oidc.counts["token"] == 2


def test_provider_without_a_supported_method_is_explained_on_the_admin_site(
    browser, oidc, announce, alice, settings
):
    settings.STAFF_SECOND_FACTOR = False
    announce(["private_key_jwt", "tls_client_auth"])
    alice.is_staff = alice.is_superuser = True
    alice.save()
    client = browser.client
    row = providers.IdentityProvider.objects.get()
    response = browser.sign_in(oidc.add_person("ana"))
    client.force_login(alice)

    page = client.post(
        "/admin/accounts/identityprovider/",
        {"action": "check_connection", "_selected_action": [str(row.pk)]},
        follow=True,
    ).content.decode()

    assert response.status_code == 503
    # Waiting does not help, so the page does not advise it.
    assert "administrator" in response.content.decode()
    assert "not responding" not in response.content.decode()
    assert "private_key_jwt" in page
    assert "client_secret_basic" in page
