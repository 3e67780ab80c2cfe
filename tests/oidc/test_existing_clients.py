"""The authentication routes of the OpenHands protocols, which existing clients call."""

import pytest
from django.core import mail
from django.test import Client

from accounts.models import EmailChange, OfflineToken, TermsAcceptance, User
from tests.conftest import key_client
from tests.oidc.conftest import Browser, create_provider, redirect_path


@pytest.fixture
def alices_client(alice):
    client = Client()
    client.force_login(alice)
    return client


def post(client, path, body=None, **extra):
    return client.post(path, body or {}, content_type="application/json", **extra)


class TestCallback:
    @pytest.fixture
    def keycloak(self, oidc, db):
        create_provider(oidc, slug="keycloak")
        return Browser(oidc, slug="keycloak")

    def test_callback_finishes_the_sign_in_of_the_provider_keycloak(self, keycloak, oidc):
        assert (
            redirect_path(keycloak.sign_in(oidc.add_person("ana"), target="/settings"))
            == "/settings"
        )
        assert keycloak.is_signed_in

    def test_code_of_a_flow_started_elsewhere_restarts_the_sign_in(self, keycloak, oidc):
        """The code is never used, because nothing binds it to this browser."""
        oidc.counts.clear()

        response = keycloak.client.get(
            "/oauth/keycloak/callback",
            {"code": "x", "state": "http://testserver/settings?login_method=keycloak"},
        )

        assert (
            redirect_path(response)
            == "/oidc/keycloak/sign-in?next=%2Fsettings%3Flogin_method%3Dkeycloak"
        )
        assert "token" not in oidc.counts

    def test_expired_sign_in_at_the_provider_redirects_to_the_state(self, keycloak):
        query = {"error": "temporarily_unavailable", "error_description": "authentication_expired"}

        assert (
            redirect_path(
                keycloak.client.get(
                    "/oauth/keycloak/callback", query | {"state": "http://testserver/settings"}
                )
            )
            == "/settings"
        )
        assert (
            redirect_path(
                keycloak.client.get(
                    "/oauth/keycloak/callback", query | {"state": "https://evil.example/x"}
                )
            )
            == "/"
        )

    def test_neither_code_nor_error_is_400(self, keycloak):
        assert keycloak.client.get("/oauth/keycloak/callback").status_code == 400
        assert keycloak.client.get("/oauth/keycloak/offline/callback").status_code == 400

    def test_offline_callback_stores_no_token_and_returns_to_the_settings(self, keycloak, oidc):
        person = oidc.add_person("ana")
        keycloak.sign_in(person)
        page = keycloak.client.post("/settings/sign-in/keycloak/connect", {"purpose": "offline"})
        answer = oidc.authorize(page.context["url"], person)

        response = keycloak.client.get("/oauth/keycloak/offline/callback", answer)

        assert "offline_access" not in page.context["url"]
        assert (response.status_code, response.headers["Location"]) == (302, "/settings/sign-in")
        assert not OfflineToken.objects.exists()

    def test_callback_without_a_provider_is_404(self, client, db):
        assert client.get("/oauth/keycloak/callback").status_code == 404


def test_authenticate_is_200_for_users_and_401_for_others(alices_client, alice, db):
    strict = Client(enforce_csrf_checks=True)
    strict.cookies["sessionid"] = alices_client.cookies["sessionid"].value

    assert post(strict, "/api/authenticate").json() == {"message": "User authenticated"}
    assert key_client(alice).post("/api/authenticate").status_code == 200
    refused = post(Client(), "/api/authenticate")
    assert (refused.status_code, list(refused.json())) == (401, ["error"])


def test_logout_ends_the_session_here_and_at_the_provider(oidc, provider):
    browser = Browser(oidc)
    browser.sign_in(oidc.add_person("ana"))
    assert oidc.sessions

    assert post(browser.client, "/api/logout").status_code == 200

    assert not browser.is_signed_in
    assert not oidc.sessions
    assert post(browser.client, "/api/logout").status_code == 200


def test_logout_without_csrf_token_is_403(alices_client):
    strict = Client(enforce_csrf_checks=True)
    strict.cookies["sessionid"] = alices_client.cookies["sessionid"].value

    assert post(strict, "/api/logout").status_code == 403


