"""The compatible reads run at most as many database queries as the native routes, by key and by session."""

import json
from datetime import timedelta

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from accounts.models import Membership, Organization
from compat.settings.reading import read_record_in
from conversations.log.summaries import find_summaries
from conversations.models import Conversation, Event, NewEvent
from tests.conftest import key_client
from tests.factories.conversations import ConversationFactory

pytestmark = pytest.mark.django_db
LOG = "/api/v1/conversations/{pk}/events?limit=2"
PAIRS = [
    ("/api/settings", "/api/v1/settings"),
    ("/api/conversations?limit=20", "/api/v1/conversations?limit=20"),
    ("/api/conversations?limit=1&page_id={cursor}", "/api/v1/conversations?limit=20"),
    ("/api/conversations/{pk}", "/api/v1/conversations/{pk}"),
    ("/api/v1/app-conversations/search?limit=20", "/api/v1/conversations?limit=20"),
    ("/api/v1/app-conversations?ids={pk}", "/api/v1/conversations/{pk}"),
    ("/api/conversations/{pk}/events?start_id=0&limit=2", LOG),
    ("/api/conversations/{pk}/events?start_id=3&limit=2", LOG),
    ("/api/conversations/{pk}/events?reverse=true&limit=2", LOG),
    ("/api/v1/events/search?conversation_id__eq={pk}&limit=2", LOG),
    ("/api/v1/events/search?conversation_id__eq={pk}&limit=2&page_id={event}", LOG),
    ("/api/v1/events/search?conversation_id__eq={pk}&limit=2&sort_order=TIMESTAMP_DESC", LOG),
    ("/api/conversations/{pk}/events/search?limit=2", LOG),
]


def count_queries(client, path):
    client.get(path)  # stores the last use of a key
    with CaptureQueriesContext(connection) as captured:
        response = client.get(path)
    assert response.status_code == 200, response.content
    return len(captured)


@pytest.fixture
def browser(alice):
    client = Client()
    client.force_login(alice)
    return client


@pytest.fixture
def log(alice):
    """Return a conversation of Alice with children and events."""
    conversation = ConversationFactory(created_by=alice)
    ConversationFactory(created_by=alice, parent=conversation)
    for n in range(8):
        kind = ("ActionEvent", "ObservationEvent")[n % 2]
        payload = json.dumps({"action_id": f"e{n - 1}", "action": {"kind": "TerminalAction"}})
        conversation.append(NewEvent(f"e{n}", kind, "agent", payload))
    return conversation


@pytest.mark.parametrize("caller", ["key", "session"])
@pytest.mark.parametrize(("compatible", "native"), PAIRS)
def test_read_runs_at_most_the_queries_of_the_native_route(
    api, browser, alice, log, caller, compatible, native
):
    client = api if caller == "key" else browser
    ConversationFactory.create_batch(3, created_by=alice)
    cursor = client.get("/api/conversations?limit=1").json()["next_page_id"]
    values = {"pk": log.pk, "cursor": cursor, "event": log.events.order_by("seq")[2].pk}

    counts = [count_queries(client, path.format(**values)) for path in (compatible, native)]

    assert counts[0] <= counts[1]


