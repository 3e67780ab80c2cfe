"""Connecting Git hosts through ``/api/v1/provider-tokens`` and through the routes of OpenHands' clients."""

import json

import pytest
from rest_framework.test import APIClient

from accounts.models import AuditEntry, ProviderToken
from accounts.services import provider_tokens
from tests.conftest import key_client
from tests.fakes.github import LOGIN, TOKEN, exhausted

TOKENS = "/api/v1/provider-tokens"
ADD = "/api/add-git-providers"


def stored_token(user):
    return provider_tokens.use_token(
        user_id=user.pk, organization_id=user.personal_organization.pk, provider="github"
    ).token


class TestV1Routes:
    def test_token_is_connected_listed_and_disconnected(self, api, alice, fake):
        connected = api.put(f"{TOKENS}/github", {"token": TOKEN, "host": fake.host}, format="json")
        body = api.get(TOKENS).json()
        row = ProviderToken.objects.get()

        assert connected.status_code == 200
        assert connected.json()["user"]["login"] == LOGIN
        assert body == {
            "items": [
                {
                    "provider": "github",
                    "host": fake.host,
                    "created_at": row.created_at.isoformat().replace("+00:00", "Z"),
                    "updated_at": row.updated_at.isoformat().replace("+00:00", "Z"),
                    "last_used_at": None,
                }
            ],
            "next": None,
        }
        assert TOKEN not in connected.content.decode()
        assert TOKEN not in json.dumps(list(AuditEntry.objects.values("before", "after")))
        assert stored_token(alice) == TOKEN

        assert [api.delete(f"{TOKENS}/github").status_code for _ in range(2)] == [204, 204]
        assert api.get(TOKENS).json() == {"items": [], "next": None}

    @pytest.mark.parametrize(
        ("provider", "body", "status", "code"),
        [
            ("github", {"token": "ghp_wrong"}, 409, "provider-token-refused"),
            ("github", {"token": "**********"}, 400, "invalid-provider-token"),
            ("github", {"token": TOKEN, "host": "http://ghe.example.com"}, 422, "bad-host"),
            ("github", {}, 400, "invalid"),
            ("gitlab", {"token": "x"}, 404, "unknown-provider"),
            ("nothing", {"token": "x"}, 404, "unknown-provider"),
        ],
    )
    def test_refused_token_keeps_the_stored_token(
        self, api, fake, connected, alice, provider, body, status, code
    ):
        if "host" not in body and "token" in body:
            body = body | {"host": fake.host}
        response = api.put(f"{TOKENS}/{provider}", body, format="json")

        assert (response.status_code, response.json()["code"]) == (status, code)
        assert stored_token(alice) == TOKEN

    def test_unreachable_host_is_503_and_keeps_the_stored_token(self, api, fake, connected, alice):
        fake.trouble = exhausted
        response = api.put(f"{TOKENS}/github", {"token": "new", "host": fake.host}, format="json")

        assert response.status_code == 503
        assert int(response.headers["Retry-After"]) > 100
        assert stored_token(alice) == TOKEN

    def test_key_without_the_manage_scope_lists_but_does_not_connect(self, alice, fake):
        client = key_client(alice, scopes=["integrations.view"])
        assert client.get(TOKENS).status_code == 200
        response = client.put(
            f"{TOKENS}/github", {"token": TOKEN, "host": fake.host}, format="json"
        )
        assert response.status_code == 403
        assert fake.requests == []

    def test_teammate_sees_no_token_and_outsider_gets_404(self, connected, alice, bob, charlie):
        for person, status in ((alice, 200), (bob, 200), (charlie, 404)):
            client = APIClient()
            client.force_authenticate(person)
            response = client.get(f"{TOKENS}?organization={connected.organization_id}")
            assert response.status_code == status
            assert len(response.json().get("items", [])) == (person == alice)


class TestOpenHandsRoutes:
    def test_empty_tokens_of_the_form_are_skipped(self, api, fake, alice):
        def send(token, host=fake.host):
            tokens = {
                name: {"token": "", "host": ""} for name in ("gitlab", "bitbucket", "azure_devops")
            }
            tokens["github"] = {"token": token, "host": host}
            return api.post(ADD, {"provider_tokens": tokens}, format="json")

        assert send(TOKEN).status_code == 200
        assert send("").status_code == 200
        assert stored_token(alice) == TOKEN

        refused = send("ghp_bad")
        assert refused.status_code == 401
        assert "rejected this token" in refused.json()["error"]
        assert stored_token(alice) == TOKEN

    def test_one_unsupported_provider_stores_no_token(self, api, fake):
        tokens = {"github": {"token": TOKEN, "host": fake.host}, "gitlab": {"token": "x"}}
        response = api.post(ADD, {"provider_tokens": tokens}, format="json")

        assert response.status_code == 400
        assert "gitlab" in response.json()["error"]
        assert not ProviderToken.objects.exists()

    @pytest.mark.parametrize(
        "body", [{}, {"provider_tokens": []}, {"provider_tokens": {"github": 1}}]
    )
    def test_invalid_body_is_400_with_a_sentence(self, api, body):
        response = api.post(ADD, body, format="json")
        assert response.status_code == 400
        assert response.json()["error"]

    def test_unset_route_deletes_every_token_and_is_repeatable(self, api, connected):
        assert api.post("/api/unset-provider-tokens").status_code == 200
        assert api.post("/api/unset-provider-tokens").status_code == 200
        assert not ProviderToken.objects.exists()
