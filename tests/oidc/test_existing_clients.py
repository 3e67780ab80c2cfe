"""The routes that existing clients call."""

import pytest
from django.core import mail
from django.test import Client

from accounts.models import EmailChange, OfflineToken, TermsAcceptance, User
from tests.conftest import key_client
from tests.oidc.conftest import Browser, make_row, path_of


@pytest.fixture
def mine(alice):
    client = Client()
    client.force_login(alice)
    return client


def post(client, path, body=None, **extra):
    return client.post(path, body or {}, content_type="application/json", **extra)


class TestCallback:
    @pytest.fixture
    def keycloak(self, oidc, db):
        make_row(oidc, slug="keycloak")
        return Browser(oidc, slug="keycloak")

    def test_is_where_a_keycloak_called_keycloak_comes_back(self, keycloak, oidc):
        assert path_of(keycloak.sign_in(oidc.add_person("ana"), target="/settings")) == "/settings"
        assert keycloak.is_signed_in

    def test_client_that_left_by_itself_is_sent_once_more_with_state_and_pkce(self, keycloak, oidc):
        """The code of such a flow is never used: nothing ties it to this browser."""
        oidc.counts.clear()

        response = keycloak.client.get(
            "/oauth/keycloak/callback",
            {"code": "x", "state": "http://testserver/settings?login_method=keycloak"},
        )

        assert (
            path_of(response) == "/oidc/keycloak/sign-in?next=%2Fsettings%3Flogin_method%3Dkeycloak"
        )
        assert "token" not in oidc.counts

    def test_expired_sign_in_at_the_provider_goes_back(self, keycloak):
        query = {"error": "temporarily_unavailable", "error_description": "authentication_expired"}

        assert (
            path_of(
                keycloak.client.get(
                    "/oauth/keycloak/callback", query | {"state": "http://testserver/settings"}
                )
            )
            == "/settings"
        )
        assert (
            path_of(
                keycloak.client.get(
                    "/oauth/keycloak/callback", query | {"state": "https://evil.example/x"}
                )
            )
            == "/"
        )

    def test_neither_code_nor_error_is_400(self, keycloak):
        assert keycloak.client.get("/oauth/keycloak/callback").status_code == 400
        assert keycloak.client.get("/oauth/keycloak/offline/callback").status_code == 400

    def test_offline_callback_finishes_no_flow_and_keeps_no_token(self, keycloak, oidc):
        person = oidc.add_person("ana")
        keycloak.sign_in(person)
        page = keycloak.client.post("/settings/sign-in/keycloak/connect", {"purpose": "offline"})
        answer = oidc.authorize(page.context["url"], person)

        response = keycloak.client.get("/oauth/keycloak/offline/callback", answer)

        assert "offline_access" not in page.context["url"]
        assert response.status_code == 400
        assert not OfflineToken.objects.exists()

    def test_without_a_provider_there_is_nothing(self, client, db):
        assert client.get("/oauth/keycloak/callback").status_code == 404


def test_authenticate_is_200_or_exactly_401(mine, alice, db):
    strict = Client(enforce_csrf_checks=True)
    strict.cookies["sessionid"] = mine.cookies["sessionid"].value

    assert post(strict, "/api/authenticate").json() == {"message": "User authenticated"}
    assert key_client(alice).post("/api/authenticate").status_code == 200
    refused = post(Client(), "/api/authenticate")
    assert (refused.status_code, list(refused.json())) == (401, ["error"])


def test_logout_ends_the_session_here_and_there(oidc, provider):
    browser = Browser(oidc)
    browser.sign_in(oidc.add_person("ana"))
    assert oidc.sessions

    assert post(browser.client, "/api/logout").status_code == 200

    assert not browser.is_signed_in
    assert not oidc.sessions
    assert post(browser.client, "/api/logout").status_code == 200


def test_logout_needs_the_csrf_token(mine):
    strict = Client(enforce_csrf_checks=True)
    strict.cookies["sessionid"] = mine.cookies["sessionid"].value

    assert post(strict, "/api/logout").status_code == 403


