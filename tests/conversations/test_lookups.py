"""Lookups of lists and records: they read what ``visible_to`` returns, in few queries."""

import json

import pytest
from django.utils import timezone

from accounts import services as accounts
from accounts.models import Membership, Organization
from conversations import services
from conversations.log import lookups
from conversations.log.records import build_record
from conversations.models import Conversation
from lib.api import dumps
from lib.pages import Position
from tests.conftest import key_client

pytestmark = pytest.mark.django_db


@pytest.fixture
def team(alice, bob):
    """Return an organization of Alice and Bob, besides their personal organizations."""
    team = Organization.objects.create(name="Team")
    for user in (alice, bob):
        Membership.objects.create(organization=team, user=user)
    return team


@pytest.fixture
def conversations(alice, bob, charlie, team):
    """Return conversations of every user, organization and visibility, also deleted and archived conversations.

    One organization is suspended, and one has no members.
    """
    closed = Organization.objects.create(name="Closed", suspended_at=timezone.now())
    Membership.objects.create(organization=closed, user=alice)
    empty = Organization.objects.create(name="Empty")
    rows = []
    for user in (alice, bob, charlie):
        for organization in (user.personal_organization, team, closed, empty):
            for visibility in Conversation.Visibility.values:
                for deleted_at, archived_at in (
                    (None, None),
                    (timezone.now(), None),
                    (None, timezone.now()),
                ):
                    rows.append(
                        Conversation(
                            organization=organization, created_by=user, title=str(len(rows)), model="demo",
                            visibility=visibility, deleted_at=deleted_at, archived_at=archived_at, repository={"full_name": "a/b"},
                        )
                    )  # fmt: skip
    Conversation.objects.bulk_create(rows)
    return rows


def create_callers(alice, bob, charlie, team):
    keys = [accounts.issue_api_key(user=user, name="x")[1] for user in (alice, bob, charlie)]
    keys.append(accounts.issue_api_key(user=alice, organization=team, name="x")[1])
    return [alice, bob, charlie, *(accounts.authenticate_api_key(key).user for key in keys)]


def encode_record(record):
    """Return the record as a client decodes it."""
    return json.loads(dumps(record))


def test_pages_list_exactly_the_visible_conversations(conversations, alice, bob, charlie, team):
    for caller in create_callers(alice, bob, charlie, team):
        expected = Conversation.objects.visible_to(caller).filter(archived_at=None)
        expected = expected.order_by("-created_at", "-pk")

        listed, position = [], None
        while rows := lookups.list_newest(caller, limit=3, after=position):
            listed += rows
            position = Position(rows[-1]["created_at"], rows[-1]["id"])

        assert [row["id"] for row in listed] == [row.pk for row in expected]
        assert listed


def test_record_is_found_only_if_visible_and_equals_the_record_of_the_model(
    conversations, alice, bob, charlie, team
):
    for caller in create_callers(alice, bob, charlie, team):
        visible = set(Conversation.objects.visible_to(caller).values_list("pk", flat=True))
        for conversation in conversations:
            result = lookups.get_record(caller, conversation.pk)
            assert (result is not None) == (conversation.pk in visible)
            assert (lookups.get_head(caller, conversation.pk) is not None) == (result is not None)
            if result:
                assert encode_record(result[0]) == encode_record(build_record(conversation))


def test_record_contains_its_start_task(alice):
    conversation = services.create_conversation(user=alice)

    record, role = lookups.get_record(alice, conversation.pk)

    assert encode_record(record) == encode_record(build_record(conversation))
    assert record["start_task"]["phase"] == "WORKING"
    assert role == "owner"


@pytest.mark.parametrize(("tail", "queries"), [("", 2), ("/{pk}", 2), ("/{pk}/events", 3)])
def test_number_of_queries_does_not_depend_on_the_number_of_conversations(
    conversations, api, alice, django_assert_num_queries, tail, queries
):
    pk = services.create_conversation(user=alice, message="hi").pk
    path = f"/api/v1/conversations{tail.format(pk=pk)}"
    api.get(path)

    with django_assert_num_queries(queries):
        assert api.get(path).status_code == 200


def test_own_etag_gets_304_and_etag_of_another_user_does_not(api, alice, bob):
    conversation = services.create_conversation(user=alice)
    for tail in ("", "?archived=any", f"/{conversation.pk}", f"/{conversation.pk}/events"):
        path = f"/api/v1/conversations{tail}"
        first = api.get(path)
        tag = first.headers["ETag"]

        again = api.get(path, headers={"If-None-Match": f'"other", {tag}'})
        other = key_client(bob).get(path, headers={"If-None-Match": tag})

        assert tag.startswith('W/"')
        assert (again.status_code, again.content, again.headers["ETag"]) == (304, b"", tag)
        assert "Content-Type" not in again.headers
        assert other.status_code == (404 if tail.startswith("/") else 200)
        Conversation.objects.filter(pk=conversation.pk).update(
            title=f"New {tail}", last_seq=10 + len(tail)
        )
        assert api.get(path, headers={"If-None-Match": tag}).status_code == 200
