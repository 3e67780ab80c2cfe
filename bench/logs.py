"""Conversations to measure with, and events of about 1 KB in them."""

import json
import time
from collections.abc import Sequence
from typing import Any
from uuid import UUID

from accounts import services as accounts
from conversations import services
from conversations.engine.payloads import Durable, parse_event
from conversations.models import Conversation, Lease

PAYLOAD = json.dumps({"kind": "ObservationEvent", "source": "environment", "text": "x" * 900})


def user_with_key() -> tuple[Any, str]:
    """A new user and the header that signs them in."""
    user = accounts.create_user(email=f"bench-{time.time_ns()}@example.com")
    _, token = accounts.issue_api_key(user=user, name="bench")
    return user, f"Authorization: Bearer {token}\r\n"


def conversation(user: Any) -> Conversation:
    """An empty log that is followed under generation 1."""
    made = services.create_conversation(user=user)
    Lease.objects.filter(conversation=made).update(generation=1)
    return made


def frames(first: int, count: int) -> Sequence[Durable]:
    """Events as the engine's socket gives them, parsed."""
    found = []
    for seq in range(first, first + count):
        raw = PAYLOAD.replace("{", f'{{"id":"e{seq}",', 1).encode()
        found.append(Durable(seq, parse_event(raw, seq=seq)))
    return found


def append(pk: UUID, first: int, count: int) -> None:
    """One request: so many events, durable when it returns, and announced."""
    services.ingest_events(conversation_id=pk, generation=1, frames=frames(first, count))
