"""The tools of the MCP server: results, limits, refusals and access, without the protocol."""

from uuid import uuid4

import pytest
from rest_framework.test import APIClient

from accounts import services as accounts
from accounts.permissions import MissingPermission
from conversations import services
from conversations.models import Conversation
from integrations.mcp import tools
from integrations.mcp.tools import Caller, NoSuchConversation, NoSuchTool, call
from integrations.services import NotConnected
from tests.conversations.conftest import list_queued_jobs
from tests.factories.conversations import ConversationFactory, EventFactory

pytestmark = pytest.mark.django_db
PULL_REQUEST = {
    "repo_name": "octo/r",
    "source_branch": "fix",
    "target_branch": "main",
    "title": "Fix",
}


@pytest.fixture
def caller(alice):
    return Caller(alice, alice.personal_organization)


def test_list_filters_by_every_word_and_limits_the_page(caller, alice, charlie):
    for title in ("Fix the login", "Fix the logout", "login page"):
        ConversationFactory(created_by=alice, title=title)
    ConversationFactory(created_by=charlie, title="Fix the login")

    def list_titles(**arguments):
        return [row["title"] for row in call(caller, "list_conversations", arguments)["items"]]

    assert list_titles() == ["login page", "Fix the logout", "Fix the login"]
    assert list_titles(limit=1) == ["login page"]
    assert list_titles(q="LOGIN fix") == ["Fix the login"]
    assert list_titles(q="nothing") == []


def test_start_stores_repository_branch_and_trigger(caller):
    arguments = {
        "message": "Fix it",
        "title": "Named",
        "repository": "octo/r",
        "branch": "dev",
        "provider": "gitlab",
    }

    record = call(caller, "start_conversation", arguments)

    row = Conversation.objects.get(pk=record["id"])
    assert (record["title"], row.trigger) == ("Named", "openhands_api")
    assert row.repository == {"provider": "gitlab", "full_name": "octo/r", "branch": "dev"}
    assert row.events.get().payload == '{"text":"Fix it"}'


def test_branch_without_a_repository_is_ignored(caller):
    record = call(caller, "start_conversation", {"message": "Fix it", "branch": "dev"})

    assert Conversation.objects.get(pk=record["id"]).repository is None


def test_newest_events_are_returned_in_order_with_long_payloads_cut(caller, alice, monkeypatch):
    monkeypatch.setattr(tools, "PAYLOAD_MAX", 5)
    conversation = ConversationFactory(created_by=alice)
    for payload in ('{"a":1}', "{}", '"xyz"'):
        EventFactory(conversation=conversation, payload=payload)

    body = call(caller, "get_conversation", {"conversation_id": str(conversation.pk), "events": 2})

    assert body["conversation"]["id"] == str(conversation.pk)
    assert body["events"] == [
        {"seq": 2, "kind": "MessageEvent", "source": "agent", "payload": "{}", "is_cut": False},
        {"seq": 3, "kind": "MessageEvent", "source": "agent", "payload": '"xyz"', "is_cut": False},
    ]
    whole = call(caller, "get_conversation", {"conversation_id": str(conversation.pk)})["events"]
    assert (whole[0]["payload"], whole[0]["is_cut"]) == ('{"a":', True)


def test_interrupt_names_the_conversation_and_queues_the_task(caller, alice):
    conversation = ConversationFactory(created_by=alice, status="running")

    body = call(caller, "interrupt", {"conversation_id": str(conversation.pk)})

    assert body == {"interrupted": str(conversation.pk)}
    assert len(list_queued_jobs("interrupt_agent")) == 1


@pytest.mark.parametrize("name", ["get_conversation", "interrupt", "send_message"])
@pytest.mark.parametrize("which", ["foreign", "unknown", "malformed"])
def test_other_conversation_does_not_exist_for_the_caller(caller, charlie, name, which):
    foreign = ConversationFactory(created_by=charlie)
    ids = {"foreign": str(foreign.pk), "unknown": str(uuid4()), "malformed": "x"}
    text = {"text": "Hi"} if name == "send_message" else {}

    with pytest.raises(NoSuchConversation):
        call(caller, name, {"conversation_id": ids[which]} | text)
    assert not foreign.events.exists()


