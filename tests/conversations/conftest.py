"""Fixtures of conversations and their fake engine, and a reader of the job queue."""

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
    """Replace the provider ``process`` by a fake whose sandboxes are all ``engine``."""
    fake = FakeProvider(engine)
    monkeypatch.setitem(provider._instances, "process", fake)
    return fake


@pytest.fixture
def conversation(alice) -> Conversation:
    """Return a new conversation of Alice without a message."""
    return services.create_conversation(user=alice, title="A conversation")


@pytest.fixture
def running(conversation, sandboxes) -> Conversation:
    """Return Alice's conversation with a running engine and a lease of generation 1."""
    services.start_conversation(conversation_id=conversation.pk)
    Lease.objects.filter(conversation=conversation).update(owner="m", generation=1, following_run=1)
    conversation.refresh_from_db()
    assert conversation.status == "running", conversation.status_detail
    return conversation


def make_frame(seq: int, **fields) -> Durable:
    """Return an engine event at the index ``seq``, as the engine's socket sends it."""
    event = {"id": f"event-{seq}", "kind": "MessageEvent", "source": "agent"} | fields
    return Durable(seq, parse_event(json.dumps(event).encode(), seq=seq))


def make_status_frame(seq: int, status: str) -> Durable:
    return make_frame(
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


def list_queued_jobs(task: str) -> list[dict]:
    """Return the arguments of a task's jobs in status ``todo``, oldest first."""
    rows = ProcrastinateJob.objects.filter(task_name=f"conversations.tasks.{task}", status="todo")
    return [row.args for row in rows.order_by("id")]
