"""Error paths of the pages and endpoints of a provider: unknown providers, missing codes, outages."""

import pytest
from django.test import Client

from accounts.models import Identity, UserSession
from accounts.oidc import providers
from tests.oidc.conftest import Browser, create_provider, redirect_path

PATHS = [
    ("get", "/oidc/unknown/sign-in"),
    ("get", "/oidc/unknown/callback"),
    ("post", "/settings/sign-in/unknown/connect"),
    ("post", "/settings/sign-in/unknown/disconnect"),
    ("post", "/oidc/unknown/back-channel-logout"),
]


@pytest.mark.parametrize(("method", "path"), PATHS)
def test_unknown_provider_is_404(alice, method, path):
    client = Client()
    client.force_login(alice)

    assert getattr(client, method)(path).status_code == 404


def test_callback_without_code_and_error_is_400(browser):
    state = browser.start().partition("state=")[2].partition("&")[0]

    response = browser.finish({"state": state})

    assert response.status_code == 400
    assert "Acme rejected this sign-in. Start again." in response.text
    assert not browser.is_signed_in


def test_sign_in_of_a_signed_in_user_redirects_to_next(provider, alice):
    client = Client()
    client.force_login(alice)

    response = client.get("/oidc/acme/sign-in?next=/settings/model")

    assert redirect_path(response) == "/settings/model"


def test_wrong_client_secret_is_400_without_the_providers_description(oidc, provider):
    provider.client_secret = "wrong"
    provider.save()
    browser = Browser(oidc)

    response = browser.sign_in(oidc.add_person("ana"))

    assert response.status_code == 400
    assert "contact your administrator" in response.text
    assert "invalid_client" not in response.text


def test_connecting_while_the_provider_is_unreachable_is_503(oidc, provider, alice):
    client = Client()
    client.force_login(alice)
    oidc.is_down = True
    providers.clear_caches()

    response = client.post("/settings/sign-in/acme/connect")

    assert (response.status_code, response.headers["Retry-After"]) == (503, "10")
    assert "Acme is not responding." in response.text


def test_disconnecting_a_provider_that_is_not_connected_is_404(provider, alice):
    client = Client()
    client.force_login(alice)

    assert client.post("/settings/sign-in/acme/disconnect").status_code == 404


def test_disconnecting_the_only_way_to_sign_in_shows_the_reason(browser, oidc):
    browser.sign_in(oidc.add_person("ana"))

    response = browser.client.post("/settings/sign-in/acme/disconnect", follow=True)

    assert "This is your only way to sign in. Set a password first." in response.text
    assert Identity.objects.count() == 1


def test_page_of_connections_names_connected_and_other_providers(browser, oidc):
    create_provider(oidc, slug="other", name="Other")
    browser.sign_in(oidc.add_person("ana"))

    page = browser.client.get("/settings/sign-in")

    offered = {row.slug: bool(identity) for row, identity in page.context["offered"]}
    assert offered == {"acme": True, "other": False}


def test_logout_token_while_the_provider_is_unreachable_is_503(browser, oidc):
    browser.sign_in(oidc.add_person("ana"))
    token = oidc.logout_token(sub="sub-of-ana")
    oidc.is_down = True
    providers.clear_caches()

    response = Client().post("/oidc/acme/back-channel-logout", {"logout_token": token})

    assert (response.status_code, response.json()) == (503, {"error": "temporarily_unavailable"})
    assert UserSession.objects.filter(ended_at=None).count() == 1


def test_missing_logout_token_is_400(provider, client):
    response = client.post("/oidc/acme/back-channel-logout")

    assert response.status_code == 400
    assert response.json() == {
        "error": "invalid_request",
        "error_description": "The logout token is not valid.",
    }


@pytest.mark.parametrize("name", ["sub", "sid"])
def test_logout_token_with_a_nul_is_400(browser, oidc, name):
    browser.sign_in(oidc.add_person("ana"))
    token = oidc.logout_token(**({"sub": "sub-of-ana"} | {name: "a\0b"}))

    response = Client().post("/oidc/acme/back-channel-logout", {"logout_token": token})

    assert response.status_code == 400
    assert browser.is_signed_in


@pytest.mark.parametrize("sub", ["a\0b", "\ud800"])
def test_id_token_with_a_sub_that_cannot_be_stored_is_400(browser, oidc, sub):
    response = browser.sign_in(oidc.add_person("ana", sub=sub))

    assert response.status_code == 400
    assert not Identity.objects.exists()


@pytest.mark.parametrize("claims", [{"sub": "a\0b"}, {"sid": "a\0b"}])
def test_access_token_with_a_claim_that_cannot_be_stored_is_401(oidc, provider, client, claims):
    token = oidc.access_token(oidc.add_person("ana"), **claims)

    response = client.get("/api/v1/users/me", headers={"Authorization": f"Bearer {token}"})

    assert response.status_code == 401
    assert not Identity.objects.exists()


class TestExistingClients:
    """Callbacks of front ends that send the browser to Keycloak by themselves."""

    @pytest.fixture
    def keycloak(self, oidc, db):
        create_provider(oidc, slug="keycloak")
        return Browser(oidc, slug="keycloak")

    def get_callback(self, client, **query):
        state = {"state": "http://testserver/settings"}
        return client.get("/oauth/keycloak/callback", state | query)

    def test_signed_in_user_is_redirected_to_the_state(self, keycloak, alice):
        keycloak.client.force_login(alice)

        response = self.get_callback(keycloak.client, code="x")

        assert redirect_path(response) == "/settings"

    def test_missing_code_redirects_to_the_state(self, keycloak):
        assert redirect_path(self.get_callback(keycloak.client)) == "/settings"

    @pytest.mark.parametrize(
        "query",
        [
            {"error": "access_denied"},
            {"error": "temporarily_unavailable", "error_description": "other"},
            {"code": "x", "state": "not an address"},
        ],
    )
    def test_other_errors_and_states_are_400(self, keycloak, query):
        response = self.get_callback(keycloak.client, **query)

        assert response.status_code == 400
        assert "Start again." in response.text
