"""``/api/v1/secrets``: custom secrets, whose values no response contains."""

import pytest
from rest_framework.test import APIClient

from accounts.models import CustomSecret
from accounts.services import custom_secrets
from tests.conftest import key_client

URL = "/api/v1/secrets"


def create_secret(client, **fields):
    return client.post(URL, {"name": "TOKEN", "value": " Secret value\n"} | fields, format="json")


@pytest.fixture
def bobs_client(alice, bob):
    client = APIClient()
    client.force_login(bob)
    return client


def test_new_secret_has_every_field_except_the_value(api, alice):
    response = create_secret(api, description="of the build")

    row = CustomSecret.objects.get()
    assert response.status_code == 201
    assert response.json() == {
        "id": str(row.pk),
        "organization": str(alice.personal_organization.pk),
        "scope": "user",
        "name": "TOKEN",
        "description": "of the build",
        "created_by": str(alice.pk),
        "created_at": response.json()["created_at"],
        "updated_at": response.json()["updated_at"],
        "is_readable": True,
    }
    assert row.value == " Secret value\n"
    assert api.get(f"{URL}/{row.pk}").json() == response.json()
    assert api.get(URL).json() == {"items": [response.json()], "next": None}


def test_existing_name_in_the_scope_is_409(api):
    create_secret(api)

    assert create_secret(api).json()["code"] == "secret-exists"
    assert create_secret(api, scope="organization").status_code == 201


def test_list_is_filtered_by_scope(api):
    create_secret(api)
    create_secret(api, scope="organization", name="SHARED")

    assert [s["name"] for s in api.get(f"{URL}?scope=user").json()["items"]] == ["TOKEN"]
    assert [s["name"] for s in api.get(f"{URL}?scope=organization").json()["items"]] == ["SHARED"]
    assert len(api.get(URL).json()["items"]) == 2
    assert api.get(f"{URL}?scope=all").status_code == 400


def test_secret_is_renamed_replaced_and_deleted(api):
    path = f"{URL}/{create_secret(api).json()['id']}"

    assert api.patch(path, {"name": "OTHER"}, format="json").json()["name"] == "OTHER"
    assert CustomSecret.objects.get().value == " Secret value\n"
    assert api.patch(path, {"value": "********"}, format="json").status_code == 400
    assert api.patch(path, {"value": "new-one"}, format="json").status_code == 200
    assert CustomSecret.objects.get().value == "new-one"
    assert api.delete(path).status_code == 204
    assert api.get(path).status_code == 404


def test_use_in_a_conversation_is_listed(api, alice):
    secret = create_secret(api).json()
    conversation = "01890000-0000-7000-8000-000000000001"
    custom_secrets.use_secret(
        user_id=alice.pk, organization_id=alice.personal_organization.pk,
        conversation_id=conversation, name="TOKEN",
    )  # fmt: skip

    [use] = api.get(f"{URL}/{secret['id']}/uses").json()["items"]

    assert use == {
        "id": use["id"],
        "conversation": conversation,
        "posted_by": None,
        "used_at": use["used_at"],
    }


def test_member_may_read_shared_secrets_but_not_change_them(api, alice, bobs_client):
    organization = alice.personal_organization.pk
    own = create_secret(api).json()["id"]
    shared = create_secret(api, scope="organization", name="SHARED").json()["id"]

    assert [
        s["name"] for s in bobs_client.get(f"{URL}?organization={organization}").json()["items"]
    ] == ["SHARED"]
    assert bobs_client.get(f"{URL}/{shared}").status_code == 200
    assert bobs_client.patch(f"{URL}/{shared}", {"value": "y"}, format="json").status_code == 403
    assert bobs_client.delete(f"{URL}/{shared}").status_code == 403
    assert bobs_client.get(f"{URL}/{own}").status_code == 404
    body = {"name": "X", "value": "y", "organization": str(organization)}
    assert bobs_client.post(URL, body, format="json").status_code == 201
    refused = bobs_client.post(URL, body | {"scope": "organization"}, format="json")
    assert refused.json()["permission"] == "organization_secrets.edit"


def test_secret_of_another_organization_is_404(api, charlie):
    secret = create_secret(api).json()["id"]
    stranger = key_client(charlie)

    for method in ("get", "patch", "delete"):
        assert getattr(stranger, method)(f"{URL}/{secret}").status_code == 404
    assert stranger.get(f"{URL}/{secret}/uses").status_code == 404
    assert stranger.get(URL).json()["items"] == []
