"""Batches of several conversations that are stored by one statement, and those left to ``ingest_events``."""

import asyncio

import pytest
from asgiref.sync import sync_to_async
from django.db import connections

from accounts.services import custom_secrets
from conversations import services
from conversations.manager.storing import Storing
from conversations.models import Conversation, Event, Lease
from conversations.services import redaction
from tests.conversations.conftest import make_frame, make_status_frame
from tests.factories.conversations import ConversationFactory, LeaseFactory


def create_live_conversations(count):
    conversations = [ConversationFactory() for _ in range(count)]
    for conversation in conversations:
        LeaseFactory(conversation=conversation, generation=1, owner="m", is_wanted=True)
    return conversations


def build_batch(conversation, *frames, generation=1):
    return services.Batch(conversation.pk, generation, frames)


def read_log(conversation):
    rows = Event.objects.filter(conversation=conversation).order_by("seq")
    return list(rows.values_list("seq", "event_id", "engine_seq"))


def test_batch_of_a_conversation_with_secrets_is_left_out(db):
    one, other = create_live_conversations(2)
    custom_secrets.create_secret(
        organization=one.organization, by=one.created_by, name="TOKEN", value="Sec-value-1"
    )

    stored = services.ingest_together(
        batches=[
            build_batch(one, make_frame(0, text="Sec-value-1")),
            build_batch(other, make_frame(0)),
        ]
    )

    assert stored == {other.pk}
    assert read_log(one) == []


def test_batches_of_several_conversations_are_stored_by_one_statement(
    db, django_assert_num_queries
):
    one, other = create_live_conversations(2)
    Conversation.objects.filter(pk=other.pk).update(last_seq=5)
    for conversation in (one, other):
        # Cache that there are no secrets, so that the redaction needs no query.
        redaction.build_payload_redactor(conversation.pk)

    with django_assert_num_queries(3):  # the statement, and a savepoint and its release
        stored = services.ingest_together(
            batches=[
                build_batch(one, make_frame(0), make_frame(1)),
                build_batch(other, make_frame(0)),
            ]
        )

    assert stored == {one.pk, other.pk}
    assert read_log(one) == [(1, "event-0", 0), (2, "event-1", 1)]
    assert read_log(other) == [(6, "event-0", 0)]
    one.refresh_from_db()
    assert (one.last_seq, one.engine_seq) == (2, 1)
    assert Event.objects.get(conversation=other).payload == make_frame(0).event.payload


@pytest.mark.parametrize(
    "build_other_batch",
    [
        lambda other: build_batch(other, make_frame(0), generation=2),
        lambda other: build_batch(other, make_frame(1)),
        lambda other: build_batch(other, make_frame(0), make_frame(2)),
        lambda other: build_batch(other, make_status_frame(0, "running")),
        lambda other: build_batch(other, make_frame(0, source="user")),
        lambda other: build_batch(other, make_frame(0), make_frame(1, id="event-0")),
        build_batch,
    ],
    ids=[
        "stale generation",
        "gap before",
        "gap within",
        "status event",
        "user event",
        "repeated id",
        "empty",
    ],
)
def test_batch_with_more_than_new_events_is_left_out_and_the_others_are_stored(
    db, build_other_batch
):
    one, other = create_live_conversations(2)

    stored = services.ingest_together(
        batches=[build_other_batch(other), build_batch(one, make_frame(0))]
    )

    assert stored == {one.pk}
    assert read_log(other) == []
    other.refresh_from_db()
    assert (other.last_seq, other.engine_seq) == (0, -1)


def test_event_id_that_is_already_in_its_log_stores_no_batch(db):
    one, other = create_live_conversations(2)
    services.ingest_together(batches=[build_batch(other, make_frame(0))])

    stored = services.ingest_together(
        batches=[build_batch(one, make_frame(0)), build_batch(other, make_frame(1, id="event-0"))]
    )

    assert stored == set()
    assert read_log(one) == []
    assert read_log(other) == [(1, "event-0", 0)]


def test_deleted_conversation_is_left_out(db):
    one, deleted = create_live_conversations(2)
    services.delete_conversation(conversation_id=deleted.pk)

    stored = services.ingest_together(
        batches=[build_batch(one, make_frame(0)), build_batch(deleted, make_frame(0))]
    )

    assert stored == {one.pk}


@pytest.mark.django_db(transaction=True)
async def test_concurrent_followers_share_statements_and_each_gets_its_own_error():
    calls = []

    async def run_in_database(function, **arguments):
        calls.append(function.__name__)
        await asyncio.sleep(0.01)

        def call():
            try:
                return function(**arguments)
            finally:
                connections.close_all()

        return await sync_to_async(call, thread_sensitive=False)()

    conversations = await sync_to_async(create_live_conversations)(12)
    await sync_to_async(Lease.objects.filter(conversation=conversations[3]).update)(generation=9)
    storing = Storing(run_in_database)

    outcomes = await asyncio.gather(
        *(
            storing.store(conversation_id=c.pk, generation=1, frames=[make_frame(0), make_frame(1)])
            for c in conversations
        ),
        storing.store(conversation_id=conversations[0].pk, generation=1, frames=[make_frame(5)]),
        return_exceptions=True,
    )

    refused = {number: type(outcome) for number, outcome in enumerate(outcomes) if outcome}
    assert refused == {3: services.StaleLease, 12: services.LogGap}
    assert calls.count("ingest_together") <= 4
    rows = await sync_to_async(list)(Event.objects.values_list("conversation_id", "seq"))
    assert sorted(rows) == sorted(
        (c.pk, n) for c in conversations if c is not conversations[3] for n in (1, 2)
    )
    await sync_to_async(connections.close_all)()
