"""The settings that ``GET /api/v1/users/me`` adds to the profile for OpenHands' clients."""

import pytest
from rest_framework.test import APIClient

from accounts.services import user_settings
from billing import services
from tests.conftest import key_client

pytestmark = pytest.mark.django_db
ME = "/api/v1/users/me"


def test_profile_shows_effective_settings_with_masked_secrets(
    api, alice, bob, django_assert_max_num_queries
):
    scope = {"organization": alice.personal_organization}
    mcp = {"shttp_servers": [{"url": "https://m.example.com/x", "api_key": "mcp-Sec-1"}]}
    values = {"max_iterations": 7, "search_api_key": "tvly-Sec-1", "mcp_config": mcp}
    user_settings.change_settings(user=alice, **scope, values=values)
    user_settings.change_settings(user=bob, **scope, values={"max_iterations": 9})
    user_settings.change_organization_settings(**scope, values={"condenser_max_size": 33})
    services.save_model_access(
        user=alice, **scope, model="m", base_url="https://m.example.com/v1", api_key="llm-Sec-1"
    )
    api.get(ME)

    with django_assert_max_num_queries(3):
        response = api.get(ME)

    body = response.json()
    assert (body["id"], body["email"], body["email_verified"]) == (
        str(alice.pk), "alice@example.com", True,
    )  # fmt: skip
    assert (body["max_iterations"], body["condenser_max_size"]) == (7, 33)
    assert body["llm_base_url"] == "https://m.example.com/v1"
    assert "Sec-" not in response.content.decode()
    for mask in (body["llm_api_key"], body["search_api_key"]):
        assert set(mask) == {"*"}
    assert set(body["mcp_config"]["shttp_servers"][0]["api_key"]) == {"*"}
    flat = api.get("/api/settings").json()
    assert {n for n in flat if not n.endswith("_set")} <= set(body)


def test_profile_hides_settings_from_a_key_without_the_settings_scope(api, alice):
    assert api.get(ME).json()["max_iterations"] == 500
    body = key_client(alice, scopes=["account.view"]).get(ME).json()
    assert set(body) == {"id", "email", "name", "is_staff", "organizations"}


@pytest.mark.parametrize("organization", ["00000000-0000-0000-0000-000000000000", "x"])
def test_unknown_organization_hides_the_settings_and_shows_the_account(alice, organization):
    client = APIClient()
    client.force_authenticate(alice)
    assert "max_iterations" in client.get(ME).json()

    response = client.get(ME, headers={"X-Organization": organization})

    assert response.status_code == 200
    assert set(response.json()) == {"id", "email", "name", "is_staff", "organizations"}
