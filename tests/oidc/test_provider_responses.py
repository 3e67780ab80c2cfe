"""Unusual responses of a provider: discovery documents, keys, token responses, userinfo."""

import json
from datetime import timedelta
from functools import partial

import pytest
from django.utils import timezone

from accounts.models import Membership, Organization, ProviderSession
from accounts.oidc import providers
from tests.fakes.oidc_provider import Key
from tests.oidc.conftest import Browser, create_provider


@pytest.fixture
def change_discovery(oidc, monkeypatch):
    """Change fields of the discovery document."""
    document = oidc._discovery()

    def change(**fields):
        monkeypatch.setattr(oidc, "_discovery", lambda: document | fields)
        providers.clear_caches()

    return change


@pytest.fixture
def change_tokens(oidc, monkeypatch):
    """Change or, with None, remove fields of the following token responses."""
    build = oidc._tokens

    def change(**fields):
        def build_changed(*args, **kwargs):
            response = build(*args, **kwargs) | fields
            return {name: value for name, value in response.items() if value is not None}

        monkeypatch.setattr(oidc, "_tokens", build_changed)

    return change


def expire_access_token():
    ProviderSession.objects.update(access_expires_at=timezone.now() - timedelta(seconds=1))


class TestDiscovery:
    @pytest.mark.parametrize(
        "fields",
        [
            {"token_endpoint": None},
            {"jwks_uri": ""},
            {"authorization_endpoint": "javascript:alert(1)"},
            {"end_session_endpoint": "/relative"},
            {"issuer": None},
        ],
        ids=str,
    )
    def test_unusable_document_is_503(self, browser, change_discovery, fields):
        change_discovery(**fields)

        response = browser.client.get("/oidc/acme/sign-in")

        assert response.status_code == 503
        assert "Acme is not responding." in response.text

    def test_expired_document_is_used_while_the_provider_is_unreachable(
        self, browser, oidc, monkeypatch
    ):
        browser.start()
        monkeypatch.setattr(providers, "METADATA_SECONDS", 0)
        oidc.is_down = True

        assert browser.start().startswith(oidc.issuer)

    def test_sign_out_without_an_end_session_endpoint_redirects_to_sign_in(
        self, browser, oidc, change_discovery
    ):
        browser.sign_in(oidc.add_person("ana"))
        change_discovery(end_session_endpoint=None)

        response = browser.client.post("/sign-out")

        assert response.headers["Location"] == "/sign-in"
        assert not browser.is_signed_in


class TestKeys:
    @pytest.mark.parametrize("keys", [None, {}, "text"])
    def test_key_set_without_a_list_does_not_replace_the_cached_keys(
        self, oidc, provider, client, monkeypatch, keys
    ):
        person = oidc.add_person("ana")
        headers = {"Authorization": f"Bearer {oidc.access_token(person)}"}
        assert client.get("/api/v1/users/me", headers=headers).status_code == 200
        monkeypatch.setattr(providers, "KEYS_SECONDS", 0)
        send = providers.send_request

        def send_without_keys(method, url, **options):
            response = send(method, url, **options)
            if url.endswith("/certs"):
                monkeypatch.setattr(response, "_content", json.dumps({"keys": keys}).encode())
            return response

        monkeypatch.setattr(providers, "send_request", send_without_keys)

        assert client.get("/api/v1/users/me", headers=headers).status_code == 200

    def test_expired_keys_are_used_while_the_provider_is_unreachable(
        self, oidc, provider, client, monkeypatch
    ):
        person = oidc.add_person("ana")
        headers = {"Authorization": f"Bearer {oidc.access_token(person)}"}
        assert client.get("/api/v1/users/me", headers=headers).status_code == 200
        monkeypatch.setattr(providers, "KEYS_SECONDS", 0)
        oidc.is_down = True

        assert client.get("/api/v1/users/me", headers=headers).status_code == 200

    @pytest.mark.parametrize(
        "entry",
        [
            {"kty": "oct", "k": "c2VjcmV0", "alg": "HS256"},
            Key().jwk() | {"use": "enc"},
            {"kty": "unknown"},
            "text",
        ],
        ids=["symmetric", "encryption", "unknown type", "text"],
    )
    def test_unusable_key_before_the_signing_key_is_skipped(
        self, browser, oidc, monkeypatch, entry
    ):
        if isinstance(entry, dict):
            entry = entry | {"kid": oidc.keys[0].id}
        signing_key = oidc.keys[0]

        class Unusable:
            def jwk(self):
                return entry

        monkeypatch.setattr(oidc, "keys", [Unusable(), signing_key])
        monkeypatch.setattr(oidc, "sign", partial(oidc.sign, key=signing_key))

        browser.sign_in(oidc.add_person("ana"))

        assert browser.is_signed_in


class TestTokenResponse:
    @pytest.mark.parametrize("expires_in", [None, "300", 0, -1, 10**9])
    def test_implausible_lifetime_becomes_five_minutes(
        self, browser, oidc, change_tokens, expires_in
    ):
        change_tokens(expires_in=expires_in)

        browser.sign_in(oidc.add_person("ana"))

        lifetime = ProviderSession.objects.get().access_expires_at - timezone.now()
        assert timedelta(seconds=290) < lifetime <= timedelta(seconds=300)

    def test_session_without_a_refresh_token_is_valid_until_it_expires(
        self, browser, oidc, change_tokens
    ):
        change_tokens(refresh_token=None)
        browser.sign_in(oidc.add_person("ana"))
        expire_access_token()
        oidc.counts.clear()

        assert browser.is_signed_in
        row = ProviderSession.objects.select_related("session").get()
        assert row.access_expires_at == row.session.expires_at
        assert "token" not in oidc.counts

    def test_refresh_without_a_new_refresh_token_keeps_the_old_one(
        self, browser, oidc, change_tokens
    ):
        browser.sign_in(oidc.add_person("ana"))
        before = ProviderSession.objects.get().refresh_token
        change_tokens(refresh_token=None)
        expire_access_token()

        assert browser.is_signed_in
        row = ProviderSession.objects.get()
        assert (row.refresh_token, row.generation) == (before, 2)

    def test_refresh_without_an_id_token_keeps_the_roles(self, oidc, db, change_tokens):
        team = Organization.objects.create(name="team")
        rule = {"claim": "email", "value": "ana@example.org", "role": "member"}
        create_provider(oidc, kind="generic", claim_rules=[rule | {"organization": str(team.pk)}])
        browser = Browser(oidc)
        browser.sign_in(oidc.add_person("ana"))
        change_tokens(id_token=None)
        expire_access_token()

        assert browser.is_signed_in
        assert ProviderSession.objects.get().generation == 2
        assert Membership.objects.get(organization=team).role == "member"

    @pytest.mark.parametrize("id_token", [None, 5, ["x"]])
    def test_missing_or_malformed_id_token_is_400(self, browser, oidc, change_tokens, id_token):
        change_tokens(id_token=id_token)

        response = browser.sign_in(oidc.add_person("ana"))

        assert response.status_code == 400
        assert "failed a security check" in response.text

    @pytest.mark.parametrize("userinfo", [{"sub": "sub-of-bob"}, {}, ["x"]], ids=str)
    def test_userinfo_of_another_user_is_400(self, browser, oidc, monkeypatch, userinfo):
        monkeypatch.setattr(providers, "fetch_userinfo", lambda *_args: userinfo)

        response = browser.sign_in(oidc.add_person("ana"))

        assert response.status_code == 400
        assert not browser.is_signed_in
