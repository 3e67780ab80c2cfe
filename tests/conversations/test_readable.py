"""What is shared with an organization is read by those roles that may read conversations."""

import base64

import pytest
from rest_framework.test import APIClient

from conversations import services
from conversations.engine.client import CommandResult
from conversations.models import Conversation
from conversations.services import files

pytestmark = pytest.mark.django_db


@pytest.fixture
def shared(alice, bob):
    """Alice's, shown to the team in which Bob is somebody."""
    conversation = services.create_conversation(
        user=alice, organization=alice.personal_organization, message="The plan is secret"
    )
    Conversation.objects.filter(pk=conversation.pk).update(visibility="organization")
    return conversation


@pytest.mark.parametrize(
    ("role", "reads"), [("member", True), ("viewer", True), ("billing", False), ("auditor", False)]
)
def test_events_and_matches_are_for_readers(shared, bob, role, reads):
    bob.memberships.update(role=role)
    client = APIClient()
    client.force_login(bob)
    event_id = shared.events.get(kind="UserMessage").event_id

    answers = [
        client.get("/api/v1/events/search", {"conversation_id__eq": str(shared.pk)}),
        client.get("/api/v1/events", {"id": event_id}),
        client.get("/api/v1/conversations", {"q": "plan"}),
        client.get("/", {"q": "plan"}),
    ]
    count = client.get("/api/v1/events/count", {"conversation_id__eq": str(shared.pk)}).json()

    assert [answer.status_code for answer in answers] == [200] * 4
    assert bool(count) is reads
    for answer in answers[:3]:
        assert (b"plan" in answer.content) is reads, answer.content
    assert (str(shared.pk).encode() in answers[3].content) is reads


def test_keys_that_end_wake_the_sockets_of_the_organization(
    shared, alice, bob, monkeypatch, django_capture_on_commit_callbacks
):
    woken = []
    monkeypatch.setattr(
        "accounts.services.sessions.publisher.nudge", lambda group, _: woken.append(group)
    )

    with django_capture_on_commit_callbacks(execute=True):
        services.set_visibility(conversation_id=shared.pk, visibility="private")

    assert {f"user.{user.pk.hex}" for user in (alice, bob)} <= set(woken)


def test_a_lone_surrogate_names_no_event(shared, alice):
    client = APIClient()
    client.force_login(alice)

    answer = client.generic(
        "GET",
        f"/api/conversations/{shared.pk.hex}/events",
        b'["\\ud800", "x"]',
        content_type="application/json",
        headers={"X-Session-API-Key": services.conversation_key(conversation=shared, user=alice)},
    )

    assert (answer.status_code, answer.json()) == (200, [None, None])


@pytest.mark.parametrize("moment", ["0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59"])
def test_a_page_beyond_time_is_refused(alice, moment):
    client = APIClient()
    client.force_login(alice)
    page_id = base64.urlsafe_b64encode(f"{moment}|{alice.pk}".encode()).decode()

    assert client.get("/api/conversations", {"page_id": page_id}).status_code == 422


def test_a_link_to_a_name_that_is_no_text_is_not_followed():
    class Sandbox:
        def execute(self, command, **_):
            return CommandResult(0, base64.b64encode(b"/w/\xff").decode(), "")

    with pytest.raises(files.NoSuchFile):
        files._resolve(Sandbox(), "/w", "link", must_exist=True)


@pytest.mark.parametrize(
    "wanted",
    [
        {"repository": "a/../b"},
        {"repository": "a/b", "git_provider": "nowhere"},
        {"repository": "a/b", "selected_branch": "--upload-pack=x"},
    ],
)
def test_an_impossible_repository_starts_nothing(api, wanted):
    answer = api.post("/api/conversations", {"initial_user_msg": "x"} | wanted, format="json")

    assert answer.status_code == 422, answer.content
    assert not Conversation.objects.exists()
