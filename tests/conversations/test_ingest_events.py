import json
import threading

import pytest
from django.db import connection, connections

from conversations import services
from conversations.engine.payloads import Durable, parse_event
from conversations.models import Conversation, Event, Lease
from conversations.sandboxes.provider import State
from conversations.services import redaction
from tests.conversations.conftest import ingest, list_queued_jobs, make_frame, make_status_frame
from tests.hostile import EVENTS

QUERIES = 3
"""One statement, and the savepoint and its release, which the test's own transaction makes necessary."""
LOCKED_QUERIES = 6
"""Queries of a batch that changes more than the log: the lock, the known ids, one statement, the open messages, and
the savepoint and its release."""


def read_log(conversation):
    return list(conversation.events.order_by("seq").values_list("seq", "engine_seq", "event_id"))


def test_events_are_stored_in_order(running):
    assert ingest(running, make_frame(0), make_frame(1)) == 2

    assert read_log(running) == [(1, 0, "event-0"), (2, 1, "event-1")]


def test_known_events_are_skipped(running):
    ingest(running, make_frame(0), make_frame(1))

    assert ingest(running, make_frame(0), make_frame(1), make_frame(2)) == 1
    assert ingest(running, make_frame(1)) == 0
    assert len(read_log(running)) == 3


def test_batch_with_a_gap_is_refused_and_stores_nothing(running):
    with pytest.raises(services.LogGap):
        ingest(running, make_frame(0), make_frame(2))

    assert read_log(running) == []


def test_batch_of_a_stale_generation_is_refused(running):
    Lease.objects.filter(conversation=running).update(generation=2)

    with pytest.raises(services.StaleLease):
        ingest(running, make_frame(0))

    assert read_log(running) == []


def test_event_with_a_repeated_id_is_stored_under_a_new_id(running):
    ingest(running, make_frame(0, id="same"))

    ingest(running, make_frame(1, id="same"))

    [first, second] = running.events.order_by("seq")
    assert (first.event_id, second.event_id[:2]) == ("same", "x-")
    assert json.loads(second.payload)["id"] == "same"


@pytest.mark.parametrize("name", EVENTS)
def test_hostile_event_reads_back_unchanged(running, api, name):
    event = parse_event(EVENTS[name], seq=0)

    ingest(running, Durable(0, event), make_frame(1))

    stored = Event.objects.get(conversation=running, engine_seq=0)
    assert stored.payload == event.payload
    response = api.get(f"/api/v1/conversations/{running.pk}/events")
    assert response.status_code == 200
    assert event.payload.encode() in response.content
    assert running.events.get(engine_seq=1).seq == stored.seq + 1


def test_status_events_update_the_execution_status(running):
    ingest(running, make_status_frame(0, "running"))
    running.refresh_from_db()
    assert running.execution_status == "running"

    ingest(running, make_frame(1), make_status_frame(2, "waiting_for_confirmation"))

    running.refresh_from_db()
    assert (running.execution_status, running.asked_seq, running.asked_in_run) == (
        "waiting_for_confirmation",
        3,
        1,
    )


def test_number_of_queries_does_not_depend_on_the_number_of_events(
    running, django_assert_num_queries
):
    # Cache that there are no secrets, so that ingestion does not query for them.
    redaction.build_payload_redactor(running.pk)
    with django_assert_num_queries(QUERIES):
        ingest(running, make_frame(0))
    with django_assert_num_queries(QUERIES):
        ingest(running, *[make_frame(n) for n in range(1, 150)])
    with django_assert_num_queries(LOCKED_QUERIES):
        ingest(running, *[make_frame(n) for n in range(100, 250)], make_status_frame(250, "idle"))


@pytest.mark.django_db(transaction=True)
def test_parallel_writers_leave_no_gap_and_no_duplicate(alice, sandboxes):
    conversation = services.create_conversation(user=alice)
    start = threading.Barrier(5)

    def write(writer):
        start.wait()
        for n in range(20):
            services.post_message(
                conversation_id=conversation.pk, text="x", message_id=f"{writer}-{n // 2}"
            )
        connections.close_all()

    threads = [threading.Thread(target=write, args=(n,)) for n in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert list(conversation.events.order_by("seq").values_list("seq", flat=True)) == list(
        range(1, 51)
    )
    assert Conversation.objects.get(pk=conversation.pk).last_seq == 50


class TestUnreachableEngine:
    def lose_engine(self, conversation, sandboxes):
        sandboxes.state = State.FAILED
        return services.handle_unreachable_engine(conversation_id=conversation.pk, generation=1)

    def test_busy_engine_is_restarted_with_a_notice_of_the_reason(self, running, sandboxes):
        ingest(running, make_status_frame(0, "running"))

        assert self.lose_engine(running, sandboxes)

        running.refresh_from_db()
        assert (running.status, running.execution_status) == ("starting", "error")
        notice = json.loads(running.events.get(kind="SandboxNotice").payload)
        assert notice["code"] == "engine_stopped"
        assert notice["detail"] == "killed by signal 9"
        assert {"conversation_id": str(running.pk)} in list_queued_jobs("start_conversation")

    def test_idle_engine_is_not_restarted(self, running, sandboxes):
        before = len(list_queued_jobs("start_conversation"))

        assert self.lose_engine(running, sandboxes)

        running.refresh_from_db()
        assert running.status == "stopped"
        assert len(list_queued_jobs("start_conversation")) == before

    def test_engine_that_still_runs_is_left_alone(self, running, sandboxes):
        assert not services.handle_unreachable_engine(conversation_id=running.pk, generation=1)

        running.refresh_from_db()
        assert running.status == "running"
        assert running.events.count() == 0

    def test_engine_that_dies_repeatedly_fails_the_conversation(self, running, sandboxes):
        for _ in range(4):
            running.refresh_from_db()
            ingest(running, make_status_frame(running.engine_seq + 1, "running"))
            self.lose_engine(running, sandboxes)
            services.start_conversation(conversation_id=running.pk)

        running.refresh_from_db()
        assert running.status == "failed"
        assert "several times in a row" in running.status_detail


def test_payload_is_stored_byte_for_byte(running):
    payload = '{"a": 1e400, "a":"\\u0000\\ud800",  "b":[ 1.0 ]}'
    ingest(running, Durable(0, parse_event(payload.encode(), seq=0)))

    with connection.cursor() as cursor:
        cursor.execute("SELECT payload FROM conversations_event WHERE engine_seq = 0")
        assert cursor.fetchone()[0] == payload
