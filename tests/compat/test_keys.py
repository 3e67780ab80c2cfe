"""``/api/keys``: the API key routes of OpenHands' clients."""

from datetime import timedelta

from django.utils import timezone

from accounts import services as accounts
from accounts.models import ApiKey
from tests.conftest import key_client

URL = "/api/keys"


def test_key_is_created_listed_and_deleted(client, alice):
    client.force_login(alice)

    response = client.post(URL, {"name": "ci"}, content_type="application/json")

    assert response.status_code == 200
    body = response.json()
    row = ApiKey.objects.get()
    record = {
        "id": str(row.pk),
        "name": "ci",
        "prefix": row.prefix,
        "created_at": body["created_at"],
        "last_used_at": None,
        "expires_at": body["expires_at"],
    }
    assert body == record | {"key": body["key"]}
    assert client.get("/api/v1/users/me", headers={"X-API-Key": body["key"]}).status_code == 200
    [listed_key] = client.get(URL).json()
    assert listed_key == record | {"last_used_at": listed_key["last_used_at"]}
    assert client.delete(f"{URL}/{row.pk}").json() == {"message": "API key deleted"}
    assert client.get(URL).json() == []


def test_key_without_a_name_gets_the_default_name_and_keeps_its_expiry(api):
    expires_at = (timezone.now() + timedelta(days=3)).replace(microsecond=0)

    key = api.post(URL, {"expires_at": expires_at.isoformat()}, format="json").json()

    assert key["name"] == "API key"
    assert key["expires_at"] == expires_at.isoformat().replace("+00:00", "Z")


def test_expiry_in_the_past_is_422(api):
    response = api.post(URL, {"name": "x", "expires_at": "2020-01-01T00:00:00Z"}, format="json")

    assert response.status_code == 422
    assert response.json()["error"]


def test_other_users_key_is_404_and_stays_usable(api, alice, charlie):
    key = ApiKey.objects.get(user=alice)

    assert key_client(charlie).delete(f"{URL}/{key.pk}").status_code == 404
    key.refresh_from_db()
    assert key.is_usable


def test_model_key_routes_are_404_with_code_no_model_key(api):
    """The 404 makes clients hide the section about model keys."""
    assert api.get(f"{URL}/llm/byor").json()["code"] == "no-model-key"
    assert api.get(f"{URL}/llm/byor").status_code == 404
    assert api.post(f"{URL}/llm/byor/refresh").status_code == 404


def test_deleted_key_names_the_keys_that_were_created_with_it(alice, client):
    parent, token = accounts.issue_api_key(user=alice, name="parent")
    headers = {"Authorization": f"Bearer {token}"}
    child = client.post(URL, {"name": "child"}, content_type="application/json", headers=headers)
    owner = key_client(alice)

    message = owner.delete(f"{URL}/{parent.pk}").json()["message"]

    assert message.startswith("API key deleted. ")
    assert child.json()["prefix"] in message