def test_list_reads_archived_and_shared_conversations_in_order(alice, bob):
    team = Organization.objects.create(name="Team")
    for user in (alice, bob):
        Membership.objects.create(organization=team, user=user)
    now = timezone.now()
    expected = []
    for n in range(24):
        row = ConversationFactory(
            created_by=(alice, bob)[n % 2],
            organization=team,
            created_at=now - timedelta(minutes=n // 3),  # equal times are ordered by id
            visibility="organization" if n % 3 == 0 else "private",
            archived_at=now if n % 5 == 0 else None,
            deleted_at=now if n == 6 else None,
        )
        if (n % 2 == 0 or n % 3 == 0) and n != 6:
            expected.append(row)
    ConversationFactory(created_by=alice, organization=team, parent=expected[0])
    expected.sort(key=lambda row: (row.created_at, row.pk), reverse=True)
    client = key_client(alice, organization=team)

    for path, rows, name in (
        ("/api/conversations?limit=4", "results", "conversation_id"),
        ("/api/v1/app-conversations/search?limit=4", "items", "id"),
    ):
        found, page = [], ""
        while page is not None:
            body = client.get(f"{path}{page}").json()
            found += [row[name] for row in body[rows]]
            page = body["next_page_id"] and f"&page_id={body['next_page_id']}"
        assert found == [row.pk.hex for row in expected]


def test_v1_pages_of_a_copied_log_keep_its_order_whatever_the_keys(api, alice):
    conversation = ConversationFactory(created_by=alice)
    for n in range(1, 8):  # the first event has the highest primary key
        Event.objects.create(
            id=10**9 - n,
            seq=n,
            event_id=f"e{n}",
            conversation=conversation,
            organization=conversation.organization,
            kind="MessageEvent",
            source="agent",
            payload="{}",
        )
    Conversation.objects.filter(pk=conversation.pk).update(last_seq=7)
    path = f"/api/v1/events/search?conversation_id__eq={conversation.pk}&limit=3"

    for order, expected in (("", range(1, 8)), ("&sort_order=TIMESTAMP_DESC", range(7, 0, -1))):
        found, page = [], ""
        while page is not None:
            body = api.get(f"{path}{order}{page}").json()
            found += [event["id"] for event in body["items"]]
            page = body["next_page_id"] and f"&page_id={body['next_page_id']}"
        assert found == [f"e{n}" for n in expected]


def test_v1_page_after_a_deleted_event_continues_by_its_key(api, alice):
    conversation = ConversationFactory(created_by=alice)
    for n in range(1, 5):
        conversation.append(NewEvent(f"e{n}", "MessageEvent", "agent", "{}"))
    second = conversation.events.get(seq=2)
    path = f"/api/v1/events/search?conversation_id__eq={conversation.pk}&page_id={second.pk}"
    second.delete()

    for order, expected in (("", ["e3", "e4"]), ("&sort_order=TIMESTAMP_DESC", ["e1"])):
        assert [event["id"] for event in api.get(f"{path}{order}").json()["items"]] == expected


@pytest.mark.parametrize("named", ["session", "query", "header"])
def test_settings_of_the_named_organization_are_read_in_one_query(browser, alice, named):
    team = Organization.objects.create(name="Team")
    Membership.objects.create(organization=team, user=alice)
    browser.patch(
        f"/api/v1/settings?organization={team.pk}",
        {"values": {"language": "fr"}},
        content_type="application/json",
    )
    path, headers = "/api/settings", {}
    if named == "session":
        session = browser.session
        session["organization"] = str(team.pk)
        session.save()
    elif named == "query":
        path = f"{path}?organization={team.pk}"
    else:
        headers = {"X-Organization": str(team.pk)}

    assert browser.get(path, headers=headers).json()["language"] == "fr"
    Membership.objects.filter(organization=team).delete()
    response = browser.get(path, headers=headers)
    # An organization that the request names must exist; one that the session names is forgotten.
    assert response.status_code == (200 if named == "session" else 404)
    if named == "session":
        assert response.json()["language"] == "en"


def test_settings_of_a_suspended_organization_are_refused(api, browser, alice):
    Organization.objects.filter(pk=alice.personal_organization.pk).update(
        suspended_at=timezone.now()
    )

    assert api.get("/api/settings").status_code == 401
    assert browser.get("/api/settings").json()["code"] == "organization-suspended"


def test_inactive_user_sees_no_conversation_and_no_settings(alice, log):
    organization = alice.personal_organization.pk
    assert find_summaries(alice, [log.pk]).keys() == {log.pk}
    assert read_record_in(alice, organization, "settings.view")

    alice.is_active = False

    assert find_summaries(alice, [log.pk]) == {}
    assert read_record_in(alice, organization, "settings.view") is None


def test_conversation_key_finds_only_its_conversation(alice, log):
    other = ConversationFactory(created_by=alice)
    alice.bound_organization_id, alice.bound_conversation_id = log.organization_id, log.pk

    assert find_summaries(alice, [log.pk, other.pk]).keys() == {log.pk}
