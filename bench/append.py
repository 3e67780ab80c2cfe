"""Durable appends through ``services.ingest_events``, beside the same rows by bare psycopg in the same run."""

import json
import time
from collections.abc import Callable
from uuid import UUID

import psycopg
from django.db import connection
from django.utils import timezone

from accounts.services import create_user
from conversations import services
from conversations.agent.payloads import Durable, parse_event
from conversations.models import Conversation, Lease

SECONDS = 3.0
SIZES = (1, 20, 100)
PAYLOAD = json.dumps({"kind": "ObservationEvent", "source": "environment", "text": "x" * 900})


def run() -> list[dict]:
    """One figure a batch size: events per second, the reference's, and their ratio."""
    user = create_user(email="bench@example.com")
    figures = []
    for size in SIZES:
        ours = _rate(size, _ours(_conversation(user).pk, size))
        bare = _rate(size, _bare(_conversation(user).pk, size))
        figures.append(
            {
                "bench": "append",
                "events_per_request": size,
                "events_per_second": round(ours),
                "bare_psycopg_per_second": round(bare),
                "ratio": round(ours / bare, 2),
            }
        )
    return figures


def _conversation(user: object) -> Conversation:
    conversation = services.create_conversation(user=user)
    Lease.objects.filter(conversation=conversation).update(generation=1)
    return conversation


def _rate(size: int, batch: Callable[[int], None]) -> float:
    for n in range(5):
        batch(n)
    done, started = 0, time.perf_counter()
    while time.perf_counter() - started < SECONDS:
        batch(5 + done)
        done += 1
    return done * size / (time.perf_counter() - started)


def _ours(pk: UUID, size: int) -> Callable[[int], None]:
    def batch(number: int) -> None:
        frames = []
        for seq in range(number * size, (number + 1) * size):
            raw = PAYLOAD.replace("{", f'{{"id":"e{seq}",', 1).encode()
            frames.append(Durable(seq, parse_event(raw, seq=seq)))
        services.ingest_events(conversation_id=pk, generation=1, frames=frames)

    return batch


def _bare(pk: UUID, size: int) -> Callable[[int], None]:
    """The least that keeps the promise: lock and move the counter, insert the rows, commit."""
    organization = Conversation.objects.get(pk=pk).organization_id
    params = {
        k: v
        for k, v in connection.get_connection_params().items()
        if k in ("dbname", "user", "host", "port", "password")
    }
    link = psycopg.connect(**params)
    insert = (
        "INSERT INTO conversations_event (organization_id, conversation_id, seq, event_id, kind,"
        " source, payload, engine_seq, received_at) VALUES "
        + ",".join(["(%s,%s,%s,%s,%s,%s,%s,%s,%s)"] * size)
    )

    def batch(number: int) -> None:
        with link.transaction(), link.cursor() as cursor:
            cursor.execute(
                "UPDATE conversations_conversation SET last_seq = last_seq + %s WHERE id = %s RETURNING last_seq",
                (size, pk),
            )
            last = cursor.fetchone()[0]
            now = timezone.now()
            rows: list = []
            for n in range(size):
                seq = last - size + 1 + n
                rows += [
                    organization,
                    pk,
                    seq,
                    f"e{seq}",
                    "ObservationEvent",
                    "environment",
                    PAYLOAD,
                    seq,
                    now,
                ]
            cursor.execute(insert, rows)

    return batch
