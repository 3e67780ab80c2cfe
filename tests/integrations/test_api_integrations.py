"""``/api/v1/integrations``: the supported Git hosts, and whether the caller has connected them."""

import pytest
from rest_framework.test import APIClient

from accounts.models import Organization, ProviderToken
from accounts.services import provider_tokens
from integrations import registry
from tests.conftest import key_client
from tests.fakes.github import TOKEN

LIST = "/api/v1/integrations"
DETAIL = f"{LIST}/github"
BOTH = (LIST, DETAIL)
NOT_CONNECTED = {
    "provider": "github",
    "host": "github.com",
    "is_connected": False,
    "connected_at": None,
    "last_used_at": None,
}


def test_host_without_a_token_is_not_connected(api):
    assert api.get(LIST).json() == {"items": [NOT_CONNECTED], "next": None}
    assert api.get(DETAIL).json() == NOT_CONNECTED


def test_connected_host_is_shown_without_its_token(api, alice, connected):
    provider_tokens.use_token(
        user_id=alice.pk, organization_id=connected.organization_id, provider="github"
    )
    row = ProviderToken.objects.get()
    record = {
        "provider": "github",
        "host": connected.host,
        "is_connected": True,
        "connected_at": row.created_at.isoformat().replace("+00:00", "Z"),
        "last_used_at": row.last_used_at.isoformat().replace("+00:00", "Z"),
    }

    list_response, detail = api.get(LIST), api.get(DETAIL)

    assert list_response.json() == {"items": [record], "next": None}
    assert detail.json() == record
    assert TOKEN not in list_response.text + detail.text


def test_token_for_the_default_host_shows_that_host(api, alice):
    provider_tokens.set_provider_token(
        user=alice, organization=alice.personal_organization, provider="github", token="x"
    )

    assert api.get(DETAIL).json()["host"] == "github.com"
    assert api.get(DETAIL).json()["is_connected"] is True


def test_hosts_are_listed_by_name(api, monkeypatch):
    monkeypatch.setitem(registry.PROVIDERS, "bitbucket", "nowhere.Provider")

    assert [row["provider"] for row in api.get(LIST).json()["items"]] == ["bitbucket", "github"]


def test_no_git_host_is_called(api, connected, fake):
    fake.requests.clear()

    assert [api.get(path).status_code for path in BOTH] == [200, 200]
    assert fake.requests == []


def test_number_of_queries_is_fixed(api, connected, django_assert_num_queries):
    api.get(LIST)
    for path in BOTH:
        with django_assert_num_queries(4):  # the key, the organization, the role, the tokens
            assert api.get(path).status_code == 200


def test_unsupported_provider_is_404(api):
    for name in ("gitlab", "nothing"):
        response = api.get(f"{LIST}/{name}")
        assert (response.status_code, response.json()["code"]) == (404, "unknown-provider")


def test_anonymous_caller_is_unauthorized(client, db):
    assert [client.get(path).status_code for path in BOTH] == [401, 401]


def test_key_without_the_scope_is_403_naming_the_scope(alice):
    client = key_client(alice, scopes=["account.view"])
    for path in BOTH:
        response = client.get(path)
        assert (response.status_code, response.json()["permission"]) == (403, "integrations.view")


def test_role_without_the_permission_is_403_naming_the_permission(alice, bob):
    bob.memberships.filter(organization=alice.personal_organization).update(role="billing")
    client = key_client(bob, organization=alice.personal_organization)
    for path in BOTH:
        response = client.get(path)
        assert (response.status_code, response.json()["permission"]) == (403, "integrations.view")


def test_teammate_sees_no_connection_and_outsider_gets_404(connected, alice, bob, charlie):
    for person, status in ((alice, 200), (bob, 200), (charlie, 404)):
        client = APIClient()
        client.force_authenticate(person)
        for path in BOTH:
            response = client.get(path, {"organization": str(connected.organization_id)})
            assert response.status_code == status
            if status == 200:
                row = response.json().get("items", [response.json()])[0]
                assert row["is_connected"] is (person == alice)


def test_bound_key_works_in_its_own_organization_only(connected, alice):
    other = Organization.objects.create(name="Other")
    alice.memberships.create(organization=other, role="owner")
    client = key_client(alice, organization=other)

    assert [client.get(path).status_code for path in BOTH] == [200, 200]
    assert client.get(DETAIL).json() == NOT_CONNECTED
    for path in BOTH:
        response = client.get(path, {"organization": str(connected.organization_id)})
        assert response.status_code == 404


@pytest.mark.parametrize("path", BOTH)
def test_unknown_parameter_is_refused_with_a_sentence(api, path):
    response = api.get(path, {"colour": "red"})

    assert response.status_code == 400
    assert response.json()["error"] == "colour: This parameter is not supported here."
