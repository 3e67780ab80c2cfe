"""``/api/v1/settings/model-access`` and the test call of the stored access."""

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
BODY = {
    "base_url": "https://models.example/v1",
    "model": "large",
    "api_key": "sk-secret-1",
    "prompt_micros_per_million": 3_000_000,
    "completion_micros_per_million": 15_000_000,
    "cached_micros_per_million": 300_000,
}
SAVED = {
    **{k: v for k, v in BODY.items() if k != "api_key"},
    "has_api_key": True,
    "is_demo": False,
}


def put(client: APIClient, body: object = BODY, query: str = ""):
    return client.put(URL + query, json.dumps(body), content_type="application/json")


class TestModelAccess:
    def test_response_without_stored_access_is_the_demo_model(self, api):
        assert api.get(URL).json() == DEMO

    def test_access_is_stored_read_and_deleted(self, api):
        response = put(api)
        assert (response.status_code, response.json()) == (200, SAVED)
        assert api.get(URL).json() == SAVED
        assert api.delete(URL).status_code == 204
        assert api.delete(URL).status_code == 204
        assert api.get(URL).json() == DEMO

    def test_key_is_in_no_response(self, api):
        for response in (put(api), api.get(URL)):
            assert response.json() == SAVED
            assert b"sk-secret-1" not in response.content

    @pytest.mark.parametrize(
        ("key_fields", "stored_key"),
        [({}, "sk-secret-1"), ({"api_key": None}, "sk-secret-1"), ({"api_key": ""}, "")],
    )
    def test_missing_key_keeps_the_stored_one_and_empty_key_removes_it(
        self, api, key_fields, stored_key
    ):
        put(api)
        response = put(api, {k: v for k, v in BODY.items() if k != "api_key"} | key_fields)
        assert response.json()["has_api_key"] is bool(stored_key)
        assert ModelAccess.objects.get().api_key() == stored_key

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
    def test_bad_body_is_400_with_the_reason(self, api, change, field):
        response = put(api, BODY | change)
        assert response.status_code == 400
        assert field in response.json()["detail"]
        assert not ModelAccess.objects.exists()

    def test_address_of_another_server_without_a_key_is_400(self, api):
        put(api)
        response = put(api, {"base_url": "https://evil.example/v1", "model": "x"})
        assert response.status_code == 400
        assert response.json()["code"] == "invalid-model-access"


class TestAccess:
    def test_access_of_one_user_is_not_that_of_another(self, api, bob, charlie):
        put(api)
        for other in (bob, charlie):
            assert key_client(other).get(URL).json() == DEMO

    def test_member_sets_a_separate_access_in_the_shared_organization(self, api, alice, bob):
        query = f"?organization={alice.personal_organization.pk}"
        with_session = APIClient()
        with_session.force_login(bob)
        assert put(with_session, query=query).status_code == 200
        assert with_session.get(URL + query).json() == SAVED
        assert with_session.get(URL).json() == DEMO
        assert api.get(URL).json() == DEMO

    def test_key_reaches_its_own_organization_only(self, alice, bob):
        bound = key_client(bob, organization=alice.personal_organization)
        assert put(bound).status_code == 200
        assert ModelAccess.objects.get().organization == alice.personal_organization
        query = f"?organization={bob.personal_organization.pk}"
        assert bound.get(URL + query).status_code == 404

    @pytest.mark.parametrize("method", ["get", "put", "delete", "post"])
    def test_organization_without_membership_is_404(self, charlie, alice, method):
        url = URL + ("/test" if method == "post" else "")
        url += f"?organization={alice.personal_organization.pk}"
        response = getattr(key_client(charlie), method)(url)
        assert response.status_code == 404

    def test_viewer_may_read_but_not_change(self, alice, bob):
        Membership.objects.filter(user=bob, organization=alice.personal_organization).update(
            role="viewer"
        )
        viewer = key_client(bob, organization=alice.personal_organization)
        assert viewer.get(URL).status_code == 200
        assert put(viewer).status_code == 403
        assert viewer.delete(URL).status_code == 403
        assert viewer.post(f"{URL}/test").status_code == 403

    def test_key_without_the_edit_scope_may_read_but_not_change(self, alice):
        reader = key_client(alice, scopes=["model_access.view"])
        assert reader.get(URL).status_code == 200
        assert put(reader).json()["permission"] == "model_access.edit"

    def test_anonymous_is_401(self, db):
        for response in (
            APIClient().get(URL),
            put(APIClient()),
            APIClient().delete(URL),
            APIClient().post(f"{URL}/test"),
        ):
            assert response.status_code == 401

    def test_malformed_organization_is_400(self, api):
        assert api.get(URL + "?organization=x").status_code == 400


class TestTestCall:
    def test_working_model_is_200_with_a_sentence(self, api, access):
        response = api.post(f"{URL}/test")
        assert response.status_code == 200
        assert response.json()["detail"].startswith("scripted-large answered")

    def test_rejected_key_is_502_with_the_reason_and_without_the_key(self, api, access, provider):
        provider.api_key = "another"
        response = api.post(f"{URL}/test")
        assert response.status_code == 502
        assert response.json()["code"] == "model-check-failed"
        assert "Incorrect API key" in response.json()["error"]
        assert UPSTREAM_KEY.encode() not in response.content

    def test_demo_model_is_409(self, api):
        response = api.post(f"{URL}/test")
        assert (response.status_code, response.json()["code"]) == (409, "no-model-access")


def test_routes_are_in_the_openapi_document(api):
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