def test_viewer_reads_but_does_not_steer(alice, bob):
    conversation = ConversationFactory(created_by=alice, visibility="organization")
    bob.memberships.filter(organization=alice.personal_organization).update(role="viewer")
    viewer = Caller(bob, alice.personal_organization)
    target = {"conversation_id": str(conversation.pk)}

    assert call(viewer, "get_conversation", target)["events"] == []
    with pytest.raises(MissingPermission):
        call(viewer, "send_message", target | {"text": "Hi"})
    assert not conversation.events.exists()


def test_key_without_the_scope_is_named_in_the_refusal(alice):
    _, token = accounts.issue_api_key(user=alice, name="mcp", scopes=["conversations.view"])
    user = accounts.authenticate_api_key(token, address="127.0.0.1").user
    limited = Caller(user, alice.personal_organization)

    assert call(limited, "list_conversations", {}) == {"items": []}
    with pytest.raises(MissingPermission, match=r"lacks the scope pull_requests\.create"):
        call(limited, "create_pr", PULL_REQUEST)


def test_unknown_tool_is_refused_with_its_shortened_name(caller):
    with pytest.raises(NoSuchTool) as refused:
        call(caller, "x" * 100, {})

    name = "x" * 60
    assert refused.value.detail == (
        f"There is no tool named '{name}'. List the tools to see their names."
    )


class TestPullRequest:
    def test_without_a_connected_host_is_refused(self, caller):
        with pytest.raises(NotConnected):
            call(caller, "create_pr", PULL_REQUEST)

    def test_without_a_conversation_is_opened_with_its_labels(self, caller, connected, fake):
        repo = fake.add("octo/r", branches=("fix",))

        body = call(caller, "create_pr", PULL_REQUEST | {"labels": ["bot"], "draft": False})

        assert body == {"number": 7, "url": f"{fake.url}/octo/r/pull/7"}
        assert (repo.labels, repo.pulls[0]["draft"]) == ({7: ["bot"]}, False)

    def test_for_another_users_conversation_is_not_opened(self, alice, charlie, connected, fake):
        repo = fake.add("octo/r", branches=("fix",))
        foreign = services.create_conversation(user=charlie)
        caller = Caller(alice, alice.personal_organization, str(foreign.pk))

        with pytest.raises(NoSuchConversation):
            call(caller, "create_pr", PULL_REQUEST)
        assert repo.pulls == []


class TestEndpoint:
    def post(self, user, body, **headers):
        _, key = accounts.issue_api_key(user=user, name="mcp")
        client = APIClient(headers={"Authorization": f"Bearer {key}"} | headers)
        return client.post("/mcp", body, format="json")

    PING = {"jsonrpc": "2.0", "id": 1, "method": "ping"}  # noqa: RUF012

    def test_request_that_does_not_accept_both_types_is_406(self, alice):
        response = self.post(alice, self.PING, Accept="text/html")

        assert response.status_code == 406

    def test_allowed_origin_is_accepted(self, alice, settings):
        settings.CORS_ALLOWED_ORIGINS = ["https://app.example"]
        accept = "application/json, text/event-stream"

        response = self.post(alice, self.PING, Accept=accept, Origin="https://app.example")

        assert response.json() == {"jsonrpc": "2.0", "id": 1, "result": {}}

    def test_conversation_key_sees_its_own_conversation_only(self, alice):
        own, other = (services.create_conversation(user=alice) for _ in range(2))
        key = services.conversation_key(conversation=own, user=alice)
        client = APIClient(
            headers={"X-Session-API-Key": key, "Accept": "application/json, text/event-stream"}
        )
        arguments = {"name": "list_conversations", "arguments": {}}
        body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": arguments}

        result = client.post("/mcp", body, format="json").json()["result"]

        ids = [row["id"] for row in result["structuredContent"]["items"]]
        assert (ids, str(other.pk) in ids) == ([str(own.pk)], False)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("list_conversations", {"q": "a\0b"}),
        ("start_conversation", {"message": "a\0b"}),
        ("start_conversation", {"message": "a", "title": "\0"}),
        ("create_pr", PULL_REQUEST | {"body": "\0"}),
        ("create_pr", PULL_REQUEST | {"labels": ["a", "\0"]}),
    ],
)
def test_argument_with_nul_is_refused_by_name(caller, name, arguments):
    field = next(
        key for key, value in arguments.items() if "\0" in str(value).replace("\\x00", "\0")
    )
    with pytest.raises(tools.UnstorableArgument, match=f"'{field}' contains a NUL character"):
        call(caller, name, arguments)
    assert not Conversation.objects.exists()
