"""Ingestion of the events of many conversations in one SQL statement, so that a busy manager commits less often."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

from django.db import IntegrityError, transaction
from django.utils import timezone

from conversations import announcing
from conversations.engine.payloads import Durable
from conversations.models import Sandbox
from conversations.models.append import NewEvents, append_fenced_together
from conversations.services import redaction
from conversations.services.ingestion import USE_SECONDS, build_event, is_plain


@dataclass(frozen=True, slots=True)
class Batch:
    """Frames of one conversation's engine in order, with the lease generation under which they were read."""

    conversation_id: UUID
    generation: int
    frames: Sequence[Durable]


def ingest_together(*, batches: Sequence[Batch]) -> set[UUID]:
    """Append as many batches as possible with one SQL statement; return the conversation ids of those batches.

    ``batches`` contains at most one batch for each conversation. If an id is not returned, no event of
    its batch was stored: pass the batch to ``ingest_events``, which stores it or raises an exception.
    """
    # Only `ingest_events` removes secrets from events, so batches of conversations with secrets go there.
    plain = [
        batch
        for batch in batches
        if batch.frames
        and is_plain(batch.frames)
        and redaction.build_payload_redactor(batch.conversation_id) is None
    ]
    if not plain:
        return set()
    now = timezone.now()
    news = [
        NewEvents(
            batch.conversation_id,
            batch.generation,
            [build_event(frame, frame.event.event_id) for frame in batch.frames],
        )
        for batch in plain
    ]
    try:
        with transaction.atomic():
            stored = append_fenced_together(news, at=now)
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
        # A log already contains one of the event ids. PostgreSQL does not say which log, so store no batch here.
        return set()
    return {key for key, *_ in stored}
