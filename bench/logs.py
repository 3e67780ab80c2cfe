"""Test data of the benchmarks: users, conversations and events of about 1 KB."""

import json
import time
from collections.abc import Sequence
from typing import Any
from uuid import UUID

from accounts import services as accounts
from conversations import services
from conversations.engine.payloads import Durable, parse_event
from conversations.models import Conversation, Lease

LISTING = "".join(
    f"-rw-r--r-- 1 agent agent {size:6} Nov 30 12:{size % 60:02} src/{name}_{size % 7}.py\n"
    for size, name in enumerate(
        ("models", "views", "urls", "tests", "forms", "tasks") * 3, start=3_600
    )
)[:900]
PAYLOAD = json.dumps({"kind": "ObservationEvent", "source": "environment", "text": LISTING})


def user_with_key() -> tuple[Any, str]:
    """Create a user. Return the user, and the ``Authorization`` header line of an API key."""
    user = accounts.create_user(email=f"bench-{time.time_ns()}@example.com")
    _, token = accounts.issue_api_key(user=user, name="bench")
    return user, f"Authorization: Bearer {token}\r\n"


def conversation(user: Any) -> Conversation:
    """Create a conversation with an empty log, whose lease has the generation 1 that ``append`` sends."""
    row = services.create_conversation(user=user)
    Lease.objects.filter(conversation=row).update(generation=1)
    return row


def frames(first: int, count: int) -> Sequence[Durable]:
    """Return ``count`` parsed events like those from an engine's socket.

    The first has the sequence number ``first``.
    """
    events = []
    for seq in range(first, first + count):
        raw = PAYLOAD.replace("{", f'{{"id":"e{seq}",', 1).encode()
        events.append(Durable(seq, parse_event(raw, seq=seq)))
    return events


def append(pk: UUID, first: int, count: int) -> None:
    """Store ``count`` events in one transaction, and send a nudge to their readers."""
    services.ingest_events(conversation_id=pk, generation=1, frames=frames(first, count))
