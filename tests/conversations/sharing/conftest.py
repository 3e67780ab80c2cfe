"""A team of Alice and Bob with secrets and models, and conversations that Alice shares with it."""

import pytest
from rest_framework.test import APIClient

from accounts.services import custom_secrets, provider_tokens, user_settings
from billing import services as billing
from conversations import repositories, services
from conversations.services import delivery

PERSONAL = {
    "secret": "Sec-personal-1",
    "git": "ghp_Sec-personal-2",
    "mcp": "Sec-personal-3",
    "search": "Sec-personal-4",
}
SHARED = "Sec-shared-1"
READ_ONLY = {"visibility": "organization"}
STEERED = {"visibility": "organization", "others_may_steer": True}
LENT = STEERED | {"lends_personal": True}
REPOSITORY = {"provider": "github", "full_name": "octo/private"}


@pytest.fixture
def team(bob):
    """A client of Bob, a member of Alice's organization."""
    return session_client(bob)


def session_client(user):
    client = APIClient()
    client.force_login(user)
    return client


@pytest.fixture
def equipped(alice, engine, sandboxes, monkeypatch):
    """Give Alice each kind of personal equipment, and her organization a secret and a model."""
    monkeypatch.setattr(repositories, "_resolver", repositories.public_source)
    # No manager follows these runs.
    monkeypatch.setattr(delivery, "FOLLOWER_WAIT_SECONDS", 0.0)
    engine.answers["POST /api/bash/execute_bash_command"] = (
        200,
        {"exit_code": 0, "stdout": "", "stderr": ""},
    )
    organization = alice.personal_organization
    place = {"organization": organization, "user": alice}
    for name, value, is_shared in (
        ("OWN", PERSONAL["secret"], False),
        ("SHARED", SHARED, True),
        ("BOTH", "Sec-personal-5", False),
        ("BOTH", "Sec-shared-2", True),
    ):
        custom_secrets.create_secret(
            organization=organization, by=alice, name=name, value=value, is_shared=is_shared
        )
    provider_tokens.set_provider_token(**place, provider="github", token=PERSONAL["git"])
    servers = {"shttp_servers": [{"url": "https://a.example.com/mcp", "api_key": PERSONAL["mcp"]}]}
    user_settings.change_settings(
        **place, values={"mcp_config": servers, "search_api_key": PERSONAL["search"]}
    )
    billing.save_model_access(**place, base_url="https://models.example.com/v1", model="own")
    lend_model(organization)
    return alice


def lend_model(organization):
    billing.save_model_access(
        organization=organization, user=None, base_url="https://m.example.com/v1", model="lent"
    )


def start(user, engine, **fields):
    """Start a new conversation with a repository; return it and the engine's start request."""
    conversation = services.create_conversation(
        user=user, message="Go", repository=REPOSITORY, **fields
    )
    return conversation, run_start(conversation, engine)


def run_start(conversation, engine):
    """Deliver the open messages, with a start of the sandbox if needed; return the engine's newest start request."""
    services.deliver_messages(conversation_id=conversation.pk)
    services.start_conversation(conversation_id=conversation.pk)
    services.deliver_messages(conversation_id=conversation.pk)
    conversation.refresh_from_db()
    bodies = [b for m, s, b in engine.calls if (m, s) == ("POST", "/api/conversations")]
    return bodies[-1]