class TestTerms:
    @pytest.fixture(autouse=True)
    def _version(self, settings):
        settings.TERMS_VERSION = "2026-11"

    def test_are_asked_for_after_the_sign_in_and_each_version_once(self, oidc, provider, settings):
        browser = Browser(oidc)
        response = browser.sign_in(oidc.add_person("ana"), target="/settings")
        assert path_of(response) == "/accept-tos?redirect_url=%2Fsettings"
        assert post(browser.client, "/api/authenticate").status_code == 401

        answer = post(
            browser.client, "/api/accept_tos", {"redirect_url": "http://testserver/settings"}
        )

        assert answer.json() == {"redirect_url": "/settings"}
        assert post(browser.client, "/api/authenticate").status_code == 200
        assert path_of(Browser(oidc).sign_in(oidc.people["ana"], target="/settings")) == "/settings"
        settings.TERMS_VERSION = "2027-01"
        assert post(browser.client, "/api/authenticate").status_code == 401

    def test_page_accepts_and_goes_on_within_this_site(self, mine, alice):
        assert b"Terms of service" in mine.get("/accept-tos?redirect_url=/settings").content

        assert path_of(mine.post("/accept-tos", {"redirect_url": "https://evil.example"})) == "/"
        mine.post("/accept-tos", {"redirect_url": "/settings"})

        accepted = TermsAcceptance.objects.get()
        assert (accepted.user, accepted.version, accepted.address) == (
            alice,
            "2026-11",
            "127.0.0.1",
        )

    @pytest.mark.parametrize("target", ["https://evil.example", "//evil.example", None, ""])
    def test_redirect_url_stays_on_this_site(self, mine, target):
        assert post(mine, "/api/accept_tos", {"redirect_url": target}).json() == {
            "redirect_url": "/"
        }

    def test_strangers_accept_nothing(self, client, db):
        assert post(client, "/api/accept_tos").status_code == 401


class TestEmail:
    @pytest.fixture(autouse=True)
    def _mail(self, settings):
        settings.EMAIL_BACKEND = "django.core.mail.backends.locmem.EmailBackend"

    def link(self):
        return next(
            line for line in mail.outbox[-1].body.splitlines() if line.startswith("http")
        ).removeprefix("http://testserver")

    def test_counts_once_its_link_is_opened(self, mine, alice):
        assert post(mine, "/api/email", {"email": "new@example.com"}).status_code == 200
        assert User.objects.get(pk=alice.pk).email == "alice@example.com"
        assert mail.outbox[-1].to == ["new@example.com"]

        mine.get(self.link())

        assert User.objects.get(pk=alice.pk).email == "new@example.com"
        assert not EmailChange.objects.exists()

    def test_link_works_for_its_user_only_and_once(self, mine, alice, charlie):
        post(mine, "/api/email", {"email": "new@example.com"})
        other = Client()
        other.force_login(charlie)
        post(other, "/api/email", {"email": "charlies@example.com"})
        charlies = self.link()

        mine.get(charlies)

        assert User.objects.get(pk=alice.pk).email == "alice@example.com"
        assert User.objects.get(pk=charlie.pk).email == "charlie@example.com"

    def test_taken_address_is_told_only_to_who_reads_its_mail(self, mine, alice, charlie):
        assert post(mine, "/api/email", {"email": "CHARLIE@example.com"}).status_code == 200

        mine.get(self.link())

        assert User.objects.get(pk=alice.pk).email == "alice@example.com"

    def test_second_mail_makes_the_first_link_worthless(self, mine, alice):
        post(mine, "/api/email", {"email": "new@example.com"})
        first = self.link()
        assert mine.put("/api/email/verify").status_code == 200
        mine.get(first)
        assert User.objects.get(pk=alice.pk).email == "alice@example.com"
        mine.get(self.link())
        assert User.objects.get(pk=alice.pk).email == "new@example.com"

    def test_refusals(self, mine, client):
        assert post(mine, "/api/email", {"email": "nonsense"}).status_code in (400, 422)
        assert mine.put("/api/email/verify").status_code == 409
        assert post(client, "/api/email", {"email": "a@example.com"}).status_code == 401

    def test_mail_server_that_is_away_is_503(self, mine, settings):
        settings.EMAIL_BACKEND = "django.core.mail.backends.smtp.EmailBackend"
        settings.EMAIL_HOST, settings.EMAIL_PORT = "127.0.0.1", 9

        assert post(mine, "/api/email", {"email": "new@example.com"}).status_code == 503

    def test_address_after_the_mail_of_old(self, mine):
        assert path_of(mine.get("/api/email/verified")) == "/settings"
