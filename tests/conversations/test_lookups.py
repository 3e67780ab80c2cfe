"""The fast reads: the same conversations as ``visible_to`` gives, in the same shape, by few queries."""

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
    """An organization of Alice and Bob, beside their own."""
    team = Organization.objects.create(name="Team")
    for user in (alice, bob):
        Membership.objects.create(organization=team, user=user)
    return team


@pytest.fixture
def conversations(alice, bob, charlie, team):
    """Every kind: one's own, shared, somebody else's, deleted, in a suspended organization, in one left."""
    closed = Organization.objects.create(name="Closed", suspended_at=timezone.now())
    Membership.objects.create(organization=closed, user=alice)
    left = Organization.objects.create(name="Left")
    made = []
    for user in (alice, bob, charlie):
        for organization in (user.personal_organization, team, closed, left):
            for visibility in Conversation.Visibility.values:
                for deleted_at, archived_at in (
                    (None, None),
                    (timezone.now(), None),
                    (None, timezone.now()),
                ):
                    made.append(
                        Conversation(
                            organization=organization, created_by=user, title=str(len(made)), model="demo",
                            visibility=visibility, deleted_at=deleted_at, archived_at=archived_at, repository={"full_name": "a/b"},
                        )
                    )  # fmt: skip
    Conversation.objects.bulk_create(made)
    return made


def callers(alice, bob, charlie, team):
    keys = [accounts.issue_api_key(user=user, name="x")[1] for user in (alice, bob, charlie)]
    keys.append(accounts.issue_api_key(user=alice, organization=team, name="x")[1])
    return [alice, bob, charlie, *(accounts.authenticate_api_key(key).user for key in keys)]


def told(record):
    return json.loads(dumps(record))


def test_lists_what_the_door_lets_through_page_by_page(conversations, alice, bob, charlie, team):
    for caller in callers(alice, bob, charlie, team):
        wanted = Conversation.objects.visible_to(caller).filter(archived_at=None)
        wanted = wanted.order_by("-created_at", "-pk")

        found, place = [], None
        while rows := lookups.list_newest(caller, limit=3, after=place):
            found += rows
            place = Position(rows[-1]["created_at"], rows[-1]["id"])

        assert [row["id"] for row in found] == [row.pk for row in wanted]
        assert found


def test_reads_the_same_record_or_nothing(conversations, alice, bob, charlie, team):
    for caller in callers(alice, bob, charlie, team):
        visible = set(Conversation.objects.visible_to(caller).values_list("pk", flat=True))
        for conversation in conversations:
            found = lookups.get_record(caller, conversation.pk)
            assert (found is not None) == (conversation.pk in visible)
            assert (lookups.get_head(caller, conversation.pk) is not None) == (found is not None)
            if found:
                assert told(found[0]) == told(build_record(conversation))


def test_a_started_one_is_told_with_its_start(alice):
    conversation = services.create_conversation(user=alice)

    found, role = lookups.get_record(alice, conversation.pk)

    assert told(found) == told(build_record(conversation))
    assert found["start_task"]["phase"] == "WORKING"
    assert role == "owner"


@pytest.mark.parametrize(("tail", "queries"), [("", 2), ("/{pk}", 2), ("/{pk}/events", 3)])
def test_few_queries_however_many_there_are(
    conversations, api, alice, django_assert_num_queries, tail, queries
):
    pk = services.create_conversation(user=alice, message="hi").pk
    path = f"/api/v1/conversations{tail.format(pk=pk)}"
    api.get(path)

    with django_assert_num_queries(queries):
        assert api.get(path).status_code == 200


def test_who_has_it_already_gets_304_and_nobody_gets_anothers(api, alice, bob):
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
