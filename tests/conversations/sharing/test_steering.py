"""Steering, stopping and deleting shared conversations, in every protocol."""

from uuid import uuid4

import pytest
from django.test import Client

from accounts.models import AuditEntry
from accounts.permissions import MissingPermission
from conversations import services
from conversations.models import Conversation, Sandbox
from conversations.services import keys
from integrations.mcp import tools
from tests.conversations.sharing.conftest import LENT, READ_ONLY, STEERED, session_client

STEERING = {
    "message": ("post", "/api/v1/conversations/{id}/messages", {"text": "hi"}),
    "rename": ("patch", "/api/v1/conversations/{id}", {"title": "x"}),
    "tags": ("patch", "/api/v1/conversations/{id}", {"tags": ["x"]}),
    "archive": ("patch", "/api/v1/conversations/{id}", {"archived": True}),
    "policy": ("patch", "/api/v1/conversations/{id}", {"confirmation_policy": "never"}),
    "policy beside the visibility": (
        "patch",
        "/api/v1/conversations/{id}",
        {"visibility": "organization", "confirmation_policy": "never"},
    ),
    "analyzer": ("patch", "/api/v1/conversations/{id}", {"security_analyzer": "none"}),
    "resume": ("post", "/api/v1/conversations/{id}/resume", {}),
    "answer": ("post", "/api/v1/conversations/{id}/confirmation", {"accept": True}),
    "start": ("post", "/api/v1/conversations/{id}/sandbox/start", {}),
    "resume sandbox": ("post", "/api/v1/conversations/{id}/sandbox/resume", {}),
    "write file": ("put", "/api/v1/conversations/{id}/files/content?path=a.txt", {}),
    "V0 message": ("post", "/api/conversations/{id}/message", {"message": "hi"}),
    "V0 rename": ("patch", "/api/conversations/{id}", {"title": "x"}),
    "V0 start": ("post", "/api/conversations/{id}/start", {}),
    "V0 action": (
        "post",
        "/api/conversations/{id}/events",
        {"action": "message", "args": {"content": "hi"}},
    ),
    "V0 resume": (
        "post",
        "/api/conversations/{id}/events",
        {"action": "change_agent_state", "args": {"agent_state": "running"}},
    ),
    "V1 resume": ("post", "/api/v1/sandboxes/{sandbox}/resume", {}),
    "V1 start in sandbox": (
        "post",
        "/api/v1/app-conversations",
        {
            "sandbox_id": "{sandbox}",
            "initial_message": {"content": [{"type": "text", "text": "x"}]},
        },
    ),
}
UNTRIED = {"write file", "answer", "policy beside the visibility"}
"""Rows that need a running engine or an open question, and the one that only the creator may send."""
STOPPING = {
    "interrupt": ("post", "/api/v1/conversations/{id}/interrupt", {}),
    "pause": ("post", "/api/v1/conversations/{id}/sandbox/pause", {}),
    "V0 stop": ("post", "/api/conversations/{id}/stop", {}),
    "V0 pause": (
        "post",
        "/api/conversations/{id}/events",
        {"action": "change_agent_state", "args": {"agent_state": "paused"}},
    ),
    "V1 pause": ("post", "/api/v1/sandboxes/{sandbox}/pause", {}),
}
DELETING = {
    "delete": ("delete", "/api/v1/conversations/{id}", {}),
    "V0 delete": ("delete", "/api/conversations/{id}", {}),
}


def create(alice, **sharing):
    return services.create_conversation(user=alice, title="A", **sharing)


def send(client, row, conversation):
    method, path, body = row
    ids = {"id": conversation.pk, "sandbox": conversation.sandbox_id.hex}
    if "sandbox_id" in body:
        body = body | {"sandbox_id": ids["sandbox"]}
    return getattr(client, method)(path.format(**ids), body, format="json")


def describe(conversation):
    """Return what steering would change."""
    row = Conversation.objects.get(pk=conversation.pk)
    return (row.last_seq, row.title, row.tags, row.archived_at, row.confirmation_policy)


