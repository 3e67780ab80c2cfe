"""``/api/v1/settings/model-access`` and its test call."""

import json

import pytest
from rest_framework.test import APIClient

from accounts.models import Membership
from billing.models import ModelAccess
from tests.billing.conftest import UPSTREAM_KEY
from tests.conftest import key_client

URL = "/api/v1/settings/model-access"
DEMO = {
    "base_url": "",
    "model": "demo",
    "has_api_key": False,
    "prompt_micros_per_million": 0,
    "completion_micros_per_million": 0,
    "cached_micros_per_million": 0,
    "is_demo": True,
}
WANTED = {
    "base_url": "https://models.example/v1",
    "model": "large",
    "api_key": "sk-secret-1",
    "prompt_micros_per_million": 3_000_000,
    "completion_micros_per_million": 15_000_000,
    "cached_micros_per_million": 300_000,
}
SAVED = {
    **{k: v for k, v in WANTED.items() if k != "api_key"},
    "has_api_key": True,
    "is_demo": False,
}


def put(client: APIClient, body: object = WANTED, query: str = ""):
    return client.put(URL + query, json.dumps(body), content_type="application/json")


class TestModelAccess:
    def test_is_the_demo_at_first(self, api):
        assert api.get(URL).json() == DEMO

    def test_is_set_read_and_forgotten(self, api):
        response = put(api)
        assert (response.status_code, response.json()) == (200, SAVED)
        assert api.get(URL).json() == SAVED
        assert api.delete(URL).status_code == 204
        assert api.delete(URL).status_code == 204
        assert api.get(URL).json() == DEMO

    def test_the_key_is_never_told(self, api):
        for response in (put(api), api.get(URL)):
            assert b"sk-secret-1" not in response.content

    @pytest.mark.parametrize(
        ("given", "kept"),
        [({}, "sk-secret-1"), ({"api_key": None}, "sk-secret-1"), ({"api_key": ""}, "")],
    )
    def test_absent_keeps_and_empty_removes(self, api, given, kept):
        put(api)
        response = put(api, {k: v for k, v in WANTED.items() if k != "api_key"} | given)
        assert response.json()["has_api_key"] is bool(kept)
        assert ModelAccess.objects.get().api_key() == kept

    @pytest.mark.parametrize(
        ("change", "field"),
        [
            ({"api_key": "****"}, "mask"),
            ({"base_url": "nonsense"}, "base_url"),
            ({"base_url": "https://user:pw@models.example"}, "base_url"),
            ({"base_url": None}, "base_url"),
            ({"model": ""}, "model"),
            ({"prompt_micros_per_million": 1.5}, "prompt"),
            ({"prompt_micros_per_million": -1}, "prompt"),
            ({"completion_micros_per_million": 10**30}, "completion"),
        ],
    )
    def test_refuses_with_the_reason(self, api, change, field):
        response = put(api, WANTED | change)
        assert response.status_code == 400
        assert field in response.json()["detail"]
        assert not ModelAccess.objects.exists()

    def test_moving_the_stored_key_elsewhere_is_refused(self, api):
        put(api)
        response = put(api, {"base_url": "https://evil.example/v1", "model": "x"})
        assert response.status_code == 400
        assert response.json()["code"] == "invalid-model-access"


class TestWhoMay:
    def test_everybody_has_their_own(self, api, bob, charlie):
        put(api)
        for other in (bob, charlie):
            assert key_client(other).get(URL).json() == DEMO

    def test_a_teammate_may_set_their_own_in_the_shared_organization(self, api, alice, bob):
        query = f"?organization={alice.personal_organization.pk}"
        with_session = APIClient()
        with_session.force_login(bob)
        assert put(with_session, query=query).status_code == 200
        assert with_session.get(URL + query).json() == SAVED
        assert with_session.get(URL).json() == DEMO
        assert api.get(URL).json() == DEMO

    def test_a_key_reaches_its_own_organization_only(self, alice, bob):
        bound = key_client(bob, organization=alice.personal_organization)
        assert put(bound).status_code == 200
        assert ModelAccess.objects.get().organization == alice.personal_organization
        query = f"?organization={bob.personal_organization.pk}"
        assert bound.get(URL + query).status_code == 404

    @pytest.mark.parametrize("method", ["get", "put", "delete", "post"])
    def test_a_strangers_organization_does_not_exist(self, charlie, alice, method):
        url = URL + ("/test" if method == "post" else "")
        url += f"?organization={alice.personal_organization.pk}"
        response = getattr(key_client(charlie), method)(url)
        assert response.status_code == 404

    def test_a_viewer_may_look_but_not_change(self, alice, bob):
        Membership.objects.filter(user=bob, organization=alice.personal_organization).update(
            role="viewer"
        )
        viewer = key_client(bob, organization=alice.personal_organization)
        assert viewer.get(URL).status_code == 200
        assert put(viewer).status_code == 403
        assert viewer.delete(URL).status_code == 403
        assert viewer.post(f"{URL}/test").status_code == 403

    def test_a_key_without_the_scope(self, alice):
        reader = key_client(alice, scopes=["model_access.view"])
        assert reader.get(URL).status_code == 200
        assert put(reader).json()["permission"] == "model_access.edit"

    def test_nobody(self, db):
        for response in (
            APIClient().get(URL),
            put(APIClient()),
            APIClient().delete(URL),
            APIClient().post(f"{URL}/test"),
        ):
            assert response.status_code == 401

    def test_a_malformed_organization(self, api):
        assert api.get(URL + "?organization=x").status_code == 400


class TestTheTest:
    def test_says_that_the_model_answers(self, api, access):
        response = api.post(f"{URL}/test")
        assert response.status_code == 200
        assert response.json()["detail"].startswith("scripted-large answered")

    def test_says_why_it_does_not(self, api, access, provider):
        provider.api_key = "another"
        response = api.post(f"{URL}/test")
        assert response.status_code == 502
        assert response.json()["code"] == "model-check-failed"
        assert "Incorrect API key" in response.json()["error"]
        assert UPSTREAM_KEY.encode() not in response.content

    def test_the_demo_needs_none(self, api):
        response = api.post(f"{URL}/test")
        assert (response.status_code, response.json()["code"]) == (409, "no-model-access")


def test_is_in_the_openapi(api):
    response = api.get("/api/v1/schema", headers={"Accept": "application/vnd.oai.openapi+json"})
    paths = json.loads(response.content)["paths"]
    assert set(paths[URL]) >= {"get", "put", "delete"}
    request = paths[URL]["put"]["requestBody"]["content"]["application/json"]["schema"]["$ref"]
    answer = paths[URL]["put"]["responses"]["200"]["content"]["application/json"]["schema"]["$ref"]
    assert (request.rpartition("/")[2], answer.rpartition("/")[2]) == (
        "NewModelAccessRequest",
        "ModelAccess",
    )
    assert set(paths[f"{URL}/test"]) >= {"post"}
    assert not [path for path in paths if path.startswith("/api/llm")]
