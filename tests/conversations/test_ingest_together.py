"""Events of many conversations in one statement: what is not plain news is left to the way that looks."""

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


def live(count):
    made = [ConversationFactory() for _ in range(count)]
    for conversation in made:
        LeaseFactory(conversation=conversation, generation=1, owner="m", is_wanted=True)
    return made


def batch(conversation, *frames, generation=1):
    return services.Batch(conversation.pk, generation, frames)


def log_of(conversation):
    rows = Event.objects.filter(conversation=conversation).order_by("seq")
    return list(rows.values_list("seq", "event_id", "engine_seq"))


def test_where_there_are_secrets_the_way_that_hides_them_is_taken(db):
    [one] = live(1)
    custom_secrets.create_secret(
        organization=one.organization, by=one.created_by, name="TOKEN", value="Sec-value-1"
    )

    assert (
        services.ingest_together(batches=[batch(one, make_frame(0, text="Sec-value-1"))]) == set()
    )
    assert log_of(one) == []


def test_all_are_stored_by_one_statement(db, django_assert_num_queries):
    one, other = live(2)
    Conversation.objects.filter(pk=other.pk).update(last_seq=5)
    for conversation in (one, other):
        redaction.build_payload_redactor(conversation.pk)  # which asks again only after a while

    with django_assert_num_queries(3):  # it, within a savepoint
        stored = services.ingest_together(
            batches=[batch(one, make_frame(0), make_frame(1)), batch(other, make_frame(0))]
        )

    assert stored == {one.pk, other.pk}
    assert log_of(one) == [(1, "event-0", 0), (2, "event-1", 1)]
    assert log_of(other) == [(6, "event-0", 0)]
    one.refresh_from_db()
    assert (one.last_seq, one.engine_seq) == (2, 1)
    assert Event.objects.get(conversation=other).payload == make_frame(0).event.payload


@pytest.mark.parametrize(
    "odd",
    [
        lambda other: batch(other, make_frame(0), generation=2),
        lambda other: batch(other, make_frame(1)),
        lambda other: batch(other, make_frame(0), make_frame(2)),
        lambda other: batch(other, make_status_frame(0, "running")),
        lambda other: batch(other, make_frame(0, source="user")),
        lambda other: batch(other, make_frame(0), make_frame(1, id="event-0")),
        batch,
    ],
    ids=["stale", "gap", "gap within", "state", "echo", "id twice", "empty"],
)
def test_what_is_not_plain_is_left_out_and_does_not_hold_up_the_others(db, odd):
    one, other = live(2)

    stored = services.ingest_together(batches=[odd(other), batch(one, make_frame(0))])

    assert stored == {one.pk}
    assert log_of(other) == []
    other.refresh_from_db()
    assert (other.last_seq, other.engine_seq) == (0, -1)


def test_an_id_that_a_log_has_stores_nothing_of_all(db):
    one, other = live(2)
    services.ingest_together(batches=[batch(other, make_frame(0))])

    stored = services.ingest_together(
        batches=[batch(one, make_frame(0)), batch(other, make_frame(1, id="event-0"))]
    )

    assert stored == set()
    assert log_of(one) == []


def test_deleted_ones_get_nothing(db):
    [one] = live(1)
    services.delete_conversation(conversation_id=one.pk)

    assert services.ingest_together(batches=[batch(one, make_frame(0))]) == set()


@pytest.mark.django_db(transaction=True)
async def test_followers_store_at_the_same_time_and_each_hears_its_own_refusal():
    calls = []

    async def in_database(function, **arguments):
        calls.append(function.__name__)
        await asyncio.sleep(0.01)

        def call():
            try:
                return function(**arguments)
            finally:
                connections.close_all()

        return await sync_to_async(call, thread_sensitive=False)()

    made = await sync_to_async(live)(12)
    await sync_to_async(Lease.objects.filter(conversation=made[3]).update)(generation=9)
    storing = Storing(in_database)

    outcomes = await asyncio.gather(
        *(
            storing.store(conversation_id=c.pk, generation=1, frames=[make_frame(0), make_frame(1)])
            for c in made
        ),
        storing.store(conversation_id=made[0].pk, generation=1, frames=[make_frame(5)]),
        return_exceptions=True,
    )

    refused = {number: type(outcome) for number, outcome in enumerate(outcomes) if outcome}
    assert refused == {3: services.StaleLease, 12: services.LogGap}
    assert calls.count("ingest_together") <= 4
    rows = await sync_to_async(list)(Event.objects.values_list("conversation_id", "seq"))
    assert sorted(rows) == sorted((c.pk, n) for c in made if c is not made[3] for n in (1, 2))
    await sync_to_async(connections.close_all)()