@pytest.mark.parametrize("name", [*STEERING, *STOPPING, *DELETING])
def test_member_may_not_touch_a_conversation_that_is_shared_read_only(alice, team, name):
    conversation = create(alice, **READ_ONLY, confirmation_policy="always")
    before = describe(conversation)

    response = send(team, (STEERING | STOPPING | DELETING)[name], conversation)

    assert response.status_code == 403, response.content
    assert describe(conversation) == before


@pytest.mark.parametrize("name", sorted(STEERING.keys() - UNTRIED))
def test_member_may_steer_if_the_creator_lets_others(alice, team, sandboxes, name):
    conversation = create(alice, **STEERED)

    assert send(team, STEERING[name], conversation).status_code < 300


@pytest.mark.parametrize("name", STOPPING)
@pytest.mark.parametrize("role", ["admin", "owner"])
def test_administrator_may_stop_a_read_only_conversation_and_it_is_audited(
    alice, bob, sandboxes, name, role
):
    bob.memberships.filter(organization=alice.personal_organization).update(role=role)
    conversation = create(alice, **READ_ONLY)

    assert send(session_client(bob), STOPPING[name], conversation).status_code < 300

    actions = {"conversation.interrupted", "sandbox.paused"}
    assert AuditEntry.objects.filter(action__in=actions).exists()


@pytest.mark.parametrize("name", DELETING)
def test_administrators_may_delete_and_members_may_not_even_if_they_may_steer(
    alice, bob, team, name
):
    conversation = create(alice, **LENT)
    assert send(team, DELETING[name], conversation).status_code == 403

    bob.memberships.filter(organization=alice.personal_organization).update(role="admin")

    assert send(team, DELETING[name], conversation).status_code < 300
    assert AuditEntry.objects.filter(action="conversation.deleted").exists()


@pytest.mark.parametrize("name", STEERING)
def test_administrator_may_not_steer_a_read_only_conversation(alice, bob, team, name):
    bob.memberships.filter(organization=alice.personal_organization).update(role="admin")
    conversation = create(alice, **READ_ONLY)

    assert send(team, STEERING[name], conversation).status_code == 403


@pytest.mark.parametrize("action", ["message", "stop", "resume", "rename", "archive", "delete"])
def test_forms_of_the_pages_refuse_a_reader(alice, bob, action):
    conversation = create(alice, **READ_ONLY)
    client = Client()
    client.force_login(bob)

    response = client.post(
        f"/conversations/{conversation.pk}/{action}", {"text": "x", "title": "x"}
    )

    assert response.status_code == 403


@pytest.mark.parametrize("intent", ["tags", "confirmation"])
def test_forms_of_the_details_page_refuse_a_reader(alice, bob, intent):
    conversation = create(alice, **READ_ONLY)
    client = Client()
    client.force_login(bob)

    data = {"intent": intent, "tags": "x", "policy": "never", "analyzer": "none"}
    response = client.post(f"/conversations/{conversation.pk}/details", data)

    assert response.status_code == 403


def test_key_of_a_reader_to_the_conversation_does_not_steer(alice, bob, team):
    """The engine-shaped routes take the key of one conversation."""
    conversation = create(alice, **READ_ONLY)
    bob.credential = None
    key = keys.conversation_key(conversation=conversation, user=bob)
    headers = {"X-Session-API-Key": key}
    client = Client(headers=headers)
    body = {"role": "user", "content": [{"type": "text", "text": "x"}], "run": True}
    path = f"/api/conversations/{conversation.pk}"

    for suffix, data in (
        ("/events", body),
        ("/run", {}),
        ("/pause", {}),
        ("/interrupt", {}),
        ("/events/respond_to_confirmation", {"accept": True}),
    ):
        response = client.post(path + suffix, data, content_type="application/json")
        assert response.status_code == 403, (suffix, response.content)


def test_mcp_tools_refuse_a_reader(alice, bob):
    conversation = create(alice, **READ_ONLY)
    caller = tools.Caller(bob, alice.personal_organization)

    with pytest.raises(MissingPermission):
        tools.send_message(caller, conversation_id=str(conversation.pk), text="x")
    with pytest.raises(MissingPermission):
        tools.interrupt(caller, conversation_id=str(conversation.pk))


