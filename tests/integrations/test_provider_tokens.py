"""Connecting Git hosts: canonical ``/api/v1/provider-tokens`` and what existing clients call."""

import json

import pytest
from rest_framework.test import APIClient

from accounts.models import AuditEntry, ProviderToken
from accounts.services import provider_tokens
from tests.conftest import key_client
from tests.fakes.github import LOGIN, TOKEN, exhausted

TOKENS = "/api/v1/provider-tokens"
ADD = "/api/add-git-providers"


def kept(user):
    return provider_tokens.use_token(
        user_id=user.pk, organization_id=user.personal_organization.pk, provider="github"
    ).token


class TestCanonical:
    def test_connect_list_disconnect(self, api, alice, fake):
        made = api.put(f"{TOKENS}/github", {"token": TOKEN, "host": fake.host}, format="json")
        listed = api.get(TOKENS).json()
        row = ProviderToken.objects.get()

        assert made.status_code == 200
        assert made.json()["user"]["login"] == LOGIN
        assert listed == {
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
        assert TOKEN not in made.content.decode()
        assert TOKEN not in json.dumps(list(AuditEntry.objects.values("before", "after")))
        assert kept(alice) == TOKEN

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
    def test_refused_and_nothing_kept(
        self, api, fake, connected, alice, provider, body, status, code
    ):
        if "host" not in body and "token" in body:
            body = body | {"host": fake.host}
        answer = api.put(f"{TOKENS}/{provider}", body, format="json")

        assert (answer.status_code, answer.json()["code"]) == (status, code)
        assert kept(alice) == TOKEN

    def test_a_host_that_is_away_keeps_the_old_token(self, api, fake, connected, alice):
        fake.trouble = exhausted
        answer = api.put(f"{TOKENS}/github", {"token": "new", "host": fake.host}, format="json")

        assert answer.status_code == 503
        assert int(answer.headers["Retry-After"]) > 100
        assert kept(alice) == TOKEN

    def test_a_key_needs_the_scope(self, alice, fake):
        client = key_client(alice, scopes=["integrations.view"])
        assert client.get(TOKENS).status_code == 200
        answer = client.put(f"{TOKENS}/github", {"token": TOKEN, "host": fake.host}, format="json")
        assert answer.status_code == 403
        assert fake.requests == []

    def test_a_teammate_has_none_of_it(self, connected, alice, bob, charlie):
        for person, status in ((alice, 200), (bob, 200), (charlie, 404)):
            client = APIClient()
            client.force_authenticate(person)
            answer = client.get(f"{TOKENS}?organization={connected.organization_id}")
            assert answer.status_code == status
            assert len(answer.json().get("items", [])) == (person == alice)


class TestCompat:
    def test_all_four_are_sent_and_empty_ones_left_alone(self, api, fake, alice):
        def send(token, host=fake.host):
            tokens = {
                name: {"token": "", "host": ""} for name in ("gitlab", "bitbucket", "azure_devops")
            }
            tokens["github"] = {"token": token, "host": host}
            return api.post(ADD, {"provider_tokens": tokens}, format="json")

        assert send(TOKEN).status_code == 200
        assert send("").status_code == 200
        assert kept(alice) == TOKEN

        refused = send("ghp_bad")
        assert refused.status_code == 401
        assert "rejected this token" in refused.json()["error"]
        assert kept(alice) == TOKEN

    def test_one_that_is_refused_keeps_all_out(self, api, fake):
        tokens = {"github": {"token": TOKEN, "host": fake.host}, "gitlab": {"token": "x"}}
        answer = api.post(ADD, {"provider_tokens": tokens}, format="json")

        assert answer.status_code == 400
        assert "gitlab" in answer.json()["error"]
        assert not ProviderToken.objects.exists()

    @pytest.mark.parametrize(
        "body", [{}, {"provider_tokens": []}, {"provider_tokens": {"github": 1}}]
    )
    def test_odd_bodies(self, api, body):
        answer = api.post(ADD, body, format="json")
        assert answer.status_code == 400
        assert answer.json()["error"]

    def test_unset(self, api, connected):
        assert api.post("/api/unset-provider-tokens").status_code == 200
        assert api.post("/api/unset-provider-tokens").status_code == 200
        assert not ProviderToken.objects.exists()
