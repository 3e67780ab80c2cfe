"""``/api/secrets``: the routes of OpenHands' clients for custom secrets."""

import pytest

from accounts.models import CustomSecret
from accounts.services import custom_secrets
from tests.conftest import key_client

URL = "/api/secrets"


@pytest.fixture
def token(api):
    response = api.post(
        URL, {"name": "TOKEN", "value": "Sec-value", "description": "d"}, format="json"
    )
    assert response.status_code == 201
    assert response.json() == {"message": "Secret created"}
    return CustomSecret.objects.get()


def test_list_shows_own_secrets_without_values(api, alice, token):
    custom_secrets.create_secret(
        organization=alice.personal_organization, by=alice, name="SHARED", value="x", is_shared=True
    )

    response = api.get(URL)

    assert response.json() == {"custom_secrets": [{"name": "TOKEN", "description": "d"}]}


def test_create_with_an_existing_name_is_400_and_keeps_the_value(api, token):
    response = api.post(URL, {"name": "TOKEN", "value": "other"}, format="json")

    sentence = "A secret with the name TOKEN already exists."
    assert response.status_code == 400
    assert response.json() == {"message": sentence, "error": sentence}
    token.refresh_from_db()
    assert token.value == "Sec-value"


def test_update_without_a_value_keeps_the_stored_value(api, token):
    response = api.put(f"{URL}/TOKEN", {"name": "OTHER"}, format="json")

    assert (response.status_code, response.json()) == (200, {"message": "Secret updated"})
    token.refresh_from_db()
    assert (token.name, token.value, token.description) == ("OTHER", "Sec-value", "d")
    api.put(f"{URL}/OTHER", {"name": "OTHER", "description": None}, format="json")
    token.refresh_from_db()
    assert token.description == ""


def test_rename_to_an_existing_name_is_400(api, token):
    api.post(URL, {"name": "OTHER", "value": "x"}, format="json")

    response = api.put(f"{URL}/OTHER", {"name": "TOKEN"}, format="json")

    assert response.status_code == 400
    assert "TOKEN" in response.json()["message"]


def test_deleted_secret_is_404(api, token):
    assert api.delete(f"{URL}/TOKEN").json() == {"message": "Secret deleted"}
    assert api.delete(f"{URL}/TOKEN").status_code == 404
    assert api.put(f"{URL}/TOKEN", {"name": "X"}, format="json").status_code == 404


def test_other_user_neither_lists_nor_deletes_a_secret(token, charlie):
    stranger = key_client(charlie)

    assert stranger.get(URL).json() == {"custom_secrets": []}
    assert stranger.delete(f"{URL}/TOKEN").status_code == 404


@pytest.mark.parametrize(
    "body", [{}, {"name": "X"}, {"name": "a b", "value": "x"}, {"name": "X", "value": ""}]
)
def test_invalid_secret_is_400_with_a_sentence(api, body):
    response = api.post(URL, body, format="json")

    assert response.status_code == 400
    assert response.json()["error"]
