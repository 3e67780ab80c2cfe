"""Access to shared conversations by role, and refusals of invalid input."""

import base64

import pytest
from rest_framework.test import APIClient

from conversations import services
from conversations.models import Conversation

pytestmark = pytest.mark.django_db


@pytest.fixture
def shared(alice, bob):
    """Return Alice's conversation, shared with the organization in which Bob is a member."""
    conversation = services.create_conversation(
        user=alice, organization=alice.personal_organization, message="The plan is secret"
    )
    Conversation.objects.filter(pk=conversation.pk).update(visibility="organization")
    return conversation


@pytest.mark.parametrize(
    ("role", "may_read"),
    [("member", True), ("viewer", True), ("billing", False), ("auditor", False)],
)
def test_shared_events_and_matches_are_visible_by_role(shared, bob, role, may_read):
    bob.memberships.update(role=role)
    client = APIClient()
    client.force_login(bob)
    event_id = shared.events.get(kind="UserMessage").event_id

    responses = [
        client.get("/api/v1/events/search", {"conversation_id__eq": str(shared.pk)}),
        client.get("/api/v1/events", {"id": event_id}),
        client.get("/api/v1/conversations", {"q": "plan"}),
        client.get("/", {"q": "plan"}),
    ]
    count = client.get("/api/v1/events/count", {"conversation_id__eq": str(shared.pk)}).json()

    assert [response.status_code for response in responses] == [200] * 4
    assert bool(count) is may_read
    for response in responses[:3]:
        assert (b"plan" in response.content) is may_read, response.content
    assert (str(shared.pk).encode() in responses[3].content) is may_read


@pytest.mark.parametrize("is_own", [False, True])
@pytest.mark.parametrize(
    ("role", "may_read"),
    [
        ("owner", True),
        ("admin", True),
        ("member", True),
        ("viewer", True),
        ("billing", False),
        ("auditor", False),
    ],
)
def test_lists_of_all_protocols_agree_with_the_record(shared, bob, role, may_read, is_own):
    if is_own:  # a member whose role was changed afterwards
        Conversation.objects.filter(pk=shared.pk).update(created_by=bob, title="Bob's plan")
    bob.memberships.filter(organization=shared.organization).update(role=role)
    client = APIClient()
    client.force_login(bob)
    lists = (
        "/api/v1/conversations",
        "/api/v1/conversations?archived=false",
        "/api/v1/app-conversations/search",
        f"/api/v1/app-conversations?ids={shared.pk}",
        "/api/v1/app-conversations/start-tasks/search",
        f"/api/v1/sandboxes?id={shared.sandbox_id}",
        "/api/v1/sandboxes/search",
        "/api/conversations",
        "/",
    )
    details = (
        f"/api/v1/conversations/{shared.pk}",
        f"/api/conversations/{shared.pk}",
        f"/conversations/{shared.pk}",
    )
    names = (shared.pk.hex, str(shared.pk), shared.sandbox_id.hex, shared.title)

    shown = {
        path: any(name in client.get(path).content.decode() for name in names) for path in lists
    }
    statuses = {path: client.get(path).status_code for path in details}

    assert shown == dict.fromkeys(lists, may_read)
    assert [status == 200 for status in statuses.values()] == [may_read] * 3, statuses
    count = client.get("/api/v1/app-conversations/count").json()
    assert count == int(may_read)


def test_visibility_change_nudges_the_sockets_of_every_member(
    shared, alice, bob, monkeypatch, django_capture_on_commit_callbacks
):
    nudged_groups = []
    monkeypatch.setattr(
        "accounts.services.sessions.publisher.nudge", lambda group, _: nudged_groups.append(group)
    )

    with django_capture_on_commit_callbacks(execute=True):
        services.set_sharing(conversation_id=shared.pk, by=shared.created_by, visibility="private")

    assert {f"user.{user.pk.hex}" for user in (alice, bob)} <= set(nudged_groups)


def test_event_id_with_a_lone_surrogate_is_refused(shared, alice):
    client = APIClient()
    client.force_login(alice)

    response = client.generic(
        "GET",
        f"/api/conversations/{shared.pk.hex}/events",
        b'["\\ud800", "x"]',
        content_type="application/json",
        headers={"X-Session-API-Key": services.conversation_key(conversation=shared, user=alice)},
    )

    assert (response.status_code, response.json()["code"]) == (422, "unprocessable")


@pytest.mark.parametrize("moment", ["0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59"])
def test_page_id_with_an_out_of_range_time_is_refused(alice, moment):
    client = APIClient()
    client.force_login(alice)
    page_id = base64.urlsafe_b64encode(f"{moment}|{alice.pk}".encode()).decode()

    assert client.get("/api/conversations", {"page_id": page_id}).status_code == 422


@pytest.mark.parametrize(
    "fields",
    [
        {"repository": "a/../b"},
        {"repository": "a/b", "git_provider": "nowhere"},
        {"repository": "a/b", "selected_branch": "--upload-pack=x"},
    ],
)
def test_invalid_repository_is_refused_and_creates_no_conversation(api, fields):
    response = api.post("/api/conversations", {"initial_user_msg": "x"} | fields, format="json")

    assert response.status_code == 422, response.content
    assert not Conversation.objects.exists()
