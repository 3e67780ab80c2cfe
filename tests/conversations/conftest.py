"""A conversation, an engine for it, and what waits in the queue."""

import json

import pytest
from procrastinate.contrib.django.models import ProcrastinateJob

from conversations import services
from conversations.engine.payloads import Durable, parse_event
from conversations.models import Conversation, Lease
from conversations.sandboxes import provider
from tests.fakes.agent_server import FakeAgentServer, FakeProvider


@pytest.fixture
def engine():
    with FakeAgentServer() as server:
        yield server


@pytest.fixture
def sandboxes(engine, monkeypatch):
    """The provider of all sandboxes of this test."""
    fake = FakeProvider(engine)
    monkeypatch.setitem(provider._instances, "process", fake)
    return fake


@pytest.fixture
def conversation(alice) -> Conversation:
    """Alice's, just created, without a message."""
    return services.create_conversation(user=alice, title="A conversation")


@pytest.fixture
def running(conversation, sandboxes) -> Conversation:
    """Alice's, with its engine up and a manager of generation 1 that follows it."""
    services.start_conversation(conversation_id=conversation.pk)
    Lease.objects.filter(conversation=conversation).update(owner="m", generation=1, following_run=1)
    conversation.refresh_from_db()
    assert conversation.status == "running", conversation.status_detail
    return conversation


def frame(seq: int, **fields) -> Durable:
    """An engine event at its index, as its socket gives it."""
    event = {"id": f"event-{seq}", "kind": "MessageEvent", "source": "agent"} | fields
    return Durable(seq, parse_event(json.dumps(event).encode(), seq=seq))


def status_frame(seq: int, status: str) -> Durable:
    return frame(
        seq,
        kind="ConversationStateUpdateEvent",
        source="environment",
        key="execution_status",
        value=status,
    )


def ingest(conversation, *frames, generation=1) -> int:
    return services.ingest_events(
        conversation_id=conversation.pk, generation=generation, frames=frames
    )


def queued(task: str) -> list[dict]:
    """The arguments of the jobs of a task that wait."""
    rows = ProcrastinateJob.objects.filter(task_name=f"conversations.tasks.{task}", status="todo")
    return [row.args for row in rows.order_by("id")]
