"""The admin pages of identity providers and browser sessions: their actions and forms."""

import pytest
from django.contrib.auth.models import Permission
from django.test import Client

from accounts.models import IdentityProvider, UserSession
from accounts.services import identities
from tests.factories.accounts import UserFactory
from tests.oidc.conftest import create_provider

PROVIDERS = "/admin/accounts/identityprovider/"
SESSIONS = "/admin/accounts/usersession/"


@pytest.fixture
def staff_client(db, client):
    client.force_login(UserFactory(is_staff=True, is_superuser=True))
    return client


def run_action(client, path, action, *rows):
    form = {"action": action, "_selected_action": [str(row.pk) for row in rows]}
    return client.post(path, form, follow=True)


def test_check_connection_reports_each_provider(staff_client, oidc, provider):
    broken = create_provider(oidc, slug="other", name="Other", issuer=oidc.issuer + "/wrong")

    page = run_action(staff_client, PROVIDERS, "check_connection", provider, broken)

    assert "Acme responded with a valid configuration." in page.text
    assert "The check of Other failed: the discovery document names another issuer." in page.text


def test_check_connection_does_not_use_the_cached_document(staff_client, oidc, provider):
    assert (
        "responded with a valid configuration"
        in run_action(staff_client, PROVIDERS, "check_connection", provider).text
    )
    oidc.is_down = True

    page = run_action(staff_client, PROVIDERS, "check_connection", provider)

    assert "The check of Acme failed: HTTP 503." in page.text


@pytest.mark.parametrize("clients", ['"cli"', "[1]", '{"a": 1}'])
def test_bearer_clients_must_be_a_list_of_texts(staff_client, provider, clients):
    form = {
        "slug": "acme",
        "name": "Acme",
        "kind": "keycloak",
        "issuer": provider.issuer,
        "client_id": "server",
        "scopes": "openid email",
        "claim_rules": "[]",
        "bearer_clients": clients,
    }

    page = staff_client.post(f"{PROVIDERS}{provider.pk}/change/", form)

    assert page.status_code == 200
    assert "Enter a JSON list of client ids" in page.text
    provider.refresh_from_db()
    assert provider.bearer_clients == ["cli"]


def test_provider_with_linked_accounts_cannot_be_deleted(staff_client, provider, alice):
    identity = identities.link_identity(user=alice, provider=provider, claims={"sub": "a"})
    path = f"{PROVIDERS}{provider.pk}/delete/"

    assert staff_client.post(path, {"post": "yes"}).status_code == 403
    identities.unlink_identity(identity=identity)
    assert staff_client.post(path, {"post": "yes"}).status_code == 302

    assert not IdentityProvider.objects.exists()


def test_end_action_signs_the_browser_out(staff_client, alice):
    browser = Client()
    browser.force_login(alice)
    session = UserSession.objects.get(user=alice)

    page = run_action(staff_client, SESSIONS, "end", session)

    assert "Ended 1 session." in page.text
    assert browser.get("/settings").status_code == 302
    session.refresh_from_db()
    assert session.end_reason == "ended by staff"


def test_staff_with_view_permission_only_cannot_end_a_session(client, alice):
    browser = Client()
    browser.force_login(alice)
    staff = UserFactory(is_staff=True)
    staff.user_permissions.set(Permission.objects.filter(codename="view_usersession"))
    client.force_login(staff)

    run_action(client, SESSIONS, "end", UserSession.objects.get(user=alice))

    assert browser.get("/settings").status_code == 200