class TestTerms:
    @pytest.fixture(autouse=True)
    def _version(self, settings):
        settings.TERMS_VERSION = "2026-11"

    def test_each_version_must_be_accepted_once_after_the_sign_in(self, oidc, provider, settings):
        browser = Browser(oidc)
        response = browser.sign_in(oidc.add_person("ana"), target="/settings")
        assert redirect_path(response) == "/accept-tos?redirect_url=%2Fsettings"
        assert post(browser.client, "/api/authenticate").status_code == 401

        answer = post(
            browser.client, "/api/accept_tos", {"redirect_url": "http://testserver/settings"}
        )

        assert answer.json() == {"redirect_url": "/settings"}
        assert post(browser.client, "/api/authenticate").status_code == 200
        assert (
            redirect_path(Browser(oidc).sign_in(oidc.people["ana"], target="/settings"))
            == "/settings"
        )
        settings.TERMS_VERSION = "2027-01"
        assert post(browser.client, "/api/authenticate").status_code == 401

    def test_page_records_the_acceptance_and_redirects_within_this_site(self, alices_client, alice):
        assert (
            b"Terms of service" in alices_client.get("/accept-tos?redirect_url=/settings").content
        )

        assert (
            redirect_path(
                alices_client.post("/accept-tos", {"redirect_url": "https://evil.example"})
            )
            == "/"
        )
        alices_client.post("/accept-tos", {"redirect_url": "/settings"})

        accepted = TermsAcceptance.objects.get()
        assert (accepted.user, accepted.version, accepted.address) == (
            alice,
            "2026-11",
            "127.0.0.1",
        )

    @pytest.mark.parametrize("target", ["https://evil.example", "//evil.example", None, ""])
    def test_redirect_url_of_another_site_becomes_the_start_page(self, alices_client, target):
        assert post(alices_client, "/api/accept_tos", {"redirect_url": target}).json() == {
            "redirect_url": "/"
        }

    def test_anonymous_acceptance_is_401(self, client, db):
        assert post(client, "/api/accept_tos").status_code == 401


class TestEmail:
    @pytest.fixture(autouse=True)
    def _mail(self, settings):
        settings.EMAIL_BACKEND = "django.core.mail.backends.locmem.EmailBackend"

    def link(self):
        return next(
            line for line in mail.outbox[-1].body.splitlines() if line.startswith("http")
        ).removeprefix("http://testserver")

    def test_new_address_applies_when_its_link_is_opened(self, alices_client, alice):
        assert post(alices_client, "/api/email", {"email": "new@example.com"}).status_code == 200
        assert User.objects.get(pk=alice.pk).email == "alice@example.com"
        assert mail.outbox[-1].to == ["new@example.com"]

        alices_client.get(self.link())

        assert User.objects.get(pk=alice.pk).email == "new@example.com"
        assert not EmailChange.objects.exists()

    def test_link_of_another_user_changes_no_address(self, alices_client, alice, charlie):
        post(alices_client, "/api/email", {"email": "new@example.com"})
        other = Client()
        other.force_login(charlie)
        post(other, "/api/email", {"email": "charlies@example.com"})
        charlies = self.link()

        assert alices_client.get(charlies).status_code == 302

        assert User.objects.get(pk=alice.pk).email == "alice@example.com"
        assert User.objects.get(pk=charlie.pk).email == "charlie@example.com"

    def test_address_of_another_account_is_mailed_but_not_applied(
        self, alices_client, alice, charlie
    ):
        assert (
            post(alices_client, "/api/email", {"email": "CHARLIE@example.com"}).status_code == 200
        )

        assert alices_client.get(self.link()).status_code == 302

        assert User.objects.get(pk=alice.pk).email == "alice@example.com"

    def test_second_mail_invalidates_the_first_link(self, alices_client, alice):
        post(alices_client, "/api/email", {"email": "new@example.com"})
        first = self.link()
        assert alices_client.put("/api/email/verify").status_code == 200
        alices_client.get(first)
        assert User.objects.get(pk=alice.pk).email == "alice@example.com"
        alices_client.get(self.link())
        assert User.objects.get(pk=alice.pk).email == "new@example.com"

    def test_malformed_address_missing_change_and_anonymous_are_refused(
        self, alices_client, client
    ):
        assert post(alices_client, "/api/email", {"email": "nonsense"}).status_code in (400, 422)
        assert alices_client.put("/api/email/verify").status_code == 409
        assert post(client, "/api/email", {"email": "a@example.com"}).status_code == 401

    def test_unreachable_mail_server_is_503(self, alices_client, settings):
        settings.EMAIL_BACKEND = "django.core.mail.backends.smtp.EmailBackend"
        settings.EMAIL_HOST, settings.EMAIL_PORT = "127.0.0.1", 9

        assert post(alices_client, "/api/email", {"email": "new@example.com"}).status_code == 503

    def test_verified_address_redirects_to_the_settings(self, alices_client):
        assert redirect_path(alices_client.get("/api/email/verified")) == "/settings"