def test_member_may_not_publish_into_the_external_run_of_a_colleague(alice, bob):
    run = services.open_run(
        user=alice, conversation_id=uuid4(), organization=alice.personal_organization
    )
    services.set_sharing(conversation_id=run.pk, by=alice, **READ_ONLY)

    with pytest.raises(MissingPermission):
        services.open_run(
            user=bob, conversation_id=run.pk, organization=alice.personal_organization
        )


class TestSharingFields:
    @pytest.mark.parametrize(
        "body", [{"visibility": "private"}, {"others_may_steer": True}, {"lends_personal": True}]
    )
    def test_only_the_creator_changes_them(self, alice, team, body):
        conversation = create(alice, **STEERED)

        response = team.patch(f"/api/v1/conversations/{conversation.pk}", body, format="json")

        assert (response.status_code, response.json()["code"]) == (403, "not-yours")

    @pytest.mark.parametrize("body", [{"others_may_steer": True}, {"lends_personal": True}])
    def test_a_private_conversation_has_neither(self, alice, api, body):
        created = api.post("/api/v1/conversations", {"title": "x"} | body, format="json")
        assert (created.status_code, created.json()["code"]) == (400, "invalid-sharing")

        path = f"/api/v1/conversations/{create(alice).pk}"
        changed = api.patch(path, body, format="json")
        assert (changed.status_code, changed.json()["code"]) == (400, "invalid-sharing")

    @pytest.mark.parametrize(
        ("first", "change", "expected"),
        [
            ({}, READ_ONLY, ("organization", False, False)),
            ({}, STEERED, ("organization", True, False)),
            ({}, LENT, ("organization", True, True)),
            (LENT, {"visibility": "private"}, ("private", False, False)),
            (LENT, {"others_may_steer": False}, ("organization", False, False)),
            (LENT, {"lends_personal": False}, ("organization", True, False)),
            (LENT, {"visibility": "organization"}, ("organization", True, True)),
        ],
    )
    def test_consent_ends_with_the_circle_for_which_it_was_given(
        self, alice, api, first, change, expected
    ):
        conversation = create(alice, **first)

        record = api.patch(f"/api/v1/conversations/{conversation.pk}", change, format="json").json()

        names = ("visibility", "others_may_steer", "lends_personal")
        assert tuple(record[name] for name in names) == expected

    def test_sharing_again_does_not_restore_the_consent_or_the_right(self, alice):
        conversation = create(alice, **LENT)
        for visibility in ("private", "organization"):
            conversation = services.set_sharing(
                conversation_id=conversation.pk, by=alice, visibility=visibility
            )

        assert (conversation.others_may_steer, conversation.lends_personal) == (False, False)

    def test_change_is_audited(self, alice):
        conversation = create(alice)
        services.set_sharing(conversation_id=conversation.pk, by=alice, **LENT)

        entry = AuditEntry.objects.get(action="conversation.shared")
        assert entry.after == LENT


def test_right_is_checked_again_under_the_lock_of_the_row(alice, bob):
    """A message whose request passed the view just before the creator withdrew the right."""
    conversation = create(alice, **STEERED)
    services.set_sharing(conversation_id=conversation.pk, by=alice, others_may_steer=False)

    for call in (
        lambda: services.post_message(
            conversation_id=conversation.pk, text="x", message_id="m", by=bob
        ),
        lambda: services.resume(conversation_id=conversation.pk, by=bob),
        lambda: services.send_held_messages(conversation_id=conversation.pk, by=bob),
        lambda: services.set_confirmation(
            conversation_id=conversation.pk, confirmation_policy="never", by=bob
        ),
        lambda: services.write_file(
            conversation_id=conversation.pk, path="a", content=b"x", by=bob
        ),
    ):
        with pytest.raises(MissingPermission):
            call()
    assert not Sandbox.objects.filter(observed="running").exists()
