"""Bodies with fields that a route does not have: they are refused by name, because an ignored option misleads."""

import pytest

from accounts.models import ApiKey
from conversations.models import Conversation

pytestmark = pytest.mark.django_db
ROUTES = [
    ("post", "/api/v1/conversations", {"message": "hi", "confirmation_mode": True}),
    ("post", "/api/v1/conversations", {"message": "hi", "max_iterations": 5}),
    ("patch", "/api/v1/conversations/{id}", {"title": "x", "confirmation_policy_": "always"}),
    ("post", "/api/v1/conversations/{id}/messages", {"text": "hi", "run": False}),
    # A key whose scopes have a wrong name would have no limit.
    ("post", "/api/v1/api-keys", {"name": "ci", "scope": ["conversations.view"]}),
    ("post", "/api/v1/api-keys", {"name": "ci", "expires_in_days": 1}),
    ("patch", "/api/v1/settings", {"values": {}, "language": "fr"}),
    (
        "put",
        "/api/v1/settings/model-access",
        {"base_url": "https://x.example", "model": "m", "apikey": "k"},
    ),
    ("put", "/api/secrets/TOKEN", {"name": "TOKEN", "value": "new"}),
    ("post", "/api/keys", {"name": "ci", "scopes": ["conversations.view"]}),
]


@pytest.fixture
def conversation(api):
    return api.post("/api/v1/conversations", {}, format="json").json()["id"]


@pytest.mark.parametrize(("method", "path", "body"), ROUTES)
def test_unknown_field_is_refused_by_name(api, conversation, method, path, body):
    api.post("/api/secrets", {"name": "TOKEN", "value": "old"}, format="json")
    before = Conversation.objects.count(), ApiKey.objects.count()

    response = getattr(api, method)(path.format(id=conversation), body, format="json")

    assert response.status_code == 400, response.content
    assert response.json()["detail"].endswith(": This field is not supported here.")
    assert list(body)[-1] in response.json()["detail"]
    assert (Conversation.objects.count(), ApiKey.objects.count()) == before
