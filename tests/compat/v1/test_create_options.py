"""Fields of new V0 and V1 conversations: each one is applied or refused by its name."""

import pytest

from conversations import services
from conversations.models import Conversation

pytestmark = pytest.mark.django_db
V1, V0 = "/api/v1/app-conversations", "/api/conversations"


@pytest.mark.parametrize(
    ("body", "name"),
    [
        ({"plugins": [{"source": "x"}]}, "plugins"),
        ({"secrets": {"A": "b"}}, "secrets"),
        ({"max_iterations": 50}, "max_iterations"),
        ({"tags": {"a": "b"}}, "tags"),
        ({"confirmation_policy": {"kind": "AlwaysConfirm"}}, "confirmation_policy"),
        ({"confirmation_mode": True}, "confirmation_mode"),
        ({"security_analyzer": "llm"}, "security_analyzer"),
        ({"agent_profile_id": "p"}, "agent_profile_id"),
        ({"processors": [{"kind": "X"}]}, "processors"),
        ({"system_message_suffix": "Be bold"}, "system_message_suffix"),
        ({"agent_type": "plan"}, "agent_type"),
        ({"selected_branch": "dev"}, "selected_branch"),
        ({"pr_number": ["x"]}, "pr_number"),
        ({"pr_number": [-1]}, "pr_number"),
    ],
)
@pytest.mark.parametrize("path", [V1, f"{V1}/stream-start"])
def test_v1_field_that_cannot_be_kept_is_refused_by_name(api, path, body, name):
    response = api.post(path, body, format="json")

    assert response.status_code == 422, response.content
    assert response.json()["error"].startswith(name)
    assert not Conversation.objects.exists()


def test_v1_body_of_the_web_client_and_empty_fields_are_accepted(api):
    body = {
        "parent_conversation_id": None,
        "initial_message": None,
        "title": None,
        "git_provider": "github",
        "plugins": None,
        "agent_profile_id": None,
        "sandbox_id": None,
        "agent_type": "default",
        "trigger": "gui",
    }

    assert api.post(V1, body, format="json").status_code == 200


def test_v1_numbers_of_pull_requests_are_kept(api):
    api.post(V1, {"pr_number": [7, 9], "trigger": "resolver"}, format="json")

    row = Conversation.objects.get()
    assert (row.pull_requests, row.trigger) == ([7, 9], "resolver")


@pytest.mark.parametrize(
    "field",
    [
        {"llm_model": "openai/x"},
        {"selected_repository": "octo/r"},
        {"pr_number": [7]},
        {"conversation_id": "01890000-0000-7000-8000-000000000000"},
    ],
)
def test_v1_field_without_effect_in_an_existing_sandbox_is_refused(api, conversation, field):
    body = {"sandbox_id": conversation.sandbox_id.hex} | field

    response = api.post(V1, body, format="json")

    assert response.status_code == 422
    assert response.json()["error"].startswith(next(iter(field)))


def test_v1_child_in_another_repository_than_its_parent_is_refused(api, alice):
    parent = services.create_conversation(user=alice)
    body = {"parent_conversation_id": str(parent.pk), "selected_repository": "octo/other"}

    assert api.post(V1, body, format="json").status_code == 422


@pytest.mark.parametrize(
    ("body", "name"),
    [
        ({"max_iterations": 50}, "max_iterations"),
        ({"confirmation_mode": True}, "confirmation_mode"),
        ({"tags": ["a"]}, "tags"),
        ({"selected_branch": "dev"}, "selected_branch"),
        ({"mcp_config": {"sse_servers": []}}, "mcp_config"),
        ({"replay_json": "[]"}, "replay_json"),
    ],
)
def test_v0_field_that_cannot_be_kept_is_refused_by_name(api, body, name):
    response = api.post(V0, {"initial_user_msg": "Hi"} | body, format="json")

    assert response.status_code == 422, response.content
    assert name in response.json()["error"]
    assert not Conversation.objects.exists()
