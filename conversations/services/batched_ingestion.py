"""Events of many conversations appended together: else a manager of a thousand commits a thousand times a second."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

from django.db import IntegrityError, transaction
from django.utils import timezone

from conversations import announcing
from conversations.engine.payloads import Durable
from conversations.models import Sandbox
from conversations.services import redaction
from conversations.services.ingestion import USE_SECONDS, is_plain
from lib import prepared

TOGETHER = """
WITH batch AS (
    SELECT * FROM unnest(%b::uuid[], %b::bigint[], %b::bigint[], %b::bigint[])
        AS batch (id, generation, first, news)
),
held AS MATERIALIZED (
    SELECT c.id, batch.news
    FROM batch JOIN conversations_conversation AS c ON c.id = batch.id
    JOIN conversations_lease AS l ON l.conversation_id = c.id
    WHERE c.deleted_at IS NULL AND l.generation = batch.generation AND c.engine_seq = batch.first - 1
    FOR NO KEY UPDATE OF c SKIP LOCKED FOR SHARE OF l SKIP LOCKED
),
moved AS (
    UPDATE conversations_conversation AS c
    SET last_seq = c.last_seq + held.news, engine_seq = c.engine_seq + held.news, updated_at = %s
    FROM held WHERE c.id = held.id
    RETURNING c.id, c.organization_id, c.last_seq, c.sandbox_id, held.news
),
added AS (
    INSERT INTO conversations_event (organization_id, conversation_id, seq, event_id, kind, source,
        payload, engine_seq, engine_time, received_at)
    SELECT moved.organization_id, moved.id, moved.last_seq - moved.news + new.place, new.event_id,
        new.kind, new.source, new.payload, new.engine_seq, new.engine_time, %s
    FROM unnest(%b::uuid[], %b::bigint[], %b::text[], %b::text[], %b::text[], %b::text[], %b::bigint[],
        %b::timestamptz[])
        AS new (id, place, event_id, kind, source, payload, engine_seq, engine_time)
    JOIN moved ON moved.id = new.id
)
SELECT moved.id, moved.sandbox_id, s.active_at
FROM moved LEFT JOIN conversations_sandbox AS s ON s.id = moved.sandbox_id
"""
"""As ``ingesting.AT_ONCE``, for many. Who is locked by somebody else is left out: nobody waits while holding others."""


@dataclass(frozen=True, slots=True)
class Batch:
    """What one conversation's engine said, in its order, and the generation of who heard it."""

    conversation_id: UUID
    generation: int
    frames: Sequence[Durable]


def ingest_together(*, batches: Sequence[Batch]) -> set[UUID]:
    """Append what is nothing but news, of one batch a conversation, in one statement; whose was appended.

    Of the others nothing was stored, for whatever reason: ``ingest_events`` says it, or takes the long way.
    """
    # Where there are secrets to take out of events, ``ingest_events`` does it.
    plain = [
        batch
        for batch in batches
        if batch.frames
        and is_plain(batch.frames)
        and redaction.hider(batch.conversation_id) is None
    ]
    if not plain:
        return set()
    now = timezone.now()
    heads = [
        [batch.conversation_id for batch in plain],
        [batch.generation for batch in plain],
        [batch.frames[0].seq for batch in plain],
        [len(batch.frames) for batch in plain],
    ]
    rows = [
        (batch.conversation_id, place, frame)
        for batch in plain
        for place, frame in enumerate(batch.frames, start=1)
    ]
    columns = [
        [key for key, _, _ in rows],
        [place for _, place, _ in rows],
        [frame.event.event_id for *_, frame in rows],
        [frame.event.kind for *_, frame in rows],
        [str(frame.event.source) for *_, frame in rows],
        [frame.event.payload for *_, frame in rows],
        [frame.seq for *_, frame in rows],
        [frame.event.time for *_, frame in rows],
    ]
    try:
        with transaction.atomic():
            stored = prepared.fetch(TOGETHER, [*heads, now, now, *columns])
            for key, _, _ in stored:
                announcing.announce_on_commit(key)
            used = [
                sandbox
                for _, sandbox, active_at in stored
                if active_at is not None and now - active_at > timedelta(seconds=USE_SECONDS)
            ]
            if used:
                Sandbox.objects.filter(pk__in=used).update(active_at=now)
    except IntegrityError:
        return set()  # one of them names an id that its log has
    return {key for key, *_ in stored}
